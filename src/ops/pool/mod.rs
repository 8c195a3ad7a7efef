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

use super::{OpSpec, PackedTexts};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
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
    fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::First => "first",
        }
    }
}

/// Norms below this count as this, so that a zero vector stays zero.
const NORM_FLOOR: f32 = 1e-12;

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
/// [`Error::Shape`] for sizes that do not fit (wgpu: `d` at most 2,048; CUDA: 12,280), [`Error::OutOfMemory`] on CUDA, where
/// a few long texts take room for sums of eight rows each.
///
/// ```
/// use nearmiss::{Device, ops::{Packing, pool::{Pooling, pool}}};
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

/// The rows of a text that are averaged.
fn rows(span: &[u32], pooling: Pooling) -> std::ops::Range<usize> {
    let (start, end) = (span[0] as usize, span[1] as usize);
    match pooling {
        Pooling::Mean => start..end,
        Pooling::First => start..end.min(start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    /// The CPU and, where there is one, a CUDA device.
    fn devices() -> impl Iterator<Item = Device> {
        let cuda = Device::cuda(0)
            .inspect_err(|why| eprintln!("skipped: pool on cuda ({why})"))
            .ok();
        [Some(Device::cpu()), cuda].into_iter().flatten()
    }

    #[test]
    fn a_text_has_the_same_bits_in_any_batch() {
        // Alone, a text this long takes two stages on a GPU; among so many others it takes one.
        let (long, others) = (1001, 300);
        for d in [8, 384, 1032] {
            let h: Vec<f32> = (0..(long + others) * d)
                .map(|i| ((i * 7919) % 10007) as f32 / 5003.0 - 1.0)
                .collect();
            let batch: Vec<u32> = std::iter::once(0)
                .chain((0..=others).map(|i| (long + i) as u32))
                .collect();
            for device in devices() {
                for normalize in [true, false] {
                    let run = |rows: &[f32], offsets: Vec<u32>| -> Result<Vec<f32>> {
                        let packing = PackedTexts::new(&device, offsets)?;
                        let mut out = device.alloc::<f32>(packing.texts() * d)?;
                        let h = device.upload(rows)?;
                        pool(&h, &packing, Pooling::Mean, normalize, &mut out)?;
                        out.read()
                    };
                    let alone = run(&h[..long * d], vec![0, long as u32]).unwrap();
                    let among = run(&h, batch.clone()).unwrap();
                    assert!(
                        alone == among[..d],
                        "d = {d}, normalize = {normalize}, {device:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_that_are_too_wide_are_refused() {
        for device in devices().filter(|d| d.kind() == crate::device::DeviceKind::Cuda) {
            for (d, fits) in [(gpu::MAX_WIDTH_PTX, true), (gpu::MAX_WIDTH_PTX + 8, false)] {
                let packing = PackedTexts::new(&device, vec![0, 2]).unwrap();
                let h = device.upload(&vec![1.0f32; 2 * d]).unwrap();
                let mut out = device.alloc::<f32>(d).unwrap();
                let outcome = pool(&h, &packing, Pooling::Mean, false, &mut out);
                match outcome {
                    Ok(()) => assert!(fits && out.read().unwrap() == vec![1.0; d]),
                    Err(e) => assert!(!fits && e.to_string().contains("at most 12280"), "{e}"),
                }
            }
        }
    }
}
