//! Attention on the processor: texts in parallel, heads one by one.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{PART, scale_of};
use crate::ops::dropout::Mask;
use crate::ops::dropout::philox::{LANES, fill};
use crate::ops::simd;

/// Query rows in a register tile of the CPU path: with [`PART`] columns, 8 accumulators of 16 lanes.
pub(in crate::ops) const ROWS: usize = 4;

/// `tile[r][c] = sum_k lhs[r][k] rhs[k][c]` for [`ROWS`] rows and [`PART`] columns.
#[inline(always)]
pub(in crate::ops) fn tile_product(
    lhs: [&[f32]; ROWS],
    rhs: &[[f32; PART]],
) -> [[f32; PART]; ROWS] {
    let mut tile = [[0f32; PART]; ROWS];
    // Of one length, so that nothing is checked within the loop.
    let lhs = lhs.map(|row| &row[..rhs.len()]);
    for (k, rhs) in rhs.iter().enumerate() {
        for r in 0..ROWS {
            let x = lhs[r][k];
            for c in 0..PART {
                tile[r][c] = x.mul_add(rhs[c], tile[r][c]);
            }
        }
    }
    tile
}

/// What training adds.
pub(super) struct Saving<'a> {
    /// `[t, n_heads]`.
    pub statistics: &'a mut [f32],
    /// And the origins of the tokens.
    pub mask: Option<(Mask, &'a [u32])>,
}

/// The same of one text: statistics and, with the mask, the number of the text.
struct SavingOne<'a> {
    statistics: &'a mut [f32],
    mask: Option<(Mask, u32)>,
}

/// The buffers of a thread.
#[derive(Default)]
struct Scratch {
    /// Keys of a head, its values, then probabilities of a few rows.
    values: Vec<f32>,
    /// Random words of a row.
    words: Vec<u32>,
}

pub(super) fn attention(
    qkv: &[f32],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
    saving: Option<Saving<'_>>,
    out: &mut [f32],
) {
    let d = n_heads * head_dim;
    let (mut statistics, mask) = match saving {
        Some(saving) => (Some(saving.statistics), saving.mask),
        None => (None, None),
    };
    // One piece of the outputs per text.
    let mut rest = out;
    let mut texts = Vec::with_capacity(offsets.len() - 1);
    for span in offsets.windows(2) {
        let [first, end] = [span[0], span[1]].map(|row| row as usize);
        if first == end {
            continue;
        }
        let (piece, tail) = rest.split_at_mut((end - first) * d);
        rest = tail;
        let saving = statistics.take().map(|all| {
            let (piece, tail) = all.split_at_mut((end - first) * n_heads);
            statistics = Some(tail);
            SavingOne {
                statistics: piece,
                mask: mask.map(|(mask, origins)| (mask, origins[2 * first + 1])),
            }
        });
        texts.push((&qkv[first * 3 * d..end * 3 * d], piece, saving));
    }
    texts
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, (qkv, out, saving)| {
            one_text(qkv, n_heads, head_dim, saving, out, scratch);
        });
}

/// All heads of one text.
#[multiversion(targets = "simd")]
fn one_text(
    qkv: &[f32],
    n_heads: usize,
    head_dim: usize,
    mut saving: Option<SavingOne<'_>>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let d = n_heads * head_dim;
    let l = out.len() / d;
    let padded = l.next_multiple_of(PART);
    let scale = scale_of(head_dim);
    scratch.values.clear();
    (scratch.values).resize((head_dim + ROWS) * padded + l * head_dim, 0.0);
    scratch.words.resize(l.next_multiple_of(4 * LANES), 0);
    let (keys, rest) = scratch.values.split_at_mut(head_dim * padded);
    let (values, probs) = rest.split_at_mut(l * head_dim);
    for head in 0..n_heads {
        let column = |which: usize| which * d + head * head_dim;
        transpose_head(&qkv[column(1)..], 3 * d, l, scale, keys, head_dim);
        copy_head(&qkv[column(2)..], 3 * d, l, values, head_dim);
        for i in (0..l).step_by(ROWS) {
            // A last block with fewer rows repeats its last one; the repeats are not stored.
            let row = |r: usize| (i + r).min(l - 1);
            let queries: [&[f32]; ROWS] =
                std::array::from_fn(|r| &qkv[row(r) * 3 * d + column(0)..][..head_dim]);
            let panels = keys.chunks_exact(head_dim * PART);
            for (j, panel) in (0..l).step_by(PART).zip(panels) {
                let tile = tile_product(queries, panel.as_chunks().0);
                for r in 0..ROWS {
                    probs[r * padded + j..][..PART].copy_from_slice(&tile[r]);
                }
            }
            let mut factors = [0f32; ROWS];
            for r in 0..ROWS {
                // Whole vectors: what pads a row becomes 0.
                let scores = &mut probs[r * padded..][..padded];
                scores[l..].fill(f32::NEG_INFINITY);
                let max = simd::max(scores);
                for s in scores.iter_mut() {
                    *s = simd::exp_nonpositive(*s - max);
                }
                let total = simd::sum(scores, |p| p);
                let scores = &mut scores[..l];
                factors[r] = 1.0 / total;
                let Some(saving) = &mut saving else {
                    continue;
                };
                saving.statistics[row(r) * n_heads + head] = max + total.ln();
                if let Some((mask, number)) = saving.mask {
                    let rest = [row(r) as u32, number, head as u32];
                    fill(mask.key, rest, &mut scratch.words);
                    drop_below(mask.threshold(), &scratch.words, scores);
                    factors[r] *= mask.scale();
                }
            }
            let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &probs[r * padded..][..l]);
            let panels = values.chunks_exact(l * PART);
            for (c, panel) in (0..head_dim).step_by(PART).zip(panels) {
                let tile = tile_product(weights, panel.as_chunks().0);
                for r in 0..ROWS.min(l - i) {
                    let out = &mut out[(i + r) * d + head * head_dim + c..][..PART];
                    for (out, &v) in out.iter_mut().zip(&tile[r]) {
                        *out = v * factors[r];
                    }
                }
            }
        }
    }
}

/// `l` rows of a head at a distance of `stride`, scaled and transposed: in panels of [`PART`] rows, `[head_dim, PART]` each;
/// what pads the last one stays as it is.
#[inline(always)]
pub(in crate::ops) fn transpose_head(
    rows: &[f32],
    stride: usize,
    l: usize,
    scale: f32,
    panels: &mut [f32],
    head_dim: usize,
) {
    let panels = panels.chunks_exact_mut(head_dim * PART);
    for (first, panel) in (0..l).step_by(PART).zip(panels) {
        let n = PART.min(l - first);
        let panel = panel.as_chunks_mut::<PART>().0;
        for (c, to) in panel.iter_mut().enumerate() {
            let column = rows[first * stride + c..].iter().step_by(stride);
            for (to, &x) in to[..n].iter_mut().zip(column) {
                *to = x * scale;
            }
        }
    }
}

/// `l` rows of a head at a distance of `stride`, in panels of [`PART`] columns, `[l, PART]` each.
#[inline(always)]
pub(in crate::ops) fn copy_head(
    rows: &[f32],
    stride: usize,
    l: usize,
    panels: &mut [f32],
    head_dim: usize,
) {
    let panels = panels.chunks_exact_mut(l * PART);
    for (first, panel) in (0..head_dim).step_by(PART).zip(panels) {
        for (j, to) in panel.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
            to.copy_from_slice(&rows[j * stride + first..][..PART]);
        }
    }
}

/// Sets to 0 what a word below `threshold` drops.
#[inline(always)]
pub(in crate::ops) fn drop_below(threshold: u32, words: &[u32], values: &mut [f32]) {
    for (value, &word) in values.iter_mut().zip(words) {
        *value = if word >= threshold { *value } else { 0.0 };
    }
}
