//! `x = mask x / (1 - rate)`, in place
//!
//! Elements are dropped at random and the others grow, so that the mean stays. The mask is a function of where an element
//! belongs in the batch ([`Mask`]), so it is never stored: the backward of dropout is dropout of the gradient with the
//! same mask. Cost: Philox makes four words in about 100 integer operations, against 4 or 8 bytes an element: memory
//! bound on GPUs, bound by the integers on a CPU.
//! Comes after [`mod@super::embedding`] and the output projections of both sublayers, in training only.

mod cpu;
mod gpu;
mod mask;
pub(in crate::ops) mod philox;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

pub use mask::{Mask, Site};

use super::{OpSpec, Origins};
use crate::device::{Cost, Float, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "dropout",
    formula: "x = mask x / (1 - rate), the mask by Philox4x32-10 of an element's place in the batch",
    kernels: &[gpu::DROPOUT],
    ptx: gpu::DROPOUT.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::DROPOUT.wgsl,
    wgsl_variants: || super::in_every_tier(gpu::variants()),
};

/// Drops elements of `x` `[t, d]` as `mask` says; `origins` are those of the `t` tokens. A rate of 0 changes nothing.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8) or a rate that is not at least 0
/// and below 1.
///
/// ```
/// use nearmiss::{Device, ops::{Origins, PackedTexts, dropout::{Mask, Site, dropout}}};
/// let cpu = Device::cpu();
/// let texts = PackedTexts::new(&cpu, vec![0, 2])?; // one text of two tokens, number 5 of its batch
/// let origins = Origins::new(&texts, &[5])?;
/// let mut x = cpu.upload(&[1.0f32; 16])?;
/// dropout(&mut x, 8, Mask::new(0.5, 1, 0, 0, Site::Embedding), &origins)?;
/// assert!(x.read()?.iter().all(|&x| x == 0.0 || x == 2.0));
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn dropout<'a, A: Float>(
    x: impl Into<SliceMut<'a, A>>,
    d: usize,
    mask: Mask,
    origins: &Origins,
) -> Result<()> {
    let mut x = x.into();
    let device = x.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    mask.check(SPEC.name)?;
    let rows = check.rows("x", &x, d)?;
    let places = origins.on_device();
    check.holds("origins", &places, 2 * rows)?;
    if mask.rate == 0.0 {
        return Ok(());
    }
    let cost = Cost {
        flop: (rows * d) as u64,
        bytes: (2 * rows * d * size_of::<A>() + 8 * rows) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::dropout(x.host(), d, mask, places.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::dropout(gpu, x, d, mask, places),
    })
}
