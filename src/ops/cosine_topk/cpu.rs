//! Search on the processor: blocks of rows are widened in cache, or in registers for few queries, multiplied with all
//! queries, and gated.

use std::cmp::Ordering;
use std::ops::Range;

use half::f16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::norms::inverse_norm;
use super::{Search, Shard, TopK};
use crate::ops::halves;
use crate::ops::matmul::few::{Few, STEP};

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

/// Rows that the CPU scores at once: with d = 384, 96 KiB of f32, a fraction of a core's second-level cache.
const CPU_BLOCK: usize = 64;

/// Queries up to which a search takes less time by another order of additions.
pub(crate) const FEW: usize = halves::MOST;

/// Queries multiplied at once with a block of rows; bounds the block's scores to 16 KiB.
const CPU_QUERIES: usize = 64;

pub(super) fn cosine_topk(search: &Search<'_>, found: &mut TopK) {
    let &Search { n_q, d, k, .. } = search;
    let mut queries = search.queries.host().to_vec();
    for q in queries.chunks_exact_mut(d) {
        let inverse = inverse_norm(q);
        q.iter_mut().for_each(|v| *v *= inverse);
    }
    let runs: Vec<Run<'_>> = (0..)
        .step_by(CPU_QUERIES)
        .zip(queries.chunks(CPU_QUERIES * d))
        .map(|(first, queries)| Run::new(first, queries, d, n_q <= FEW))
        .collect();
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
    // One share of blocks per thread: every split starts with an empty list and a low threshold, so few is fast.
    let share = blocks.len().div_ceil(rayon::current_num_threads());
    let candidates = blocks
        .par_chunks(share)
        .map(|blocks| {
            let mut best = vec![Candidates::new(k); n_q];
            let mut thresholds: Vec<Vec<f32>> = runs.iter().map(Run::thresholds).collect();
            let (mut wide, mut scores) = (Vec::new(), Vec::new());
            for (base, shard, range) in blocks {
                let rows = &shard.rows.host()[range.start * d..range.end * d];
                let norms = &shard.inverse_norms.host()[range.clone()];
                wide.clear();
                for (run, thresholds) in runs.iter().zip(&mut thresholds) {
                    run.score(rows, d, &mut wide, &mut scores);
                    let best = &mut best[run.first..][..run.asked];
                    gate(&scores, norms, base + range.start, filter, best, thresholds);
                }
            }
            best
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

/// Unit queries that are multiplied at once with a block of rows.
struct Run<'a> {
    /// The number of the first one.
    first: usize,
    asked: usize,
    how: How<'a>,
}

enum How<'a> {
    /// So few that rows are widened in registers.
    Dots(&'a [f32]),
    Columns(Few<'a>),
}

impl<'a> Run<'a> {
    fn new(first: usize, queries: &'a [f32], d: usize, few: bool) -> Self {
        let asked = queries.len() / d;
        let how = match few {
            true => How::Dots(queries),
            false => How::Columns(Few::new(queries, d)),
        };
        Run { first, asked, how }
    }

    /// What scores have to reach at first: nothing, and behind the queries what none does.
    fn thresholds(&self) -> Vec<f32> {
        let columns = match &self.how {
            How::Dots(_) => self.asked,
            How::Columns(few) => few.columns(),
        };
        let mut thresholds = vec![f32::NEG_INFINITY; columns];
        thresholds[self.asked..].fill(f32::INFINITY);
        thresholds
    }

    /// Products with `rows` `[n, d]`, those of a row side by side; `wide` is empty, or has been filled for these rows before.
    fn score(&self, rows: &[f16], d: usize, wide: &mut Vec<f32>, scores: &mut Vec<f32>) {
        match &self.how {
            How::Dots(queries) => {
                scores.resize(rows.len() / d * self.asked, 0.0);
                halves::dots(queries, rows, d, scores);
            }
            How::Columns(few) => {
                if wide.is_empty() {
                    // What is behind the rows has no norm, and is looked at by nobody.
                    wide.resize(rows.len().next_multiple_of(STEP * d), 0.0);
                    halves::widen(rows, &mut wide[..rows.len()]);
                }
                few.times(wide, scores);
            }
        }
    }
}

/// Offers `scores[r][q] * norms[r]`, rows `first + r`, to the lists of the queries. All of a row are compared with the
/// thresholds first; almost always none of them reaches its own.
#[multiversion(targets = "simd")]
fn gate(
    scores: &[f32],
    norms: &[f32],
    first: usize,
    filter: Option<&[u32]>,
    best: &mut [Candidates],
    thresholds: &mut [f32],
) {
    for (r, (scores, &inverse)) in scores.chunks_exact(thresholds.len()).zip(norms).enumerate() {
        let mut reached = false;
        for (&s, &threshold) in scores.iter().zip(thresholds.iter()) {
            reached |= s * inverse >= threshold;
        }
        let row = first + r;
        if !reached || !admits(filter, row) {
            continue;
        }
        for (q, candidates) in best.iter_mut().enumerate() {
            let score = scores[q] * inverse;
            if score >= candidates.threshold {
                candidates.push(score, row as u32);
                thresholds[q] = candidates.threshold;
            }
        }
    }
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
}
