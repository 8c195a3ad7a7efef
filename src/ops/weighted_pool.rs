//! `out_i = sum_r w_r x_r / sum_r w_r` over the pixels `r` of picture `i`
//!
//! The mean of the pixels of each picture, where a pixel may stand for many alike. A picture without pixels, or whose
//! weights are all zero, gives zeros. Cost: `2 r c` operations against one read of `x`: memory bound.
//! Comes after the last [`mod@super::max_pool`] of a network of convolutions; before [`mod@super::matmul`].

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, OpSpec, PackedTexts};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "weighted_pool",
    formula: "out = sum w x / sum w, over the pixels of each picture",
    kernels: &[],
    ptx: None,
    ptx_variants: Vec::new,
    wgsl: None,
    wgsl_variants: Vec::new,
};

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
        Target::Gpu(_) => Err(SPEC.unsupported(device, "it has no kernel")),
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

fn cpu<A: Float>(x: &[A], c: usize, weights: &[f32], offsets: &[u32], out: &mut [A]) {
    out.par_chunks_mut(c)
        .zip(offsets.par_windows(2))
        .for_each_init(
            || vec![0f32; c],
            |sums, (out, span)| {
                let rows = span[0] as usize..span[1] as usize;
                let x = &x[rows.start * c..rows.end * c];
                let total = add_up(x, &weights[rows], sums);
                for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                    *out = A::from_f32(if total > 0.0 { sum / total } else { 0.0 });
                }
            },
        );
}

/// `sums = sum_r w_r x_r`; the sum of the weights.
#[multiversion(targets = "simd")]
fn add_up<A: Float>(x: &[A], weights: &[f32], sums: &mut [f32]) -> f32 {
    sums.fill(0.0);
    let mut total = 0f32;
    for (row, &w) in x.chunks_exact(sums.len()).zip(weights) {
        total += w;
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += w * x.to_f32();
        }
    }
    total
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
