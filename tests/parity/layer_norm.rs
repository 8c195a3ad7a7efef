//! Cases of `layer_norm`; broken variant: the residual of the last row is left out.

use half::f16;
use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::layer_norm::{Norm, error_bound, layer_norm, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, sum, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    // More rows than a grid has places in one dimension.
    let mut cases = vec![Case {
        op: "layer_norm",
        name: "rows=70001,d=8".into(),
        on: anywhere,
        run: Box::new(|device| case::<f32>(device, 70_001, 8, true, true, false)),
    }];
    for (i, rows) in AWKWARD.into_iter().enumerate() {
        for (j, d) in [8, 64, 384, 1024].into_iter().enumerate() {
            // Every combination of residual, bias and second output occurs with several sizes.
            let (residual, bias, act) = ((i + j) % 3 != 0, (i + j) % 2 == 0, (i + 2 * j) % 4 < 2);
            cases.push(Case {
                op: "layer_norm",
                name: format!("rows={rows},d={d},residual={residual},bias={bias},act={act}"),
                on: anywhere,
                run: Box::new(move |device| {
                    each(activations(device), |element| {
                        with_type!(element, A => case::<A>(device, rows, d, residual, bias, act))
                    })
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
    bias: bool,
    act: bool,
) -> Result<Outcome, String> {
    let mut noise = Noise::new(rows * 7919 + d);
    // Rows with a mean of their own, as the residual stream has.
    let mut x = noise.normal(rows * d, 1.0);
    for (r, row) in x.chunks_mut(d).enumerate() {
        row.iter_mut().for_each(|v| *v += (r % 5) as f32 - 2.0);
    }
    let add = noise.normal(rows * d, 0.7);
    let weight: Vec<f32> = noise.normal(d, 0.3).iter().map(|v| 1.0 + v).collect();
    let shift = noise.normal(d, 0.3);
    let eps = 1e-12;
    let run = |poison, add: &[f32]| {
        let x = device.upload(&x)?;
        let add = device.upload(&cast::<A>(add))?;
        let (weight, shift) = (device.upload(&weight)?, device.upload(&shift)?);
        let norm = Norm {
            weight: weight.as_slice(),
            bias: bias.then(|| shift.as_slice()),
            eps,
        };
        let mut y = Output::<f32>::new(device, rows * d, poison)?;
        let mut y_act = Output::<f16>::new(device, rows * d, poison)?;
        layer_norm(
            &x,
            residual.then(|| add.as_slice()),
            &norm,
            y.target(),
            act.then(|| y_act.target()),
        )?;
        Ok((y.read()?, if act { y_act.read()? } else { Vec::new() }))
    };
    let (y, y_act) = twice(|poison| run(poison, &add))?;
    let broken = if residual && rows > 0 {
        let mut wrong = add.clone();
        wrong[(rows - 1) * d..].fill(0.0);
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let add = residual.then_some(&add[..]);
    let shift = bias.then_some(&shift[..]);
    let want = reference::<f64, _>(&x, add, &weight, shift, eps);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&x, add, &weight, shift, eps, bytes, &rounding);
    let broken = broken.as_ref();
    let main = judge(&y, broken.map(|b| &b.0[..]), &want, bound, &rounding)?;
    if !act {
        return Ok(main);
    }
    let second = judge(&y_act, broken.map(|b| &b.1[..]), &want, bound, &rounding)?;
    Ok(sum([main, second]))
}
