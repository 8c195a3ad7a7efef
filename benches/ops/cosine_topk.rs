//! `cosine_topk`: one query is memory bound, hundreds are a matrix product; the result travels to the host each time,
//! except where a graph of searches is timed.
//!
//! A large corpus repeats a million rows. Where it is larger than 2^32 bytes, rows on both sides of that byte, and the
//! last row, are copies of queries, which the search must find.

use std::rc::Rc;

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Device, DeviceKind};
use nearmiss::ops::Rounding;
use nearmiss::ops::cosine_topk::{
    SPEC, Shard, TopK, cosine_topk, enqueue, error_bound, inverse_norms, reference_scores,
};
use rayon::prelude::*;

use super::{Case, Context, D_MODEL, Prepared, Recorded, Scale, json, noise, rounding, widen};

/// Queries whose whole ranking is checked.
const CHECKED_QUERIES: usize = 2;

/// Different rows; a larger corpus repeats them.
fn different(scale: Scale) -> usize {
    match scale {
        Scale::Quick => 300,
        _ => 1 << 20,
    }
}

#[derive(Clone, Copy)]
struct Shape {
    n_q: usize,
    n: usize,
    d: usize,
    k: usize,
}

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    // Rows, width, queries, k.
    type Corpus = (usize, usize, &'static [usize], &'static [usize]);
    let corpora: &[Corpus] = match context.scale {
        Scale::Quick => &[(700, D_MODEL, &[1, 3], &[10, 100])],
        Scale::Software => &[(20_000, D_MODEL, &[1, 32], &[10, 100])],
        Scale::Cpu => &[(100_000, D_MODEL, &[1, 32, 512], &[10, 100])],
        Scale::Gpu => &[
            (1_000_000, D_MODEL, &[1, 32, 64, 512], &[10, 100]),
            (1_000_000, 2 * D_MODEL, &[1, 32, 64, 512], &[100]),
            (10_000_000, D_MODEL, &[1, 32], &[100]),
        ],
    };
    let mut cases = Vec::new();
    for &(n, d, queries, ks) in corpora {
        for &n_q in queries {
            for &k in ks {
                let shape = Shape { n_q, n, d, k };
                cases.push(Case {
                    op: SPEC.name,
                    shape: format!("{n_q} queries, {n} x {d}, k = {k}"),
                    sizes: json!({"queries": n_q, "rows": n, "width": d, "k": k}),
                    needs: &[&SPEC],
                    prepare: Box::new(move |context| prepare(context, shape)),
                });
            }
        }
    }
    cases
}

/// Rows that repeat, but for a few.
struct Rows {
    block: Vec<f16>,
    d: usize,
    n: usize,
    planted: Vec<(usize, Vec<f16>)>,
}

impl Rows {
    fn new(context: &Context, n: usize, d: usize) -> Self {
        let different = different(context.scale).min(n);
        Rows {
            block: noise::<f16>(different * d, 1.0, 1),
            d,
            n,
            planted: Vec::new(),
        }
    }

    /// Puts copies of queries `[.., d]` where addresses need more than 32 bits (in the middle of what is smaller) and at
    /// the end.
    fn plant(&mut self, queries: &[f32]) {
        let beyond = (1usize << 32) / (2 * self.d);
        let middle = if beyond + 1 < self.n {
            beyond
        } else {
            self.n / 2
        };
        let queries: Vec<&[f32]> = queries.chunks_exact(self.d).collect();
        let rows = [middle - 1, middle, middle + 1, self.n - 1];
        let copies = rows.into_iter().enumerate().map(|(i, row)| {
            let query = queries[i % CHECKED_QUERIES * (queries.len() - 1)];
            (row, query.iter().map(|v| f16::from_f32(*v)).collect())
        });
        self.planted = copies.collect();
    }

    /// Rows in pieces that a kernel argument can span, each with its inverse norms.
    fn upload(&self, device: &Device) -> Result<Corpus> {
        let d = self.d;
        let most = (device.max_binding() / (2 * d) as u64).min(self.n as u64) as usize;
        let source = device.upload(&self.block)?;
        let different = self.block.len() / d;
        let mut pieces = Vec::new();
        for start in (0..self.n).step_by(most) {
            let rows = most.min(self.n - start);
            let mut piece = device.alloc::<f16>(rows * d)?;
            let mut at = 0;
            while at < rows {
                let from = (start + at) % different;
                let count = (different - from).min(rows - at);
                piece.copy_from(at * d, source.slice(from * d..(from + count) * d))?;
                at += count;
            }
            for (row, values) in &self.planted {
                if (start..start + rows).contains(row) {
                    piece.write((row - start) * d, values)?;
                }
            }
            let mut norms = device.alloc(rows)?;
            inverse_norms(&piece, d, &mut norms)?;
            pieces.push((piece, norms));
        }
        Ok(Corpus { pieces, d })
    }

    /// Score and bound of every row for `query`.
    fn exact(&self, query: &[f32], rounding: &Rounding) -> Vec<(f64, f64)> {
        let d = self.d;
        let of = |rows: &[f16]| -> Vec<(f64, f64)> {
            let rows = widen(rows);
            let scores = reference_scores::<f64>(query, &rows, d);
            let bounds = error_bound(query, &rows, d, rounding);
            scores.into_iter().zip(bounds).collect()
        };
        let block: Vec<(f64, f64)> = self.block.par_chunks(4096 * d).flat_map(of).collect();
        let mut all: Vec<(f64, f64)> = (0..self.n).map(|row| block[row % block.len()]).collect();
        for (row, values) in &self.planted {
            all[*row] = of(values)[0];
        }
        all
    }
}

/// A corpus on the device.
struct Corpus {
    pieces: Vec<(Buffer<f16>, Buffer<f32>)>,
    d: usize,
}

impl Corpus {
    fn shards(&self) -> Vec<Shard<'_>> {
        self.pieces
            .iter()
            .map(|(rows, inverse_norms)| Shard {
                rows: rows.as_slice(),
                inverse_norms: inverse_norms.as_slice(),
                n: inverse_norms.len(),
            })
            .collect()
    }

    fn search(&self, queries: &Buffer<f32>, k: usize) -> Result<TopK> {
        cosine_topk(queries, self.d, &self.shards(), None, k)
    }
}

fn prepare(context: &Context, Shape { n_q, n, d, k }: Shape) -> Result<Prepared> {
    let device = &context.device;
    let bytes = (n * (2 * d + 4)) as u64;
    let sets = context.sets(bytes);
    let asked = |set: u64| noise::<f32>(n_q * d, 1.0, 2 + set);
    let queries = asked(0);
    let mut rows = Rows::new(context, n, d);
    if n > different(context.scale) {
        rows.plant(&queries);
    }
    let mut inputs = Vec::new();
    for set in 0..sets {
        inputs.push((rows.upload(device)?, device.upload(&asked(set as u64))?));
    }
    let found = inputs[0].0.search(&inputs[0].1, k)?;
    let checked = n_q.min(CHECKED_QUERIES);
    // The first and the last query.
    let mut worst = 0f64;
    for i in 0..checked {
        let q = i * (n_q - 1);
        let exact = rows.exact(&queries[q * d..][..d], &rounding(context));
        worst = worst.max(check(&found, q, &exact));
    }
    let inputs = Rc::new(inputs);
    let recorded = match device.kind() {
        DeviceKind::Cuda => {
            let inputs = inputs.clone();
            Recorded::Without(Box::new(move |i| {
                let (corpus, queries) = &inputs[i % sets];
                enqueue(queries, d, &corpus.shards(), k)
            }))
        }
        _ => Recorded::Nothing,
    };
    Ok(Prepared {
        checked: checked * k,
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        recorded,
        items: (n_q as f64, "queries"),
        call: Box::new(move |i| {
            let (corpus, queries) = &inputs[i % sets];
            corpus.search(queries, k).map(drop)
        }),
    })
}

/// Largest `error / bound` of the scores of query `q`; infinite if a row is missing or out of order: whoever was left
/// out may be better than the last result by no more than both their bounds.
fn check(found: &TopK, q: usize, exact: &[(f64, f64)]) -> f64 {
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
