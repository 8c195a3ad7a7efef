//! `y = (v - mean(v)) / sqrt(var(v) + eps) * weight + bias`, `v = x + residual`, over each row
//!
//! `x` is the f32 residual stream; `residual` is what a sublayer adds to it, in the activation type. The result is
//! the next residual stream in f32 and, where activations are f16, a rounded copy for the next matrix product, written
//! in the same pass. Cost: about 8 operations per element against 10 to 18 bytes: memory bound everywhere.
//! Comes after [`mod@super::embedding`] and every sublayer; before [`mod@super::matmul`].
//!
//! Numerics: mean first, then the mean of squared deviations (never `E[v^2] - mean^2`, which cancels), all in f32.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, OpSpec, Rounding, TIERS, check, check_width, grid, simd, tier_variant};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Dispatch, Float, Launch, Wgpu};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "layer_norm",
    formula: "y = (v - mean v) / sqrt(var v + eps) * weight + bias, v = x + residual",
    ptx: Some(PTX),
    ptx_variants,
    wgsl: Some(WGSL),
    wgsl_variants,
};

const WGSL: Source = Source {
    file: "layer_norm.wgsl",
    text: include_str!("../../shaders/layer_norm.wgsl"),
};

const PTX: Source = Source {
    file: "layer_norm.ptx",
    text: include_str!("../../kernels/layer_norm.ptx"),
};

fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tier in TIERS {
        for residual in ["none", "f16", "f32"] {
            for bias in [true, false] {
                for act in [true, false] {
                    all.push(variant(residual, bias, act).extended(&tier_variant(tier)));
                }
            }
        }
    }
    all
}

fn ptx_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for residual in ["none", "f16", "f32"] {
        for bias in [true, false] {
            for act in [true, false] {
                all.push(variant(residual, bias, act));
            }
        }
    }
    all
}

fn variant(residual: &'static str, bias: bool, act: bool) -> Variant {
    Variant::new()
        .with("residual", residual)
        .with("bias", bias)
        .with("act", act)
}

/// The parameters of a layer norm.
pub struct Norm<'a> {
    /// `[d]`.
    pub weight: &'a Buffer<f32>,
    /// `[d]`; `None` is zero.
    pub bias: Option<&'a Buffer<f32>>,
    /// Added to the variance.
    pub eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    d4: u32,
    eps: f32,
}

/// The arguments after checking.
struct Args<'a, A: Float> {
    x: &'a Buffer<f32>,
    residual: Option<&'a Buffer<A>>,
    norm: &'a Norm<'a>,
    rows: usize,
    d: usize,
}

impl<A: Float> Args<'_, A> {
    fn residual_name(&self) -> &'static str {
        self.residual.map_or("none", |_| A::TYPE.name())
    }
}

/// Normalises the rows of `x + residual`, `[rows, d]`, into `y` and, rounded, into `y_act`.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, [`Error::Unsupported`] on CUDA for rows wider than 1,024.
///
/// ```
/// use nearmiss::{Device, ops::layer_norm::{Norm, layer_norm}};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[1.0f32, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0])?;
/// let (weight, bias) = (cpu.upload(&[2.0f32; 8])?, cpu.upload(&[0.5f32; 8])?);
/// let norm = Norm { weight: &weight, bias: Some(&bias), eps: 0.0 };
/// let mut y = cpu.alloc(8)?;
/// layer_norm::<f32>(&x, None, &norm, &mut y, None)?;
/// assert_eq!(y.read()?[..2], [2.5, -1.5]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn layer_norm<A: Float>(
    x: &Buffer<f32>,
    residual: Option<&Buffer<A>>,
    norm: &Norm<'_>,
    y: &mut Buffer<f32>,
    y_act: Option<&mut Buffer<half::f16>>,
) -> Result<()> {
    let device = y.device().clone();
    let d = norm.weight.len();
    check_width(SPEC.name, "weight", d)?;
    if !x.len().is_multiple_of(d) {
        return Err(Error::shape(
            SPEC.name,
            "x",
            format!("rows of {d}"),
            x.len(),
        ));
    }
    check(SPEC.name, "x", x, x.len(), &device)?;
    check(SPEC.name, "y", y, x.len(), &device)?;
    check(SPEC.name, "weight", norm.weight, d, &device)?;
    if let Some(residual) = residual {
        check(SPEC.name, "residual", residual, x.len(), &device)?;
    }
    if let Some(bias) = norm.bias {
        check(SPEC.name, "bias", bias, d, &device)?;
    }
    if let Some(y_act) = &y_act {
        check(SPEC.name, "y_act", y_act, x.len(), &device)?;
    }
    let args = Args {
        x,
        residual,
        norm,
        rows: x.len() / d,
        d,
    };
    let cost = cost(&args, y_act.is_some());
    device.run(SPEC.name, cost, |backend| match backend {
        Backend::Cpu(_) => {
            cpu(&args, y.host_mut(), y_act.map(|b| b.host_mut()));
            Ok(())
        }
        Backend::Wgpu(dev) => wgpu(dev, &args, y, y_act),
        Backend::Cuda(dev) => cuda(dev, &args, y, y_act),
    })
}

/// Two subtractions or additions, a square and its sum, a scale, a weight and a bias per element.
fn cost<A: Float>(args: &Args<'_, A>, act: bool) -> Cost {
    let elements = (args.rows * args.d) as u64;
    let residual = args.residual.map_or(0, |_| size_of::<A>() as u64);
    let act = if act { 2 } else { 0 };
    Cost {
        flop: 8 * elements,
        bytes: elements * (8 + residual + act) + 8 * args.d as u64,
    }
}

/// The definition, in loops; result `[rows, d]`.
pub fn reference<A: Accum>(
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
) -> Vec<A> {
    let d = weight.len();
    let n = A::of(d as f64);
    let mut y = Vec::with_capacity(x.len());
    for (r, row) in x.chunks_exact(d).enumerate() {
        let v: Vec<A> = (0..d)
            .map(|c| {
                let x = A::of(row[c].into());
                match residual {
                    Some(residual) => x + A::of(residual[r * d + c].into()),
                    None => x,
                }
            })
            .collect();
        let mut total = A::of(0.0);
        for &v in &v {
            total += v;
        }
        let mean = total / n;
        let mut squares = A::of(0.0);
        for &v in &v {
            squares += (v - mean) * (v - mean);
        }
        let rstd = A::of(1.0) / (squares / n + A::of(eps.into())).sqrt();
        for c in 0..d {
            let scaled = (v[c] - mean) * rstd * A::of(weight[c].into());
            y.push(match bias {
                Some(bias) => scaled + A::of(bias[c].into()),
                None => scaled,
            });
        }
    }
    y
}

/// Follows the errors through the definition, to first order in `u` with the quadratic term of the variance kept:
///
/// * `v`: one rounding, `e_v = u |v|`
/// * mean: `e_m = g(d + 1) mean|v| + mean(e_v)`
/// * deviation `c = v - mean`: `e_c = e_v + e_m + u |c|`
/// * variance: `e_s = mean(2 |c| e_c + e_c^2) + g(d + 2) var`
/// * `rstd = (var + eps)^(-1/2)`: relative `e_r = e_s / (2 (var + eps - e_s)) + (sqrt + division) u`
/// * `y = c rstd w + b`: `|w| rstd (e_c + |c| e_r) + 2 u |c rstd w| + u |y|`
///
/// The result is for the f32 output; `bytes` 2 adds the rounding to f16.
pub fn error_bound(
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let d = weight.len();
    let u = rounding.u;
    let mean_of = |values: &[f64]| values.iter().sum::<f64>() / d as f64;
    let mut bounds = Vec::with_capacity(x.len());
    for (r, row) in x.chunks_exact(d).enumerate() {
        let v: Vec<f64> = (0..d)
            .map(|c| {
                f64::from(row[c]) + residual.map_or(0.0, |residual| residual[r * d + c].into())
            })
            .collect();
        let e_v: Vec<f64> = v
            .iter()
            .map(|v| if residual.is_some() { u * v.abs() } else { 0.0 })
            .collect();
        let magnitudes: Vec<f64> = v.iter().map(|v| v.abs()).collect();
        let mean = mean_of(&v);
        let e_m = rounding.g(d + 1) * mean_of(&magnitudes)
            + mean_of(&e_v)
            + rounding.division * u * mean.abs();
        let c: Vec<f64> = v.iter().map(|v| v - mean).collect();
        let e_c: Vec<f64> = (0..d).map(|i| e_v[i] + e_m + u * c[i].abs()).collect();
        let squares: Vec<f64> = c.iter().map(|c| c * c).collect();
        let var = mean_of(&squares);
        let growth: Vec<f64> = (0..d)
            .map(|i| 2.0 * c[i].abs() * e_c[i] + e_c[i] * e_c[i])
            .collect();
        let e_s = mean_of(&growth) + rounding.g(d + 2) * var;
        let spread = var + f64::from(eps);
        let e_r = if e_s < spread {
            e_s / (2.0 * (spread - e_s)) + (rounding.sqrt + rounding.division) * u
        } else {
            f64::INFINITY
        };
        let rstd = spread.powf(-0.5);
        for i in 0..d {
            let w = f64::from(weight[i]).abs();
            let scaled = c[i].abs() * rstd * w;
            let value = scaled + bias.map_or(0.0, |bias| f64::from(bias[i]).abs());
            let e = w * rstd * (e_c[i] + c[i].abs() * e_r) + 2.0 * u * scaled + u * value;
            bounds.push(rounding.store(value, e, bytes));
        }
    }
    bounds
}

fn cpu<A: Float>(args: &Args<'_, A>, y: &mut [f32], y_act: Option<&mut [half::f16]>) {
    let d = args.d;
    let x = args.x.host();
    let residual = args.residual.map(|b| b.host());
    let weight = args.norm.weight.host();
    let bias = args.norm.bias.map(|b| b.host());
    y.par_chunks_mut(d)
        .enumerate()
        .with_min_len(32)
        .for_each(|(r, out)| {
            out.copy_from_slice(&x[r * d..][..d]);
            if let Some(residual) = residual {
                for (out, add) in out.iter_mut().zip(&residual[r * d..][..d]) {
                    *out += add.to_f32();
                }
            }
            normalize(out, weight, bias, args.norm.eps);
        });
    if let Some(y_act) = y_act {
        for (to, &from) in y_act.iter_mut().zip(y.iter()) {
            *to = half::f16::from_f32(from);
        }
    }
}

/// Normalises one row in place.
#[multiversion(targets = "simd")]
fn normalize(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
    let d = row.len() as f32;
    let mean = simd::sum(row, |v| v) / d;
    let squares = simd::sum(row, |v| (v - mean) * (v - mean));
    let rstd = 1.0 / (squares / d + eps).sqrt();
    match bias {
        Some(bias) => {
            for ((v, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
                *v = (*v - mean) * rstd * w + b;
            }
        }
        None => {
            for (v, &w) in row.iter_mut().zip(weight) {
                *v = (*v - mean) * rstd * w;
            }
        }
    }
}

fn wgpu<A: Float>(
    dev: &Wgpu,
    args: &Args<'_, A>,
    y: &mut Buffer<f32>,
    y_act: Option<&mut Buffer<half::f16>>,
) -> Result<()> {
    let params = Params {
        rows: args.rows as u32,
        d4: (args.d / 4) as u32,
        eps: args.norm.eps,
    };
    let variant = variant(
        args.residual_name(),
        args.norm.bias.is_some(),
        y_act.is_some(),
    );
    let mut bindings = vec![args.x.bind(), args.norm.weight.bind()];
    bindings.extend(args.residual.map(|b| b.bind()));
    bindings.extend(args.norm.bias.map(|b| b.bind()));
    bindings.push(y.bind_mut());
    bindings.extend(y_act.map(|b| b.bind_mut()));
    dev.dispatch(&Dispatch {
        source: WGSL,
        entry: "layer_norm",
        variant: variant.extended(&tier_variant(dev.tier())),
        bindings: &bindings,
        params: bytemuck::bytes_of(&params),
        groups: grid(args.rows),
    })
}

/// Rows in one block of the PTX kernel, a warp each.
const ROWS_PER_BLOCK: usize = 4;

/// The longest row that a warp of the PTX kernel holds in its registers.
const LONGEST_ROW: usize = 1024;

fn cuda<A: Float>(
    dev: &Cuda,
    args: &Args<'_, A>,
    y: &mut Buffer<f32>,
    y_act: Option<&mut Buffer<half::f16>>,
) -> Result<()> {
    if args.d > LONGEST_ROW {
        let why = format!("a row has {} elements, at most {LONGEST_ROW} fit", args.d);
        return Err(SPEC.unsupported(y.device(), &why));
    }
    if args.rows == 0 {
        return Ok(());
    }
    let optional = |binding: Option<_>| binding.map_or(Arg::Null, Arg::Buffer);
    dev.launch(&Launch {
        source: PTX,
        entry: "layer_norm",
        variant: variant(
            args.residual_name(),
            args.norm.bias.is_some(),
            y_act.is_some(),
        ),
        args: &[
            Arg::Buffer(args.x.bind()),
            optional(args.residual.map(|b| b.bind())),
            Arg::Buffer(args.norm.weight.bind()),
            optional(args.norm.bias.map(|b| b.bind())),
            Arg::Buffer(y.bind_mut()),
            optional(y_act.map(|b| b.bind_mut())),
            Arg::U32(args.rows as u32),
            Arg::U32(args.d as u32),
            Arg::F32(args.norm.eps),
        ],
        grid: [args.rows.div_ceil(ROWS_PER_BLOCK) as u32, 1, 1],
        block: [32 * ROWS_PER_BLOCK as u32, 1, 1],
        shared_bytes: 0,
    })
}
