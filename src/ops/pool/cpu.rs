//! Pooling on the processor: texts in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Args, NORM_FLOOR, rows};
use crate::device::Float;
use crate::ops::simd;

pub(super) fn pool<T: Float>(args: &Args<'_>, out: &mut [T]) {
    let (h, d) = (args.h.host(), args.d);
    out.par_chunks_mut(d)
        .zip(args.texts.offsets().par_windows(2))
        .for_each_init(
            || vec![0f32; d],
            |row, (out, span)| {
                let rows = rows(span, args.pooling);
                mean(&h[rows.start * d..rows.end * d], row);
                if args.normalize {
                    scale_to_unit(row);
                }
                for (out, &v) in out.iter_mut().zip(row.iter()) {
                    *out = T::from_f32(v);
                }
            },
        );
}

/// The mean of `rows` `[n, d]`; zero of none.
#[multiversion(targets = "simd")]
pub(in crate::ops) fn mean(rows: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let mut n = 0u32;
    for row in rows.chunks_exact(out.len()) {
        n += 1;
        for (sum, &v) in out.iter_mut().zip(row) {
            *sum += v;
        }
    }
    let n = n.max(1) as f32;
    out.iter_mut().for_each(|v| *v /= n);
}

#[multiversion(targets = "simd")]
fn scale_to_unit(row: &mut [f32]) {
    let norm = simd::sum(row, |v| v * v).sqrt().max(NORM_FLOOR);
    row.iter_mut().for_each(|v| *v /= norm);
}
