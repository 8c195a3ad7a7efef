//! `weighted_pool` of the pictures of [`super::max_pool`]; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::PackedTexts;
use nearmiss::ops::weighted_pool::{SPEC, error_bound, reference, weighted_pool};

use super::max_pool::{CHANNELS, batch};
use super::{
    Case, Context, Prepared, Recorded, copies, gather, indices, json, noise, offsets, poisoned,
    rounding, sample, single, widen, worst_ratio,
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

/// Of how many pixels a pixel is the mean, in any order.
pub fn weights(len: usize) -> Vec<f32> {
    indices(len, 4, 2).iter().map(|&w| (w + 1) as f32).collect()
}

fn prepare<A: Float>(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let (device, c) = (&context.device, CHANNELS);
    let bytes = ((n * l + n) * c * size_of::<A>() + 4 * n * l) as u64;
    let sets = context.sets(bytes);
    let (x, weights) = (noise::<A>(n * l * c, 1.0, 1), weights(n * l));
    let pixels = PackedTexts::new(device, offsets(n, l))?;
    let mut inputs = Vec::new();
    let all = copies(device, device.upload(&weights)?, sets)?;
    for (x, weights) in copies(device, device.upload(&x)?, sets)?
        .into_iter()
        .zip(all)
    {
        inputs.push((x, weights, poisoned(device, n * c)?));
    }
    let run = move |(x, weights, out): &mut (Buffer<A>, Buffer<f32>, Buffer<A>)| {
        weighted_pool(&*x, c, &*weights, &pixels, out)
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let (x, weights) = (
        gather(&widen(&x), l * c, &which),
        gather(&weights, l, &which),
    );
    let alone = offsets(which.len(), l);
    let want = reference::<f64>(&x, c, &weights, &alone);
    let rounding = rounding(context);
    let bound = error_bound(&x, c, &weights, &alone, size_of::<A>(), &rounding);
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&inputs[0].2.read()?, c, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pictures"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
