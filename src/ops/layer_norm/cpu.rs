//! Layer norm on the processor: rows in parallel.

use half::f16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use crate::device::{Float, SliceMut};
use crate::ops::simd;

pub(super) fn layer_norm<A: Float>(
    args: &Args<'_, A>,
    y: &mut [f32],
    y_act: Option<SliceMut<'_, f16>>,
) {
    let d = args.d;
    let x = args.x.host();
    let residual = args.residual.map(|b| b.host());
    let weight = args.norm.weight.host();
    let bias = args.norm.bias.map(|b| b.host());
    y.par_chunks_mut(d)
        .enumerate()
        .with_min_len(32)
        .for_each(|(r, out)| {
            out.copy_from_slice(&x[r * d..][..d]);
            if let Some(residual) = residual {
                for (out, add) in out.iter_mut().zip(&residual[r * d..][..d]) {
                    *out += add.to_f32();
                }
            }
            normalize(out, weight, bias, args.norm.eps);
        });
    if let Some(mut y_act) = y_act {
        for (to, &from) in y_act.host().iter_mut().zip(y.iter()) {
            *to = f16::from_f32(from);
        }
    }
}

/// Normalises one row in place.
#[multiversion(targets = "simd")]
fn normalize(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
    let d = row.len() as f32;
    let mean = simd::sum(row, |v| v) / d;
    let squares = simd::sum(row, |v| (v - mean) * (v - mean));
    let rstd = 1.0 / (squares / d + eps).sqrt();
    match bias {
        Some(bias) => {
            for ((v, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
                *v = (*v - mean) * rstd * w + b;
            }
        }
        None => {
            for (v, &w) in row.iter_mut().zip(weight) {
                *v = (*v - mean) * rstd * w;
            }
        }
    }
}
