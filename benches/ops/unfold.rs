//! `unfold` before a convolution of 128 channels; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::unfold::{SPEC, reference, unfold};

use super::{
    Case, Context, Prepared, Recorded, Scale, copies, json, noise, poisoned, single, widen,
    worst_ratio,
};

/// Channels of a pixel.
pub const CHANNELS: usize = 128;

/// Pictures of one size: how many, and pixels of a side.
pub fn pictures(scale: Scale) -> (usize, usize) {
    match scale {
        Scale::Quick => (2, 4),
        Scale::Software => (2, 16),
        Scale::Cpu | Scale::Gpu => (32, 32),
    }
}

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
    let x = noise::<A>(r * c, 1.0, 1);
    let mut inputs: Vec<(Buffer<A>, Buffer<A>)> = Vec::new();
    for x in copies(device, device.upload(&x)?, sets)? {
        inputs.push((x, poisoned(device, r * 9 * c)?));
    }
    let run = move |(x, out): &mut (Buffer<A>, Buffer<A>)| unfold(&*x, c, &pictures, &mut *out);
    run(&mut inputs[0])?;
    // The last picture, whose neighbours are all within it.
    let pixels = side * side;
    let last = widen(&x[(r - pixels) * c..]);
    let want: Vec<f64> = reference(&last, c, &sizes[..1])
        .into_iter()
        .map(f64::from)
        .collect();
    let which: Vec<usize> = (r - pixels..r).collect();
    let got = inputs[0].1.read()?;
    // Copies are exact.
    let exact = vec![0.0; want.len()];
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, 9 * c, &which, &want, &exact),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pictures"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
