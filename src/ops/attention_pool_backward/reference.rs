//! What the gradient of pooling by attention is, and how far from it a result may be.

use crate::ops::attention::Dropped;
use crate::ops::attention_pool::{TOTAL, e_kept, factor};
use crate::ops::{Accum, Rounding};

/// The definition, in loops: `d_queries` `[n, d]` and `d_rows` `[t, d]`, from the probabilities that the forward kept.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    queries: &[T],
    rows: &[T],
    offsets: &[u32],
    d: usize,
    scale: f32,
    dropped: Dropped<'_>,
    probabilities: &[T],
    d_out: &[T],
) -> [Vec<A>; 2] {
    let of = |v: T| A::of(v.into());
    let zero = A::of(0.0);
    let scale = A::of(scale.into());
    let mut d_queries = vec![zero; queries.len()];
    let mut d_rows = vec![zero; rows.len()];
    for (text, span) in offsets.windows(2).enumerate() {
        let span = span[0] as usize..span[1] as usize;
        let query = &queries[text * d..][..d];
        let (dz, behind) = d_out[text * (d + TOTAL)..][..d + TOTAL].split_at(d);
        let mut mean = zero;
        let mut dp = Vec::with_capacity(span.len());
        for (place, j) in span.clone().enumerate() {
            let mut dot = zero;
            for (&g, &r) in dz.iter().zip(&rows[j * d..][..d]) {
                dot += of(g) * of(r);
            }
            dp.push(factor::<A>(dropped, text, place) * (dot + of(behind[0])));
            mean += of(probabilities[j]) * dp[place];
        }
        for (place, j) in span.enumerate() {
            let p = of(probabilities[j]);
            let ds = scale * (p * (dp[place] - mean));
            let weight = p * factor::<A>(dropped, text, place);
            for c in 0..d {
                d_queries[text * d + c] += ds * of(rows[j * d + c]);
                d_rows[j * d + c] = weight * of(dz[c]) + ds * of(query[c]);
            }
        }
    }
    [d_queries, d_rows]
}

/// Errors of `d_queries`, stored with `bytes` bytes, and of `d_rows`. With `l` rows of a text and exact values beside the
/// errors, `e_kept` being the relative error of a factor of dropout:
///
/// * `dot_j = dz . row_j + dw`: `g(d + 1) D_j`, `D_j = sum |dz row_j| + |dw|`
/// * `dp_j = m_j dot_j`: `e_dp = m_j (g(d + 1) + e_kept) D_j` (to first order; `1.001` stands for the rest)
/// * `q = sum p dp`: `e_q = sum p e_dp + g(l) sum p |dp|`
/// * `ds = scale p (dp - q)`: `e_ds = scale p (e_dp + e_q) + 3 u |ds|`, as three roundings follow
/// * `d_query = sum ds row`: `sum e_ds |row| + g(l) sum |ds row|`
/// * `d_row = m p dz + ds query`: `(e_kept + 3 u) |m p dz| + e_ds |query| + 2 u |ds query|`
pub fn error_bound(
    queries: &[f32],
    rows: &[f32],
    offsets: &[u32],
    d: usize,
    scale: f32,
    dropped: Dropped<'_>,
    probabilities: &[f32],
    d_out: &[f32],
    bytes: usize,
    rounding: &Rounding,
) -> [Vec<f64>; 2] {
    /// Products of errors, which are left out.
    const REST: f64 = 1.001;
    let u = rounding.u;
    let scale = f64::from(scale);
    let e_kept = e_kept(dropped, u);
    let mut of_queries = vec![0.0; queries.len()];
    let mut of_rows = vec![0.0; rows.len()];
    for (text, span) in offsets.windows(2).enumerate() {
        let span = span[0] as usize..span[1] as usize;
        let l = span.len();
        let row = |j: usize, c: usize| f64::from(rows[j * d + c]);
        let query = |c: usize| f64::from(queries[text * d + c]);
        let dz = |c: usize| f64::from(d_out[text * (d + TOTAL) + c]);
        let p = |j: usize| f64::from(probabilities[j]);
        let m = |j: usize| factor::<f64>(dropped, text, j - span.start);
        let (mut dp, mut e_dp) = (Vec::new(), Vec::new());
        let (mut q, mut e_q) = (0.0, 0.0);
        for j in span.clone() {
            let terms = || (0..d).map(|c| dz(c) * row(j, c)).chain([dz(d)]);
            let magnitude: f64 = terms().map(f64::abs).sum();
            dp.push(m(j) * terms().sum::<f64>());
            e_dp.push(REST * m(j) * (rounding.g(d + 1) + e_kept) * magnitude);
            let at = j - span.start;
            q += p(j) * dp[at];
            e_q += p(j) * (e_dp[at] + rounding.g(l) * (dp[at].abs() + e_dp[at]));
        }
        let (mut value, mut error) = (vec![0.0; d], vec![0.0; d]);
        for j in span.clone() {
            let at = j - span.start;
            let ds = scale * p(j) * (dp[at] - q);
            let e_ds = scale.abs() * p(j) * (e_dp[at] + e_q);
            let e_ds = REST * (e_ds + 3.0 * u * (ds.abs() + e_ds));
            for c in 0..d {
                value[c] += ds * row(j, c);
                error[c] += (e_ds + rounding.g(l) * (ds.abs() + e_ds)) * row(j, c).abs();
                let weighed = (m(j) * p(j) * dz(c)).abs();
                let through = (ds.abs() + e_ds) * query(c).abs();
                let e = (e_kept + 3.0 * u) * weighed + e_ds * query(c).abs() + 2.0 * u * through;
                of_rows[j * d + c] = rounding.store(0.0, REST * e, 4);
            }
        }
        for c in 0..d {
            of_queries[text * d + c] = match l {
                0 => 0.0,
                _ => rounding.store(value[c], REST * error[c], bytes),
            };
        }
    }
    [of_queries, of_rows]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention_pool;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::dropout::Mask;

    #[test]
    fn central_differences_agree() {
        let (offsets, numbers, d, scale) = ([0, 3, 3, 4, 9], [4, 0, 7, 2], 8, 0.7);
        let (queries, rows) = (noise(4 * d, 1), noise(9 * d, 2));
        let d_out = noise(4 * (d + TOTAL), 3);
        let mask = Mask {
            rate: 0.4,
            key: [1, 2],
        };
        for dropped in [None, Some((mask, &numbers[..]))] {
            let pooled = |queries: &[f64], rows: &[f64]| {
                attention_pool::reference::<f64, _>(queries, rows, &offsets, d, scale, dropped)
            };
            let f = |queries: &[f64], rows: &[f64]| weighted(&pooled(queries, rows).0, &d_out);
            let (_, p) = pooled(&queries, &rows);
            let [d_queries, d_rows] =
                reference::<f64, _>(&queries, &rows, &offsets, d, scale, dropped, &p, &d_out);
            // Scores, the softmax and the sum of a text, and that of all results, with a few operations between them.
            let roundings = d + 9 + 9 + 4 * (d + 1) + 16;
            hold("queries", &queries, &d_queries, roundings, |q| f(q, &rows));
            hold("rows", &rows, &d_rows, roundings, |r| f(&queries, r));
        }
    }
}
