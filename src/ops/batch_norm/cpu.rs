//! The statistics of a batch on the processor: two passes, pieces of rows in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use crate::device::Float;

/// Rows of a piece; the sums of pieces are added in their order. They are f64: few rows may stand for most of a batch, so that
/// what the others add is small beside what is there.
pub(in crate::ops) const ROWS: usize = 64;

pub(super) fn batch_norm<A: Float>(args: &Args<'_, A>, mean: &mut [f32], variance: &mut [f32]) {
    let &Args { total, c, .. } = args;
    let (x, weights) = (args.x.host(), args.weights.host());
    let mut sums = vec![0f64; weights.len().div_ceil(ROWS) * c];
    // The mean, or the variance once there is a mean.
    let mut statistic = |center: Option<&[f32]>, out: &mut [f32]| {
        sums.par_chunks_mut(c)
            .zip(x.par_chunks(ROWS * c))
            .zip(weights.par_chunks(ROWS))
            .for_each(|((sums, x), weights)| match center {
                None => add_up(x, weights, sums),
                Some(center) => add_squares(x, weights, center, sums),
            });
        for (i, out) in out.iter_mut().enumerate() {
            let sum: f64 = sums.iter().skip(i).step_by(c).sum();
            *out = (sum / f64::from(total)) as f32;
        }
    };
    statistic(None, mean);
    statistic(Some(mean), variance);
}

#[multiversion(targets = "simd")]
fn add_up<A: Float>(x: &[A], weights: &[f32], sums: &mut [f64]) {
    sums.fill(0.0);
    for (row, &w) in x.chunks_exact(sums.len()).zip(weights) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += f64::from(w * x.to_f32());
        }
    }
}

#[multiversion(targets = "simd")]
fn add_squares<A: Float>(x: &[A], weights: &[f32], center: &[f32], sums: &mut [f64]) {
    sums.fill(0.0);
    for (row, &w) in x.chunks_exact(sums.len()).zip(weights) {
        for ((sum, x), center) in sums.iter_mut().zip(row).zip(center) {
            let deviation = x.to_f32() - center;
            *sum += f64::from(w * (deviation * deviation));
        }
    }
}
