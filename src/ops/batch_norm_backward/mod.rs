//! `dx_r = gamma / s (d_y_r - w_r / W (sum d_y + z_r sum d_y z))`, `d_gamma += sum d_y z`, `d_beta += sum d_y`
//!
//! The gradient of normalisation with the statistics of [`mod@super::batch_norm`], by channel: `z = (x - mean) / s`,
//! `s = sqrt(variance + eps)`, and `d_y` is the gradient in `gamma z + beta`, which of a pixel that stands for several is
//! that of all of them together. Cost: about `12 r c` operations against two reads of `x` and `d_y` and one write: memory
//! bound. Sums over rows are made in pieces of rows, which are added in their order.
//! Comes after [`mod@super::max_pool_backward`]; before [`mod@super::matmul_nn`] and [`mod@super::matmul_tn`], the
//! gradients of the convolution.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::OpSpec;
use super::batch_norm::check_total;
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "batch_norm_backward",
    formula: "dx = gamma / s (d_y - w / W (sum d_y + z sum d_y z)), z = (x - mean) / s; d_gamma += sum d_y z, d_beta += sum d_y",
    kernels: &[gpu::PIECES, gpu::SUMS, gpu::BATCH_NORM_BACKWARD],
    ptx: gpu::BATCH_NORM_BACKWARD.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::BATCH_NORM_BACKWARD.wgsl,
    wgsl_variants: || super::in_every_tier(gpu::variants()),
};

/// What was normalised, and with what.
#[derive(Clone, Copy)]
pub struct Forward<'a, A: Float> {
    /// The pixels, `[r, c]`.
    pub x: Slice<'a, A>,
    /// How often each counts, `[r]`.
    pub weights: Slice<'a, f32>,
    /// The sum of the weights.
    pub total: f32,
    /// `[c]`.
    pub mean: Slice<'a, f32>,
    /// Biased, `[c]`.
    pub variance: Slice<'a, f32>,
    /// Added to the variance.
    pub eps: f32,
    /// What normalised values are multiplied by, `[c]`.
    pub gamma: Slice<'a, f32>,
}

/// From `d_y` `[r, c]`, the gradient in `gamma z + beta`: writes that in `x` to `dx` `[r, c]`, and adds those of gamma and
/// beta to `d_gamma` and `d_beta` `[c]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`c` a multiple of 8) or a total that is not above 0;
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory) for the sums of pieces of rows.
///
/// ```
/// use nearmiss::{Device, ops::batch_norm_backward::{Forward, batch_norm_backward}};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[[1.0f32; 8], [5.0; 8]].concat())?;
/// let (weights, mean) = (cpu.upload(&[1.0f32; 2])?, cpu.upload(&[3.0f32; 8])?);
/// let (variance, gamma) = (cpu.upload(&[4.0f32; 8])?, cpu.upload(&[2.0f32; 8])?);
/// let forward = Forward {
///     x: (&x).into(), weights: (&weights).into(), total: 2.0, mean: (&mean).into(), variance: (&variance).into(),
///     eps: 0.0, gamma: (&gamma).into(),
/// };
/// let d_y = cpu.upload(&[[1.0f32; 8], [3.0; 8]].concat())?;
/// let mut dx = cpu.alloc::<f32>(16)?;
/// let (mut d_gamma, mut d_beta) = (cpu.upload(&[10.0f32; 8])?, cpu.upload(&[0.0f32; 8])?);
/// batch_norm_backward(&forward, &d_y, &mut dx, &mut d_gamma, &mut d_beta)?;
/// assert_eq!(dx.read()?, [0.0; 16]); // two values always normalise to -1 and 1
/// assert_eq!(d_gamma.read()?, [12.0; 8]);
/// assert_eq!(d_beta.read()?, [4.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn batch_norm_backward<'a, A: Float>(
    forward: &Forward<'_, A>,
    d_y: impl Into<Slice<'a, A>>,
    dx: impl Into<SliceMut<'a, A>>,
    d_gamma: impl Into<SliceMut<'a, f32>>,
    d_beta: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (d_y, mut dx) = (d_y.into(), dx.into());
    let (mut d_gamma, mut d_beta) = (d_gamma.into(), d_beta.into());
    let device = dx.device();
    let check = SPEC.checks(device);
    let c = forward.gamma.len();
    check.width("gamma", c)?;
    let r = check.rows("x", &forward.x, c)?;
    check.holds("weights", &forward.weights, r)?;
    check_total(SPEC.name, forward.total)?;
    check.holds("mean", &forward.mean, c)?;
    check.holds("variance", &forward.variance, c)?;
    check.holds("gamma", &forward.gamma, c)?;
    check.holds("d_y", &d_y, r * c)?;
    check.holds("dx", &dx, r * c)?;
    check.holds("d_gamma", &d_gamma, c)?;
    check.holds("d_beta", &d_beta, c)?;
    let cost = Cost {
        flop: (12 * r * c) as u64,
        bytes: (5 * r * c * size_of::<A>() + 4 * r + 28 * c) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let sums = [d_gamma.host(), d_beta.host()];
            cpu::batch_norm_backward(forward, d_y.host(), dx.host(), sums);
            Ok(())
        }
        Target::Gpu(gpu) => gpu::batch_norm_backward(gpu, forward, d_y, dx, [d_gamma, d_beta]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::batch_norm;
    use crate::ops::differences_test::noise;

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let (r, c, eps) = (300, 16, 1e-5);
        let as_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let (x, d_y) = (as_f32(noise(r * c, 1)), as_f32(noise(r * c, 2)));
        let gamma = as_f32(noise(c, 3));
        let weights: Vec<f32> = (0..r).map(|r| (r * 7 % 5) as f32).collect();
        let total = weights.iter().sum();
        let [mean, variance] = batch_norm::reference::<f32>(&x, &weights, total, c);
        let [x_here, w_here, mean_here, var_here, gamma_here, d_y_here] =
            [&x, &weights, &mean, &variance, &gamma, &d_y].map(|v| cpu.upload(v).unwrap());
        let forward = Forward {
            x: x_here.as_slice(),
            weights: w_here.as_slice(),
            total,
            mean: mean_here.as_slice(),
            variance: var_here.as_slice(),
            eps,
            gamma: gamma_here.as_slice(),
        };
        let mut dx = cpu.upload(&vec![f32::NAN; r * c]).unwrap();
        let [mut d_gamma, mut d_beta] = [1.0, 2.0].map(|v| cpu.upload(&[v; 16]).unwrap());
        batch_norm_backward(&forward, &d_y_here, &mut dx, &mut d_gamma, &mut d_beta).unwrap();
        let statistics = [&mean[..], &variance];
        let want = reference::<f64, _>(&x, &weights, total, statistics, eps, &gamma, &d_y);
        for (got, want, before) in [
            (dx, &want[0], 0.0),
            (d_gamma, &want[1], 1.0),
            (d_beta, &want[2], 2.0),
        ] {
            let mut both = got.read().unwrap().into_iter().zip(want);
            assert!(both.all(|(got, want)| (f64::from(got) - before - want).abs() < 1e-4));
        }
    }
}
