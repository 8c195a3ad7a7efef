//! What the loss and its gradients are, and how far from them results may be.

use crate::ops::{Accum, Rounding};

/// The results of the definition, or their bounds.
pub struct Reference<A> {
    /// `[b]`.
    pub losses: Vec<A>,
    /// `[b, d]`.
    pub d_anchors: Vec<A>,
    /// `[m, d]`.
    pub d_candidates: Vec<A>,
}

/// Whether anchor `i` sees candidate `j`.
fn sees(owners: Option<&[Option<u32>]>, i: usize, j: usize) -> bool {
    let owner = owners.and_then(|owners| owners[j]);
    owner.is_none_or(|owner| owner as usize == i)
}

/// The definition, in loops; `owners` `[m]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    anchors: &[T],
    candidates: &[T],
    owners: Option<&[Option<u32>]>,
    d: usize,
    scale: f32,
    gradient_scale: f32,
) -> Reference<A> {
    let (b, m) = (anchors.len() / d, candidates.len() / d);
    let at = |rows: &[T], row: usize, c: usize| A::of(rows[row * d + c].into());
    let (zero, scale) = (A::of(0.0), A::of(scale.into()));
    let factor = A::of(gradient_scale.into()) * scale / A::of(b as f64);
    let mut all = Reference {
        losses: Vec::with_capacity(b),
        d_anchors: vec![zero; b * d],
        d_candidates: vec![zero; m * d],
    };
    for i in 0..b {
        let seen: Vec<usize> = (0..m).filter(|&j| sees(owners, i, j)).collect();
        let score = |j: usize| {
            let mut dot = zero;
            for c in 0..d {
                dot += at(anchors, i, c) * at(candidates, j, c);
            }
            dot * scale
        };
        let scores: Vec<A> = seen.iter().map(|&j| score(j)).collect();
        let max = scores
            .iter()
            .fold(scores[0], |max, &s| if s > max { s } else { max });
        let mut others = zero;
        let mut own = zero;
        for (&j, &s) in seen.iter().zip(&scores) {
            *(if j == i { &mut own } else { &mut others }) += (s - max).exp();
        }
        let total = others + own;
        all.losses.push(max - score(i) + total.ln());
        for (&j, &s) in seen.iter().zip(&scores) {
            let gradient = if j == i {
                zero - factor * others / total
            } else {
                factor * (s - max).exp() / total
            };
            for c in 0..d {
                all.d_anchors[i * d + c] += gradient * at(candidates, j, c);
                all.d_candidates[j * d + c] += gradient * at(anchors, i, c);
            }
        }
    }
    all
}

/// Follows the errors through the definition. With `S_ij = |scale| sum_c |a c|`, `x_ij = z_ij - max_j z_ij`, `p` the exact
/// softmax, and a sum of positive numbers of which every one is off by a share of itself being off by the mean of the shares:
///
/// * score: `e_ij = g(d + 1) S_ij`
/// * numerator `exp(x)`: off by the share `a_ij = (exp.0 + (exp.1 + 1) |x|) u` of itself, and flushed where it is tiny; that
///   of the arithmetic alone, over the sum: `R = sum_j p_ij a_ij + g(m)`
/// * loss: `sum_j p_ij e_ij` (the slope of a log-sum-exp is the softmax; where the softmax is meanwhile another one, it is by
///   a factor of `exp(2 max e)` at most) `+ e_ii + R / (1 - R) + ln max(1, ln sum) u + u (|max - z_ii| + |L|)`
/// * gradient of a score, other than the positive's: the share `r_ij = a_ij + R + e_ij + sum_k p_ik e_ik + (division + 3) u`;
///   the positive's, whose value is that of all others: the mean of theirs, and another `g(m)`; the factor of all, rounded on
///   the host, is among the three roundings. A share `r` makes an error of `r / (1 - r)`
/// * products with the gradients: `sum E |c| + g(m) sum (|G| + E) |c|`, and `g(b)` in the other direction
pub fn error_bound(
    anchors: &[f32],
    candidates: &[f32],
    owners: Option<&[Option<u32>]>,
    d: usize,
    scale: f32,
    gradient_scale: f32,
    rounding: &Rounding,
) -> Reference<f64> {
    let (b, m) = (anchors.len() / d, candidates.len() / d);
    let u = rounding.u;
    let tiny = f64::from(f32::MIN_POSITIVE);
    let row = |rows: &'_ [f32], i: usize| -> Vec<f64> {
        rows[i * d..][..d].iter().map(|&v| v.into()).collect()
    };
    let scale = f64::from(scale);
    let factor = f64::from(gradient_scale).abs() * scale.abs() / b as f64;
    // A share of a value, that comes to be in a denominator.
    let of_one = |share: f64| {
        if share < 1.0 {
            share / (1.0 - share)
        } else {
            f64::INFINITY
        }
    };
    let mut losses = Vec::with_capacity(b);
    // Magnitudes and errors of both products.
    let [mut to_anchors, mut to_candidates] =
        [b, m].map(|rows| [vec![0f64; rows * d], vec![0f64; rows * d]]);
    for i in 0..b {
        let a = row(anchors, i);
        let seen: Vec<usize> = (0..m).filter(|&j| sees(owners, i, j)).collect();
        let scored = |&j: &usize| {
            let (mut dot, mut magnitude) = (0.0, 0.0);
            for (a, c) in a.iter().zip(row(candidates, j)) {
                dot += a * c;
                magnitude += (a * c).abs();
            }
            let flushed = (d + 1) as f64 * tiny * scale.abs().max(1.0);
            let e = rounding.g(d + 1) * magnitude * scale.abs() + flushed;
            (dot * scale, e)
        };
        let (scores, e): (Vec<f64>, Vec<f64>) = seen.iter().map(scored).unzip();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let own = seen.iter().position(|&j| j == i).expect("a positive");
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / total).collect();
        let arithmetic: Vec<f64> = scores
            .iter()
            .map(|s| (rounding.exp.0 + (rounding.exp.1 + 1.0) * (max - s)) * u)
            .collect();
        let mean = |of: &[f64]| -> f64 { p.iter().zip(of).map(|(p, v)| p * v).sum() };
        let e_max = e.iter().copied().fold(0.0, f64::max);
        let e_scores = mean(&e) * (2.0 * e_max).exp();
        let flushed = m as f64 * tiny;
        let e_sum = mean(&arithmetic) + rounding.g(m) + flushed;
        let log = total.ln();
        let loss = max - scores[own] + log;
        let mut e_loss = e_scores + e[own] + of_one(e_sum) + rounding.ln * log.max(1.0) * u;
        e_loss += u * (max - scores[own] + e[own] + e_max + loss + e_loss);
        losses.push(rounding.store(loss, e_loss, 4));

        let share =
            |k: usize| arithmetic[k] + e_sum + e[k] + e_scores + (rounding.division + 3.0) * u;
        let (mut value, mut error) = (0.0, 0.0);
        let mut gradients = Vec::with_capacity(seen.len());
        for k in (0..seen.len()).filter(|&k| k != own) {
            let e = p[k] * of_one(share(k)) + tiny;
            value += p[k];
            error += e;
            gradients.push((seen[k], p[k], e));
        }
        let positive = error + (rounding.g(m) + e_sum + u) * (value + error) + tiny;
        gradients.push((i, value, positive));
        for (j, gradient, e) in gradients {
            let (gradient, e) = (factor * gradient, factor * e + tiny);
            let c = row(candidates, j);
            for k in 0..d {
                to_anchors[0][i * d + k] += (gradient + e) * c[k].abs();
                to_anchors[1][i * d + k] += e * c[k].abs();
                to_candidates[0][j * d + k] += (gradient + e) * a[k].abs();
                to_candidates[1][j * d + k] += e * a[k].abs();
            }
        }
    }
    let bound = |[magnitudes, errors]: [Vec<f64>; 2], terms: usize| {
        let of = |(magnitude, e): (f64, f64)| {
            let e = e + rounding.g(terms) * magnitude + terms as f64 * tiny;
            rounding.store(magnitude, e, 4)
        };
        magnitudes.into_iter().zip(errors).map(of).collect()
    };
    Reference {
        losses,
        d_anchors: bound(to_anchors, m),
        d_candidates: bound(to_candidates, b),
    }
}
