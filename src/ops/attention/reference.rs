//! What attention is, and how far from it a result may be.

use super::{KEYS, scale_of};
use crate::ops::{Accum, Rounding};

/// The definition, in loops; result `[t, d]`.
pub fn reference<A: Accum>(
    qkv: &[f32],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
) -> Vec<A> {
    let d = n_heads * head_dim;
    let at = |row: usize, which: usize, head: usize, c: usize| -> A {
        A::of(qkv[row * 3 * d + which * d + head * head_dim + c].into())
    };
    let scale = A::of(scale_of(head_dim).into());
    let mut out = vec![A::of(0.0); qkv.len() / 3];
    for text in offsets.windows(2) {
        let rows = text[0] as usize..text[1] as usize;
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
                let probs: Vec<A> = scores.iter().map(|&s| (s - max).exp()).collect();
                let mut total = A::of(0.0);
                for &p in &probs {
                    total += p;
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
    out
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
    let d = n_heads * head_dim;
    let u = rounding.u;
    let at = |row: usize, which: usize, head: usize, c: usize| {
        f64::from(qkv[row * 3 * d + which * d + head * head_dim + c])
    };
    let scale = f64::from(scale_of(head_dim));
    let mut bounds = vec![0.0; qkv.len() / 3];
    for text in offsets.windows(2) {
        let rows = text[0] as usize..text[1] as usize;
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
                    + rounding.division * u;
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for c in 0..head_dim {
                    let (mut value, mut magnitude, mut narrowed) = (0.0, 0.0, 0.0);
                    for (j, s) in rows.clone().zip(&scores) {
                        let v = at(j, 2, head, c);
                        let term = (s - max).exp() / total * v;
                        value += term;
                        magnitude += term.abs();
                        narrowed += v.abs() / total;
                    }
                    let e = relative / (1.0 - relative).max(0.5) * magnitude
                        + 2.0 * rounding.operand.1 * narrowed;
                    bounds[i * d + head * head_dim + c] = rounding.store(value, e, bytes);
                }
            }
        }
    }
    bounds
}
