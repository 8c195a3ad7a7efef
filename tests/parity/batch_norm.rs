//! Cases of `batch_norm`; broken variant: the last 32 rows are left out.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::batch_norm::{batch_norm, error_bound, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, anywhere, cast, judge, line, rounding, sum,
    twice,
};

/// Rows and channels: pieces that are not full, more pieces than a block adds up at a time, and channels that do not fill a
/// slab.
pub fn shapes() -> Vec<(usize, usize)> {
    let mut shapes = vec![(5003, 8), (9000, 64)];
    for (i, rows) in AWKWARD.into_iter().enumerate() {
        shapes.extend([(rows, [8, 72][i % 2]), (rows, [128, 264][i / 2 % 2])]);
    }
    shapes
}

pub fn cases() -> Vec<Case> {
    let case = |(rows, c)| Case {
        op: "batch_norm",
        name: format!("rows={rows},c={c}"),
        on: anywhere,
        run: Box::new(move |device| {
            Ok(sum([
                one::<f16>(device, rows, c)?,
                one::<f32>(device, rows, c)?,
            ]))
        }),
    };
    shapes().into_iter().map(case).collect()
}

/// Pixels whose channels have means of their own, near and far from zero, and every seventh of which does not vary; how
/// often they count, for long stretches not at all; and the sum of that.
pub fn batch(noise: &mut Noise, rows: usize, c: usize) -> (Vec<f32>, Vec<f32>, f32) {
    let mut x = noise.normal(rows * c, 1.0);
    for row in x.chunks_mut(c) {
        for (i, x) in row.iter_mut().enumerate() {
            let mean = (i % 5) as f32 * 4.0 - 6.0;
            let value = if i % 7 == 3 { mean } else { *x + mean };
            *x = f16::from_f32(value).to_f32();
        }
    }
    let count = |r: usize| match r {
        0 => 1.0,
        _ if r / 200 % 3 == 1 => 0.0,
        _ => [1.0, 3.0, 0.0, 40.0, 2.0][r * 7 % 5],
    };
    let weights: Vec<f32> = (0..rows).map(count).collect();
    let total = weights.iter().sum::<f32>().max(1.0);
    (x, weights, total)
}

fn one<A: Float>(device: &Device, rows: usize, c: usize) -> Result<Outcome, String> {
    let mut noise = Noise::new(rows * 31 + c);
    let (x, weights, total) = batch(&mut noise, rows, c);
    let run = |poison, weights: &[f32]| {
        let x = device.upload(&cast::<A>(&x))?;
        let weights = device.upload(weights)?;
        let mut mean = Output::<f32>::new(device, c, poison)?;
        let mut variance = Output::<f32>::new(device, c, poison)?;
        batch_norm(&x, &weights, total, mean.target(), variance.target())?;
        Ok((mean.read()?, variance.read()?))
    };
    let got = twice(|poison| run(poison, &weights))?;
    let broken = if rows > 0 {
        let mut wrong = weights.clone();
        wrong[rows.saturating_sub(32)..].fill(0.0);
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let [mean, variance] = reference::<f64>(&x, &weights, total, c);
    let rounding = rounding(device);
    let [of_mean, of_variance] = error_bound(&x, &weights, total, c, &rounding);
    // The last rows of all may count for nothing.
    let counts = weights[rows.saturating_sub(32)..].iter().any(|&w| w > 0.0);
    let broken = broken.filter(|_| counts);
    let wrong = broken.as_ref().map(|b| &b.0[..]);
    let of_means = judge(&got.0, wrong, &mean, |_| of_mean.clone(), &rounding)?;
    // Few rows may not vary at all.
    let wrong = broken.as_ref().filter(|_| rows > 32).map(|b| &b.1[..]);
    let of_variances = judge(&got.1, wrong, &variance, |_| of_variance.clone(), &rounding)?;
    Ok(sum([of_means, of_variances]))
}
