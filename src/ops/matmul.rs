//! `c = epilogue(a w^T)`, `epilogue(v) = gelu(v + bias) + residual`, each part optional
//!
//! The linear layer: `a` `[m, k]` are activations, `w` `[n, k]` a weight matrix as checkpoints store it (one row per
//! output). Products are accumulated in f32 whatever the element types. The epilogue runs while the result is still in
//! registers (in cache on the CPU), so no bias, activation or residual costs a pass of its own.
//!
//! Cost: `2 m n k` FLOP against `m k + n k + m n` elements. `gelu(x) = x/2 (1 + erf(x / sqrt 2))`, the exact form.
//!
//! On the CPU the product itself is the `gemm` crate's; rows are dealt out to threads in panels and each thread
//! finishes its panel (product, then epilogue) before the next, so that the epilogue finds it in cache.

use gemm::Parallelism;
use half::f16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, FLOATS, OpSpec, Rounding, TIERS, check, check_width, tier_variant};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Dispatch, Float, Launch, Wgpu};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "matmul",
    formula: "c = gelu(a w^T + bias) + residual (bias, gelu, residual optional)",
    ptx: Some(PTX),
    ptx_variants,
    wgsl: Some(WGSL),
    wgsl_variants,
};

const WGSL: Source = Source {
    file: "matmul.wgsl",
    text: include_str!("../../shaders/matmul.wgsl"),
};

const PTX: Source = Source {
    file: "matmul.ptx",
    text: include_str!("../../kernels/matmul.ptx"),
};

/// Outputs of one WGSL workgroup: `TILE x TILE`, 16 x 16 invocations with 4 x 4 outputs each.
const TILE: usize = 64;

/// What happens to the product before it is stored, in this order: bias, GELU, residual.
#[derive(Default)]
pub struct Epilogue<'a> {
    /// `[n]`, added to every row.
    pub bias: Option<&'a Buffer<f32>>,
    /// Apply `gelu`.
    pub gelu: bool,
    /// `[m, n]`, added last.
    pub residual: Option<&'a Buffer<f32>>,
}

impl Epilogue<'_> {
    fn variant(&self) -> Variant {
        epilogue_variant(self.bias.is_some(), self.gelu, self.residual.is_some())
    }
}

fn epilogue_variant(bias: bool, gelu: bool, residual: bool) -> Variant {
    Variant::new()
        .with("bias", bias)
        .with("gelu", gelu)
        .with("residual", residual)
}

/// All eight epilogues.
fn epilogues() -> impl Iterator<Item = Variant> {
    (0..8).map(|bits| epilogue_variant(bits & 1 != 0, bits & 2 != 0, bits & 4 != 0))
}

fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tier in TIERS {
        for staged in [true, false] {
            for input in FLOATS {
                for output in FLOATS {
                    all.extend(epilogues().map(|e| {
                        e.extended(&tier_variant(tier))
                            .with("input", input.name())
                            .with("output", output.name())
                            .with("staged", staged)
                    }));
                }
            }
        }
    }
    all
}

fn ptx_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tile in PTX_TILES {
        for output in FLOATS {
            all.extend(epilogues().map(|e| tile.variant(&e, output.name())));
        }
    }
    all
}

/// A tile size of the PTX kernel: `side x side` outputs per block.
#[derive(Clone, Copy)]
struct PtxTile {
    side: usize,
    threads: u32,
    shared_bytes: u32,
}

/// Largest first. 128 reads half as much per FLOP; 64 keeps more multiprocessors busy when there is little to do.
const PTX_TILES: [PtxTile; 2] = [
    PtxTile {
        side: 128,
        threads: 256,
        shared_bytes: 3 * PtxTile::step_bytes(128),
    },
    PtxTile {
        side: 64,
        threads: 128,
        shared_bytes: 4 * PtxTile::step_bytes(64),
    },
];

impl PtxTile {
    /// Shared memory of one k step: 32 f16 of each row of both operands.
    const fn step_bytes(side: u32) -> u32 {
        2 * side * 32 * 2
    }

    fn variant(self, epilogue: &Variant, output: &'static str) -> Variant {
        epilogue
            .clone()
            .with("output", output)
            .with("tile_m", self.side as i64)
            .with("tile_n", self.side as i64)
    }

    /// Blocks that cover `m x n` outputs.
    fn blocks(self, dims: Dims) -> usize {
        dims.m.div_ceil(self.side) * dims.n.div_ceil(self.side)
    }

    /// The largest tile that gives every multiprocessor a block, else the smallest.
    fn choose(dims: Dims, multiprocessors: u32) -> Self {
        let busy = |tile: &Self| tile.blocks(dims) >= multiprocessors as usize;
        PTX_TILES.into_iter().find(busy).unwrap_or(PTX_TILES[1])
    }
}

#[derive(Clone, Copy)]
struct Dims {
    m: usize,
    n: usize,
    k: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k4: u32,
    tiles_n: u32,
    tiles: u32,
}

/// `a` `[m, k]` times the transpose of `w` `[n, k]`, then the epilogue, into `c` `[m, n]`; `n` and `k` are multiples
/// of 8.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, [`Error::Unsupported`] for element types a device does not have (CUDA
/// takes f16 operands, the CPU f32).
///
/// ```
/// use nearmiss::{Device, ops::matmul::{Epilogue, matmul}};
/// let cpu = Device::cpu();
/// let a = cpu.upload(&[1.0f32; 8])?; // 1 x 8
/// let w = cpu.upload(&[0.5f32; 64])?; // 8 x 8
/// let bias = cpu.upload(&[1.0f32; 8])?;
/// let mut c = cpu.alloc::<f32>(8)?;
/// matmul(&a, &w, &Epilogue { bias: Some(&bias), ..Default::default() }, &mut c, 1, 8)?;
/// assert_eq!(c.read()?, [5.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn matmul<A: Float, C: Float>(
    a: &Buffer<A>,
    w: &Buffer<A>,
    epilogue: &Epilogue<'_>,
    c: &mut Buffer<C>,
    m: usize,
    n: usize,
) -> Result<()> {
    let device = c.device().clone();
    check_width(SPEC.name, "n", n)?;
    if !w.len().is_multiple_of(n) {
        return Err(Error::shape(SPEC.name, "w", format!("{n} rows"), w.len()));
    }
    let k = w.len() / n;
    check_width(SPEC.name, "k", k)?;
    check(SPEC.name, "a", a, m * k, &device)?;
    check(SPEC.name, "w", w, n * k, &device)?;
    check(SPEC.name, "c", c, m * n, &device)?;
    if let Some(bias) = epilogue.bias {
        check(SPEC.name, "bias", bias, n, &device)?;
    }
    if let Some(residual) = epilogue.residual {
        check(SPEC.name, "residual", residual, m * n, &device)?;
    }
    if m == 0 {
        return Ok(());
    }
    let dims = Dims { m, n, k };
    device.run(
        SPEC.name,
        cost::<A, C>(dims, epilogue),
        |backend| match backend {
            Backend::Cpu(_) => {
                let (Some(a), Some(w)) = (a.same_type::<f32>(), w.same_type::<f32>()) else {
                    return Err(SPEC.unsupported(&device, "the CPU multiplies f32 operands"));
                };
                let Some(c) = c.same_type_mut::<f32>() else {
                    return Err(SPEC.unsupported(&device, "the CPU writes f32 products"));
                };
                cpu(a.host(), w.host(), epilogue, c.host_mut(), dims);
                Ok(())
            }
            Backend::Wgpu(dev) => wgpu(dev, a, w, epilogue, c, dims),
            Backend::Cuda(dev) => {
                let (Some(a), Some(w)) = (a.same_type::<f16>(), w.same_type::<f16>()) else {
                    return Err(SPEC.unsupported(&device, "tensor cores multiply f16 operands"));
                };
                cuda(dev, a, w, epilogue, c, dims)
            }
        },
    )
}

fn cost<A: Float, C: Float>(dims: Dims, epilogue: &Epilogue<'_>) -> Cost {
    let Dims { m, n, k } = dims;
    let residual = if epilogue.residual.is_some() {
        4 * m * n
    } else {
        0
    };
    Cost {
        flop: 2 * (m * n * k) as u64,
        bytes: ((m * k + n * k) * size_of::<A>() + m * n * size_of::<C>() + residual) as u64,
    }
}

/// `erf(x)` for f32, from a rational fit of our own: `x P(x^2) / Q(x^2)` on `|x| <= 3.92`, where the fit is within
/// [`ERF_FIT`]; beyond, `|erf|` is 1 to within 3.0e-8 and the argument is clamped. All coefficients are positive, so
/// nothing cancels and rounding costs at most 34 units (see [`error_bound`]). The shader and the PTX kernel use the
/// same form.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.92, 3.92);
    let t = x * x;
    let mut p = ERF_P[5];
    let mut q = ERF_Q[5];
    for i in (0..5).rev() {
        p = p.mul_add(t, ERF_P[i]);
        q = q.mul_add(t, ERF_Q[i]);
    }
    x * p / q
}

#[allow(
    clippy::approx_constant,
    reason = "a fitted coefficient: near 2 / sqrt(pi), the slope of erf at 0, but not it"
)]
const ERF_P: [f32; 6] = [
    1.128_379,
    0.192_763_05,
    0.053_060_345,
    0.003_868_281_4,
    0.000_287_477_95,
    2.034_738_4e-6,
];
const ERF_Q: [f32; 6] = [
    1.0,
    0.504_163_44,
    0.115_084_2,
    0.015_172_207,
    0.001_188_103_1,
    3.807_059_7e-5,
];

/// Largest error of the fit behind `erf`, in exact arithmetic with the f32 coefficients, clamping included.
const ERF_FIT: f64 = 1.5e-7;

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `erf` in f64 for the reference: Taylor series for `|x| < 3`, continued fraction of `erfc` beyond; both to 1e-15.
fn erf_exact(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        // erf x = 2/sqrt(pi) e^(-x^2) sum_k 2^k x^(2k+1) / (2k+1)!!, all terms of one sign.
        let (mut term, mut sum, mut k) = (x, x, 1.0);
        while term.abs() > 1e-17 * sum.abs() {
            term *= 2.0 * x * x / (2.0 * k + 1.0);
            sum += term;
            k += 1.0;
        }
        return std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    // erfc a = e^(-a^2) / sqrt(pi) * 1 / (a + 1/2 / (a + 1 / (a + 3/2 / (a + ...))))
    let mut tail = a;
    for k in (1..=60).rev() {
        tail = a + 0.5 * f64::from(k) / tail;
    }
    let erfc = (-a * a).exp() / std::f64::consts::PI.sqrt() / tail;
    (1.0 - erfc).copysign(x)
}

/// The definition, in loops; operands row-major, result `[m, n]`. `gelu` is evaluated in f64 and rounded to `A`.
pub fn reference<A: Accum>(
    a: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    use_gelu: bool,
    residual: Option<&[f32]>,
    n: usize,
) -> Vec<A> {
    let k = w.len() / n;
    let mut c = Vec::with_capacity(a.len() / k * n);
    for (i, a) in a.chunks_exact(k).enumerate() {
        for (j, w) in w.chunks_exact(k).enumerate() {
            let mut v = A::of(0.0);
            for (&a, &w) in a.iter().zip(w) {
                v += A::of(a.into()) * A::of(w.into());
            }
            if let Some(bias) = bias {
                v += A::of(bias[j].into());
            }
            if use_gelu {
                let x = v.to_f64();
                v = A::of(0.5 * x * (1.0 + erf_exact(x * std::f64::consts::FRAC_1_SQRT_2)));
            }
            if let Some(residual) = residual {
                v += A::of(residual[i * n + j].into());
            }
            c.push(v);
        }
    }
    c
}

/// Error of each output element, stored with `bytes` bytes:
///
/// * product: `g(k) sum |a w|` for any order of summation, bias: one rounding of the sum
/// * `gelu(x) = x/2 (1 + erf(x / sqrt 2))`: its slope is below 1.13, so an error `e` in `x` becomes `1.13 e`; `erf`
///   costs the fit plus `g(34 + division)`: clamp none, square 1 (felt tenfold by a polynomial of degree 5 in it),
///   two Horner chains of 10 roundings each, a product, a division, and the argument's two roundings (felt at most
///   once: `x erf'(x)` is below `erf`); then 3 roundings of the product with `x/2`
/// * residual: one rounding
pub fn error_bound(
    a: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    use_gelu: bool,
    residual: Option<&[f32]>,
    n: usize,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let k = w.len() / n;
    let u = rounding.u;
    let e_erf = ERF_FIT + rounding.g(34 + rounding.division.ceil() as usize);
    let mut bounds = Vec::with_capacity(a.len() / k * n);
    for (i, a) in a.chunks_exact(k).enumerate() {
        for (j, w) in w.chunks_exact(k).enumerate() {
            let (mut v, mut magnitude) = (0f64, 0f64);
            for (&a, &w) in a.iter().zip(w) {
                let product = f64::from(a) * f64::from(w);
                v += product;
                magnitude += product.abs();
            }
            let mut e = rounding.g(k) * magnitude;
            if let Some(bias) = bias {
                v += f64::from(bias[j]);
                e += u * (v.abs() + e);
            }
            if use_gelu {
                let x = v.abs() + e;
                v = 0.5 * v * (1.0 + erf_exact(v * std::f64::consts::FRAC_1_SQRT_2));
                e = 1.13 * e + 0.5 * x * e_erf + 3.0 * u * v.abs();
            }
            if let Some(residual) = residual {
                v += f64::from(residual[i * n + j]);
                e += u * (v.abs() + e);
            }
            bounds.push(rounding.store(v, e, bytes));
        }
    }
    bounds
}

/// Rows of one CPU panel: at least this many, so that packing `w` (once per panel) stays a few per cent of the work.
const PANEL: usize = 256;

fn cpu(a: &[f32], w: &[f32], epilogue: &Epilogue<'_>, c: &mut [f32], dims: Dims) {
    let Dims { m, n, k } = dims;
    let bias = epilogue.bias.map(|b| b.host());
    let residual = epilogue.residual.map(|b| b.host());
    let threads = rayon::current_num_threads();
    let panel = m.div_ceil(threads).max(PANEL).min(m);
    c.par_chunks_mut(panel * n).enumerate().for_each(|(i, c)| {
        let first_row = i * panel;
        let rows = c.len() / n;
        let parallelism = if rows == m {
            Parallelism::Rayon(0)
        } else {
            Parallelism::None
        };
        product(&a[first_row * k..], w, c, rows, n, k, parallelism);
        if bias.is_some() || epilogue.gelu || residual.is_some() {
            let residual = residual.map(|r| &r[first_row * n..][..rows * n]);
            finish(c, bias, epilogue.gelu, residual, n);
        }
    });
}

/// The epilogue on a panel of rows of width `n`; `residual` is as long as `c`.
#[multiversion(targets = "simd")]
fn finish(c: &mut [f32], bias: Option<&[f32]>, use_gelu: bool, residual: Option<&[f32]>, n: usize) {
    for row in c.chunks_exact_mut(n) {
        if let Some(bias) = bias {
            for (v, &b) in row.iter_mut().zip(bias) {
                *v += b;
            }
        }
        if use_gelu {
            row.iter_mut().for_each(|v| *v = gelu(*v));
        }
    }
    if let Some(residual) = residual {
        for (v, &r) in c.iter_mut().zip(residual) {
            *v += r;
        }
    }
}

/// `c = a w^T`, `a` `[m, k]`, `w` `[n, k]`, `c` `[m, n]`, all row-major.
pub(super) fn product(
    a: &[f32],
    w: &[f32],
    c: &mut [f32],
    m: usize,
    n: usize,
    k: usize,
    parallelism: Parallelism,
) {
    assert!(a.len() >= m * k && w.len() >= n * k && c.len() >= m * n);
    // SAFETY: the three slices hold at least m k, n k and m n elements (asserted above), which is what the strides
    // reach; `c` is borrowed mutably and overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn wgpu<A: Float, C: Float>(
    dev: &Wgpu,
    a: &Buffer<A>,
    w: &Buffer<A>,
    epilogue: &Epilogue<'_>,
    c: &mut Buffer<C>,
    dims: Dims,
) -> Result<()> {
    let (tiles_m, tiles_n) = (dims.m.div_ceil(TILE), dims.n.div_ceil(TILE));
    let params = Params {
        m: dims.m as u32,
        n: dims.n as u32,
        k4: (dims.k / 4) as u32,
        tiles_n: tiles_n as u32,
        tiles: (tiles_m * tiles_n) as u32,
    };
    let variant = epilogue
        .variant()
        .extended(&tier_variant(dev.tier()))
        .with("input", A::TYPE.name())
        .with("output", C::TYPE.name())
        // Workgroup memory is a detour on a processor, where it is ordinary memory behind costly barriers.
        .with("staged", dev.staged());
    let mut bindings = vec![a.bind(), w.bind()];
    bindings.extend(epilogue.bias.map(|b| b.bind()));
    bindings.extend(epilogue.residual.map(|b| b.bind()));
    bindings.push(c.bind_mut());
    dev.dispatch(&Dispatch {
        source: WGSL,
        entry: "matmul",
        variant,
        bindings: &bindings,
        params: bytemuck::bytes_of(&params),
        groups: super::grid(tiles_m * tiles_n),
    })
}

fn cuda<C: Float>(
    dev: &Cuda,
    a: &Buffer<f16>,
    w: &Buffer<f16>,
    epilogue: &Epilogue<'_>,
    c: &mut Buffer<C>,
    dims: Dims,
) -> Result<()> {
    let tile = PtxTile::choose(dims, dev.multiprocessors());
    let limit = 1usize << 31;
    if dims.m >= limit - 256 || dims.n >= limit - 256 || tile.blocks(dims) >= limit {
        let why = format!(
            "{} x {} outputs are too many for one launch",
            dims.m, dims.n
        );
        return Err(SPEC.unsupported(c.device(), &why));
    }
    let optional = |binding: Option<_>| binding.map_or(Arg::Null, Arg::Buffer);
    dev.launch(&Launch {
        source: PTX,
        entry: "matmul",
        variant: tile.variant(&epilogue.variant(), C::TYPE.name()),
        args: &[
            Arg::Buffer(a.bind()),
            Arg::Buffer(w.bind()),
            optional(epilogue.bias.map(|b| b.bind())),
            optional(epilogue.residual.map(|b| b.bind())),
            Arg::Buffer(c.bind_mut()),
            Arg::U32(dims.m as u32),
            Arg::U32(dims.n as u32),
            Arg::U32(dims.k as u32),
        ],
        grid: [tile.blocks(dims) as u32, 1, 1],
        block: [tile.threads, 1, 1],
        shared_bytes: tile.shared_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_tiles_are_those_of_the_kernel() {
        for tile in PTX_TILES {
            let variant = tile.variant(&epilogue_variant(false, false, false), "f32");
            let kernel = crate::device::template::expand(PTX, &variant).unwrap().text;
            // The block size, and the offset at which the last slot of shared memory wraps round to the first.
            assert!(kernel.contains(&format!(".maxntid {}, 1, 1\n", tile.threads)));
            assert!(kernel.contains(&format!("%r_use, {};\n", tile.shared_bytes)));
        }
        let dims = |m| Dims { m, n: 384, k: 384 };
        assert_eq!(PtxTile::choose(dims(128 * 44), 132).side, 128);
        assert_eq!(PtxTile::choose(dims(128 * 43), 132).side, 64);
    }

    #[test]
    fn erf_matches_known_values() {
        // Digits from Abramowitz and Stegun, table 7.1.
        for (x, value) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.5, 0.999_999_256_901_627_7),
        ] {
            assert!((erf_exact(x) - value).abs() < 1e-14, "{x}");
            assert!((erf_exact(-x) + value).abs() < 1e-14, "-{x}");
        }
    }

    #[test]
    fn fast_erf_stays_within_its_bound() {
        let bound = ERF_FIT + Rounding::of(crate::DeviceKind::Cpu).g(35);
        let mut worst = 0f64;
        for i in -600_000..=600_000 {
            let x = i as f32 * 1e-5;
            worst = worst.max((f64::from(erf(x)) - erf_exact(x.into())).abs());
        }
        assert!(worst <= bound, "{worst:e} > {bound:e}");
        // The fit alone, in f64 with the same coefficients.
        let fit = |x: f64| {
            let t = x * x;
            let horner = |c: &[f32; 6]| c.iter().rev().fold(0.0, |s, &c| s * t + f64::from(c));
            x * horner(&ERF_P) / horner(&ERF_Q)
        };
        let worst = (0..=39_200)
            .map(|i| f64::from(i) * 1e-4)
            .map(|x| (fit(x) - erf_exact(x)).abs())
            .fold(0.0, f64::max);
        assert!(worst <= ERF_FIT, "{worst:e} > {ERF_FIT:e}");
    }
}
