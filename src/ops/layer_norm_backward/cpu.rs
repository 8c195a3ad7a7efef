//! The gradient of layer norm on the processor: rows in parallel, sums over rows in fixed pieces.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use crate::device::Float;
use crate::ops::simd;

/// Rows of which one thread adds up the gradients of weight and bias; the sums of such pieces are added in their order.
const ROWS: usize = 32;

pub(super) fn layer_norm_backward<A: Float>(
    args: &Args<'_, A>,
    dx: &mut [f32],
    dx_act: Option<&mut [A]>,
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    let (d, eps) = (args.d, args.norm.eps);
    let (x, dy) = (args.x.host(), args.dy.host());
    let residual = args.residual.map(|b| b.host());
    let weight = args.norm.weight.host();
    let mut sums = vec![0f32; args.rows.div_ceil(ROWS) * 2 * d];
    dx.par_chunks_mut(ROWS * d)
        .zip(sums.par_chunks_mut(2 * d))
        .enumerate()
        .for_each_init(
            || vec![0f32; d],
            |g, (piece, (rows, sums))| {
                let (d_weight, d_bias) = sums.split_at_mut(d);
                for (r, row) in rows.chunks_exact_mut(d).enumerate() {
                    let at = (piece * ROWS + r) * d;
                    row.copy_from_slice(&x[at..][..d]);
                    if let Some(residual) = residual {
                        for (v, add) in row.iter_mut().zip(&residual[at..][..d]) {
                            *v += add.to_f32();
                        }
                    }
                    backward(row, weight, &dy[at..][..d], eps, g, d_weight, d_bias);
                }
            },
        );
    for sums in sums.chunks_exact(2 * d) {
        add(d_weight, &sums[..d]);
        add(d_bias, &sums[d..]);
    }
    if let Some(dx_act) = dx_act {
        dx_act
            .par_iter_mut()
            .zip(dx.par_iter())
            .with_min_len(1 << 14)
            .for_each(|(to, &from)| *to = A::from_f32(from));
    }
}

/// One row, which goes from the input of the norm to its gradient in place; `g` is scratch.
#[multiversion(targets = "simd")]
fn backward(
    row: &mut [f32],
    weight: &[f32],
    dy: &[f32],
    eps: f32,
    g: &mut [f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    let n = row.len() as f32;
    let mean = simd::sum(row, |v| v) / n;
    let squares = simd::sum(row, |v| (v - mean) * (v - mean));
    let rstd = 1.0 / (squares / n + eps).sqrt();
    for ((z, g), (&dy, &w)) in row.iter_mut().zip(&mut *g).zip(dy.iter().zip(weight)) {
        *z = (*z - mean) * rstd;
        *g = dy * w;
    }
    for ((d_weight, d_bias), (&z, &dy)) in d_weight.iter_mut().zip(d_bias).zip(row.iter().zip(dy)) {
        *d_weight += dy * z;
        *d_bias += dy;
    }
    let (a, b) = (simd::sum(g, |v| v) / n, simd::dot(g, row) / n);
    for (z, &g) in row.iter_mut().zip(&*g) {
        *z = (g - a - *z * b) * rstd;
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
