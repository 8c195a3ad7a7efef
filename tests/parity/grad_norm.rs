//! Cases of `grad_norm`; broken variant: the last part of the last gradient is left out.

use nearmiss::device::Device;
use nearmiss::ops::grad_norm;
use nearmiss::ops::grad_norm::{NORM, error_bound, reference};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, twice,
    where_bindings_end, with_small_bindings,
};

pub fn cases() -> Vec<Case> {
    let lists: [&'static [usize]; 8] = [
        &[],
        &[0],
        &[8],
        &[1032, 0, 8],
        &[16_384],
        &[16_392, 24],
        &[100_000, 7_000],
        &[1_100_000],
    ];
    let mut cases: Vec<Case> = lists
        .into_iter()
        .map(|lengths| Case {
            op: "grad_norm",
            name: format!("{lengths:?}"),
            on: anywhere,
            run: Box::new(move |device| case(device, lengths)),
        })
        .collect();
    cases.push(Case {
        op: "grad_norm",
        name: "not finite".into(),
        on: anywhere,
        run: Box::new(not_finite),
    });
    cases.push(Case {
        op: "grad_norm",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| with_small_bindings(device, |small| case(small, &[50_000, 40]))),
    });
    cases
}

fn run(device: &Device, gradients: &[Vec<f32>], poison: u32) -> nearmiss::Result<Vec<f32>> {
    let gradients: nearmiss::Result<Vec<_>> = gradients.iter().map(|g| device.upload(g)).collect();
    let gradients = gradients?;
    let views: Vec<_> = gradients.iter().map(|g| g.as_slice()).collect();
    let mut out = Output::<f32>::new(device, NORM, poison)?;
    grad_norm(&views, out.target())?;
    out.read()
}

fn case(device: &Device, lengths: &[usize]) -> Result<Outcome, String> {
    let mut noise = Noise::new(lengths.iter().sum::<usize>() + lengths.len());
    let gradients: Vec<Vec<f32>> = lengths.iter().map(|&n| noise.normal(n, 40.0)).collect();
    let got = twice(|poison| run(device, &gradients, poison))?;
    let mut wrong = gradients.clone();
    let broken = match wrong.last_mut() {
        Some(last) if !last.is_empty() => {
            last.truncate((last.len() - 1) / 8 * 8 / 2 / 8 * 8);
            Some(run(device, &wrong, POISONS[0]).map_err(line)?)
        }
        _ => None,
    };
    let rounding = rounding(device);
    let gradients: Vec<&[f32]> = gradients.iter().map(|g| &g[..]).collect();
    // The elements behind the first are exactly zero.
    let mut want = vec![0.0; NORM];
    let mut bound = vec![0.0; NORM];
    want[0] = reference(&gradients);
    bound[0] = error_bound(&gradients, &rounding);
    judge(&got, broken.as_deref(), &want, |_| bound.clone(), &rounding)
}

/// One element that is not finite, or whose square is not, anywhere.
fn not_finite(device: &Device) -> Result<Outcome, String> {
    let mut noise = Noise::new(3);
    let mut outcome = Outcome::default();
    for (at, bad) in [
        (0, f32::NAN),
        (33_333, f32::INFINITY),
        (16_383, f32::NEG_INFINITY),
        (40_007, f32::NAN),
        (20_000, 1e30),
    ] {
        let good = noise.normal(40_008, 1.0);
        let mut gradient = good.clone();
        gradient[at] = bad;
        let sum = |gradient| run(device, &[gradient], POISONS[0]).map(|sum| sum[0]);
        if sum(gradient).map_err(line)?.is_finite() {
            return Err(format!("{bad} at {at} does not show"));
        }
        if !sum(good).map_err(line)?.is_finite() {
            return Err("finite elements have no finite sum".into());
        }
        outcome.elements += 2;
    }
    Ok(outcome)
}
