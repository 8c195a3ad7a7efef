//! `dropout` of the residual stream's activations; memory bound on GPUs.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Float;
use nearmiss::ops::dropout::{Mask, SPEC, Site, dropout, error_bound, reference};
use nearmiss::ops::{Origins, PackedTexts};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, rounding, sample,
    single, tokens, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} x {D_MODEL}"),
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

fn prepare<A: Float>(context: &Context, t: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = (t * d * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let x = noise::<A>(t * d, 1.0, 1);
    let offsets = [0, t as u32];
    let origins = Origins::new(&PackedTexts::new(device, offsets.to_vec())?, &[3])?;
    let mask = Mask::new(0.1, 1, 2, 3, Site::AttentionOutput);
    let mut inputs = copies(device, device.upload(&x)?, sets)?;
    dropout(&mut inputs[0], d, mask, &origins)?;
    let which = sample(t);
    let want = reference::<f64>(&widen(&x), d, mask, &offsets, &[3]);
    let bound = error_bound(&want, size_of::<A>(), &rounding(context));
    let (want, bound) = (gather(&want, d, &which), gather(&bound, d, &which));
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&inputs[0].read()?, d, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        // In place: elements that stay grow from call to call, which takes no longer.
        call: Box::new(move |i| dropout(&mut inputs[i % sets], d, mask, &origins)),
    })
}
