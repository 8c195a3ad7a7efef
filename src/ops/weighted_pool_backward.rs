//! `dx_r = w_r / sum_r w_r d_out_i` for every pixel `r` of picture `i`
//!
//! The gradient of [`mod@super::weighted_pool`]; zeros where the weights of a picture are all zero. Cost: one write of
//! `dx`: memory bound.
//! Comes after [`mod@super::matmul_nn`]; before [`mod@super::max_pool_backward`].
//!
//! Numerics: one sum in f32 in a fixed order, which depends on the picture alone, one division per pixel and one product per
//! element.

use multiversion::multiversion;
use rayon::prelude::*;

use super::weighted_pool::share_error;
use super::{Accum, FLOATS, OpSpec, PackedTexts, Rounding, grid, in_every_tier};
use crate::device::template::{Source, Variant};
use crate::device::{
    Call, Cost, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target,
};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "weighted_pool_backward",
    formula: "dx = w / sum w d_out of the pixel's picture",
    kernels: &[WEIGHTED_POOL_BACKWARD],
    ptx: WEIGHTED_POOL_BACKWARD.ptx,
    ptx_variants: variants,
    wgsl: WEIGHTED_POOL_BACKWARD.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const WEIGHTED_POOL_BACKWARD: Kernel = Kernel {
    entry: "weighted_pool_backward",
    params: &[
        Param::read("d_out"),
        Param::read("weights"),
        Param::read("offsets"),
        Param::write("dx"),
        Param::u32("c"),
        Param::u32("width").ptx(),
        Param::u32("groups").ptx(),
        Param::u32("chunks"),
        Param::u32("pictures").wgsl(),
    ],
    ptx: Some(Source {
        file: "weighted_pool_backward.ptx",
        text: include_str!("../../kernels/weighted_pool_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "weighted_pool_backward.wgsl",
        text: include_str!("../../shaders/weighted_pool_backward.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel.
const BLOCK: usize = 256;

/// Pixels of a picture that one block or workgroup writes.
const CHUNK: usize = 64;

/// Bytes that a thread of the PTX kernel takes of a pixel at a time.
const UNIT: usize = 16;

/// From `d_out` `[n, c]`, the gradient in the weighted means of the pixels of each picture of `pixels`, writes that in the
/// pixels to `dx` `[r, c]`; `weights` `[r]` are those of the forward.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`c` a multiple of 8).
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, weighted_pool_backward}};
/// let cpu = Device::cpu();
/// let pixels = PackedTexts::new(&cpu, vec![0, 2])?;
/// let weights = cpu.upload(&[3.0f32, 1.0])?;
/// let mut dx = cpu.alloc::<f32>(16)?;
/// weighted_pool_backward(&cpu.upload(&[8.0f32; 8])?, 8, &weights, &pixels, &mut dx)?;
/// assert_eq!(dx.read()?, [[6.0; 8], [2.0; 8]].concat());
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn weighted_pool_backward<'a, A: Float>(
    d_out: impl Into<Slice<'a, A>>,
    c: usize,
    weights: impl Into<Slice<'a, f32>>,
    pixels: &PackedTexts,
    dx: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    let (d_out, weights, mut dx) = (d_out.into(), weights.into(), dx.into());
    let device = dx.device();
    let check = SPEC.checks(device);
    check.width("c", c)?;
    let (n, r) = (pixels.texts(), pixels.tokens());
    check.holds("d_out", &d_out, n * c)?;
    check.holds("weights", &weights, r)?;
    check.holds("pixels", &pixels.on_device(), n + 1)?;
    check.holds("dx", &dx, r * c)?;
    let cost = Cost {
        flop: (r * c) as u64,
        bytes: ((r + n) * c * size_of::<A>() + 4 * r) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(d_out.host(), c, weights.host(), pixels.offsets(), dx.host());
            Ok(())
        }
        Target::Gpu(on) => gpu(on, d_out, c, weights, pixels, dx),
    })
}

/// The definition, in loops; result `[r, c]`.
#[doc(hidden)]
pub fn reference<A: Accum>(
    d_out: &[impl Copy + Into<f64>],
    c: usize,
    weights: &[impl Copy + Into<f64>],
    offsets: &[u32],
) -> Vec<A> {
    let mut dx = Vec::with_capacity(weights.len() * c);
    for (span, d_out) in offsets.windows(2).zip(d_out.chunks_exact(c)) {
        let weights = &weights[span[0] as usize..span[1] as usize];
        let mut total = A::of(0.0);
        for &w in weights {
            total += A::of(w.into());
        }
        let some = total > A::of(0.0);
        for &w in weights {
            let share = if some {
                A::of(w.into()) / total
            } else {
                A::of(0.0)
            };
            dx.extend(d_out.iter().map(|&g| share * A::of(g.into())));
        }
    }
    dx
}

/// How far the gradients, stored with `bytes` bytes, may be off: a share `w / sum w` by `t`, relative, as in the forward
/// (`share_error`), and by 2^-126 if it is flushed; then a product is rounded: `|dx| (t + u + t u) + 2^-126 |d_out|`.
#[doc(hidden)]
pub fn error_bound(
    d_out: &[f32],
    c: usize,
    weights: &[f32],
    offsets: &[u32],
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let mut bounds = Vec::with_capacity(weights.len() * c);
    for (span, d_out) in offsets.windows(2).zip(d_out.chunks_exact(c)) {
        let weights = &weights[span[0] as usize..span[1] as usize];
        let Some((total, t)) = share_error(weights, rounding) else {
            bounds.extend(std::iter::repeat_n(0.0, weights.len() * c));
            continue;
        };
        let relative = t + rounding.u + t * rounding.u;
        for &w in weights {
            bounds.extend(d_out.iter().map(|&g| {
                let g = f64::from(g);
                let dx = f64::from(w) / total * g;
                let flushed = f64::from(f32::MIN_POSITIVE) * g.abs();
                rounding.store(dx, relative * dx.abs() + flushed, bytes)
            }));
        }
    }
    bounds
}

fn cpu<A: Float>(d_out: &[A], c: usize, weights: &[f32], offsets: &[u32], mut dx: &mut [A]) {
    // The pixels of each picture.
    let mut jobs = Vec::with_capacity(offsets.len() - 1);
    for (span, d_out) in offsets.windows(2).zip(d_out.chunks_exact(c)) {
        let weights = &weights[span[0] as usize..span[1] as usize];
        let (here, rest) = dx.split_at_mut(weights.len() * c);
        jobs.push((weights, d_out, here));
        dx = rest;
    }
    jobs.into_par_iter()
        .for_each(|(weights, d_out, dx)| spread(weights, d_out, dx));
}

#[multiversion(targets = "simd")]
fn spread<A: Float>(weights: &[f32], d_out: &[A], dx: &mut [A]) {
    let total: f32 = weights.iter().sum();
    for (row, &w) in dx.chunks_exact_mut(d_out.len()).zip(weights) {
        let share = if total > 0.0 { w / total } else { 0.0 };
        for (dx, g) in row.iter_mut().zip(d_out) {
            *dx = A::from_f32(share * g.to_f32());
        }
    }
}

fn variant(act: ElementType) -> Variant {
    Variant::new().with("act", act.name())
}

fn variants() -> Vec<Variant> {
    FLOATS.map(variant).into()
}

fn gpu<A: Float>(
    gpu: Gpu<'_>,
    d_out: Slice<'_, A>,
    c: usize,
    weights: Slice<'_, f32>,
    pixels: &PackedTexts,
    mut dx: SliceMut<'_, A>,
) -> Result<()> {
    let n = pixels.texts();
    let width = (c * size_of::<A>() / UNIT).min(BLOCK);
    let chunks = pixels.longest().div_ceil(CHUNK);
    gpu.call(&Call {
        kernel: &WEIGHTED_POOL_BACKWARD,
        variant: variant(A::TYPE),
        args: &[
            d_out.into(),
            weights.into(),
            pixels.on_device().into(),
            (&mut dx).into(),
            c.into(),
            width.into(),
            (BLOCK / width).into(),
            chunks.into(),
            n.into(),
        ],
        geometry: Geometry {
            groups: grid(n * chunks),
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
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::weighted_pool;

    #[test]
    fn central_differences_agree() {
        let (offsets, c) = ([0, 3, 3, 4, 9], 8);
        let (x, d_out) = (noise(9 * c, 1), noise(4 * c, 2));
        let weights: Vec<f32> = (0..9).map(|r| (r * 7 % 5) as f32).collect();
        let dx = reference::<f64>(&d_out, c, &weights, &offsets);
        hold("x", &x, &dx, 9 + 4 * c + 4, |x| {
            let out = weighted_pool::reference::<f64>(x, c, &weights, &offsets);
            weighted(&out, &d_out)
        });
    }

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let offsets = vec![0, 3, 3, 4, 44];
        let d_out: Vec<f32> = noise(4 * 16, 1).into_iter().map(|v| v as f32).collect();
        let mut weights: Vec<f32> = (0..44).map(|r| (r * 7 % 5) as f32).collect();
        weights[3] = 0.0;
        let pixels = PackedTexts::new(&cpu, offsets.clone()).unwrap();
        let mut dx = cpu.upload(&[f32::NAN; 704]).unwrap();
        let [d_here, weights_here] = [&d_out, &weights].map(|v| cpu.upload(v).unwrap());
        weighted_pool_backward(&d_here, 16, &weights_here, &pixels, &mut dx).unwrap();
        let dx = dx.read().unwrap();
        let want = reference::<f64>(&d_out, 16, &weights, &offsets);
        assert!(
            dx.iter()
                .zip(&want)
                .all(|(&got, want)| (f64::from(got) - want).abs() < 1e-6)
        );
        assert_eq!(dx[3 * 16..4 * 16], [0.0; 16]);
    }
}
