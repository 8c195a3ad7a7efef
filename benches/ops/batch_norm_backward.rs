//! `batch_norm_backward` of the pixels behind a convolution of 128 channels; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::batch_norm::reference as forward;
use nearmiss::ops::batch_norm_backward::{
    Forward, SPEC, batch_norm_backward, error_bound, reference,
};

use super::batch_norm::weights;
use super::unfold::{CHANNELS, pictures};
use super::{
    Case, Context, Prepared, Recorded, copies, gather, json, noise, poisoned, rounding, sample,
    single, widen, worst_ratio,
};

const EPS: f32 = 1e-5;

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

struct Set<A: Float> {
    x: Buffer<A>,
    d_y: Buffer<A>,
    dx: Buffer<A>,
}

fn prepare<A: Float>(context: &Context, n: usize, side: usize) -> Result<Prepared> {
    let (device, c, r) = (&context.device, CHANNELS, n * side * side);
    let bytes = (3 * r * c * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let (x, d_y) = (noise::<A>(r * c, 1.0, 1), noise::<A>(r * c, 0.5, 2));
    let (weights, gamma) = (weights(r), noise::<f32>(c, 1.0, 3));
    let total = weights.iter().sum::<f32>();
    let wide = [widen(&x), widen(&d_y)];
    let [mean, variance] = forward::<f32>(&wide[0], &weights, total, c);
    let mut inputs = Vec::new();
    let gradients = copies(device, device.upload(&d_y)?, sets)?;
    for (x, d_y) in copies(device, device.upload(&x)?, sets)?
        .into_iter()
        .zip(gradients)
    {
        let dx = poisoned(device, r * c)?;
        inputs.push(Set { x, d_y, dx });
    }
    let [counts, mean_here, variance_here, gamma_here] = [
        device.upload(&weights)?,
        device.upload(&mean)?,
        device.upload(&variance)?,
        device.upload(&gamma)?,
    ];
    let zeros = vec![0f32; c];
    let (mut d_gamma, mut d_beta) = (device.upload(&zeros)?, device.upload(&zeros)?);
    let run = move |set: &mut Set<A>, d_gamma: &mut Buffer<f32>, d_beta: &mut Buffer<f32>| {
        let forward = Forward {
            x: set.x.as_slice(),
            weights: counts.as_slice(),
            total,
            mean: mean_here.as_slice(),
            variance: variance_here.as_slice(),
            eps: EPS,
            gamma: gamma_here.as_slice(),
        };
        batch_norm_backward(&forward, &set.d_y, &mut set.dx, d_gamma, d_beta)
    };
    run(&mut inputs[0], &mut d_gamma, &mut d_beta)?;
    let which = sample(r);
    let statistics = [&mean[..], &variance];
    let want = reference::<f64, _>(&wide[0], &weights, total, statistics, EPS, &gamma, &wide[1]);
    let bound = error_bound(
        &wide[0],
        &weights,
        total,
        statistics,
        EPS,
        &gamma,
        &wide[1],
        [&zeros, &zeros],
        size_of::<A>(),
        &rounding(context),
    );
    let rows = [gather(&want[0], c, &which), gather(&bound[0], c, &which)];
    let worst = [
        worst_ratio(&inputs[0].dx.read()?, c, &which, &rows[0], &rows[1]),
        worst_ratio(&d_gamma.read()?, c, &[0], &want[1], &bound[1]),
        worst_ratio(&d_beta.read()?, c, &[0], &want[2], &bound[2]),
    ];
    Ok(Prepared {
        checked: rows[0].len() + 2 * c,
        worst: worst.into_iter().fold(0.0, f64::max),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (r as f64, "pixels"),
        // The sums grow from call to call, which takes no longer.
        call: Box::new(move |i| run(&mut inputs[i % sets], &mut d_gamma, &mut d_beta)),
    })
}
