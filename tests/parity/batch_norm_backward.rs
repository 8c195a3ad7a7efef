//! Cases of `batch_norm_backward`; broken variant: the gradients of the last 32 rows are left out.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::batch_norm::reference as forward;
use nearmiss::ops::batch_norm_backward::{Forward, batch_norm_backward, error_bound, reference};

use super::batch_norm::{batch, shapes};
use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, judge, line, rounding, sum, twice,
};

const EPS: f32 = 1e-5;

pub fn cases() -> Vec<Case> {
    let case = |(rows, c)| Case {
        op: "batch_norm_backward",
        name: format!("rows={rows},c={c}"),
        on: anywhere,
        run: Box::new(move |device| {
            Ok(sum([
                one::<f16>(device, rows, c)?,
                one::<f32>(device, rows, c)?,
            ]))
        }),
    };
    let mut cases: Vec<Case> = shapes().into_iter().map(case).collect();
    cases.push(case((3, 2056)));
    cases
}

fn one<A: Float>(device: &Device, rows: usize, c: usize) -> Result<Outcome, String> {
    let mut noise = Noise::new(rows * 37 + c);
    let (x, weights, total) = batch(&mut noise, rows, c);
    let gamma: Vec<f32> = noise.normal(c, 0.3).iter().map(|v| 1.0 + v).collect();
    let d_y = noise.normal(rows * c, 0.5);
    let before = [noise.normal(c, 1.0), noise.normal(c, 1.0)];
    let [mean, variance] = forward::<f32>(&x, &weights, total, c);
    let run = |poison, d_y: &[f32]| {
        let (x, d_y) = (
            device.upload(&cast::<A>(&x))?,
            device.upload(&cast::<A>(d_y))?,
        );
        let [weights, mean, variance, gamma] = [
            device.upload(&weights)?,
            device.upload(&mean)?,
            device.upload(&variance)?,
            device.upload(&gamma)?,
        ];
        let forward = Forward {
            x: x.as_slice(),
            weights: weights.as_slice(),
            total,
            mean: mean.as_slice(),
            variance: variance.as_slice(),
            eps: EPS,
            gamma: gamma.as_slice(),
        };
        let mut dx = Output::<A>::new(device, rows * c, poison)?;
        let mut d_gamma = Output::holding(device, &before[0], poison)?;
        let mut d_beta = Output::holding(device, &before[1], poison)?;
        batch_norm_backward(
            &forward,
            &d_y,
            dx.target(),
            d_gamma.target(),
            d_beta.target(),
        )?;
        Ok((dx.read()?, (d_gamma.read()?, d_beta.read()?)))
    };
    let got = twice(|poison| run(poison, &d_y))?;
    let broken = if rows > 0 {
        let mut wrong = d_y.clone();
        wrong[rows.saturating_sub(32) * c..].fill(0.0);
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let statistics = [&mean[..], &variance];
    let [dx, mut d_gamma, mut d_beta] =
        reference::<f64, _>(&x, &weights, total, statistics, EPS, &gamma, &d_y);
    for (sums, before) in [&mut d_gamma, &mut d_beta].into_iter().zip(&before) {
        for (sum, &before) in sums.iter_mut().zip(before) {
            *sum += f64::from(before);
        }
    }
    let rounding = rounding(device);
    let before = [&before[0][..], &before[1]];
    let bound = |bytes| {
        error_bound(
            &x, &weights, total, statistics, EPS, &gamma, &d_y, before, bytes, &rounding,
        )
    };
    let broken = broken.as_ref();
    // One row alone is its own mean: nothing but beta moves.
    let moves = broken.filter(|_| rows > 1);
    let wrong = moves.map(|b| &b.0[..]);
    let of_dx = |bytes| {
        let [bound, _, _] = bound(bytes);
        bound
    };
    let [_, of_gamma, of_beta] = bound(4);
    let wrong_gamma = moves.map(|b| &b.1.0[..]);
    let wrong_beta = broken.map(|b| &b.1.1[..]);
    Ok(sum([
        judge(&got.0, wrong, &dx, of_dx, &rounding)?,
        judge(
            &got.1.0,
            wrong_gamma,
            &d_gamma,
            |_| of_gamma.clone(),
            &rounding,
        )?,
        judge(
            &got.1.1,
            wrong_beta,
            &d_beta,
            |_| of_beta.clone(),
            &rounding,
        )?,
    ]))
}
