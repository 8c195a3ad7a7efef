//! What layer norm is, and how far from it a result may be.

use crate::ops::{Accum, Rounding};

/// The definition, in loops; result `[rows, d]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    x: &[T],
    residual: Option<&[T]>,
    weight: &[T],
    bias: Option<&[T]>,
    eps: f32,
) -> Vec<A> {
    let d = weight.len();
    let mut y = Vec::with_capacity(x.len());
    for r in 0..x.len() / d {
        let (c, rstd) = deviations::<A, T>(x, residual, r, d, eps);
        for i in 0..d {
            let scaled = c[i] * rstd * A::of(weight[i].into());
            y.push(match bias {
                Some(bias) => scaled + A::of(bias[i].into()),
                None => scaled,
            });
        }
    }
    y
}

/// Of row `r`, `v - mean(v)` and `1 / sqrt(var(v) + eps)` with `v = x + residual`.
pub(in crate::ops) fn deviations<A: Accum, T: Copy + Into<f64>>(
    x: &[T],
    residual: Option<&[T]>,
    r: usize,
    d: usize,
    eps: f32,
) -> (Vec<A>, A) {
    let n = A::of(d as f64);
    let mut v: Vec<A> = (r * d..(r + 1) * d)
        .map(|i| {
            let x = A::of(x[i].into());
            match residual {
                Some(residual) => x + A::of(residual[i].into()),
                None => x,
            }
        })
        .collect();
    let mut total = A::of(0.0);
    for &v in &v {
        total += v;
    }
    let mean = total / n;
    let mut squares = A::of(0.0);
    for v in &mut v {
        *v = *v - mean;
        squares += *v * *v;
    }
    let rstd = A::of(1.0) / (squares / n + A::of(eps.into())).sqrt();
    (v, rstd)
}

/// Deviations of a row from its mean and `rstd`, exact, with the errors that they may have.
pub(in crate::ops) struct Deviations {
    /// `v - mean(v)`.
    pub c: Vec<f64>,
    /// Absolute errors of `c`.
    pub e_c: Vec<f64>,
    /// `1 / sqrt(var(v) + eps)`.
    pub rstd: f64,
    /// Relative error of `rstd`.
    pub e_r: f64,
}

impl Deviations {
    /// Of row `r`. To first order in `u`, with the quadratic term of the variance kept:
    ///
    /// * `v`: one rounding, `e_v = u |v|`
    /// * mean: `e_m = g(d + 1) mean|v| + mean(e_v)`
    /// * deviation `c = v - mean`: `e_c = e_v + e_m + u |c|`
    /// * variance: `e_s = mean(2 |c| e_c + e_c^2) + g(d + 2) var`
    /// * `rstd = (var + eps)^(-1/2)`: relative `e_r = e_s / (2 (var + eps - e_s)) + (sqrt + division) u`
    pub fn of(
        x: &[f32],
        residual: Option<&[f32]>,
        r: usize,
        d: usize,
        eps: f32,
        rounding: &Rounding,
    ) -> Self {
        let u = rounding.u;
        let mean_of = |values: &[f64]| values.iter().sum::<f64>() / d as f64;
        let v: Vec<f64> = (r * d..(r + 1) * d)
            .map(|i| f64::from(x[i]) + residual.map_or(0.0, |residual| residual[i].into()))
            .collect();
        let e_v: Vec<f64> = v
            .iter()
            .map(|v| if residual.is_some() { u * v.abs() } else { 0.0 })
            .collect();
        let magnitudes: Vec<f64> = v.iter().map(|v| v.abs()).collect();
        let mean = mean_of(&v);
        let e_m = rounding.g(d + 1) * mean_of(&magnitudes)
            + mean_of(&e_v)
            + rounding.division * u * mean.abs();
        let c: Vec<f64> = v.iter().map(|v| v - mean).collect();
        let e_c: Vec<f64> = (0..d).map(|i| e_v[i] + e_m + u * c[i].abs()).collect();
        let squares: Vec<f64> = c.iter().map(|c| c * c).collect();
        let var = mean_of(&squares);
        let growth: Vec<f64> = (0..d)
            .map(|i| 2.0 * c[i].abs() * e_c[i] + e_c[i] * e_c[i])
            .collect();
        let e_s = mean_of(&growth) + rounding.g(d + 2) * var;
        let spread = var + f64::from(eps);
        let e_r = if e_s < spread {
            e_s / (2.0 * (spread - e_s)) + (rounding.sqrt + rounding.division) * u
        } else {
            f64::INFINITY
        };
        Deviations {
            c,
            e_c,
            rstd: spread.powf(-0.5),
            e_r,
        }
    }
}

/// From the errors of the deviations and of `rstd` (see `Deviations::of`), `y = c rstd w + b` has
/// `|w| rstd (e_c + |c| e_r) + 2 u |c rstd w| + u |y|`.
///
/// The result is for the f32 output; `bytes` 2 adds the rounding to f16.
pub fn error_bound(
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let d = weight.len();
    let u = rounding.u;
    let mut bounds = Vec::with_capacity(x.len());
    for r in 0..x.len() / d {
        let Deviations { c, e_c, rstd, e_r } = Deviations::of(x, residual, r, d, eps, rounding);
        for i in 0..d {
            let w = f64::from(weight[i]).abs();
            let scaled = c[i].abs() * rstd * w;
            let value = scaled + bias.map_or(0.0, |bias| f64::from(bias[i]).abs());
            let e = w * rstd * (e_c[i] + c[i].abs() * e_r) + 2.0 * u * scaled + u * value;
            bounds.push(rounding.store(value, e, bytes));
        }
    }
    bounds
}
