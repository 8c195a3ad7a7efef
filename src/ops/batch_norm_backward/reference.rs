//! What the gradient of normalisation with the statistics of a batch is, and how far from it a result may be.

use crate::ops::batch_norm::depth;
use crate::ops::{Accum, Rounding};

/// The definition, in loops: `dx` `[r, c]`, and what is added to `d_gamma` and to `d_beta`, `[c]` each. `statistics` are mean
/// and variance.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    x: &[T],
    weights: &[f32],
    total: f32,
    statistics: [&[T]; 2],
    eps: f32,
    gamma: &[T],
    d_y: &[T],
) -> [Vec<A>; 3] {
    let of = |v: T| A::of(v.into());
    let c = gamma.len();
    let total = A::of(total.into());
    let rstd: Vec<A> = statistics[1]
        .iter()
        .map(|&v| A::of(1.0) / (of(v) + A::of(eps.into())).sqrt())
        .collect();
    let z = |r: usize, i: usize| (of(x[r * c + i]) - of(statistics[0][i])) * rstd[i];
    let (mut d_gamma, mut d_beta) = (vec![A::of(0.0); c], vec![A::of(0.0); c]);
    for (r, d_y) in d_y.chunks_exact(c).enumerate() {
        for (i, &d_y) in d_y.iter().enumerate() {
            d_gamma[i] += of(d_y) * z(r, i);
            d_beta[i] += of(d_y);
        }
    }
    let mut dx = Vec::with_capacity(x.len());
    for (r, d_y) in d_y.chunks_exact(c).enumerate() {
        let share = A::of(weights[r].into()) / total;
        for (i, &d_y) in d_y.iter().enumerate() {
            let common = share * (d_beta[i] + z(r, i) * d_gamma[i]);
            dx.push(of(gamma[i]) * rstd[i] * (of(d_y) - common));
        }
    }
    [dx, d_gamma, d_beta]
}

/// Errors of `dx`, stored with `bytes` bytes, and of the sums behind `d_gamma` and `d_beta`, which held `before`. With `h`
/// roundings on the way of a term of a sum over rows (`depth` of the forward) and exact values beside the errors, to first
/// order (`1.001` stands for the rest):
///
/// * `rstd`, relative: `e_r = (1 + sqrt + division) u`
/// * `z = (x - mean) rstd`: `e_z = (2 u + e_r) |z|`
/// * `G = sum d_y z`: `e_G = sum |d_y| e_z + g(h + 1) sum |d_y z|`; `B = sum d_y`: `e_B = g(h) sum |d_y|`
/// * `d_gamma`, `d_beta`: those, and one more addition, `u (|before| + |sum|)`
/// * `t = B + z G`: `e_t = e_B + |z| e_G + e_z |G| + 2 u (|B| + |z G|)`
/// * `v = d_y - (w / W) t`: `e_v = w / W (e_t + (division + 1) u |t|) + u |v|`
/// * `dx = gamma rstd v`: `|gamma| rstd (e_v + (e_r + 2 u) |v|)`
pub fn error_bound(
    x: &[f32],
    weights: &[f32],
    total: f32,
    statistics: [&[f32]; 2],
    eps: f32,
    gamma: &[f32],
    d_y: &[f32],
    before: [&[f32]; 2],
    bytes: usize,
    rounding: &Rounding,
) -> [Vec<f64>; 3] {
    /// Products of errors, which are left out.
    const REST: f64 = 1.001;
    let (c, u, h) = (gamma.len(), rounding.u, depth(weights.len()));
    let e_r = (1.0 + rounding.sqrt + rounding.division) * u;
    let rstd: Vec<f64> = statistics[1]
        .iter()
        .map(|&v| 1.0 / (f64::from(v) + f64::from(eps)).sqrt())
        .collect();
    let z = |r: usize, i: usize| (f64::from(x[r * c + i]) - f64::from(statistics[0][i])) * rstd[i];
    let e_z = |z: f64| (2.0 * u + e_r) * z.abs();
    // Of each channel G and B, their errors and their magnitudes.
    let mut sums = vec![[[0f64; 3]; 2]; c];
    for (r, d_y) in d_y.chunks_exact(c).enumerate() {
        for (i, &d_y) in d_y.iter().enumerate() {
            let (d_y, z) = (f64::from(d_y), z(r, i));
            let [dots, plain] = &mut sums[i];
            dots[0] += d_y * z;
            dots[1] += d_y.abs() * e_z(z);
            dots[2] += (d_y * z).abs();
            plain[0] += d_y;
            plain[2] += d_y.abs();
        }
    }
    for [dots, plain] in &mut sums {
        dots[1] = REST * (dots[1] + rounding.g(h + 1) * (dots[2] + dots[1]));
        plain[1] = rounding.g(h) * plain[2];
    }
    let mut of_dx = Vec::with_capacity(x.len());
    for (r, d_y) in d_y.chunks_exact(c).enumerate() {
        let share = f64::from(weights[r]) / f64::from(total);
        for (i, &d_y) in d_y.iter().enumerate() {
            let z = z(r, i);
            let [[dot, e_dot, _], [sum, e_sum, _]] = sums[i];
            let t = sum + z * dot;
            let e_t = e_sum
                + z.abs() * e_dot
                + e_z(z) * (dot.abs() + e_dot)
                + 2.0 * u * (sum.abs() + (z * dot).abs());
            let v = f64::from(d_y) - share * t;
            let e_v = share * (e_t + (rounding.division + 1.0) * u * t.abs()) + u * v.abs();
            let scale = f64::from(gamma[i]).abs() * rstd[i];
            let e = REST * scale * (e_v + (e_r + 2.0 * u) * v.abs());
            of_dx.push(rounding.store(scale * v, e, bytes));
        }
    }
    let of_sum = |which: usize, i: usize| {
        let [value, error, _] = sums[i][which];
        let added = u * (f64::from(before[which][i]).abs() + value.abs() + error);
        rounding.store(0.0, error + REST * added, 4)
    };
    [
        of_dx,
        (0..c).map(|i| of_sum(0, i)).collect(),
        (0..c).map(|i| of_sum(1, i)).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::reference;
    use crate::ops::batch_norm;
    use crate::ops::differences_test::{hold, noise, weighted};

    #[test]
    fn central_differences_agree() {
        let (rows, c, eps) = (7, 8, 1e-3);
        let (x, one) = (noise(rows * c, 1), noise(rows * c, 2));
        let (gamma, beta) = (noise(c, 3), noise(c, 4));
        let weights = [2.0f32, 0.0, 1.0, 3.0, 1.0, 1.0, 5.0];
        let total = 13.0;
        let statistics = |x: &[f64]| batch_norm::reference::<f64>(x, &weights, total, c);
        let normalised = |x: &[f64], gamma: &[f64], beta: &[f64]| -> Vec<f64> {
            let [mean, variance] = statistics(x);
            (0..rows * c)
                .map(|at| {
                    let i = at % c;
                    let z = (x[at] - mean[i]) / (variance[i] + f64::from(eps)).sqrt();
                    gamma[i] * z + beta[i]
                })
                .collect()
        };
        // A pixel that stands for several has the gradients of all of them.
        let d_y: Vec<f64> = (0..rows * c)
            .map(|at| one[at] * f64::from(weights[at / c]))
            .collect();
        let [mean, variance] = statistics(&x);
        let [dx, d_gamma, d_beta] =
            reference::<f64, _>(&x, &weights, total, [&mean, &variance], eps, &gamma, &d_y);
        let f =
            |x: &[f64], gamma: &[f64], beta: &[f64]| weighted(&normalised(x, gamma, beta), &d_y);
        // Two sums over the rows, the sum of all, and a few operations between them.
        let roundings = 2 * rows + rows * c + 16;
        hold("x", &x, &dx, roundings, |x| f(x, &gamma, &beta));
        hold("gamma", &gamma, &d_gamma, roundings, |g| f(&x, g, &beta));
        hold("beta", &beta, &d_beta, roundings, |b| f(&x, &gamma, b));
    }
}
