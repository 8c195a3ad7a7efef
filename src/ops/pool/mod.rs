//! `e_i = normalise(mean_{t in text i} h_t)` or `normalise(h_{first t of text i})`
//!
//! From token vectors `h` `[t, d]` to one embedding per text, optionally with unit L2 norm (the norm is floored at
//! 1e-12). An empty text gives the zero vector. Cost: `t d` additions against `4 t d` bytes: memory bound.
//! The last operator of an encoder; its result is what a [`crate::index::VectorIndex`] stores.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

pub(super) use cpu::mean;
pub(super) use reference::Pooled;

use super::{OpSpec, PackedTexts};
use crate::device::{Cost, Float, Gpu, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "pool",
    formula: "e = normalise(mean of a text's token vectors, or its first one)",
    kernels: &[gpu::POOL_SLICES, gpu::POOL],
    ptx: gpu::POOL.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::POOL.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// Which token vectors make the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens of the text.
    Mean,
    /// The vector of the first token.
    First,
}

impl Pooling {
    pub(super) fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::First => "first",
        }
    }
}

/// Norms below this count as this, so that a zero vector stays zero.
pub(super) const NORM_FLOOR: f32 = 1e-12;

/// The arguments after checking.
struct Args<'a> {
    h: Slice<'a, f32>,
    texts: &'a PackedTexts,
    pooling: Pooling,
    normalize: bool,
    d: usize,
}

/// Pools the token vectors `h` `[t, d]` of each text of `packing` into `out` `[n, d]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (wgpu: `d` at most 2,048; CUDA: 12,280),
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory) on CUDA, where
/// a few long texts take room for sums of eight rows each.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, pool::{Pooling, pool}}};
/// let cpu = Device::cpu();
/// let packing = PackedTexts::new(&cpu, vec![0, 2])?;
/// let h: Vec<f32> = [[3.0f32; 8], [5.0; 8]].concat();
/// let mut out = cpu.alloc::<f32>(8)?;
/// pool(&cpu.upload(&h)?, &packing, Pooling::Mean, false, &mut out)?;
/// assert_eq!(out.read()?, [4.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn pool<'a, T: Float>(
    h: impl Into<Slice<'a, f32>>,
    texts: &PackedTexts,
    pooling: Pooling,
    normalize: bool,
    out: impl Into<SliceMut<'a, T>>,
) -> Result<()> {
    let (h, mut out) = (h.into(), out.into());
    let device = out.device();
    let check = SPEC.checks(device);
    let n = texts.texts();
    if n == 0 {
        return check.holds("out", &out, 0);
    }
    let d = out.len() / n;
    check.width("d", d)?;
    check.holds("out", &out, n * d)?;
    check.holds("h", &h, texts.tokens() * d)?;
    let cost = Cost {
        flop: ((texts.tokens() + 3 * n) * d) as u64,
        bytes: (texts.tokens() * d * 4 + n * d * size_of::<T>()) as u64,
    };
    let args = Args {
        h,
        texts,
        pooling,
        normalize,
        d,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::pool(&args, out.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::pool(gpu, &args, out),
    })
}

/// The means of texts, or their first rows, on a GPU: `out` `[n, d]` for the gradient of pooling.
pub(super) fn means(
    gpu: Gpu<'_>,
    h: Slice<'_, f32>,
    texts: &PackedTexts,
    pooling: Pooling,
    out: SliceMut<'_, f32>,
) -> Result<()> {
    let args = Args {
        h,
        texts,
        pooling,
        normalize: false,
        d: out.len() / texts.texts(),
    };
    gpu::pool(gpu, &args, out)
}

/// The rows of a text that are averaged.
pub(super) fn rows(span: &[u32], pooling: Pooling) -> std::ops::Range<usize> {
    let (start, end) = (span[0] as usize, span[1] as usize);
    match pooling {
        Pooling::Mean => start..end,
        Pooling::First => start..end.min(start + 1),
    }
}
