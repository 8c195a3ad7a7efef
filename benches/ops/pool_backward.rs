//! `pool_backward`: mean and normalisation of packed texts of one length; memory bound.

use nearmiss::Result;
use nearmiss::ops::PackedTexts;
use nearmiss::ops::pool::Pooling;
use nearmiss::ops::pool_backward::{SPEC, error_bound, pool_backward, reference};

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
    let bytes = (4 * (2 * n * l + n) * d) as u64;
    let sets = context.sets(bytes);
    let (h, d_out) = (noise::<f32>(n * l * d, 1.0, 1), noise::<f32>(n * d, 1.0, 2));
    let packing = PackedTexts::new(device, offsets(n, l))?;
    let mut inputs = Vec::new();
    let gradients = copies(device, device.upload(&d_out)?, sets)?;
    for (h, d_out) in copies(device, device.upload(&h)?, sets)?
        .into_iter()
        .zip(gradients)
    {
        inputs.push((h, d_out, poisoned::<f32>(device, n * l * d)?));
    }
    let mut call = move |i: usize| {
        let (h, d_out, dh) = &mut inputs[i % sets];
        pool_backward(&*h, &packing, Pooling::Mean, true, &*d_out, &mut *dh)?;
        Ok::<_, nearmiss::Error>(if i == CHECK { dh.read()? } else { Vec::new() })
    };
    let got = call(CHECK)?;
    let which = sample(n);
    let (h, d_out) = (gather(&h, l * d, &which), gather(&d_out, d, &which));
    let alone = offsets(which.len(), l);
    let want = reference::<f64, _>(&h, &alone, Pooling::Mean, true, d, &d_out);
    let bound = error_bound(
        &h,
        &alone,
        Pooling::Mean,
        true,
        d,
        &d_out,
        &rounding(context),
    );
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, l * d, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "texts"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
