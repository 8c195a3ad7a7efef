//! The largest of scores that are there already: the selection of a search without its products.

use super::{GPU_MAX_K, IN_PTX, SPEC, TopK, WGSL, cuda, store, wgpu};
use crate::device::template::Variant;
use crate::device::{Call, Cost, Geometry, Gpu, Kernel, Param, Slice, Target};
use crate::error::{Error, Result};
use crate::ops::grid;

pub(super) const LIST_SCORES: Kernel = Kernel {
    entry: "list_scores",
    params: &[
        Param::read("scores"),
        Param::read("admitted").optional(),
        Param::write("state"),
        Param::write("list"),
        Param::u32("n"),
        Param::u32("n_q"),
    ],
    wgsl: Some(WGSL),
    ..IN_PTX
};

pub(super) fn variants() -> Vec<Variant> {
    [false, true].map(variant).to_vec()
}

fn variant(filter: bool) -> Variant {
    Variant::new().with("pass", "list").with("filter", filter)
}

/// Threads of a block of the PTX kernel.
const BLOCK: usize = 256;

/// Whether the device selects among scores: a GPU, up to 2,048 per query. Else the host has to.
pub(crate) fn selects_on(device: &crate::Device, k: usize) -> bool {
    device.kind() != crate::DeviceKind::Cpu && k <= GPU_MAX_K
}

/// The `k` largest of each row of `scores` `[n_q, n]`, best first, ties to the lowest column; `ids` of the result are
/// columns. Of columns that `admitted`, a bit set (bit `c % 32` of word `c / 32`), excludes, the score is `-inf`.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, [`Error::Unsupported`] where [`selects_on`] is false.
pub(crate) fn top_scores<'a>(
    scores: impl Into<Slice<'a, f32>>,
    n: usize,
    admitted: Option<Slice<'a, u32>>,
    k: usize,
) -> Result<TopK> {
    let scores = scores.into();
    let device = scores.device();
    let check = SPEC.checks(device);
    if k == 0 {
        return Err(Error::shape(SPEC.name, "k", "at least 1", k));
    }
    let n_q = if n == 0 {
        0
    } else {
        check.rows("scores", &scores, n)?
    };
    check.optional("admitted", &admitted, n.div_ceil(32))?;
    let mut found = TopK::none(n_q, k);
    if n_q == 0 {
        return Ok(found);
    }
    if u32::try_from(n_q * n).is_err() {
        return Err(Error::shape(
            SPEC.name,
            "scores",
            "fewer than 2^32",
            n_q * n,
        ));
    }
    if !selects_on(device, k) {
        return Err(SPEC.unsupported(device, "the host selects among scores here"));
    }
    let cost = Cost {
        flop: (n_q * n) as u64,
        bytes: (4 * n_q * n + 8 * n_q * k) as u64,
    };
    device.run(SPEC.name, cost, |target| {
        let Target::Gpu(gpu) = target else {
            return Err(SPEC.unsupported(device, "the host selects among scores here"));
        };
        let words = match gpu {
            Gpu::Cuda(_) => cuda::STATE,
            Gpu::Wgpu(_) => wgpu::STATE,
        };
        let mut state = device.alloc::<u32>(n_q * words)?;
        let mut list = device.alloc::<u32>(2 * n_q * n)?;
        gpu.call(&Call {
            kernel: &LIST_SCORES,
            variant: variant(admitted.is_some()),
            args: &[
                scores.into(),
                admitted.into(),
                (&mut state.as_slice_mut()).into(),
                (&mut list.as_slice_mut()).into(),
                n.into(),
                n_q.into(),
            ],
            geometry: Geometry {
                groups: grid((n_q * n).div_ceil(64)),
                grid: [(n_q * n).div_ceil(BLOCK) as u32, 1, 1],
                threads: BLOCK as u32,
                shared_bytes: 0,
            },
        })?;
        let best = match gpu {
            Gpu::Cuda(_) => {
                let mut best = device.alloc::<u32>(2 * n_q * k)?;
                cuda::merge(gpu, &state, &list, best.as_slice_mut(), n, k)?;
                best
            }
            Gpu::Wgpu(_) => {
                let mut kept = device.alloc::<u32>(2 * n_q * n)?;
                wgpu::select(gpu, &mut state, &list, &mut kept, n, k)?;
                wgpu::sort(gpu, &mut state, &kept, n, k)?
            }
        };
        store(&best.read()?, 0, &mut found);
        Ok(())
    })?;
    Ok(found)
}
