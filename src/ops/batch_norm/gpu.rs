//! Launches of `batch_norm.ptx` and `batch_norm.wgsl`.

use super::Args;
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::{FLOATS, grid};

pub(super) const BATCH_NORM: Kernel = Kernel {
    entry: "batch_norm",
    params: &[
        Param::read("x"),
        Param::read("weights"),
        Param::write("moments"),
        Param::write("masses"),
        Param::u32("n"),
        Param::u32("c"),
        Param::u32("slabs"),
    ],
    ptx: Some(Source {
        file: "batch_norm.ptx",
        text: include_str!("../../../kernels/batch_norm.ptx"),
    }),
    wgsl: Some(Source {
        file: "batch_norm.wgsl",
        text: include_str!("../../../shaders/batch_norm.wgsl"),
    }),
};

pub(super) const JOIN: Kernel = Kernel {
    entry: "batch_norm_join",
    params: &[
        Param::read("moments"),
        Param::read("masses"),
        Param::write("mean"),
        Param::write("variance"),
        Param::u32("pieces"),
        Param::u32("c"),
        Param::f32("total"),
    ],
    ..BATCH_NORM
};

/// Threads in a block of the PTX kernels.
pub(in crate::ops) const BLOCK: usize = 256;

/// Channels that a block or workgroup sums up.
const SLAB: usize = 64;

fn of_pieces(act: &'static str) -> Variant {
    Variant::new().with("stage", "pieces").with("act", act)
}

fn of_join() -> Variant {
    Variant::new().with("stage", "join")
}

pub(super) fn variants() -> Vec<Variant> {
    let mut all: Vec<Variant> = FLOATS.map(|act| of_pieces(act.name())).into();
    all.push(of_join());
    all
}

/// Rows of a piece: in a block of the PTX kernels a thread has 16 bytes of each of four rows of 64 channels.
pub(in crate::ops) fn piece<A: Float>(gpu: Gpu<'_>) -> usize {
    match gpu {
        Gpu::Cuda(_) => 4 * BLOCK * (16 / size_of::<A>()) / SLAB,
        Gpu::Wgpu(_) => 64,
    }
}

/// Blocks or workgroups for all channels.
pub(in crate::ops) fn slabs(c: usize) -> usize {
    c.div_ceil(SLAB)
}

pub(super) fn batch_norm<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, A>,
    mut mean: SliceMut<'_, f32>,
    mut variance: SliceMut<'_, f32>,
) -> Result<()> {
    let &Args {
        x,
        weights,
        total,
        c,
    } = args;
    let n = weights.len();
    let device = mean.device();
    let pieces = n.div_ceil(piece::<A>(gpu));
    let slabs = slabs(c);
    let mut moments = device.alloc::<f32>(pieces * 2 * c)?;
    let mut masses = device.alloc::<f32>(pieces)?;
    gpu.call(&Call {
        kernel: &BATCH_NORM,
        variant: of_pieces(A::TYPE.name()),
        args: &[
            x.into(),
            weights.into(),
            (&mut moments.as_slice_mut()).into(),
            (&mut masses.as_slice_mut()).into(),
            n.into(),
            c.into(),
            slabs.into(),
        ],
        geometry: Geometry {
            groups: grid(pieces * slabs),
            grid: [(pieces * slabs) as u32, 1, 1],
            threads: BLOCK as u32,
            shared_bytes: 0,
        },
    })?;
    // Of no rows this gives zeros.
    gpu.call(&Call {
        kernel: &JOIN,
        variant: of_join(),
        args: &[
            moments.as_slice().into(),
            masses.as_slice().into(),
            (&mut mean).into(),
            (&mut variance).into(),
            pieces.into(),
            c.into(),
            total.into(),
        ],
        geometry: Geometry {
            groups: grid(c / 8),
            grid: [(c / 8) as u32, 1, 1],
            threads: BLOCK as u32,
            shared_bytes: 0,
        },
    })
}
