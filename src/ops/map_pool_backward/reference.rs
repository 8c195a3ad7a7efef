//! What the scores of maps and their gradients are, and how far from them a gradient may be.

use super::MapPooling;
use crate::ops::soft_alignment::align;
use crate::ops::{Accum, Rounding};

/// The score of a map `[l_q, l_c]`, of which [`reference`] is the gradient.
pub fn score<A: Accum, T: Copy + Into<f64>>(map: &[T], shape: [u32; 2], pooling: MapPooling) -> A {
    let [l_q, l_c] = shape.map(|l| l as usize);
    let map: Vec<A> = map.iter().map(|&v| A::of(v.into())).collect();
    let mut sum = A::of(0.0);
    match pooling {
        MapPooling::Mean => {
            map.iter().for_each(|&v| sum += v);
            sum / A::of((l_q * l_c).max(1) as f64)
        }
        MapPooling::Max => {
            for row in map.chunks_exact(l_c.max(1)) {
                sum += row[winner(row)];
            }
            sum / A::of(l_q.max(1) as f64)
        }
        MapPooling::Soft { .. } => align(&map, l_c, &pooling.alignment()),
    }
}

/// The first of the largest numbers of a row.
fn winner<A: PartialOrd>(row: &[A]) -> usize {
    (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best })
}

/// The definition, for one map `[l_q, l_c]` and the gradient of its score.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    map: &[T],
    shape: [u32; 2],
    pooling: MapPooling,
    d_score: f32,
) -> Vec<A> {
    let [l_q, l_c] = shape.map(|l| l as usize);
    let d_score = A::of(d_score.into());
    if pooling == MapPooling::Mean {
        return vec![d_score / A::of((l_q * l_c) as f64); l_q * l_c];
    }
    let of_row = d_score / A::of(l_q.max(1) as f64);
    let map: Vec<A> = map.iter().map(|&v| A::of(v.into())).collect();
    let mut d_map = vec![A::of(0.0); map.len()];
    let rows = map
        .chunks_exact(l_c.max(1))
        .zip(d_map.chunks_exact_mut(l_c.max(1)));
    for (i, (row, d_row)) in rows.enumerate() {
        if pooling == MapPooling::Max {
            d_row[winner(row)] = of_row;
        } else if let Some((weights, value)) = weights(row, i, pooling) {
            let temperature = A::of(pooling.alignment().temperature.into());
            for (j, weight) in weights {
                d_row[j] = of_row * weight * (A::of(1.0) + (row[j] - value) / temperature);
            }
        }
    }
    d_map
}

/// Of row `i` the weights of all candidates, and the mean that they make; nothing where there is no candidate.
fn weights<A: Accum>(row: &[A], i: usize, pooling: MapPooling) -> Option<(Vec<(usize, A)>, A)> {
    let alignment = pooling.alignment();
    let number = |v: f32| A::of(v.into());
    let logit = |j: usize| {
        let distance = number(alignment.distance) * A::of(i.abs_diff(j) as f64);
        (row[j] - distance) / number(alignment.temperature)
    };
    let candidates = || (0..row.len()).filter(|&j| alignment.admits(i, j));
    let largest = candidates()
        .map(logit)
        .reduce(|a, b| if b > a { b } else { a })?;
    let (mut total, mut value) = (A::of(0.0), A::of(0.0));
    let mut weights = Vec::new();
    for j in candidates() {
        let weight = (logit(j) - largest).exp();
        total += weight;
        value += weight * row[j];
        weights.push((j, weight));
    }
    for (_, weight) in &mut weights {
        *weight = *weight / total;
    }
    Some((weights, value / total))
}

/// Columns that a device takes at least between two rescalings by a new maximum.
const STEP: usize = 8;

/// Error of the gradient of one map.
///
/// Mean and maximum: two divisions and a product of counts at most, `2 division u + 2 u`, of the exact value; a device may
/// divide once where another multiplies by the inverse.
///
/// Soft, with `z_j` the logits, `w_j` the exact weights before their division, `R_j = max z - z_j`, `a_j = w_j / sum w`
/// and `r = sum a_j M_j`:
///
/// * logit: off by `u (distance |i - j| + |M_j - distance |i - j||) / temperature + (division + 1) u |z_j|`, since a device
///   may multiply by the inverse of the temperature
/// * a weight, relative: `eps_j` = that of `z_j` and of the maximum, `u R_j` for the difference, `(exp.0 + exp.1 R_j) u`
///   for the exponential, and `2^-125` absolute, since one below `e^-87` may be zero
/// * in the sums of a running softmax with `T` rescalings by a new maximum (one per eight columns, and eight to merge what
///   threads have found), whose arguments add up to `R_j`: `eta_j = eps_j + T (exp.0 + 2) u + (exp.1 + 1) R_j u`
/// * the sum of weights, relative: `e_s = sum a_j eta_j + g(l_c + T)`; `r`: `e_r = sum a_j eta_j |M_j - r| + 2 g(l_c + T + 1)
///   sum a_j |M_j| + (division + 1) u |r|`, since a common relative error of all weights cancels
/// * `f = 1 + (M_j - r) / temperature`: `e_f = (e_r + u |M_j - r|) / temperature + (division + 1) u |f - 1| + u |f|`
/// * `dM = d a_j f` with `d = d_score / l_q`: `d a_j (e_f + |f| (eps_j + e_s + 2 division u + 3 u))`
pub fn error_bound(
    map: &[f32],
    shape: [u32; 2],
    pooling: MapPooling,
    d_score: f32,
    rounding: &Rounding,
) -> Vec<f64> {
    let u = rounding.u;
    let division = rounding.division * u;
    // `e^-87`, below which weights may be zero.
    let flushed = 2.0 * f64::from(f32::MIN_POSITIVE);
    if !matches!(pooling, MapPooling::Soft { .. }) {
        let relative = 2.0 * (division + u);
        return reference::<f64, _>(map, shape, pooling, d_score)
            .into_iter()
            .map(|v| {
                if v == 0.0 {
                    0.0
                } else {
                    rounding.store(0.0, relative * v.abs(), 4)
                }
            })
            .collect();
    }
    let alignment = pooling.alignment();
    let (lambda, tau) = (
        f64::from(alignment.distance),
        f64::from(alignment.temperature),
    );
    let [l_q, l_c] = shape.map(|l| l as usize);
    let of_row = f64::from(d_score.abs()) / l_q.max(1) as f64;
    let mut bounds = vec![0f64; map.len()];
    let rows = map
        .chunks_exact(l_c.max(1))
        .zip(bounds.chunks_exact_mut(l_c.max(1)));
    for (i, (row, bounds)) in rows.enumerate() {
        let row: Vec<f64> = row.iter().map(|&v| v.into()).collect();
        let Some((weights, value)) = weights(&row, i, pooling) else {
            continue;
        };
        let distance = |j: usize| lambda * i.abs_diff(j) as f64;
        let logit = |j: usize| (row[j] - distance(j)) / tau;
        let of_logit = |j: usize| {
            u * (distance(j) + f64::abs(row[j] - distance(j))) / tau
                + (division + u) * logit(j).abs()
        };
        let largest = weights
            .iter()
            .map(|&(j, _)| logit(j))
            .fold(f64::NEG_INFINITY, f64::max);
        // Of the maximum's own logit, whichever it is.
        let of_largest = weights
            .iter()
            .map(|&(j, _)| of_logit(j))
            .fold(0.0, f64::max);
        let eps = |j: usize| {
            let range = largest - logit(j);
            (of_logit(j) + of_largest).exp_m1()
                + u * range
                + (rounding.exp.0 + rounding.exp.1 * range) * u
        };
        let rescalings = l_c.div_ceil(STEP) + 8;
        let eta = |j: usize| {
            let range = largest - logit(j);
            eps(j)
                + rescalings as f64 * (rounding.exp.0 + 2.0) * u
                + (rounding.exp.1 + 1.0) * range * u
        };
        let sum =
            |f: &dyn Fn(usize, f64) -> f64| weights.iter().map(|&(j, a)| f(j, a)).sum::<f64>();
        let count = weights.len() as f64;
        let e_s = sum(&|j, a| a * eta(j)) + rounding.g(l_c + rescalings) + count * flushed;
        let spread = weights
            .iter()
            .map(|&(j, _)| f64::abs(row[j] - value))
            .fold(0.0, f64::max);
        let e_r = sum(&|j, a| a * eta(j) * f64::abs(row[j] - value))
            + 2.0 * rounding.g(l_c + rescalings + 1) * sum(&|j, a| a * row[j].abs())
            + (division + u) * value.abs()
            + 2.0 * count * flushed * spread;
        for &(j, a) in &weights {
            let offset = (row[j] - value) / tau;
            let f = 1.0 + offset;
            let e_f = (e_r + u * f64::abs(row[j] - value)) / tau
                + (division + u) * offset.abs()
                + u * f.abs();
            let relative = eps(j) + e_s + 2.0 * division + 3.0 * u;
            let error =
                (a + flushed) * (e_f * (1.0 + relative) + f.abs() * relative) + flushed * f.abs();
            bounds[j] = rounding.store(0.0, of_row * error, 4);
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::differences_test::{hold, noise};

    #[test]
    fn central_differences_agree() {
        let soft = |band| MapPooling::Soft {
            distance: 0.1,
            temperature: 0.2,
            band,
        };
        for pooling in [MapPooling::Mean, MapPooling::Max, soft(None), soft(Some(1))] {
            for shape in [[3, 5], [6, 3], [1, 1]] {
                let map = noise((shape[0] * shape[1]) as usize, 4);
                let gradient = reference::<f64, _>(&map, shape, pooling, 1.5);
                hold(
                    &format!("{pooling:?} {shape:?}"),
                    &map,
                    &gradient,
                    40,
                    |map| {
                        let score = 1.5 * score::<f64, _>(map, shape, pooling);
                        [score, score.abs() + 1.0]
                    },
                );
            }
        }
    }

    #[test]
    fn a_row_without_candidates_gets_nothing() {
        let soft = MapPooling::Soft {
            distance: 0.1,
            temperature: 0.1,
            band: Some(1),
        };
        let gradient = reference::<f64, f32>(&[0.5; 4], [4, 1], soft, 1.0);
        assert_eq!(gradient, [0.25, 0.25, 0.0, 0.0]);
        for pooling in [MapPooling::Mean, MapPooling::Max, soft] {
            assert!(reference::<f64, f32>(&[], [0, 3], pooling, 1.0).is_empty());
            assert_eq!(score::<f64, f32>(&[], [2, 0], pooling), 0.0);
        }
    }

    #[test]
    fn the_first_of_equal_maxima_gets_the_gradient() {
        let map = [1.0f32, 2.0, 2.0, 0.0, -1.0, -1.0];
        let gradient = reference::<f64, _>(&map, [2, 3], MapPooling::Max, 3.0);
        assert_eq!(gradient, [0.0, 1.5, 0.0, 1.5, 0.0, 0.0]);
    }
}
