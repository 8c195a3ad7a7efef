//! `max_pool_backward` of the pictures of [`super::max_pool`]; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::max_pool_backward::{SPEC, error_bound, max_pool_backward, reference};

use super::max_pool::{CHANNELS, batch};
use super::{
    Case, Context, Prepared, Recorded, copies, gather, json, noise, poisoned, rounding, sample,
    single, widen, worst_ratio,
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
    d_pre: Buffer<A>,
}

fn prepare<A: Float>(context: &Context, n: usize, side: u32) -> Result<Prepared> {
    let (device, c) = (&context.device, CHANNELS);
    let pixels = (side * side) as usize;
    let bytes = (9 * n * pixels / 4 * c * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let (x, d_y) = (
        noise::<A>(n * pixels * c, 1.0, 1),
        noise::<A>(n * pixels / 4 * c, 1.0, 4),
    );
    let [scale, shift] = [2, 3].map(|seed| noise::<f32>(c, 1.0, seed));
    let pictures = Pictures::new(device, &vec![[side; 2]; n])?;
    let (scale_here, shift_here) = (device.upload(&scale)?, device.upload(&shift)?);
    let mut inputs = Vec::new();
    let gradients = copies(device, device.upload(&d_y)?, sets)?;
    for (x, d_y) in copies(device, device.upload(&x)?, sets)?
        .into_iter()
        .zip(gradients)
    {
        let d_pre = poisoned(device, n * pixels * c)?;
        inputs.push(Set { x, d_y, d_pre });
    }
    let run = move |set: &mut Set<A>| {
        let (scale, shift) = (&scale_here, &shift_here);
        max_pool_backward(&set.x, scale, shift, &pictures, &set.d_y, &mut set.d_pre)
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let x = gather(&widen(&x), pixels * c, &which);
    let d_y = gather(&widen(&d_y), pixels / 4 * c, &which);
    let sizes = vec![[side; 2]; which.len()];
    let want = reference::<f64>(&x, &scale, &shift, &sizes, &d_y);
    let (rounding, of) = (rounding(context), size_of::<A>());
    let bound = error_bound(&x, &scale, &shift, &sizes, &d_y, of, &rounding);
    let got = inputs[0].d_pre.read()?;
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, pixels * c, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pictures"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
