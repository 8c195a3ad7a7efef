//! `add_rows` to a residual stream, with the rounded copy where activations are f16; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::add_rows::{SPEC, add_rows, error_bound, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, poisoned, rounding,
    sample, single, tokens, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} x {D_MODEL}"),
        sizes: json!({"rows": t, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, t)
            } else {
                prepare::<f16>(context, t)
            }
        }),
    };
    tokens(context.scale).iter().map(case).collect()
}

struct Set<A: Float> {
    y: Buffer<A>,
    x: Buffer<f32>,
    rounded: Option<Buffer<f16>>,
}

fn prepare<A: Float>(context: &Context, t: usize) -> Result<Prepared> {
    let (device, d, rounds) = (&context.device, D_MODEL, !single(context));
    let per_element = 4 + size_of::<A>() + if rounds { 2 } else { 0 };
    let bytes = (t * d * per_element) as u64;
    let sets = context.sets(bytes);
    // More bits than an f16 has, so that sums are rounded.
    let x: Vec<f32> = noise::<f32>(t * d, 1.0, 2)
        .iter()
        .map(|v| v / 3.0)
        .collect();
    let y = noise::<A>(t * d, 1.0, 1);
    let mut inputs = Vec::new();
    let streams = copies(device, device.upload(&x)?, sets)?;
    for (y, x) in copies(device, device.upload(&y)?, sets)?
        .into_iter()
        .zip(streams)
    {
        let rounded = rounds.then(|| poisoned(device, t * d)).transpose()?;
        inputs.push(Set { y, x, rounded });
    }
    let run = move |set: &mut Set<A>| {
        let rounded = set.rounded.as_mut().map(|rounded| rounded.as_slice_mut());
        add_rows(&set.y, d, None, &mut set.x, rounded)
    };
    run(&mut inputs[0])?;
    let which = sample(t);
    let (y, x) = (gather(&widen(&y), d, &which), gather(&x, d, &which));
    let want = reference::<f64>(&y, d, None, &x);
    let bound = |bytes| error_bound(&want, bytes, &rounding(context));
    let mut worst = worst_ratio(&inputs[0].x.read()?, d, &which, &want, &bound(4));
    if let Some(rounded) = &inputs[0].rounded {
        worst = worst.max(worst_ratio(&rounded.read()?, d, &which, &want, &bound(2)));
    }
    Ok(Prepared {
        checked: want.len(),
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "rows"),
        // The stream grows from call to call, which takes no longer.
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
