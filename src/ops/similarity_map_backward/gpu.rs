//! Launches of `similarity_map_backward.ptx` and `similarity_map_backward.wgsl`: one a side.

use super::partners::{Partners, together};
use super::{Args, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, ElementType, Float, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::{FLOATS, grid, in_every_tier};

pub(super) const SIMILARITY_MAP_BACKWARD: Kernel = Kernel {
    entry: "similarity_map_backward",
    params: &[
        Param::read("others"),
        Param::read("offsets"),
        Param::read("partner_offsets"),
        Param::read("partners"),
        Param::read("d_maps"),
        Param::write("d_tokens"),
        Param::u32("d"),
        Param::u32("tiles"),
        Param::u32("chunks").wgsl(),
        Param::u32("texts").wgsl(),
    ],
    ptx: Some(Source {
        file: "similarity_map_backward.ptx",
        text: include_str!("../../../kernels/similarity_map_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "similarity_map_backward.wgsl",
        text: include_str!("../../../shaders/similarity_map_backward.wgsl"),
    }),
};

/// The sides, as variants call them.
const SIDES: [&str; 2] = ["queries", "documents"];

fn ptx_variant(side: &'static str) -> Variant {
    Variant::new().with("side", side)
}

fn wgsl_variant(side: &'static str, tokens: &'static str) -> Variant {
    ptx_variant(side).with("tokens", tokens)
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    SIDES.map(ptx_variant).to_vec()
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let of = |side| FLOATS.map(|tokens| wgsl_variant(side, tokens.name()));
    in_every_tier(SIDES.map(of).into_iter().flatten())
}

/// Tokens of a text that a block or workgroup adds up.
const TILE: usize = 8;

/// Elements of them: four for every lane of a warp of the PTX kernel, and for every invocation of the shader.
const PTX_CHUNK: usize = 128;
const WGSL_CHUNK: usize = 256;

pub(super) fn similarity_map_backward<T: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, T>,
    gradients: [SliceMut<'_, f32>; 2],
) -> Result<()> {
    let d = args.d;
    let device = gradients[0].device();
    if T::TYPE != ElementType::F16 && matches!(gpu, Gpu::Cuda(_)) {
        return Err(SPEC.unsupported(device, "token vectors are f16 there"));
    }
    let texts = [args.queries, args.documents];
    let packings = texts.map(|tokens| tokens.packing);
    let sides = [0, 1].map(|side| Partners::of(args.pairs, args.layout, packings, side));
    let (lists, places) = together(&sides);
    let lists = device.upload(&lists)?;
    for (side, mut gradient) in gradients.into_iter().enumerate() {
        let (own, others) = (packings[side], texts[1 - side]);
        let tiles = own.longest().div_ceil(TILE);
        let [offsets, entries] = places[side].clone();
        let chunks = match gpu {
            Gpu::Cuda(_) => d.div_ceil(PTX_CHUNK),
            Gpu::Wgpu(_) => d.div_ceil(WGSL_CHUNK),
        };
        gpu.call(&Call {
            kernel: &SIMILARITY_MAP_BACKWARD,
            variant: match gpu {
                Gpu::Cuda(_) => ptx_variant(SIDES[side]),
                Gpu::Wgpu(_) => wgsl_variant(SIDES[side], T::TYPE.name()),
            },
            args: &[
                others.rows.into(),
                own.on_device().into(),
                lists.slice(offsets).into(),
                lists.slice(entries).into(),
                args.d_maps.into(),
                (&mut gradient).into(),
                d.into(),
                tiles.into(),
                chunks.into(),
                own.texts().into(),
            ],
            geometry: Geometry {
                groups: grid(own.texts() * tiles * chunks),
                grid: [(own.texts() * tiles) as u32, chunks as u32, 1],
                threads: 128,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}
