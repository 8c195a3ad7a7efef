//! `attention_pool_backward` of one query per text over the rows of pairs' maps; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::PackedTexts;
use nearmiss::ops::attention_pool::reference as forward;
use nearmiss::ops::attention_pool_backward::{
    Forward, SPEC, attention_pool_backward, error_bound, reference,
};

use super::attention_pool::packing;
use super::{
    CHECK, Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, offsets,
    poisoned, rounding, sample, single, widen, worst_ratio,
};

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
    rows: Buffer<A>,
    d_queries: Buffer<A>,
    d_rows: Buffer<f32>,
}

fn prepare<A: Float>(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = ((n * l * d + n * d) * size_of::<A>() + 4 * n * l * d) as u64;
    let sets = context.sets(bytes);
    let (queries, rows) = (noise::<A>(n * d, 1.0, 1), noise::<A>(n * l * d, 1.0, 2));
    let d_out = noise::<A>(n * (d + 8), 1.0, 3);
    let scale = 1.0 / (d as f32).sqrt();
    let (wide, all) = ([widen(&queries), widen(&rows)], offsets(n, l));
    let (_, p) = forward::<f32, _>(&wide[0], &wide[1], &all, d, scale, None);
    let texts = PackedTexts::new(device, all)?;
    let mut inputs = Vec::new();
    for rows in copies(device, device.upload(&rows)?, sets)? {
        inputs.push(Set {
            rows,
            d_queries: poisoned(device, n * d)?,
            d_rows: poisoned(device, n * l * d)?,
        });
    }
    let (on_device, gradient) = (device.upload(&queries)?, device.upload(&d_out)?);
    let probabilities = device.upload(&p)?;
    let mut call = move |i: usize| {
        let set = &mut inputs[i % sets];
        let forward = Forward {
            queries: on_device.as_slice(),
            rows: set.rows.as_slice(),
            texts: &texts,
            d,
            scale,
            mask: None,
            probabilities: probabilities.as_slice(),
        };
        attention_pool_backward(&forward, &gradient, &mut set.d_queries, &mut set.d_rows)?;
        Ok::<_, nearmiss::Error>(if i == CHECK {
            (set.d_queries.read()?, set.d_rows.read()?)
        } else {
            (Vec::new(), Vec::new())
        })
    };
    let got = call(CHECK)?;
    let which = sample(n);
    let queries = gather(&wide[0], d, &which);
    let rows = gather(&wide[1], l * d, &which);
    let (p, d_out) = (gather(&p, l, &which), gather(&widen(&d_out), d + 8, &which));
    let alone = offsets(which.len(), l);
    let want = reference::<f64, _>(&queries, &rows, &alone, d, scale, None, &p, &d_out);
    let (size, rounding) = (size_of::<A>(), rounding(context));
    let bound = error_bound(
        &queries, &rows, &alone, d, scale, None, &p, &d_out, size, &rounding,
    );
    let of_queries = worst_ratio(&got.0, d, &which, &want[0], &bound[0]);
    Ok(Prepared {
        checked: want[0].len() + want[1].len(),
        worst: of_queries.max(worst_ratio(&got.1, l * d, &which, &want[1], &bound[1])),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "texts"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
