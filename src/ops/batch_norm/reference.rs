//! What the statistics of a batch are, and how far from them a result may be.

use crate::ops::Accum;

/// The definition, in loops: mean and variance, `[c]` each.
pub fn reference<A: Accum>(
    x: &[impl Copy + Into<f64>],
    weights: &[f32],
    total: f32,
    c: usize,
) -> [Vec<A>; 2] {
    let total = A::of(total.into());
    let at = |r: usize, i: usize| A::of(x[r * c + i].into());
    let (mut mean, mut variance) = (vec![A::of(0.0); c], vec![A::of(0.0); c]);
    for (r, &w) in weights.iter().enumerate() {
        for (i, mean) in mean.iter_mut().enumerate() {
            *mean += A::of(w.into()) * at(r, i);
        }
    }
    mean.iter_mut().for_each(|mean| *mean = *mean / total);
    for (r, &w) in weights.iter().enumerate() {
        for (i, variance) in variance.iter_mut().enumerate() {
            let deviation = at(r, i) - mean[i];
            *variance += A::of(w.into()) * (deviation * deviation);
        }
    }
    variance.iter_mut().for_each(|v| *v = *v / total);
    [mean, variance]
}
