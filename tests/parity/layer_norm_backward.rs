//! Cases of `layer_norm_backward`; broken variant: the gradients of the last 32 rows are left out.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::layer_norm::Norm;
use nearmiss::ops::layer_norm_backward::{error_bound, layer_norm_backward, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, sum, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    // Many pieces of rows, whose sums are added up by turns.
    let mut cases = vec![Case {
        op: "layer_norm_backward",
        name: "rows=5003,d=8".into(),
        on: anywhere,
        run: Box::new(|device| case::<f32>(device, 5003, 8, true, true)),
    }];
    for (i, rows) in AWKWARD.into_iter().enumerate() {
        for (j, d) in [8, 96, 384, 520, 776, 1024].into_iter().enumerate() {
            // Every combination of residual and second output occurs with several sizes.
            let (residual, act) = ((i + j) % 3 != 0, (i + 2 * j) % 4 < 2);
            cases.push(Case {
                op: "layer_norm_backward",
                name: format!("rows={rows},d={d},residual={residual},act={act}"),
                on: anywhere,
                run: Box::new(move |device| {
                    each(
                        activations(device),
                        |element| with_type!(element, A => case::<A>(device, rows, d, residual, act)),
                    )
                }),
            });
        }
    }
    cases
}

fn case<A: Float>(
    device: &Device,
    rows: usize,
    d: usize,
    residual: bool,
    act: bool,
) -> Result<Outcome, String> {
    let mut noise = Noise::new(rows * 6007 + d);
    // Rows with a mean of their own, as the residual stream has.
    let mut x = noise.normal(rows * d, 1.0);
    for (r, row) in x.chunks_mut(d).enumerate() {
        row.iter_mut().for_each(|v| *v += (r % 5) as f32 - 2.0);
    }
    let add = noise.normal(rows * d, 0.7);
    let weight: Vec<f32> = noise.normal(d, 0.3).iter().map(|v| 1.0 + v).collect();
    let dy = noise.normal(rows * d, 0.5);
    let before = [noise.normal(d, 1.0), noise.normal(d, 1.0)];
    let eps = 1e-12;
    let run = |poison, dy: &[f32]| {
        let (x, dy) = (device.upload(&x)?, device.upload(dy)?);
        let add = device.upload(&cast::<A>(&add))?;
        let weight = device.upload(&weight)?;
        let norm = Norm {
            weight: weight.as_slice(),
            bias: None,
            eps,
        };
        let mut dx = Output::<f32>::new(device, rows * d, poison)?;
        let mut dx_act = Output::<A>::new(device, rows * d, poison)?;
        let mut d_weight = Output::holding(device, &before[0], poison)?;
        let mut d_bias = Output::holding(device, &before[1], poison)?;
        layer_norm_backward(
            &x,
            residual.then(|| add.as_slice()),
            &norm,
            &dy,
            dx.target(),
            act.then(|| dx_act.target()),
            d_weight.target(),
            d_bias.target(),
        )?;
        let dx_act = if act { dx_act.read()? } else { Vec::new() };
        Ok(((dx.read()?, dx_act), (d_weight.read()?, d_bias.read()?)))
    };
    let got = twice(|poison| run(poison, &dy))?;
    let broken = if rows > 0 {
        let mut wrong = dy.clone();
        wrong[rows.saturating_sub(32) * d..].fill(0.0);
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let add = residual.then_some(&add[..]);
    let [dx, mut d_weight, mut d_bias] = reference::<f64, _>(&x, add, &weight, eps, &dy);
    for (sums, before) in [&mut d_weight, &mut d_bias].into_iter().zip(&before) {
        for (sum, &before) in sums.iter_mut().zip(before) {
            *sum += f64::from(before);
        }
    }
    let rounding = rounding(device);
    let before = [&before[0][..], &before[1]];
    let [single, half, of_weight, of_bias] =
        error_bound(&x, add, &weight, eps, &dy, before, &rounding);
    let of_dx = |bytes| {
        if bytes == 2 {
            half.clone()
        } else {
            single.clone()
        }
    };
    let broken = broken.as_ref();
    let wrong = broken.map(|b| &b.0.0[..]);
    let mut outcomes = vec![judge(&got.0.0, wrong, &dx, of_dx, &rounding)?];
    if act {
        let wrong = broken.map(|b| &b.0.1[..]);
        outcomes.push(judge(&got.0.1, wrong, &dx, of_dx, &rounding)?);
    }
    let wrong = broken.map(|b| &b.1.0[..]);
    outcomes.push(judge(
        &got.1.0,
        wrong,
        &d_weight,
        |_| of_weight.clone(),
        &rounding,
    )?);
    let wrong = broken.map(|b| &b.1.1[..]);
    outcomes.push(judge(
        &got.1.1,
        wrong,
        &d_bias,
        |_| of_bias.clone(),
        &rounding,
    )?);
    Ok(sum(outcomes))
}
