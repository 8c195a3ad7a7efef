//! What the product and its epilogue are, and how far from them a result may be.

use crate::ops::{Accum, Rounding};

/// Largest error of the fit behind the devices' `erf` (see `cpu.rs`), in exact arithmetic with the f32 coefficients,
/// clamping included.
pub(super) const ERF_FIT: f64 = 1.5e-7;

/// `erf` in f64 for the reference: Taylor series for `|x| < 3`, continued fraction of `erfc` beyond; both to 1e-15.
pub(in crate::ops) fn erf_exact(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        // erf x = 2/sqrt(pi) e^(-x^2) sum_k 2^k x^(2k+1) / (2k+1)!!, all terms of one sign.
        let (mut term, mut sum, mut k) = (x, x, 1.0);
        while term.abs() > 1e-17 * sum.abs() {
            term *= 2.0 * x * x / (2.0 * k + 1.0);
            sum += term;
            k += 1.0;
        }
        return std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    // erfc a = e^(-a^2) / sqrt(pi) * 1 / (a + 1/2 / (a + 1 / (a + 3/2 / (a + ...))))
    let mut tail = a;
    for k in (1..=60).rev() {
        tail = a + 0.5 * f64::from(k) / tail;
    }
    let erfc = (-a * a).exp() / std::f64::consts::PI.sqrt() / tail;
    (1.0 - erfc).copysign(x)
}

/// Error of the devices' `erf(x / sqrt 2)`: the fit plus `g(34 + division)`: clamp none, square 1 (felt tenfold by a
/// polynomial of degree 5 in it), two Horner chains of 10 roundings each, a product, a division, and the argument's two
/// roundings (felt at most once: `x erf'(x)` is below `erf`).
pub(in crate::ops) fn erf_bound(rounding: &Rounding) -> f64 {
    ERF_FIT + rounding.g(34 + rounding.division.ceil() as usize)
}

/// The definition, in loops; operands row-major, result `[m, n]`. `gelu` is evaluated in f64 and rounded to `A`. The value
/// before GELU is the result without GELU and residual.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    a: &[T],
    w: &[T],
    bias: Option<&[T]>,
    use_gelu: bool,
    residual: Option<&[T]>,
    n: usize,
) -> Vec<A> {
    let k = w.len() / n;
    let mut c = Vec::with_capacity(a.len() / k * n);
    for (i, a) in a.chunks_exact(k).enumerate() {
        for (j, w) in w.chunks_exact(k).enumerate() {
            let mut v = A::of(0.0);
            for (&a, &w) in a.iter().zip(w) {
                v += A::of(a.into()) * A::of(w.into());
            }
            if let Some(bias) = bias {
                v += A::of(bias[j].into());
            }
            if use_gelu {
                let x = v.to_f64();
                v = A::of(0.5 * x * (1.0 + erf_exact(x * std::f64::consts::FRAC_1_SQRT_2)));
            }
            if let Some(residual) = residual {
                v += A::of(residual[i * n + j].into());
            }
            c.push(v);
        }
    }
    c
}

/// Error of each output element, stored with `bytes` bytes:
///
/// * product: `g(k) sum |a w|` for any order of summation, bias: one rounding of the sum
/// * `gelu(x) = x/2 (1 + erf(x / sqrt 2))`: its slope is below 1.13, so an error `e` in `x` becomes `1.13 e`, and
///   `erf_bound` comes with `x/2`; then 3 roundings of the product with `x/2`
/// * residual: one rounding
pub fn error_bound(
    a: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    use_gelu: bool,
    residual: Option<&[f32]>,
    n: usize,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let k = w.len() / n;
    let u = rounding.u;
    let e_erf = erf_bound(rounding);
    let mut bounds = Vec::with_capacity(a.len() / k * n);
    for (i, a) in a.chunks_exact(k).enumerate() {
        for (j, w) in w.chunks_exact(k).enumerate() {
            let (mut v, mut magnitude) = (0f64, 0f64);
            for (&a, &w) in a.iter().zip(w) {
                let product = f64::from(a) * f64::from(w);
                v += product;
                magnitude += product.abs();
            }
            let mut e = rounding.g(k) * magnitude;
            if let Some(bias) = bias {
                v += f64::from(bias[j]);
                e += u * (v.abs() + e);
            }
            if use_gelu {
                let x = v.abs() + e;
                v = 0.5 * v * (1.0 + erf_exact(v * std::f64::consts::FRAC_1_SQRT_2));
                e = 1.13 * e + 0.5 * x * e_erf + 3.0 * u * v.abs();
            }
            if let Some(residual) = residual {
                v += f64::from(residual[i * n + j]);
                e += u * (v.abs() + e);
            }
            bounds.push(rounding.store(v, e, bytes));
        }
    }
    bounds
}
