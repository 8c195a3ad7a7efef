//! `cosine_topk`: one query is memory bound, hundreds are a matrix product; the result travels to the host each time.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Device};
use nearmiss::ops::Rounding;
use nearmiss::ops::cosine_topk::{
    SPEC, Shard, TopK, cosine_topk, error_bound, inverse_norms, reference_scores,
};
use rayon::prelude::*;

use super::{Case, Context, D_MODEL, Prepared, Scale, noise, rounding, widen};

/// Queries whose whole ranking is checked.
const CHECKED_QUERIES: usize = 2;

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (n, queries): (usize, &[usize]) = match context.scale {
        Scale::Quick => (700, &[1, 3]),
        Scale::Software => (20_000, &[1, 32]),
        Scale::Cpu => (100_000, &[1, 32, 512]),
        Scale::Gpu => (1_000_000, &[1, 32, 512]),
    };
    let mut cases = Vec::new();
    for &n_q in queries {
        for k in [10, 100] {
            cases.push(Case {
                op: SPEC.name,
                shape: format!("{n_q} queries, {n} x {D_MODEL}, k = {k}"),
                needs: &[&SPEC],
                prepare: Box::new(move |context| prepare(context, n_q, n, k)),
            });
        }
    }
    cases
}

/// A corpus on the device, in pieces that a kernel argument can span.
struct Corpus(Vec<(Buffer<f16>, Buffer<f32>)>);

impl Corpus {
    fn new(device: &Device, rows: &[f16]) -> Result<Self> {
        let most = (device.max_binding() / (2 * D_MODEL) as u64).min(rows.len() as u64);
        let pieces = rows.chunks(most as usize * D_MODEL).map(|piece| {
            let stored = device.upload(piece)?;
            let mut norms = device.alloc(piece.len() / D_MODEL)?;
            inverse_norms(&stored, D_MODEL, &mut norms)?;
            Ok((stored, norms))
        });
        pieces.collect::<Result<_>>().map(Corpus)
    }

    fn search(&self, queries: &Buffer<f32>, k: usize) -> Result<TopK> {
        let shards: Vec<Shard<'_>> = self
            .0
            .iter()
            .map(|(rows, inverse_norms)| Shard {
                rows: rows.as_slice(),
                inverse_norms: inverse_norms.as_slice(),
                n: inverse_norms.len(),
            })
            .collect();
        cosine_topk(queries, D_MODEL, &shards, None, k)
    }
}

fn prepare(context: &Context, n_q: usize, n: usize, k: usize) -> Result<Prepared> {
    let device = &context.device;
    let bytes = (n * (2 * D_MODEL + 4)) as u64;
    let sets = context.sets(bytes);
    let rows = noise::<f16>(n * D_MODEL, 1.0, 1);
    let mut inputs = Vec::new();
    for set in 0..sets {
        let queries = noise::<f32>(n_q * D_MODEL, 1.0, 2 + set as u64);
        inputs.push((Corpus::new(device, &rows)?, device.upload(&queries)?));
    }
    let found = inputs[0].0.search(&inputs[0].1, k)?;
    let queries = noise::<f32>(n_q * D_MODEL, 1.0, 2);
    let checked = n_q.min(CHECKED_QUERIES);
    // The first and the last query.
    let mut worst = 0f64;
    for i in 0..checked {
        let q = i * (n_q - 1);
        let query = &queries[q * D_MODEL..][..D_MODEL];
        worst = worst.max(check(&found, q, query, &rows, &rounding(context)));
    }
    Ok(Prepared {
        checked: checked * k,
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        items: (n_q as f64, "queries"),
        call: Box::new(move |i| {
            let (corpus, queries) = &inputs[i % sets];
            corpus.search(queries, k).map(drop)
        }),
    })
}

/// Largest `error / bound` of the scores of query `q`; infinite if a row is missing or out of order: whoever was left
/// out may be better than the last result by no more than both their bounds.
fn check(found: &TopK, q: usize, query: &[f32], rows: &[f16], rounding: &Rounding) -> f64 {
    let exact: Vec<(f64, f64)> = rows
        .par_chunks(4096 * D_MODEL)
        .flat_map(|piece| {
            let piece = widen(piece);
            let scores = reference_scores::<f64>(query, &piece, D_MODEL);
            let bounds = error_bound(query, &piece, D_MODEL, rounding);
            scores.into_iter().zip(bounds).collect::<Vec<_>>()
        })
        .collect();
    let got: Vec<(u32, f32)> = found.of(q).collect();
    let mut taken = vec![false; exact.len()];
    let mut worst = 0f64;
    for (rank, &(id, score)) in got.iter().enumerate() {
        let (want, bound) = exact[id as usize];
        let error = (f64::from(score) - want).abs();
        let ordered = rank == 0 || got[rank - 1].1 >= score;
        if taken[id as usize] || !ordered || error.is_nan() {
            return f64::INFINITY;
        }
        taken[id as usize] = true;
        worst = worst.max(error / bound);
    }
    let Some(&(last, _)) = got.last().filter(|_| got.len() == found.k.min(exact.len())) else {
        return f64::INFINITY;
    };
    let (last, last_bound) = exact[last as usize];
    let missed = exact
        .iter()
        .zip(&taken)
        .any(|((score, bound), taken)| !taken && *score > last + last_bound + bound);
    if missed { f64::INFINITY } else { worst }
}
