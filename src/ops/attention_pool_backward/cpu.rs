//! The gradient of pooling by attention on the processor: texts in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use crate::device::Float;
use crate::ops::attention_pool::{Scratch, TOTAL, drop_and_scale, number};
use crate::ops::dropout::Mask;
use crate::ops::simd;

/// One text.
struct Text<'a> {
    query: &'a [f32],
    rows: &'a [f32],
    scale: f32,
    /// With the number of the text.
    mask: Option<(Mask, u32)>,
    probabilities: &'a [f32],
    d_out: &'a [f32],
    d_query: &'a mut [f32],
    d_rows: &'a mut [f32],
}

/// `None` where elements are not f32.
pub(super) fn attention_pool_backward<A: Float>(
    args: &Args<'_, A>,
    d_queries: Option<&mut [f32]>,
    d_rows: &mut [f32],
) -> Option<()> {
    let (forward, d) = (args.forward, args.forward.d);
    let (queries, rows) = (forward.queries.host_as()?, forward.rows.host_as::<f32>()?);
    let d_out = args.d_out.host_as::<f32>()?;
    let probabilities = forward.probabilities.host();
    let mask = args.mask.map(|(mask, origins)| (mask, origins.host()));
    let mut rest = d_rows;
    let mut texts = Vec::with_capacity(forward.texts.texts());
    let spans = forward.texts.offsets().windows(2);
    let of_queries = queries.chunks_exact(d).zip(d_queries?.chunks_exact_mut(d));
    let of_results = d_out.chunks_exact(d + TOTAL);
    for ((span, (query, d_query)), d_out) in spans.zip(of_queries).zip(of_results) {
        let [first, end] = [span[0], span[1]].map(|row| row as usize);
        let (here, tail) = rest.split_at_mut((end - first) * d);
        rest = tail;
        texts.push(Text {
            query,
            rows: &rows[first * d..end * d],
            scale: forward.scale,
            mask: number(mask, span),
            probabilities: &probabilities[first..end],
            d_out,
            d_query,
            d_rows: here,
        });
    }
    texts
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, text| one_text(text, scratch));
    Some(())
}

#[multiversion(targets = "simd")]
fn one_text(text: Text<'_>, scratch: &mut Scratch) {
    let Text {
        query,
        rows,
        scale,
        mask,
        probabilities,
        d_out,
        d_query,
        d_rows,
    } = text;
    let d = query.len();
    let l = probabilities.len();
    let (dz, behind) = d_out.split_at(d);
    d_query.fill(0.0);
    // Factors of dropout, then the gradients in the probabilities.
    scratch.values.clear();
    scratch.values.resize(2 * l, 1.0);
    let (factors, gradients) = scratch.values.split_at_mut(l);
    if let Some((mask, number)) = mask {
        drop_and_scale(mask, number, factors, &mut scratch.words);
    }
    let mut mean = 0f32;
    for (j, row) in rows.chunks_exact(d).enumerate() {
        gradients[j] = factors[j] * (simd::dot(dz, row) + behind[0]);
        mean += probabilities[j] * gradients[j];
    }
    let of_rows = rows.chunks_exact(d).zip(d_rows.chunks_exact_mut(d));
    for (j, (row, d_row)) in of_rows.enumerate() {
        let ds = scale * (probabilities[j] * (gradients[j] - mean));
        let weight = probabilities[j] * factors[j];
        for (d_query, &x) in d_query.iter_mut().zip(row) {
            *d_query += ds * x;
        }
        for ((d_row, &dz), &q) in d_row.iter_mut().zip(dz).zip(query) {
            *d_row = weight * dz + ds * q;
        }
    }
}
