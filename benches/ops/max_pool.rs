//! `max_pool` of pictures of similarities behind a convolution; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::max_pool::{SPEC, error_bound, max_pool, reference};

use super::{
    Case, Context, Prepared, Recorded, Scale, copies, gather, json, noise, poisoned, rounding,
    sample, single, widen, worst_ratio,
};

/// Channels of a pixel.
pub const CHANNELS: usize = 128;

/// Pictures of a batch, and lines and pixels of a line of each.
pub fn batch(scale: Scale) -> (usize, u32) {
    match scale {
        Scale::Quick => (3, 4),
        Scale::Software => (4, 16),
        Scale::Cpu | Scale::Gpu => (32, 32),
    }
}

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

fn prepare<A: Float>(context: &Context, n: usize, side: u32) -> Result<Prepared> {
    let (device, c) = (&context.device, CHANNELS);
    let pixels = (side * side) as usize;
    let bytes = (5 * n * pixels / 4 * c * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let x = noise::<A>(n * pixels * c, 1.0, 1);
    let [scale, shift] = [2, 3].map(|seed| noise::<f32>(c, 1.0, seed));
    let pictures = Pictures::new(device, &vec![[side; 2]; n])?;
    let (scale_here, shift_here) = (device.upload(&scale)?, device.upload(&shift)?);
    let mut inputs = Vec::new();
    for x in copies(device, device.upload(&x)?, sets)? {
        inputs.push((x, poisoned::<A>(device, n * pixels / 4 * c)?));
    }
    let run = move |(x, y): &mut (Buffer<A>, Buffer<A>)| {
        max_pool(&*x, &scale_here, &shift_here, &pictures, y)
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let x = gather(&widen(&x), pixels * c, &which);
    let sizes = vec![[side; 2]; which.len()];
    let want = reference::<f64>(&x, &scale, &shift, &sizes);
    let rounding = rounding(context);
    let bound = error_bound(&x, &scale, &shift, &sizes, size_of::<A>(), &rounding);
    let got = inputs[0].1.read()?;
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, pixels / 4 * c, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pictures"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
