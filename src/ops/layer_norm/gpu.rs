//! Launches of `layer_norm.ptx` and `layer_norm.wgsl`.

use half::f16;

use super::{Args, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::grid;

pub(super) const LAYER_NORM: Kernel = Kernel {
    entry: "layer_norm",
    params: &[
        Param::read("x"),
        Param::read("residual").optional(),
        Param::read("weight"),
        Param::read("bias").optional(),
        Param::write("y"),
        Param::write("y_act").optional(),
        Param::u32("rows"),
        Param::u32("d"),
        Param::f32("eps"),
    ],
    ptx: Some(Source {
        file: "layer_norm.ptx",
        text: include_str!("../../../kernels/layer_norm.ptx"),
    }),
    wgsl: Some(Source {
        file: "layer_norm.wgsl",
        text: include_str!("../../../shaders/layer_norm.wgsl"),
    }),
};

pub(super) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for residual in ["none", "f16", "f32"] {
        for bias in [true, false] {
            for act in [true, false] {
                all.push(variant(residual, bias, act));
            }
        }
    }
    all
}

fn variant(residual: &'static str, bias: bool, act: bool) -> Variant {
    Variant::new()
        .with("residual", residual)
        .with("bias", bias)
        .with("act", act)
}

/// Rows in one block of the PTX kernel, a warp each.
const ROWS_PER_BLOCK: usize = 4;

/// The longest row that a warp of the PTX kernel holds in its registers.
const LONGEST_ROW: usize = 1024;

pub(super) fn layer_norm<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, A>,
    mut y: SliceMut<'_, f32>,
    mut y_act: Option<SliceMut<'_, f16>>,
) -> Result<()> {
    let &Args { rows, d, norm, .. } = args;
    if matches!(gpu, Gpu::Cuda(_)) && d > LONGEST_ROW {
        let why = format!("a row has {d} elements, at most {LONGEST_ROW} fit");
        return Err(SPEC.unsupported(y.device(), &why));
    }
    let residual = args.residual.map_or("none", |_| A::TYPE.name());
    gpu.call(&Call {
        kernel: &LAYER_NORM,
        variant: variant(residual, norm.bias.is_some(), y_act.is_some()),
        args: &[
            args.x.into(),
            args.residual.into(),
            norm.weight.into(),
            norm.bias.into(),
            (&mut y).into(),
            y_act.as_mut().into(),
            rows.into(),
            d.into(),
            norm.eps.into(),
        ],
        geometry: Geometry {
            groups: grid(rows),
            grid: [rows.div_ceil(ROWS_PER_BLOCK) as u32, 1, 1],
            threads: 32 * ROWS_PER_BLOCK as u32,
            shared_bytes: 0,
        },
    })
}
