//! `grad_norm` of the gradients of a model; memory bound.

use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::grad_norm;
use nearmiss::ops::grad_norm::{NORM, SPEC, error_bound, reference};

use super::{
    Case, Context, Prepared, Recorded, copies, json, noise, parameters, poisoned, rounding,
    worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let n = parameters(context.scale);
    vec![Case {
        op: SPEC.name,
        shape: format!("{n} elements"),
        sizes: json!({"elements": n}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, n)),
    }]
}

struct Set {
    gradient: Buffer<f32>,
    out: Buffer<f32>,
}

fn prepare(context: &Context, n: usize) -> Result<Prepared> {
    let device = &context.device;
    let bytes = 4 * n as u64;
    let sets = context.sets(bytes);
    let gradient = noise::<f32>(n, 30.0, 1);
    let mut inputs = Vec::new();
    for gradient in copies(device, device.upload(&gradient)?, sets)? {
        inputs.push(Set {
            gradient,
            out: poisoned(device, NORM)?,
        });
    }
    let run = |set: &mut Set| grad_norm(&[set.gradient.as_slice()], &mut set.out);
    run(&mut inputs[0])?;
    let want: f64 = reference(&[&gradient[..]]);
    let bound = error_bound(&[&gradient[..]], &rounding(context));
    let sum = inputs[0].out.slice(..1).read()?;
    Ok(Prepared {
        checked: n,
        worst: worst_ratio(&sum, 1, &[0], &[want], &[bound]),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "elements"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
