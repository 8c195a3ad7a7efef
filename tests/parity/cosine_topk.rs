//! Cases of `cosine_topk`: scores within their bound, and exactly the right rows up to what the bounds leave open.
//! Broken variant: one row of the right answer is lost (its vector replaced).

use std::collections::HashSet;

use nearmiss::device::{Buffer, Device};
use nearmiss::ops::cosine_topk::{
    NO_ID, Shard, TopK, cosine_topk, error_bound, inverse_norms, reference, reference_scores,
};

use half::f16;

use super::{
    Bits, Case, Noise, Outcome, Output, POISONS, anywhere, cast, line, rounding, twice,
    where_bindings_end, with_small_bindings,
};

#[derive(Clone, Copy, Debug)]
struct Shape {
    n_q: usize,
    n: usize,
    d: usize,
    k: usize,
    /// Keep only rows whose number is not a multiple of this (0: no filter).
    filter: usize,
    /// The corpus repeats itself after so many rows (0: it does not), which makes exact ties.
    period: usize,
    /// How the rows are ordered by their score with the first query.
    order: Order,
    /// Rows are turned so that none has a positive score with the first query.
    negative: bool,
    /// Pieces the corpus is stored in.
    shards: usize,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    /// As drawn.
    Random,
    /// The order that overflows a candidate list.
    Rising,
    /// The order in which a list that is cut badly loses what matters.
    Falling,
}

const PLAIN: Shape = Shape {
    n_q: 1,
    n: 257,
    d: 64,
    k: 10,
    filter: 0,
    period: 0,
    order: Order::Random,
    negative: false,
    shards: 1,
};

pub fn cases() -> Vec<Case> {
    let mut shapes = vec![
        PLAIN,
        Shape { n: 0, ..PLAIN },
        Shape {
            n: 1,
            k: 1,
            ..PLAIN
        },
        Shape { n_q: 0, ..PLAIN },
        Shape {
            n_q: 3,
            n: 31,
            d: 8,
            k: 33,
            ..PLAIN
        },
        Shape {
            n_q: 5,
            n: 1023,
            d: 384,
            k: 100,
            ..PLAIN
        },
        Shape {
            n_q: 33,
            n: 127,
            d: 1024,
            k: 1,
            ..PLAIN
        },
        Shape {
            n_q: 2,
            n: 9001,
            d: 32,
            k: 1000,
            ..PLAIN
        },
        Shape {
            n_q: 9,
            n: 6000,
            d: 40,
            k: 17,
            filter: 3,
            ..PLAIN
        },
        Shape {
            n_q: 4,
            n: 4500,
            d: 16,
            k: 64,
            period: 7,
            ..PLAIN
        },
        Shape {
            n_q: 1,
            n: 20_000,
            d: 8,
            k: 20,
            order: Order::Rising,
            ..PLAIN
        },
        // Scores that the bins of cosine_topk.ptx do not count: each block's lists fill up and are cut, once by score
        // and once, among rows that are all the same, by id.
        Shape {
            n_q: 1,
            n: 20_000,
            d: 8,
            k: 20,
            order: Order::Falling,
            negative: true,
            ..PLAIN
        },
        Shape {
            n_q: 1,
            n: 20_000,
            d: 8,
            k: 130,
            period: 2,
            negative: true,
            ..PLAIN
        },
        Shape {
            n_q: 2,
            n: 700,
            d: 24,
            k: 30,
            shards: 3,
            filter: 2,
            ..PLAIN
        },
        Shape {
            n_q: 130,
            n: 300,
            d: 16,
            k: 5,
            ..PLAIN
        },
    ];
    shapes.push(Shape {
        n_q: 2,
        n: 3000,
        d: 48,
        k: 2000,
        ..PLAIN
    });
    let mut cases: Vec<Case> = shapes
        .into_iter()
        .map(|shape| Case {
            op: "cosine_topk",
            name: format!("{shape:?}"),
            on: anywhere,
            run: Box::new(move |device| case(device, shape)),
        })
        .collect();
    // A corpus larger than one binding, on a device that is told so (only wgpu has such a limit).
    cases.push(Case {
        op: "cosine_topk",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            let shape = Shape {
                n_q: 3,
                n: 10_000,
                d: 64,
                k: 50,
                ..PLAIN
            };
            with_small_bindings(device, |small| case(small, shape))
        }),
    });
    // Peak memory must not grow with queries x rows.
    cases.push(Case {
        op: "cosine_topk",
        name: "memory does not grow with the corpus".into(),
        on: anywhere,
        run: Box::new(memory),
    });
    cases
}

/// The corpus on a device, in `shards` pieces.
struct Corpus {
    pieces: Vec<(Buffer<f16>, Output<f32>, usize)>,
}

impl Corpus {
    fn new(
        device: &Device,
        rows: &[f32],
        d: usize,
        shards: usize,
        poison: u32,
    ) -> nearmiss::Result<Self> {
        let n = rows.len() / d;
        let piece = n.div_ceil(shards).max(1);
        let pieces = rows
            .chunks(piece * d)
            .map(|rows| {
                let stored = device.upload(&cast::<f16>(rows))?;
                let n = rows.len() / d;
                let mut norms = Output::new(device, n, poison)?;
                inverse_norms(&stored, d, norms.target())?;
                norms.read()?; // for its guards
                Ok((stored, norms, n))
            })
            .collect::<nearmiss::Result<_>>()?;
        Ok(Corpus { pieces })
    }

    fn shards(&self) -> Vec<Shard<'_>> {
        self.pieces
            .iter()
            .map(|(rows, inverse_norms, n)| Shard {
                rows: rows.as_slice(),
                inverse_norms: inverse_norms.written(),
                n: *n,
            })
            .collect()
    }
}

fn case(device: &Device, shape: Shape) -> Result<Outcome, String> {
    let Shape {
        n_q,
        n,
        d,
        k,
        filter,
        period,
        order,
        negative,
        shards,
    } = shape;
    let mut noise = Noise::new(n * 17 + d + n_q);
    let queries = noise.normal(n_q * d, 1.0);
    let mut rows = noise.normal(n * d, 1.0);
    if period > 0 {
        for i in period * d..rows.len() {
            rows[i] = rows[i - period * d];
        }
    }
    if negative {
        for row in rows.chunks_exact_mut(d) {
            if reference_scores::<f64>(&queries[..d], row, d)[0] > 0.0 {
                row.iter_mut().for_each(|v| *v = -*v);
            }
        }
    }
    if !matches!(order, Order::Random) {
        let scores = reference_scores::<f64>(&queries, &rows, d);
        let mut ids: Vec<usize> = (0..n).collect();
        ids.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        if matches!(order, Order::Falling) {
            ids.reverse();
        }
        rows = ids
            .iter()
            .flat_map(|&r| rows[r * d..][..d].to_vec())
            .collect();
    }
    if n > 5 {
        rows[3 * d..4 * d].fill(0.0); // a zero row has cosine 0
    }
    let keep = |r: usize| filter == 0 || !r.is_multiple_of(filter);
    let words: Vec<u32> = (0..n.div_ceil(32))
        .map(|w| {
            (0..32)
                .filter(|b| w * 32 + b < n && keep(w * 32 + b))
                .fold(0, |bits, b| bits | 1 << b)
        })
        .collect();
    let run = |poison, rows: &[f32]| {
        let corpus = Corpus::new(device, rows, d, shards, poison)?;
        let words = device.upload(&words)?;
        cosine_topk(
            &device.upload(&queries)?,
            d,
            &corpus.shards(),
            (filter > 0).then(|| words.as_slice()),
            k,
        )
    };
    let scores = reference_scores::<f64>(&queries, &rows, d);
    let bounds = error_bound(&queries, &rows, d, &rounding(device));
    let found = twice(|poison| run(poison, &rows))?;
    let mut outcome = compare(&found, &scores, &bounds, n, &keep)?;
    if n > 5 && n_q > 0 {
        // Lose the best row of the first query: it turns away.
        let best = found.ids[0] as usize;
        let mut wrong = rows.clone();
        for (v, q) in wrong[best * d..][..d].iter_mut().zip(&queries) {
            *v = -q;
        }
        let broken = run(POISONS[0], &wrong).map_err(line)?;
        if compare(&broken, &scores, &bounds, n, &keep).is_ok() {
            return Err("the broken variant passes: the test cannot fail".into());
        }
        outcome.rejected += 1;
    }
    outcome.arithmetic_f32 = outcome.worst;
    Ok(outcome)
}

impl Bits for TopK {
    fn append_to(&self, bits: &mut Vec<u8>) {
        self.ids.append_to(bits);
        self.scores.append_to(bits);
    }
}

/// Holds a result against all scores. Order and membership may differ from the exact answer only between rows whose
/// scores are closer than the sum of their bounds; rows that are bit for bit equal must come lowest id first.
fn compare(
    found: &TopK,
    scores: &[f64],
    bounds: &[f64],
    n: usize,
    keep: &impl Fn(usize) -> bool,
) -> Result<Outcome, String> {
    let k = found.k;
    let mut outcome = Outcome::default();
    for (q, (scores, bounds)) in scores
        .chunks_exact(n.max(1))
        .zip(bounds.chunks_exact(n.max(1)))
        .enumerate()
    {
        let exact = reference(scores, k, keep);
        let got: Vec<(u32, f32)> = found.of(q).collect();
        if got.len() != exact.len() {
            return Err(format!(
                "query {q}: {} results, {} expected",
                got.len(),
                exact.len()
            ));
        }
        if found.ids[q * k + got.len()..(q + 1) * k]
            .iter()
            .any(|&id| id != NO_ID)
        {
            return Err(format!("query {q}: results after the end"));
        }
        let ids: HashSet<u32> = got.iter().map(|r| r.0).collect();
        if ids.len() != got.len() || got.iter().any(|r| !keep(r.0 as usize)) {
            return Err(format!(
                "query {q}: an id twice, or one that the filter excludes"
            ));
        }
        for (rank, &(id, score)) in got.iter().enumerate() {
            let (want, bound) = (scores[id as usize], bounds[id as usize]);
            let error = (f64::from(score) - want).abs();
            if error.is_nan() || error > bound {
                return Err(format!(
                    "query {q}, row {id}: score {score}, exact {want}, bound {bound:e}"
                ));
            }
            if error > 0.0 {
                outcome.worst = outcome.worst.max(error / bound);
            }
            if let Some(&(next, next_score)) = got.get(rank + 1)
                && (next_score > score || (next_score == score && next < id))
            {
                return Err(format!(
                    "query {q}: ranks {rank} and {} are out of order",
                    rank + 1
                ));
            }
            outcome.elements += 1;
        }
        // Whoever is left out must not be better than the last one by more than both bounds allow, nor equal with a
        // lower id when the rows are the same (equal exact scores and bounds).
        if let Some(&(last, _)) = got.last() {
            let (last_score, last_bound) = (scores[last as usize], bounds[last as usize]);
            for r in (0..n).filter(|&r| keep(r) && !ids.contains(&(r as u32))) {
                let same = scores[r] == last_score && bounds[r] == last_bound;
                if scores[r] > last_score + bounds[r] + last_bound || (same && (r as u32) < last) {
                    return Err(format!(
                        "query {q}: row {r} ({}) was left out for {last} ({last_score})",
                        scores[r]
                    ));
                }
            }
        }
    }
    Ok(outcome)
}

/// Eight times the rows, and the search's own memory stays what it was.
fn memory(device: &Device) -> Result<Outcome, String> {
    let (d, n_q, k) = (16, 64, 10);
    let own = |n: usize| -> Result<u64, String> {
        let mut noise = Noise::new(n);
        let empty = device.memory().in_use;
        let rows = noise.normal(n * d, 1.0);
        // With the second poison outputs have no guards.
        let corpus = Corpus::new(device, &rows, d, 1, POISONS[1]).map_err(line)?;
        let held = device.memory().in_use - empty;
        if held != (n * (2 * d + 4)) as u64 {
            return Err(format!(
                "{held} bytes for {n} rows of {d}: an f16 takes two"
            ));
        }
        let queries = device.upload(&noise.normal(n_q * d, 1.0)).map_err(line)?;
        device.reset_memory_peak();
        let before = device.memory().in_use;
        cosine_topk(&queries, d, &corpus.shards(), None, k).map_err(line)?;
        Ok(device.memory().peak - before)
    };
    // Hardware keeps lists for thousands of blocks in flight: it needs more rows before there is nothing to add.
    let n = if device.is_software() { 8_192 } else { 131_072 };
    let (small, large) = (own(n)?, own(8 * n)?);
    if small != large {
        return Err(format!("{small} bytes for {n} rows, {large} for {}", 8 * n));
    }
    if large >= (n_q * 8 * n * 4) as u64 {
        return Err(format!("{large} bytes: as much as all scores"));
    }
    Ok(Outcome {
        elements: 2,
        ..Default::default()
    })
}
