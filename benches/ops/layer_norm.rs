//! `layer_norm` as after a sublayer: residual added, and on GPUs the rounded copy written; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::layer_norm::{Norm, SPEC, error_bound, layer_norm, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, poisoned, rounding,
    sample, single, tokens, widen, worst_ratio,
};

const EPS: f32 = 1e-12;

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} x {D_MODEL} + residual"),
        sizes: json!({"tokens": t, "width": D_MODEL}),
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
    x: Buffer<f32>,
    residual: Buffer<A>,
    y: Buffer<f32>,
    y_act: Option<Buffer<f16>>,
}

fn prepare<A: Float>(context: &Context, t: usize) -> Result<Prepared> {
    let (device, d, act) = (&context.device, D_MODEL, !single(context));
    let bytes = (t * d * (8 + size_of::<A>() + if act { 2 } else { 0 })) as u64;
    let sets = context.sets(bytes);
    let x = noise::<f32>(t * d, 1.0, 1);
    let residual = noise::<A>(t * d, 0.7, 2);
    let weight: Vec<f32> = noise::<f32>(d, 0.3, 3).iter().map(|v| 1.0 + v).collect();
    let bias = noise::<f32>(d, 0.3, 4);
    let mut inputs = Vec::new();
    let residuals = copies(device, device.upload(&residual)?, sets)?;
    for (x, residual) in copies(device, device.upload(&x)?, sets)?
        .into_iter()
        .zip(residuals)
    {
        inputs.push(Set {
            x,
            residual,
            y: poisoned(device, t * d)?,
            y_act: if act {
                Some(poisoned(device, t * d)?)
            } else {
                None
            },
        });
    }
    let (device_weight, device_bias) = (device.upload(&weight)?, device.upload(&bias)?);
    let run = move |set: &mut Set<A>| {
        let norm = Norm {
            weight: device_weight.as_slice(),
            bias: Some(device_bias.as_slice()),
            eps: EPS,
        };
        layer_norm(
            &set.x,
            Some(set.residual.as_slice()),
            &norm,
            &mut set.y,
            set.y_act.as_mut().map(Buffer::as_slice_mut),
        )
    };
    run(&mut inputs[0])?;
    let which = sample(t);
    let (x, residual) = (gather(&x, d, &which), widen(&gather(&residual, d, &which)));
    let want = reference::<f64, _>(&x, Some(&residual), &weight, Some(&bias), EPS);
    let bound = |bytes| {
        error_bound(
            &x,
            Some(&residual),
            &weight,
            Some(&bias),
            EPS,
            bytes,
            &rounding(context),
        )
    };
    let mut worst = worst_ratio(&inputs[0].y.read()?, d, &which, &want, &bound(4));
    if let Some(y_act) = &inputs[0].y_act {
        worst = worst.max(worst_ratio(&y_act.read()?, d, &which, &want, &bound(2)));
    }
    Ok(Prepared {
        checked: want.len() * if act { 2 } else { 1 },
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
