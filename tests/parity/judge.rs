//! Errors in units of their bounds.
//!
//! An output that is stored as f16 is off by up to half a unit in f16's last place, 2^13 times an f32's: its error is that
//! rounding, and the ratio to the bound sits near 1 whatever the arithmetic did. So the arithmetic is judged by itself
//! too. With the exact value `w`, the stored number `s`, and `[lo, hi]` all numbers that round to `s`, the value before it
//! was stored lies in `[lo, hi]`, so it is off by at least
//!
//! ```text
//! r = max(0, lo - w, w - hi)
//! ```
//!
//! which is the error beyond half a unit in the last place. What is recorded is the largest `r / e`, with the bound `e` of
//! an output that is stored as f32: the bound without its term for storing. That is at most the true ratio, and comes near
//! it where the exact value lies just beyond an end of the interval, as among many elements some do.
//!
//! WGSL lets a device store either neighbour. Adapters round to nearest all the same, so that is what is recorded; what a
//! case fails for is `r > e` with all numbers that *may* be stored as `s`.

use half::f16;
use nearmiss::device::{ElementType, Float};
use nearmiss::ops::Rounding;

use super::Outcome;

/// Largest `|got - want| / bound`; infinite for a NaN, a missing element, or an error where the bound is 0.
pub fn worst_ratio<T: Float>(got: &[T], want: &[f64], bound: &[f64]) -> f64 {
    largest(got, want, bound, |got, want| {
        (f64::from(got.to_f32()) - want).abs()
    })
}

/// Largest error of the arithmetic in units of its bound, where `stored_as` gives the least and the largest number that is
/// stored as another (see the module).
fn arithmetic_ratio(
    got: &[f16],
    want: &[f64],
    bound: &[f64],
    stored_as: impl Fn(f16) -> (f64, f64),
) -> f64 {
    largest(got, want, bound, |got, want| {
        if !got.is_finite() {
            return f64::INFINITY;
        }
        let (lo, hi) = stored_as(got);
        (lo - want).max(want - hi).max(0.0)
    })
}

fn largest<T: Copy>(got: &[T], want: &[f64], bound: &[f64], error: impl Fn(T, f64) -> f64) -> f64 {
    if got.len() != want.len() || want.len() != bound.len() {
        return f64::INFINITY;
    }
    got.iter()
        .zip(want.iter().zip(bound))
        .map(|(&got, (&want, &bound))| {
            let error = error(got, want);
            if error == 0.0 {
                0.0
            } else if error.is_finite() && bound > 0.0 {
                error / bound
            } else {
                f64::INFINITY
            }
        })
        .fold(0.0, f64::max)
}

/// The numbers of f16 below and above a finite one; beyond the range as if it went on.
fn neighbours(v: f16) -> (f64, f64) {
    let value = v.to_f64();
    if value == 0.0 {
        let least = f16::MIN_POSITIVE_SUBNORMAL.to_f64();
        return (-least, least);
    }
    let inward = f16::from_bits(v.to_bits() - 1).to_f64();
    let outward = match f16::from_bits(v.to_bits() + 1) {
        next if next.is_finite() => next.to_f64(),
        _ => 65_536f64.copysign(value),
    };
    (inward.min(outward), inward.max(outward))
}

/// The least and the largest number whose nearest one is `v`.
fn nearest(v: f16) -> (f64, f64) {
    let (below, above) = neighbours(v);
    ((v.to_f64() + below) / 2.0, (v.to_f64() + above) / 2.0)
}

/// The least and the largest number that a device may store as `v`.
fn allowed(v: f16, rounding: &Rounding) -> (f64, f64) {
    let to_nearest = rounding.u16 <= 2f64.powi(-11);
    let (lo, hi) = if to_nearest {
        nearest(v)
    } else {
        neighbours(v)
    };
    if v.to_f64() == 0.0 {
        // Anything so small may have been flushed.
        return (lo.min(-rounding.tiny), hi.max(rounding.tiny));
    }
    (lo, hi)
}

/// Judges a result and, if there is one, its broken variant. `bound` gives the bound of every element for outputs that
/// are stored with so many bytes.
pub fn judge<T: Float>(
    got: &[T],
    broken: Option<&[T]>,
    want: &[f64],
    bound: impl Fn(usize) -> Vec<f64>,
    rounding: &Rounding,
) -> Result<Outcome, String> {
    let stored = bound(size_of::<T>());
    let worst = worst_ratio(got, want, &stored);
    if worst > 1.0 {
        return Err(format!("error is {worst:.3} times the bound"));
    }
    let mut outcome = Outcome {
        elements: want.len() as u64,
        worst,
        rejected: u64::from(broken.is_some()),
        ..Outcome::default()
    };
    if T::TYPE == ElementType::F16 {
        let got: Vec<f16> = got.iter().map(|v| f16::from_f32(v.to_f32())).collect();
        let bound = bound(4);
        let least = arithmetic_ratio(&got, want, &bound, |v| allowed(v, rounding));
        if least > 1.0 {
            return Err(format!(
                "error is {least:.3} times the bound of the arithmetic, however the result was rounded to f16"
            ));
        }
        outcome.arithmetic_f16 = arithmetic_ratio(&got, want, &bound, nearest);
    } else {
        outcome.arithmetic_f32 = worst;
    }
    if let Some(broken) = broken {
        let ratio = worst_ratio(broken, want, &stored);
        if ratio <= 1.0 {
            return Err(format!(
                "the broken variant passes ({ratio:.3} times the bound): the test cannot fail"
            ));
        }
    }
    Ok(outcome)
}
