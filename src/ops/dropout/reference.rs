//! What dropout is, and how far from it a result may be.

use super::Mask;
use crate::ops::{Accum, Rounding};

/// The definition, in loops; result `[t, d]`. `offsets` are those of the packed texts, `numbers` the texts' own in the
/// batch.
pub fn reference<A: Accum>(
    x: &[impl Copy + Into<f64>],
    d: usize,
    mask: Mask,
    offsets: &[u32],
    numbers: &[u32],
) -> Vec<A> {
    let kept = A::of(1.0) / (A::of(1.0) - A::of(mask.rate.into()));
    let mut y = Vec::with_capacity(x.len());
    for (span, &number) in offsets.windows(2).zip(numbers) {
        for row in span[0]..span[1] {
            for c in 0..d {
                let x = A::of(x[row as usize * d + c].into());
                let stays = mask.keeps(c, (row - span[0]) as usize, number, 0);
                y.push(if stays { x * kept } else { A::of(0.0) });
            }
        }
    }
    y
}

/// An element that stays is multiplied by `1 / (1 - rate)`, of which the host rounds the difference and the quotient to
/// nearest: `(2 * 2^-24 + u) |y|`, and storing with `bytes` bytes. One that is dropped is exactly 0.
pub fn error_bound(y: &[f64], bytes: usize, rounding: &Rounding) -> Vec<f64> {
    let relative = 2.0 * 2f64.powi(-24) + rounding.u;
    let bound = |&y: &f64| {
        if y == 0.0 {
            return 0.0;
        }
        rounding.store(y, relative * y.abs(), bytes)
    };
    y.iter().map(bound).collect()
}
