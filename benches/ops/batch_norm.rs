//! `batch_norm` of the pixels behind a convolution of 128 channels; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::batch_norm::{SPEC, batch_norm, error_bound, reference};

use super::unfold::{CHANNELS, pictures};
use super::{
    Case, Context, Prepared, Recorded, copies, json, noise, poisoned, rounding, single, widen,
    worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (n, side) = pictures(context.scale);
    vec![Case {
        op: SPEC.name,
        shape: format!("{n} pictures of {side} x {side}, {CHANNELS}"),
        sizes: json!({"pictures": n, "side": side, "channels": CHANNELS}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, n, side)
            } else {
                prepare::<f16>(context, n, side)
            }
        }),
    }]
}

/// How often pixels count.
pub fn weights(r: usize) -> Vec<f32> {
    (0..r).map(|r| (r % 7) as f32).collect()
}

fn prepare<A: Float>(context: &Context, n: usize, side: usize) -> Result<Prepared> {
    let (device, c, r) = (&context.device, CHANNELS, n * side * side);
    let bytes = (r * c * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let (x, weights) = (noise::<A>(r * c, 1.0, 1), weights(r));
    let total = weights.iter().sum::<f32>();
    let inputs = copies(device, device.upload(&x)?, sets)?;
    let counts = device.upload(&weights)?;
    let (mut mean, mut variance) = (poisoned(device, c)?, poisoned(device, c)?);
    let run = move |x: &Buffer<A>, mean: &mut Buffer<f32>, variance: &mut Buffer<f32>| {
        batch_norm(x, &counts, total, mean, variance)
    };
    run(&inputs[0], &mut mean, &mut variance)?;
    let x = widen(&x);
    let want = reference::<f64>(&x, &weights, total, c);
    let bound = error_bound(&x, &weights, total, c, &rounding(context));
    let of_mean = worst_ratio(&mean.read()?, c, &[0], &want[0], &bound[0]);
    Ok(Prepared {
        checked: 2 * c,
        worst: of_mean.max(worst_ratio(&variance.read()?, c, &[0], &want[1], &bound[1])),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (r as f64, "pixels"),
        call: Box::new(move |i| run(&inputs[i % sets], &mut mean, &mut variance)),
    })
}
