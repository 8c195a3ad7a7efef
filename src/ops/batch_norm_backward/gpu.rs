//! Launches of `batch_norm_backward.ptx` and `batch_norm_backward.wgsl`.

use super::Forward;
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::batch_norm::{BLOCK, piece, slabs};
use crate::ops::unfold::shared_block;
use crate::ops::{FLOATS, grid};

pub(super) const BATCH_NORM_BACKWARD: Kernel = Kernel {
    entry: "batch_norm_backward",
    params: &[
        Param::read("x"),
        Param::read("weights"),
        Param::read("mean"),
        Param::read("variance"),
        Param::read("gamma"),
        Param::read("d_y"),
        Param::read("totals"),
        Param::write("dx"),
        Param::u32("n"),
        Param::u32("units"),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::f32("total"),
        Param::f32("eps"),
    ],
    ptx: Some(Source {
        file: "batch_norm_backward.ptx",
        text: include_str!("../../../kernels/batch_norm_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "batch_norm_backward.wgsl",
        text: include_str!("../../../shaders/batch_norm_backward.wgsl"),
    }),
};

pub(super) const PIECES: Kernel = Kernel {
    entry: "batch_norm_backward_pieces",
    params: &[
        Param::read("x"),
        Param::read("mean"),
        Param::read("variance"),
        Param::read("d_y"),
        Param::write("sums"),
        Param::u32("n"),
        Param::u32("c"),
        Param::u32("slabs"),
        Param::f32("eps"),
    ],
    ..BATCH_NORM_BACKWARD
};

pub(super) const SUMS: Kernel = Kernel {
    entry: "batch_norm_backward_sums",
    params: &[
        Param::read("sums"),
        Param::write("d_gamma"),
        Param::write("d_beta"),
        Param::write("totals"),
        Param::u32("pieces"),
        Param::u32("c"),
    ],
    ..BATCH_NORM_BACKWARD
};

/// Blocks of 256 threads, with the registers that the kernel over rows takes, that a multiprocessor holds.
const RESIDENT: usize = 3;

fn variant(stage: &'static str, act: &'static str) -> Variant {
    Variant::new().with("stage", stage).with("act", act)
}

fn of_sums() -> Variant {
    Variant::new().with("stage", "sums")
}

pub(super) fn variants() -> Vec<Variant> {
    let of = |stage| FLOATS.map(|act| variant(stage, act.name()));
    let mut all = [of("pieces"), of("rows")].concat();
    all.push(of_sums());
    all
}

pub(super) fn batch_norm_backward<A: Float>(
    gpu: Gpu<'_>,
    forward: &Forward<'_, A>,
    d_y: Slice<'_, A>,
    mut dx: SliceMut<'_, A>,
    [mut d_gamma, mut d_beta]: [SliceMut<'_, f32>; 2],
) -> Result<()> {
    let &Forward {
        x,
        weights,
        total,
        mean,
        variance,
        eps,
        gamma,
    } = forward;
    let (n, c, device) = (weights.len(), gamma.len(), dx.device());
    if n == 0 {
        return Ok(());
    }
    let pieces = n.div_ceil(piece::<A>(gpu));
    let slabs = slabs(c);
    let mut sums = device.alloc::<f32>(pieces * 2 * c)?;
    let mut totals = device.alloc::<f32>(2 * c)?;
    gpu.call(&Call {
        kernel: &PIECES,
        variant: variant("pieces", A::TYPE.name()),
        args: &[
            x.into(),
            mean.into(),
            variance.into(),
            d_y.into(),
            (&mut sums.as_slice_mut()).into(),
            n.into(),
            c.into(),
            slabs.into(),
            eps.into(),
        ],
        geometry: Geometry {
            groups: grid(pieces * slabs),
            grid: [(pieces * slabs) as u32, 1, 1],
            threads: BLOCK as u32,
            shared_bytes: 0,
        },
    })?;
    gpu.call(&Call {
        kernel: &SUMS,
        variant: of_sums(),
        args: &[
            sums.as_slice().into(),
            (&mut d_gamma).into(),
            (&mut d_beta).into(),
            (&mut totals.as_slice_mut()).into(),
            pieces.into(),
            c.into(),
        ],
        geometry: Geometry {
            groups: grid(c / 4),
            grid: [(c / 4) as u32, 1, 1],
            threads: BLOCK as u32,
            shared_bytes: 0,
        },
    })?;
    // On CUDA a unit has 16 bytes, in the shader 4 elements.
    let units = match gpu {
        Gpu::Cuda(_) => c * size_of::<A>() / 16,
        Gpu::Wgpu(_) => c / 4,
    };
    let [width, rows] = shared_block(units);
    // As many blocks as the device holds, or as there is work for.
    let most = match gpu {
        Gpu::Cuda(device) => RESIDENT * device.multiprocessors() as usize,
        Gpu::Wgpu(_) => usize::MAX,
    };
    let blocks = n.div_ceil(rows).min(most);
    gpu.call(&Call {
        kernel: &BATCH_NORM_BACKWARD,
        variant: variant("rows", A::TYPE.name()),
        args: &[
            x.into(),
            weights.into(),
            mean.into(),
            variance.into(),
            gamma.into(),
            d_y.into(),
            totals.as_slice().into(),
            (&mut dx).into(),
            n.into(),
            units.into(),
            width.into(),
            rows.into(),
            total.into(),
            eps.into(),
        ],
        geometry: Geometry {
            groups: grid((n * units).div_ceil(64)),
            grid: [blocks as u32, 1, 1],
            threads: (width * rows) as u32,
            shared_bytes: 0,
        },
    })
}
