//! `attention_pool` of one query per text over the rows of pairs' maps; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::PackedTexts;
use nearmiss::ops::attention_pool::{SPEC, attention_pool, error_bound, reference};

use super::{
    CHECK, Case, Context, D_MODEL, Prepared, Recorded, Scale, copies, gather, json, noise, offsets,
    poisoned, rounding, sample, single, widen, worst_ratio,
};

/// Packed texts: how many, and rows of each: the 33 candidates of 32 queries, with as many patches as two sentences have.
pub fn packing(scale: Scale) -> (usize, usize) {
    match scale {
        Scale::Quick => (3, 11),
        Scale::Software => (64, 10),
        Scale::Cpu | Scale::Gpu => (1056, 10),
    }
}

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let (n, l) = packing(context.scale);
    vec![Case {
        op: SPEC.name,
        shape: format!("{n} texts x {l} rows, {D_MODEL}"),
        sizes: json!({"texts": n, "rows": l, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, n, l)
            } else {
                prepare::<f16>(context, n, l)
            }
        }),
    }]
}

struct Set<A: Float> {
    queries: Buffer<A>,
    rows: Buffer<A>,
    probabilities: Buffer<f32>,
    out: Buffer<A>,
}

fn prepare<A: Float>(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = ((n * l * d + n * (2 * d + 8)) * size_of::<A>() + 4 * n * l) as u64;
    let sets = context.sets(bytes);
    let (queries, rows) = (noise::<A>(n * d, 1.0, 1), noise::<A>(n * l * d, 1.0, 2));
    let scale = 1.0 / (d as f32).sqrt();
    let texts = PackedTexts::new(device, offsets(n, l))?;
    let mut inputs = Vec::new();
    let all = copies(device, device.upload(&rows)?, sets)?;
    for (queries, rows) in copies(device, device.upload(&queries)?, sets)?
        .into_iter()
        .zip(all)
    {
        inputs.push(Set {
            queries,
            rows,
            probabilities: poisoned(device, n * l)?,
            out: poisoned(device, n * (d + 8))?,
        });
    }
    let mut call = move |i: usize| {
        let set = &mut inputs[i % sets];
        let probabilities = Some(set.probabilities.as_slice_mut());
        let (queries, rows) = (&set.queries, &set.rows);
        attention_pool(
            queries,
            rows,
            &texts,
            d,
            scale,
            None,
            probabilities,
            &mut set.out,
        )?;
        Ok::<_, nearmiss::Error>(if i == CHECK {
            set.out.read()?
        } else {
            Vec::new()
        })
    };
    let got = call(CHECK)?;
    let which = sample(n);
    let queries = gather(&widen(&queries), d, &which);
    let rows = gather(&widen(&rows), l * d, &which);
    let alone = offsets(which.len(), l);
    let (want, _) = reference::<f64, _>(&queries, &rows, &alone, d, scale, None);
    let (size, rounding) = (size_of::<A>(), rounding(context));
    let (bound, _) = error_bound(&queries, &rows, &alone, d, scale, None, size, &rounding);
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, d + 8, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "texts"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
