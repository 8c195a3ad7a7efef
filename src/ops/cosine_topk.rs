//! `ids, scores = the k rows of a corpus with the largest cosine to each query`
//!
//! Exact search in one pass over an f16 corpus: normalise, dot, select. Scores are never stored: each device keeps, per
//! query, a bounded list of candidates and a threshold (the k-th best so far) that a new score must reach. Ties go to
//! the lowest id, so the result does not depend on the order of evaluation. Cost: `2 n_q n d` FLOP against
//! `2 n d` bytes of corpus; memory `O(n_q (k + const))`, whatever the corpus.
//!
//! * **CPU**: blocks of rows are widened to f32 in cache, multiplied with all queries at once, and gated.
//! * **wgpu**: the corpus is walked in blocks; a block's scores that reach the threshold are appended to the query's
//!   candidate list, then a radix select keeps the best k and raises the threshold. Blocks double in size, since the
//!   expected number of admitted rows stays near k. Should an ordered corpus overflow a list, the search is repeated
//!   with blocks that cannot.
//! * **CUDA**: one launch over the corpus. Every block keeps a list per query, and all blocks count what they find in
//!   shared bins of scores: once the bins from some edge up hold k rows, nothing below that edge is looked at. A last
//!   launch selects and sorts what reached the final edge, a little more than k per query. The tensor cores take a query
//!   as the sum of two f16, so it loses nothing against the f32 of the other devices.
//!
//! A row's inverse norm is computed once ([`inverse_norms`]) and stored beside it. Rows that are zero have cosine 0;
//! rows that a filter excludes do not exist. Where fewer than `k` rows remain, the rest of the result is
//! ([`NO_ID`], `-inf`). Comes after [`mod@super::pool`]; [`crate::index::VectorIndex`] is its owner.

use std::cmp::Ordering;
use std::ops::Range;

use gemm::Parallelism;
use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, OpSpec, Rounding, TIERS, check, check_width, grid, simd, tier_variant};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Device, Dispatch, Float, Launch, Wgpu};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "cosine_topk",
    formula: "the k rows with the largest cosine to each query, ties to the lowest id",
    ptx: Some(PTX),
    ptx_variants,
    wgsl: Some(WGSL),
    wgsl_variants,
};

const WGSL: Source = Source {
    file: "cosine_topk.wgsl",
    text: include_str!("../../shaders/cosine_topk.wgsl"),
};

const PTX: Source = Source {
    file: "cosine_topk.ptx",
    text: include_str!("../../kernels/cosine_topk.ptx"),
};

/// The id of a result that does not exist.
pub const NO_ID: u32 = u32::MAX;

/// One piece of a corpus on a device.
#[derive(Clone, Copy)]
pub struct Shard<'a> {
    /// `[n, d]`.
    pub rows: &'a Buffer<f16>,
    /// `[n]`, from [`inverse_norms`].
    pub inverse_norms: &'a Buffer<f32>,
    /// Rows in use; the buffers may be longer.
    pub n: usize,
}

/// The result of a search, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// Results per query.
    pub k: usize,
    /// `[n_q, k]` row numbers counted over all shards; [`NO_ID`] where there are none left.
    pub ids: Vec<u32>,
    /// `[n_q, k]` cosines; `-inf` where there are none left.
    pub scores: Vec<f32>,
}

impl TopK {
    /// The existing results of query `q`, best first.
    pub fn of(&self, q: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = q * self.k..(q + 1) * self.k;
        self.ids[range.clone()]
            .iter()
            .copied()
            .zip(self.scores[range].iter().copied())
            .take_while(|&(id, _)| id != NO_ID)
    }
}

/// `1 / |row|` of every row of `rows` `[n, d]` (0 for a zero row) into `out` `[n]`.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit.
pub fn inverse_norms<T: Float>(rows: &Buffer<T>, d: usize, out: &mut Buffer<f32>) -> Result<()> {
    let device = out.device().clone();
    check_width(SPEC.name, "d", d)?;
    let n = out.len();
    check(SPEC.name, "rows", rows, n * d, &device)?;
    let cost = Cost {
        flop: 2 * (n * d) as u64,
        bytes: (n * d * size_of::<T>() + 4 * n) as u64,
    };
    device.run(SPEC.name, cost, |backend| match backend {
        Backend::Cpu(_) => {
            let rows = rows.host();
            out.host_mut()
                .par_iter_mut()
                .enumerate()
                .with_min_len(64)
                .for_each_init(
                    || vec![0f32; d],
                    |wide, (r, out)| {
                        for (to, from) in wide.iter_mut().zip(&rows[r * d..][..d]) {
                            *to = from.to_f32();
                        }
                        *out = inverse_norm(wide);
                    },
                );
            Ok(())
        }
        Backend::Wgpu(dev) => norms_wgpu(dev, rows, d, out),
        Backend::Cuda(dev) => norms_cuda(dev, rows, d, out),
    })
}

#[multiversion(targets = "simd")]
fn inverse_norm(row: &[f32]) -> f32 {
    let norm = simd::sum(row, |v| v * v).sqrt();
    if norm > 0.0 { 1.0 / norm } else { 0.0 }
}

/// What a search is asked.
struct Search<'a> {
    queries: &'a Buffer<f32>,
    n_q: usize,
    d: usize,
    shards: &'a [Shard<'a>],
    filter: Option<&'a Buffer<u32>>,
    k: usize,
}

impl<'a> Search<'a> {
    fn checked(
        queries: &'a Buffer<f32>,
        d: usize,
        shards: &'a [Shard<'a>],
        filter: Option<&'a Buffer<u32>>,
        k: usize,
    ) -> Result<Self> {
        let device = queries.device();
        check_width(SPEC.name, "d", d)?;
        if !queries.len().is_multiple_of(d) {
            return Err(Error::shape(
                SPEC.name,
                "queries",
                format!("rows of {d}"),
                queries.len(),
            ));
        }
        if k == 0 {
            return Err(Error::shape(SPEC.name, "k", "at least 1", k));
        }
        for shard in shards {
            let (rows, norms) = (shard.rows, shard.inverse_norms);
            check(SPEC.name, "rows", rows, rows.len().max(shard.n * d), device)?;
            check(
                SPEC.name,
                "inverse_norms",
                norms,
                norms.len().max(shard.n),
                device,
            )?;
        }
        let search = Search {
            queries,
            n_q: queries.len() / d,
            d,
            shards,
            filter,
            k,
        };
        let n = search.rows();
        if n >= NO_ID as usize {
            return Err(Error::Invalid(format!(
                "a search over {n} rows: row numbers must stay below {NO_ID}; split the corpus"
            )));
        }
        if let Some(filter) = filter {
            check(SPEC.name, "filter", filter, n.div_ceil(32), device)?;
        }
        Ok(search)
    }

    /// Shards with the number of rows before each.
    fn placed(&self) -> impl Iterator<Item = (usize, &Shard<'_>)> {
        self.shards.iter().scan(0, |next, shard| {
            let base = *next;
            *next += shard.n;
            Some((base, shard))
        })
    }

    fn rows(&self) -> usize {
        self.shards.iter().map(|s| s.n).sum()
    }

    fn check_gpu_k(&self) -> Result<()> {
        if self.k > GPU_MAX_K {
            let most = format!("at most {GPU_MAX_K} on this device");
            return Err(Error::shape(SPEC.name, "k", most, self.k));
        }
        Ok(())
    }
}

/// Finds, for each of the `queries` `[n_q, d]`, the `k` rows of all `shards` with the largest cosine. `filter`, if
/// given, is a bit set over all rows (bit `r % 32` of word `r / 32`): only rows whose bit is set take part.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (`d` a multiple of 8, `k` at least 1 and on a GPU at most 2,048),
/// [`Error::Invalid`] for more than 2^32 - 1 rows.
///
/// ```
/// use half::f16;
/// use nearmiss::{Device, ops::cosine_topk::{Shard, cosine_topk, inverse_norms}};
/// let cpu = Device::cpu();
/// let mut corpus = vec![f16::ZERO; 3 * 8];
/// for row in 0..3 {
///     corpus[row * 8 + row] = f16::from_f32(2.0);
/// }
/// let rows = cpu.upload(&corpus)?;
/// let mut norms = cpu.alloc(3)?;
/// inverse_norms(&rows, 8, &mut norms)?;
/// let query = cpu.upload(&[0.1f32, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// let shard = Shard { rows: &rows, inverse_norms: &norms, n: 3 };
/// let found = cosine_topk(&query, 8, &[shard], None, 2)?;
/// assert_eq!(found.ids, [2, 0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn cosine_topk(
    queries: &Buffer<f32>,
    d: usize,
    shards: &[Shard<'_>],
    filter: Option<&Buffer<u32>>,
    k: usize,
) -> Result<TopK> {
    let device = queries.device().clone();
    let search = Search::checked(queries, d, shards, filter, k)?;
    let mut found = TopK {
        k,
        ids: vec![NO_ID; search.n_q * k],
        scores: vec![f32::NEG_INFINITY; search.n_q * k],
    };
    if search.rows() == 0 || search.n_q == 0 {
        return Ok(found);
    }
    device.run(SPEC.name, cost(&search), |backend| match backend {
        Backend::Cpu(_) => {
            cpu(&search, &mut found);
            Ok(())
        }
        Backend::Wgpu(dev) => wgpu(dev, &device, &search, &mut found),
        Backend::Cuda(dev) => {
            store(&cuda(dev, &device, &search)?.read()?, 0, &mut found);
            Ok(())
        }
    })?;
    Ok(found)
}

/// Enqueues a search without a filter and leaves its result on the device, for benches: what a search takes there.
///
/// # Errors
/// As [`cosine_topk`], and [`Error::Unsupported`] on other devices than CUDA.
#[doc(hidden)]
pub fn enqueue(queries: &Buffer<f32>, d: usize, shards: &[Shard<'_>], k: usize) -> Result<()> {
    let device = queries.device().clone();
    let search = Search::checked(queries, d, shards, None, k)?;
    device.run(SPEC.name, cost(&search), |backend| match backend {
        Backend::Cuda(dev) => cuda(dev, &device, &search).map(drop),
        _ => Err(SPEC.unsupported(&device, "its searches wait for their results")),
    })
}

fn cost(search: &Search<'_>) -> Cost {
    let (n, n_q, d) = (search.rows(), search.n_q, search.d);
    Cost {
        flop: 2 * (n * n_q * d) as u64,
        bytes: (n * (2 * d + 4) + n_q * (4 * d + 8 * search.k)) as u64,
    }
}

/// The definition: the cosine of every query with every row, `[n_q, n]`.
pub fn reference_scores<A: Accum>(queries: &[f32], rows: &[f32], d: usize) -> Vec<A> {
    let dot = |x: &[f32], y: &[f32]| {
        let mut sum = A::of(0.0);
        for (&x, &y) in x.iter().zip(y) {
            sum += A::of(x.into()) * A::of(y.into());
        }
        sum
    };
    let mut scores = Vec::with_capacity(queries.len() / d * (rows.len() / d));
    for q in queries.chunks_exact(d) {
        for row in rows.chunks_exact(d) {
            let norms = dot(q, q).sqrt() * dot(row, row).sqrt();
            scores.push(if norms > A::of(0.0) {
                dot(q, row) / norms
            } else {
                A::of(0.0)
            });
        }
    }
    scores
}

/// The definition of the selection: of one query's `scores`, the `k` largest among those `keep` admits, best first,
/// ties to the lowest id.
pub fn reference<A: Accum>(scores: &[A], k: usize, keep: impl Fn(usize) -> bool) -> Vec<(u32, A)> {
    let mut order: Vec<(u32, A)> = (0u32..)
        .zip(scores.iter().copied())
        .filter(|(id, _)| keep(*id as usize))
        .collect();
    order.sort_by(|a, b| {
        b.1.partial_cmp(&a.1)
            .unwrap_or(Ordering::Equal)
            .then(a.0.cmp(&b.0))
    });
    order.truncate(k);
    order
}

/// Error of each score `[n_q, n]`: the dot product `g(d) sum |q c| / (|q| |c|)`, and relative to the score the two
/// inverse norms, `g(d / 2 + 2) + (sqrt + division) u` each, and their two products.
///
/// Where a matrix unit takes f16 operands, an element of a normalised query is the sum of two of them, scaled by 2^10.
/// With an operand's relative error `r` and absolute error `a`, the first leaves `r` of the element and the second `r` of
/// that, or `a 2^-10`; `2 d` products are added, whose magnitudes are `1 + 2 r` times those of `d`.
pub fn error_bound(queries: &[f32], rows: &[f32], d: usize, rounding: &Rounding) -> Vec<f64> {
    let u = rounding.u;
    let norm_of = |x: &[f32]| x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let relative =
        2.0 * (rounding.g(d / 2 + 2) + (rounding.sqrt + rounding.division) * u) + 4.0 * u;
    // Of the dot product: relative to the sum of magnitudes, and absolute per element of a normalised query.
    let (of_dot, of_query) = match rounding.operand {
        (0.0, _) => (rounding.g(d), 0.0),
        (r, a) => (
            rounding.g(2 * d) * (1.0 + 2.0 * r) + r * r,
            a * 2f64.powi(-10),
        ),
    };
    let mut bounds = Vec::with_capacity(queries.len() / d * (rows.len() / d));
    for q in queries.chunks_exact(d) {
        for row in rows.chunks_exact(d) {
            let (mut dot, mut magnitude, mut sum) = (0.0, 0.0, 0.0);
            for (&q, &c) in q.iter().zip(row) {
                let product = f64::from(q) * f64::from(c);
                dot += product;
                magnitude += f64::abs(product);
                sum += f64::from(c.abs());
            }
            let norm = norm_of(row);
            let norms = norm_of(q) * norm;
            bounds.push(if norms > 0.0 {
                (of_dot * magnitude + relative * f64::abs(dot)) / norms
                    + of_query * sum / norm
                    + f64::from(f32::MIN_POSITIVE)
            } else {
                0.0
            });
        }
    }
    bounds
}

/// `true` if the filter (absent: all) admits row `r`.
fn admits(filter: Option<&[u32]>, r: usize) -> bool {
    filter.is_none_or(|words| words[r / 32] >> (r % 32) & 1 == 1)
}

/// Best first: higher score, then lower id. Scores are never NaN here: a NaN passes no gate.
fn best_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0)
        .unwrap_or(Ordering::Equal)
        .then(a.1.cmp(&b.1))
}

/// The best k of what was offered to one query.
#[derive(Clone)]
struct Candidates {
    k: usize,
    list: Vec<(f32, u32)>,
    /// A score below this cannot be among the best k any more.
    threshold: f32,
}

impl Candidates {
    fn new(k: usize) -> Self {
        Candidates {
            k,
            list: Vec::new(),
            threshold: f32::NEG_INFINITY,
        }
    }

    fn push(&mut self, score: f32, id: u32) {
        self.list.push((score, id));
        if self.list.len() >= 2 * self.k + 32 {
            self.prune();
        }
    }

    fn prune(&mut self) {
        if self.list.len() > self.k {
            self.list.select_nth_unstable_by(self.k - 1, best_first);
            self.list.truncate(self.k);
        }
        if self.list.len() == self.k {
            let worst = self.list.iter().map(|c| c.0).fold(f32::INFINITY, f32::min);
            self.threshold = worst;
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.list.extend(other.list);
        self.prune();
        self
    }
}

/// Rows that the CPU widens and scores at once: with d = 384, 768 KiB of f32, which a core's second-level cache holds.
const CPU_BLOCK: usize = 512;

/// Queries multiplied at once with a block of rows; bounds the block's scores to 128 KiB.
const CPU_QUERIES: usize = 64;

fn cpu(search: &Search<'_>, found: &mut TopK) {
    let &Search { n_q, d, k, .. } = search;
    let mut queries = search.queries.host().to_vec();
    for q in queries.chunks_exact_mut(d) {
        let inverse = inverse_norm(q);
        q.iter_mut().for_each(|v| *v *= inverse);
    }
    let filter = search.filter.map(|f| f.host());
    let mut blocks: Vec<(usize, &Shard<'_>, Range<usize>)> = Vec::new();
    for (base, shard) in search.placed() {
        let n = shard.n;
        blocks.extend(
            (0..n)
                .step_by(CPU_BLOCK)
                .map(|start| (base, shard, start..(start + CPU_BLOCK).min(n))),
        );
    }
    struct State {
        candidates: Vec<Candidates>,
        wide: Vec<f32>,
        scores: Vec<f32>,
    }
    let fresh = || State {
        candidates: vec![Candidates::new(k); n_q],
        wide: vec![0.0; CPU_BLOCK * d],
        scores: vec![0.0; CPU_BLOCK * CPU_QUERIES.min(n_q)],
    };
    // One run of blocks per thread: every split starts with an empty list and a low threshold, so few is fast.
    let run = blocks.len().div_ceil(rayon::current_num_threads());
    let candidates = blocks
        .par_chunks(run)
        .map(|blocks| {
            let mut state = fresh();
            for (base, shard, range) in blocks {
                let n = range.len();
                let wide = &mut state.wide[..n * d];
                shard.rows.host()[range.start * d..range.end * d].convert_to_f32_slice(wide);
                let norms = &shard.inverse_norms.host()[range.clone()];
                for (q0, queries) in (0..)
                    .step_by(CPU_QUERIES)
                    .zip(queries.chunks(CPU_QUERIES * d))
                {
                    let m = queries.len() / d;
                    let scores = &mut state.scores[..m * n];
                    super::matmul::product(queries, wide, scores, m, n, d, Parallelism::None);
                    for (scores, candidates) in scores
                        .chunks_exact(n)
                        .zip(&mut state.candidates[q0..q0 + m])
                    {
                        gate(scores, norms, base + range.start, filter, candidates);
                    }
                }
            }
            state.candidates
        })
        .reduce_with(|a, b| a.into_iter().zip(b).map(|(a, b)| a.merge(b)).collect());
    for (q, mut best) in candidates.unwrap_or_default().into_iter().enumerate() {
        best.prune();
        best.list.sort_unstable_by(best_first);
        for (i, (score, id)) in best.list.into_iter().enumerate() {
            found.ids[q * k + i] = id;
            found.scores[q * k + i] = score;
        }
    }
}

/// Offers `scores[i] * norms[i]`, rows `first + i`, to a candidate list. Sixteen at a time are compared with the
/// threshold first; almost always none of them reaches it.
#[multiversion(targets = "simd")]
fn gate(
    scores: &[f32],
    norms: &[f32],
    first: usize,
    filter: Option<&[u32]>,
    candidates: &mut Candidates,
) {
    const GROUP: usize = 16;
    let groups = scores.chunks(GROUP).zip(norms.chunks(GROUP));
    for (g, (scores, norms)) in groups.enumerate() {
        let threshold = candidates.threshold;
        let mut reached = false;
        for (&s, &inverse) in scores.iter().zip(norms) {
            reached |= s * inverse >= threshold;
        }
        if !reached {
            continue;
        }
        for (i, (&s, &inverse)) in scores.iter().zip(norms).enumerate() {
            let (score, row) = (s * inverse, first + g * GROUP + i);
            if score >= candidates.threshold && admits(filter, row) {
                candidates.push(score, row as u32);
            }
        }
    }
}

/// Rows of the first block on a GPU, and room in a candidate list beyond k: a block of so many rows cannot overflow.
const GPU_BLOCK: usize = 4096;

/// Rows of a block are a multiple of this, so that its bindings begin at an aligned offset (at d = 8, 2 KiB of rows
/// and 512 B of norms).
const GPU_ALIGN: usize = 128;

/// Queries searched at once on a GPU; bounds the candidate lists.
const GPU_QUERIES: usize = 128;

/// Rows scored by one workgroup: 64 invocations, 4 rows each.
const GPU_GROUP_ROWS: usize = 256;

/// Largest k on a GPU: a list of so many candidates is sorted in 16 KiB of workgroup memory.
const GPU_MAX_K: usize = 2048;

/// Words of state per query: candidates offered, threshold, overflow.
const STATE: usize = 4;

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

fn norms_variant(rows: &'static str) -> Variant {
    Variant::new().with("pass", "norms").with("rows", rows)
}

fn wgsl_variants() -> Vec<Variant> {
    let mut passes = vec![Variant::new().with("pass", "select")];
    for queries in [1, 4, 8] {
        passes.extend([true, false].map(|filter| score_variant(queries, filter)));
    }
    passes.extend((5..=11).map(|log| sort_variant(1 << log)));
    passes.extend(["f16", "f32"].map(norms_variant));
    TIERS
        .iter()
        .flat_map(|&tier| {
            passes
                .iter()
                .map(move |pass| pass.clone().extended(&tier_variant(tier)))
        })
        .collect()
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct NormsParams {
    n: u32,
    d4: u32,
}

fn norms_wgpu<T: Float>(
    dev: &Wgpu,
    rows: &Buffer<T>,
    d: usize,
    out: &mut Buffer<f32>,
) -> Result<()> {
    let n = out.len();
    // Rows beyond one binding go in pieces of whole, aligned rows; `out` is small and written at an offset.
    let piece = rows_per_binding(dev, d * size_of::<T>());
    for start in (0..n).step_by(piece) {
        let range = start..(start + piece).min(n);
        let params = NormsParams {
            n: range.len() as u32,
            d4: (d / 4) as u32,
        };
        dev.dispatch(&Dispatch {
            source: WGSL,
            entry: "inverse_norms",
            variant: norms_variant(T::TYPE.name()).extended(&tier_variant(dev.tier())),
            bindings: &[
                rows.bind_range(range.start * d..range.end * d),
                out.bind_range_mut(range.clone()),
            ],
            params: bytemuck::bytes_of(&params),
            groups: grid(range.len().div_ceil(64)),
        })?;
    }
    Ok(())
}

/// Whole rows of `row_bytes` bytes that one binding can hold, a multiple of [`GPU_ALIGN`].
fn rows_per_binding(dev: &Wgpu, row_bytes: usize) -> usize {
    let fit = usize::try_from(dev.max_binding()).unwrap_or(usize::MAX) / row_bytes;
    (fit / GPU_ALIGN * GPU_ALIGN).max(GPU_ALIGN)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScoreParams {
    rows: u32,
    first: u32,
    n_q: u32,
    d4: u32,
    capacity: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SelectParams {
    k: u32,
    capacity: u32,
}

fn wgpu(dev: &Wgpu, device: &Device, search: &Search<'_>, found: &mut TopK) -> Result<()> {
    let &Search { n_q, d, .. } = search;
    search.check_gpu_k()?;
    let mut query_norms = device.alloc::<f32>(n_q)?;
    norms_wgpu(dev, search.queries, d, &mut query_norms)?;
    for start in (0..n_q).step_by(GPU_QUERIES) {
        let tile = start..(start + GPU_QUERIES).min(n_q);
        let queries = copy_rows(search.queries, tile.start * d..tile.end * d)?;
        let norms = copy_rows(&query_norms, tile.clone())?;
        let complete = search_tile(dev, search, &queries, &norms, tile.clone(), true, found)?;
        if !complete {
            // A list overflowed: the corpus is ordered against us. Blocks that fit the lists always succeed.
            search_tile(dev, search, &queries, &norms, tile, false, found)?;
        }
    }
    Ok(())
}

/// A buffer of its own with the elements of `range`: bindings need aligned offsets, which a range of queries has not.
fn copy_rows(from: &Buffer<f32>, range: Range<usize>) -> Result<Buffer<f32>> {
    let mut to = from.device().alloc(range.len())?;
    to.copy_from(0, from, range)?;
    Ok(to)
}

/// Searches for the queries of one tile; `false` if a candidate list overflowed (only with growing blocks).
fn search_tile(
    dev: &Wgpu,
    search: &Search<'_>,
    queries: &Buffer<f32>,
    query_norms: &Buffer<f32>,
    tile: Range<usize>,
    growing: bool,
    found: &mut TopK,
) -> Result<bool> {
    let &Search { d, k, .. } = search;
    let device = queries.device();
    let n_q = tile.len();
    let capacity = (k + GPU_BLOCK).next_multiple_of(2);
    let mut lists = [
        device.alloc::<u32>(n_q * capacity * 2)?,
        device.alloc::<u32>(n_q * capacity * 2)?,
    ];
    let lowest = (-3.0e38f32).to_bits();
    let mut state = device.upload(&[0, lowest, 0, 0].repeat(n_q))?;
    let tier = tier_variant(dev.tier());
    let per_invocation = match n_q {
        1 => 1,
        2..=4 => 4,
        _ => 8,
    };
    let select_params = SelectParams {
        k: k as u32,
        capacity: capacity as u32,
    };
    let mut seen = 0;
    for (base, shard) in search.placed() {
        let n = shard.n;
        let mut start = 0;
        while start < n {
            let rows = if growing {
                seen.max(GPU_BLOCK)
            } else {
                GPU_BLOCK
            };
            let rows = (rows / GPU_ALIGN * GPU_ALIGN)
                .min(rows_per_binding(dev, 2 * d))
                .min(n - start);
            let range = start..start + rows;
            let params = ScoreParams {
                rows: rows as u32,
                first: (base + start) as u32,
                n_q: n_q as u32,
                d4: (d / 4) as u32,
                capacity: capacity as u32,
            };
            let [from, to] = &mut lists;
            let mut bindings = vec![
                shard.rows.bind_range(range.start * d..range.end * d),
                shard.inverse_norms.bind_range(range),
                queries.bind(),
                query_norms.bind(),
                state.bind_mut(),
                from.bind_mut(),
            ];
            bindings.extend(search.filter.map(|f| f.bind()));
            let [x, y, _] = grid(rows.div_ceil(GPU_GROUP_ROWS));
            dev.dispatch(&Dispatch {
                source: WGSL,
                entry: "score",
                variant: score_variant(per_invocation, search.filter.is_some()).extended(&tier),
                bindings: &bindings,
                params: bytemuck::bytes_of(&params),
                groups: [x, y, n_q.div_ceil(per_invocation as usize) as u32],
            })?;
            dev.dispatch(&Dispatch {
                source: WGSL,
                entry: "select_best",
                variant: Variant::new().with("pass", "select").extended(&tier),
                bindings: &[state.bind_mut(), from.bind(), to.bind_mut()],
                params: bytemuck::bytes_of(&select_params),
                groups: [n_q as u32, 1, 1],
            })?;
            lists.swap(0, 1);
            seen += rows;
            start += rows;
        }
    }
    let mut results = device.alloc::<u32>(n_q * k * 2)?;
    dev.dispatch(&Dispatch {
        source: WGSL,
        entry: "sort_best",
        variant: sort_variant(k.next_power_of_two().max(32)).extended(&tier),
        bindings: &[state.bind_mut(), lists[0].bind(), results.bind_mut()],
        params: bytemuck::bytes_of(&select_params),
        groups: [n_q as u32, 1, 1],
    })?;
    if state.read()?.chunks_exact(STATE).any(|s| s[2] != 0) {
        return Ok(false);
    }
    store(&results.read()?, tile.start, found);
    Ok(true)
}

/// Puts (score bits, id) pairs, `k` per query from query `first` on, into the result.
fn store(pairs: &[u32], first: usize, found: &mut TopK) {
    for (i, pair) in pairs.chunks_exact(2).enumerate() {
        let at = first * found.k + i;
        found.ids[at] = pair[1];
        found.scores[at] = if pair[1] == NO_ID {
            f32::NEG_INFINITY
        } else {
            f32::from_bits(pair[0])
        };
    }
}

/// Queries that one launch of the PTX kernel multiplies with the corpus: a template value.
const CUDA_QUERIES: [usize; 3] = [8, 16, 32];

/// Rows that a block of the PTX kernel scores at a time.
const CUDA_TILE: usize = 128;

/// Places in a block's list beyond k: those that its kernel wants free before each tile, and twice as many to spare,
/// so that a list is cut rarely.
const CUDA_SPARE: usize = 3 * CUDA_TILE;

/// Words of state per query: 256 bins, the length of the merged list, and padding.
const CUDA_STATE: usize = 264;

/// Device memory that lists may take; bounds the number of blocks.
const CUDA_LISTS: usize = 256 << 20;

/// Rows of one launch, at most: row numbers of all blocks stay clear of 2^32.
const CUDA_PIECE: usize = 1 << 31;

fn cuda_pass(pass: &'static str) -> Variant {
    Variant::new().with("pass", pass)
}

fn search_variant(queries: usize, filter: bool) -> Variant {
    cuda_pass("search")
        .with("queries", queries as i64)
        .with("filter", filter)
}

fn ptx_variants() -> Vec<Variant> {
    let mut variants = vec![cuda_pass("prepare"), cuda_pass("merge")];
    for queries in CUDA_QUERIES {
        variants.extend([true, false].map(|filter| search_variant(queries, filter)));
    }
    variants.extend(["f16", "f32"].map(norms_variant));
    variants
}

fn norms_cuda<T: Float>(
    dev: &Cuda,
    rows: &Buffer<T>,
    d: usize,
    out: &mut Buffer<f32>,
) -> Result<()> {
    let n = out.len();
    if n == 0 {
        return Ok(());
    }
    dev.launch(&Launch {
        source: PTX,
        entry: "inverse_norms",
        variant: norms_variant(T::TYPE.name()),
        args: &[
            Arg::Buffer(rows.bind()),
            Arg::Buffer(out.bind_mut()),
            Arg::U32(n as u32),
            Arg::U32(d as u32),
        ],
        grid: [n.div_ceil(4) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
    })
}

/// Enqueues the search; leaves (score bits, id) pairs, `k` per query.
fn cuda(dev: &Cuda, device: &Device, search: &Search<'_>) -> Result<Buffer<u32>> {
    let &Search { n_q, d, k, .. } = search;
    search.check_gpu_k()?;
    let most = CUDA_QUERIES[CUDA_QUERIES.len() - 1];
    let width = CUDA_QUERIES
        .into_iter()
        .find(|&queries| queries >= n_q)
        .unwrap_or(most);
    let capacity = k + CUDA_SPARE;
    // The most that a block can have left at the end.
    let kept = capacity - CUDA_TILE;
    let largest = search.shards.iter().map(|s| s.n).max().unwrap_or(0);
    let blocks = (4 * dev.multiprocessors() as usize)
        .min(largest.div_ceil(CUDA_TILE))
        .min(CUDA_LISTS / (8 * width * (capacity + kept)))
        .max(1);
    let size = k.next_power_of_two().max(2);

    let mut panels = device.alloc::<f16>(2 * width * d)?;
    let mut state = device.alloc::<u32>(width * CUDA_STATE)?;
    let mut counts = device.alloc::<u32>(blocks * width)?;
    let mut lists = device.alloc::<u32>(2 * blocks * width * capacity)?;
    let mut merged = device.alloc::<u32>(2 * width * blocks * kept)?;
    let mut best = device.alloc::<u32>(2 * n_q * k)?;
    let pieces: Vec<(usize, &Shard<'_>, Range<usize>)> = search
        .placed()
        .flat_map(|(base, shard)| {
            let starts = (0..shard.n).step_by(CUDA_PIECE);
            starts.map(move |start| (base, shard, start..(start + CUDA_PIECE).min(shard.n)))
        })
        .collect();
    for start in (0..n_q).step_by(width) {
        let tile = start..(start + width).min(n_q);
        dev.launch(&Launch {
            source: PTX,
            entry: "split_queries",
            variant: cuda_pass("prepare"),
            args: &[
                Arg::Buffer(search.queries.bind_range(tile.start * d..tile.end * d)),
                Arg::Buffer(panels.bind_mut()),
                Arg::Buffer(state.bind_mut()),
                Arg::U32(tile.len() as u32),
                Arg::U32(width as u32),
                Arg::U32(d as u32),
            ],
            grid: [(width / 4) as u32, 1, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
        })?;
        for (i, (base, shard, range)) in pieces.iter().enumerate() {
            dev.launch(&Launch {
                source: PTX,
                entry: "search",
                variant: search_variant(width, search.filter.is_some()),
                args: &[
                    Arg::Buffer(shard.rows.bind_range(range.start * d..range.end * d)),
                    Arg::Buffer(shard.inverse_norms.bind_range(range.clone())),
                    Arg::Buffer(panels.bind()),
                    search.filter.map_or(Arg::Null, |f| Arg::Buffer(f.bind())),
                    Arg::Buffer(state.bind_mut()),
                    Arg::Buffer(counts.bind_mut()),
                    Arg::Buffer(lists.bind_mut()),
                    Arg::Buffer(merged.bind_mut()),
                    Arg::U32(range.len() as u32),
                    Arg::U32(d as u32),
                    Arg::U32((base + range.start) as u32),
                    Arg::U32(tile.len() as u32),
                    Arg::U32(k as u32),
                    Arg::U32(capacity as u32),
                    Arg::U32((blocks * kept) as u32),
                    Arg::U32((i == 0).into()),
                    Arg::U32((i + 1 == pieces.len()).into()),
                ],
                grid: [blocks as u32, 1, 1],
                block: [128, 1, 1],
                // Four stages of 32 of d: the rows, and both parts of the queries.
                shared_bytes: (4 * (CUDA_TILE + 2 * width) * 64) as u32,
            })?;
        }
        dev.launch(&Launch {
            source: PTX,
            entry: "merge",
            variant: cuda_pass("merge"),
            args: &[
                Arg::Buffer(state.bind()),
                Arg::Buffer(merged.bind()),
                Arg::Buffer(best.bind_range_mut(2 * tile.start * k..2 * tile.end * k)),
                Arg::U32(k as u32),
                Arg::U32(size as u32),
                Arg::U32((blocks * kept) as u32),
            ],
            grid: [tile.len() as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
        })?;
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_lists_keep_the_best_and_break_ties_by_id() {
        let mut c = Candidates::new(2);
        for (score, id) in [(0.5, 9), (0.7, 3), (0.7, 1), (0.7, 2), (0.1, 0)] {
            if score >= c.threshold {
                c.push(score, id);
            }
        }
        c.prune();
        c.list.sort_unstable_by(best_first);
        assert_eq!(c.list, [(0.7, 1), (0.7, 2)]);
        assert_eq!(c.threshold, 0.7);
    }

    #[test]
    fn fewer_rows_than_k_leave_gaps_that_are_marked() {
        let cpu = Device::cpu();
        let rows = cpu.upload(&[f16::ONE; 16]).unwrap();
        let mut norms = cpu.alloc(2).unwrap();
        inverse_norms(&rows, 8, &mut norms).unwrap();
        let query = cpu.upload(&[1f32; 8]).unwrap();
        let shard = Shard {
            rows: &rows,
            inverse_norms: &norms,
            n: 2,
        };
        let filter = cpu.upload(&[0b10u32]).unwrap();
        let found = cosine_topk(&query, 8, &[shard], Some(&filter), 3).unwrap();
        assert_eq!(found.ids, [1, NO_ID, NO_ID]);
        assert_eq!(found.of(0).count(), 1);
        assert!(found.scores[1] == f32::NEG_INFINITY);
    }
}
