//! Launches of `maxsim.ptx` and `maxsim.wgsl`.

use super::{Args, Reduction, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::token_pairs::{bounds, geometry};
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
        Param::u32("d"),
        Param::u32("longest"),
        Param::u32("mean"),
        Param::u32("count").wgsl(),
        Param::u32("n_documents").wgsl(),
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

pub(super) fn ptx_variants() -> Vec<Variant> {
    let both = [false, true];
    let all = both.map(|listed| both.map(|winners| variant(listed, winners)));
    all.into_iter().flatten().collect()
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let of = |tokens: &'static str| {
        ptx_variants()
            .into_iter()
            .map(move |variant| variant.with("tokens", tokens))
    };
    in_every_tier(FLOATS.into_iter().flat_map(|tokens| of(tokens.name())))
}

/// Blocks of a PTX launch in y, at most.
const GRID_Y: usize = 65_535;

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
    let (across, down) = match args.pairs {
        Pairs::All => (n_c, n_q),
        Pairs::Listed(list) => (list.len(), 1),
    };
    let variant = match gpu {
        Gpu::Cuda(_) => variant,
        Gpu::Wgpu(_) => variant.with("tokens", T::TYPE.name()),
    };
    // A GPU's limits on what one launch can do cut the work: on CUDA queries, on wgpu documents beyond one binding, where
    // a launch passes over the pairs of others.
    for first in (0..down).step_by(gpu.cuda().map_or(down.max(1), |_| GRID_Y)) {
        for bound in bounds(documents.packing, d * size_of::<T>(), gpu.max_binding()) {
            let count = match args.pairs {
                Pairs::All => n_q * bound.documents.len(),
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
                    d.into(),
                    args.longest.into(),
                    u32::from(args.reduction == Reduction::Mean).into(),
                    count.into(),
                    n_c.into(),
                    bound.documents.start.into(),
                    bound.documents.end.into(),
                    bound.rows.start.into(),
                ],
                geometry: geometry(count, [across as u32, (down - first).min(GRID_Y) as u32, 1]),
            })?;
        }
    }
    Ok(())
}
