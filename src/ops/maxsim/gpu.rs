//! Launches of `maxsim.ptx` and `maxsim.wgsl`.

use super::{Args, Reduction, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::token_pairs::{bounds, geometry, query_tile};
use crate::ops::{FLOATS, Pairs, in_every_tier};

pub(super) const MAXSIM: Kernel = Kernel {
    entry: "maxsim",
    params: &[
        Param::read("queries"),
        Param::read("query_offsets"),
        Param::read("documents"),
        Param::read("document_offsets"),
        Param::read("pairs").optional(),
        Param::write("scores"),
        Param::write("winners").optional(),
        Param::u32("first").ptx(),
        Param::u32("n_queries").ptx(),
        Param::u32("d"),
        Param::u32("longest"),
        Param::u32("mean"),
        Param::u32("count").wgsl(),
        Param::u32("n_documents"),
        Param::u32("first_document").wgsl(),
        Param::u32("end_document").wgsl(),
        Param::u32("first_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "maxsim.ptx",
        text: include_str!("../../../kernels/maxsim.ptx"),
    }),
    wgsl: Some(Source {
        file: "maxsim.wgsl",
        text: include_str!("../../../shaders/maxsim.wgsl"),
    }),
};

fn variant(listed: bool, winners: bool) -> Variant {
    Variant::new()
        .with("pairs", if listed { "listed" } else { "all" })
        .with("winners", winners)
}

/// Listed or all pairs, with winners or without.
fn variants() -> impl Iterator<Item = (bool, Variant)> {
    [false, true]
        .into_iter()
        .flat_map(|winners| [false, true].map(|listed| (winners, variant(listed, winners))))
}

/// Query tokens that a block of the PTX kernel takes at a time, at most: beside 128 there are no registers for winners.
fn most_tokens(winners: bool) -> usize {
    if winners { 64 } else { 128 }
}

fn with_tile(variant: Variant, tile_q: usize) -> Variant {
    variant.with("tile_q", tile_q as i64)
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for (winners, variant) in variants() {
        let tiles = [32, 64, 128].into_iter();
        let tiles = tiles.filter(|&tile_q| tile_q <= most_tokens(winners));
        all.extend(tiles.map(|tile_q| with_tile(variant, tile_q)));
    }
    all
}

fn with_tokens(variant: Variant, tokens: &'static str) -> Variant {
    variant.with("tokens", tokens)
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let of = |tokens: &'static str| variants().map(move |(_, v)| with_tokens(v, tokens));
    in_every_tier(FLOATS.into_iter().flat_map(|tokens| of(tokens.name())))
}

/// Blocks of a PTX launch, at most.
const BLOCKS: usize = (1 << 31) - 1;

pub(super) fn maxsim<T: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, T>,
    mut scores: SliceMut<'_, f32>,
    mut winners: Option<SliceMut<'_, u32>>,
) -> Result<()> {
    let (queries, documents, d) = (args.queries, args.documents, args.d);
    let (n_q, n_c) = (queries.packing.texts(), documents.packing.texts());
    let pairs = match args.pairs {
        Pairs::All => None,
        Pairs::Listed(list) => Some(list.among(SPEC.name, n_q, n_c)?),
    };
    let variant = variant(pairs.is_some(), winners.is_some());
    let tile_q = query_tile(queries.packing, most_tokens(winners.is_some()));
    let variant = match gpu {
        Gpu::Cuda(_) => with_tile(variant, tile_q),
        Gpu::Wgpu(_) => with_tokens(variant, T::TYPE.name()),
    };
    // A GPU's limits cut the documents: on CUDA the blocks of one launch, on wgpu the memory of one binding, where a launch
    // passes over the pairs of others.
    let (across, at_once) = match (args.pairs, gpu) {
        (Pairs::All, Gpu::Cuda(_)) => (n_c, BLOCKS / n_q.max(1)),
        _ => (1, 1),
    };
    for first in (0..across).step_by(at_once.max(1)) {
        for bound in bounds(documents.packing, d * size_of::<T>(), gpu.max_binding()) {
            let count = match args.pairs {
                Pairs::All => n_q * bound.documents.len(),
                Pairs::Listed(list) => list.len(),
            };
            let blocks = match args.pairs {
                Pairs::All => n_q * (across - first).min(at_once),
                Pairs::Listed(list) => list.len(),
            };
            gpu.call(&Call {
                kernel: &MAXSIM,
                variant,
                args: &[
                    queries.rows.into(),
                    queries.packing.on_device().into(),
                    bound.of(documents.rows, d).into(),
                    documents.packing.on_device().into(),
                    pairs.into(),
                    (&mut scores).into(),
                    winners.as_mut().into(),
                    first.into(),
                    n_q.into(),
                    d.into(),
                    args.longest.into(),
                    u32::from(args.reduction == Reduction::Mean).into(),
                    count.into(),
                    n_c.into(),
                    bound.documents.start.into(),
                    bound.documents.end.into(),
                    bound.rows.start.into(),
                ],
                geometry: geometry(count, blocks, tile_q),
            })?;
        }
    }
    Ok(())
}
