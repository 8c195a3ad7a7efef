//! Launches of `embedding_backward.ptx` and `embedding_backward.wgsl`.

use super::Args;
use crate::device::template::{Source, Variant};
use crate::device::{Buffer, Call, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::grid;

pub(super) const EMBEDDING_BACKWARD: Kernel = Kernel {
    entry: "embedding_backward",
    params: &[
        Param::read("rows"),
        Param::read("list"),
        Param::read("pieces"),
        Param::write("word"),
        Param::write("position"),
        Param::write("token_type"),
        Param::write("sums"),
        Param::u32("n"),
        Param::u32("d"),
        Param::u32("width").ptx(),
        Param::u32("groups").ptx(),
    ],
    ptx: Some(Source {
        file: "embedding_backward.ptx",
        text: include_str!("../../../kernels/embedding_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "embedding_backward.wgsl",
        text: include_str!("../../../shaders/embedding_backward.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

/// `tables` as pieces name them: token types, positions, words.
pub(super) fn embedding_backward(
    gpu: Gpu<'_>,
    args: &Args<'_>,
    [mut token_type, mut position, mut word]: [SliceMut<'_, f32>; 3],
) -> Result<()> {
    let &Args {
        dx,
        segments,
        list,
        d,
    } = args;
    // A thread of the PTX kernel takes four elements of a row; short rows share a block.
    let width = (d / 4).min(BLOCK);
    let groups = BLOCK / width;
    let mut before: Option<Buffer<f32>> = None;
    for (pieces, n_sums) in segments.levels() {
        let n = pieces.len() / 4;
        // The last level has no sums; its kernel takes a place for them all the same.
        let mut sums = dx.device().alloc::<f32>(n_sums.max(1) * d)?;
        gpu.call(&Call {
            kernel: &EMBEDDING_BACKWARD,
            variant: Variant::new(),
            args: &[
                before.as_ref().map_or(dx, Buffer::as_slice).into(),
                list.into(),
                pieces.into(),
                (&mut word).into(),
                (&mut position).into(),
                (&mut token_type).into(),
                (&mut sums.as_slice_mut()).into(),
                n.into(),
                d.into(),
                width.into(),
                groups.into(),
            ],
            geometry: Geometry {
                groups: grid((n * d / 4).div_ceil(64)),
                grid: [n.div_ceil(groups) as u32, 1, 1],
                threads: (width * groups) as u32,
                shared_bytes: 0,
            },
        })?;
        before = Some(sums);
    }
    Ok(())
}
