//! Cases of `normalize_rows`; broken variant: the second half of the last row is dropped.

use half::f16;
use nearmiss::device::{Device, DeviceKind};
use nearmiss::ops::normalize_rows::{error_bound, normalize_rows, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, sum, twice,
    where_bindings_end, with_small_bindings,
};

/// What is asked for beside the rows.
#[derive(Clone, Copy)]
struct Also {
    unit: bool,
    norms: bool,
}

const ALL: Also = Also {
    unit: true,
    norms: true,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, n) in AWKWARD.into_iter().enumerate() {
        for (j, d) in [8, 64, 384, 1032].into_iter().enumerate() {
            // Every combination occurs with several sizes.
            let also = Also {
                unit: (i + j) % 2 == 0,
                norms: (i + 2 * j) % 4 < 2,
            };
            cases.push(Case {
                op: "normalize_rows",
                name: format!("n={n},d={d},unit={},norms={}", also.unit, also.norms),
                on: anywhere,
                run: Box::new(move |device| case(device, n, d, also)),
            });
        }
    }
    // More rows than a grid has places in one dimension; rows wider than anything that is kept.
    for (n, d) in [(70_001, 8), (5, 16_392)] {
        cases.push(Case {
            op: "normalize_rows",
            name: format!("n={n},d={d}"),
            on: anywhere,
            run: Box::new(move |device| case(device, n, d, ALL)),
        });
    }
    cases.push(Case {
        op: "normalize_rows",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| with_small_bindings(device, |small| case(small, 700, 64, ALL))),
    });
    cases.push(Case {
        op: "normalize_rows",
        name: "numbers that are not finite, and rows that overflow".into(),
        on: |device| device.kind() != DeviceKind::Wgpu,
        run: Box::new(beyond),
    });
    cases
}

/// Rows of very different lengths, the last of them an ordinary one.
fn rows(n: usize, d: usize) -> Vec<f32> {
    let mut x = Noise::new(n * 131 + d).normal(n * d, 1.0);
    let scales = [0.0, 1e-15, 3e-4, 1e4];
    for (row, scale) in x.chunks_mut(d).take(n.saturating_sub(1)).zip(scales) {
        row.iter_mut().for_each(|v| *v *= scale);
    }
    x
}

type Results = (Vec<f16>, (Vec<f32>, Vec<f32>));

fn run(device: &Device, x: &[f32], d: usize, also: Also, poison: u32) -> nearmiss::Result<Results> {
    let mut rows = Output::<f16>::new(device, x.len(), poison)?;
    let mut unit = Output::<f32>::new(device, x.len(), poison)?;
    let mut norms = Output::<f32>::new(device, x.len() / d, poison)?;
    normalize_rows(
        &device.upload(x)?,
        d,
        rows.target(),
        also.unit.then(|| unit.target()),
        also.norms.then(|| norms.target()),
    )?;
    let read = |asked: bool, output: &Output<f32>| {
        if asked { output.read() } else { Ok(Vec::new()) }
    };
    Ok((
        rows.read()?,
        (read(also.unit, &unit)?, read(also.norms, &norms)?),
    ))
}

fn case(device: &Device, n: usize, d: usize, also: Also) -> Result<Outcome, String> {
    let x = rows(n, d);
    let (rows, (unit, norms)) = twice(|poison| run(device, &x, d, also, poison))?;
    let broken = if n > 0 {
        let mut wrong = x.clone();
        wrong[n * d - d / 2..].fill(0.0);
        Some(run(device, &wrong, d, also, POISONS[0]).map_err(line)?)
    } else {
        None
    };
    let broken = broken.as_ref();
    let rounding = rounding(device);
    let (want, lengths) = reference::<f64>(&x, d);
    let bound = |bytes| error_bound(&x, d, bytes, &rounding).0;
    let mut outcomes = vec![judge(
        &rows,
        broken.map(|b| &b.0[..]),
        &want,
        bound,
        &rounding,
    )?];
    if also.unit {
        let broken = broken.map(|b| &b.1.0[..]);
        outcomes.push(judge(&unit, broken, &want, bound, &rounding)?);
    }
    if also.norms {
        let bound = |bytes| error_bound(&x, d, bytes, &rounding).1;
        let broken = broken.map(|b| &b.1.1[..]);
        outcomes.push(judge(&norms, broken, &lengths, bound, &rounding)?);
    }
    Ok(sum(outcomes))
}

/// A NaN, an infinity and a length beyond f32, each in a row of its own between ordinary ones.
fn beyond(device: &Device) -> Result<Outcome, String> {
    let d = 72;
    let mut x = vec![1f32; 5 * d];
    (x[d + 3], x[2 * d + 70]) = (f32::NAN, f32::INFINITY);
    x[3 * d..4 * d].fill(1e19);
    let (rows, (unit, norms)) = twice(|poison| run(device, &x, d, ALL, poison))?;
    let is = |row: usize, holds: fn(f32) -> bool| {
        let span = row * d..(row + 1) * d;
        let rounded = rows[span.clone()].iter().all(|v| holds(v.to_f32()));
        rounded && unit[span].iter().all(|&v| holds(v))
    };
    let right = is(0, |v| v > 0.1)
        && is(1, f32::is_nan)
        && rows[2 * d].to_f32() == 0.0
        && rows[2 * d + 70].is_nan()
        && is(3, |v| v == 0.0)
        && is(4, |v| v > 0.1)
        && norms[1].is_nan()
        && norms[2..4] == [f32::INFINITY; 2]
        && norms[0] == norms[4];
    if !right {
        return Err(format!("norms are {norms:?}"));
    }
    Ok(Outcome {
        elements: (rows.len() + unit.len() + norms.len()) as u64,
        ..Outcome::default()
    })
}
