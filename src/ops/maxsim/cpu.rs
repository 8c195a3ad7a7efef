//! MaxSim on the processor: products of runs of documents in cache, reduced there.

use std::ops::Range;

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Args, NO_WINNER, Reduction};
use crate::device::Float;
use crate::ops::matmul::product;
use crate::ops::token_pairs::{runs, widen};
use crate::ops::{PairList, Pairs, simd};

/// Tokens that a thread of the CPU widens and multiplies at once, if documents are that short: with d = 128, 256 KiB of
/// f32, which a core's second-level cache holds.
const CPU_TOKENS: usize = 512;

/// Query tokens multiplied at once with them; bounds their products to 512 KiB.
const CPU_QUERY_TOKENS: usize = 256;

pub(super) fn maxsim<T: Float>(
    args: &Args<'_, T>,
    scores: &mut [f32],
    winners: Option<&mut [u32]>,
) {
    match args.pairs {
        Pairs::All => all(args, scores, winners),
        Pairs::Listed(list) => listed(args, list, scores, winners),
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
fn all<T: Float>(args: &Args<'_, T>, scores: &mut [f32], mut winners: Option<&mut [u32]>) {
    let (d, longest) = (args.d, args.longest);
    let (q_offsets, c_offsets) = (
        args.queries.packing.offsets(),
        args.documents.packing.offsets(),
    );
    let n_c = c_offsets.len() - 1;
    let mut queries = Vec::new();
    widen(args.queries.rows.host(), &mut queries);
    let query_runs = runs(q_offsets, CPU_QUERY_TOKENS);
    let stored = args.documents.rows.host();
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
                        product(rows, wide, products, m, n, d, Parallelism::None);
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
                            scores[at] = reduce(products, n, columns, args.reduction, winners);
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
fn listed<T: Float>(
    args: &Args<'_, T>,
    list: &PairList,
    scores: &mut [f32],
    winners: Option<&mut [u32]>,
) {
    let (d, longest) = (args.d, args.longest);
    let one = |scratch: &mut [Vec<f32>; 3], pair: &[u32; 2], winners: Option<&mut [u32]>| {
        let [query, document, products] = scratch;
        widen(args.queries.host(pair[0], d), query);
        widen(args.documents.host(pair[1], d), document);
        let (m, n) = (query.len() / d, document.len() / d);
        products.resize(m * n, 0.0);
        if m * n > 0 {
            product(query, document, products, m, n, d, Parallelism::None);
        }
        reduce(products, n, 0..n, args.reduction, winners)
    };
    let scratch = || [const { Vec::new() }; 3];
    match winners {
        Some(winners) if longest > 0 => list
            .pairs()
            .par_iter()
            .zip(scores)
            .zip(winners.par_chunks_exact_mut(longest))
            .for_each_init(scratch, |scratch, ((pair, score), winners)| {
                *score = one(scratch, pair, Some(winners));
            }),
        _ => (list.pairs().par_iter().zip(scores)).for_each_init(
            scratch,
            |scratch, (pair, score)| {
                *score = one(scratch, pair, None);
            },
        ),
    }
}
