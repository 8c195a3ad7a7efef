//! Search on CUDA: one launch over the corpus, in which blocks share bins of scores, and one that merges their lists.

use std::ops::Range;

use half::f16;

use super::{IN_PTX, Search, Shard};
use crate::device::template::Variant;
use crate::device::{Buffer, Call, Cuda, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;

pub(super) const SPLIT_QUERIES: Kernel = Kernel {
    entry: "split_queries",
    params: &[
        Param::read("queries"),
        Param::write("panels"),
        Param::write("state"),
        Param::u32("n_q"),
        Param::u32("queries_tile"),
        Param::u32("d"),
    ],
    ..IN_PTX
};

pub(super) const SEARCH: Kernel = Kernel {
    entry: "search",
    params: &[
        Param::read("rows"),
        Param::read("norms"),
        Param::read("panels"),
        Param::read("admitted").optional(),
        Param::write("state"),
        Param::write("counts"),
        Param::write("lists"),
        Param::write("merged"),
        Param::u32("n"),
        Param::u32("d"),
        Param::u32("first"),
        Param::u32("n_q"),
        Param::u32("k"),
        Param::u32("capacity"),
        Param::u32("merged_capacity"),
        Param::u32("begins"),
        Param::u32("ends"),
    ],
    ..IN_PTX
};

pub(super) const MERGE: Kernel = Kernel {
    entry: "merge",
    params: &[
        Param::read("state"),
        Param::read("merged"),
        Param::write("best"),
        Param::u32("k"),
        Param::u32("size"),
        Param::u32("capacity"),
    ],
    ..IN_PTX
};

/// Queries that one launch of the PTX kernel multiplies with the corpus: a template value.
const QUERIES: [usize; 3] = [8, 16, 32];

/// Rows that a block of the PTX kernel scores at a time.
const TILE: usize = 128;

/// Places in a block's list beyond k: those that its kernel wants free before each tile, and twice as many to spare,
/// so that a list is cut rarely.
const SPARE: usize = 3 * TILE;

/// Words of state per query: 256 bins, the length of the merged list, and padding.
pub(super) const STATE: usize = 264;

/// Device memory that lists may take; bounds the number of blocks.
const LISTS: usize = 256 << 20;

/// Rows of one launch, at most: row numbers of all blocks stay clear of 2^32.
const PIECE: usize = 1 << 31;

fn pass(pass: &'static str) -> Variant {
    Variant::new().with("pass", pass)
}

fn search_variant(queries: usize, filter: bool) -> Variant {
    pass("search")
        .with("queries", queries as i64)
        .with("filter", filter)
}

pub(super) fn variants() -> Vec<Variant> {
    let mut variants = vec![pass("prepare"), pass("merge")];
    for queries in QUERIES {
        variants.extend([true, false].map(|filter| search_variant(queries, filter)));
    }
    variants
}

/// Enqueues the search; leaves (score bits, id) pairs, `k` per query.
pub(super) fn cosine_topk(cuda: &Cuda, search: &Search<'_>) -> Result<Buffer<u32>> {
    let &Search { n_q, d, k, .. } = search;
    let (gpu, device) = (Gpu::Cuda(cuda), search.queries.device());
    let most = QUERIES[QUERIES.len() - 1];
    let width = QUERIES
        .into_iter()
        .find(|&queries| queries >= n_q)
        .unwrap_or(most);
    let capacity = k + SPARE;
    // The most that a block can have left at the end.
    let kept = capacity - TILE;
    let largest = search.shards.iter().map(|s| s.n).max().unwrap_or(0);
    let blocks = (4 * cuda.multiprocessors() as usize)
        .min(largest.div_ceil(TILE))
        .min(LISTS / (8 * width * (capacity + kept)))
        .max(1);

    let mut panels = device.alloc::<f16>(2 * width * d)?;
    let mut state = device.alloc::<u32>(width * STATE)?;
    let mut counts = device.alloc::<u32>(blocks * width)?;
    let mut lists = device.alloc::<u32>(2 * blocks * width * capacity)?;
    let mut merged = device.alloc::<u32>(2 * width * blocks * kept)?;
    let mut best = device.alloc::<u32>(2 * n_q * k)?;
    let pieces: Vec<(usize, &Shard<'_>, Range<usize>)> = search
        .placed()
        .flat_map(|(base, shard)| {
            let starts = (0..shard.n).step_by(PIECE);
            starts.map(move |start| (base, shard, start..(start + PIECE).min(shard.n)))
        })
        .collect();
    for start in (0..n_q).step_by(width) {
        let tile = start..(start + width).min(n_q);
        gpu.call(&Call {
            kernel: &SPLIT_QUERIES,
            variant: pass("prepare"),
            args: &[
                search.queries.slice(tile.start * d..tile.end * d).into(),
                (&mut panels.as_slice_mut()).into(),
                (&mut state.as_slice_mut()).into(),
                tile.len().into(),
                width.into(),
                d.into(),
            ],
            geometry: Geometry {
                grid: [(width / 4) as u32, 1, 1],
                threads: 128,
                ..Geometry::default()
            },
        })?;
        for (i, (base, shard, range)) in pieces.iter().enumerate() {
            gpu.call(&Call {
                kernel: &SEARCH,
                variant: search_variant(width, search.filter.is_some()),
                args: &[
                    shard.rows.slice(range.start * d..range.end * d).into(),
                    shard.inverse_norms.slice(range.clone()).into(),
                    panels.as_slice().into(),
                    search.filter.into(),
                    (&mut state.as_slice_mut()).into(),
                    (&mut counts.as_slice_mut()).into(),
                    (&mut lists.as_slice_mut()).into(),
                    (&mut merged.as_slice_mut()).into(),
                    range.len().into(),
                    d.into(),
                    (base + range.start).into(),
                    tile.len().into(),
                    k.into(),
                    capacity.into(),
                    (blocks * kept).into(),
                    u32::from(i == 0).into(),
                    u32::from(i + 1 == pieces.len()).into(),
                ],
                geometry: Geometry {
                    grid: [blocks as u32, 1, 1],
                    threads: 128,
                    // Four stages of 32 of d: the rows, and both parts of the queries.
                    shared_bytes: (4 * (TILE + 2 * width) * 64) as u32,
                    ..Geometry::default()
                },
            })?;
        }
        let mut best = best.as_slice_mut();
        let best = best.slice_mut(2 * tile.start * k..2 * tile.end * k);
        merge(gpu, &state, &merged, best, blocks * kept, k)?;
    }
    Ok(best)
}

/// Enqueues the selection of the best `k` of lists `[n_q, capacity]` of (score bits, id), whose lengths `state` has, into
/// `best` `[n_q, k]`, sorted.
pub(super) fn merge(
    gpu: Gpu<'_>,
    state: &Buffer<u32>,
    lists: &Buffer<u32>,
    mut best: SliceMut<'_, u32>,
    capacity: usize,
    k: usize,
) -> Result<()> {
    let n_q = best.len() / (2 * k);
    gpu.call(&Call {
        kernel: &MERGE,
        variant: pass("merge"),
        args: &[
            state.as_slice().into(),
            lists.as_slice().into(),
            (&mut best).into(),
            k.into(),
            k.next_power_of_two().max(2).into(),
            capacity.into(),
        ],
        geometry: Geometry {
            grid: [n_q as u32, 1, 1],
            threads: 256,
            ..Geometry::default()
        },
    })
}
