//! `fold` behind the gradient of a convolution of 128 channels; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::fold::{SPEC, error_bound, fold, reference};

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

fn prepare<A: Float>(context: &Context, n: usize, side: usize) -> Result<Prepared> {
    let (device, c, r) = (&context.device, CHANNELS, n * side * side);
    let bytes = (10 * r * c * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let sizes = vec![[side as u32; 2]; n];
    let pictures = Pictures::new(device, &sizes)?;
    let d_out = noise::<A>(r * 9 * c, 1.0, 1);
    let mut inputs: Vec<(Buffer<A>, Buffer<A>)> = Vec::new();
    for d_out in copies(device, device.upload(&d_out)?, sets)? {
        inputs.push((d_out, poisoned(device, r * c)?));
    }
    let run = move |(d_out, dx): &mut (Buffer<A>, Buffer<A>)| fold(&*d_out, c, &pictures, &mut *dx);
    run(&mut inputs[0])?;
    // The last picture, whose neighbours are all within it.
    let pixels = side * side;
    let last = widen(&d_out[(r - pixels) * 9 * c..]);
    let want = reference::<f64>(&last, c, &sizes[..1]);
    let bound = error_bound(&last, c, &sizes[..1], size_of::<A>(), &rounding(context));
    let which: Vec<usize> = (r - pixels..r).collect();
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&inputs[0].1.read()?, c, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pictures"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
