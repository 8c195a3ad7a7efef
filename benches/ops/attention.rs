//! `attention` over packed texts of one length; in training with statistics and dropout.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Float;
use nearmiss::ops::attention::{
    SPEC, Training, WorkList, attention, attention_saving, error_bound_saving, reference_saving,
};
use nearmiss::ops::dropout::{Mask, Site};
use nearmiss::ops::{Origins, PackedTexts};

use super::{
    CHECK, Case, Context, HEADS, Prepared, Recorded, copies, json, noise, offsets, packings,
    poisoned, rounding, single, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (heads, dim) = HEADS;
    let case = |(&(n, l), training): (&(usize, usize), bool)| Case {
        op: SPEC.name,
        shape: format!(
            "{n} texts x {l} tokens, {heads} x {dim}{}",
            if training { ", training" } else { "" }
        ),
        sizes: json!({
            "texts": n, "tokens": l, "heads": heads, "head_dim": dim, "training": training
        }),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, n, l, training)
            } else {
                prepare::<f16>(context, n, l, training)
            }
        }),
    };
    let shapes = packings(context.scale).iter();
    shapes
        .flat_map(|shape| [(shape, false), (shape, true)])
        .map(case)
        .collect()
}

fn prepare<A: Float>(context: &Context, n: usize, l: usize, training: bool) -> Result<Prepared> {
    let device = &context.device;
    let (heads, dim) = HEADS;
    let (t, d) = (n * l, heads * dim);
    let bytes = (4 * t * d * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let qkv = noise::<A>(t * 3 * d, 1.0, 1);
    let packing = PackedTexts::new(device, offsets(n, l))?;
    let work = WorkList::new(&packing)?;
    let numbers: Vec<u32> = (0..n as u32).collect();
    let origins = Origins::new(&packing, &numbers)?;
    let mask = Mask::new(0.1, 1, 2, 3, Site::Probabilities);
    let mut statistics = device.alloc(t * heads)?;
    let mut inputs = Vec::new();
    for copy in copies(device, device.upload(&qkv)?, sets)? {
        inputs.push((copy, poisoned::<A>(device, t * d)?));
    }
    let mut call = move |i: usize| {
        let (qkv, out) = &mut inputs[i % sets];
        if training {
            let training = Training {
                statistics: (&mut statistics).into(),
                mask: Some((mask, &origins)),
            };
            attention_saving(&*qkv, &packing, &work, heads, dim, training, &mut *out)?;
        } else {
            attention(&*qkv, &packing, &work, heads, dim, &mut *out)?;
        }
        Ok::<_, nearmiss::Error>(if i == CHECK { out.read()? } else { Vec::new() })
    };
    let got = call(CHECK)?;
    // A text sees no other: the last one alone must give the same.
    let text: Vec<usize> = ((n - 1) * l..t).collect();
    let last = widen(&qkv[(n - 1) * l * 3 * d..]);
    let alone = offsets(1, l);
    let dropped = training.then_some((mask, &numbers[n - 1..]));
    let want = reference_saving::<f64>(&last, &alone, heads, dim, dropped).0;
    let (bytes_each, rounding) = (size_of::<A>(), rounding(context));
    let bound = error_bound_saving(&last, &alone, heads, dim, dropped, bytes_each, &rounding).0;
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, d, &text, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
