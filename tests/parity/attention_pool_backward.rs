//! Cases of `attention_pool_backward`; broken variant: another mask; without dropout, the gradient of every second column
//! left out.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::attention_pool::reference as forward;
use nearmiss::ops::attention_pool_backward::{
    Forward, attention_pool_backward, error_bound, reference,
};
use nearmiss::ops::dropout::{Mask, Site};
use nearmiss::ops::{Origins, PackedTexts};

use super::attention::{numbers_of, offsets_of};
use super::attention_pool::{SHAPES, other_numbers};
use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, sum, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    let case = |(lengths, d, size, rate)| Case {
        op: "attention_pool_backward",
        name: format!("lengths={lengths:?},d={d},size={size},rate={rate}"),
        on: anywhere,
        run: Box::new(move |device| {
            each(
                activations(device),
                |element| with_type!(element, A => one::<A>(device, lengths, d, size, rate)),
            )
        }),
    };
    SHAPES.map(case).into()
}

fn one<A: Float>(
    device: &Device,
    lengths: &[usize],
    d: usize,
    size: f32,
    rate: f32,
) -> Result<Outcome, String> {
    let (offsets, numbers) = (offsets_of(lengths), numbers_of(lengths));
    let (n, t) = (lengths.len(), lengths.iter().sum::<usize>());
    let mut noise = Noise::new(t * 47 + d);
    let (queries, rows) = (noise.normal(n * d, size), noise.normal(t * d, size));
    let d_out = noise.normal(n * (d + 8), 1.0);
    let scale = 1.0 / (d as f32).sqrt();
    let mask = Mask::new(rate, 7, 3, 1, Site::Probabilities);
    let dropped = (rate > 0.0).then_some((mask, &numbers[..]));
    // What a forward would have given, as far as the element type holds it.
    let (_, p) = forward::<f64, _>(&queries, &rows, &offsets, d, scale, dropped);
    let p: Vec<f32> = p.into_iter().map(|p| p as f32).collect();
    let run = |poison, d_out: &[f32], numbers: &[u32]| {
        let texts = PackedTexts::new(device, offsets.clone())?;
        let origins = Origins::new(&texts, numbers)?;
        let (queries, rows) = (
            device.upload(&cast::<A>(&queries))?,
            device.upload(&cast::<A>(&rows))?,
        );
        let probabilities = device.upload(&p)?;
        let forward = Forward {
            queries: queries.as_slice(),
            rows: rows.as_slice(),
            texts: &texts,
            d,
            scale,
            mask: (rate > 0.0).then_some((mask, &origins)),
            probabilities: probabilities.as_slice(),
        };
        let mut d_queries = Output::<A>::new(device, n * d, poison)?;
        let mut d_rows = Output::<f32>::new(device, t * d, poison)?;
        attention_pool_backward(
            &forward,
            &device.upload(&cast::<A>(d_out))?,
            d_queries.target(),
            d_rows.target(),
        )?;
        Ok((d_queries.read()?, d_rows.read()?))
    };
    let got = twice(|poison| run(poison, &d_out, &numbers))?;
    let broken = if t == 0 {
        None
    } else if rate > 0.0 {
        let other = other_numbers(mask, &offsets, &numbers);
        Some(run(POISONS[0], &d_out, &other))
    } else {
        let mut wrong = d_out.clone();
        wrong.iter_mut().step_by(2).for_each(|g| *g = 0.0);
        Some(run(POISONS[0], &wrong, &numbers))
    };
    let broken = broken.transpose().map_err(line)?;
    let [want_queries, want_rows] =
        reference::<f64, _>(&queries, &rows, &offsets, d, scale, dropped, &p, &d_out);
    let rounding = rounding(device);
    let bound = |bytes| {
        error_bound(
            &queries, &rows, &offsets, d, scale, dropped, &p, &d_out, bytes, &rounding,
        )
    };
    // A row by itself has a weight of 1 whatever the query is.
    let moves = lengths.iter().any(|&l| l > 1);
    let wrong = broken.as_ref().filter(|_| moves).map(|b| &b.0[..]);
    let of_queries = |bytes| {
        let [bound, _] = bound(bytes);
        bound
    };
    let of_rows = |bytes| {
        let [_, bound] = bound(bytes);
        bound
    };
    let wrong_rows = broken.as_ref().map(|b| &b.1[..]);
    Ok(sum([
        judge(&got.0, wrong, &want_queries, of_queries, &rounding)?,
        judge(&got.1, wrong_rows, &want_rows, of_rows, &rounding)?,
    ]))
}
