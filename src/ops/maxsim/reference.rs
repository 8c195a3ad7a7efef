//! What the score is, and how far from it a result may be.

use super::{NO_WINNER, Reduction};
use crate::ops::{Accum, Rounding};

/// The definition, for one pair of token matrices: the score, and for each query token the winner.
pub fn reference<A: Accum>(
    query: &[f32],
    document: &[f32],
    d: usize,
    reduction: Reduction,
) -> (A, Vec<u32>) {
    let mut score = A::of(0.0);
    let mut winners = Vec::new();
    for q in query.chunks_exact(d) {
        let mut best: Option<(A, u32)> = None;
        for (j, c) in (0u32..).zip(document.chunks_exact(d)) {
            let mut product = A::of(0.0);
            for (&q, &c) in q.iter().zip(c) {
                product += A::of(q.into()) * A::of(c.into());
            }
            if best.is_none_or(|(largest, _)| product > largest) {
                best = Some((product, j));
            }
        }
        score += best.map_or(A::of(0.0), |(product, _)| product);
        winners.push(best.map_or(NO_WINNER, |(_, j)| j));
    }
    match reduction {
        Reduction::Sum => (score, winners),
        Reduction::Mean => (score / A::of(winners.len().max(1) as f64), winners),
    }
}

/// Error of the score of one pair, and of each product that could have been a winner.
///
/// A product of `d` terms is off by at most `g(d) sum |q c|`; a maximum by no more than the worst of what it is taken of;
/// their sum adds `g(l_q)` of its terms' magnitudes, and a mean one division.
pub fn error_bound(
    query: &[f32],
    document: &[f32],
    d: usize,
    reduction: Reduction,
    rounding: &Rounding,
) -> (f64, f64) {
    let (mut worst, mut sum, mut magnitudes) = (0f64, 0.0, 0.0);
    let l_q = query.len() / d;
    for q in query.chunks_exact(d) {
        let (mut error, mut largest) = (0f64, 0f64);
        for c in document.chunks_exact(d) {
            let terms = q.iter().zip(c).map(|(&q, &c)| f64::from(q) * f64::from(c));
            let (product, magnitude) =
                terms.fold((0.0, 0.0), |(p, m), term| (p + term, m + f64::abs(term)));
            error = error.max(rounding.g(d) * magnitude + f64::from(f32::MIN_POSITIVE));
            largest = largest.max(f64::abs(product));
        }
        worst = worst.max(error);
        sum += error;
        magnitudes += largest + error;
    }
    let sum = sum + rounding.g(l_q) * magnitudes;
    match reduction {
        Reduction::Sum => (sum, worst),
        Reduction::Mean => {
            let n = l_q.max(1) as f64;
            let division = rounding.division * rounding.u * (magnitudes + sum) / n;
            (sum / n + division + f64::from(f32::MIN_POSITIVE), worst)
        }
    }
}
