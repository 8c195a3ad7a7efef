//! What is added, and how far from it a result may be.

use crate::ops::{Accum, Rounding};

/// The definition, in loops: `c` `[n, k]` and `column_sums` `[n]` as they are afterwards.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    a: &[T],
    b: &[T],
    c: &[T],
    column_sums: &[T],
    n: usize,
    k: usize,
) -> (Vec<A>, Vec<A>) {
    let mut c: Vec<A> = c.iter().map(|&v| A::of(v.into())).collect();
    let mut column_sums: Vec<A> = column_sums.iter().map(|&v| A::of(v.into())).collect();
    for (a, b) in a.chunks_exact(n).zip(b.chunks_exact(k)) {
        for (i, &a) in a.iter().enumerate() {
            let a = A::of(a.into());
            column_sums[i] += a;
            for (c, &b) in c[i * k..].iter_mut().zip(b) {
                *c += a * A::of(b.into());
            }
        }
    }
    (c, column_sums)
}

/// Error of each element of both results: `t` terms, of which those of `c` are products, are added to what is there in any
/// order, `g(t + 1) (|c| + sum |a b|)` and `g(t) (|s| + sum |a|)`.
pub fn error_bound(
    a: &[f32],
    b: &[f32],
    c: &[f32],
    column_sums: &[f32],
    n: usize,
    k: usize,
    rounding: &Rounding,
) -> (Vec<f64>, Vec<f64>) {
    let t = a.len() / n;
    let magnitudes = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<f32>>();
    let [a, b, c, column_sums] = [a, b, c, column_sums].map(magnitudes);
    let (products, sums) = reference::<f64, f32>(&a, &b, &c, &column_sums, n, k);
    let bound = |roundings, magnitudes: Vec<f64>| {
        let e = magnitudes.into_iter().map(|v| rounding.g(roundings) * v);
        e.map(|e| rounding.store(0.0, e, 4)).collect()
    };
    (bound(t + 1, products), bound(t, sums))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::matmul::reference as linear;

    /// The loss `g . (x w^T + b)` with respect to `w` and `b`, added to what was there.
    #[test]
    fn central_differences_agree() {
        let (t, n, k) = (5, 8, 16);
        let [x, w, b, g] =
            [(t * k, 1), (n * k, 2), (n, 3), (t * n, 4)].map(|(n, seed)| noise(n, seed));
        let [before_w, before_b] = [(n * k, 5), (n, 6)].map(|(n, seed)| noise(n, seed));
        let absolute = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
        let loss = |w: &[f64], b: &[f64]| {
            let of =
                |x: &[f64], w: &[f64], b: &[f64]| linear::<f64, _>(x, w, Some(b), false, None, n);
            let terms = of(&absolute(&x), &absolute(w), &absolute(b));
            [weighted(&of(&x, w, b), &g)[0], weighted(&terms, &g)[1]]
        };
        let (dw, db) = reference::<f64, _>(&g, &x, &before_w, &before_b, n, k);
        let change = |after: &[f64], before: &[f64]| -> Vec<f64> {
            after.iter().zip(before).map(|(a, b)| a - b).collect()
        };
        // 17 for a product, and 41 for the sum of 40.
        let roundings = 58;
        hold("w", &w, &change(&dw, &before_w), roundings, |w| loss(w, &b));
        hold("b", &b, &change(&db, &before_b), roundings, |b| loss(&w, b));
    }
}
