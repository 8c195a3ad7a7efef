//! What the gradient of pooling by attention is, and how far from it a result may be.

use crate::ops::Accum;
use crate::ops::attention::Dropped;
use crate::ops::attention_pool::{TOTAL, factor};

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
