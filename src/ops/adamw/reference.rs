//! What a step is, and how far from it a result may be.

use super::{AdamW, NORM_EPS};
use crate::ops::{Accum, Rounding};

/// Moments and weights, or their errors.
#[derive(Clone, Debug)]
pub struct State<A> {
    /// Moving average of gradients.
    pub first: Vec<A>,
    /// Moving average of their squares.
    pub second: Vec<A>,
    /// The weights.
    pub master: Vec<A>,
}

impl<A: Accum> State<A> {
    /// The state before the first step.
    pub fn new<T: Copy + Into<f64>>(weights: &[T]) -> Self {
        let zeros = vec![A::of(0.0); weights.len()];
        State {
            first: zeros.clone(),
            second: zeros,
            master: weights.iter().map(|&w| A::of(w.into())).collect(),
        }
    }
}

/// The factor of all gradients, the sum of whose squares is `sum`.
fn factor(settings: &AdamW, sum: f64) -> f64 {
    let norm = sum.sqrt() * f64::from(settings.gradient_factor) + f64::from(NORM_EPS);
    f64::from(settings.gradient_factor) * (f64::from(settings.max_norm) / norm).min(1.0)
}

/// The definition: one step with `gradient`, where the squares of all gradients add up to `sum`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    settings: &AdamW,
    gradient: &[T],
    sum: f64,
    state: &mut State<A>,
) {
    if !sum.is_finite() {
        return;
    }
    let of = |v: f32| A::of(v.into());
    let [beta1, beta2] = settings.beta;
    let [rest1, rest2] = [beta1, beta2].map(|b| A::of(1.0 - b));
    let t = settings.step as f64;
    let [correction1, correction2] = [beta1, beta2].map(|b| A::of(1.0 - b.powf(t)));
    let (rate, one) = (of(settings.learning_rate), A::of(1.0));
    let factor = A::of(factor(settings, sum));
    for (i, &g) in gradient.iter().enumerate() {
        let g = A::of(g.into()) * factor;
        let m = state.first[i] + rest1 * (g - state.first[i]);
        let v = A::of(beta2) * state.second[i] + rest2 * g * g;
        let root = (v / correction2).sqrt() + of(settings.eps);
        let kept = state.master[i] * (one - rate * of(settings.weight_decay));
        state.first[i] = m;
        state.second[i] = v;
        state.master[i] = kept - rate / correction1 * m / root;
    }
}

/// The errors after a step, given those before it and the exact state before it. With a constant that the host has rounded
/// counting as one rounding more:
///
/// * factor: a root, four roundings and a division; `e_g = |g| (sqrt + division + 5) u`
/// * `e_m = b1 e_m + (1 - b1) (e_g + 3 u (|g| + |m| + e_g + e_m)) + u |m'|`
/// * `e_v = b2 e_v + (1 - b2) (2 |g| e_g + e_g^2) + 5 u (v' + all of this)`, as all terms are positive
/// * `s = sqrt(v)`: `e_s = max(sqrt(v + e_v) - s, s - sqrt(v - e_v)) + sqrt u s`; over the root of the correction, plus eps:
///   `e_D = (e_s + s (division + 2) u) / r + u D`
/// * `q = rate / correction m / D`: `e_q = size (|m| + e_m) / (D - e_D) - size |m| / D + (3 + division) u |q|`
/// * `e_w = (1 - rate decay) e_w + 3 u |w| + e_q + u |w'|`
///
/// A flushed subnormal number is one more error of the smallest normal one, in `m`, `v` and `w`. The bound of a copy in f16 is
/// [`Rounding::store`] of these.
pub fn error_bound(
    settings: &AdamW,
    gradient: &[f32],
    sum: f64,
    before: &State<f64>,
    errors: &mut State<f64>,
    rounding: &Rounding,
) {
    if !sum.is_finite() {
        return;
    }
    let mut after = before.clone();
    reference(settings, gradient, sum, &mut after);
    let (u, tiny) = (rounding.u, f64::from(f32::MIN_POSITIVE));
    let [beta1, beta2] = settings.beta;
    let t = settings.step as f64;
    let (rate, eps) = (f64::from(settings.learning_rate), f64::from(settings.eps));
    let keep = 1.0 - rate * f64::from(settings.weight_decay);
    let size = rate / (1.0 - beta1.powf(t));
    let correction = (1.0 - beta2.powf(t)).sqrt();
    let factor = factor(settings, sum);
    for (i, &g) in gradient.iter().enumerate() {
        let g = f64::from(g).abs() * factor;
        let e_g = g * (rounding.sqrt + rounding.division + 5.0) * u + tiny;

        let (m, e_m) = (before.first[i].abs(), errors.first[i]);
        let e_m = beta1 * e_m
            + (1.0 - beta1) * (e_g + 3.0 * u * (g + m + e_g + e_m))
            + u * after.first[i].abs()
            + tiny;

        let v = after.second[i];
        let grown = beta2 * errors.second[i] + (1.0 - beta2) * (2.0 * g * e_g + e_g * e_g);
        let e_v = grown + 5.0 * u * (v + grown) + 2.0 * tiny;

        let s = v.sqrt();
        let e_s = ((v + e_v).sqrt() - s).max(s - (v - e_v).max(0.0).sqrt());
        let e_s = e_s + rounding.sqrt * u * (s + e_s);
        let denominator = s / correction + eps;
        let e_d = (e_s + (s + e_s) * (rounding.division + 2.0) * u) / correction
            + 2.0 * u * (denominator + e_s / correction);

        let m = after.first[i].abs();
        // Neither a root nor eps is negative.
        let least = (denominator - e_d).max(eps * (1.0 - 4.0 * u));
        let q = size * (m + e_m) / least;
        let e_q = q - size * m / denominator + (3.0 + rounding.division) * u * q;

        let (w, e_w) = (before.master[i].abs(), errors.master[i]);
        errors.first[i] = e_m;
        errors.second[i] = e_v;
        errors.master[i] = keep.abs() * e_w
            + 3.0 * u * (w + e_w)
            + e_q
            + u * (after.master[i].abs() + e_w + e_q)
            + tiny;
    }
}
