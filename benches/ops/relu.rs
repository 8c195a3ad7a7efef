//! `relu` of a gradient, gated, in place, as large as the pictures of [`super::max_pool`]; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::relu::{SPEC, reference, relu};

use super::max_pool::{CHANNELS, batch};
use super::{
    Case, Context, Prepared, Recorded, copies, gather, json, noise, sample, single, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (n, side) = batch(context.scale);
    let rows = n * (side * side) as usize;
    vec![Case {
        op: SPEC.name,
        shape: format!("{rows} x {CHANNELS}, gated"),
        sizes: json!({"rows": rows, "width": CHANNELS}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, rows)
            } else {
                prepare::<f16>(context, rows)
            }
        }),
    }]
}

fn prepare<A: Float>(context: &Context, rows: usize) -> Result<Prepared> {
    let (device, c) = (&context.device, CHANNELS);
    let bytes = (2 * rows * c * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let (x, gate) = (noise::<A>(rows * c, 1.0, 1), noise::<A>(rows * c, 1.0, 2));
    let gates = copies(device, device.upload(&gate)?, sets)?;
    let all = copies(device, device.upload(&x)?, sets)?;
    let mut inputs: Vec<(Buffer<A>, Buffer<A>)> = all.into_iter().zip(gates).collect();
    // What a gate has closed stays 0 from call to call, which takes no less time.
    let run = |(x, gate): &mut (Buffer<A>, Buffer<A>)| relu(x, Some(gate.as_slice()));
    run(&mut inputs[0])?;
    let which = sample(rows);
    let want = reference(&gather(&x, c, &which), Some(&gather(&gate, c, &which)));
    let want: Vec<f64> = want.iter().map(|x| f64::from(x.to_f32())).collect();
    let exact = vec![0.0; want.len()];
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&inputs[0].0.read()?, c, &which, &want, &exact),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (rows as f64, "rows"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
