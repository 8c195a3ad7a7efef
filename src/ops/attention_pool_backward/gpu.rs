//! Launches of `attention_pool_backward.ptx` and `attention_pool_backward.wgsl`.

use super::{Args, Forward, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::attention::gpu::mask_numbers;
use crate::ops::attention_pool::{geometry, ptx_sizes, size, wgsl_sizes};
use crate::ops::in_every_tier;

pub(super) const ATTENTION_POOL_BACKWARD: Kernel = Kernel {
    entry: "attention_pool_backward",
    params: &[
        Param::read("queries"),
        Param::read("rows"),
        Param::read("offsets"),
        Param::read("origins").optional(),
        Param::read("probabilities"),
        Param::read("d_out"),
        Param::write("d_queries"),
        Param::write("d_rows"),
        Param::u32("d"),
        Param::f32("scale"),
        Param::u32("threshold"),
        Param::f32("kept"),
        Param::u32("key_0"),
        Param::u32("key_1"),
        Param::u32("texts").wgsl(),
    ],
    ptx: Some(Source {
        file: "attention_pool_backward.ptx",
        text: include_str!("../../../kernels/attention_pool_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "attention_pool_backward.wgsl",
        text: include_str!("../../../shaders/attention_pool_backward.wgsl"),
    }),
};

pub(super) fn ptx_variants() -> Vec<Variant> {
    ptx_sizes()
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    in_every_tier(wgsl_sizes())
}

pub(super) fn attention_pool_backward<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, A>,
    mut d_queries: SliceMut<'_, A>,
    mut d_rows: SliceMut<'_, f32>,
) -> Result<()> {
    let &Forward {
        queries,
        rows,
        texts,
        d,
        scale,
        probabilities,
        ..
    } = args.forward;
    let n = texts.texts();
    let variant = size::<A>(&SPEC, gpu, d_rows.device(), d, args.mask.is_some())?;
    let (mask, origins) = args.mask.unzip();
    let (threshold, kept, key) = mask_numbers(mask);
    gpu.call(&Call {
        kernel: &ATTENTION_POOL_BACKWARD,
        variant,
        args: &[
            queries.into(),
            rows.into(),
            texts.on_device().into(),
            origins.into(),
            probabilities.into(),
            args.d_out.into(),
            (&mut d_queries).into(),
            (&mut d_rows).into(),
            d.into(),
            scale.into(),
            threshold.into(),
            kept.into(),
            key[0].into(),
            key[1].into(),
            n.into(),
        ],
        geometry: geometry(n, d),
    })
}
