//! MaxSim on the processor: products of runs of documents in cache, those of a document's token side by side for all of the
//! queries', so that maxima over documents' tokens are maxima of vectors.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Args, NO_WINNER, Reduction};
use crate::device::Float;
use crate::ops::matmul::few::{Few, STEP};
use crate::ops::token_pairs::{runs, widen, widen_to};
use crate::ops::{PairList, Pairs};

/// Elements of document tokens that a thread of the CPU widens and multiplies at once, if documents are that short: 128 KiB
/// of f32, a fraction of a core's second-level cache.
const CPU_VALUES: usize = 32 << 10;

/// Query tokens multiplied at once with them; with d = 128, bounds their products to 128 KiB.
const CPU_QUERY_TOKENS: usize = 128;

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

/// The largest products of every query token with the tokens of a document, which `products` `[document tokens, columns]`
/// are of, in the order of the query's `tokens` among the columns, summed up or averaged.
#[multiversion(targets = "simd")]
fn reduce(
    products: &[f32],
    columns: usize,
    tokens: Range<usize>,
    reduction: Reduction,
    winners: Option<&mut [u32]>,
    largest: &mut Vec<f32>,
) -> f32 {
    largest.clear();
    largest.resize(tokens.len(), f32::NEG_INFINITY);
    let rows = products.chunks_exact(columns.max(1));
    match winners {
        None => {
            for row in rows {
                for (largest, &v) in largest.iter_mut().zip(&row[tokens.clone()]) {
                    *largest = if v > *largest { v } else { *largest };
                }
            }
        }
        Some(winners) => {
            winners.fill(NO_WINNER);
            for (j, row) in rows.enumerate() {
                let row = &row[tokens.clone()];
                for ((largest, winner), &v) in largest.iter_mut().zip(&mut *winners).zip(row) {
                    // The first of equal ones.
                    if v > *largest || v == *largest && *winner == NO_WINNER {
                        (*largest, *winner) = (v, j as u32);
                    }
                }
            }
        }
    }
    if products.is_empty() {
        return 0.0;
    }
    let mut score = 0.0;
    for largest in largest.iter() {
        score += largest;
    }
    match reduction {
        Reduction::Sum => score,
        Reduction::Mean => score / tokens.len().max(1) as f32,
    }
}

/// The buffers of a thread.
#[derive(Default)]
struct Scratch {
    wide: Vec<f32>,
    products: Vec<f32>,
    largest: Vec<f32>,
}

impl Scratch {
    /// Rows `[n, d]` as f32, and zero up to whole steps of rows, which is looked at by nobody.
    fn widen<T: Float>(&mut self, rows: &[T], d: usize) {
        self.wide.clear();
        self.wide.resize(rows.len().next_multiple_of(STEP * d), 0.0);
        widen_to(rows, &mut self.wide[..rows.len()]);
    }

    /// Of what was multiplied, the document that some `rows` are of and the query that some of the columns are of.
    fn reduce(
        &mut self,
        rows: Range<usize>,
        few: &Few<'_>,
        asked: Range<usize>,
        reduction: Reduction,
        winners: Option<&mut [u32]>,
    ) -> f32 {
        let columns = few.columns();
        let products = &self.products[rows.start * columns..rows.end * columns];
        reduce(
            products,
            columns,
            asked,
            reduction,
            winners,
            &mut self.largest,
        )
    }
}

/// The buffers of a thread that scores listed pairs, and the query of the last one.
#[derive(Default)]
struct Listed {
    scratch: Scratch,
    query: Option<(u32, Few<'static>)>,
}

/// Every query with every document: runs of documents are widened once and multiplied with all queries.
fn all<T: Float>(args: &Args<'_, T>, scores: &mut [f32], mut winners: Option<&mut [u32]>) {
    let (d, longest) = (args.d, args.longest);
    let (q_offsets, c_offsets) = (
        args.queries.packing.offsets(),
        args.documents.packing.offsets(),
    );
    let n_c = c_offsets.len() - 1;
    let span = |offsets: &[u32], run: &Range<usize>| {
        offsets[run.start] as usize..offsets[run.end] as usize
    };
    let mut queries = Vec::new();
    widen(args.queries.rows.host(), &mut queries);
    let query_runs: Vec<(Range<usize>, usize, Few<'_>)> = runs(q_offsets, CPU_QUERY_TOKENS)
        .into_iter()
        .map(|run| {
            let asked = span(q_offsets, &run);
            let few = Few::new(&queries[asked.start * d..asked.end * d], d);
            (run, asked.start, few)
        })
        .collect();
    let stored = args.documents.rows.host();
    let with_winners = winners.is_some();
    // Scores of a run of documents lie apart, one piece per query: each run returns its own, put in place at the end.
    let found: Vec<(Range<usize>, Vec<f32>, Vec<u32>)> = runs(c_offsets, CPU_VALUES / d)
        .into_par_iter()
        .map_init(Scratch::default, |scratch, run| {
            let tokens = span(c_offsets, &run);
            let rows = &stored[tokens.start * d..tokens.end * d];
            let mut scores = vec![0.0; run.len() * (q_offsets.len() - 1)];
            let places = if with_winners {
                longest * scores.len()
            } else {
                0
            };
            let mut winners = vec![NO_WINNER; places];
            scratch.widen(rows, d);
            for (query_run, first, few) in &query_runs {
                few.times(&scratch.wide, &mut scratch.products);
                for q in query_run.clone() {
                    let asked = q_offsets[q] as usize - first..q_offsets[q + 1] as usize - first;
                    for (i, c) in run.clone().enumerate() {
                        let rows = c_offsets[c] as usize - tokens.start
                            ..c_offsets[c + 1] as usize - tokens.start;
                        let at = q * run.len() + i;
                        let winners =
                            with_winners.then(|| &mut winners[at * longest..(at + 1) * longest]);
                        scores[at] =
                            scratch.reduce(rows, few, asked.clone(), args.reduction, winners);
                    }
                }
            }
            (run, scores, winners)
        })
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
    let one = |scratch: &mut Listed, pair: &[u32; 2], winners: Option<&mut [u32]>| {
        let query = args.queries.host(pair[0], d);
        // The candidates of a query follow each other.
        let few = match &mut scratch.query {
            Some((number, few)) if *number == pair[0] => few,
            query_before => {
                let mut wide = Vec::new();
                widen(query, &mut wide);
                &mut query_before.insert((pair[0], Few::new(wide, d))).1
            }
        };
        let document = args.documents.host(pair[1], d);
        scratch.scratch.widen(document, d);
        few.times(&scratch.scratch.wide, &mut scratch.scratch.products);
        let (rows, asked) = (0..document.len() / d, 0..query.len() / d);
        (scratch.scratch).reduce(rows, few, asked, args.reduction, winners)
    };
    match winners {
        Some(winners) if longest > 0 => list
            .pairs()
            .par_iter()
            .zip(scores)
            .zip(winners.par_chunks_exact_mut(longest))
            .for_each_init(Listed::default, |scratch, ((pair, score), winners)| {
                *score = one(scratch, pair, Some(winners));
            }),
        _ => (list.pairs().par_iter().zip(scores)).for_each_init(
            Listed::default,
            |scratch, (pair, score)| {
                *score = one(scratch, pair, None);
            },
        ),
    }
}
