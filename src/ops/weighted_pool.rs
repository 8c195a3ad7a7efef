//! `out_i = sum_r w_r x_r / sum_r w_r` over the pixels `r` of picture `i`
//!
//! The mean of the pixels of each picture, where a pixel may stand for many alike. A picture without pixels, or whose
//! weights are all zero, gives zeros. Cost: `2 r c` operations against one read of `x`: memory bound.
//! Comes after the last [`mod@super::max_pool`] of a network of convolutions; before [`mod@super::matmul`].
//!
//! Numerics: two sums in f32 in a fixed order, which depends on the picture alone, and one division.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, FLOATS, OpSpec, PackedTexts, Rounding, grid, in_every_tier};
use crate::device::template::{Source, Variant};
use crate::device::{
    Call, Cost, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target,
};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "weighted_pool",
    formula: "out = sum w x / sum w, over the pixels of each picture",
    kernels: &[WEIGHTED_POOL],
    ptx: WEIGHTED_POOL.ptx,
    ptx_variants: variants,
    wgsl: WEIGHTED_POOL.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const WEIGHTED_POOL: Kernel = Kernel {
    entry: "weighted_pool",
    params: &[
        Param::read("x"),
        Param::read("weights"),
        Param::read("offsets"),
        Param::write("out"),
        Param::u32("c"),
        Param::u32("chunks").ptx(),
        Param::u32("pieces").wgsl(),
        Param::u32("pictures").wgsl(),
    ],
    ptx: Some(Source {
        file: "weighted_pool.ptx",
        text: include_str!("../../kernels/weighted_pool.ptx"),
    }),
    wgsl: Some(Source {
        file: "weighted_pool.wgsl",
        text: include_str!("../../shaders/weighted_pool.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel.
const BLOCK: usize = 256;

/// Bytes of a pixel that one block of the PTX kernel adds up.
const CHUNK: usize = 64;

/// Channels that one workgroup of the WGSL kernel adds up.
const PIECE: usize = 16;

/// The weighted means of the pixels `x` `[r, c]` of each picture of `pixels`, with weights `[r]`, none of them negative, into
/// `out` `[n, c]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`c` a multiple of 8).
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, weighted_pool}};
/// let cpu = Device::cpu();
/// let pixels = PackedTexts::new(&cpu, vec![0, 2])?;
/// let x = cpu.upload(&[[1.0f32; 8], [5.0; 8]].concat())?;
/// let weights = cpu.upload(&[3.0f32, 1.0])?;
/// let mut out = cpu.alloc::<f32>(8)?;
/// weighted_pool(&x, 8, &weights, &pixels, &mut out)?;
/// assert_eq!(out.read()?, [2.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn weighted_pool<'a, A: Float>(
    x: impl Into<Slice<'a, A>>,
    c: usize,
    weights: impl Into<Slice<'a, f32>>,
    pixels: &PackedTexts,
    out: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    let (x, weights, mut out) = (x.into(), weights.into(), out.into());
    let device = out.device();
    let check = SPEC.checks(device);
    check.width("c", c)?;
    let (n, r) = (pixels.texts(), pixels.tokens());
    check.holds("x", &x, r * c)?;
    check.holds("weights", &weights, r)?;
    check.holds("pixels", &pixels.on_device(), n + 1)?;
    check.holds("out", &out, n * c)?;
    let cost = Cost {
        flop: (2 * r * c) as u64,
        bytes: ((r + n) * c * size_of::<A>() + 4 * r) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(x.host(), c, weights.host(), pixels.offsets(), out.host());
            Ok(())
        }
        Target::Gpu(on) => gpu(on, x, c, weights, pixels, out),
    })
}

/// The definition, in loops; result `[n, c]`.
#[doc(hidden)]
pub fn reference<A: Accum>(
    x: &[impl Copy + Into<f64>],
    c: usize,
    weights: &[impl Copy + Into<f64>],
    offsets: &[u32],
) -> Vec<A> {
    let mut out = Vec::with_capacity((offsets.len() - 1) * c);
    for span in offsets.windows(2) {
        let (mut sums, mut total) = (vec![A::of(0.0); c], A::of(0.0));
        for r in span[0] as usize..span[1] as usize {
            let w = A::of(weights[r].into());
            total += w;
            for (sum, &x) in sums.iter_mut().zip(&x[r * c..]) {
                *sum += w * A::of(x.into());
            }
        }
        let some = total > A::of(0.0);
        out.extend(
            sums.iter()
                .map(|&sum| if some { sum / total } else { A::of(0.0) }),
        );
    }
    out
}

/// How far the means, stored with `bytes` bytes, may be off. With `l` pixels, `W` the sum of their weights and `M = sum w |x|
/// / W`:
///
/// * a term of the sum of products passes through one product and at most `l` additions, in whatever order, and any of them
///   may be subnormal and flushed: `g(l + 1) M + 2 l 2^-126 / W`, as a part of `W`
/// * the sum of the weights, none negative, is off by `e = g(l) + 2 l 2^-126 / W`, relative, so that with the division a mean
///   is off by `t = (e + division u) / (1 - e)`, relative
/// * both: `(g(l + 1) M + 2 l 2^-126 / W) (1 + t) + |out| t`
#[doc(hidden)]
pub fn error_bound(
    x: &[f32],
    c: usize,
    weights: &[f32],
    offsets: &[u32],
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let mut bounds = Vec::with_capacity((offsets.len() - 1) * c);
    for span in offsets.windows(2) {
        let rows = span[0] as usize..span[1] as usize;
        let l = rows.len();
        let Some((total, t)) = share_error(&weights[rows.clone()], rounding) else {
            bounds.extend(std::iter::repeat_n(0.0, c));
            continue;
        };
        let flushed = 2.0 * l as f64 * f64::from(f32::MIN_POSITIVE) / total;
        for i in 0..c {
            let (mut mean, mut size) = (0.0, 0.0);
            for r in rows.clone() {
                let part = f64::from(weights[r]) / total * f64::from(x[r * c + i]);
                mean += part;
                size += part.abs();
            }
            let e = (rounding.g(l + 1) * size + flushed) * (1.0 + t) + mean.abs() * t;
            bounds.push(rounding.store(mean, e, bytes));
        }
    }
    bounds
}

/// The sum of these weights, and `t`, the relative error of a division by it (see [`error_bound`]); `None` if it is 0.
pub(super) fn share_error(weights: &[f32], rounding: &Rounding) -> Option<(f64, f64)> {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let l = weights.len();
    let e = rounding.g(l) + 2.0 * l as f64 * f64::from(f32::MIN_POSITIVE) / total;
    (total > 0.0).then(|| (total, (e + rounding.division * rounding.u) / (1.0 - e)))
}

fn cpu<A: Float>(x: &[A], c: usize, weights: &[f32], offsets: &[u32], out: &mut [A]) {
    out.par_chunks_mut(c)
        .zip(offsets.par_windows(2))
        .for_each_init(
            || vec![0f64; c],
            |sums, (out, span)| {
                let rows = span[0] as usize..span[1] as usize;
                let x = &x[rows.start * c..rows.end * c];
                let total = add_up(x, &weights[rows], sums);
                for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                    *out = A::from_f32(if total > 0.0 {
                        (sum / total) as f32
                    } else {
                        0.0
                    });
                }
            },
        );
}

/// `sums = sum_r w_r x_r`; the sum of the weights. In f64: a picture is added up in one go, and has up to a thousand rows.
#[multiversion(targets = "simd")]
fn add_up<A: Float>(x: &[A], weights: &[f32], sums: &mut [f64]) -> f64 {
    sums.fill(0.0);
    let mut total = 0f64;
    for (row, &w) in x.chunks_exact(sums.len()).zip(weights) {
        let w = f64::from(w);
        total += w;
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += w * f64::from(x.to_f32());
        }
    }
    total
}

fn variant(act: ElementType) -> Variant {
    Variant::new().with("act", act.name())
}

fn variants() -> Vec<Variant> {
    FLOATS.map(variant).into()
}

fn gpu<A: Float>(
    gpu: Gpu<'_>,
    x: Slice<'_, A>,
    c: usize,
    weights: Slice<'_, f32>,
    pixels: &PackedTexts,
    mut out: SliceMut<'_, A>,
) -> Result<()> {
    let n = pixels.texts();
    let chunks = (c * size_of::<A>()).div_ceil(CHUNK);
    let pieces = c.div_ceil(PIECE);
    gpu.call(&Call {
        kernel: &WEIGHTED_POOL,
        variant: variant(A::TYPE),
        args: &[
            x.into(),
            weights.into(),
            pixels.on_device().into(),
            (&mut out).into(),
            c.into(),
            chunks.into(),
            pieces.into(),
            n.into(),
        ],
        geometry: Geometry {
            groups: grid(n * pieces),
            grid: [(n * chunks) as u32, 1, 1],
            threads: BLOCK as u32,
            shared_bytes: 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::differences_test::noise;

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let offsets = vec![0, 3, 3, 4, 44];
        let x: Vec<f32> = noise(44 * 16, 1).into_iter().map(|v| v as f32).collect();
        let mut weights: Vec<f32> = (0..44).map(|r| (r * 7 % 5) as f32).collect();
        // Of the third picture nothing counts.
        weights[3] = 0.0;
        let pixels = PackedTexts::new(&cpu, offsets.clone()).unwrap();
        let mut out = cpu.upload(&[f32::NAN; 64]).unwrap();
        let [x_here, weights_here] = [&x, &weights].map(|v| cpu.upload(v).unwrap());
        weighted_pool(&x_here, 16, &weights_here, &pixels, &mut out).unwrap();
        let out = out.read().unwrap();
        let want = reference::<f64>(&x, 16, &weights, &offsets);
        assert!(
            out.iter()
                .zip(&want)
                .all(|(&got, want)| (f64::from(got) - want).abs() < 1e-6)
        );
        assert_eq!(out[16..48], [0.0; 32]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let pixels = PackedTexts::new(&cpu, vec![0, 2]).unwrap();
        let x = cpu.upload(&[0f32; 16]).unwrap();
        let mut out = cpu.alloc::<f32>(8).unwrap();
        let error = weighted_pool(&x, 8, x.slice(..3), &pixels, &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in weighted_pool: weights: expected 2, got 3"
        );
    }
}
