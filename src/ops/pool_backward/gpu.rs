//! Launches of `pool_backward.ptx` and `pool_backward.wgsl`.

use super::Args;
use crate::device::template::{Source, Variant};
use crate::device::{Buffer, Call, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::pool::{self, Pooling};
use crate::ops::{grid, in_every_tier};

pub(super) const POOL_BACKWARD: Kernel = Kernel {
    entry: "pool_backward",
    params: &[
        Param::read("means").optional(),
        Param::read("offsets"),
        Param::read("d_out"),
        Param::write("dh"),
        Param::u32("d"),
        Param::u32("width").ptx(),
        Param::u32("groups").ptx(),
        Param::u32("chunks"),
        Param::u32("texts").wgsl(),
    ],
    ptx: Some(Source {
        file: "pool_backward.ptx",
        text: include_str!("../../../kernels/pool_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "pool_backward.wgsl",
        text: include_str!("../../../shaders/pool_backward.wgsl"),
    }),
};

fn variant(pooling: Pooling, normalize: bool) -> Variant {
    Variant::new()
        .with("pooling", pooling.name())
        .with("normalize", normalize)
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    let of = |pooling| [true, false].map(|normalize| variant(pooling, normalize));
    [Pooling::Mean, Pooling::First].map(of).concat()
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    in_every_tier(ptx_variants())
}

/// Threads in a block of the PTX kernel.
const BLOCK: usize = 256;

/// Rows of a text that one block or workgroup writes.
const CHUNK: usize = 32;

pub(super) fn pool_backward(
    gpu: Gpu<'_>,
    args: &Args<'_>,
    mut dh: SliceMut<'_, f32>,
) -> Result<()> {
    let &Args {
        h,
        texts,
        pooling,
        normalize,
        d_out,
        d,
    } = args;
    let n = texts.texts();
    let means = if normalize {
        let mut means = dh.device().alloc::<f32>(n * d)?;
        pool::means(gpu, h, texts, pooling, means.as_slice_mut())?;
        Some(means)
    } else {
        None
    };
    let width = (d / 4).min(BLOCK);
    let chunks = texts.longest().div_ceil(CHUNK);
    gpu.call(&Call {
        kernel: &POOL_BACKWARD,
        variant: variant(pooling, normalize),
        args: &[
            means.as_ref().map(Buffer::as_slice).into(),
            texts.on_device().into(),
            d_out.into(),
            (&mut dh).into(),
            d.into(),
            width.into(),
            (BLOCK / width).into(),
            chunks.into(),
            n.into(),
        ],
        geometry: Geometry {
            groups: grid(n * chunks),
            grid: [(n * chunks) as u32, 1, 1],
            threads: BLOCK as u32,
            shared_bytes: 0,
        },
    })
}
