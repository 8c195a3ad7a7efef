//! Launches of `soft_alignment.ptx` and `soft_alignment.wgsl`.

use super::{Args, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::token_pairs::{bounds, geometry};

pub(super) const SOFT_ALIGNMENT: Kernel = Kernel {
    entry: "soft_alignment",
    params: &[
        Param::read("queries"),
        Param::read("query_offsets"),
        Param::read("documents"),
        Param::read("document_offsets"),
        Param::read("pairs"),
        Param::write("scores"),
        Param::u32("d"),
        Param::u32("band"),
        Param::f32("distance"),
        Param::f32("temperature"),
        Param::f32("monotonicity"),
        Param::u32("count").wgsl(),
        Param::u32("first_document").wgsl(),
        Param::u32("end_document").wgsl(),
        Param::u32("first_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "soft_alignment.ptx",
        text: include_str!("../../../kernels/soft_alignment.ptx"),
    }),
    wgsl: Some(Source {
        file: "soft_alignment.wgsl",
        text: include_str!("../../../shaders/soft_alignment.wgsl"),
    }),
};

pub(super) fn wgsl_variant(tokens: &'static str) -> Variant {
    Variant::new().with("tokens", tokens)
}

pub(super) fn ptx_variant(monotone: bool) -> Variant {
    Variant::new().with("monotone", monotone)
}

pub(super) fn soft_alignment<T: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, T>,
    mut scores: SliceMut<'_, f32>,
) -> Result<()> {
    let (d, alignment) = (args.d, args.alignment);
    let (queries, documents) = (args.queries, args.documents);
    let (n_q, n_c) = (queries.packing.texts(), documents.packing.texts());
    let pairs = args.pairs.among(SPEC.name, n_q, n_c)?;
    let count = args.pairs.len();
    let variant = match gpu {
        Gpu::Cuda(_) => ptx_variant(alignment.monotonicity > 0.0),
        Gpu::Wgpu(_) => wgsl_variant(T::TYPE.name()),
    };
    // Documents beyond one binding go in turns; a launch passes over the pairs of others.
    for bound in bounds(documents.packing, d * size_of::<T>(), gpu.max_binding()) {
        gpu.call(&Call {
            kernel: &SOFT_ALIGNMENT,
            variant,
            args: &[
                queries.rows.into(),
                queries.packing.on_device().into(),
                bound.of(documents.rows, d).into(),
                documents.packing.on_device().into(),
                pairs.into(),
                (&mut scores).into(),
                d.into(),
                alignment.widest().into(),
                alignment.distance.into(),
                alignment.temperature.into(),
                alignment.monotonicity.into(),
                count.into(),
                bound.documents.start.into(),
                bound.documents.end.into(),
                bound.rows.start.into(),
            ],
            geometry: geometry(count, count, 32),
        })?;
    }
    Ok(())
}
