//! `score(q, c) = sum_i max_j q_i . c_j` over the tokens of a query and a document, or its mean over `i`
//!
//! Late interaction (ColBERT, arXiv 2004.12832): every query token looks for the document token that answers it best. On
//! token vectors of unit length the products are cosines, and the mean is a score in [-1, 1]. The map `q_i . c_j` is
//! never stored: each device keeps running maxima. Cost: `2 l_q l_c d` FLOP per pair; a document's tokens are read once
//! per query or tile of queries.
//!
//! * **CPU**: runs of documents of some hundred tokens are widened to f32 in cache and multiplied with all queries.
//! * **wgpu**: a workgroup per pair; an invocation owns document tokens and eight query tokens at a time.
//! * **CUDA**: a block per pair on the tensor cores, documents on the M side; only maxima leave the registers.
//!
//! The score is not symmetric. An empty query or document scores 0. Among equal products the token that comes first
//! wins. Rows of unit length come from [`mod@super::pool`], each token being a text of its own.

use std::ops::Range;

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::token_pairs::{check_pairs, longest, pieces, runs, widen};
use super::{
    Accum, FLOATS, OpSpec, Packing, PairList, Pairs, Rounding, TIERS, Tokens, check, grid, simd,
    tier_variant,
};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Dispatch, ElementType, Float, Launch, Wgpu};
use crate::error::Result;

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "maxsim",
    formula: "score = sum or mean over query tokens of the largest product with a document token",
    ptx: Some(PTX),
    ptx_variants,
    wgsl: Some(WGSL),
    wgsl_variants,
};

const WGSL: Source = Source {
    file: "maxsim.wgsl",
    text: include_str!("../../shaders/maxsim.wgsl"),
};

const PTX: Source = Source {
    file: "maxsim.ptx",
    text: include_str!("../../kernels/maxsim.ptx"),
};

/// The winner of a query token for which there is no document token.
pub const NO_WINNER: u32 = u32::MAX;

/// What becomes of the maxima of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum (ColBERT).
    Sum,
    /// Their mean over the query's tokens, which does not grow with the query.
    Mean,
}

/// A checked request.
struct Request<'a, T: Float> {
    queries: Tokens<'a, T>,
    documents: Tokens<'a, T>,
    d: usize,
    pairs: Pairs<'a>,
    reduction: Reduction,
    /// Places for the winners of a pair.
    longest: usize,
}

impl<T: Float> Request<'_, T> {
    fn count(&self) -> usize {
        match self.pairs {
            Pairs::All => self.queries.packing.texts() * self.documents.packing.texts(),
            Pairs::Listed(list) => list.len(),
        }
    }

    fn cost(&self) -> Cost {
        let (queries, documents) = (self.queries.packing, self.documents.packing);
        let length = |packing: &Packing, text: u32| {
            let span = &packing.offsets()[text as usize..text as usize + 2];
            u64::from(span[1] - span[0])
        };
        let products: u64 = match self.pairs {
            Pairs::All => (queries.tokens() * documents.tokens()) as u64,
            Pairs::Listed(list) => list
                .host
                .iter()
                .map(|&[q, c]| length(queries, q) * length(documents, c))
                .sum(),
        };
        let tokens = queries.tokens() + documents.tokens();
        Cost {
            flop: 2 * products * self.d as u64,
            bytes: (tokens * self.d * size_of::<T>() + 4 * self.count()) as u64,
        }
    }
}

/// Scores `pairs` of the queries' and documents' token vectors `[t, d]` into `scores` `[p]`, or `[n_q, n_c]` for all.
///
/// `winners`, if wanted, is `[pairs, longest]` for any `longest` that holds the tokens of every query: for each query
/// token the position within its document of the token that won, or [`NO_WINNER`].
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8),
/// [`Error::Unsupported`](crate::Error::Unsupported) for f32 tokens on CUDA, whose tensor cores multiply f16.
///
/// ```
/// use nearmiss::{Device, ops::{Packing, Pairs, Tokens, maxsim::{Reduction, maxsim}}};
/// let cpu = Device::cpu();
/// let token = |axis: usize| (0..8).map(move |i| if i == axis { 1f32 } else { 0.0 });
/// let (queries, documents) = (Packing::new(&cpu, vec![0, 2])?, Packing::new(&cpu, vec![0, 1, 3])?);
/// let asked = cpu.upload(&[0, 1].into_iter().flat_map(token).collect::<Vec<_>>())?;
/// let stored = cpu.upload(&[1, 1, 0].into_iter().flat_map(token).collect::<Vec<_>>())?;
/// let mut scores = cpu.alloc::<f32>(2)?;
/// maxsim(
///     Tokens { rows: &asked, packing: &queries },
///     Tokens { rows: &stored, packing: &documents },
///     8,
///     Pairs::All,
///     Reduction::Mean,
///     &mut scores,
///     None,
/// )?;
/// assert_eq!(scores.read()?, [0.5, 1.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn maxsim<T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: Pairs<'_>,
    reduction: Reduction,
    scores: &mut Buffer<f32>,
    mut winners: Option<&mut Buffer<u32>>,
) -> Result<()> {
    let device = scores.device().clone();
    check_pairs(&SPEC, queries, documents, d, pairs, &device)?;
    let mut request = Request {
        queries,
        documents,
        d,
        pairs,
        reduction,
        longest: 0,
    };
    let count = request.count();
    check(SPEC.name, "scores", scores, count, &device)?;
    if let Some(winners) = &winners {
        let needed = longest(queries.packing);
        if let Some(longest) = winners.len().checked_div(count) {
            request.longest = longest;
        }
        check(
            SPEC.name,
            "winners",
            winners,
            count * request.longest.max(needed),
            &device,
        )?;
    }
    if count == 0 {
        return Ok(());
    }
    device.run(SPEC.name, request.cost(), |backend| match backend {
        Backend::Cpu(_) => {
            let winners = winners.as_deref_mut().map(Buffer::host_mut);
            cpu(&request, scores.host_mut(), winners);
            Ok(())
        }
        Backend::Wgpu(dev) => wgpu(dev, &request, scores, winners.as_deref_mut()),
        Backend::Cuda(dev) if T::TYPE == ElementType::F16 => cuda(dev, &request, scores, winners),
        Backend::Cuda(_) => Err(SPEC.unsupported(&device, "tensor cores multiply f16 tokens")),
    })
}

/// The definition, for one pair of token matrices: the score, and for each query token the winner.
pub fn reference<A: Accum>(
    query: &[f32],
    document: &[f32],
    d: usize,
    reduction: Reduction,
) -> (A, Vec<u32>) {
    let mut score = A::of(0.0);
    let mut winners = Vec::new();
    for q in query.chunks_exact(d) {
        let mut best: Option<(A, u32)> = None;
        for (j, c) in (0u32..).zip(document.chunks_exact(d)) {
            let mut product = A::of(0.0);
            for (&q, &c) in q.iter().zip(c) {
                product += A::of(q.into()) * A::of(c.into());
            }
            if best.is_none_or(|(largest, _)| product > largest) {
                best = Some((product, j));
            }
        }
        score += best.map_or(A::of(0.0), |(product, _)| product);
        winners.push(best.map_or(NO_WINNER, |(_, j)| j));
    }
    match reduction {
        Reduction::Sum => (score, winners),
        Reduction::Mean => (score / A::of(winners.len().max(1) as f64), winners),
    }
}

/// Error of the score of one pair, and of each product that could have been a winner.
///
/// A product of `d` terms is off by at most `g(d) sum |q c|`; a maximum by no more than the worst of what it is taken of;
/// their sum adds `g(l_q)` of its terms' magnitudes, and a mean one division.
pub fn error_bound(
    query: &[f32],
    document: &[f32],
    d: usize,
    reduction: Reduction,
    rounding: &Rounding,
) -> (f64, f64) {
    let (mut worst, mut sum, mut magnitudes) = (0f64, 0.0, 0.0);
    let l_q = query.len() / d;
    for q in query.chunks_exact(d) {
        let (mut error, mut largest) = (0f64, 0f64);
        for c in document.chunks_exact(d) {
            let terms = q.iter().zip(c).map(|(&q, &c)| f64::from(q) * f64::from(c));
            let (product, magnitude) =
                terms.fold((0.0, 0.0), |(p, m), term| (p + term, m + f64::abs(term)));
            error = error.max(rounding.g(d) * magnitude + f64::from(f32::MIN_POSITIVE));
            largest = largest.max(f64::abs(product));
        }
        worst = worst.max(error);
        sum += error;
        magnitudes += largest + error;
    }
    let sum = sum + rounding.g(l_q) * magnitudes;
    match reduction {
        Reduction::Sum => (sum, worst),
        Reduction::Mean => {
            let n = l_q.max(1) as f64;
            let division = rounding.division * rounding.u * (magnitudes + sum) / n;
            (sum / n + division + f64::from(f32::MIN_POSITIVE), worst)
        }
    }
}

/// Tokens that a thread of the CPU widens and multiplies at once, if documents are that short: with d = 128, 256 KiB of
/// f32, which a core's second-level cache holds.
const CPU_TOKENS: usize = 512;

/// Query tokens multiplied at once with them; bounds their products to 512 KiB.
const CPU_QUERY_TOKENS: usize = 256;

fn cpu<T: Float>(request: &Request<'_, T>, scores: &mut [f32], winners: Option<&mut [u32]>) {
    match request.pairs {
        Pairs::All => cpu_all(request, scores, winners),
        Pairs::Listed(list) => cpu_listed(request, list, scores, winners),
    }
}

/// Reduces the products `[query tokens, width]` of one query with the tokens `columns` of a document.
#[multiversion(targets = "simd")]
fn reduce(
    products: &[f32],
    width: usize,
    columns: Range<usize>,
    reduction: Reduction,
    winners: Option<&mut [u32]>,
) -> f32 {
    let mut score = 0.0;
    let rows = products.chunks_exact(width.max(1));
    let l_q = rows.len();
    if let Some(winners) = winners {
        let mut found = rows.clone().map(|row| {
            let row = &row[columns.clone()];
            let largest = simd::max(row);
            row.iter()
                .position(|&v| v == largest)
                .map_or(NO_WINNER, |j| j as u32)
        });
        winners.fill_with(|| found.next().unwrap_or(NO_WINNER));
    }
    if columns.is_empty() {
        return 0.0;
    }
    for row in rows {
        score += simd::max(&row[columns.clone()]);
    }
    match reduction {
        Reduction::Sum => score,
        Reduction::Mean => score / l_q.max(1) as f32,
    }
}

/// Every query with every document: runs of documents are widened once and multiplied with all queries.
fn cpu_all<T: Float>(
    request: &Request<'_, T>,
    scores: &mut [f32],
    mut winners: Option<&mut [u32]>,
) {
    let (d, longest) = (request.d, request.longest);
    let (q_offsets, c_offsets) = (
        request.queries.packing.offsets(),
        request.documents.packing.offsets(),
    );
    let n_c = c_offsets.len() - 1;
    let mut queries = Vec::new();
    widen(request.queries.rows.host(), &mut queries);
    let query_runs = runs(q_offsets, CPU_QUERY_TOKENS);
    let stored = request.documents.rows.host();
    let span = |offsets: &[u32], run: &Range<usize>| {
        offsets[run.start] as usize..offsets[run.end] as usize
    };
    let with_winners = winners.is_some();
    // Scores of a run of documents lie apart, one piece per query: each run returns its own, put in place at the end.
    let found: Vec<(Range<usize>, Vec<f32>, Vec<u32>)> = runs(c_offsets, CPU_TOKENS)
        .into_par_iter()
        .map_init(
            || (Vec::new(), Vec::new()),
            |(wide, products), run| {
                let tokens = span(c_offsets, &run);
                let n = tokens.len();
                widen(&stored[tokens.start * d..tokens.end * d], wide);
                let mut scores = vec![0.0; run.len() * (q_offsets.len() - 1)];
                let places = if with_winners {
                    longest * scores.len()
                } else {
                    0
                };
                let mut winners = vec![NO_WINNER; places];
                for query_run in &query_runs {
                    let asked = span(q_offsets, query_run);
                    let m = asked.len();
                    products.resize(m * n, 0.0);
                    if m * n > 0 {
                        let rows = &queries[asked.start * d..asked.end * d];
                        super::matmul::product(rows, wide, products, m, n, d, Parallelism::None);
                    }
                    for q in query_run.clone() {
                        let rows = q_offsets[q] as usize - asked.start
                            ..q_offsets[q + 1] as usize - asked.start;
                        let products = &products[rows.start * n..rows.end * n];
                        for (i, c) in run.clone().enumerate() {
                            let columns = c_offsets[c] as usize - tokens.start
                                ..c_offsets[c + 1] as usize - tokens.start;
                            let at = q * run.len() + i;
                            let winners = with_winners
                                .then(|| &mut winners[at * longest..(at + 1) * longest]);
                            scores[at] = reduce(products, n, columns, request.reduction, winners);
                        }
                    }
                }
                (run, scores, winners)
            },
        )
        .collect();
    for (run, piece, won) in found {
        for (q, piece) in piece.chunks_exact(run.len()).enumerate() {
            let at = q * n_c + run.start;
            scores[at..at + run.len()].copy_from_slice(piece);
            if let Some(winners) = winners.as_deref_mut() {
                let won = &won[q * run.len() * longest..(q + 1) * run.len() * longest];
                winners[at * longest..][..won.len()].copy_from_slice(won);
            }
        }
    }
}

/// Listed pairs, each on its own.
fn cpu_listed<T: Float>(
    request: &Request<'_, T>,
    list: &PairList,
    scores: &mut [f32],
    winners: Option<&mut [u32]>,
) {
    let (d, longest) = (request.d, request.longest);
    let (asked, stored) = (request.queries.rows.host(), request.documents.rows.host());
    let one = |scratch: &mut [Vec<f32>; 3], pair: &[u32; 2], winners: Option<&mut [u32]>| {
        let [query, document, products] = scratch;
        widen(&asked[request.queries.elements(pair[0], d)], query);
        widen(&stored[request.documents.elements(pair[1], d)], document);
        let (m, n) = (query.len() / d, document.len() / d);
        products.resize(m * n, 0.0);
        if m * n > 0 {
            super::matmul::product(query, document, products, m, n, d, Parallelism::None);
        }
        reduce(products, n, 0..n, request.reduction, winners)
    };
    let scratch = || [const { Vec::new() }; 3];
    match winners {
        Some(winners) if longest > 0 => list
            .host
            .par_iter()
            .zip(scores)
            .zip(winners.par_chunks_exact_mut(longest))
            .for_each_init(scratch, |scratch, ((pair, score), winners)| {
                *score = one(scratch, pair, Some(winners));
            }),
        _ => (list.host.par_iter().zip(scores)).for_each_init(scratch, |scratch, (pair, score)| {
            *score = one(scratch, pair, None);
        }),
    }
}

/// The template value that says which pairs.
fn pairs_name(listed: bool) -> &'static str {
    if listed { "listed" } else { "all" }
}

fn wgsl_variant(tokens: ElementType, listed: bool, winners: bool) -> Variant {
    Variant::new()
        .with("tokens", tokens.name())
        .with("pairs", pairs_name(listed))
        .with("winners", winners)
}

fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tier in TIERS {
        for tokens in FLOATS {
            for listed in [false, true] {
                for winners in [false, true] {
                    all.push(wgsl_variant(tokens, listed, winners).extended(&tier_variant(tier)));
                }
            }
        }
    }
    all
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    pairs: u32,
    d4: u32,
    longest: u32,
    mean: u32,
    documents: u32,
    first_document: u32,
    end_document: u32,
    first_row: u32,
}

fn wgpu<T: Float>(
    dev: &Wgpu,
    request: &Request<'_, T>,
    scores: &mut Buffer<f32>,
    mut winners: Option<&mut Buffer<u32>>,
) -> Result<()> {
    let d = request.d;
    let (queries, documents) = (&request.queries, &request.documents);
    let list = match request.pairs {
        Pairs::All => None,
        Pairs::Listed(list) => Some(list),
    };
    let variant = wgsl_variant(T::TYPE, list.is_some(), winners.is_some());
    // Documents beyond one binding go in pieces; a launch passes over the pairs of other pieces.
    for piece in pieces(documents.packing, d * size_of::<T>(), dev.max_binding()) {
        let pairs = match list {
            None => queries.packing.texts() * piece.documents.len(),
            Some(list) => list.len(),
        };
        let params = Params {
            pairs: pairs as u32,
            d4: (d / 4) as u32,
            longest: request.longest as u32,
            mean: (request.reduction == Reduction::Mean).into(),
            documents: documents.packing.texts() as u32,
            first_document: piece.documents.start as u32,
            end_document: piece.documents.end as u32,
            first_row: piece.rows.start as u32,
        };
        let mut bindings = vec![
            queries.rows.bind(),
            queries.packing.device_offsets.bind(),
            documents
                .rows
                .bind_range(piece.rows.start * d..piece.rows.end * d),
            documents.packing.device_offsets.bind(),
        ];
        bindings.extend(list.map(|list| list.device.bind()));
        bindings.push(scores.bind_mut());
        bindings.extend(winners.as_deref_mut().map(Buffer::bind_mut));
        dev.dispatch(&Dispatch {
            source: WGSL,
            entry: "maxsim",
            variant: variant.clone().extended(&tier_variant(dev.tier())),
            bindings: &bindings,
            params: bytemuck::bytes_of(&params),
            groups: grid(pairs),
        })?;
    }
    Ok(())
}

fn ptx_variant(listed: bool, winners: bool) -> Variant {
    Variant::new()
        .with("pairs", pairs_name(listed))
        .with("winners", winners)
}

fn ptx_variants() -> Vec<Variant> {
    let both = [false, true];
    let all = both.map(|listed| both.map(|winners| ptx_variant(listed, winners)));
    all.into_iter().flatten().collect()
}

/// Blocks of a launch in y, at most.
const GRID_Y: usize = 65_535;

fn cuda<T: Float>(
    dev: &Cuda,
    request: &Request<'_, T>,
    scores: &mut Buffer<f32>,
    mut winners: Option<&mut Buffer<u32>>,
) -> Result<()> {
    let (queries, documents) = (&request.queries, &request.documents);
    let list = match request.pairs {
        Pairs::All => None,
        Pairs::Listed(list) => Some(list),
    };
    let (across, down) = match list {
        None => (documents.packing.texts(), queries.packing.texts()),
        Some(list) => (list.len(), 1),
    };
    let variant = ptx_variant(list.is_some(), winners.is_some());
    for first in (0..down).step_by(GRID_Y) {
        dev.launch(&Launch {
            source: PTX,
            entry: "maxsim",
            variant: variant.clone(),
            args: &[
                Arg::Buffer(queries.rows.bind()),
                Arg::Buffer(queries.packing.device_offsets.bind()),
                Arg::Buffer(documents.rows.bind()),
                Arg::Buffer(documents.packing.device_offsets.bind()),
                list.map_or(Arg::Null, |list| Arg::Buffer(list.device.bind())),
                Arg::Buffer(scores.bind_mut()),
                match winners.as_deref_mut() {
                    Some(winners) => Arg::Buffer(winners.bind_mut()),
                    None => Arg::Null,
                },
                Arg::U32(first as u32),
                Arg::U32(request.d as u32),
                Arg::U32(request.longest as u32),
                Arg::U32((request.reduction == Reduction::Mean).into()),
            ],
            grid: [across as u32, (down - first).min(GRID_Y) as u32, 1],
            block: [128, 1, 1],
            // Four stages of 32 of d: 128 document tokens and 32 query tokens.
            shared_bytes: 4 * (128 + 32) * 64,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn pairs_beyond_the_texts_are_refused() {
        let cpu = Device::cpu();
        let packing = Packing::new(&cpu, vec![0, 1]).unwrap();
        let rows = cpu.upload(&[1f32; 8]).unwrap();
        let tokens = Tokens {
            rows: &rows,
            packing: &packing,
        };
        let list = PairList::new(&cpu, vec![[0, 1]]).unwrap();
        let mut scores = cpu.alloc(1).unwrap();
        let pairs = Pairs::Listed(&list);
        let error = maxsim(tokens, tokens, 8, pairs, Reduction::Sum, &mut scores, None);
        assert_eq!(
            error.unwrap_err().to_string(),
            "shape mismatch in maxsim: pairs: expected numbers of 1 queries and 1 documents, got 1 and 2"
        );
    }
}
