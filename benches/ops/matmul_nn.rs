//! `matmul_nn`: the gradients of what the four products of an encoder layer multiply, with the epilogues they have there;
//! compute bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::matmul_nn::{NnEpilogue, SPEC, error_bound, matmul_nn, reference};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, Scale, gather, json, noise, poisoned, rounding,
    sample, single, tokens, widen, worst_ratio,
};

/// What follows a product.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    /// The slope of GELU.
    Slope,
    /// The gradient that passes the layer by, in f32 as the result.
    Residual,
}

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let d = if context.scale == Scale::Quick {
        40
    } else {
        D_MODEL
    };
    let products = [
        ("qkv", 3 * d, d, Then::Residual),
        ("attention out", d, d, Then::Nothing),
        ("feed-forward in", 4 * d, d, Then::Residual),
        ("feed-forward out", d, 4 * d, Then::Slope),
    ];
    let mut cases = Vec::new();
    for &t in tokens(context.scale) {
        for (name, n, k, then) in products {
            let what = match then {
                Then::Nothing => "",
                Then::Slope => " gelu'",
                Then::Residual => " + residual",
            };
            cases.push(Case {
                op: SPEC.name,
                shape: format!("{t} x {n} -> {k}{what} ({name})"),
                sizes: json!({"m": t, "n": n, "k": k, "gelu": then == Then::Slope,
                    "residual": then == Then::Residual}),
                needs: &[&SPEC],
                prepare: Box::new(move |context| match (single(context), then) {
                    (true, _) => prepare::<f32, f32>(context, t, n, k, then),
                    (false, Then::Residual) => prepare::<f16, f32>(context, t, n, k, then),
                    (false, _) => prepare::<f16, f16>(context, t, n, k, then),
                }),
            });
        }
    }
    cases
}

struct Set<A: Float, C: Float> {
    a: Buffer<A>,
    w: Buffer<A>,
    gelu_of: Option<Buffer<A>>,
    residual: Option<Buffer<f32>>,
    c: Buffer<C>,
}

fn prepare<A: Float, C: Float>(
    context: &Context,
    m: usize,
    n: usize,
    k: usize,
    then: Then,
) -> Result<Prepared> {
    let device = &context.device;
    let beside = match then {
        Then::Nothing => 0,
        Then::Slope => size_of::<A>(),
        Then::Residual => 4,
    };
    let bytes = ((m * n + n * k) * size_of::<A>() + m * k * (size_of::<C>() + beside)) as u64;
    let sets = context.sets(bytes);
    let a = noise::<A>(m * n, 1.0, 1);
    let w = noise::<A>(n * k, 1.0 / (n as f32).sqrt(), 2);
    let gelu_of = (then == Then::Slope).then(|| noise::<A>(m * k, 1.0, 3));
    let residual = (then == Then::Residual).then(|| noise::<f32>(m * k, 1.0, 4));
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push(Set {
            a: device.upload(&a)?,
            w: device.upload(&w)?,
            gelu_of: gelu_of.as_ref().map(|u| device.upload(u)).transpose()?,
            residual: residual.as_ref().map(|r| device.upload(r)).transpose()?,
            c: poisoned(device, m * k)?,
        });
    }
    let run = move |set: &mut Set<A, C>| {
        let epilogue = NnEpilogue {
            gelu_of: set.gelu_of.as_ref().map(Buffer::as_slice),
            residual: set.residual.as_ref().map(Buffer::as_slice),
        };
        matmul_nn(&set.a, &set.w, &epilogue, &mut set.c, m, k)
    };
    run(&mut inputs[0])?;
    let got = inputs[0].c.read()?;
    let which = sample(m);
    let (a, w) = (widen(&gather(&a, n, &which)), widen(&w));
    let gelu_of = gelu_of.map(|u| widen(&gather(&u, k, &which)));
    let residual = residual.map(|r| gather(&r, k, &which));
    let (gelu_of, residual) = (gelu_of.as_deref(), residual.as_deref());
    let want = reference::<f64, _>(&a, &w, gelu_of, residual, k);
    let bytes_of_c = size_of::<C>();
    let bound = error_bound(&a, &w, gelu_of, residual, k, bytes_of_c, &rounding(context));
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, k, &which, &want, &bound),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (m as f64, "tokens"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
