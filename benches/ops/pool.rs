//! `pool`: mean and normalisation of packed texts of one length; memory bound.

use nearmiss::Result;
use nearmiss::ops::PackedTexts;
use nearmiss::ops::pool::{Pooling, SPEC, error_bound, pool, reference};

use super::{
    CHECK, Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, offsets,
    packings, poisoned, rounding, sample, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&(n, l): &(usize, usize)| Case {
        op: SPEC.name,
        shape: format!("mean of {n} texts x {l} tokens, {D_MODEL}"),
        sizes: json!({"texts": n, "tokens": l, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, n, l)),
    };
    packings(context.scale).iter().map(case).collect()
}

fn prepare(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = (4 * (n * l + n) * d) as u64;
    let sets = context.sets(bytes);
    let h = noise::<f32>(n * l * d, 1.0, 1);
    let packing = PackedTexts::new(device, offsets(n, l))?;
    let mut inputs = Vec::new();
    for copy in copies(device, device.upload(&h)?, sets)? {
        inputs.push((copy, poisoned::<f32>(device, n * d)?));
    }
    let mut call = move |i: usize| {
        let (h, out) = &mut inputs[i % sets];
        pool(&*h, &packing, Pooling::Mean, true, &mut *out)?;
        Ok::<_, nearmiss::Error>(if i == CHECK { out.read()? } else { Vec::new() })
    };
    let got = call(CHECK)?;
    let which = sample(n);
    let h = gather(&h, l * d, &which);
    let alone = offsets(which.len(), l);
    let want = reference::<f64, _>(&h, &alone, Pooling::Mean, true, d);
    let bound = error_bound(&h, &alone, Pooling::Mean, true, d, 4, &rounding(context));
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, d, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "texts"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
