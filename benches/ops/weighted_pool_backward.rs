//! `weighted_pool_backward` to the pictures of [`super::max_pool`]; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::PackedTexts;
use nearmiss::ops::weighted_pool_backward::{SPEC, error_bound, reference, weighted_pool_backward};

use super::max_pool::{CHANNELS, batch};
use super::weighted_pool::weights;
use super::{
    Case, Context, Prepared, Recorded, copies, gather, json, noise, offsets, poisoned, rounding,
    sample, single, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (n, side) = batch(context.scale);
    vec![Case {
        op: SPEC.name,
        shape: format!("{n} pictures of {side} x {side}, {CHANNELS} channels"),
        sizes: json!({"pictures": n, "side": side, "channels": CHANNELS}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            let l = (side * side) as usize;
            if single(context) {
                prepare::<f32>(context, n, l)
            } else {
                prepare::<f16>(context, n, l)
            }
        }),
    }]
}

struct Set<A: Float> {
    d_out: Buffer<A>,
    weights: Buffer<f32>,
    dx: Buffer<A>,
}

fn prepare<A: Float>(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let (device, c) = (&context.device, CHANNELS);
    let bytes = ((n * l + n) * c * size_of::<A>() + 4 * n * l) as u64;
    let sets = context.sets(bytes);
    // As large as gradients in means of so many are, so that those in the pixels are normal numbers of f16.
    let (d_out, weights) = (noise::<A>(n * c, 64.0, 1), weights(n * l));
    let pixels = PackedTexts::new(device, offsets(n, l))?;
    let mut inputs = Vec::new();
    let all = copies(device, device.upload(&weights)?, sets)?;
    for (d_out, weights) in copies(device, device.upload(&d_out)?, sets)?
        .into_iter()
        .zip(all)
    {
        let dx = poisoned(device, n * l * c)?;
        inputs.push(Set { d_out, weights, dx });
    }
    let run = move |set: &mut Set<A>| {
        weighted_pool_backward(&set.d_out, c, &set.weights, &pixels, &mut set.dx)
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let (d_out, weights) = (
        gather(&widen(&d_out), c, &which),
        gather(&weights, l, &which),
    );
    let alone = offsets(which.len(), l);
    let want = reference::<f64>(&d_out, c, &weights, &alone);
    let rounding = rounding(context);
    let bound = error_bound(&d_out, c, &weights, &alone, size_of::<A>(), &rounding);
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&inputs[0].dx.read()?, l * c, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pictures"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
