//! Attention on the processor: texts in parallel, heads one by one.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{PART, scale_of};
use crate::ops::simd;

/// Query rows in a register tile of the CPU path: with [`PART`] columns, 8 accumulators of 16 lanes.
const ROWS: usize = 4;

/// `tile[r][c] = sum_k lhs[r][k] rhs[k * stride + c]` for [`ROWS`] rows and [`PART`] columns.
#[inline(always)]
fn tile_product(lhs: [&[f32]; ROWS], rhs: &[f32], stride: usize) -> [[f32; PART]; ROWS] {
    let mut tile = [[0f32; PART]; ROWS];
    let k = lhs[0].len();
    for i in 0..k {
        let rhs: &[f32; PART] = rhs[i * stride..][..PART].try_into().expect("PART columns");
        for r in 0..ROWS {
            let x = lhs[r][i];
            for c in 0..PART {
                tile[r][c] = x.mul_add(rhs[c], tile[r][c]);
            }
        }
    }
    tile
}

pub(super) fn attention(
    qkv: &[f32],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
    out: &mut [f32],
) {
    let d = n_heads * head_dim;
    // One piece of the output per text.
    let mut rest = out;
    let mut texts = Vec::with_capacity(offsets.len() - 1);
    for span in offsets.windows(2) {
        let (piece, tail) = rest.split_at_mut((span[1] - span[0]) as usize * d);
        texts.push((
            &qkv[span[0] as usize * 3 * d..span[1] as usize * 3 * d],
            piece,
        ));
        rest = tail;
    }
    texts
        .into_par_iter()
        .for_each_init(Vec::new, |scratch, (qkv, out)| {
            one_text(qkv, n_heads, head_dim, out, scratch);
        });
}

/// All heads of one text.
#[multiversion(targets = "simd")]
fn one_text(qkv: &[f32], n_heads: usize, head_dim: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
    let d = n_heads * head_dim;
    let l = out.len() / d;
    let padded = l.next_multiple_of(PART);
    let scale = scale_of(head_dim);
    scratch.clear();
    scratch.resize((head_dim + ROWS) * padded, 0.0);
    let (keys, probs) = scratch.split_at_mut(head_dim * padded);
    for head in 0..n_heads {
        let column = |which: usize| which * d + head * head_dim;
        // Keys, scaled and transposed to [head_dim, padded]; the padding stays zero.
        for j in 0..l {
            let key = &qkv[j * 3 * d + column(1)..][..head_dim];
            for (c, &k) in key.iter().enumerate() {
                keys[c * padded + j] = k * scale;
            }
        }
        for i in (0..l).step_by(ROWS) {
            // A last block with fewer rows repeats its last one; the repeats are not stored.
            let row = |r: usize| (i + r).min(l - 1);
            let queries: [&[f32]; ROWS] =
                std::array::from_fn(|r| &qkv[row(r) * 3 * d + column(0)..][..head_dim]);
            for j in (0..l).step_by(PART) {
                let tile = tile_product(queries, &keys[j..], padded);
                for r in 0..ROWS {
                    probs[r * padded + j..][..PART].copy_from_slice(&tile[r]);
                }
            }
            let mut totals = [0f32; ROWS];
            for r in 0..ROWS {
                let scores = &mut probs[r * padded..][..l];
                let max = simd::max(scores);
                for s in scores.iter_mut() {
                    *s = simd::exp_nonpositive(*s - max);
                }
                totals[r] = simd::sum(scores, |p| p);
            }
            let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &probs[r * padded..][..l]);
            for c in (0..head_dim).step_by(PART) {
                let tile = tile_product(weights, &qkv[column(2) + c..], 3 * d);
                for r in 0..ROWS.min(l - i) {
                    let out = &mut out[(i + r) * d + head * head_dim + c..][..PART];
                    let inverse = 1.0 / totals[r];
                    for (out, &v) in out.iter_mut().zip(&tile[r]) {
                        *out = v * inverse;
                    }
                }
            }
        }
    }
}
