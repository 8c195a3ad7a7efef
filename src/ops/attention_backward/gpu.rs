//! Launches of `attention_backward.ptx` and `attention_backward.wgsl`.

use super::{Args, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Buffer, Call, Float, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::attention::gpu::{
    PtxShape, heads_per_group, mask_numbers, wgsl_shapes, wgsl_variant,
};
use crate::ops::attention::work::Blocks;
use crate::ops::attention::{PART, scale_of};
use crate::ops::{FLOATS, grid, in_every_tier};

const WGSL: Source = Source {
    file: "attention_backward.wgsl",
    text: include_str!("../../../shaders/attention_backward.wgsl"),
};

pub(super) const ATTENTION_BACKWARD: Kernel = Kernel {
    entry: "attention_backward",
    params: &[
        Param::read("qkv"),
        Param::read("context").ptx(),
        Param::read("statistics"),
        Param::read("d_context"),
        Param::read("offsets").wgsl(),
        Param::read("work"),
        Param::read("origins").optional(),
        Param::write("mean"),
        Param::write("d_qkv"),
        Param::u32("n_long").ptx(),
        Param::u32("n_middle").ptx(),
        Param::u32("n_blocks").wgsl(),
        Param::u32("n_heads"),
        Param::u32("head_dim").wgsl(),
        Param::f32("exponent").ptx(),
        Param::f32("scale"),
        Param::u32("threshold"),
        Param::f32("kept"),
        Param::u32("key_0"),
        Param::u32("key_1"),
    ],
    ptx: Some(Source {
        file: "attention_backward.ptx",
        text: include_str!("../../../kernels/attention_backward.ptx"),
    }),
    wgsl: Some(WGSL),
};

/// `sum d_context context` of every row and head; the PTX kernel of the queries does it by the way.
pub(super) const ATTENTION_MEAN: Kernel = Kernel {
    entry: "attention_mean",
    params: &[
        Param::read("context"),
        Param::read("d_context"),
        Param::write("mean"),
        Param::u32("rows"),
        Param::u32("n_heads"),
        Param::u32("head_dim"),
    ],
    ptx: None,
    wgsl: Some(WGSL),
};

/// Whose gradient a launch makes, in this order: that of queries leaves `mean` for that of keys and values.
const SIDES: [&str; 2] = ["queries", "keys"];

/// Head dimensions of the PTX kernel.
const PTX_WIDTHS: [usize; 2] = [32, 64];

fn of_side(variant: Variant, side: &'static str, dropout: bool) -> Variant {
    variant.with("side", side).with("dropout", dropout)
}

fn mean_variant(act: &'static str) -> Variant {
    Variant::new().with("act", act).with("side", "mean")
}

fn of_sides(shapes: impl IntoIterator<Item = Variant>) -> Vec<Variant> {
    let mut all = Vec::new();
    for shape in shapes {
        for side in SIDES {
            all.extend([false, true].map(|dropout| of_side(shape, side, dropout)));
        }
    }
    all
}

fn ptx_variant(width: usize) -> Variant {
    Variant::new().with("width", width as i64)
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    of_sides(PTX_WIDTHS.map(ptx_variant))
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let means = FLOATS.map(|act| mean_variant(act.name()));
    in_every_tier(of_sides(wgsl_shapes()).into_iter().chain(means))
}

/// Workgroups that share a block of rows, so that what its invocations exchange fits into 16 KiB.
fn splits(head_dim: usize) -> usize {
    if head_dim / PART < 16 { 1 } else { 2 }
}

/// Threads of a block of the PTX kernel: 128 rows of the work list, 32 or (wider heads) 16 to a warp.
fn ptx_threads(width: usize) -> u32 {
    if width == 32 { 128 } else { 256 }
}

pub(super) fn attention_backward<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, A>,
    mut d_qkv: SliceMut<'_, A>,
) -> Result<()> {
    let &Args {
        forward,
        d_context,
        mask,
    } = args;
    let (n_heads, head_dim) = (forward.n_heads, forward.head_dim);
    let scale = scale_of(head_dim);
    let rows = forward.texts.tokens();
    let (shape, [n_long, n_middle, n_blocks], geometry) = match forward.work.blocks() {
        Blocks::Wgsl(n_blocks) => {
            let heads = heads_per_group(n_heads, head_dim);
            let geometry = Geometry {
                groups: grid(n_blocks * splits(head_dim) * (n_heads / heads)),
                ..Geometry::default()
            };
            let shape = wgsl_variant(A::TYPE.name(), head_dim, heads);
            (shape, [0, 0, n_blocks], geometry)
        }
        Blocks::Ptx(entries) => {
            if !PTX_WIDTHS.contains(&head_dim) {
                let why = format!("heads of {PTX_WIDTHS:?} columns are there, not of {head_dim}");
                return Err(SPEC.unsupported(d_qkv.device(), &why));
            }
            let blocks = PtxShape::of(head_dim).launch_blocks(entries, n_heads);
            let width = n_heads * head_dim;
            if blocks >= 1 << 31 || 3 * width >= 1 << 30 {
                let why = format!("{rows} tokens of width {width} are too many for one launch");
                return Err(SPEC.unsupported(d_qkv.device(), &why));
            }
            let geometry = Geometry {
                grid: [blocks as u32, 1, 1],
                threads: ptx_threads(head_dim),
                ..Geometry::default()
            };
            (ptx_variant(head_dim), [entries[0], entries[1], 0], geometry)
        }
    };
    let mut mean: Buffer<f32> = d_qkv.device().alloc(rows * n_heads)?;
    if let Gpu::Wgpu(_) = gpu {
        gpu.call(&Call {
            kernel: &ATTENTION_MEAN,
            variant: mean_variant(A::TYPE.name()),
            args: &[
                forward.context.into(),
                d_context.into(),
                (&mut mean.as_slice_mut()).into(),
                rows.into(),
                n_heads.into(),
                head_dim.into(),
            ],
            geometry: Geometry {
                groups: grid((rows * n_heads).div_ceil(64)),
                ..Geometry::default()
            },
        })?;
    }
    let exponent = (f64::from(scale) * std::f64::consts::LOG2_E) as f32;
    let (threshold, kept, key) = mask_numbers(mask.map(|(mask, _)| mask));
    for side in SIDES {
        gpu.call(&Call {
            kernel: &ATTENTION_BACKWARD,
            variant: of_side(shape, side, mask.is_some()),
            args: &[
                forward.qkv.into(),
                forward.context.into(),
                forward.statistics.into(),
                d_context.into(),
                forward.texts.on_device().into(),
                forward.work.on_device().into(),
                mask.map(|(_, origins)| origins).into(),
                (&mut mean.as_slice_mut()).into(),
                (&mut d_qkv).into(),
                n_long.into(),
                n_middle.into(),
                n_blocks.into(),
                n_heads.into(),
                head_dim.into(),
                exponent.into(),
                scale.into(),
                threshold.into(),
                kept.into(),
                key[0].into(),
                key[1].into(),
            ],
            geometry,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_the_threads_of_the_kernel() {
        for variant in ptx_variants() {
            let text = crate::device::template::expand(ATTENTION_BACKWARD.ptx.unwrap(), &variant);
            let text = text.unwrap().text;
            let width = PTX_WIDTHS
                .into_iter()
                .find(|&w| ptx_variant(w).get("width") == variant.get("width"));
            let line = format!(".maxntid {}, 1, 1", ptx_threads(width.unwrap()));
            assert!(text.contains(&line), "{variant}: {line}");
        }
    }

    #[test]
    fn partial_sums_fit_the_memory_that_every_adapter_has() {
        for variant in wgsl_variants() {
            let text = crate::device::template::expand(WGSL, &variant)
                .unwrap()
                .text;
            let floats: usize = text
                .split_once("partial: array<f32, ")
                .and_then(|(_, rest)| rest.split('>').next()?.parse().ok())
                .unwrap_or(0);
            // And 4 bytes for every row and head.
            assert!(4 * floats + 256 <= 16_384, "{variant}");
        }
    }
}
