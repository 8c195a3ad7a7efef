//! `adamw` over the weights of a model, with the copy that products read where they read f16; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::adamw::{AdamW, Moments, SPEC, State, adamw, error_bound, reference};

use super::{
    Case, Context, Prepared, Recorded, copies, gather, json, noise, parameters, poisoned, rounding,
    single, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let n = parameters(context.scale);
    let copy = if single(context) { "" } else { " + f16 copy" };
    vec![Case {
        op: SPEC.name,
        shape: format!("{n} weights{copy}"),
        sizes: json!({"elements": n}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, n)),
    }]
}

struct Set {
    gradient: Buffer<f32>,
    first: Buffer<f32>,
    second: Buffer<f32>,
    master: Buffer<f32>,
    working: Option<Buffer<f16>>,
}

fn prepare(context: &Context, n: usize) -> Result<Prepared> {
    let device = &context.device;
    let copied = !single(context);
    let bytes = (n * if copied { 18 } else { 16 }) as u64;
    let sets = context.sets(bytes);
    let (gradient, weights) = (noise::<f32>(n, 1.0, 1), noise::<f32>(n, 0.05, 2));
    let zeros = device.upload(&vec![0f32; n])?;
    let mut inputs = Vec::new();
    let masters = copies(device, device.upload(&weights)?, sets)?;
    let gradients = copies(device, device.upload(&gradient)?, sets)?;
    for (master, gradient) in masters.into_iter().zip(gradients) {
        let mut moments = [device.alloc(n)?, device.alloc(n)?];
        for moment in &mut moments {
            moment.copy_from(0, &zeros)?;
        }
        let [first, second] = moments;
        inputs.push(Set {
            gradient,
            first,
            second,
            master,
            working: if copied {
                Some(poisoned(device, n)?)
            } else {
                None
            },
        });
    }
    let settings = AdamW {
        learning_rate: 1e-4,
        ..AdamW::default()
    };
    let sum = 64.0f32;
    let norm = device.upload(&[sum, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
    let run = move |set: &mut Set| {
        let moments = Moments {
            first: (&mut set.first).into(),
            second: (&mut set.second).into(),
        };
        let working = set.working.as_mut().map(Buffer::as_slice_mut);
        adamw(
            &settings,
            &set.gradient,
            &norm,
            moments,
            &mut set.master,
            working,
        )
    };
    run(&mut inputs[0])?;
    // Every so many elements, and the last.
    let mut which: Vec<usize> = (0..n).step_by((n / 1000).max(1)).collect();
    which.push(n - 1);
    let gradient = gather(&gradient, 1, &which);
    let before = State::<f64>::new(&gather(&weights, 1, &which));
    let mut want = before.clone();
    let mut bound = State::<f64>::new(&vec![0f32; which.len()]);
    reference(&settings, &gradient, sum.into(), &mut want);
    let rounding = rounding(context);
    error_bound(
        &settings,
        &gradient,
        sum.into(),
        &before,
        &mut bound,
        &rounding,
    );
    let first = &inputs[0];
    let mut worst = 0f64;
    for (got, want, bound) in [
        (&first.first, &want.first, &bound.first),
        (&first.second, &want.second, &bound.second),
        (&first.master, &want.master, &bound.master),
    ] {
        worst = worst.max(worst_ratio(&got.read()?, 1, &which, want, bound));
    }
    if let Some(working) = &first.working {
        let stored = |(&w, &e): (&f64, &f64)| rounding.store(w, e, 2);
        let bound: Vec<f64> = want.master.iter().zip(&bound.master).map(stored).collect();
        worst = worst.max(worst_ratio(
            &working.read()?,
            1,
            &which,
            &want.master,
            &bound,
        ));
    }
    Ok(Prepared {
        checked: which.len() * if copied { 4 } else { 3 },
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "weights"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
