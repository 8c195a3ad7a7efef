//! What pooling is, and how far from it a result may be.

use super::{NORM_FLOOR, Pooling, rows};
use crate::ops::{Accum, Rounding};

/// The definition, in loops; result `[n, d]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    h: &[T],
    offsets: &[u32],
    pooling: Pooling,
    normalize: bool,
    d: usize,
) -> Vec<A> {
    let mut out = Vec::with_capacity((offsets.len() - 1) * d);
    for span in offsets.windows(2) {
        let rows = rows(span, pooling);
        let count = A::of(rows.len().max(1) as f64);
        let mut row: Vec<A> = (0..d)
            .map(|c| {
                let mut sum = A::of(0.0);
                for t in rows.clone() {
                    sum += A::of(h[t * d + c].into());
                }
                sum / count
            })
            .collect();
        if normalize {
            let mut squares = A::of(0.0);
            for &v in &row {
                squares += v * v;
            }
            let floor = A::of(NORM_FLOOR.into());
            let norm = squares.sqrt();
            let norm = if norm > floor { norm } else { floor };
            row.iter_mut().for_each(|v| *v = *v / norm);
        }
        out.extend(row);
    }
    out
}

/// The mean of a text's rows and its norm, exact, with the errors that they may have.
pub(in crate::ops) struct Pooled {
    /// The mean, or the first row.
    pub means: Vec<f64>,
    /// Absolute errors of the means: `g(l) mean |h| + division u |m|`.
    pub errors: Vec<f64>,
    /// The norm, or what stands for a smaller one.
    pub norm: f64,
    /// Relative error of the norm: `sum(|m| e) / norm^2` by that of the means, and `g(d / 2 + 2) + sqrt u` of its own.
    pub e_norm: f64,
}

impl Pooled {
    /// Of the text at `span`.
    pub fn of(h: &[f32], span: &[u32], pooling: Pooling, d: usize, rounding: &Rounding) -> Self {
        let rows = rows(span, pooling);
        let count = rows.len().max(1) as f64;
        let (mut means, mut errors) = (vec![0f64; d], vec![0f64; d]);
        for c in 0..d {
            let magnitude: f64 = rows.clone().map(|t| f64::from(h[t * d + c]).abs()).sum();
            means[c] = rows.clone().map(|t| f64::from(h[t * d + c])).sum::<f64>() / count;
            errors[c] = rounding.g(rows.len()) * magnitude / count
                + rounding.division * rounding.u * means[c].abs();
        }
        let norm = means
            .iter()
            .map(|m| m * m)
            .sum::<f64>()
            .sqrt()
            .max(NORM_FLOOR.into());
        let drift: f64 = means
            .iter()
            .zip(&errors)
            .map(|(m, e)| m.abs() * e)
            .sum::<f64>()
            / (norm * norm);
        Pooled {
            means,
            errors,
            norm,
            e_norm: drift + rounding.g(d / 2 + 2) + rounding.sqrt * rounding.u,
        }
    }
}

/// Mean: `g(l) mean |h| + division u |e|`. Normalising divides by the norm: an error `e_c` of each mean gives
/// `e_c / norm`, that of the norm (see `Pooled`) and the division as much of the value as their own.
pub fn error_bound(
    h: &[f32],
    offsets: &[u32],
    pooling: Pooling,
    normalize: bool,
    d: usize,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let mut bounds = Vec::with_capacity((offsets.len() - 1) * d);
    for span in offsets.windows(2) {
        let Pooled {
            means,
            errors,
            norm,
            e_norm,
        } = Pooled::of(h, span, pooling, d, rounding);
        for c in 0..d {
            bounds.push(if normalize {
                let value = means[c].abs() / norm;
                let own = e_norm + rounding.division * rounding.u;
                rounding.store(value, errors[c] / norm + value * own, bytes)
            } else {
                rounding.store(means[c], errors[c], bytes)
            });
        }
    }
    bounds
}
