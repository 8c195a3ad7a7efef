//! Cases of `pair_dot`; broken variant: the last pair is one with another row of `b`.

use nearmiss::device::{Device, ElementType, Float};
use nearmiss::ops::PairList;
use nearmiss::ops::pair_dot::{error_bound, pair_dot, reference};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, each, judge, line, rounding, twice,
    where_bindings_end, with_small_bindings, with_type,
};

/// Rows of `a` and of `b`, their width, and how many pairs.
type Shape = (usize, usize, usize, usize);

pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 9] = [
        (1, 1, 8, 0),
        (0, 0, 8, 0),
        (1, 2, 8, 1),
        (5, 7, 24, 31),
        (31, 1, 64, 33),
        (33, 257, 128, 127),
        (127, 65, 384, 1023),
        (9, 4, 1032, 64),
        (3, 3, 4104, 5),
    ];
    let mut cases: Vec<Case> = shapes
        .into_iter()
        .map(|shape| Case {
            op: "pair_dot",
            name: format!("{shape:?}"),
            on: anywhere,
            run: Box::new(move |device| both(device, shape)),
        })
        .collect();
    cases.push(Case {
        op: "pair_dot",
        name: "more than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| both(device, (100, 100, 8, 530_001))),
    });
    cases.push(Case {
        op: "pair_dot",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            with_small_bindings(device, |small| both(small, (9, 1500, 64, 300)))
        }),
    });
    cases
}

fn both(device: &Device, shape: Shape) -> Result<Outcome, String> {
    each(
        &[ElementType::F16, ElementType::F32],
        |element| with_type!(element, T => case::<T>(device, shape)),
    )
}

fn case<T: Float>(device: &Device, (n_a, n_b, d, count): Shape) -> Result<Outcome, String> {
    let mut noise = Noise::new(d * 11 + count);
    let scale = 1.0 / (d as f32).sqrt();
    let (a, b) = (noise.normal(n_a * d, scale), noise.normal(n_b * d, scale));
    let mut pair = || [noise.below(n_a) as u32, noise.below(n_b) as u32];
    let pairs: Vec<[u32; 2]> = (0..count).map(|_| pair()).collect();
    let run = |poison, pairs: &[[u32; 2]]| {
        let list = PairList::new(device, pairs.to_vec())?;
        let mut scores = Output::new(device, count, poison)?;
        let (a, b) = (
            device.upload(&cast::<T>(&a))?,
            device.upload(&cast::<T>(&b))?,
        );
        pair_dot(&a, &b, d, &list, scores.target())?;
        scores.read()
    };
    let got = twice(|poison| run(poison, &pairs))?;
    let mut wrong = pairs.clone();
    let broken = match wrong.last_mut() {
        Some([_, j]) if n_b > 1 => {
            *j = (*j + 1) % n_b as u32;
            Some(run(POISONS[0], &wrong).map_err(line)?)
        }
        _ => None,
    };
    let rounding = rounding(device);
    let want = reference::<f64>(&a, &b, d, &pairs);
    let bound = error_bound(&a, &b, d, &pairs, &rounding);
    judge(&got, broken.as_deref(), &want, |_| bound.clone(), &rounding)
}
