//! AdamW on the processor: one pass over memory, in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Constants, Moments};
use crate::device::{Float, Slice, SliceMut};

/// Elements that a thread takes at a time: five arrays of them fit its second-level cache, with the copy behind.
const CHUNK: usize = 1 << 14;

pub(super) fn adamw<W: Float>(
    constants: &Constants,
    gradient: Slice<'_, f32>,
    norm: Slice<'_, f32>,
    mut moments: Moments<'_>,
    mut master: SliceMut<'_, f32>,
    mut working: Option<SliceMut<'_, W>>,
) {
    let Some(factor) = constants.factor(norm.host()[0]) else {
        return;
    };
    let mut copies = working
        .as_mut()
        .map(|working| working.host().chunks_mut(CHUNK));
    let jobs: Vec<_> = gradient
        .host()
        .chunks(CHUNK)
        .zip(moments.first.host().chunks_mut(CHUNK))
        .zip(moments.second.host().chunks_mut(CHUNK))
        .zip(master.host().chunks_mut(CHUNK))
        .map(|job| (job, copies.as_mut().and_then(Iterator::next)))
        .collect();
    jobs.into_par_iter()
        .for_each(|((((gradient, first), second), master), copy)| {
            update(constants, factor, gradient, first, second, master);
            if let Some(copy) = copy {
                for (to, &from) in copy.iter_mut().zip(master.iter()) {
                    *to = W::from_f32(from);
                }
            }
        });
}

#[multiversion(targets = "simd")]
fn update(
    constants: &Constants,
    factor: f32,
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    master: &mut [f32],
) {
    let c = *constants;
    let moments = first.iter_mut().zip(second);
    for ((&g, (m, v)), w) in gradient.iter().zip(moments).zip(master) {
        let g = g * factor;
        *m += c.rest1 * (g - *m);
        *v = c.beta2 * *v + c.rest2 * g * g;
        let root = v.sqrt() / c.root + c.eps;
        *w = *w * c.keep - c.step_size * *m / root;
    }
}
