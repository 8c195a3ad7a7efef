//! The gradient of normalisation on the processor: pieces of rows in parallel, their sums in order.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Forward;
use crate::device::Float;
use crate::ops::batch_norm::ROWS;

pub(super) fn batch_norm_backward<A: Float>(
    forward: &Forward<'_, A>,
    d_y: &[A],
    dx: &mut [A],
    [d_gamma, d_beta]: [&mut [f32]; 2],
) {
    let (x, weights) = (forward.x.host(), forward.weights.host());
    let (mean, gamma) = (forward.mean.host(), forward.gamma.host());
    let c = gamma.len();
    let rstd: Vec<f32> = forward
        .variance
        .host()
        .iter()
        .map(|v| 1.0 / (v + forward.eps).sqrt())
        .collect();
    let mut pieces = vec![0f32; weights.len().div_ceil(ROWS) * 2 * c];
    pieces
        .par_chunks_mut(2 * c)
        .zip(x.par_chunks(ROWS * c))
        .zip(d_y.par_chunks(ROWS * c))
        .for_each(|((sums, x), d_y)| {
            let (d_gamma, d_beta) = sums.split_at_mut(c);
            add_up(x, d_y, mean, &rstd, d_gamma, d_beta);
        });
    let mut sums = vec![0f32; 2 * c];
    for piece in pieces.chunks_exact(2 * c) {
        add(&mut sums, piece);
    }
    let (of_gamma, of_beta) = sums.split_at(c);
    add(d_gamma, of_gamma);
    add(d_beta, of_beta);
    let scale: Vec<f32> = gamma.iter().zip(&rstd).map(|(g, r)| g * r).collect();
    dx.par_chunks_mut(c)
        .zip(x.par_chunks(c))
        .zip(d_y.par_chunks(c))
        .zip(weights)
        .with_min_len(16)
        .for_each(|(((dx, x), d_y), w)| {
            let share = w / forward.total;
            one_row(x, d_y, share, [mean, &rstd, &scale, of_gamma, of_beta], dx);
        });
}

/// Sums of `d_y z` and of `d_y` over a piece of rows.
#[multiversion(targets = "simd")]
fn add_up<A: Float>(
    x: &[A],
    d_y: &[A],
    mean: &[f32],
    rstd: &[f32],
    d_gamma: &mut [f32],
    d_beta: &mut [f32],
) {
    let c = mean.len();
    for (x, d_y) in x.chunks_exact(c).zip(d_y.chunks_exact(c)) {
        for i in 0..c {
            let z = (x[i].to_f32() - mean[i]) * rstd[i];
            d_gamma[i] += d_y[i].to_f32() * z;
            d_beta[i] += d_y[i].to_f32();
        }
    }
}

#[multiversion(targets = "simd")]
fn one_row<A: Float>(x: &[A], d_y: &[A], share: f32, by_channel: [&[f32]; 5], dx: &mut [A]) {
    let [mean, rstd, scale, d_gamma, d_beta] = by_channel.map(|values| &values[..dx.len()]);
    for (i, dx) in dx.iter_mut().enumerate() {
        let z = (x[i].to_f32() - mean[i]) * rstd[i];
        let common = share * (d_beta[i] + z * d_gamma[i]);
        *dx = A::from_f32(scale[i] * (d_y[i].to_f32() - common));
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
