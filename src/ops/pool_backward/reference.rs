//! What the gradient of pooling is, and how far from it a result may be.

use crate::ops::pool::{self, NORM_FLOOR, Pooled, Pooling, rows};
use crate::ops::{Accum, Rounding};

/// The definition, in loops; result `[t, d]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    h: &[T],
    offsets: &[u32],
    pooling: Pooling,
    normalize: bool,
    d: usize,
    d_out: &[T],
) -> Vec<A> {
    let means = pool::reference::<A, T>(h, offsets, pooling, false, d);
    let floor = A::of(NORM_FLOOR.into());
    let mut dh = vec![A::of(0.0); h.len()];
    for (i, span) in offsets.windows(2).enumerate() {
        let text = i * d..(i + 1) * d;
        let mut gradient: Vec<A> = d_out[text.clone()]
            .iter()
            .map(|&v| A::of(v.into()))
            .collect();
        if normalize {
            let mut squares = A::of(0.0);
            for &m in &means[text.clone()] {
                squares += m * m;
            }
            let norm = squares.sqrt();
            // Below the floor the divisor is a constant.
            let (norm, moves) = if norm > floor {
                (norm, true)
            } else {
                (floor, false)
            };
            let e: Vec<A> = means[text].iter().map(|&m| m / norm).collect();
            let mut dot = A::of(0.0);
            if moves {
                for (&e, &g) in e.iter().zip(&gradient) {
                    dot += e * g;
                }
            }
            for (g, &e) in gradient.iter_mut().zip(&e) {
                *g = (*g - e * dot) / norm;
            }
        }
        let rows = rows(span, pooling);
        let count = A::of(rows.len().max(1) as f64);
        for t in rows {
            for c in 0..d {
                dh[t * d + c] = gradient[c] / count;
            }
        }
    }
    dh
}

/// To first order in `u`, from the errors `e_m` of the means and the relative one `e_n` of their norm (those of the
/// forward):
///
/// * `e = m / norm`: `e_e = e_m / norm + |e| (e_n + division u)`
/// * `s = e . d_out`: `e_s = sum |d_out| e_e + g(d) sum |e d_out|`
/// * `p = d_out - e s`: `e_p = |s| e_e + |e| e_s + u |e s| + u |p|`
/// * `dh = p / norm / l`: `e_p / norm / l + |dh| (e_n + 2 division u)`; of gradients that are not normalised the last
///   division alone: `division u |dh|`
pub fn error_bound(
    h: &[f32],
    offsets: &[u32],
    pooling: Pooling,
    normalize: bool,
    d: usize,
    d_out: &[f32],
    rounding: &Rounding,
) -> Vec<f64> {
    let u = rounding.u;
    let division = rounding.division * u;
    let mut bounds = vec![0f64; h.len()];
    for (span, d_out) in offsets.windows(2).zip(d_out.chunks_exact(d)) {
        let g = |c: usize| f64::from(d_out[c]);
        let rows = rows(span, pooling);
        let count = rows.len().max(1) as f64;
        let bound: Vec<f64> = if normalize {
            let Pooled {
                means,
                errors,
                norm,
                e_norm,
            } = Pooled::of(h, span, pooling, d, rounding);
            let e: Vec<f64> = means.iter().map(|m| m / norm).collect();
            let e_e: Vec<f64> = (0..d)
                .map(|c| errors[c] / norm + e[c].abs() * (e_norm + division))
                .collect();
            let (s, e_s) = if norm > f64::from(NORM_FLOOR) {
                let sum = |f: &dyn Fn(usize) -> f64| (0..d).map(f).sum::<f64>();
                let magnitude = sum(&|c| (e[c] * g(c)).abs());
                let terms = sum(&|c| g(c).abs() * e_e[c]);
                (sum(&|c| e[c] * g(c)), terms + rounding.g(d) * magnitude)
            } else {
                (0.0, 0.0)
            };
            (0..d)
                .map(|c| {
                    let p = g(c) - e[c] * s;
                    let product = s.abs() * e_e[c] + e[c].abs() * (e_s + u * s.abs());
                    let e_p = product + u * p.abs();
                    (e_p / norm + p.abs() / norm * (e_norm + 2.0 * division)) / count
                })
                .collect()
        } else {
            (0..d).map(|c| division * g(c).abs() / count).collect()
        };
        for t in span[0] as usize..span[1] as usize {
            for c in 0..d {
                let e = if rows.contains(&t) { bound[c] } else { 0.0 };
                bounds[t * d + c] = rounding.store(0.0, e, 4);
            }
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::reference;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::pool::{self, Pooling};

    #[test]
    fn central_differences_agree() {
        let (offsets, d) = ([0, 3, 3, 4, 9], 8);
        let (h, weight) = (noise(9 * d, 1), noise(4 * d, 2));
        for pooling in [Pooling::Mean, Pooling::First] {
            for normalize in [true, false] {
                let f = |h: &[f64]| {
                    let e = pool::reference::<f64, _>(h, &offsets, pooling, normalize, d);
                    weighted(&e, &weight)
                };
                let dh = reference::<f64, _>(&h, &offsets, pooling, normalize, d, &weight);
                // The sum of a text, its norm, and the sum of all, with a few operations between them.
                hold(
                    &format!("{pooling:?} {normalize}"),
                    &h,
                    &dh,
                    5 + d + 4 * d + 4,
                    f,
                );
            }
        }
    }
}
