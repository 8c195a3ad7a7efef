//! `L_i = log sum_j e^z_ij - z_ii`, `z_ij = scale a_i . c_j`, and the gradients of the mean of `L`
//!
//! The loss of multiple negatives ranking, a softmax over the candidates of a whole batch: anchor `i` is to prefer candidate
//! `i`, its positive, to all others, those of other rows too. Behind the positives come as many negatives as there are, and
//! [`OwnRows`] says which of them only their own anchor sees.
//!
//! With `p_ij` the softmax over the candidates that anchor `i` sees and `f = gradient_scale scale / b`,
//! `G_ij = f (p_ij - [i = j])`, `d_anchors = G c` and `d_candidates = G^T a`. Cost: three products of `2 b m d` operations and
//! one matrix `[b, m]` in f32 on the way: compute bound unless the batch is small.
//!
//! Numerics: embeddings, products, sums and the softmax in f32, never less. The gradient towards the positive is computed as
//! minus the sum of the other probabilities, which loses nothing to cancellation where the loss is nearly zero.
//! Comes after [`mod@super::pool`]; its gradients go into the backward of it.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{Reference, error_bound, reference};

use super::{OpSpec, OwnRows};
use crate::device::{Cost, Slice, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "info_nce",
    formula: "L_i = log sum_j exp(z_ij) - z_ii, z_ij = scale a_i . c_j; gradients of mean L",
    kernels: &[gpu::PRODUCT, gpu::SOFTMAX],
    ptx: gpu::PRODUCT.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::PRODUCT.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// What the loss is of.
pub struct InfoNce<'a> {
    /// `[b, d]`; rows of unit length make the products cosines.
    pub anchors: Slice<'a, f32>,
    /// `[m, d]`, `m >= b`; row `i < b` is the positive of anchor `i`.
    pub candidates: Slice<'a, f32>,
    /// Candidates that only their own anchor sees; `None`: every anchor sees all.
    pub own: Option<&'a OwnRows>,
    /// Width of a row.
    pub d: usize,
    /// One over the temperature.
    pub scale: f32,
    /// Factor of the gradients: the loss scale.
    pub gradient_scale: f32,
}

/// The arguments after checking.
struct Args<'a> {
    anchors: Slice<'a, f32>,
    candidates: Slice<'a, f32>,
    /// `[m]`: the anchor that alone sees a candidate, or `OwnRows::EVERYBODY`.
    owners: Option<Slice<'a, u32>>,
    b: usize,
    m: usize,
    d: usize,
    scale: f32,
    /// `gradient_scale scale / b`.
    factor: f32,
}

/// The loss of each anchor, `losses` `[b]`, whose mean is the loss of the batch, and the gradients of `gradient_scale` times
/// that mean, `d_anchors` `[b, d]` and `d_candidates` `[m, d]`. All three are written.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (`d` a multiple of 8, at least one anchor and as many candidates), an owner
/// that is not there or a positive that its anchor does not see; [`Error::OutOfMemory`] if there is no room for a matrix
/// `[b, m]`; [`Error::Unsupported`] on wgpu for candidates that one binding does not hold, which is 128 MiB or more.
///
/// ```
/// use nearmiss::{Device, ops::info_nce::{InfoNce, info_nce}};
/// let cpu = Device::cpu();
/// let unit = |at: usize| (0..8).map(move |i| if i == at { 1.0f32 } else { 0.0 });
/// // Two anchors, their positives, and a negative.
/// let anchors = cpu.upload(&unit(0).chain(unit(1)).collect::<Vec<_>>())?;
/// let candidates = cpu.upload(&unit(0).chain(unit(1)).chain(unit(2)).collect::<Vec<_>>())?;
/// let batch = InfoNce {
///     anchors: (&anchors).into(),
///     candidates: (&candidates).into(),
///     own: None,
///     d: 8,
///     scale: 10.0,
///     gradient_scale: 1.0,
/// };
/// let (mut losses, mut d_anchors, mut d_candidates) = (cpu.alloc(2)?, cpu.alloc(16)?, cpu.alloc(24)?);
/// info_nce(&batch, &mut losses, &mut d_anchors, &mut d_candidates)?;
/// let exact = (1.0 + 2.0 * (-10f32).exp()).ln();
/// assert!(losses.read()?.iter().all(|loss| (loss - exact).abs() < 1e-6));
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn info_nce<'a>(
    batch: &InfoNce<'_>,
    losses: impl Into<SliceMut<'a, f32>>,
    d_anchors: impl Into<SliceMut<'a, f32>>,
    d_candidates: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let &InfoNce {
        anchors,
        candidates,
        own,
        d,
        scale,
        gradient_scale,
    } = batch;
    let (mut losses, mut d_anchors, mut d_candidates) =
        (losses.into(), d_anchors.into(), d_candidates.into());
    let device = losses.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let (b, m) = (
        check.rows("anchors", &anchors, d)?,
        check.rows("candidates", &candidates, d)?,
    );
    for (what, rows, least) in [("anchors", b, 1), ("candidates", m, b)] {
        if rows < least {
            let expected = format!("at least {least} rows");
            return Err(Error::shape(SPEC.name, what, expected, rows));
        }
    }
    let owners = own.map(|own| own.among(SPEC.name, b)).transpose()?;
    check.optional("own", &owners, m)?;
    check.holds("losses", &losses, b)?;
    check.holds("d_anchors", &d_anchors, b * d)?;
    check.holds("d_candidates", &d_candidates, m * d)?;
    let args = Args {
        anchors,
        candidates,
        owners,
        b,
        m,
        d,
        scale,
        factor: factor(scale, gradient_scale, b),
    };
    device.run(SPEC.name, cost(&args), |target| match target {
        Target::Cpu => {
            let mut scores = device.alloc::<f32>(b * m)?;
            cpu::info_nce(
                &args,
                scores.as_slice_mut().host(),
                losses.host(),
                d_anchors.host(),
                d_candidates.host(),
            );
            Ok(())
        }
        Target::Gpu(gpu) => gpu::info_nce(gpu, &args, losses, d_anchors, d_candidates),
    })
}

/// `gradient_scale scale / b`.
fn factor(scale: f32, gradient_scale: f32, b: usize) -> f32 {
    (f64::from(gradient_scale) * f64::from(scale) / b as f64) as f32
}

/// Three products, and about eight operations on each of their common elements, which stay on the chip as far as they fit.
fn cost(args: &Args<'_>) -> Cost {
    let (b, m, d) = (args.b as u64, args.m as u64, args.d as u64);
    Cost {
        flop: 6 * b * m * d + 8 * b * m,
        bytes: 4 * (2 * (b + m) * d + b),
    }
}

#[cfg(test)]
mod tests;
