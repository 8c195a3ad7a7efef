//! Cases of `normalize_rows_backward`; broken variant: the second half of the last row's gradient is dropped.

use nearmiss::device::{Device, DeviceKind};
use nearmiss::ops::normalize_rows_backward::{error_bound, normalize_rows_backward, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, twice,
    where_bindings_end, with_small_bindings,
};

pub fn cases() -> Vec<Case> {
    let of = |name: String, n, d| Case {
        op: "normalize_rows_backward",
        name,
        on: anywhere,
        run: Box::new(move |device| case(device, n, d)),
    };
    let mut cases = Vec::new();
    for n in AWKWARD {
        for d in [8, 64, 384, 1032] {
            cases.push(of(format!("n={n},d={d}"), n, d));
        }
    }
    // More rows than a grid has places in one dimension; rows wider than anything that is kept.
    for (n, d) in [(70_001, 8), (5, 16_392)] {
        cases.push(of(format!("n={n},d={d}"), n, d));
    }
    cases.push(Case {
        op: "normalize_rows_backward",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| with_small_bindings(device, |small| case(small, 700, 64))),
    });
    cases.push(Case {
        op: "normalize_rows_backward",
        name: "numbers that are not finite".into(),
        on: |device| device.kind() != DeviceKind::Wgpu,
        run: Box::new(beyond),
    });
    cases
}

/// Rows of very different lengths, the last of them an ordinary one; the shorter ones lie below the floor.
fn rows(n: usize, d: usize) -> Vec<f32> {
    let mut x = Noise::new(n * 131 + d).normal(n * d, 1.0);
    let scales = [0.0, 1e-15, 3e-4, 1e4, 1e-18, 1e-9];
    for (row, scale) in x.chunks_mut(d).take(n.saturating_sub(1)).zip(scales) {
        row.iter_mut().for_each(|v| *v *= scale);
    }
    x
}

fn run(
    device: &Device,
    x: &[f32],
    d: usize,
    dy: &[f32],
    poison: u32,
) -> nearmiss::Result<Vec<f32>> {
    let mut dx = Output::<f32>::new(device, x.len(), poison)?;
    normalize_rows_backward(&device.upload(x)?, d, &device.upload(dy)?, dx.target())?;
    dx.read()
}

fn case(device: &Device, n: usize, d: usize) -> Result<Outcome, String> {
    let x = rows(n, d);
    let dy = Noise::new(n * 17 + d).normal(n * d, 1.0);
    let got = twice(|poison| run(device, &x, d, &dy, poison))?;
    let broken = if n > 0 {
        let mut wrong = dy.clone();
        wrong[n * d - d / 2..].fill(0.0);
        Some(run(device, &x, d, &wrong, POISONS[0]).map_err(line)?)
    } else {
        None
    };
    let rounding = rounding(device);
    let want = reference::<f64, _>(&x, d, &dy);
    let bound = |_| error_bound(&x, d, &dy, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}

/// A NaN in a row and one in a gradient, each between ordinary rows.
fn beyond(device: &Device) -> Result<Outcome, String> {
    let d = 72;
    let (mut x, mut dy) = (vec![1f32; 5 * d], vec![1f32; 5 * d]);
    dy.iter_mut().step_by(2).for_each(|v| *v = 0.0);
    (x[d + 3], dy[3 * d + 70]) = (f32::NAN, f32::NAN);
    let dx = twice(|poison| run(device, &x, d, &dy, poison))?;
    for (row, dx) in dx.chunks(d).enumerate() {
        let right = if row % 2 == 1 {
            dx.iter().all(|v| v.is_nan())
        } else {
            dx.iter().all(|v| v.abs() > 0.05)
        };
        if !right {
            return Err(format!("row {row} is {dx:?}"));
        }
    }
    Ok(Outcome {
        elements: dx.len() as u64,
        ..Outcome::default()
    })
}
