//! What pooling by attention is, and how far from it a result may be.

use super::TOTAL;
use crate::ops::Accum;
use crate::ops::attention::Dropped;

/// The definition, in loops: results `[n, d + 8]`, and the probabilities before dropout `[t]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    queries: &[T],
    rows: &[T],
    offsets: &[u32],
    d: usize,
    scale: f32,
    dropped: Dropped<'_>,
) -> (Vec<A>, Vec<A>) {
    let zero = A::of(0.0);
    let scale = A::of(scale.into());
    let mut out = vec![zero; (offsets.len() - 1) * (d + TOTAL)];
    let mut probabilities = Vec::with_capacity(rows.len() / d);
    for (text, span) in offsets.windows(2).enumerate() {
        let rows = rows[span[0] as usize * d..span[1] as usize * d].chunks_exact(d);
        let query = &queries[text * d..][..d];
        let scores: Vec<A> = rows
            .clone()
            .map(|row| {
                let mut dot = zero;
                for (&q, &r) in query.iter().zip(row) {
                    dot += A::of(q.into()) * A::of(r.into());
                }
                dot * scale
            })
            .collect();
        let Some(&first) = scores.first() else {
            continue;
        };
        let max = scores.iter().fold(first, |m, &s| if s > m { s } else { m });
        let mut sum = zero;
        for &s in &scores {
            sum += (s - max).exp();
        }
        let out = &mut out[text * (d + TOTAL)..][..=d];
        for ((j, row), &s) in rows.enumerate().zip(&scores) {
            let p = (s - max).exp() / sum;
            probabilities.push(p);
            let weight = p * factor::<A>(dropped, text, j);
            for (out, &r) in out.iter_mut().zip(row) {
                *out += weight * A::of(r.into());
            }
            out[d] += weight;
        }
    }
    (out, probabilities)
}

/// What the probability of row `j` of a text is multiplied by.
pub(in crate::ops) fn factor<A: Accum>(dropped: Dropped<'_>, text: usize, j: usize) -> A {
    let one = A::of(1.0);
    match dropped {
        None => one,
        Some((mask, numbers)) if mask.keeps(j, 0, numbers[text], 0) => {
            one / (one - A::of(mask.rate.into()))
        }
        Some(_) => A::of(0.0),
    }
}
