//! Launches of `embedding.ptx` and `embedding.wgsl`.

use super::Args;
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::{FLOATS, grid};

pub(super) const EMBEDDING: Kernel = Kernel {
    entry: "embedding",
    params: &[
        Param::read("word"),
        Param::read("position"),
        Param::read("token_type"),
        Param::read("ids"),
        Param::read("positions"),
        Param::write("x"),
        Param::u32("t"),
        Param::u32("d"),
        Param::u32("width").ptx(),
        Param::u32("tokens").ptx(),
    ],
    ptx: Some(Source {
        file: "embedding.ptx",
        text: include_str!("../../../kernels/embedding.ptx"),
    }),
    wgsl: Some(Source {
        file: "embedding.wgsl",
        text: include_str!("../../../shaders/embedding.wgsl"),
    }),
};

pub(super) fn variants() -> Vec<Variant> {
    FLOATS.map(|table| variant(table.name())).to_vec()
}

fn variant(table: &'static str) -> Variant {
    Variant::new().with("table", table)
}

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

pub(super) fn embedding<T: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, T>,
    mut x: SliceMut<'_, f32>,
) -> Result<()> {
    let (tables, t, d) = (args.tables, args.ids.len(), args.tables.d);
    // A thread of the PTX kernel takes 16 bytes of a row; short rows share a block.
    let width = (d * size_of::<T>() / 16).min(BLOCK);
    let tokens = BLOCK / width;
    gpu.call(&Call {
        kernel: &EMBEDDING,
        variant: variant(T::TYPE.name()),
        args: &[
            tables.word.into(),
            tables.position.into(),
            tables.token_type.into(),
            args.ids.into(),
            args.positions.into(),
            (&mut x).into(),
            t.into(),
            d.into(),
            width.into(),
            tokens.into(),
        ],
        geometry: Geometry {
            groups: grid((t * d / 4).div_ceil(64)),
            grid: [t.div_ceil(tokens) as u32, 1, 1],
            threads: (width * tokens) as u32,
            shared_bytes: 0,
        },
    })
}
