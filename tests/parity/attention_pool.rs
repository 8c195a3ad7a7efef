//! Cases of `attention_pool`; broken variant: another mask; without dropout, negated queries, and where no text has two
//! rows, whose weights they could change, reversed rows.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::attention_pool::{attention_pool, error_bound, reference};
use nearmiss::ops::dropout::{Mask, Site};
use nearmiss::ops::{Origins, PackedTexts};

use super::attention::{numbers_of, offsets_of};
use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, sum, twice, where_bindings_end, with_type,
};

/// Lengths of texts, width, size of the numbers, rate of dropout; probabilities are asked for in every second case.
type Shape = (&'static [usize], usize, f32, f32);

/// What the gradient is tested on, too.
pub const SHAPES: [Shape; 14] = [
    (&[], 384, 1.0, 0.1),
    (&[0, 0], 384, 1.0, 0.0),
    (&[1], 8, 1.0, 0.0),
    (&[1], 8, 1.0, 0.5),
    (&[31, 1, 0, 33], 384, 1.0, 0.0),
    (&[31, 1, 0, 33], 384, 1.0, 0.1),
    (&[2, 3, 4, 5, 7, 8, 9, 15, 16, 17], 72, 1.0, 0.0),
    (&[2, 3, 4, 5, 7, 8, 9, 15, 16, 17], 72, 1.0, 0.5),
    (&[257, 3], 136, 1.0, 0.25),
    // Scores so far apart that the maximum grows often, and most weights are next to nothing.
    (&[257, 40], 384, 4.0, 0.1),
    (&[40, 19, 0, 6], 520, 1.0, 0.1),
    (&[40, 19, 0, 6], 768, 1.0, 0.0),
    (&[21, 1], 776, 1.0, 0.1),
    (&[21, 1, 64], 1024, 2.0, 0.1),
];

pub fn cases() -> Vec<Case> {
    let case = |(i, (lengths, d, size, rate)): (usize, Shape)| {
        let saving = i % 2 == 0 || rate > 0.2;
        Case {
            op: "attention_pool",
            name: format!("lengths={lengths:?},d={d},size={size},rate={rate},saving={saving}"),
            on: anywhere,
            run: Box::new(move |device| {
                each(
                    activations(device),
                    |element| with_type!(element, A => one::<A>(device, lengths, d, size, rate, saving)),
                )
            }),
        }
    };
    let mut cases: Vec<Case> = SHAPES.into_iter().enumerate().map(case).collect();
    cases.push(Case {
        op: "attention_pool",
        name: "more texts than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| one::<f32>(device, &[1; 65_600], 8, 1.0, 0.0, false)),
    });
    cases
}

/// Numbers of texts with which other rows are dropped.
pub fn other_numbers(mask: Mask, offsets: &[u32], numbers: &[u32]) -> Vec<u32> {
    let drawn = |numbers: &[u32]| -> Vec<bool> {
        let texts = offsets.windows(2).zip(numbers);
        texts
            .flat_map(|(span, &number)| {
                (0..span[1] - span[0]).map(move |j| mask.keeps(j as usize, 0, number, 0))
            })
            .collect()
    };
    (1..100)
        .map(|more| numbers.iter().map(|n| n + more).collect::<Vec<u32>>())
        .find(|other| drawn(other) != drawn(numbers))
        .expect("another mask")
}

fn one<A: Float>(
    device: &Device,
    lengths: &[usize],
    d: usize,
    size: f32,
    rate: f32,
    saving: bool,
) -> Result<Outcome, String> {
    let (offsets, numbers) = (offsets_of(lengths), numbers_of(lengths));
    let (n, t) = (lengths.len(), lengths.iter().sum::<usize>());
    let mut noise = Noise::new(t * 43 + d);
    let (queries, rows) = (noise.normal(n * d, size), noise.normal(t * d, size));
    let scale = 1.0 / (d as f32).sqrt();
    let mask = Mask::new(rate, 7, 3, 1, Site::Probabilities);
    let run = |poison, queries: &[f32], rows: &[f32], numbers: &[u32]| {
        let texts = PackedTexts::new(device, offsets.clone())?;
        let origins = Origins::new(&texts, numbers)?;
        let mut probabilities = Output::<f32>::new(device, t, poison)?;
        let mut out = Output::<A>::new(device, n * (d + 8), poison)?;
        attention_pool(
            &device.upload(&cast::<A>(queries))?,
            &device.upload(&cast::<A>(rows))?,
            &texts,
            d,
            scale,
            (rate > 0.0).then_some((mask, &origins)),
            saving.then(|| probabilities.target()),
            out.target(),
        )?;
        let probabilities = if saving {
            probabilities.read()?
        } else {
            Vec::new()
        };
        Ok((out.read()?, probabilities))
    };
    let got = twice(|poison| run(poison, &queries, &rows, &numbers))?;
    let dropped = (rate > 0.0).then_some((mask, &numbers[..]));
    let broken = if t == 0 {
        None
    } else if rate > 0.0 {
        let other = other_numbers(mask, &offsets, &numbers);
        Some(run(POISONS[0], &queries, &rows, &other))
    } else if lengths.iter().any(|&l| l > 1) {
        let negated: Vec<f32> = queries.iter().map(|q| -q).collect();
        Some(run(POISONS[0], &negated, &rows, &numbers))
    } else {
        let reversed: Vec<f32> = rows.iter().rev().copied().collect();
        Some(run(POISONS[0], &queries, &reversed, &numbers))
    };
    let broken = broken.transpose().map_err(line)?;
    let (want, of_rows) = reference::<f64, _>(&queries, &rows, &offsets, d, scale, dropped);
    let rounding = rounding(device);
    let bound = |bytes| {
        error_bound(
            &queries, &rows, &offsets, d, scale, dropped, bytes, &rounding,
        )
    };
    let wrong = broken.as_ref().map(|b| &b.0[..]);
    let mut outcomes = vec![judge(
        &got.0,
        wrong,
        &want,
        |bytes| bound(bytes).0,
        &rounding,
    )?];
    if saving {
        // They do not depend on what is dropped, and one alone is 1.
        let changed = rate == 0.0 && lengths.iter().any(|&l| l > 1);
        let wrong = broken.as_ref().filter(|_| changed).map(|b| &b.1[..]);
        let bound = |bytes| bound(bytes).1;
        outcomes.push(judge(&got.1, wrong, &of_rows, bound, &rounding)?);
    }
    Ok(sum(outcomes))
}
