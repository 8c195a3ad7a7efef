//! `dh_t = (g - e (e . g)) / |m| / l`, `g = d_out` of `t`'s text, `m` the mean of its `l` rows, `e = m / |m|`
//!
//! The gradient of [`mod@super::pool`]: every row of a text gets the same (of `Pooling::First` the first row alone,
//! with `l = 1`; the others get zero). Without normalisation it is `g / l`. Below the floor of the norm, where the
//! forward divides by a constant, `e . g` counts as zero. The mean is computed again. Cost: `4 t d` bytes read and as
//! many written: memory bound. The first operator of an encoder's backward; before [`mod@super::layer_norm_backward`].

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::pool::Pooling;
use super::{OpSpec, PackedTexts};
use crate::device::{Cost, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "pool_backward",
    formula: "dh = (g - e (e . g)) / |m| / l, g = d_out, m = the mean of l rows, e = m / |m|",
    kernels: &[gpu::POOL_BACKWARD],
    ptx: gpu::POOL_BACKWARD.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::POOL_BACKWARD.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// The arguments after checking.
struct Args<'a> {
    h: Slice<'a, f32>,
    texts: &'a PackedTexts,
    pooling: Pooling,
    normalize: bool,
    d_out: Slice<'a, f32>,
    d: usize,
}

/// From `d_out` `[n, d]`, the gradient of the result of [`pool`](super::pool::pool) of `h` `[t, d]`, writes that of `h`
/// to `dh` `[t, d]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (wgpu: `d` at most 2,048; CUDA: 12,280),
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory) on GPUs, where the means take room.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, pool::Pooling, pool_backward}};
/// let cpu = Device::cpu();
/// let packing = PackedTexts::new(&cpu, vec![0, 2])?;
/// let h = cpu.upload(&[0.0f32; 16])?;
/// let d_out = cpu.upload(&[3.0f32; 8])?;
/// let mut dh = cpu.alloc::<f32>(16)?;
/// pool_backward(&h, &packing, Pooling::Mean, false, &d_out, &mut dh)?;
/// assert_eq!(dh.read()?, [1.5; 16]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn pool_backward<'a>(
    h: impl Into<Slice<'a, f32>>,
    texts: &PackedTexts,
    pooling: Pooling,
    normalize: bool,
    d_out: impl Into<Slice<'a, f32>>,
    dh: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (h, d_out, mut dh) = (h.into(), d_out.into(), dh.into());
    let device = dh.device();
    let check = SPEC.checks(device);
    let n = texts.texts();
    if n == 0 {
        check.holds("d_out", &d_out, 0)?;
        return check.holds("dh", &dh, 0);
    }
    let d = d_out.len() / n;
    check.width("d", d)?;
    check.holds("d_out", &d_out, n * d)?;
    check.holds("h", &h, texts.tokens() * d)?;
    check.holds("dh", &dh, texts.tokens() * d)?;
    // The mean is of no use where nothing is divided by its norm.
    let reads = if normalize { texts.tokens() } else { 0 };
    let cost = Cost {
        flop: ((reads + 8 * n) * d) as u64,
        bytes: ((reads + texts.tokens() + n) * d * 4) as u64,
    };
    let args = Args {
        h,
        texts,
        pooling,
        normalize,
        d_out,
        d,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::pool_backward(&args, dh.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::pool_backward(gpu, &args, dh),
    })
}
