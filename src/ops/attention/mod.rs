//! `out = softmax(scale q k^T) v` for every text and head, over packed texts
//!
//! `qkv` `[t, 3 d]` is the output of one fused projection: columns `0 .. d` are queries, `d .. 2 d` keys, `2 d .. 3 d`
//! values, each `n_heads` heads of `head_dim`. A token attends to the tokens of its own text only, so nothing is ever
//! masked or padded. Scores and probabilities are never stored. Cost: `4 d sum_i l_i^2` FLOP for text lengths `l_i`,
//! against `4 t d` elements read and written.
//!
//! The CPU handles one text at a time per thread: keys of a head are transposed once, then four query rows at a time
//! go through a register-tiled product, softmax and a second product. GPUs stream the keys with an online softmax; on
//! CUDA both products run on tensor cores, and short texts share a block of threads between heads.
//! Comes after the fused q, k, v projection ([`mod@super::matmul`]), before the output projection.
//!
//! In training [`attention_saving`] also keeps the log-sum-exp of every row's scores, from which
//! [`mod@super::attention_backward`] makes the probabilities again, and drops probabilities.

pub(in crate::ops) mod cpu;
pub(in crate::ops) mod gpu;
mod reference;
pub(in crate::ops) mod work;

#[doc(hidden)]
pub use reference::{Dropped, error_bound, error_bound_saving, reference, reference_saving};
pub use work::WorkList;

use super::dropout::Mask;
use super::{OpSpec, Origins, PackedTexts};
use crate::device::{Cost, ElementType, Float, Gpu, Slice, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "attention",
    formula: "out = softmax(scale q k^T) v, per text and head, packed",
    kernels: &[gpu::ATTENTION, gpu::ATTENTION_SAVING],
    ptx: gpu::ATTENTION.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::ATTENTION.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// Dimensions of a head that one invocation (or one register tile) handles.
pub(in crate::ops) const PART: usize = 32;

/// Largest head dimension; the one of a 768-wide verifier with a single head.
pub(in crate::ops) const MAX_HEAD_DIM: usize = 768;

/// Keys per step of the online softmax in the shader.
const KEYS: usize = 8;

/// The arguments after checking.
#[derive(Clone, Copy)]
struct Args<'a, A: Float> {
    qkv: Slice<'a, A>,
    texts: &'a PackedTexts,
    work: &'a WorkList,
    n_heads: usize,
    head_dim: usize,
}

/// Attention of every text in `texts` over itself: `qkv` `[t, 3 d]` gives `out` `[t, d]`, `d = n_heads head_dim`,
/// with `scale = 1 / sqrt(head_dim)`. `head_dim` is a multiple of 32, at most 768.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, [`Error::Unsupported`] for element types a device does not have (CUDA
/// takes f16 activations, the CPU f32).
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, attention::{WorkList, attention}}};
/// let cpu = Device::cpu();
/// let texts = PackedTexts::new(&cpu, vec![0, 1])?; // one text of one token attends to itself
/// let qkv: Vec<f32> = (0..96).map(|i| i as f32).collect();
/// let mut out = cpu.alloc::<f32>(32)?;
/// attention(&cpu.upload(&qkv)?, &texts, &WorkList::new(&texts)?, 1, 32, &mut out)?;
/// assert_eq!(out.read()?, qkv[64..]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn attention<'a, A: Float>(
    qkv: impl Into<Slice<'a, A>>,
    texts: &PackedTexts,
    work: &WorkList,
    n_heads: usize,
    head_dim: usize,
    out: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    run(qkv.into(), texts, work, n_heads, head_dim, None, out.into())
}

/// What attention does in training besides.
pub struct Training<'a> {
    /// Gets the log-sum-exp of every row's scaled scores, `[t, n_heads]`.
    pub statistics: SliceMut<'a, f32>,
    /// Which probabilities are dropped: after the softmax, so that the denominators are those of all. The keys of a row
    /// count as its elements.
    pub mask: Option<(Mask, &'a Origins)>,
}

/// [`attention()`] as training has it.
///
/// # Errors
/// Those of [`attention()`], and [`Error::Shape`] for origins of other texts or a rate that is not at least 0 and below 1.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, attention::{Training, WorkList, attention_saving}}};
/// let cpu = Device::cpu();
/// let texts = PackedTexts::new(&cpu, vec![0, 2])?;
/// let qkv = cpu.upload(&[0.0f32; 2 * 96])?; // all scores are 0
/// let (mut out, mut statistics) = (cpu.alloc::<f32>(64)?, cpu.alloc::<f32>(2)?);
/// let training = Training { statistics: (&mut statistics).into(), mask: None };
/// attention_saving(&qkv, &texts, &WorkList::new(&texts)?, 1, 32, training, &mut out)?;
/// assert_eq!(statistics.read()?, [2f32.ln(); 2]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn attention_saving<'a, A: Float>(
    qkv: impl Into<Slice<'a, A>>,
    texts: &PackedTexts,
    work: &WorkList,
    n_heads: usize,
    head_dim: usize,
    training: Training<'_>,
    out: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    let training = Some(training);
    run(
        qkv.into(),
        texts,
        work,
        n_heads,
        head_dim,
        training,
        out.into(),
    )
}

fn run<A: Float>(
    qkv: Slice<'_, A>,
    texts: &PackedTexts,
    work: &WorkList,
    n_heads: usize,
    head_dim: usize,
    training: Option<Training<'_>>,
    mut out: SliceMut<'_, A>,
) -> Result<()> {
    let device = out.device();
    let check = SPEC.checks(device);
    check_head_dim(SPEC.name, head_dim)?;
    let (t, d) = (texts.tokens(), n_heads * head_dim);
    check.holds("qkv", &qkv, t * 3 * d)?;
    check.holds("out", &out, t * d)?;
    check.holds("texts", &texts.on_device(), texts.texts() + 1)?;
    work.check(SPEC.name, texts, device)?;
    let mut saving = None;
    if let Some(Training { statistics, mask }) = training {
        check.holds("statistics", &statistics, t * n_heads)?;
        saving = Some((statistics, checked_mask(SPEC.name, texts, mask)?));
    }
    let args = Args {
        qkv,
        texts,
        work,
        n_heads,
        head_dim,
    };
    device.run(SPEC.name, cost::<A>(texts, d), |target| match target {
        Target::Cpu => {
            let (Some(qkv), Some(out)) = (qkv.host_as::<f32>(), out.host_as::<f32>()) else {
                return Err(SPEC.unsupported(device, "the CPU computes with f32 activations"));
            };
            let saving = saving.as_mut().map(|(statistics, mask)| cpu::Saving {
                statistics: statistics.host(),
                mask: mask.map(|(mask, origins)| (mask, origins.host())),
            });
            cpu::attention(qkv, texts.offsets(), n_heads, head_dim, saving, out);
            Ok(())
        }
        Target::Gpu(Gpu::Cuda(_)) if A::TYPE != ElementType::F16 => {
            Err(SPEC.unsupported(device, "tensor cores multiply f16 activations"))
        }
        Target::Gpu(gpu) => gpu::attention(gpu, &args, saving, out),
    })
}

/// Requires a head dimension that all devices take.
pub(in crate::ops) fn check_head_dim(op: &'static str, head_dim: usize) -> Result<()> {
    if head_dim == 0 || !head_dim.is_multiple_of(PART) || head_dim > MAX_HEAD_DIM {
        return Err(Error::shape(
            op,
            "head_dim",
            format!("a multiple of {PART}, at most {MAX_HEAD_DIM}"),
            head_dim,
        ));
    }
    Ok(())
}

/// A mask and the origins of the tokens, if it drops anything.
pub(in crate::ops) fn checked_mask<'a>(
    op: &'static str,
    texts: &PackedTexts,
    mask: Option<(Mask, &'a Origins)>,
) -> Result<Option<(Mask, Slice<'a, u32>)>> {
    let Some((mask, origins)) = mask else {
        return Ok(None);
    };
    mask.check(op)?;
    let origins = origins.of(op, texts)?;
    Ok((mask.rate > 0.0).then_some((mask, origins)))
}

/// Pairs of tokens of the same text.
pub(in crate::ops) fn pairs(texts: &PackedTexts) -> u64 {
    let lengths = texts.offsets().windows(2).map(|w| u64::from(w[1] - w[0]));
    lengths.map(|l| l * l).sum()
}

fn cost<A: Float>(texts: &PackedTexts, d: usize) -> Cost {
    Cost {
        flop: 4 * d as u64 * pairs(texts),
        bytes: (4 * texts.tokens() * d * size_of::<A>()) as u64,
    }
}

pub(in crate::ops) fn scale_of(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}
