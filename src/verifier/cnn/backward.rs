//! From the gradient in scores to the one in weights, and in the neighbourhoods of a map's pixels.

use super::forward::{Inputs, Saved, SavedBlock};
use super::weights::Table;
use super::{EPS, NEIGHBOURS, TAPS};
use crate::device::{Buffer, Float, Slice};
use crate::error::Result;
use crate::model::weights::{Gradients, Norm, Weights};
use crate::ops::batch_norm_backward::{Forward, batch_norm_backward};
use crate::ops::{fold, max_pool_backward, relu, unfold, weighted_pool_backward};
use crate::verifier::layers::{Backward, SCORES};
use crate::verifier::parameters::Tensors;

/// Adds the gradient in every weight to `gradients`, given the one in the scores before tanh, `[p, 8]` of which column 0
/// counts and the others are zero; returns the one in the neighbourhoods, `[pixels, 32]`, if it is wanted.
pub(in crate::verifier) fn backward<A: Float>(
    weights: &Weights<A, Tensors>,
    table: &Table,
    neighbours: Slice<'_, A>,
    inputs: &Inputs,
    saved: Saved<A>,
    d_scores: Slice<'_, A>,
    gradients: &mut Gradients<Tensors>,
    wants_neighbours: bool,
) -> Result<Option<Buffer<f32>>> {
    let device = weights.device();
    let mut pass = Backward { weights, gradients };
    let [first, second, hidden] = table.channels;
    let ([whole, half], p) = (inputs.pixels(), inputs.pairs());

    pass.weight(table.score, d_scores, saved.head.as_slice(), SCORES, hidden)?;
    let mut d_head = pass.input::<A>(table.score.weight, d_scores, p, hidden)?;
    inputs.drop_head(&mut d_head, hidden)?;
    // What was dropped is zero there, as is what ReLU cut.
    relu(&mut d_head, Some(saved.head.as_slice()))?;
    pass.weight(
        table.head,
        d_head.as_slice(),
        saved.mean.as_slice(),
        hidden,
        second,
    )?;
    let d_mean = pass.input::<A>(table.head.weight, d_head.as_slice(), p, second)?;
    let mut d_pooled = device.alloc::<A>(inputs.pooled.tokens() * second)?;
    let counts = &inputs.multiplicities[2];
    weighted_pool_backward(&d_mean, second, counts, &inputs.pooled, &mut d_pooled)?;

    let [block1, block2] = &saved.blocks;
    let d_x = block(&mut pass, inputs, block2, table.norm2, 1, &d_pooled)?;
    drop(d_pooled);
    let mut unfolded = device.alloc::<A>(half * TAPS * first)?;
    unfold(&saved.between, first, &inputs.pictures[1], &mut unfolded)?;
    pass.weight(
        table.conv2,
        d_x.as_slice(),
        unfolded.as_slice(),
        second,
        TAPS * first,
    )?;
    drop(unfolded);
    let d_unfolded = pass.input::<A>(table.conv2.weight, d_x.as_slice(), half, TAPS * first)?;
    drop(d_x);
    let mut d_between = device.alloc::<A>(half * first)?;
    fold(&d_unfolded, first, &inputs.pictures[1], &mut d_between)?;
    drop(d_unfolded);

    let d_x = block(&mut pass, inputs, block1, table.norm1, 0, &d_between)?;
    pass.weight(table.conv1, d_x.as_slice(), neighbours, first, NEIGHBOURS)?;
    if !wants_neighbours {
        return Ok(None);
    }
    pass.input::<f32>(table.conv1.weight, d_x.as_slice(), whole, NEIGHBOURS)
        .map(Some)
}

/// The gradient in the result of a convolution, given the one in what comes out of norm, ReLU and pooling.
fn block<A: Float>(
    pass: &mut Backward<'_, A>,
    inputs: &Inputs,
    saved: &SavedBlock<A>,
    at: Norm,
    norm: usize,
    d_pooled: &Buffer<A>,
) -> Result<Buffer<A>> {
    let device = pass.weights.device();
    let mut d_norm = device.alloc::<A>(saved.x.len())?;
    max_pool_backward(
        &saved.x,
        &saved.scale,
        &saved.shift,
        &inputs.pictures[norm],
        d_pooled,
        &mut d_norm,
    )?;
    let forward = Forward {
        x: saved.x.as_slice(),
        weights: inputs.multiplicities[norm].as_slice(),
        // Statistics from elsewhere do not move with these pixels, which are nothing among so many.
        total: if saved.own {
            inputs.total(norm) as f32
        } else {
            f32::MAX
        },
        mean: saved.mean.as_slice(),
        variance: saved.variance.as_slice(),
        eps: EPS,
        gamma: pass.weights.vector(at.weight),
    };
    let mut d_x = device.alloc::<A>(saved.x.len())?;
    let [d_gamma, d_beta] = pass.gradients.norm_mut(at);
    batch_norm_backward(&forward, &d_norm, &mut d_x, d_gamma, d_beta)?;
    Ok(d_x)
}
