//! Dropout on the processor: rows in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Mask;
use super::philox::{LANES, fill};
use crate::device::Float;

pub(super) fn dropout<A: Float>(x: &mut [A], d: usize, mask: Mask, origins: &[u32]) {
    x.par_chunks_mut(d)
        .zip(origins.par_chunks_exact(2))
        .with_min_len(32)
        .for_each_init(Vec::new, |words, (row, origin)| {
            words.resize(d.next_multiple_of(4 * LANES), 0);
            one_row(row, mask, [origin[0], origin[1], 0], words);
        });
}

#[multiversion(targets = "simd")]
fn one_row<A: Float>(row: &mut [A], mask: Mask, rest: [u32; 3], words: &mut [u32]) {
    fill(mask.key, rest, words);
    let (threshold, scale) = (mask.threshold(), mask.scale());
    for (x, &word) in row.iter_mut().zip(words.iter()) {
        let kept = x.to_f32() * scale;
        *x = A::from_f32(if word >= threshold { kept } else { 0.0 });
    }
}
