//! Launches of `attention_pool.ptx` and `attention_pool.wgsl`.

use super::{Args, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Device, ElementType, Float, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::attention::gpu::mask_numbers;
use crate::ops::{FLOATS, OpSpec, grid, in_every_tier};

pub(super) const ATTENTION_POOL: Kernel = Kernel {
    entry: "attention_pool",
    params: &[
        Param::read("queries"),
        Param::read("rows"),
        Param::read("offsets"),
        Param::read("origins").optional(),
        Param::write("probabilities").optional(),
        Param::write("out"),
        Param::u32("d"),
        Param::f32("scale"),
        Param::u32("threshold"),
        Param::f32("kept"),
        Param::u32("key_0"),
        Param::u32("key_1"),
        Param::u32("texts").wgsl(),
    ],
    ptx: Some(Source {
        file: "attention_pool.ptx",
        text: include_str!("../../../kernels/attention_pool.ptx"),
    }),
    wgsl: Some(Source {
        file: "attention_pool.wgsl",
        text: include_str!("../../../shaders/attention_pool.wgsl"),
    }),
};

/// What a lane of the PTX kernels holds of a row, in units of 128 elements.
const PTX_SIZES: [usize; 3] = [3, 6, 8];

/// What an invocation of the shaders holds of a row, in units of 256 elements.
const WGSL_SIZES: [usize; 2] = [2, 4];

/// The longest row that either holds in registers.
const LONGEST_ROW: usize = 1024;

/// Threads of a block of the PTX kernels: four warps.
pub(in crate::ops) const BLOCK: usize = 128;

/// Variants for the sizes of the PTX kernels, without and with dropout.
pub(in crate::ops) fn ptx_sizes() -> Vec<Variant> {
    let sizes = PTX_SIZES.map(|n| Variant::new().with("chunks", n as i64));
    [false, true]
        .iter()
        .flat_map(|&dropout| sizes.map(|variant| variant.with("dropout", dropout)))
        .collect()
}

/// The same of the shaders, for either element type.
pub(in crate::ops) fn wgsl_sizes() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in FLOATS {
        for steps in WGSL_SIZES {
            for dropout in [false, true] {
                let variant = Variant::new().with("steps", steps as i64);
                all.push(variant.with("dropout", dropout).with("act", act.name()));
            }
        }
    }
    all
}

/// The one of them for rows of `d` elements of type `A`.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for rows that are too long, and on CUDA for another type than f16.
pub(in crate::ops) fn size<A: Float>(
    spec: &OpSpec,
    gpu: Gpu<'_>,
    device: &Device,
    d: usize,
    dropout: bool,
) -> Result<Variant> {
    if d > LONGEST_ROW {
        let why = format!("a row has {d} elements, at most {LONGEST_ROW} fit");
        return Err(spec.unsupported(device, &why));
    }
    let variant = Variant::new().with("dropout", dropout);
    let least = |sizes: &[usize], unit: usize| {
        let fits = sizes.iter().find(|&&n| d <= unit * n);
        *fits.expect("the largest holds the longest row") as i64
    };
    match gpu {
        Gpu::Cuda(_) if A::TYPE != ElementType::F16 => {
            Err(spec.unsupported(device, "its kernel reads f16 activations"))
        }
        Gpu::Cuda(_) => Ok(variant.with("chunks", least(&PTX_SIZES, 128))),
        Gpu::Wgpu(_) => {
            let variant = variant.with("act", A::TYPE.name());
            Ok(variant.with("steps", least(&WGSL_SIZES, 256)))
        }
    }
}

fn saving(variants: Vec<Variant>) -> Vec<Variant> {
    let both = |variant: Variant| [false, true].map(|saving| variant.with("saving", saving));
    variants.into_iter().flat_map(both).collect()
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    saving(ptx_sizes())
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    in_every_tier(saving(wgsl_sizes()))
}

/// A block or workgroup for each of `n` texts; the four warps of a block leave sums of `d` columns.
pub(in crate::ops) fn geometry(n: usize, d: usize) -> Geometry {
    Geometry {
        groups: grid(n),
        grid: [n as u32, 1, 1],
        threads: BLOCK as u32,
        shared_bytes: (BLOCK / 32 * d * 4) as u32,
    }
}

pub(super) fn attention_pool<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, A>,
    mut probabilities: Option<SliceMut<'_, f32>>,
    mut out: SliceMut<'_, A>,
) -> Result<()> {
    let &Args {
        queries,
        rows,
        texts,
        d,
        scale,
        mask,
    } = args;
    let n = texts.texts();
    let variant = size::<A>(&SPEC, gpu, out.device(), d, mask.is_some())?;
    let (mask, origins) = mask.unzip();
    let (threshold, kept, key) = mask_numbers(mask);
    gpu.call(&Call {
        kernel: &ATTENTION_POOL,
        variant: variant.with("saving", probabilities.is_some()),
        args: &[
            queries.into(),
            rows.into(),
            texts.on_device().into(),
            origins.into(),
            probabilities.as_mut().into(),
            (&mut out).into(),
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
