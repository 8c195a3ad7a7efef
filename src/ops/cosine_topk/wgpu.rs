//! Search on wgpu: blocks of rows are scored, what reaches the threshold is listed, and a selection raises it.

use std::ops::Range;

use super::norms;
use super::{IN_WGSL, Search, TopK, store};
use crate::device::template::Variant;
use crate::device::{Buffer, Call, Geometry, Gpu, Kernel, Param, Slice};
use crate::error::Result;
use crate::ops::{ALIGN, grid, rows_per_binding};

pub(super) const SCORE: Kernel = Kernel {
    entry: "score",
    params: &[
        Param::read("rows"),
        Param::read("norms"),
        Param::read("queries"),
        Param::read("query_norms"),
        Param::write("state"),
        Param::write("list"),
        Param::read("admitted").optional(),
        Param::u32("n_rows"),
        Param::u32("first"),
        Param::u32("n_q"),
        Param::u32("d"),
        Param::u32("capacity"),
    ],
    ..IN_WGSL
};

/// What the two selecting kernels are given.
const SELECTED: &[Param] = &[
    Param::write("state"),
    Param::read("list"),
    Param::write("best"),
    Param::u32("k"),
    Param::u32("capacity"),
];

pub(super) const SELECT_BEST: Kernel = Kernel {
    entry: "select_best",
    params: SELECTED,
    ..IN_WGSL
};

pub(super) const SORT_BEST: Kernel = Kernel {
    entry: "sort_best",
    params: SELECTED,
    ..IN_WGSL
};

/// Rows of the first block on a GPU, and room in a candidate list beyond k: a block of so many rows cannot overflow.
const BLOCK: usize = 4096;

/// Queries searched at once on a GPU; bounds the candidate lists.
const QUERIES: usize = 128;

/// Rows scored by one workgroup: 64 invocations, 4 rows each.
const GROUP_ROWS: usize = 256;

/// Words of state per query: candidates offered, threshold, overflow.
pub(super) const STATE: usize = 4;

fn score_variant(queries: i64, filter: bool) -> Variant {
    Variant::new()
        .with("pass", "score")
        .with("queries", queries)
        .with("filter", filter)
}

fn sort_variant(size: usize) -> Variant {
    Variant::new()
        .with("pass", "sort")
        .with("size", size as i64)
}

pub(super) fn variants() -> Vec<Variant> {
    let mut passes = vec![select_variant()];
    for queries in [1, 4, 8] {
        passes.extend([true, false].map(|filter| score_variant(queries, filter)));
    }
    passes.extend((5..=11).map(|log| sort_variant(1 << log)));
    passes
}

fn select_variant() -> Variant {
    Variant::new().with("pass", "select")
}

pub(super) fn cosine_topk(gpu: Gpu<'_>, search: &Search<'_>, found: &mut TopK) -> Result<()> {
    let &Search {
        n_q, d, queries, ..
    } = search;
    let device = queries.device();
    for start in (0..n_q).step_by(QUERIES) {
        let tile = start..(start + QUERIES).min(n_q);
        // Buffers of their own: bindings need aligned offsets, which a range of queries has not.
        let mut own = device.alloc::<f32>(tile.len() * d)?;
        own.copy_from(0, queries.slice(tile.start * d..tile.end * d))?;
        let mut own_norms = device.alloc::<f32>(tile.len())?;
        norms::on_gpu(gpu, own.as_slice(), d, own_norms.as_slice_mut())?;
        let (own, own_norms) = (own.as_slice(), own_norms.as_slice());
        let complete = search_tile(gpu, search, own, own_norms, tile.clone(), true, found)?;
        if !complete {
            // A list overflowed: the corpus is ordered against us. Blocks that fit the lists always succeed.
            search_tile(gpu, search, own, own_norms, tile, false, found)?;
        }
    }
    Ok(())
}

/// Searches for the queries of one tile; `false` if a candidate list overflowed (only with growing blocks).
fn search_tile(
    gpu: Gpu<'_>,
    search: &Search<'_>,
    queries: Slice<'_, f32>,
    query_norms: Slice<'_, f32>,
    tile: Range<usize>,
    growing: bool,
    found: &mut TopK,
) -> Result<bool> {
    let &Search { d, k, .. } = search;
    let device = queries.device();
    let n_q = tile.len();
    let capacity = (k + BLOCK).next_multiple_of(2);
    let mut lists = [
        device.alloc::<u32>(n_q * capacity * 2)?,
        device.alloc::<u32>(n_q * capacity * 2)?,
    ];
    let lowest = (-3.0e38f32).to_bits();
    let mut state = device.upload(&[0, lowest, 0, 0].repeat(n_q))?;
    let per_invocation = match n_q {
        1 => 1,
        2..=4 => 4,
        _ => 8,
    };
    let mut seen = 0;
    for (base, shard) in search.placed() {
        let n = shard.n;
        let mut start = 0;
        while start < n {
            let rows = if growing { seen.max(BLOCK) } else { BLOCK };
            let rows = (rows / ALIGN * ALIGN)
                .min(rows_per_binding(gpu, 2 * d))
                .min(n - start);
            let range = start..start + rows;
            let [from, to] = &mut lists;
            let [x, y, _] = grid(rows.div_ceil(GROUP_ROWS));
            gpu.call(&Call {
                kernel: &SCORE,
                variant: score_variant(per_invocation, search.filter.is_some()),
                args: &[
                    shard.rows.slice(range.start * d..range.end * d).into(),
                    shard.inverse_norms.slice(range).into(),
                    queries.into(),
                    query_norms.into(),
                    (&mut state.as_slice_mut()).into(),
                    (&mut from.as_slice_mut()).into(),
                    search.filter.into(),
                    rows.into(),
                    (base + start).into(),
                    n_q.into(),
                    d.into(),
                    capacity.into(),
                ],
                geometry: Geometry {
                    groups: [x, y, n_q.div_ceil(per_invocation as usize) as u32],
                    ..Geometry::default()
                },
            })?;
            select(gpu, &mut state, from, to, capacity, k)?;
            lists.swap(0, 1);
            seen += rows;
            start += rows;
        }
    }
    let results = sort(gpu, &mut state, &lists[0], capacity, k)?;
    if state.read()?.chunks_exact(STATE).any(|s| s[2] != 0) {
        return Ok(false);
    }
    store(&results.read()?, tile.start, found);
    Ok(true)
}

/// One workgroup per query.
fn per_query(state: &Buffer<u32>) -> Geometry {
    Geometry {
        groups: [(state.len() / STATE) as u32, 1, 1],
        ..Geometry::default()
    }
}

/// Enqueues the selection of the best `k` of the lists `from` `[n_q, capacity]` of (score bits, id), whose lengths `state`
/// has, into `to`, in any order.
pub(super) fn select(
    gpu: Gpu<'_>,
    state: &mut Buffer<u32>,
    from: &Buffer<u32>,
    to: &mut Buffer<u32>,
    capacity: usize,
    k: usize,
) -> Result<()> {
    let geometry = per_query(state);
    gpu.call(&Call {
        kernel: &SELECT_BEST,
        variant: select_variant(),
        args: &[
            (&mut state.as_slice_mut()).into(),
            from.as_slice().into(),
            (&mut to.as_slice_mut()).into(),
            k.into(),
            capacity.into(),
        ],
        geometry,
    })
}

/// Enqueues the sorting of lists of at most `k`; the result is `[n_q, k]`.
pub(super) fn sort(
    gpu: Gpu<'_>,
    state: &mut Buffer<u32>,
    list: &Buffer<u32>,
    capacity: usize,
    k: usize,
) -> Result<Buffer<u32>> {
    let geometry = per_query(state);
    let mut best = state.device().alloc::<u32>(state.len() / STATE * k * 2)?;
    gpu.call(&Call {
        kernel: &SORT_BEST,
        variant: sort_variant(k.next_power_of_two().max(32)),
        args: &[
            (&mut state.as_slice_mut()).into(),
            list.as_slice().into(),
            (&mut best.as_slice_mut()).into(),
            k.into(),
            capacity.into(),
        ],
        geometry,
    })?;
    Ok(best)
}
