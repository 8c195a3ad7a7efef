//! The gradient of attention on the processor: texts in parallel, heads one by one.

use multiversion::multiversion;
use rayon::prelude::*;

use super::HostArgs;
use crate::ops::attention::cpu::{ROWS, copy_head, tile_product, transpose_head};
use crate::ops::attention::{PART, scale_of};
use crate::ops::dropout::Mask;
use crate::ops::dropout::philox::{LANES, fill};
use crate::ops::simd;

/// Query rows whose probabilities are kept at a time: long sums for keys and values, and few enough to stay in a cache.
const BLOCK: usize = 64;

/// One text: rows of the inputs, and with the mask the number of the text.
struct Text<'a> {
    qkv: &'a [f32],
    context: &'a [f32],
    statistics: &'a [f32],
    d_context: &'a [f32],
    mask: Option<(Mask, u32)>,
}

/// The buffers of a thread.
#[derive(Default)]
struct Scratch {
    /// Keys and values of a head, transposed; probabilities and gradients of scores of a block.
    values: Vec<f32>,
    /// Random words of a row.
    words: Vec<u32>,
}

pub(super) fn attention_backward(args: &HostArgs<'_>, d_qkv: &mut [f32]) {
    let d = args.n_heads * args.head_dim;
    let mut rest = d_qkv;
    let mut texts = Vec::with_capacity(args.offsets.len() - 1);
    for span in args.offsets.windows(2) {
        let [first, end] = [span[0], span[1]].map(|row| row as usize);
        if first == end {
            continue;
        }
        let (piece, tail) = rest.split_at_mut((end - first) * 3 * d);
        rest = tail;
        let text = Text {
            qkv: &args.qkv[first * 3 * d..end * 3 * d],
            context: &args.context[first * d..end * d],
            statistics: &args.statistics[first * args.n_heads..end * args.n_heads],
            d_context: &args.d_context[first * d..end * d],
            mask: args
                .mask
                .map(|(mask, origins)| (mask, origins[2 * first + 1])),
        };
        texts.push((text, piece));
    }
    texts
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, (text, d_qkv)| {
            one_text(&text, args.n_heads, args.head_dim, d_qkv, scratch);
        });
}

/// `tile[r][c] = sum_i lhs[i * lhs_stride + r] rhs[i * rhs_stride + c]` over `n` rows, for [`ROWS`] rows of the transposed
/// left side and [`PART`] columns.
#[inline(always)]
fn transposed_product(
    lhs: &[f32],
    lhs_stride: usize,
    rhs: &[f32],
    rhs_stride: usize,
    n: usize,
) -> [[f32; PART]; ROWS] {
    let mut tile = [[0f32; PART]; ROWS];
    for i in 0..n {
        let lhs: &[f32; ROWS] = lhs[i * lhs_stride..][..ROWS].try_into().expect("ROWS rows");
        let rhs: &[f32; PART] = rhs[i * rhs_stride..][..PART]
            .try_into()
            .expect("PART columns");
        for r in 0..ROWS {
            for c in 0..PART {
                tile[r][c] = lhs[r].mul_add(rhs[c], tile[r][c]);
            }
        }
    }
    tile
}

/// All heads of one text.
#[multiversion(targets = "simd")]
fn one_text(
    text: &Text<'_>,
    n_heads: usize,
    head_dim: usize,
    d_qkv: &mut [f32],
    scratch: &mut Scratch,
) {
    let d = n_heads * head_dim;
    let l = text.context.len() / d;
    let padded = l.next_multiple_of(PART);
    let scale = scale_of(head_dim);
    scratch.values.clear();
    (scratch.values).resize(2 * (head_dim + BLOCK) * padded + l * head_dim, 0.0);
    scratch.words.resize(l.next_multiple_of(4 * LANES), 0);
    let (rows_of_keys, rest) = scratch.values.split_at_mut(l * head_dim);
    let (keys, rest) = rest.split_at_mut(head_dim * padded);
    let (values, rest) = rest.split_at_mut(head_dim * padded);
    // Probabilities, masked; gradients of the scaled scores, scaled. Columns beyond the text stay zero.
    let (probs, slopes) = rest.split_at_mut(BLOCK * padded);
    for head in 0..n_heads {
        let column = |which: usize| which * d + head * head_dim;
        let own = head * head_dim;
        transpose_head(&text.qkv[column(1)..], 3 * d, l, scale, keys, head_dim);
        transpose_head(&text.qkv[column(2)..], 3 * d, l, 1.0, values, head_dim);
        copy_head(&text.qkv[column(1)..], 3 * d, l, rows_of_keys, head_dim);
        for first in (0..l).step_by(BLOCK) {
            let n = BLOCK.min(l - first);
            for i in (0..n).step_by(ROWS) {
                // A last block with fewer rows repeats its last one; the repeats are not stored.
                let row = |r: usize| (first + i + r).min(l - 1);
                let rows = ROWS.min(n - i);
                let queries: [&[f32]; ROWS] =
                    std::array::from_fn(|r| &text.qkv[row(r) * 3 * d + column(0)..][..head_dim]);
                let gradients: [&[f32]; ROWS] =
                    std::array::from_fn(|r| &text.d_context[row(r) * d + own..][..head_dim]);
                let panels =
                    (keys.chunks_exact(head_dim * PART)).zip(values.chunks_exact(head_dim * PART));
                for (j, (keys, values)) in (0..l).step_by(PART).zip(panels) {
                    let columns = PART.min(l - j);
                    let scores = tile_product(queries, keys.as_chunks().0);
                    let products = tile_product(gradients, values.as_chunks().0);
                    for r in 0..rows {
                        let at = (i + r) * padded + j;
                        probs[at..][..columns].copy_from_slice(&scores[r][..columns]);
                        slopes[at..][..columns].copy_from_slice(&products[r][..columns]);
                    }
                }
                for r in 0..rows {
                    let context = &text.context[row(r) * d + own..][..head_dim];
                    let mean = simd::dot(context, gradients[r]);
                    let statistic = text.statistics[row(r) * n_heads + head];
                    let probs = &mut probs[(i + r) * padded..][..l];
                    let slopes = &mut slopes[(i + r) * padded..][..l];
                    let Some((mask, number)) = text.mask else {
                        for (p, s) in probs.iter_mut().zip(slopes) {
                            *p = simd::exp_nonpositive(*p - statistic);
                            *s = *p * (*s - mean) * scale;
                        }
                        continue;
                    };
                    let rest = [row(r) as u32, number, head as u32];
                    fill(mask.key, rest, &mut scratch.words);
                    let (threshold, kept) = (mask.threshold(), mask.scale());
                    for ((p, s), &word) in probs.iter_mut().zip(slopes).zip(&scratch.words) {
                        let factor = if word >= threshold { kept } else { 0.0 };
                        let all = simd::exp_nonpositive(*p - statistic);
                        *p = all * factor;
                        *s = all * (*s * factor - mean) * scale;
                    }
                }
                let weights: [&[f32]; ROWS] =
                    std::array::from_fn(|r| &slopes[(i + r.min(rows - 1)) * padded..][..l]);
                let panels = rows_of_keys.chunks_exact(l * PART);
                for (c, panel) in (0..head_dim).step_by(PART).zip(panels) {
                    let tile = tile_product(weights, panel.as_chunks().0);
                    for r in 0..rows {
                        let to = &mut d_qkv[row(r) * 3 * d + column(0) + c..];
                        to[..PART].copy_from_slice(&tile[r]);
                    }
                }
            }
            // Of keys and values, what this block of rows has a part in.
            let queries = &text.qkv[first * 3 * d + column(0)..];
            let gradients = &text.d_context[first * d + own..];
            for j in (0..l).step_by(ROWS) {
                for c in (0..head_dim).step_by(PART) {
                    let of_keys = transposed_product(&slopes[j..], padded, &queries[c..], 3 * d, n);
                    let of_values = transposed_product(&probs[j..], padded, &gradients[c..], d, n);
                    for (which, tile) in [(1, of_keys), (2, of_values)] {
                        for r in 0..ROWS.min(l - j) {
                            let to = &mut d_qkv[(j + r) * 3 * d + column(which) + c..][..PART];
                            if first == 0 {
                                to.copy_from_slice(&tile[r]);
                            } else {
                                for (to, &v) in to.iter_mut().zip(&tile[r]) {
                                    *to += v;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
