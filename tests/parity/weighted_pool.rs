//! Cases of `weighted_pool`; broken variant: the last weight that counts is left out, or, where it is the only one of its
//! picture, the pixel's channels are reversed.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::PackedTexts;
use nearmiss::ops::weighted_pool::{error_bound, reference, weighted_pool};

use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, twice, where_bindings_end, with_type,
};

/// Pixels of pictures, and channels: a part of what a block adds up, and many blocks.
type Shape = (&'static [usize], usize);

/// What the gradient is tested on, too.
pub const SHAPES: [Shape; 12] = [
    (&[], 8),
    (&[0, 0], 128),
    (&[1], 8),
    (&[1, 1, 1, 2], 16),
    (&[31, 1, 0, 33, 7], 24),
    (&[31, 1, 0, 33, 7], 72),
    (&[63, 64, 65, 128], 128),
    (&[257, 127, 255, 256, 320], 128),
    (&[1024, 3], 256),
    (&[2500], 40),
    (&[2, 0, 3], 2056),
    (&[2, 0, 3], 4104),
];

pub fn cases() -> Vec<Case> {
    let case = |(lengths, c): Shape| Case {
        op: "weighted_pool",
        name: format!("pixels={lengths:?},c={c}"),
        on: anywhere,
        run: Box::new(move |device| {
            each(
                activations(device),
                |element| with_type!(element, A => one::<A>(device, lengths, c)),
            )
        }),
    };
    let mut cases: Vec<Case> = SHAPES.into_iter().map(case).collect();
    cases.push(Case {
        op: "weighted_pool",
        name: "more pictures than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| one::<f16>(device, &[1; 65_600], 8)),
    });
    cases
}

/// Offsets, and weights of every sort: numbers of pixels, fractions, zeros; those of the second picture are all zero.
pub fn weights(lengths: &[usize], noise: &mut Noise) -> (Vec<u32>, Vec<f32>) {
    let mut offsets = vec![0u32];
    for l in lengths {
        offsets.push(offsets.last().expect("never empty") + *l as u32);
    }
    let r = *offsets.last().expect("never empty") as usize;
    let mut weights: Vec<f32> = noise.normal(r, 1.0).iter().map(|w| w.abs() / 3.0).collect();
    for (i, w) in weights.iter_mut().enumerate() {
        match i % 4 {
            1 => *w = (i % 7) as f32,
            2 => *w = 0.0,
            _ => {}
        }
    }
    if lengths.len() > 2 {
        weights[offsets[1] as usize..offsets[2] as usize].fill(0.0);
    }
    (offsets, weights)
}

fn one<A: Float>(device: &Device, lengths: &[usize], c: usize) -> Result<Outcome, String> {
    let mut noise = Noise::new(lengths.iter().sum::<usize>() * 13 + c);
    let (offsets, weights) = weights(lengths, &mut noise);
    let x = noise.normal(weights.len() * c, 1.0);
    let n = lengths.len();
    let run = |poison, x: &[f32], weights: &[f32]| {
        let pixels = PackedTexts::new(device, offsets.clone())?;
        let mut out = Output::<A>::new(device, n * c, poison)?;
        let (x, weights) = (device.upload(&cast::<A>(x))?, device.upload(weights)?);
        weighted_pool(&x, c, &weights, &pixels, out.target())?;
        out.read()
    };
    let got = twice(|poison| run(poison, &x, &weights))?;
    let broken = weights.iter().rposition(|&w| w > 0.0).map(|last| {
        let (mut wrong_x, mut wrong) = (x.clone(), weights.clone());
        wrong[last] = 0.0;
        // Another pixel of the same picture that counts.
        let first = offsets.iter().rfind(|&&first| first as usize <= last);
        let others = &wrong[*first.expect("the first is 0") as usize..last];
        if others.iter().all(|&w| w == 0.0) {
            wrong[last] = weights[last];
            wrong_x[last * c..][..c].reverse();
        }
        run(POISONS[0], &wrong_x, &wrong)
    });
    let broken = broken.transpose().map_err(line)?;
    let want = reference::<f64>(&x, c, &weights, &offsets);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&x, c, &weights, &offsets, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
