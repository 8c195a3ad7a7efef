//! Cases of `add_rows`; broken variant: the last row is added to the place of the first, and the first to its; without
//! places, the first row twice as large.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::Places;
use nearmiss::ops::add_rows::{add_rows, error_bound, reference};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, judge, line, rounding, sum, twice,
    where_bindings_end, with_small_bindings,
};

/// What is added, to what, and what comes of it.
#[derive(Clone, Copy)]
enum Form {
    /// So many rows to places among those of `x`.
    Places(usize),
    /// All rows in order.
    InOrder,
    /// And a rounded copy.
    Rounded,
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let sizes = [
        (0, 0),
        (0, 5),
        (1, 1),
        (31, 31),
        (33, 40),
        (127, 257),
        (1023, 1100),
    ];
    // Rows of few units, of a part of a block, and of more than a block has threads.
    for (n, m) in sizes {
        for d in [8, 72, 384, 4104] {
            if m * d > 500_000 {
                continue;
            }
            for (what, form) in [
                (format!("{n} places"), Form::Places(n)),
                ("in order".into(), Form::InOrder),
                ("rounded".into(), Form::Rounded),
            ] {
                cases.push(Case {
                    op: "add_rows",
                    name: format!("m={m},d={d},{what}"),
                    on: anywhere,
                    run: Box::new(move |device| both(device, m, d, form)),
                });
            }
        }
    }
    cases.push(Case {
        op: "add_rows",
        name: "more than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| case::<f16>(device, 65_601, 512, Form::Places(65_600))),
    });
    for (what, form) in [("places", Form::Places(150)), ("rounded", Form::Rounded)] {
        cases.push(Case {
            op: "add_rows",
            name: format!("larger than one binding, {what}"),
            on: where_bindings_end,
            run: Box::new(move |device| {
                with_small_bindings(device, |small| both(small, 700, 64, form))
            }),
        });
    }
    cases
}

fn both(device: &Device, m: usize, d: usize, form: Form) -> Result<Outcome, String> {
    Ok(sum([
        case::<f16>(device, m, d, form)?,
        case::<f32>(device, m, d, form)?,
    ]))
}

fn case<A: Float>(device: &Device, m: usize, d: usize, form: Form) -> Result<Outcome, String> {
    let n = match form {
        Form::Places(n) => n,
        _ => m,
    };
    let mut random = Noise::new(n * 19 + d);
    let y = random.normal(n * d, 1.0);
    // More than half as many bits as an f16 has, so that a sum of both is rounded.
    let before: Vec<f32> = random.normal(m * d, 1.0).iter().map(|v| v / 3.0).collect();
    let mut order: Vec<u32> = (0..m as u32).collect();
    for i in (1..m).rev() {
        order.swap(i, random.below(i + 1));
    }
    let placed = matches!(form, Form::Places(_)).then_some(&order[..n]);
    let rounds = matches!(form, Form::Rounded);
    let run = |poison, y: &[f32], places: Option<&[u32]>| {
        let places = places
            .map(|places| Places::new(device, places))
            .transpose()?;
        let mut x = Output::holding(device, &before, poison)?;
        let mut rounded = Output::<f16>::new(device, m * d, poison)?;
        let target = rounds.then(|| rounded.target());
        let y = device.upload(&cast::<A>(y))?;
        add_rows(&y, d, places.as_ref(), x.target(), target)?;
        let rounded = if rounds { rounded.read()? } else { Vec::new() };
        Ok((x.read()?, rounded))
    };
    let got = twice(|poison| run(poison, &y, placed))?;
    let want = reference::<f64>(&y, d, placed, &before);
    let broken = match placed {
        Some(places) if n > 1 => {
            let mut wrong = places.to_vec();
            wrong.swap(0, n - 1);
            Some(run(POISONS[0], &y, Some(&wrong)))
        }
        None if n > 0 => {
            let mut wrong = y.clone();
            wrong[..d].iter_mut().for_each(|y| *y *= 2.0);
            Some(run(POISONS[0], &wrong, None))
        }
        _ => None,
    };
    let broken = broken.transpose().map_err(line)?;
    let rounding = rounding(device);
    let bound = |bytes| {
        let mut bounds = error_bound(&want, bytes, &rounding);
        // What has no place stays, bit for bit.
        if let Some(places) = placed {
            let mut named = vec![false; m];
            places
                .iter()
                .for_each(|&place| named[place as usize] = true);
            for (bounds, named) in bounds.chunks_mut(d).zip(named) {
                if !named {
                    bounds.fill(0.0);
                }
            }
        }
        bounds
    };
    let wrong = broken.as_ref().map(|b| &b.0[..]);
    let mut outcomes = vec![judge(&got.0, wrong, &want, bound, &rounding)?];
    if rounds {
        let wrong = broken.as_ref().map(|b| &b.1[..]);
        outcomes.push(judge(&got.1, wrong, &want, bound, &rounding)?);
    }
    Ok(sum(outcomes))
}
