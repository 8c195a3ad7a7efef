//! What the product and its epilogue are, and how far from it a result may be.

use crate::ops::matmul::{erf_bound, erf_exact};
use crate::ops::{Accum, Rounding};

/// `gelu'(x)`.
pub(super) fn slope(x: f64) -> f64 {
    let normal = 0.5 * (1.0 + erf_exact(x * std::f64::consts::FRAC_1_SQRT_2));
    normal + x * density(x)
}

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The definition, in loops; operands row-major, result `[m, k]`. `gelu'` is evaluated in f64 and rounded to `A`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    a: &[T],
    w: &[T],
    gelu_of: Option<&[T]>,
    residual: Option<&[T]>,
    k: usize,
) -> Vec<A> {
    let n = w.len() / k;
    let mut c = Vec::with_capacity(a.len() / n * k);
    for a in a.chunks_exact(n) {
        for j in 0..k {
            let mut v = A::of(0.0);
            for (i, &a) in a.iter().enumerate() {
                v += A::of(a.into()) * A::of(w[i * k + j].into());
            }
            let at = c.len();
            if let Some(gelu_of) = gelu_of {
                v = v * A::of(slope(gelu_of[at].into()));
            }
            if let Some(residual) = residual {
                v += A::of(residual[at].into());
            }
            c.push(v);
        }
    }
    c
}

/// Error of a device's `gelu'(x) = Phi(x) + x phi(x)`, to first order in `u`:
///
/// * `Phi(x)`: half of [`erf_bound`], and a rounding of `1 + erf`, at most 2, halved
/// * `x phi(x)`, relative: with `q = x^2 / 2`, the two roundings of `q` (the square and, where `exp` is a power of two, the
///   product with its factor) become `2 q u`; `exp` itself `(exp.0 + exp.1 q) u`; the constant, and the products with it and
///   with `x` 3. Where `exp` is too small for a normal number it is lost: twice the least such number times `x`
/// * the sum: one rounding
pub(super) fn slope_bound(x: f64, rounding: &Rounding) -> f64 {
    let u = rounding.u;
    let q = 0.5 * x * x;
    let bell = (2.0 * q + rounding.exp.0 + rounding.exp.1 * q + 3.0) * u * density(x);
    let lost = 2.0 * f64::from(f32::MIN_POSITIVE);
    0.5 * erf_bound(rounding) + u + x.abs() * (bell + lost) + u * slope(x).abs()
}

/// Error of each output element, stored with `bytes` bytes:
///
/// * product: `e_p = g(n) sum |a w|` for any order of summation
/// * factor: with `slope_bound` `e_s`, `|gelu'| e_p + |p| e_s + e_p e_s`, and one rounding
/// * residual: one rounding
pub fn error_bound(
    a: &[f32],
    w: &[f32],
    gelu_of: Option<&[f32]>,
    residual: Option<&[f32]>,
    k: usize,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let n = w.len() / k;
    let u = rounding.u;
    let mut bounds = Vec::with_capacity(a.len() / n * k);
    for a in a.chunks_exact(n) {
        for j in 0..k {
            let (mut v, mut magnitude) = (0f64, 0f64);
            for (i, &a) in a.iter().enumerate() {
                let product = f64::from(a) * f64::from(w[i * k + j]);
                v += product;
                magnitude += product.abs();
            }
            let at = bounds.len();
            let mut e = rounding.g(n) * magnitude;
            if let Some(gelu_of) = gelu_of {
                let x = f64::from(gelu_of[at]);
                let (s, e_s) = (slope(x), slope_bound(x, rounding));
                e = s.abs() * e + v.abs() * e_s + e * e_s;
                v *= s;
                e += u * (v.abs() + e);
            }
            if let Some(residual) = residual {
                v += f64::from(residual[at]);
                e += u * (v.abs() + e);
            }
            bounds.push(rounding.store(v, e, bytes));
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::matmul::reference as linear;

    /// The loss of a feed-forward block, `g . (gelu(x w^T + b) v^T + x)`, with respect to `x` and to what GELU takes.
    #[test]
    fn central_differences_agree() {
        let (m, d, wide) = (3, 8, 16);
        let sizes = [(m * d, 1), (wide * d, 2), (d * wide, 3), (m * d, 4)];
        let [x, w, v, g] = sizes.map(|(n, seed)| noise(n, seed));
        let b = noise(wide, 5);
        let absolute = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
        let mut eye = vec![0.0; wide * wide];
        eye.iter_mut().step_by(wide + 1).for_each(|one| *one = 1.0);
        // The loss and the magnitudes of its terms, given those of u; the slope of GELU is below 1.13.
        let block = |u: &[f64], terms_of_u: &[f64], x: &[f64]| {
            let active = linear::<f64, _>(u, &eye, None, true, None, wide);
            let y = linear::<f64, _>(&active, &v, None, false, Some(x), d);
            let parts = active.iter().zip(terms_of_u);
            let terms: Vec<f64> = parts.map(|(a, u)| a.abs() + 1.13 * u).collect();
            let (v, x) = (absolute(&v), absolute(x));
            let terms = linear::<f64, _>(&terms, &v, None, false, Some(&x), d);
            [weighted(&y, &g)[0], weighted(&terms, &g)[1]]
        };
        let of =
            |x: &[f64], w: &[f64], b: &[f64]| linear::<f64, _>(x, w, Some(b), false, None, wide);
        // 9 for u, 1 and the 9 of erf's 1e-15 and 4 for GELU, 17 and 1 for y, 25 for the loss.
        let roundings = 66;
        let u = of(&x, &w, &b);
        let du = reference::<f64, _>(&g, &v, Some(&u), None, wide);
        hold("u", &u, &du, roundings, |u| block(u, &absolute(u), &x));
        let dx = reference::<f64, _>(&du, &w, None, Some(&g), d);
        let (abs_w, abs_b) = (absolute(&w), absolute(&b));
        hold("x", &x, &dx, roundings, |x| {
            block(&of(x, &w, &b), &of(&absolute(x), &abs_w, &abs_b), x)
        });
    }
}
