//! What the gradient of layer norm is, and how far from it a result may be.

use crate::ops::layer_norm::{Deviations, deviations};
use crate::ops::{Accum, Rounding};

/// The definition, in loops: `dx` `[rows, d]`, and what is added to `d_weight` and to `d_bias`, `[d]` each.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    x: &[T],
    residual: Option<&[T]>,
    weight: &[T],
    eps: f32,
    dy: &[T],
) -> [Vec<A>; 3] {
    let d = weight.len();
    let n = A::of(d as f64);
    let mut dx = Vec::with_capacity(x.len());
    let (mut d_weight, mut d_bias) = (vec![A::of(0.0); d], vec![A::of(0.0); d]);
    for (r, dy) in dy.chunks_exact(d).enumerate() {
        let (mut z, rstd) = deviations::<A, T>(x, residual, r, d, eps);
        let mut g = Vec::with_capacity(d);
        let (mut sum, mut dot) = (A::of(0.0), A::of(0.0));
        for i in 0..d {
            z[i] = z[i] * rstd;
            let dy = A::of(dy[i].into());
            d_weight[i] += dy * z[i];
            d_bias[i] += dy;
            g.push(dy * A::of(weight[i].into()));
            sum += g[i];
            dot += g[i] * z[i];
        }
        let (a, b) = (sum / n, dot / n);
        dx.extend((0..d).map(|i| (g[i] - a - z[i] * b) * rstd));
    }
    [dx, d_weight, d_bias]
}

/// Bounds of `dx` as f32 and in a type of two bytes, and of the sums behind `d_weight` and `d_bias`, which held
/// `before`.
///
/// From the errors `e_c` of the deviations and the relative one `e_r` of `rstd` (those of the forward), with exact
/// values beside them:
///
/// * `z = c rstd`: `e_z = rstd (e_c + |c| e_r + e_c e_r) (1 + u) + u |z|`
/// * `g = dy w`: `e_g = u |g|`
/// * `a = mean g`: `e_a = g(d + 1) mean|g| + mean(e_g) + division u |a|`
/// * `b = mean g z`: `e_b = mean(|g| e_z + e_g (|z| + e_z)) + g(d + 2) mean((|g| + e_g) (|z| + e_z)) + division u |b|`
/// * `s = g - a - z b`, of which the terms are off by `e_t = e_g + e_a + e_z (|b| + e_b) + |z| e_b`:
///   `e_s = e_t + g(3) (|g| + |a| + |z b| + e_t)`
/// * `dx = s rstd`: `rstd (e_s + (|s| + e_s) e_r) (1 + u) + u |dx|`
/// * `d_weight`, sums in any order: `sum |dy| e_z + g(rows + 1) (|before| + sum |dy| (|z| + e_z))`
/// * `d_bias`: `g(rows) (|before| + sum |dy|)`
pub fn error_bound(
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    before: [&[f32]; 2],
    rounding: &Rounding,
) -> [Vec<f64>; 4] {
    let d = weight.len();
    let rows = x.len() / d;
    let u = rounding.u;
    let mean = |f: &dyn Fn(usize) -> f64| (0..d).map(f).sum::<f64>() / d as f64;
    let (mut single, mut half) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
    // Of the two sums the magnitudes, and of the first the errors of its terms.
    let mut sums = before.map(|before| {
        before
            .iter()
            .map(|&v| f64::from(v).abs())
            .collect::<Vec<_>>()
    });
    let mut terms = vec![0f64; d];
    for (r, dy) in dy.chunks_exact(d).enumerate() {
        let Deviations { c, e_c, rstd, e_r } = Deviations::of(x, residual, r, d, eps, rounding);
        let z: Vec<f64> = c.iter().map(|c| c * rstd).collect();
        let e_z: Vec<f64> = (0..d)
            .map(|i| rstd * (e_c[i] + (c[i].abs() + e_c[i]) * e_r) * (1.0 + u) + u * z[i].abs())
            .collect();
        let g: Vec<f64> = (0..d)
            .map(|i| f64::from(dy[i]) * f64::from(weight[i]))
            .collect();
        let e_g = |i: usize| u * g[i].abs();
        let a = mean(&|i| g[i]);
        let e_a = rounding.g(d + 1) * mean(&|i| g[i].abs())
            + mean(&e_g)
            + rounding.division * u * a.abs();
        let b = mean(&|i| g[i] * z[i]);
        let e_b = mean(&|i| g[i].abs() * e_z[i] + e_g(i) * (z[i].abs() + e_z[i]))
            + rounding.g(d + 2) * mean(&|i| (g[i].abs() + e_g(i)) * (z[i].abs() + e_z[i]))
            + rounding.division * u * b.abs();
        for i in 0..d {
            let e_t = e_g(i) + e_a + e_z[i] * (b.abs() + e_b) + z[i].abs() * e_b;
            let magnitude = g[i].abs() + a.abs() + (z[i] * b).abs() + e_t;
            let e_s = e_t + rounding.g(3) * magnitude;
            let s = (g[i] - a - z[i] * b).abs();
            let e = rstd * (e_s + (s + e_s) * e_r) * (1.0 + u) + u * s * rstd;
            single.push(rounding.store(s * rstd, e, 4));
            half.push(rounding.store(s * rstd, e, 2));
            let dy = f64::from(dy[i]).abs();
            terms[i] += dy * e_z[i];
            sums[0][i] += dy * (z[i].abs() + e_z[i]);
            sums[1][i] += dy;
        }
    }
    let [d_weight, d_bias] = sums;
    let weight = |i: usize| terms[i] + rounding.g(rows + 1) * d_weight[i];
    [
        single,
        half,
        (0..d).map(|i| rounding.store(0.0, weight(i), 4)).collect(),
        d_bias
            .into_iter()
            .map(|sum| rounding.store(0.0, rounding.g(rows) * sum, 4))
            .collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::reference;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::layer_norm;

    #[test]
    fn central_differences_agree() {
        let (rows, d, eps) = (3, 16, 1e-3);
        let (x, add, dy) = (noise(rows * d, 1), noise(rows * d, 2), noise(rows * d, 3));
        let (weight, bias) = (noise(d, 4), noise(d, 5));
        let f = |x: &[f64], add: Option<&[f64]>, weight: &[f64], bias: &[f64]| {
            let y = layer_norm::reference::<f64, _>(x, add, weight, Some(bias), eps);
            weighted(&y, &dy)
        };
        // Two sums over a row, the sum over rows and columns, and a few operations between them.
        let roundings = 2 * d + rows * d + 12;
        for add in [None, Some(&add[..])] {
            let [dx, d_weight, d_bias] = reference::<f64, _>(&x, add, &weight, eps, &dy);
            hold("x", &x, &dx, roundings, |x| f(x, add, &weight, &bias));
            hold("weight", &weight, &d_weight, roundings, |w| {
                f(&x, add, w, &bias)
            });
            hold("bias", &bias, &d_bias, roundings, |b| {
                f(&x, add, &weight, b)
            });
            if let Some(add) = add {
                hold("residual", add, &dx, roundings, |add| {
                    f(&x, Some(add), &weight, &bias)
                });
            }
        }
    }
}
