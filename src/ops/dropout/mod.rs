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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::PackedTexts;

    const MASK: Mask = Mask {
        rate: 0.5,
        key: [1, 2],
    };

    fn dropped(offsets: &[u32], numbers: &[u32]) -> Vec<f32> {
        let cpu = Device::cpu();
        let texts = PackedTexts::new(&cpu, offsets.to_vec()).unwrap();
        let origins = Origins::new(&texts, numbers).unwrap();
        let mut x = cpu.upload(&vec![1.0f32; texts.tokens() * 64]).unwrap();
        dropout(&mut x, 64, MASK, &origins).unwrap();
        x.read().unwrap()
    }

    #[test]
    fn a_mask_does_not_depend_on_how_texts_are_packed() {
        let together = dropped(&[0, 3, 3, 7], &[4, 0, 9]);
        assert_eq!(
            together,
            [dropped(&[0, 3], &[4]), dropped(&[0, 4], &[9])].concat()
        );
        let turned = dropped(&[0, 4, 7], &[9, 4]);
        assert_eq!(together[3 * 64..], turned[..4 * 64]);
        assert_ne!(together[..64], together[64..2 * 64]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let texts = PackedTexts::new(&cpu, vec![0, 2]).unwrap();
        let origins = Origins::new(&texts, &[0]).unwrap();
        let mut x = cpu.upload(&[1.0f32; 24]).unwrap();
        let error = dropout(&mut x, 8, MASK, &origins).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in dropout: origins: expected 6, got 4"
        );
        let certain = Mask { rate: 1.0, ..MASK };
        let error = dropout(x.as_slice_mut().slice_mut(..16), 8, certain, &origins).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in dropout: rate: expected at least 0 and below 1, got 1"
        );
        let error = Origins::new(&texts, &[0, 1]).err().unwrap();
        assert_eq!(
            error.to_string(),
            "shape mismatch in origins: numbers: expected 1, got 2"
        );
    }
}
