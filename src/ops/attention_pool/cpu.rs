//! Pooling by attention on the processor: texts in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Args, TOTAL};
use crate::device::Float;
use crate::ops::attention::cpu::drop_below;
use crate::ops::dropout::Mask;
use crate::ops::dropout::philox::{LANES, fill};
use crate::ops::simd;

/// One text.
struct Text<'a> {
    query: &'a [f32],
    rows: &'a [f32],
    scale: f32,
    /// With the number of the text.
    mask: Option<(Mask, u32)>,
    probabilities: Option<&'a mut [f32]>,
    out: &'a mut [f32],
}

/// The buffers of a thread.
#[derive(Default)]
pub(in crate::ops) struct Scratch {
    /// Of each row of a text.
    pub values: Vec<f32>,
    /// Random words of them.
    pub words: Vec<u32>,
}

/// `None` where elements are not f32.
pub(super) fn attention_pool<A: Float>(
    args: &Args<'_, A>,
    probabilities: Option<&mut [f32]>,
    out: Option<&mut [f32]>,
) -> Option<()> {
    let (queries, rows, out) = (args.queries.host_as()?, args.rows.host_as::<f32>()?, out?);
    let d = args.d;
    let mask = args.mask.map(|(mask, origins)| (mask, origins.host()));
    let mut rest = probabilities;
    let mut texts = Vec::with_capacity(args.texts.texts());
    let outputs = out.chunks_exact_mut(d + TOTAL);
    let spans = args.texts.offsets().windows(2);
    for ((span, query), out) in spans.zip(queries.chunks_exact(d)).zip(outputs) {
        let [first, end] = [span[0], span[1]].map(|row| row as usize);
        let probabilities = rest.take().map(|all| {
            let (here, tail) = all.split_at_mut(end - first);
            rest = Some(tail);
            here
        });
        texts.push(Text {
            query,
            rows: &rows[first * d..end * d],
            scale: args.scale,
            mask: number(mask, span),
            probabilities,
            out,
        });
    }
    texts
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, text| one_text(text, scratch));
    Some(())
}

/// The mask with the number of the text at `span`.
pub(in crate::ops) fn number(mask: Option<(Mask, &[u32])>, span: &[u32]) -> Option<(Mask, u32)> {
    let (mask, origins) = mask?;
    // A text without rows has no origins, and nothing to drop.
    let origin = origins.get(2 * span[0] as usize + 1)?;
    Some((mask, *origin))
}

#[multiversion(targets = "simd")]
fn one_text(text: Text<'_>, scratch: &mut Scratch) {
    let Text {
        query,
        rows,
        scale,
        mask,
        probabilities,
        out,
    } = text;
    let d = query.len();
    let l = rows.len() / d;
    out.fill(0.0);
    if l == 0 {
        return;
    }
    scratch.values.resize(l, 0.0);
    let weights = &mut scratch.values[..];
    for (weight, row) in weights.iter_mut().zip(rows.chunks_exact(d)) {
        *weight = simd::dot(query, row) * scale;
    }
    let max = simd::max(weights);
    for weight in weights.iter_mut() {
        *weight = simd::exp_nonpositive(*weight - max);
    }
    let total = simd::sum(weights, |w| w);
    weights.iter_mut().for_each(|weight| *weight /= total);
    if let Some(probabilities) = probabilities {
        probabilities.copy_from_slice(weights);
    }
    if let Some((mask, number)) = mask {
        drop_and_scale(mask, number, weights, &mut scratch.words);
    }
    let (mean, behind) = out.split_at_mut(d);
    for (&weight, row) in weights.iter().zip(rows.chunks_exact(d)) {
        for (mean, &x) in mean.iter_mut().zip(row) {
            *mean += weight * x;
        }
    }
    behind[0] = simd::sum(weights, |w| w);
}

/// Drops weights of the rows of text `number`, and makes the others larger.
#[inline(always)]
pub(in crate::ops) fn drop_and_scale(
    mask: Mask,
    number: u32,
    weights: &mut [f32],
    words: &mut Vec<u32>,
) {
    words.resize(weights.len().next_multiple_of(4 * LANES), 0);
    fill(mask.key, [0, number, 0], words);
    drop_below(mask.threshold(), words, weights);
    let scale = mask.scale();
    weights.iter_mut().for_each(|weight| *weight *= scale);
}
