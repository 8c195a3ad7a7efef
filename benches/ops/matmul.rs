//! `matmul`: the four products of an encoder layer, with the epilogues they have there; compute bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::matmul::{Epilogue, SPEC, error_bound, matmul, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, Scale, copies, gather, json, noise, poisoned,
    rounding, sample, single, tokens, widen, worst_ratio,
};

/// Name, `k`, `n` and whether `gelu` follows, for `d_model` = `d`.
fn products(d: usize) -> [(&'static str, usize, usize, bool); 4] {
    [
        ("qkv", d, 3 * d, false),
        ("attention out", d, d, false),
        ("feed-forward in", d, 4 * d, true),
        ("feed-forward out", 4 * d, d, false),
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
                    if gelu { " gelu" } else { "" }
                ),
                sizes: json!({"m": t, "n": n, "k": k, "gelu": gelu}),
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
    c: Buffer<A>,
}

fn prepare<A: Float>(
    context: &Context,
    m: usize,
    n: usize,
    k: usize,
    gelu: bool,
) -> Result<Prepared> {
    let device = &context.device;
    let bytes = ((m * k + n * k + m * n) * size_of::<A>()) as u64;
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
            c: poisoned(device, m * n)?,
        });
    }
    let device_bias = device.upload(&bias)?;
    let run = move |set: &mut Set<A>| {
        let epilogue = Epilogue {
            bias: Some(device_bias.as_slice()),
            gelu,
            residual: None,
        };
        matmul(&set.a, &set.w, &epilogue, &mut set.c, m, n)
    };
    run(&mut inputs[0])?;
    let got = inputs[0].c.read()?;
    let which = sample(m);
    let (a, w) = (widen(&gather(&a, k, &which)), widen(&w));
    let want = reference::<f64>(&a, &w, Some(&bias), gelu, None, n);
    let bound = error_bound(
        &a,
        &w,
        Some(&bias),
        gelu,
        None,
        n,
        size_of::<A>(),
        &rounding(context),
    );
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, n, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (m as f64, "tokens"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
