//! `embedding`: memory bound, rows gathered from a table of the usual vocabulary.
//!
//! All calls share one table, as in use; token ids and outputs rotate.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Float;
use nearmiss::ops::TokenIds;
use nearmiss::ops::embedding::{SPEC, Tables, embedding, error_bound, reference};

use super::{
    CHECK, Case, Context, D_MODEL, Prepared, Recorded, Scale, gather, indices, json, noise,
    poisoned, rounding, sample, single, tokens, widen, worst_ratio,
};

const POSITIONS: usize = 512;

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let vocab = if context.scale == Scale::Quick {
        100
    } else {
        30_522
    };
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} of {vocab} x {D_MODEL}"),
        sizes: json!({"tokens": t, "vocab": vocab, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| {
            if single(context) {
                prepare::<f32>(context, t, vocab)
            } else {
                prepare::<f16>(context, t, vocab)
            }
        }),
    };
    tokens(context.scale).iter().map(case).collect()
}

fn prepare<T: Float>(context: &Context, t: usize, vocab: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let values =
        [(vocab, 1), (POSITIONS, 2), (2, 3)].map(|(rows, seed)| noise::<T>(rows * d, 0.5, seed));
    let [word, position, token_type] = [
        device.upload(&values[0])?,
        device.upload(&values[1])?,
        device.upload(&values[2])?,
    ];
    let touched = (t * (d * (2 * size_of::<T>() + 4) + 8)) as u64;
    let sets = context.sets(touched);
    let places: Vec<u32> = (0..t as u32).map(|i| i % POSITIONS as u32).collect();
    let mut inputs = Vec::new();
    for set in 0..sets {
        let ids = indices(t, vocab, 10 + set as u64);
        inputs.push((
            TokenIds::new(device, &ids, &places)?,
            poisoned::<f32>(device, t * d)?,
        ));
    }
    let mut call = move |i: usize| {
        let (ids, x) = &mut inputs[i % sets];
        let tables = Tables {
            word: word.as_slice(),
            position: position.as_slice(),
            token_type: token_type.as_slice(),
            d,
        };
        embedding(&tables, ids, &mut *x)?;
        // Only the check looks at it.
        Ok::<_, nearmiss::Error>(if i == CHECK { x.read()? } else { Vec::new() })
    };
    let got = call(CHECK)?;
    // The sampled tokens with tables cut down to their rows.
    let which = sample(t);
    let ids = indices(t, vocab, 10 + (CHECK % sets) as u64);
    let rows = |table: &[T], which: Vec<usize>| widen(&gather(table, d, &which));
    let tables = [
        rows(&values[0], which.iter().map(|&r| ids[r] as usize).collect()),
        rows(&values[1], which.iter().map(|&r| r % POSITIONS).collect()),
        widen(&values[2]),
    ];
    let tables = [&tables[0][..], &tables[1], &tables[2]];
    let order: Vec<u32> = (0..which.len() as u32).collect();
    let want = reference::<f64, _>(tables, &order, &order, d);
    let bound = error_bound(tables, &order, &order, d, &rounding(context));
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, d, &which, &want, &bound),
        sets,
        set_bytes: touched * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
