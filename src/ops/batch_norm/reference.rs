//! What the statistics of a batch are, and how far from them a result may be.

use crate::ops::{Accum, Rounding};

/// The definition, in loops: mean and variance, `[c]` each.
pub fn reference<A: Accum>(
    x: &[impl Copy + Into<f64>],
    weights: &[f32],
    total: f32,
    c: usize,
) -> [Vec<A>; 2] {
    let total = A::of(total.into());
    let at = |r: usize, i: usize| A::of(x[r * c + i].into());
    let (mut mean, mut variance) = (vec![A::of(0.0); c], vec![A::of(0.0); c]);
    for (r, &w) in weights.iter().enumerate() {
        for (i, mean) in mean.iter_mut().enumerate() {
            *mean += A::of(w.into()) * at(r, i);
        }
    }
    mean.iter_mut().for_each(|mean| *mean = *mean / total);
    for (r, &w) in weights.iter().enumerate() {
        for (i, variance) in variance.iter_mut().enumerate() {
            let deviation = at(r, i) - mean[i];
            *variance += A::of(w.into()) * (deviation * deviation);
        }
    }
    variance.iter_mut().for_each(|v| *v = *v / total);
    [mean, variance]
}

/// Roundings that a term of a sum over `n` rows meets at most. On the CPU 64 rows make a piece, whose sums are added one by
/// one; GPUs have at most 128 rows in a piece, 4 in a thread and 32 threads to add up, and then pieces by turns of 8 or 32:
/// fewer than 72 and one per 64 rows, and never more than there are rows.
pub(in crate::ops) fn depth(n: usize) -> usize {
    n.min(72 + n / 64)
}

/// Errors of mean and variance. With `h` roundings on the way of a term (see `depth`), `M` the largest `|x|` of a channel
/// that counts, and `W` the sum of the weights:
///
/// * a mean, of all or of a piece: products, a sum and a quotient, and for the one of all another product, sum and
///   quotient: `E = g(h + 2 division + 3) M`
/// * the variance as the sum of `w c^2`, `c = x - m` with the mean `m` of a piece that is off by `E`, and of `w (m - mean)^2`
///   over the pieces, in which both are off by `E`. That `m` is not the mean of its piece changes the first sum by
///   `W E^2` at most; the second by `2 W (2 E) sum w |m - mean| / W + W (2 E)^2`, where the mean of `|m - mean|` is at
///   most the standard deviation `s`: together, over `W`, `e = 4 E s + 5 E^2`
/// * and its roundings, difference, square, product, sums and quotient: `g(h + 2 division + 8) (variance + e)`
///
/// Where squares are taken about the mean of all, the first of the two errors is all there is.
pub fn error_bound(
    x: &[f32],
    weights: &[f32],
    total: f32,
    c: usize,
    rounding: &Rounding,
) -> [Vec<f64>; 2] {
    let [mean, variance] = reference::<f64>(x, weights, total, c);
    let mut largest = vec![0f64; c];
    for (row, _) in x.chunks_exact(c).zip(weights).filter(|(_, w)| **w > 0.0) {
        for (largest, &x) in largest.iter_mut().zip(row) {
            *largest = largest.max(f64::from(x).abs());
        }
    }
    let h = depth(weights.len()) + (2.0 * rounding.division).ceil() as usize;
    let (mut of_mean, mut of_variance) = (Vec::new(), Vec::new());
    for i in 0..c {
        let e_mean = rounding.g(h + 3) * largest[i];
        let e = 4.0 * e_mean * variance[i].sqrt() + 5.0 * e_mean * e_mean;
        of_mean.push(rounding.store(mean[i], e_mean, 4));
        let e = e + rounding.g(h + 8) * (variance[i] + e);
        of_variance.push(rounding.store(variance[i], e, 4));
    }
    [of_mean, of_variance]
}
