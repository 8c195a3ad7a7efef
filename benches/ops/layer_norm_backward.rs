//! `layer_norm_backward` as behind a sublayer: with the residual, and on GPUs the rounded copy written; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::layer_norm::Norm;
use nearmiss::ops::layer_norm_backward::{SPEC, error_bound, layer_norm_backward, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, json, noise, poisoned, rounding, single,
    tokens, widen, worst_ratio,
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
    dy: Buffer<f32>,
    dx: Buffer<f32>,
    dx_act: Option<Buffer<A>>,
}

fn prepare<A: Float>(context: &Context, t: usize) -> Result<Prepared> {
    let (device, d, act) = (&context.device, D_MODEL, !single(context));
    let size = size_of::<A>();
    let bytes = (t * d * (12 + size + if act { size } else { 0 })) as u64;
    let sets = context.sets(bytes);
    let x = noise::<f32>(t * d, 1.0, 1);
    let residual = noise::<A>(t * d, 0.7, 2);
    let dy = noise::<f32>(t * d, 0.5, 3);
    let weight: Vec<f32> = noise::<f32>(d, 0.3, 4).iter().map(|v| 1.0 + v).collect();
    let mut inputs = Vec::new();
    let residuals = copies(device, device.upload(&residual)?, sets)?;
    let gradients = copies(device, device.upload(&dy)?, sets)?;
    for ((x, residual), dy) in copies(device, device.upload(&x)?, sets)?
        .into_iter()
        .zip(residuals)
        .zip(gradients)
    {
        inputs.push(Set {
            x,
            residual,
            dy,
            dx: poisoned(device, t * d)?,
            dx_act: if act {
                Some(poisoned(device, t * d)?)
            } else {
                None
            },
        });
    }
    let device_weight = device.upload(&weight)?;
    let zero = vec![0f32; d];
    let (mut d_weight, mut d_bias) = (device.upload(&zero)?, device.upload(&zero)?);
    let run = move |set: &mut Set<A>, d_weight: &mut Buffer<f32>, d_bias: &mut Buffer<f32>| {
        let norm = Norm {
            weight: device_weight.as_slice(),
            bias: None,
            eps: EPS,
        };
        layer_norm_backward(
            &set.x,
            Some(set.residual.as_slice()),
            &norm,
            &set.dy,
            &mut set.dx,
            set.dx_act.as_mut().map(Buffer::as_slice_mut),
            d_weight,
            d_bias,
        )
    };
    run(&mut inputs[0], &mut d_weight, &mut d_bias)?;
    // The sums are over all rows, so all are looked at.
    let all: Vec<usize> = (0..t).collect();
    let residual = widen(&residual);
    let [dx, of_weight, of_bias] = reference::<f64, _>(&x, Some(&residual), &weight, EPS, &dy);
    let [single, half, weight_bound, bias_bound] = error_bound(
        &x,
        Some(&residual),
        &weight,
        EPS,
        &dy,
        [&zero, &zero],
        &rounding(context),
    );
    let mut worst = worst_ratio(&inputs[0].dx.read()?, d, &all, &dx, &single);
    if let Some(dx_act) = &inputs[0].dx_act {
        let bound = if size == 2 { &half } else { &single };
        worst = worst.max(worst_ratio(&dx_act.read()?, d, &all, &dx, bound));
    }
    worst = worst.max(worst_ratio(
        &d_weight.read()?,
        d,
        &[0],
        &of_weight,
        &weight_bound,
    ));
    worst = worst.max(worst_ratio(&d_bias.read()?, d, &[0], &of_bias, &bias_bound));
    Ok(Prepared {
        checked: dx.len() * if act { 2 } else { 1 } + 2 * d,
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        call: Box::new(move |i| run(&mut inputs[i % sets], &mut d_weight, &mut d_bias)),
    })
}
