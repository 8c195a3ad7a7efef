//! Launches of `pool.ptx` and `pool.wgsl`.

use super::{Args, Pooling, SPEC, rows};
use crate::device::template::{Source, Variant};
use crate::device::{Call, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::{Error, Result};
use crate::ops::{FLOATS, grid, in_every_tier};

pub(super) const POOL: Kernel = Kernel {
    entry: "pool",
    params: &[
        Param::read("rows"),
        Param::read("offsets"),
        Param::write("e"),
        Param::u32("d"),
        Param::u32("width").ptx(),
        Param::u32("groups").ptx(),
        Param::u32("texts").wgsl(),
    ],
    ptx: Some(Source {
        file: "pool.ptx",
        text: include_str!("../../../kernels/pool.ptx"),
    }),
    wgsl: Some(Source {
        file: "pool.wgsl",
        text: include_str!("../../../shaders/pool.wgsl"),
    }),
};

pub(super) const POOL_SLICES: Kernel = Kernel {
    entry: "pool_slices",
    params: &[
        Param::read("h"),
        Param::read("offsets"),
        Param::write("sums"),
        Param::u32("d"),
        Param::u32("width"),
        Param::u32("groups"),
        Param::u32("chunks"),
    ],
    wgsl: None,
    ..POOL
};

/// Largest width of the shader, which keeps a pooled row in workgroup memory.
const MAX_WIDTH_WGSL: usize = 2048;

/// Largest width of the PTX kernel: a pooled row and 32 bytes more in the 48 KiB of shared memory that a kernel gets
/// without asking.
pub(super) const MAX_WIDTH_PTX: usize = (48 * 1024 - 32) / 4;

fn variant(output: ElementType, pooling: Pooling, normalize: bool) -> Variant {
    Variant::new()
        .with("output", output.name())
        .with("pooling", pooling.name())
        .with("normalize", normalize)
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for output in FLOATS {
        for pooling in [Pooling::Mean, Pooling::First] {
            all.extend([true, false].map(|normalize| variant(output, pooling, normalize)));
        }
    }
    in_every_tier(all)
}

/// The entry `pool_slices` of the PTX template.
fn slices_variant() -> Variant {
    Variant::new().with("stage", "slices")
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    let mut all = vec![slices_variant()];
    for output in FLOATS {
        for normalize in [true, false] {
            // The first row alone needs no second stage.
            for (stage, pooling) in [
                ("direct", Pooling::Mean),
                ("direct", Pooling::First),
                ("finish", Pooling::Mean),
            ] {
                all.push(variant(output, pooling, normalize).with("stage", stage));
            }
        }
    }
    all
}

/// Rows that a thread of the PTX kernel adds up one by one; a text's sum is a tree over such slices.
const SLICE: usize = 8;

/// Threads in a block of the PTX kernel.
const BLOCK: usize = 256;

/// Slices that one thread of the PTX kernel adds up one after the other before two stages are the shorter way: a slice
/// takes about as long as its loads, a second launch and its round trip through memory as long as a few of them.
const PATIENCE: usize = 8;

pub(super) fn pool<T: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_>,
    mut out: SliceMut<'_, T>,
) -> Result<()> {
    let &Args {
        h,
        texts,
        pooling,
        normalize,
        d,
    } = args;
    let n = texts.texts();
    // A thread of the PTX kernel takes four elements of a row; short rows leave room for several groups of threads.
    let width = (d / 4).min(BLOCK);
    let groups = BLOCK / width;
    let mut pool = |rows: Slice<'_, f32>, stage: Option<&'static str>| {
        let variant = variant(T::TYPE, pooling, normalize);
        gpu.call(&Call {
            kernel: &POOL,
            variant: stage.map_or(variant, |stage| variant.with("stage", stage)),
            args: &[
                rows.into(),
                texts.on_device().into(),
                (&mut out).into(),
                d.into(),
                width.into(),
                groups.into(),
                n.into(),
            ],
            geometry: Geometry {
                groups: grid(n),
                grid: [n as u32, 1, 1],
                threads: BLOCK as u32,
                shared_bytes: (groups * d * 4) as u32,
            },
        })
    };
    let Gpu::Cuda(device) = gpu else {
        check_max_width(d, MAX_WIDTH_WGSL)?;
        return pool(h, None);
    };
    check_max_width(d, MAX_WIDTH_PTX)?;
    let lengths = texts.offsets().windows(2);
    let longest = lengths.map(|span| rows(span, pooling).len()).max();
    let chunks = longest.unwrap_or(0).div_ceil(SLICE).div_ceil(groups);
    // One block per text is enough where the texts fill the device or are short; the bits are the same either way.
    if n >= device.multiprocessors() as usize || chunks <= PATIENCE {
        return pool(h, Some("direct"));
    }
    let slices = texts.tokens() / SLICE + n;
    let mut sums = h.device().alloc::<f32>(slices * d)?;
    gpu.call(&Call {
        kernel: &POOL_SLICES,
        variant: slices_variant(),
        args: &[
            h.into(),
            texts.on_device().into(),
            (&mut sums.as_slice_mut()).into(),
            d.into(),
            width.into(),
            groups.into(),
            chunks.into(),
        ],
        geometry: Geometry {
            grid: [(n * chunks) as u32, 1, 1],
            threads: (width * groups) as u32,
            ..Geometry::default()
        },
    })?;
    pool(sums.as_slice(), Some("finish"))
}

fn check_max_width(d: usize, limit: usize) -> Result<()> {
    if d > limit {
        return Err(Error::shape(SPEC.name, "d", format!("at most {limit}"), d));
    }
    Ok(())
}
