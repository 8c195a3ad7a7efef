//! `soft_alignment`: scores of a batch of pairs of equal lengths, with the penalty that tracks positions too.

use half::f16;
use nearmiss::Result;
use nearmiss::ops::soft_alignment::{Alignment, SPEC, error_bound, reference, soft_alignment};
use nearmiss::ops::{Packing, PairList, Tokens};

use super::{
    CHECK, Case, Context, D_MODEL, Prepared, Scale, noise, offsets, poisoned, rounding, sample,
    widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let pairs = match context.scale {
        Scale::Quick => 3,
        Scale::Software => 16,
        Scale::Cpu => 200,
        Scale::Gpu => 1000,
    };
    let case = |(l_q, l_c): (usize, usize)| Case {
        op: SPEC.name,
        shape: format!("{pairs} pairs of {l_q} x {l_c} tokens, {D_MODEL}"),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, pairs, l_q, l_c)),
    };
    [(32, 128), (20, 20)].into_iter().map(case).collect()
}

fn prepare(context: &Context, n: usize, l_q: usize, l_c: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let alignment = Alignment {
        monotonicity: 0.1,
        ..Alignment::default()
    };
    let bytes = (2 * n * (l_q + l_c) * d + 4 * n) as u64;
    let sets = context.sets(bytes);
    // About unit length.
    let scale = 1.0 / (d as f32).sqrt();
    let asked = noise::<f16>(n * l_q * d, scale, 1);
    let stored = noise::<f16>(n * l_c * d, scale, 2);
    let q_packing = Packing::new(device, offsets(n, l_q))?;
    let c_packing = Packing::new(device, offsets(n, l_c))?;
    let list = PairList::new(device, (0..n as u32).map(|i| [i, i]).collect())?;
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push((
            device.upload(&asked)?,
            device.upload(&stored)?,
            poisoned::<f32>(device, n)?,
        ));
    }
    let mut call = move |i: usize| {
        let (asked, stored, scores) = &mut inputs[i % sets];
        let queries = Tokens {
            rows: asked,
            packing: &q_packing,
        };
        let documents = Tokens {
            rows: stored,
            packing: &c_packing,
        };
        soft_alignment(queries, documents, d, &list, alignment, scores)?;
        Ok::<_, nearmiss::Error>(if i == CHECK {
            scores.read()?
        } else {
            Vec::new()
        })
    };
    let got = call(CHECK)?;
    let which = sample(n);
    let (mut want, mut bounds) = (Vec::new(), Vec::new());
    for &pair in &which {
        let query = widen(&asked[pair * l_q * d..(pair + 1) * l_q * d]);
        let document = widen(&stored[pair * l_c * d..(pair + 1) * l_c * d]);
        want.push(reference::<f64>(&query, &document, d, &alignment));
        bounds.push(error_bound(
            &query,
            &document,
            d,
            &alignment,
            &rounding(context),
        ));
    }
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, 1, &which, &want, &bounds),
        sets,
        set_bytes: bytes * sets as u64,
        items: (n as f64, "pairs"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
