//! What cosines and their selection are, and how far from them a score may be.

use std::cmp::Ordering;

use crate::ops::{Accum, Rounding};

/// The definition: the cosine of every query with every row, `[n_q, n]`.
pub fn reference_scores<A: Accum>(queries: &[f32], rows: &[f32], d: usize) -> Vec<A> {
    let dot = |x: &[f32], y: &[f32]| {
        let mut sum = A::of(0.0);
        for (&x, &y) in x.iter().zip(y) {
            sum += A::of(x.into()) * A::of(y.into());
        }
        sum
    };
    let mut scores = Vec::with_capacity(queries.len() / d * (rows.len() / d));
    for q in queries.chunks_exact(d) {
        for row in rows.chunks_exact(d) {
            let norms = dot(q, q).sqrt() * dot(row, row).sqrt();
            scores.push(if norms > A::of(0.0) {
                dot(q, row) / norms
            } else {
                A::of(0.0)
            });
        }
    }
    scores
}

/// The definition of the selection: of one query's `scores`, the `k` largest among those `keep` admits, best first,
/// ties to the lowest id.
pub fn reference<A: Accum>(scores: &[A], k: usize, keep: impl Fn(usize) -> bool) -> Vec<(u32, A)> {
    let mut order: Vec<(u32, A)> = (0u32..)
        .zip(scores.iter().copied())
        .filter(|(id, _)| keep(*id as usize))
        .collect();
    order.sort_by(|a, b| {
        b.1.partial_cmp(&a.1)
            .unwrap_or(Ordering::Equal)
            .then(a.0.cmp(&b.0))
    });
    order.truncate(k);
    order
}

/// Error of each score `[n_q, n]`: the dot product `g(d) sum |q c| / (|q| |c|)`, and relative to the score the two
/// inverse norms, `g(d / 2 + 2) + (sqrt + division) u` each, and their two products.
///
/// Where a matrix unit takes f16 operands, an element of a normalised query is the sum of two of them, scaled by 2^10.
/// With an operand's relative error `r` and absolute error `a`, the first leaves `r` of the element and the second `r` of
/// that, or `a 2^-10`; `2 d` products are added, whose magnitudes are `1 + 2 r` times those of `d`.
pub fn error_bound(queries: &[f32], rows: &[f32], d: usize, rounding: &Rounding) -> Vec<f64> {
    let u = rounding.u;
    let norm_of = |x: &[f32]| x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let relative =
        2.0 * (rounding.g(d / 2 + 2) + (rounding.sqrt + rounding.division) * u) + 4.0 * u;
    // Of the dot product: relative to the sum of magnitudes, and absolute per element of a normalised query.
    let (of_dot, of_query) = match rounding.operand {
        (0.0, _) => (rounding.g(d), 0.0),
        (r, a) => (
            rounding.g(2 * d) * (1.0 + 2.0 * r) + r * r,
            a * 2f64.powi(-10),
        ),
    };
    let mut bounds = Vec::with_capacity(queries.len() / d * (rows.len() / d));
    for q in queries.chunks_exact(d) {
        for row in rows.chunks_exact(d) {
            let (mut dot, mut magnitude, mut sum) = (0.0, 0.0, 0.0);
            for (&q, &c) in q.iter().zip(row) {
                let product = f64::from(q) * f64::from(c);
                dot += product;
                magnitude += f64::abs(product);
                sum += f64::from(c.abs());
            }
            let norm = norm_of(row);
            let norms = norm_of(q) * norm;
            bounds.push(if norms > 0.0 {
                (of_dot * magnitude + relative * f64::abs(dot)) / norms
                    + of_query * sum / norm
                    + f64::from(f32::MIN_POSITIVE)
            } else {
                0.0
            });
        }
    }
    bounds
}
