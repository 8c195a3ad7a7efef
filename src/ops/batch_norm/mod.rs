//! `mean = sum_r w_r x_r / W`, `variance = sum_r w_r (x_r - mean)^2 / W`, by channel; `W = sum_r w_r`
//!
//! The statistics of a batch of pixels of which each may stand for many alike: its weight says for how many. The variance is
//! the biased one, which normalises; one for running averages is `W / (W - 1)` times as large. What is normalised with
//! them is done by [`mod@super::max_pool`]. Cost: about `6 r c` operations against one read of `x` (two on the CPU):
//! memory bound.
//! Comes after the product of a convolution.
//!
//! Numerics: mean first, then squared deviations (never `E[x^2] - mean^2`, which cancels), all in f32, in pieces of rows.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

pub(super) use cpu::ROWS;
pub(super) use gpu::{BLOCK, piece, slabs};
pub(super) use reference::depth;

use super::OpSpec;
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "batch_norm",
    formula: "mean = sum w x / W, variance = sum w (x - mean)^2 / W, by channel",
    kernels: &[gpu::BATCH_NORM, gpu::JOIN],
    ptx: gpu::BATCH_NORM.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::BATCH_NORM.wgsl,
    wgsl_variants: || super::in_every_tier(gpu::variants()),
};

/// The arguments after checking.
struct Args<'a, A: Float> {
    x: Slice<'a, A>,
    weights: Slice<'a, f32>,
    total: f32,
    c: usize,
}

/// Mean and variance `[c]` of every channel of the pixels `x` `[r, c]`, which count as often as `weights` `[r]` say; `total`
/// is the sum of the weights, none of which is negative.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (`c` a multiple of 8) or a total that is not above 0;
/// [`Error::OutOfMemory`] for the sums of pieces of rows.
///
/// ```
/// use nearmiss::{Device, ops::batch_norm};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[[1.0f32; 8], [5.0; 8]].concat())?;
/// let weights = cpu.upload(&[3.0f32, 1.0])?; // the first stands for three
/// let (mut mean, mut variance) = (cpu.alloc::<f32>(8)?, cpu.alloc::<f32>(8)?);
/// batch_norm(&x, &weights, 4.0, &mut mean, &mut variance)?;
/// assert_eq!(mean.read()?, [2.0; 8]);
/// assert_eq!(variance.read()?, [3.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn batch_norm<'a, A: Float>(
    x: impl Into<Slice<'a, A>>,
    weights: impl Into<Slice<'a, f32>>,
    total: f32,
    mean: impl Into<SliceMut<'a, f32>>,
    variance: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (x, weights) = (x.into(), weights.into());
    let (mut mean, mut variance) = (mean.into(), variance.into());
    let device = mean.device();
    let check = SPEC.checks(device);
    let c = mean.len();
    check.width("mean", c)?;
    let r = check.rows("x", &x, c)?;
    check.holds("weights", &weights, r)?;
    check_total(SPEC.name, total)?;
    check.holds("mean", &mean, c)?;
    check.holds("variance", &variance, c)?;
    let cost = Cost {
        flop: (6 * r * c) as u64,
        bytes: (r * c * size_of::<A>() + 4 * r + 8 * c) as u64,
    };
    let args = Args {
        x,
        weights,
        total,
        c,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::batch_norm(&args, mean.host(), variance.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::batch_norm(gpu, &args, mean, variance),
    })
}

/// Requires a sum of weights that one can divide by.
pub(super) fn check_total(op: &'static str, total: f32) -> Result<()> {
    if total > 0.0 && total.is_finite() {
        return Ok(());
    }
    Err(Error::shape(op, "total", "a number above 0", total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::differences_test::noise;

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        // The mean is far from zero.
        let x: Vec<f32> = noise(1000 * 16, 1)
            .iter()
            .map(|v| *v as f32 + 100.0)
            .collect();
        let weights: Vec<f32> = (0..1000).map(|r| (r * 7 % 5) as f32).collect();
        let total = weights.iter().sum();
        let [mut mean, mut variance] = [0, 1].map(|_| cpu.alloc::<f32>(16).unwrap());
        let [x_here, weights_here] = [&x, &weights].map(|v| cpu.upload(v).unwrap());
        batch_norm(&x_here, &weights_here, total, &mut mean, &mut variance).unwrap();
        let [want_mean, want_variance] = reference::<f64>(&x, &weights, total, 16);
        for (got, want, allowed) in [(mean, want_mean, 1e-4), (variance, want_variance, 1e-5)] {
            let mut both = got.read().unwrap().into_iter().zip(want);
            assert!(both.all(|(got, want)| (f64::from(got) - want).abs() < allowed));
        }
    }

    #[test]
    fn a_weight_is_so_many_rows() {
        let x = noise(5 * 8, 1);
        let weights = [2.0f32, 0.0, 1.0, 3.0, 1.0];
        let many: Vec<f64> = (0..5)
            .flat_map(|r| x[r * 8..][..8].repeat(weights[r] as usize))
            .collect();
        let [weighted, plain] = [
            reference::<f64>(&x, &weights, 7.0, 8),
            reference::<f64>(&many, &[1.0f32; 7], 7.0, 8),
        ];
        let mut both = weighted.concat().into_iter().zip(plain.concat());
        assert!(both.all(|(a, b)| (a - b).abs() < 1e-14));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let x = cpu.upload(&[0f32; 16]).unwrap();
        let [mut mean, mut variance] = [0, 1].map(|_| cpu.alloc::<f32>(8).unwrap());
        let mut refused = |rows: usize, total| {
            batch_norm(&x, x.slice(..rows), total, &mut mean, &mut variance)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(3, 1.0),
            "shape mismatch in batch_norm: weights: expected 2, got 3"
        );
        for total in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let why = refused(2, total);
            assert!(why.contains("total: expected a number above 0"), "{why}");
        }
    }
}
