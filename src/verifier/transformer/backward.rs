//! From the gradient in scores to the one in weights, and in the patches of maps.

use super::forward::{Inputs, Saved, drop_values, norm_of, scale};
use super::weights::Table;
use super::{INNER, PATCH};
use crate::device::{Buffer, ElementType, Float, Slice};
use crate::error::Result;
use crate::model::weights::{Gradients, Norm, Weights};
use crate::ops::attention_pool_backward::{Forward, attention_pool_backward};
use crate::ops::dropout::Site;
use crate::ops::embedding_backward::{TableGradients, embedding_backward};
use crate::ops::matmul::Epilogue;
use crate::ops::pool::Pooling;
use crate::ops::{add_rows, layer_norm_backward, matmul, matmul_tn, pool};
use crate::verifier::layers::{Backward, SCORES};
use crate::verifier::parameters::Tensors;

/// Adds the gradient in every weight to `gradients`, given the one in the scores before tanh, `[p, 8]` of which column 0
/// counts and the others are zero; returns the one in the patches, `[t, 192]`, if it is wanted.
pub(in crate::verifier) fn backward<A: Float>(
    weights: &Weights<A, Tensors>,
    table: &Table,
    patches: Slice<'_, A>,
    inputs: &Inputs,
    saved: Saved<A>,
    d_scores: Slice<'_, A>,
    gradients: &mut Gradients<Tensors>,
    wants_patches: bool,
) -> Result<Option<Buffer<f32>>> {
    let device = weights.device();
    let mut pass = Backward { weights, gradients };
    let (d, t, p) = (table.d, inputs.rows(), inputs.pairs());

    // The head.
    pass.weight(table.score, d_scores, saved.head.as_slice(), SCORES, d)?;
    let mut d_head = pass.before_gelu(
        table.score.weight,
        d_scores,
        saved.before_head.as_slice(),
        p,
        d,
    )?;
    drop_values(&mut d_head, d, inputs.of_pairs(Site::Head))?;
    pass.weight(table.head, d_head.as_slice(), saved.output.act(), d, d)?;
    let mut stream = pass.input::<f32>(table.head.weight, d_head.as_slice(), p, d)?;
    drop(d_head);

    // The feed-forward half.
    let mut branch = rounded(inputs, &stream, d)?;
    drop_values(&mut branch, d, inputs.of_pairs(Site::FeedForwardOutput))?;
    pass.weight(
        table.ff_out,
        branch.as_slice(),
        saved.inner.as_slice(),
        d,
        INNER,
    )?;
    let before = saved.before_inner.as_slice();
    let mut d_inner = pass.before_gelu(table.ff_out.weight, branch.as_slice(), before, p, INNER)?;
    drop_values(&mut d_inner, INNER, inputs.of_pairs(Site::FeedForwardInner))?;
    pass.weight(
        table.ff_in,
        d_inner.as_slice(),
        saved.middle_norm.act(),
        INNER,
        d,
    )?;
    let d_norm = pass.input::<f32>(table.ff_in.weight, d_inner.as_slice(), p, d)?;
    let d_middle = norm(&mut pass, &saved.middle, table.ff_norm, &d_norm)?;
    add_rows(d_middle.as_slice(), d, None, stream.as_slice_mut(), None)?;

    // The attention.
    let mut branch = rounded(inputs, &stream, d)?;
    drop_values(&mut branch, d, inputs.of_pairs(Site::AttentionOutput))?;
    pass.weight(
        table.attention_out,
        branch.as_slice(),
        saved.value.as_slice(),
        d,
        d,
    )?;
    let d_value = pass.input::<A>(table.attention_out.weight, branch.as_slice(), p, d)?;
    let wide = saved.mean.len() / p.max(1);
    let value = pass.gradients.matrix_mut(table.value);
    matmul_tn(&d_value, &saved.mean, value, None, d, wide)?;
    let d_mean = pass.input::<A>(table.value, d_value.as_slice(), p, wide)?;
    let mut d_keys = device.alloc::<A>(p * d)?;
    let mut d_y = device.alloc::<f32>(t * d)?;
    let pooled = Forward {
        queries: saved.keys.as_slice(),
        rows: saved.y.act(),
        texts: inputs.layout.texts(),
        d,
        scale: scale(d),
        mask: inputs.of_rows(Site::Probabilities),
        probabilities: saved.probabilities.as_slice(),
    };
    attention_pool_backward(&pooled, &d_mean, &mut d_keys, &mut d_y)?;
    let key = pass.gradients.matrix_mut(table.key);
    matmul_tn(&saved.query, &d_keys, key, None, d, d)?;
    let mut d_query = device.alloc::<A>(p * d)?;
    let key = weights.matrix(table.key);
    matmul(&d_keys, key, &Epilogue::default(), &mut d_query, p, d)?;
    pass.weight(
        table.query,
        d_query.as_slice(),
        saved.first.as_slice(),
        d,
        d,
    )?;
    let d_first = pass.input::<f32>(table.query.weight, d_query.as_slice(), p, d)?;
    add_rows(
        d_first.as_slice(),
        d,
        Some(&inputs.first),
        d_y.as_slice_mut(),
        None,
    )?;
    let mut d_h = norm(&mut pass, &saved.h, table.attention_norm, &d_y)?;
    drop(d_y);
    add_rows(
        stream.as_slice(),
        d,
        Some(&inputs.first),
        d_h.as_slice_mut(),
        None,
    )?;
    drop_values(&mut d_h, d, inputs.of_rows(Site::Embedding))?;

    // The embedding.
    let half = A::TYPE != ElementType::F32;
    let mut rounded = match half {
        true => Some(device.alloc::<A>(t * d)?),
        false => None,
    };
    let mut d_embedded = device.alloc::<f32>(t * d)?;
    let [d_weight, d_bias] = pass.gradients.norm_mut(table.embedding_norm);
    layer_norm_backward::<A>(
        &saved.embedded,
        None,
        &norm_of(weights, table.embedding_norm),
        &d_h,
        &mut d_embedded,
        rounded.as_mut().map(Buffer::as_slice_mut),
        d_weight,
        d_bias,
    )?;
    drop(d_h);
    let mut nothing = device.upload(&vec![0f32; d])?;
    let [word, position] = pass.gradients.matrices_mut([table.positions, table.kinds]);
    let tables = TableGradients {
        word,
        position,
        token_type: nothing.as_slice_mut(),
        d,
    };
    let segments = inputs.segments.as_ref().expect("inputs of a backward");
    embedding_backward(&d_embedded, segments, tables)?;
    let d_rows = rounded
        .as_ref()
        .map(Buffer::as_slice)
        .or_else(|| d_embedded.as_slice().of_type())
        .expect("there is a copy unless activations are f32");
    matmul_tn(
        d_rows,
        patches,
        pass.gradients.matrix_mut(table.patch),
        None,
        d,
        PATCH,
    )?;
    if !wants_patches {
        return Ok(None);
    }
    pass.input::<f32>(table.patch, d_rows, t, PATCH).map(Some)
}

/// The gradient in what was normalised.
fn norm<A: Float>(
    pass: &mut Backward<'_, A>,
    x: &Buffer<f32>,
    at: Norm,
    d_y: &Buffer<f32>,
) -> Result<Buffer<f32>> {
    let mut gradient = x.device().alloc::<f32>(x.len())?;
    let [d_weight, d_bias] = pass.gradients.norm_mut(at);
    let norm = norm_of(pass.weights, at);
    layer_norm_backward::<A>(x, None, &norm, d_y, &mut gradient, None, d_weight, d_bias)?;
    Ok(gradient)
}

/// A copy in the type of activations of rows that are one a pair.
fn rounded<A: Float>(inputs: &Inputs, x: &Buffer<f32>, d: usize) -> Result<Buffer<A>> {
    let mut copy = x.device().alloc::<A>(inputs.pairs() * d)?;
    pool(x, &inputs.singles, Pooling::First, false, &mut copy)?;
    Ok(copy)
}
