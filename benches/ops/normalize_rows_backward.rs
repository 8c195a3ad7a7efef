//! `normalize_rows_backward` of the token vectors of a batch; memory bound.

use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::normalize_rows_backward::{
    SPEC, error_bound, normalize_rows_backward, reference,
};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, poisoned, rounding,
    sample, tokens, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} x {D_MODEL}"),
        sizes: json!({"tokens": t, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, t)),
    };
    tokens(context.scale).iter().map(case).collect()
}

struct Set {
    x: Buffer<f32>,
    dy: Buffer<f32>,
    dx: Buffer<f32>,
}

fn prepare(context: &Context, t: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = (12 * t * d) as u64;
    let sets = context.sets(bytes);
    let (x, dy) = (noise::<f32>(t * d, 1.0, 1), noise::<f32>(t * d, 1.0, 2));
    let mut inputs = Vec::new();
    let gradients = copies(device, device.upload(&dy)?, sets)?;
    for (x, dy) in copies(device, device.upload(&x)?, sets)?
        .into_iter()
        .zip(gradients)
    {
        inputs.push(Set {
            x,
            dy,
            dx: poisoned(device, t * d)?,
        });
    }
    let run = move |set: &mut Set| normalize_rows_backward(&set.x, D_MODEL, &set.dy, &mut set.dx);
    run(&mut inputs[0])?;
    let which = sample(t);
    let (x, dy) = (gather(&x, d, &which), gather(&dy, d, &which));
    let want = reference::<f64, _>(&x, d, &dy);
    let bound = error_bound(&x, d, &dy, &rounding(context));
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&inputs[0].dx.read()?, d, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "rows"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
