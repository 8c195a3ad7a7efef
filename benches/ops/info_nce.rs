//! `info_nce` of batches of triplets, every negative serving every anchor; compute bound once the batch is large.

use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::info_nce::{InfoNce, SPEC, error_bound, info_nce, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, Scale, copies, json, noise, poisoned, rounding,
    worst_ratio,
};

/// The cases: batches of so many triplets.
pub fn cases(context: &Context) -> Vec<Case> {
    let batches: &[usize] = match context.scale {
        Scale::Quick => &[5],
        Scale::Software => &[32],
        Scale::Cpu => &[32, 128],
        Scale::Gpu => &[128, 512],
    };
    let case = |&b: &usize| Case {
        op: SPEC.name,
        shape: format!("{b} anchors, {} candidates, {D_MODEL}", 2 * b),
        sizes: json!({"anchors": b, "candidates": 2 * b, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, b)),
    };
    batches.iter().map(case).collect()
}

struct Set {
    anchors: Buffer<f32>,
    candidates: Buffer<f32>,
    losses: Buffer<f32>,
    d_anchors: Buffer<f32>,
    d_candidates: Buffer<f32>,
}

fn prepare(context: &Context, b: usize) -> Result<Prepared> {
    let (device, d, m) = (&context.device, D_MODEL, 2 * b);
    let bytes = (4 * (2 * (b + m) * d + b)) as u64;
    let sets = context.sets(bytes);
    // About unit length.
    let scale = 1.0 / (d as f32).sqrt();
    let (a, c) = (noise::<f32>(b * d, scale, 1), noise::<f32>(m * d, scale, 2));
    let candidates = copies(device, device.upload(&c)?, sets)?;
    let mut inputs = Vec::new();
    for (anchors, candidates) in copies(device, device.upload(&a)?, sets)?
        .into_iter()
        .zip(candidates)
    {
        inputs.push(Set {
            anchors,
            candidates,
            losses: poisoned(device, b)?,
            d_anchors: poisoned(device, b * d)?,
            d_candidates: poisoned(device, m * d)?,
        });
    }
    let run = |set: &mut Set| {
        let batch = InfoNce {
            anchors: (&set.anchors).into(),
            candidates: (&set.candidates).into(),
            own: None,
            d: D_MODEL,
            scale: 10.0,
            gradient_scale: 1.0,
        };
        info_nce(
            &batch,
            &mut set.losses,
            &mut set.d_anchors,
            &mut set.d_candidates,
        )
    };
    run(&mut inputs[0])?;
    let want = reference::<f64, f32>(&a, &c, None, d, 10.0, 1.0);
    let bound = error_bound(&a, &c, None, d, 10.0, 1.0, &rounding(context));
    let first = &inputs[0];
    let mut worst = 0f64;
    for (got, width, want, bound) in [
        (&first.losses, 1, &want.losses, &bound.losses),
        (&first.d_anchors, d, &want.d_anchors, &bound.d_anchors),
        (
            &first.d_candidates,
            d,
            &want.d_candidates,
            &bound.d_candidates,
        ),
    ] {
        let all: Vec<usize> = (0..want.len() / width).collect();
        worst = worst.max(worst_ratio(&got.read()?, width, &all, want, bound));
    }
    Ok(Prepared {
        checked: b + (b + m) * d,
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (b as f64, "anchors"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
