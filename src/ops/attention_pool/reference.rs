//! What pooling by attention is, and how far from it a result may be.

use super::TOTAL;
use crate::ops::attention::Dropped;
use crate::ops::{Accum, Rounding};

/// The definition, in loops: results `[n, d + 8]`, and the probabilities before dropout `[t]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    queries: &[T],
    rows: &[T],
    offsets: &[u32],
    d: usize,
    scale: f32,
    dropped: Dropped<'_>,
) -> (Vec<A>, Vec<A>) {
    let zero = A::of(0.0);
    let scale = A::of(scale.into());
    let mut out = vec![zero; (offsets.len() - 1) * (d + TOTAL)];
    let mut probabilities = Vec::with_capacity(rows.len() / d);
    for (text, span) in offsets.windows(2).enumerate() {
        let rows = rows[span[0] as usize * d..span[1] as usize * d].chunks_exact(d);
        let query = &queries[text * d..][..d];
        let scores: Vec<A> = rows
            .clone()
            .map(|row| {
                let mut dot = zero;
                for (&q, &r) in query.iter().zip(row) {
                    dot += A::of(q.into()) * A::of(r.into());
                }
                dot * scale
            })
            .collect();
        let Some(&first) = scores.first() else {
            continue;
        };
        let max = scores.iter().fold(first, |m, &s| if s > m { s } else { m });
        let mut sum = zero;
        for &s in &scores {
            sum += (s - max).exp();
        }
        let out = &mut out[text * (d + TOTAL)..][..=d];
        for ((j, row), &s) in rows.enumerate().zip(&scores) {
            let p = (s - max).exp() / sum;
            probabilities.push(p);
            let weight = p * factor::<A>(dropped, text, j);
            for (out, &r) in out.iter_mut().zip(row) {
                *out += weight * A::of(r.into());
            }
            out[d] += weight;
        }
    }
    (out, probabilities)
}

/// What the probability of row `j` of a text is multiplied by.
pub(in crate::ops) fn factor<A: Accum>(dropped: Dropped<'_>, text: usize, j: usize) -> A {
    let one = A::of(1.0);
    match dropped {
        None => one,
        Some((mask, numbers)) if mask.keeps(j, 0, numbers[text], 0) => {
            one / (one - A::of(mask.rate.into()))
        }
        Some(_) => A::of(0.0),
    }
}

/// Rows that are added before the sums are rescaled, at least.
const ROWS: usize = 8;

/// A numerator that is less may count as nothing.
const LOST: f64 = 2.0 * f32::MIN_POSITIVE as f64;

/// What a probability that stays may be off by where it is scaled: the host rounds `1 / (1 - rate)` twice to nearest, and
/// it is multiplied in.
pub(in crate::ops) fn e_kept(dropped: Dropped<'_>, u: f64) -> f64 {
    dropped.map_or(0.0, |_| 2.0 * 2f64.powi(-24) + u)
}

/// Errors of the results, stored with `bytes` bytes, and of the probabilities. With `S_j = scale sum |q row_j|`, `R` the
/// largest distance of a score to the text's maximum, `l` rows and `T = ceil(l / 8) + 1` steps of an online softmax, the
/// last of which joins partial sums:
///
/// * score: `e_j = g(d + 1) S_j`
/// * a numerator, relative: `eps = 2 max_j e_j + (exp.0 + (exp.1 + 1) R) u` for its own exponential, and as much again per
///   step for the rescaling by `exp(old max - new max)`, whose arguments add up to at most `R`:
///   `T (exp.0 + 2) u + (exp.1 + 1) R u`; in a sum of `l` of them `g(l + T)` more
/// * a probability, one exponential and one division: `e_p = eps + (eps + g(l + T)) + division u`, and the absolute loss of
///   a numerator that is too small for a normal number: `LOST`, as the largest numerator is 1
/// * a result `sum_j w_j x_j`, with the division in one factor: `(e_p + e_kept + g(l + T) + 2 u) sum_j w_j |x_j|` and
///   `LOST sum_j m_j |x_j|`, where `x_j` is an element of a row, or 1 for the total weight. What is dropped has no part
pub fn error_bound(
    queries: &[f32],
    rows: &[f32],
    offsets: &[u32],
    d: usize,
    scale: f32,
    dropped: Dropped<'_>,
    bytes: usize,
    rounding: &Rounding,
) -> (Vec<f64>, Vec<f64>) {
    let u = rounding.u;
    let scale = f64::from(scale);
    let mut bounds = vec![0.0; (offsets.len() - 1) * (d + TOTAL)];
    let mut of_probabilities = Vec::with_capacity(rows.len() / d);
    for (text, span) in offsets.windows(2).enumerate() {
        let rows = &rows[span[0] as usize * d..span[1] as usize * d];
        let query = &queries[text * d..][..d];
        let (mut scores, mut e_score) = (Vec::new(), 0f64);
        for row in rows.chunks_exact(d) {
            let products = || {
                query
                    .iter()
                    .zip(row)
                    .map(|(&q, &r)| f64::from(q) * f64::from(r))
            };
            scores.push(scale * products().sum::<f64>());
            let magnitude = scale.abs() * products().map(f64::abs).sum::<f64>();
            e_score = e_score.max(rounding.g(d + 1) * magnitude);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = scores.iter().map(|s| max - s).fold(0.0, f64::max);
        let (l, steps) = (scores.len(), scores.len().div_ceil(ROWS) + 1);
        let one = (rounding.exp.1 + 1.0) * range * u;
        let rescaled = steps as f64 * (rounding.exp.0 + 2.0) * u + one;
        let eps = 2.0 * e_score + rounding.exp.0 * u + one + rescaled;
        let sum = rounding.g(l + steps);
        let e_p = 2.0 * eps + sum + rounding.division * u;
        let relative = |e: f64| e / (1.0 - e).max(0.5);
        let of_results = relative(e_p + e_kept(dropped, u) + sum + 2.0 * u);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let out = &mut bounds[text * (d + TOTAL)..][..=d];
        let (mut values, mut terms) = (vec![0.0; d + 1], vec![0.0; d + 1]);
        for ((j, row), s) in rows.chunks_exact(d).enumerate().zip(&scores) {
            let p = (s - max).exp() / total;
            of_probabilities.push(rounding.store(p, relative(e_p) * p + LOST, 4));
            let m = factor::<f64>(dropped, text, j);
            let elements = row.iter().map(|&x| f64::from(x)).chain([1.0]);
            for ((value, term), x) in values.iter_mut().zip(&mut terms).zip(elements) {
                *value += m * p * x;
                *term += m * (of_results * p + LOST) * x.abs();
            }
        }
        for (out, (value, term)) in out.iter_mut().zip(values.into_iter().zip(terms)) {
            // Of no rows, or with all of them dropped, a zero.
            *out = if term == 0.0 {
                0.0
            } else {
                rounding.store(value, term, bytes)
            };
        }
    }
    (bounds, of_probabilities)
}
