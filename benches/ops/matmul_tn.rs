//! `matmul_tn`: the gradients of the parameters of the four products of an encoder layer; compute bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::matmul_tn::{SPEC, error_bound, matmul_tn, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, Scale, copies, json, noise, rounding, sample,
    single, tokens, widen, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let d = if context.scale == Scale::Quick {
        40
    } else {
        D_MODEL
    };
    let products = [
        ("qkv", 3 * d, d),
        ("attention out", d, d),
        ("feed-forward in", 4 * d, d),
        ("feed-forward out", d, 4 * d),
    ];
    let mut cases = Vec::new();
    for &t in tokens(context.scale) {
        for (name, n, k) in products {
            cases.push(Case {
                op: SPEC.name,
                shape: format!("{n} x {k} of {t} + sums ({name})"),
                sizes: json!({"t": t, "n": n, "k": k}),
                needs: &[&SPEC],
                prepare: Box::new(move |context| {
                    if single(context) {
                        prepare::<f32>(context, t, n, k)
                    } else {
                        prepare::<f16>(context, t, n, k)
                    }
                }),
            });
        }
    }
    cases
}

struct Set<A: Float> {
    a: Buffer<A>,
    b: Buffer<A>,
    c: Buffer<f32>,
    sums: Buffer<f32>,
}

fn prepare<A: Float>(context: &Context, t: usize, n: usize, k: usize) -> Result<Prepared> {
    let device = &context.device;
    let bytes = (t * (n + k) * size_of::<A>() + 4 * (n * k + n)) as u64;
    let sets = context.sets(bytes);
    let a = noise::<A>(t * n, 1.0, 1);
    let b = noise::<A>(t * k, 1.0, 2);
    let mut inputs = Vec::new();
    let beside = copies(device, device.upload(&b)?, sets)?;
    for (a, b) in copies(device, device.upload(&a)?, sets)?
        .into_iter()
        .zip(beside)
    {
        inputs.push(Set {
            a,
            b,
            c: device.upload(&vec![0f32; n * k])?,
            sums: device.upload(&vec![0f32; n])?,
        });
    }
    let run = move |set: &mut Set<A>| {
        let sums = Some(set.sums.as_slice_mut());
        matmul_tn(&set.a, &set.b, &mut set.c, sums, n, k)
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let columns: Vec<f32> = widen(&a)
        .chunks_exact(n)
        .flat_map(|row| which.iter().map(|&i| row[i]))
        .collect();
    let (b, rows) = (widen(&b), which.len());
    let zeros = (vec![0f32; rows * k], vec![0f32; rows]);
    let (c, sums) = reference::<f64, _>(&columns, &b, &zeros.0, &zeros.1, rows, k);
    let rounding = rounding(context);
    let (c_bound, sums_bound) = error_bound(&columns, &b, &zeros.0, &zeros.1, rows, k, &rounding);
    let worst = worst_ratio(&inputs[0].c.read()?, k, &which, &c, &c_bound);
    let worst_sum = worst_ratio(&inputs[0].sums.read()?, 1, &which, &sums, &sums_bound);
    Ok(Prepared {
        checked: c.len() + sums.len(),
        worst: worst.max(worst_sum),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
