//! What the alignment is, and how far from it a score may be.

use super::Alignment;
use crate::ops::{Accum, Rounding, similarity_map};

/// What becomes of a map `[l_q, l_c]`, in any precision.
pub(in crate::ops) fn align<A: Accum>(map: &[A], l_c: usize, alignment: &Alignment) -> A {
    let number = |v: f32| A::of(v.into());
    let (mut sum, mut penalty) = (A::of(0.0), A::of(0.0));
    let (mut l_q, mut neighbours) = (0, 0);
    let mut before: Option<A> = None;
    for (i, row) in map.chunks_exact(l_c.max(1)).enumerate() {
        l_q += 1;
        let logit = |j: usize| {
            let distance = number(alignment.distance) * A::of(i.abs_diff(j) as f64);
            (row[j] - distance) / number(alignment.temperature)
        };
        let candidates = || (0..row.len()).filter(|&j| alignment.admits(i, j));
        let largest = candidates()
            .map(logit)
            .reduce(|a, b| if b > a { b } else { a });
        let mut position = None;
        if let Some(largest) = largest {
            let (mut total, mut value, mut place) = (A::of(0.0), A::of(0.0), A::of(0.0));
            for j in candidates() {
                let weight = (logit(j) - largest).exp();
                total += weight;
                value += weight * row[j];
                place += weight * A::of(j as f64);
            }
            sum += value / total;
            position = Some(place / total);
        }
        if let (Some(before), Some(position)) = (before, position) {
            neighbours += 1;
            if before > position {
                penalty += (before - position) * (before - position);
            }
        }
        before = position;
    }
    let score = sum / A::of(f64::from(l_q.max(1)));
    if alignment.monotonicity > 0.0 && neighbours > 0 {
        score - number(alignment.monotonicity) * penalty / A::of(f64::from(neighbours))
    } else {
        score
    }
}

/// The definition, for one pair of token matrices.
pub fn reference<A: Accum>(query: &[f32], document: &[f32], d: usize, alignment: &Alignment) -> A {
    let map = similarity_map::reference::<A>(query, document, d);
    if map.is_empty() {
        return A::of(0.0);
    }
    align(&map, document.len() / d, alignment)
}

/// Document tokens that a device takes at least between two rescalings by a new maximum.
const STEP: usize = 4;

/// Error of the score of one pair. With `e_j` the error of a product (`g(d) sum |q c|`), `z_j` the logits, `w_j` the
/// exact weights, `R_j = max z - z_j` and `T` the rescalings by a new maximum (one per four tokens, and eight to merge
/// what threads have found):
///
/// * logit: `z_j` is off by `(e_j + u lambda |i - j| + u |M_j - lambda |i - j||) / tau + (division + 1) u |z_j|`; the
///   maximum that is subtracted cancels, whatever it is
/// * a weight before its division, relative: `eps_j` = that, `u R_j` for the difference, `(exp.0 + exp.1 R_j) u` for the
///   exponential, and the same again for the rescalings, whose arguments add up to `R_j`: `T (exp.0 + 2) u + (exp.1 + 1)
///   R_j u`
/// * a mean `v` of values `x_j`: `sum_j w_j (eps_j (|x_j| + |v|) + e(x_j))`, `2 g(l_c + T) sum_j w_j |x_j|` for the sums
///   above and below, and a division
/// * the penalty's terms `D = max(p_i - p_{i+1}, 0)` with errors `e`: `2 D e + e^2` and three roundings of `D^2`
/// * sums over `l_q` terms, one division each, and a product and a difference with the penalty
pub fn error_bound(
    query: &[f32],
    document: &[f32],
    d: usize,
    alignment: &Alignment,
    rounding: &Rounding,
) -> f64 {
    let u = rounding.u;
    let map = similarity_map::reference::<f64>(query, document, d);
    if map.is_empty() {
        return 0.0;
    }
    let errors = similarity_map::error_bound(query, document, d, rounding);
    let (l_q, l_c) = (query.len() / d, document.len() / d);
    let steps = l_c.div_ceil(STEP) + 8;
    let sums = 2.0 * rounding.g(l_c + steps);
    let lambda = f64::from(alignment.distance);
    let tau = f64::from(alignment.temperature);
    let gamma = f64::from(alignment.monotonicity);
    let (mut score, mut score_error, mut magnitude) = (0.0, 0.0, 0.0);
    let (mut penalty, mut penalty_error, mut neighbours) = (0.0, 0.0, 0usize);
    let mut before: Option<(f64, f64)> = None;
    for i in 0..l_q {
        let (row, errors) = (
            &map[i * l_c..(i + 1) * l_c],
            &errors[i * l_c..(i + 1) * l_c],
        );
        let candidates: Vec<usize> = (0..l_c).filter(|&j| alignment.admits(i, j)).collect();
        let distance = |j: usize| lambda * i.abs_diff(j) as f64;
        let logits: Vec<f64> = candidates
            .iter()
            .map(|&j| (row[j] - distance(j)) / tau)
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
        // Weights and their relative errors.
        let weighted: Vec<(usize, f64, f64)> = candidates
            .iter()
            .zip(&logits)
            .map(|(&j, z)| {
                let range = largest - z;
                let of_logit = (errors[j] + u * distance(j) + u * f64::abs(row[j] - distance(j)))
                    / tau
                    + (rounding.division + 1.0) * u * z.abs();
                let exponents = u * range
                    + (rounding.exp.0 + rounding.exp.1 * range) * u
                    + steps as f64 * (rounding.exp.0 + 2.0) * u
                    + (rounding.exp.1 + 1.0) * range * u;
                (
                    j,
                    (z - largest).exp() / total,
                    of_logit.exp_m1() + exponents,
                )
            })
            .collect();
        let mean = |x: &dyn Fn(usize) -> (f64, f64)| -> (f64, f64) {
            let value: f64 = weighted.iter().map(|&(j, w, _)| w * x(j).0).sum();
            let (mut error, mut size) = (0.0, 0.0);
            for &(j, w, eps) in &weighted {
                let (x, e) = x(j);
                error += w * (eps * (x.abs() + value.abs()) + e);
                // What is flushed to zero.
                error += f64::from(f32::MIN_POSITIVE) * (x.abs() + value.abs());
                size += w * x.abs();
            }
            (
                value,
                error + sums * size + rounding.division * u * value.abs(),
            )
        };
        if candidates.is_empty() {
            before = None;
            continue;
        }
        let (value, error) = mean(&|j| (row[j], errors[j]));
        score += value;
        score_error += error;
        magnitude += value.abs() + error;
        let (position, error) = mean(&|j| (j as f64, 0.0));
        if let Some((last, last_error)) = before {
            let step = last - position;
            let error = error + last_error + u * step.abs();
            let back = step.max(0.0);
            neighbours += 1;
            penalty += back * back;
            penalty_error += 2.0 * back * error + error * error + 3.0 * u * back * back;
        }
        before = Some((position, error));
    }
    let n = l_q as f64;
    let mean_error = (score_error + rounding.g(l_q) * magnitude) / n
        + rounding.division * u * (score.abs() + magnitude) / n;
    let neighbours = neighbours.max(1) as f64;
    let penalty_size = gamma * (penalty + penalty_error) / neighbours;
    let of_penalty = gamma * penalty_error / neighbours
        + (rounding.g(l_q) + (rounding.division + 2.0) * u) * penalty_size;
    let of_difference = u * (magnitude / n + penalty_size);
    let extra = if gamma > 0.0 {
        of_penalty + of_difference
    } else {
        0.0
    };
    mean_error + extra + f64::from(f32::MIN_POSITIVE)
}
