//! Search on the processor: blocks of rows are widened in cache, multiplied with all queries, and gated.

use std::cmp::Ordering;
use std::ops::Range;

use gemm::Parallelism;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

use super::norms::inverse_norm;
use super::{Search, Shard, TopK};
use crate::ops::matmul::product;

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

pub(super) fn cosine_topk(search: &Search<'_>, found: &mut TopK) {
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
                    product(queries, wide, scores, m, n, d, Parallelism::None);
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
