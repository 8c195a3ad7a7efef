//! `matmul`: the four products of an encoder layer, with the epilogues they have there, and the one before GELU as training
//! wants it; compute bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::matmul::{Epilogue, SPEC, error_bound, matmul, matmul_saving, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, Scale, copies, gather, json, noise, poisoned,
    rounding, sample, single, tokens, widen, worst_ratio,
};

/// Whether GELU follows, and what it takes is kept.
#[derive(Clone, Copy, PartialEq)]
enum Gelu {
    No,
    Yes,
    Kept,
}

/// Name, `k`, `n` and what follows, for `d_model` = `d`.
fn products(d: usize) -> [(&'static str, usize, usize, Gelu); 5] {
    [
        ("qkv", d, 3 * d, Gelu::No),
        ("attention out", d, d, Gelu::No),
        ("feed-forward in", d, 4 * d, Gelu::Yes),
        ("feed-forward in, kept", d, 4 * d, Gelu::Kept),
        ("feed-forward out", 4 * d, d, Gelu::No),
    ]
}

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let d = if context.scale == Scale::Quick {
        40
    } else {
        D_MODEL
    };
    let mut cases = Vec::new();
    for &t in tokens(context.scale) {
        for (name, k, n, gelu) in products(d) {
            cases.push(Case {
                op: SPEC.name,
                shape: format!(
                    "{t} x {k} -> {n}{} ({name})",
                    if gelu == Gelu::No { "" } else { " gelu" }
                ),
                sizes: json!({"m": t, "n": n, "k": k, "gelu": gelu != Gelu::No}),
                needs: &[&SPEC],
                prepare: Box::new(move |context| {
                    if single(context) {
                        prepare::<f32>(context, t, n, k, gelu)
                    } else {
                        prepare::<f16>(context, t, n, k, gelu)
                    }
                }),
            });
        }
    }
    cases
}

struct Set<A: Float> {
    a: Buffer<A>,
    w: Buffer<A>,
    before_gelu: Option<Buffer<A>>,
    c: Buffer<A>,
}

fn prepare<A: Float>(
    context: &Context,
    m: usize,
    n: usize,
    k: usize,
    gelu: Gelu,
) -> Result<Prepared> {
    let device = &context.device;
    let kept = if gelu == Gelu::Kept { m * n } else { 0 };
    let bytes = ((m * k + n * k + m * n + kept) * size_of::<A>()) as u64;
    let sets = context.sets(bytes);
    let a = noise::<A>(m * k, 1.0, 1);
    let w = noise::<A>(n * k, 1.0 / (k as f32).sqrt(), 2);
    let bias = noise::<f32>(n, 0.5, 3);
    let mut inputs = Vec::new();
    let weights = copies(device, device.upload(&w)?, sets)?;
    for (a, w) in copies(device, device.upload(&a)?, sets)?
        .into_iter()
        .zip(weights)
    {
        inputs.push(Set {
            a,
            w,
            before_gelu: (kept > 0).then(|| poisoned(device, kept)).transpose()?,
            c: poisoned(device, m * n)?,
        });
    }
    let device_bias = device.upload(&bias)?;
    let run = move |set: &mut Set<A>| {
        let epilogue = Epilogue {
            bias: Some(device_bias.as_slice()),
            gelu: gelu != Gelu::No,
            residual: None,
        };
        match &mut set.before_gelu {
            Some(before) => matmul_saving(&set.a, &set.w, &epilogue, before, &mut set.c, m, n),
            None => matmul(&set.a, &set.w, &epilogue, &mut set.c, m, n),
        }
    };
    run(&mut inputs[0])?;
    let which = sample(m);
    let (a, w) = (widen(&gather(&a, k, &which)), widen(&w));
    let rounding = rounding(context);
    let worst = |got: &[A], gelu| {
        let want = reference::<f64, _>(&a, &w, Some(&bias), gelu, None, n);
        let bytes = size_of::<A>();
        let bound = error_bound(&a, &w, Some(&bias), gelu, None, n, bytes, &rounding);
        worst_ratio(got, n, &which, &want, &bound)
    };
    let mut worst_of_all = worst(&inputs[0].c.read()?, gelu != Gelu::No);
    if let Some(before) = &inputs[0].before_gelu {
        worst_of_all = worst_of_all.max(worst(&before.read()?, false));
    }
    Ok(Prepared {
        checked: which.len() * n * if kept > 0 { 2 } else { 1 },
        worst: worst_of_all,
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (m as f64, "tokens"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
