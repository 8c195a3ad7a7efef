//! `pair_dot` of pairs of f16 embeddings, each with rows of its own, as a verifier asks for them; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::PairList;
use nearmiss::ops::pair_dot::{SPEC, error_bound, pair_dot, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, copies, gather, json, noise, poisoned, rounding,
    sample, tokens, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let case = |&n: &usize| Case {
        op: SPEC.name,
        shape: format!("{n} pairs, {D_MODEL}, f16"),
        sizes: json!({"pairs": n, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, n)),
    };
    tokens(context.scale).iter().map(case).collect()
}

struct Set {
    a: Buffer<f16>,
    b: Buffer<f16>,
    scores: Buffer<f32>,
}

fn prepare(context: &Context, n: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let bytes = (4 * n * d + 4 * n) as u64;
    let sets = context.sets(bytes);
    // About unit length.
    let scale = 1.0 / (d as f32).sqrt();
    let (a, b) = (noise::<f16>(n * d, scale, 1), noise::<f16>(n * d, scale, 2));
    let pair = |i: usize| [i as u32, (n - 1 - i) as u32];
    let list = PairList::new(device, (0..n).map(pair).collect())?;
    let mut inputs = Vec::new();
    let others = copies(device, device.upload(&b)?, sets)?;
    for (a, b) in copies(device, device.upload(&a)?, sets)?
        .into_iter()
        .zip(others)
    {
        inputs.push(Set {
            a,
            b,
            scores: poisoned(device, n)?,
        });
    }
    let run = move |set: &mut Set| pair_dot(&set.a, &set.b, D_MODEL, &list, &mut set.scores);
    run(&mut inputs[0])?;
    let which = sample(n);
    let partners: Vec<usize> = which.iter().map(|i| n - 1 - i).collect();
    let (a, b) = (
        widen(&gather(&a, d, &which)),
        widen(&gather(&b, d, &partners)),
    );
    let pairs: Vec<[u32; 2]> = (0..which.len() as u32).map(|i| [i, i]).collect();
    let want = reference::<f64>(&a, &b, d, &pairs);
    let bound = error_bound(&a, &b, d, &pairs, &rounding(context));
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&inputs[0].scores.read()?, 1, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pairs"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
