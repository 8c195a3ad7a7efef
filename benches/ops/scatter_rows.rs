//! `scatter_rows` of the token vectors of a batch, all of them in another order; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::Places;
use nearmiss::ops::scatter_rows::{SPEC, reference, scatter_rows};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, poisoned, sample,
    tokens, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} x {D_MODEL}, f16"),
        sizes: json!({"tokens": t, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, t)),
    };
    tokens(context.scale).iter().map(case).collect()
}

/// Texts of twenty tokens, the last one first.
fn reversed(t: usize) -> Vec<u32> {
    const LENGTH: usize = 20;
    let texts = t.div_ceil(LENGTH);
    let rows = (0..texts).rev().flat_map(|i| {
        let end = (i + 1) * LENGTH;
        i * LENGTH..end.min(t)
    });
    rows.map(|row| row as u32).collect()
}

fn prepare(context: &Context, t: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = (4 * t * d) as u64;
    let sets = context.sets(bytes);
    let x = noise::<f16>(t * d, 1.0, 1);
    let order = reversed(t);
    let places = Places::new(device, &order)?;
    let mut inputs: Vec<(Buffer<f16>, Buffer<f16>)> = Vec::new();
    for x in copies(device, device.upload(&x)?, sets)? {
        inputs.push((x, poisoned(device, t * d)?));
    }
    let run =
        move |(x, out): &mut (Buffer<f16>, Buffer<f16>)| scatter_rows(&*x, D_MODEL, &places, out);
    run(&mut inputs[0])?;
    let which = sample(t);
    let want = reference(&x, d, &order, &vec![f16::NAN; t * d]);
    let want: Vec<f64> = gather(&want, d, &which)
        .into_iter()
        .map(f64::from)
        .collect();
    Ok(Prepared {
        checked: want.len(),
        // Copies are exact.
        worst: worst_ratio(
            &inputs[0].1.read()?,
            d,
            &which,
            &want,
            &vec![0.0; want.len()],
        ),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "rows"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
