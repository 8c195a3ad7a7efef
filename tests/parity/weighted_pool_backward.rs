//! Cases of `weighted_pool_backward`; broken variant: the last weight that counts is twice as large, or, where it is the only
//! one of its picture, the gradient is reversed.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::PackedTexts;
use nearmiss::ops::weighted_pool_backward::{error_bound, reference, weighted_pool_backward};

use super::weighted_pool::{SHAPES, weights};
use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, twice, where_bindings_end, with_type,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (lengths, c) in SHAPES {
        cases.push(Case {
            op: "weighted_pool_backward",
            name: format!("pixels={lengths:?},c={c}"),
            on: anywhere,
            run: Box::new(move |device| {
                each(
                    activations(device),
                    |element| with_type!(element, A => one::<A>(device, lengths, c)),
                )
            }),
        });
    }
    cases.push(Case {
        op: "weighted_pool_backward",
        name: "more pictures than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| one::<f16>(device, &[1; 65_600], 8)),
    });
    cases
}

fn one<A: Float>(device: &Device, lengths: &[usize], c: usize) -> Result<Outcome, String> {
    let mut noise = Noise::new(lengths.iter().sum::<usize>() * 17 + c);
    let (offsets, weights) = weights(lengths, &mut noise);
    let d_out = noise.normal(lengths.len() * c, 1.0);
    let r = weights.len();
    let run = |poison, d_out: &[f32], weights: &[f32]| {
        let pixels = PackedTexts::new(device, offsets.clone())?;
        let mut dx = Output::<A>::new(device, r * c, poison)?;
        let (d_out, weights) = (device.upload(&cast::<A>(d_out))?, device.upload(weights)?);
        weighted_pool_backward(&d_out, c, &weights, &pixels, dx.target())?;
        dx.read()
    };
    let got = twice(|poison| run(poison, &d_out, &weights))?;
    let broken = weights.iter().rposition(|&w| w > 0.0).map(|last| {
        let (mut gradient, mut wrong) = (d_out.clone(), weights.clone());
        wrong[last] *= 2.0;
        let first = offsets.iter().rfind(|&&first| first as usize <= last);
        let others = &wrong[*first.expect("the first is 0") as usize..last];
        if others.iter().all(|&w| w == 0.0) {
            gradient.reverse();
        }
        run(POISONS[0], &gradient, &wrong)
    });
    let broken = broken.transpose().map_err(line)?;
    let want = reference::<f64>(&d_out, c, &weights, &offsets);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&d_out, c, &weights, &offsets, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
