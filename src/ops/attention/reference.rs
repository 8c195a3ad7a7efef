//! What attention is, and how far from it a result may be.

use super::{KEYS, scale_of};
use crate::ops::dropout::Mask;
use crate::ops::{Accum, Rounding};

/// The mask of the probabilities, and the numbers of the texts in their batch.
pub type Dropped<'a> = Option<(Mask, &'a [u32])>;

/// The definition, in loops; result `[t, d]`.
pub fn reference<A: Accum>(
    qkv: &[impl Copy + Into<f64>],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
) -> Vec<A> {
    reference_saving(qkv, offsets, n_heads, head_dim, None).0
}

/// The definition with what training adds: probabilities are dropped after the softmax, so the denominators are those of
/// all. Results `[t, d]` and the log-sum-exp of every row's scores, `[t, n_heads]`.
pub fn reference_saving<A: Accum>(
    qkv: &[impl Copy + Into<f64>],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
    dropped: Dropped<'_>,
) -> (Vec<A>, Vec<A>) {
    let d = n_heads * head_dim;
    let at = |row: usize, which: usize, head: usize, c: usize| -> A {
        A::of(qkv[row * 3 * d + which * d + head * head_dim + c].into())
    };
    let scale = A::of(scale_of(head_dim).into());
    let mut out = vec![A::of(0.0); qkv.len() / 3];
    let mut statistics = vec![A::of(0.0); out.len() / head_dim.max(1)];
    for (text, span) in offsets.windows(2).enumerate() {
        let rows = span[0] as usize..span[1] as usize;
        for head in 0..n_heads {
            for i in rows.clone() {
                let scores: Vec<A> = rows
                    .clone()
                    .map(|j| {
                        let mut dot = A::of(0.0);
                        for c in 0..head_dim {
                            dot += at(i, 0, head, c) * at(j, 1, head, c);
                        }
                        dot * scale
                    })
                    .collect();
                let max = scores
                    .iter()
                    .fold(scores[0], |m, &s| if s > m { s } else { m });
                let mut probs: Vec<A> = scores.iter().map(|&s| (s - max).exp()).collect();
                let mut total = A::of(0.0);
                for &p in &probs {
                    total += p;
                }
                statistics[i * n_heads + head] = max + A::of(total.to_f64().ln());
                if let Some((mask, numbers)) = dropped {
                    let kept = A::of(1.0) / (A::of(1.0) - A::of(mask.rate.into()));
                    for (j, p) in probs.iter_mut().enumerate() {
                        let stays = mask.keeps(j, i - rows.start, numbers[text], head);
                        *p = if stays { *p * kept } else { A::of(0.0) };
                    }
                }
                for c in 0..head_dim {
                    let mut sum = A::of(0.0);
                    for (j, &p) in rows.clone().zip(&probs) {
                        sum += p * at(j, 2, head, c);
                    }
                    out[i * d + head * head_dim + c] = sum / total;
                }
            }
        }
    }
    (out, statistics)
}

/// Error of each output, stored with `bytes` bytes. With `S_j = scale sum |q k_j|`, `R` the largest distance of a
/// score to the row's maximum, `T = ceil(l / 8)` steps of an online softmax and `w_j` the exact probabilities:
///
/// * score: `e_j = g(head_dim + 1) S_j`
/// * a probability's numerator, relative: `eps = 2 max_j e_j + (exp.0 + (exp.1 + 1) R) u` for its own exponential,
///   and as much again per step for the rescaling by `exp(old max - new max)`, whose arguments add up to at most `R`:
///   `T (exp.0 + 2) u + (exp.1 + 1) R u`
/// * a numerator as the operand of a matrix unit: `operand.0` relative and, below the normal range, `operand.1` absolute.
///   The largest numerator of the keys so far is at least 1 (more where the maximum lags behind), later rescaling only
///   shrinks the error, and the sum of the numerators is taken before they are narrowed: `operand.1` times
///   `1 / sum_j exp(s_j - max)` for each value, twice since a rounded maximum may leave a little less than 1
/// * sums over `l` terms with `T` rescalings: `g(l + T)`, in numerator and denominator, then one division:
///   `(2 eps + operand.0 + 2 g(l + T) + division u) sum_j w_j |v_j| + 2 operand.1 sum_j |v_j| / sum_j exp(s_j - max)`
pub fn error_bound(
    qkv: &[f32],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    error_bound_saving(qkv, offsets, n_heads, head_dim, None, bytes, rounding).0
}

/// The same with what training adds; errors of the outputs and of the statistics.
///
/// * a dropped probability is exactly 0 and its value has no part in an output; for the others `1 / (1 - rate)` is rounded
///   twice to nearest by the host, and multiplied in: `2 * 2^-24 + 2 u` relative
/// * log-sum-exp `L = max + ln(sum)`: the rounding of either is a relative error of the sum, however far the maximum lags
///   behind, so `e = max_j e_j + eps + g(l + T)`, the logarithm's own error `ln.0 u |ln sum| + ln.1`, and where exponents
///   are to base 2 the maximum and the sum come back by products: `4 u (|max| + |ln sum|) + u |L|`. A maximum that lags
///   behind does so by at most 8 octaves: `|ln sum| <= ln l + 6`.
pub fn error_bound_saving(
    qkv: &[f32],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
    dropped: Dropped<'_>,
    bytes: usize,
    rounding: &Rounding,
) -> (Vec<f64>, Vec<f64>) {
    let d = n_heads * head_dim;
    let u = rounding.u;
    let at = |row: usize, which: usize, head: usize, c: usize| {
        f64::from(qkv[row * 3 * d + which * d + head * head_dim + c])
    };
    let scale = f64::from(scale_of(head_dim));
    let mut bounds = vec![0.0; qkv.len() / 3];
    let mut of_statistics = vec![0.0; bounds.len() / head_dim.max(1)];
    let kept = dropped.map_or(1.0, |(mask, _)| 1.0 / (1.0 - f64::from(mask.rate)));
    let e_kept = dropped.map_or(0.0, |_| 2.0 * 2f64.powi(-24) + 2.0 * u);
    for (text, span) in offsets.windows(2).enumerate() {
        let rows = span[0] as usize..span[1] as usize;
        let l = rows.len();
        let steps = l.div_ceil(KEYS);
        for head in 0..n_heads {
            for i in rows.clone() {
                let mut scores = Vec::with_capacity(l);
                let mut e_score = 0f64;
                for j in rows.clone() {
                    let (mut dot, mut magnitude) = (0.0, 0.0);
                    for c in 0..head_dim {
                        let product = at(i, 0, head, c) * at(j, 1, head, c);
                        dot += product;
                        magnitude += f64::abs(product);
                    }
                    scores.push(dot * scale);
                    e_score = e_score.max(rounding.g(head_dim + 1) * magnitude * scale);
                }
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let range = scores.iter().map(|s| max - s).fold(0.0, f64::max);
                let one = (rounding.exp.1 + 1.0) * range * u;
                let eps = 2.0 * e_score
                    + rounding.exp.0 * u
                    + one
                    + steps as f64 * (rounding.exp.0 + 2.0) * u
                    + one;
                let relative = 2.0 * eps
                    + rounding.operand.0
                    + 2.0 * rounding.g(l + steps)
                    + rounding.division * u
                    + e_kept;
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                of_statistics[i * n_heads + head] = {
                    let log = (l as f64).ln() + 6.0;
                    let e = e_score + eps + rounding.g(l + steps);
                    let e = e / (1.0 - e).max(0.5) + rounding.ln * log.max(1.0) * u;
                    let value = max + total.ln();
                    let e = e + 4.0 * u * (max.abs() + log) + u * value.abs();
                    rounding.store(value, e, 4)
                };
                let stays = |j: usize| {
                    dropped.is_none_or(|(mask, numbers)| {
                        mask.keeps(j, i - rows.start, numbers[text], head)
                    })
                };
                let stays: Vec<bool> = (0..l).map(stays).collect();
                for c in 0..head_dim {
                    let (mut value, mut magnitude, mut narrowed) = (0.0, 0.0, 0.0);
                    for (j, s) in scores.iter().enumerate().filter(|&(j, _)| stays[j]) {
                        let v = at(rows.start + j, 2, head, c);
                        let term = kept * (s - max).exp() / total * v;
                        value += term;
                        magnitude += term.abs();
                        narrowed += kept * v.abs() / total;
                    }
                    let e = relative / (1.0 - relative).max(0.5) * magnitude
                        + 2.0 * rounding.operand.1 * narrowed;
                    bounds[i * d + head * head_dim + c] = rounding.store(value, e, bytes);
                }
            }
        }
    }
    (bounds, of_statistics)
}
