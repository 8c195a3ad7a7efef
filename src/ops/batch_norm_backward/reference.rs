//! What the gradient of normalisation with the statistics of a batch is, and how far from it a result may be.

use crate::ops::Accum;

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
