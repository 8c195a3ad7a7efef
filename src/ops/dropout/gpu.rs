//! Launches of `dropout.ptx` and `dropout.wgsl`.

use super::Mask;
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::{FLOATS, grid, rows_per_binding};

pub(super) const DROPOUT: Kernel = Kernel {
    entry: "dropout",
    params: &[
        Param::write("x"),
        Param::read("origins"),
        Param::u32("n"),
        Param::u32("units").ptx(),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::u32("fours").wgsl(),
        Param::u32("threshold"),
        Param::f32("kept"),
        Param::u32("key_0"),
        Param::u32("key_1"),
    ],
    ptx: Some(Source {
        file: "dropout.ptx",
        text: include_str!("../../../kernels/dropout.ptx"),
    }),
    wgsl: Some(Source {
        file: "dropout.wgsl",
        text: include_str!("../../../shaders/dropout.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

/// Bytes that a thread of it changes at a time.
const UNIT: usize = 16;

fn variant(act: &'static str) -> Variant {
    Variant::new().with("act", act)
}

pub(super) fn variants() -> Vec<Variant> {
    FLOATS.map(|act| variant(act.name())).into()
}

/// Rows beyond one binding go in turns.
pub(super) fn dropout<A: Float>(
    gpu: Gpu<'_>,
    mut x: SliceMut<'_, A>,
    d: usize,
    mask: Mask,
    origins: Slice<'_, u32>,
) -> Result<()> {
    let n = x.len() / d;
    let units = d * size_of::<A>() / UNIT;
    // Short rows share a block of the PTX kernel.
    let width = units.min(BLOCK);
    let rows = BLOCK / width;
    let at_once = match gpu {
        Gpu::Cuda(_) => n.max(1),
        Gpu::Wgpu(_) => rows_per_binding(gpu, d * size_of::<A>()),
    };
    for first in (0..n).step_by(at_once) {
        let end = (first + at_once).min(n);
        gpu.call(&Call {
            kernel: &DROPOUT,
            variant: variant(A::TYPE.name()),
            args: &[
                (&mut x.slice_mut(first * d..end * d)).into(),
                origins.slice(2 * first..2 * end).into(),
                (end - first).into(),
                units.into(),
                width.into(),
                rows.into(),
                (d / 4).into(),
                mask.threshold().into(),
                mask.scale().into(),
                mask.key[0].into(),
                mask.key[1].into(),
            ],
            geometry: Geometry {
                groups: grid(((end - first) * d / 4).div_ceil(64)),
                grid: [(end - first).div_ceil(rows) as u32, 1, 1],
                threads: (width * rows) as u32,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}
