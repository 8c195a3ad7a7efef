//! Launches of `matmul_tn.ptx` and `matmul_tn.wgsl`: the product, in parts where that keeps the device busy, and then what
//! adds up the parts.

use super::{Dims, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Buffer, Call, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::{FLOATS, grid, in_every_tier};

const IN_FILES: Kernel = Kernel {
    entry: "",
    params: &[],
    ptx: Some(Source {
        file: "matmul_tn.ptx",
        text: include_str!("../../../kernels/matmul_tn.ptx"),
    }),
    wgsl: Some(Source {
        file: "matmul_tn.wgsl",
        text: include_str!("../../../shaders/matmul_tn.wgsl"),
    }),
};

pub(super) const MATMUL_TN: Kernel = Kernel {
    entry: "matmul_tn",
    params: &[
        Param::read("a"),
        Param::read("b"),
        Param::write("c").optional(),
        Param::write("partials").optional(),
        Param::write("sum_partials").optional(),
        Param::u32("t"),
        Param::u32("n"),
        Param::u32("k"),
        Param::u32("rows"),
    ],
    ..IN_FILES
};

pub(super) const ADD_PARTIALS: Kernel = Kernel {
    entry: "add_partials",
    params: &[
        Param::read("partials").optional(),
        Param::read("sum_partials").optional(),
        Param::write("c").optional(),
        Param::write("column_sums").optional(),
        Param::u32("size"),
        Param::u32("parts"),
        Param::u32("n"),
        Param::u32("sum_parts"),
    ],
    ..IN_FILES
};

fn product(split: bool, sums: bool) -> Variant {
    Variant::new()
        .with("pass", "product")
        .with("split", split)
        .with("sums", sums)
}

fn add() -> Variant {
    Variant::new().with("pass", "add")
}

/// The same for a shader, which has only what it adds to.
fn add_wgsl(split: bool, sums: bool) -> Variant {
    add().with("split", split).with("sums", sums)
}

fn product_wgsl(split: bool, sums: bool, input: &'static str, staged: bool) -> Variant {
    product(split, sums)
        .with("input", input)
        .with("staged", staged)
}

/// Whether the sum is split, and whether there are column sums.
const FORMS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

pub(super) fn ptx_variants() -> Vec<Variant> {
    let mut all = vec![add()];
    all.extend(FORMS.map(|(split, sums)| product(split, sums)));
    all
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let adds = FORMS.iter().filter(|&&(split, sums)| split || sums);
    let mut all: Vec<Variant> = adds.map(|&(split, sums)| add_wgsl(split, sums)).collect();
    for staged in [true, false] {
        for input in FLOATS {
            let of = |(split, sums)| product_wgsl(split, sums, input.name(), staged);
            all.extend(FORMS.map(of));
        }
    }
    in_every_tier(all)
}

/// Rows, columns of `a` or columns of `b` of one launch, at most: their numbers stay below 2^32.
const MOST: usize = (1 << 31) - 256;

/// How the rows of a product are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    count: usize,
    /// Rows of each but the last.
    rows: usize,
}

impl Parts {
    /// Rows that a block multiplies in the time that it takes to begin, and to write its outputs for another to add.
    const OVERHEAD: usize = 128;

    /// The parts, `most` at most, that end first if `tiles` blocks a part run `at_once` at a time.
    fn choose(t: usize, tiles: usize, at_once: usize, most: usize) -> Self {
        let most = most.min(t.div_ceil(2 * Self::OVERHEAD)).max(1);
        let parts = (1..=most).map(|count| {
            let rows = t.div_ceil(count).next_multiple_of(32);
            let count = t.div_ceil(rows);
            Parts { count, rows }
        });
        let time =
            |parts: &Parts| (tiles * parts.count).div_ceil(at_once) * (parts.rows + Self::OVERHEAD);
        // The fewest of those that take equally long.
        parts.min_by_key(time).expect("there is at least one")
    }
}

/// Parts, at most.
const MOST_PARTS: usize = 64;

/// Workgroups that a GPU behind wgpu, which does not say, is taken to run at a time.
const GROUPS: usize = 256;

pub(super) fn matmul_tn<A: Float>(
    gpu: Gpu<'_>,
    a: Slice<'_, A>,
    b: Slice<'_, A>,
    mut c: SliceMut<'_, f32>,
    mut column_sums: Option<SliceMut<'_, f32>>,
    dims: Dims,
) -> Result<()> {
    let Dims { t, n, k } = dims;
    if t == 0 {
        return Ok(());
    }
    let device = c.device();
    // Outputs of one block: tile x tile.
    let (tile, at_once) = match gpu {
        Gpu::Cuda(cuda) => (128, cuda.multiprocessors() as usize),
        Gpu::Wgpu(_) => (64, GROUPS),
    };
    let (tiles_n, tiles_k) = (n.div_ceil(tile), k.div_ceil(tile));
    let tiles = tiles_n * tiles_k;
    let bound = usize::try_from(gpu.max_binding()).unwrap_or(usize::MAX) / (4 * n * k);
    let parts = Parts::choose(t, tiles, at_once, MOST_PARTS.min(bound));
    let blocks = tiles * parts.count;
    if t.max(n).max(k) >= MOST || blocks >= 1 << 31 {
        let why = format!("the product of {t} rows of {n} and {k} is too large for one launch");
        return Err(SPEC.unsupported(device, &why));
    }
    let (split, sums) = (parts.count > 1, column_sums.is_some());
    let (variant, adding, sum_parts) = match gpu {
        // The blocks that read the same columns of `a` share the work of their sums.
        Gpu::Cuda(_) => (product(split, sums), add(), parts.count * tiles_k),
        Gpu::Wgpu(wgpu) => {
            let variant = product_wgsl(split, sums, A::TYPE.name(), wgpu.staged());
            (variant, add_wgsl(split, sums), parts.count)
        }
    };
    let scratch = |wanted: bool, len: usize| -> Result<Option<Buffer<f32>>> {
        wanted.then(|| device.alloc(len)).transpose()
    };
    let mut partials = scratch(split, parts.count * n * k)?;
    let mut sum_partials = scratch(sums, sum_parts * n)?;
    gpu.call(&Call {
        kernel: &MATMUL_TN,
        variant,
        args: &[
            a.into(),
            b.into(),
            (!split).then_some(&mut c).into(),
            partials.as_mut().map(Buffer::as_slice_mut).as_mut().into(),
            sum_partials
                .as_mut()
                .map(Buffer::as_slice_mut)
                .as_mut()
                .into(),
            t.into(),
            n.into(),
            k.into(),
            parts.rows.into(),
        ],
        geometry: Geometry {
            groups: grid(blocks),
            grid: [blocks as u32, 1, 1],
            threads: 256,
            shared_bytes: 49_152,
        },
    })?;
    if !split && !sums {
        return Ok(());
    }
    let size = if split { n * k } else { 0 };
    let width = if sums { n } else { 0 };
    let blocks = (size + width).div_ceil(4 * 256);
    gpu.call(&Call {
        kernel: &ADD_PARTIALS,
        variant: adding,
        args: &[
            partials.as_ref().map(Buffer::as_slice).into(),
            sum_partials.as_ref().map(Buffer::as_slice).into(),
            split.then_some(&mut c).into(),
            column_sums.as_mut().into(),
            size.into(),
            parts.count.into(),
            width.into(),
            sum_parts.into(),
        ],
        geometry: Geometry {
            groups: grid(blocks),
            grid: [blocks as u32, 1, 1],
            threads: 256,
            shared_bytes: 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_rows_and_fill_the_device() {
        for t in [1, 31, 32, 33, 257, 1023, 4096, 32_768, 100_001] {
            for tiles in [1, 9, 36, 144, 1000] {
                for multiprocessors in [1, 4, 132] {
                    let Parts { count, rows } = Parts::choose(t, tiles, multiprocessors, 64);
                    assert!(rows.is_multiple_of(32) && count * rows >= t && (count - 1) * rows < t);
                }
            }
        }
        // All 132 multiprocessors have a block, and none has two more than another.
        assert_eq!(Parts::choose(32_768, 9, 132, 64).count, 14);
        // Too little to split, too much without, and no room.
        assert_eq!(Parts::choose(100, 9, 132, 64).count, 1);
        assert_eq!(Parts::choose(32_768, 1000, 1, 64).count, 1);
        assert_eq!(Parts::choose(32_768, 9, 132, 0).count, 1);
    }
}
