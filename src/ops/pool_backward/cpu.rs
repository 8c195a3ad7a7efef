//! The gradient of pooling on the processor: texts in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use crate::ops::pool::{NORM_FLOOR, mean, rows};
use crate::ops::simd;

pub(super) fn pool_backward(args: &Args<'_>, mut dh: &mut [f32]) {
    let (h, d_out, d) = (args.h.host(), args.d_out.host(), args.d);
    // The rows of each text.
    let mut jobs = Vec::with_capacity(args.texts.texts());
    for (span, d_out) in args.texts.offsets().windows(2).zip(d_out.chunks_exact(d)) {
        let (text, rest) = dh.split_at_mut((span[1] - span[0]) as usize * d);
        jobs.push((span, d_out, text));
        dh = rest;
    }
    jobs.into_par_iter().for_each_init(
        || [vec![0f32; d], vec![0f32; d]],
        |[m, gradient], (span, d_out, text)| {
            let rows = rows(span, args.pooling);
            gradient.copy_from_slice(d_out);
            if args.normalize {
                mean(&h[rows.start * d..rows.end * d], m);
                through_norm(m, gradient);
            }
            let count = rows.len().max(1) as f32;
            gradient.iter_mut().for_each(|g| *g /= count);
            let (given, others) = text.split_at_mut(rows.len() * d);
            for row in given.chunks_exact_mut(d) {
                row.copy_from_slice(gradient);
            }
            others.fill(0.0);
        },
    );
}

/// From the gradient of `m / |m|` to that of `m`, in place; `m` becomes `m / |m|`.
#[multiversion(targets = "simd")]
fn through_norm(m: &mut [f32], gradient: &mut [f32]) {
    let norm = simd::sum(m, |v| v * v).sqrt();
    let moves = norm > NORM_FLOOR;
    let norm = norm.max(NORM_FLOOR);
    m.iter_mut().for_each(|v| *v /= norm);
    let dot = if moves { simd::dot(m, gradient) } else { 0.0 };
    for (g, &e) in gradient.iter_mut().zip(&*m) {
        *g = (*g - e * dot) / norm;
    }
}
