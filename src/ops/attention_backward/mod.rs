//! The gradient of [`mod@super::attention`]: `d_q`, `d_k`, `d_v` of every text and head, packed
//!
//! With `p = exp(scale q k^T - L)`, `L` the log-sum-exp that the forward kept, `m` the mask of dropout with its factor (1
//! without), `D = sum_c d_context context` of a row, and `ds = p (m (d_context v^T) - D)`:
//!
//! ```text
//! d_q = scale ds k      d_k = scale ds^T q      d_v = (p m)^T d_context
//! ```
//!
//! Probabilities are made again from scores and statistics, a block at a time, and never stored for more than a few rows.
//! There are no atomics: whoever owns a row of the result adds up all of it in a fixed order. Cost: `10 d sum_i l_i^2` FLOP
//! for text lengths `l_i` (GPUs make probabilities twice, once for the rows of queries and once for those of keys, which
//! takes 14), against about `8 t d` elements read and written.
//! Comes after the backward of the output projection, before that of the fused q, k, v projection.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{Inputs, error_bound, reference};

use super::attention::{WorkList, check_head_dim, checked_mask, pairs};
use super::dropout::Mask;
use super::{OpSpec, Origins, PackedTexts};
use crate::device::{Cost, ElementType, Float, Gpu, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "attention_backward",
    formula: "d_q = scale ds k, d_k = scale ds^T q, d_v = (p m)^T d_out, ds = p (m (d_out v^T) - sum d_out out)",
    kernels: &[gpu::ATTENTION_BACKWARD, gpu::ATTENTION_MEAN],
    ptx: gpu::ATTENTION_BACKWARD.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::ATTENTION_BACKWARD.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// What the forward, [`attention_saving`](super::attention_saving), read and wrote.
pub struct Forward<'a, A: Float> {
    /// `[t, 3 d]`.
    pub qkv: Slice<'a, A>,
    /// Its result, `[t, d]`.
    pub context: Slice<'a, A>,
    /// `[t, n_heads]`.
    pub statistics: Slice<'a, f32>,
    /// As in [`Training`](super::attention::Training).
    pub mask: Option<(Mask, &'a Origins)>,
    /// The packed texts.
    pub texts: &'a PackedTexts,
    /// Their work list.
    pub work: &'a WorkList,
    /// Heads.
    pub n_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
}

/// The arguments after checking.
struct Args<'a, A: Float> {
    forward: &'a Forward<'a, A>,
    d_context: Slice<'a, A>,
    /// If it drops anything, with position and number of every token.
    mask: Option<(Mask, Slice<'a, u32>)>,
}

/// Arguments of the CPU path.
struct HostArgs<'a> {
    qkv: &'a [f32],
    context: &'a [f32],
    statistics: &'a [f32],
    d_context: &'a [f32],
    mask: Option<(Mask, &'a [u32])>,
    offsets: &'a [u32],
    n_heads: usize,
    head_dim: usize,
}

/// The gradient `d_qkv` `[t, 3 d]` of attention, from that of its result, `d_context` `[t, d]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit, origins or a work list of other texts or a rate that is
/// not at least 0 and below 1; [`Error::Unsupported`](crate::Error::Unsupported) for element types a device does not have
/// (CUDA takes f16 activations, the CPU f32) and on CUDA for heads of other than 32 or 64 columns;
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory) where there is no room for four bytes per token and head.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, attention::WorkList, attention_backward::{Forward, attention_backward}}};
/// let cpu = Device::cpu();
/// let texts = PackedTexts::new(&cpu, vec![0, 1])?; // one token: its probability is 1 whatever the scores
/// let work = WorkList::new(&texts)?;
/// let (qkv, context) = (cpu.upload(&[0.0f32; 96])?, cpu.upload(&[0.0f32; 32])?);
/// let statistics = cpu.upload(&[0.0f32])?;
/// let forward = Forward {
///     qkv: (&qkv).into(), context: (&context).into(), statistics: (&statistics).into(), mask: None,
///     texts: &texts, work: &work, n_heads: 1, head_dim: 32,
/// };
/// let d_context = cpu.upload(&[3.0f32; 32])?;
/// let mut d_qkv = cpu.alloc::<f32>(96)?;
/// attention_backward(&forward, &d_context, &mut d_qkv)?;
/// assert_eq!(d_qkv.read()?, [[0.0; 32], [0.0; 32], [3.0; 32]].concat());
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn attention_backward<'a, A: Float>(
    forward: &Forward<'_, A>,
    d_context: impl Into<Slice<'a, A>>,
    d_qkv: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    let &Forward {
        qkv,
        context,
        statistics,
        mask,
        texts,
        work,
        n_heads,
        head_dim,
    } = forward;
    let (d_context, mut d_qkv) = (d_context.into(), d_qkv.into());
    let device = d_qkv.device();
    let check = SPEC.checks(device);
    check_head_dim(SPEC.name, head_dim)?;
    let (t, d) = (texts.tokens(), n_heads * head_dim);
    check.holds("qkv", &qkv, t * 3 * d)?;
    check.holds("context", &context, t * d)?;
    check.holds("statistics", &statistics, t * n_heads)?;
    check.holds("d_context", &d_context, t * d)?;
    check.holds("d_qkv", &d_qkv, t * 3 * d)?;
    check.holds("texts", &texts.on_device(), texts.texts() + 1)?;
    work.check(SPEC.name, texts, device)?;
    let mask = checked_mask(SPEC.name, texts, mask)?;
    let cost = Cost {
        flop: 10 * d as u64 * pairs(texts),
        bytes: (8 * t * d * size_of::<A>() + 4 * t * n_heads) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let (Some(qkv), Some(context), Some(d_context), Some(d_qkv)) = (
                qkv.host_as::<f32>(),
                context.host_as::<f32>(),
                d_context.host_as::<f32>(),
                d_qkv.host_as::<f32>(),
            ) else {
                return Err(SPEC.unsupported(device, "the CPU computes with f32 activations"));
            };
            let args = HostArgs {
                qkv,
                context,
                statistics: statistics.host(),
                d_context,
                mask: mask.map(|(mask, origins)| (mask, origins.host())),
                offsets: texts.offsets(),
                n_heads,
                head_dim,
            };
            cpu::attention_backward(&args, d_qkv);
            Ok(())
        }
        Target::Gpu(Gpu::Cuda(_)) if A::TYPE != ElementType::F16 => {
            Err(SPEC.unsupported(device, "tensor cores multiply f16 activations"))
        }
        Target::Gpu(gpu) => {
            let args = Args {
                forward,
                d_context,
                mask,
            };
            gpu::attention_backward(gpu, &args, d_qkv)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::dropout::Site;

    #[test]
    fn origins_and_work_lists_of_other_texts_are_refused() {
        let cpu = Device::cpu();
        let texts = PackedTexts::new(&cpu, vec![0, 2]).unwrap();
        let others = PackedTexts::new(&cpu, vec![0, 1, 2]).unwrap();
        let origins = [
            Origins::new(&texts, &[0]).unwrap(),
            Origins::new(&others, &[0, 1]).unwrap(),
        ];
        let work = [&texts, &others].map(|texts| WorkList::new(texts).unwrap());
        let zeros = cpu.upload(&[0f32; 2 * 96]).unwrap();
        let mask = Mask::new(0.1, 0, 0, 0, Site::Probabilities);
        let refused = |origins: &Origins, work: &WorkList, mask: Mask| {
            let forward = Forward {
                qkv: zeros.as_slice(),
                context: zeros.slice(..64),
                statistics: zeros.slice(..2),
                mask: Some((mask, origins)),
                texts: &texts,
                work,
                n_heads: 1,
                head_dim: 32,
            };
            let mut d_qkv = cpu.alloc::<f32>(2 * 96).unwrap();
            attention_backward(&forward, zeros.slice(..64), &mut d_qkv)
                .err()
                .map(|e| e.to_string())
        };
        assert_eq!(refused(&origins[0], &work[0], mask), None);
        let why = refused(&origins[1], &work[0], mask).unwrap();
        assert!(
            why.contains("origins: expected those of these 1 texts"),
            "{why}"
        );
        let why = refused(&origins[0], &work[1], mask).unwrap();
        assert!(
            why.contains("work list: expected that of these 1 texts"),
            "{why}"
        );
        let certain = Mask { rate: 1.0, ..mask };
        let why = refused(&origins[0], &work[0], certain).unwrap();
        assert!(why.contains("rate: expected at least 0"), "{why}");
    }
}
