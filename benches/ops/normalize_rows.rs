//! `normalize_rows` of the token vectors of a batch, with the f32 copy that centroids are made of; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::normalize_rows::{SPEC, error_bound, normalize_rows, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, poisoned, rounding,
    sample, tokens, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} x {D_MODEL}, f32 copy"),
        sizes: json!({"tokens": t, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, t)),
    };
    tokens(context.scale).iter().map(case).collect()
}

struct Set {
    x: Buffer<f32>,
    rows: Buffer<f16>,
    unit: Buffer<f32>,
}

fn prepare(context: &Context, t: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = (10 * t * d) as u64;
    let sets = context.sets(bytes);
    let x = noise::<f32>(t * d, 1.0, 1);
    let mut inputs = Vec::new();
    for x in copies(device, device.upload(&x)?, sets)? {
        inputs.push(Set {
            x,
            rows: poisoned(device, t * d)?,
            unit: poisoned(device, t * d)?,
        });
    }
    let run = move |set: &mut Set| {
        let unit = Some(set.unit.as_slice_mut());
        normalize_rows(&set.x, D_MODEL, &mut set.rows, unit, None)
    };
    run(&mut inputs[0])?;
    let which = sample(t);
    let x = gather(&x, d, &which);
    let (want, _) = reference::<f64>(&x, d);
    let bound = |bytes| error_bound(&x, d, bytes, &rounding(context)).0;
    let rows = worst_ratio(&inputs[0].rows.read()?, d, &which, &want, &bound(2));
    let unit = worst_ratio(&inputs[0].unit.read()?, d, &which, &want, &bound(4));
    Ok(Prepared {
        checked: 2 * want.len(),
        worst: rows.max(unit),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "rows"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
