//! Cases of `pool_backward`; broken variant: the gradient of the last text is reversed.

use nearmiss::Device;
use nearmiss::ops::PackedTexts;
use nearmiss::ops::pool::Pooling;
use nearmiss::ops::pool_backward::{error_bound, pool_backward, reference};

use super::{Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, twice};

pub fn cases() -> Vec<Case> {
    let packings: [&[usize]; 6] = [
        &[],
        &[1],
        &[31, 1, 0, 33],
        &[257, 127],
        &[2, 0, 511],
        &[0, 0],
    ];
    let mut cases = Vec::new();
    for lengths in packings {
        for d in [8, 64, 384, 1032] {
            for pooling in [Pooling::Mean, Pooling::First] {
                for normalize in [true, false] {
                    cases.push(Case {
                        op: "pool_backward",
                        name: format!(
                            "lengths={lengths:?},d={d},{pooling:?},normalize={normalize}"
                        ),
                        on: anywhere,
                        run: Box::new(move |device| {
                            case(device, lengths, d, pooling, normalize, 1.0)
                        }),
                    });
                }
            }
        }
    }
    // Where the norm of the mean is below its floor, the divisor is a constant.
    for (what, scale) in [("zero", 0.0), ("below the floor of the norm", 1e-20)] {
        cases.push(Case {
            op: "pool_backward",
            name: format!("texts of which the mean is {what}"),
            on: anywhere,
            run: Box::new(move |device| case(device, &[3, 40], 64, Pooling::Mean, true, scale)),
        });
    }
    cases
}

fn case(
    device: &Device,
    lengths: &[usize],
    d: usize,
    pooling: Pooling,
    normalize: bool,
    scale: f32,
) -> Result<Outcome, String> {
    let mut offsets = vec![0u32];
    for l in lengths {
        offsets.push(offsets.last().expect("never empty") + *l as u32);
    }
    let (n, t) = (
        lengths.len(),
        *offsets.last().expect("never empty") as usize,
    );
    let mut noise = Noise::new(t * 29 + d);
    let mut h = noise.normal(t * d, 1.0);
    h.iter_mut().for_each(|v| *v *= scale);
    let d_out = noise.normal(n * d, 1.0);
    let run = |poison, d_out: &[f32]| {
        let packing = PackedTexts::new(device, offsets.clone())?;
        let mut dh = Output::<f32>::new(device, t * d, poison)?;
        pool_backward(
            &device.upload(&h)?,
            &packing,
            pooling,
            normalize,
            &device.upload(d_out)?,
            dh.target(),
        )?;
        dh.read()
    };
    let got = twice(|poison| run(poison, &d_out))?;
    let broken = if lengths.last().is_some_and(|&l| l > 0) {
        let mut wrong = d_out.clone();
        wrong[(n - 1) * d..].reverse();
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let want = reference::<f64, _>(&h, &offsets, pooling, normalize, d, &d_out);
    let rounding = rounding(device);
    let bound = |_| error_bound(&h, &offsets, pooling, normalize, d, &d_out, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
