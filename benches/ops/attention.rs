//! `attention` over packed texts of one length.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Float;
use nearmiss::ops::PackedTexts;
use nearmiss::ops::attention::WorkList;
use nearmiss::ops::attention::{SPEC, attention, error_bound, reference};

use super::{
    CHECK, Case, Context, HEADS, Prepared, Recorded, copies, json, noise, offsets, packings,
    poisoned, rounding, single, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (heads, dim) = HEADS;
    let case = |&(n, l): &(usize, usize)| Case {
        op: SPEC.name,
        shape: format!("{n} texts x {l} tokens, {heads} x {dim}"),
        sizes: json!({"texts": n, "tokens": l, "heads": heads, "head_dim": dim}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, n, l)
            } else {
                prepare::<f16>(context, n, l)
            }
        }),
    };
    packings(context.scale).iter().map(case).collect()
}

fn prepare<A: Float>(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let device = &context.device;
    let (heads, dim) = HEADS;
    let (t, d) = (n * l, heads * dim);
    let bytes = (4 * t * d * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let qkv = noise::<A>(t * 3 * d, 1.0, 1);
    let packing = PackedTexts::new(device, offsets(n, l))?;
    let work = WorkList::new(&packing)?;
    let mut inputs = Vec::new();
    for copy in copies(device, device.upload(&qkv)?, sets)? {
        inputs.push((copy, poisoned::<A>(device, t * d)?));
    }
    let mut call = move |i: usize| {
        let (qkv, out) = &mut inputs[i % sets];
        attention(&*qkv, &packing, &work, heads, dim, &mut *out)?;
        Ok::<_, nearmiss::Error>(if i == CHECK { out.read()? } else { Vec::new() })
    };
    let got = call(CHECK)?;
    // A text sees no other: the last one alone must give the same.
    let text: Vec<usize> = ((n - 1) * l..t).collect();
    let last = widen(&qkv[(n - 1) * l * 3 * d..]);
    let alone = offsets(1, l);
    let want = reference::<f64>(&last, &alone, heads, dim);
    let bound = error_bound(
        &last,
        &alone,
        heads,
        dim,
        size_of::<A>(),
        &rounding(context),
    );
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
