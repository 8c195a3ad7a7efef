//! Launches of `layer_norm_backward.ptx` and `layer_norm_backward.wgsl`.

use super::{Args, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::{grid, in_every_tier};

pub(super) const LAYER_NORM_BACKWARD: Kernel = Kernel {
    entry: "layer_norm_backward",
    params: &[
        Param::read("x"),
        Param::read("residual").optional(),
        Param::read("weight"),
        Param::read("dy"),
        Param::write("dx"),
        Param::write("dx_act").optional(),
        Param::write("sums"),
        Param::u32("rows"),
        Param::u32("d"),
        Param::u32("piece"),
        Param::f32("eps"),
    ],
    ptx: Some(Source {
        file: "layer_norm_backward.ptx",
        text: include_str!("../../../kernels/layer_norm_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "layer_norm_backward.wgsl",
        text: include_str!("../../../shaders/layer_norm_backward.wgsl"),
    }),
};

pub(super) const SUMS: Kernel = Kernel {
    entry: "layer_norm_backward_sums",
    params: &[
        Param::read("sums"),
        Param::write("d_weight"),
        Param::write("d_bias"),
        Param::u32("pieces"),
        Param::u32("d"),
    ],
    ..LAYER_NORM_BACKWARD
};

/// What a lane of the PTX kernel holds of a row, in units of 128 elements, and so many blocks fit a multiprocessor.
const PTX_SIZES: [(usize, usize); 3] = [(3, 5), (6, 3), (8, 2)];

/// What an invocation of the shader holds of a row, in units of 256 elements.
const WGSL_SIZES: [usize; 2] = [2, 4];

/// The longest row that either holds in registers.
const LONGEST_ROW: usize = 1024;

/// Rows of a piece of the shader: their sums are a few percent of what is read and written anyway.
const WGSL_PIECE: usize = 16;

/// Warps of a block of the PTX kernel.
const WARPS: usize = 4;

fn variant(residual: &'static str, act: &'static str) -> Variant {
    Variant::new()
        .with("stage", "rows")
        .with("residual", residual)
        .with("act", act)
}

fn sums_variant() -> Variant {
    Variant::new().with("stage", "sums")
}

/// Residual and copy are of one type.
fn variants(size: &'static str, sizes: &[usize]) -> Vec<Variant> {
    let mut all = vec![sums_variant()];
    for (residual, act) in [
        ("none", "none"),
        ("none", "f16"),
        ("none", "f32"),
        ("f16", "none"),
        ("f16", "f16"),
        ("f32", "none"),
        ("f32", "f32"),
    ] {
        all.extend(
            sizes
                .iter()
                .map(|&n| variant(residual, act).with(size, n as i64)),
        );
    }
    all
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    variants("chunks", &PTX_SIZES.map(|(chunks, _)| chunks))
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    in_every_tier(variants("steps", &WGSL_SIZES))
}

pub(super) fn layer_norm_backward<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, A>,
    mut dx: SliceMut<'_, f32>,
    mut dx_act: Option<SliceMut<'_, A>>,
    [mut d_weight, mut d_bias]: [SliceMut<'_, f32>; 2],
) -> Result<()> {
    let &Args { rows, d, norm, .. } = args;
    let device = dx.device();
    if d > LONGEST_ROW {
        let why = format!("a row has {d} elements, at most {LONGEST_ROW} fit");
        return Err(SPEC.unsupported(device, &why));
    }
    if rows == 0 {
        return Ok(());
    }
    let name = |there| if there { A::TYPE.name() } else { "none" };
    let variant = variant(name(args.residual.is_some()), name(dx_act.is_some()));
    let (variant, piece) = match gpu {
        Gpu::Cuda(cuda) => {
            let fits = |&&(chunks, _): &&(usize, usize)| d <= 128 * chunks;
            let &(chunks, blocks) = PTX_SIZES.iter().find(fits).unwrap_or(&PTX_SIZES[2]);
            let blocks = blocks * cuda.multiprocessors() as usize;
            let piece = rows.div_ceil(blocks).next_multiple_of(WARPS);
            (variant.with("chunks", chunks as i64), piece)
        }
        Gpu::Wgpu(_) => {
            let steps = if d <= 256 * WGSL_SIZES[0] { 0 } else { 1 };
            (variant.with("steps", WGSL_SIZES[steps] as i64), WGSL_PIECE)
        }
    };
    let pieces = rows.div_ceil(piece);
    let mut sums = device.alloc::<f32>(pieces * 2 * d)?;
    gpu.call(&Call {
        kernel: &LAYER_NORM_BACKWARD,
        variant,
        args: &[
            args.x.into(),
            args.residual.into(),
            norm.weight.into(),
            args.dy.into(),
            (&mut dx).into(),
            dx_act.as_mut().into(),
            (&mut sums.as_slice_mut()).into(),
            rows.into(),
            d.into(),
            piece.into(),
            norm.eps.into(),
        ],
        geometry: Geometry {
            groups: grid(pieces),
            grid: [pieces as u32, 1, 1],
            threads: 32 * WARPS as u32,
            shared_bytes: (WARPS * 2 * d * 4) as u32,
        },
    })?;
    gpu.call(&Call {
        kernel: &SUMS,
        variant: sums_variant(),
        args: &[
            sums.as_slice().into(),
            (&mut d_weight).into(),
            (&mut d_bias).into(),
            pieces.into(),
            d.into(),
        ],
        geometry: Geometry {
            groups: grid(d / 8),
            grid: [(2 * d).div_ceil(32) as u32, 1, 1],
            threads: 256,
            shared_bytes: 0,
        },
    })
}
