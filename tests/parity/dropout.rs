//! Cases of `dropout`; broken variant: the texts' numbers exchanged. Masks are held to the reference exactly: an element
//! that is dropped has a bound of 0, and one that stays is not 0.

use half::f16;
use nearmiss::device::{ElementType, Float};
use nearmiss::ops::dropout::{Mask, Site, dropout, error_bound, reference};
use nearmiss::ops::{Origins, PackedTexts};
use nearmiss::{Device, Error};

use super::attention::{numbers_of, offsets_of};
use super::{
    Case, Noise, Outcome, POISONS, anywhere, cast, each, filled, inside, judge, line, rounding,
    twice, where_bindings_end, with_small_bindings, with_type,
};

/// Dropout is no product: every device has it for both element types.
const BOTH: [ElementType; 2] = [ElementType::F16, ElementType::F32];

pub fn cases() -> Vec<Case> {
    let table: [(&[usize], usize, f32); 8] = [
        (&[], 8, 0.1),
        (&[1], 8, 0.5),
        (&[31, 1, 0, 33], 384, 0.1),
        (&[31, 1, 0, 33], 384, 0.0),
        (&[17, 2], 72, 0.9),
        (&[127, 5, 64], 1536, 0.1),
        (&[3, 1], 4104, 0.25),
        // More rows than a grid has places in one dimension.
        (&[66_000], 8, 0.1),
    ];
    let case = |(lengths, d, rate): (&[usize], usize, f32)| {
        let lengths = lengths.to_vec();
        Case {
            op: "dropout",
            name: format!("lengths={lengths:?},d={d},rate={rate}"),
            on: anywhere,
            run: Box::new(move |device| {
                each(
                    &BOTH,
                    |element| with_type!(element, A => one::<A>(device, &lengths, d, rate)),
                )
            }),
        }
    };
    let mut cases: Vec<Case> = table.map(case).into();
    cases.push(Case {
        op: "dropout",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            with_small_bindings(device, |small| one::<f16>(small, &[300, 7], 384, 0.1))
        }),
    });
    cases
}

/// Memory with guards, as of an output (see [`inside`]), that holds values when the operator begins.
fn guarded<T: Float>(values: &[T]) -> Vec<T> {
    let guard = guard::<T>();
    let mut all = filled::<T>(values.len() + 2 * guard, POISONS[0]);
    all[guard..guard + values.len()].copy_from_slice(values);
    all
}

fn guard<T>() -> usize {
    256 / size_of::<T>()
}

fn one<A: Float>(
    device: &Device,
    lengths: &[usize],
    d: usize,
    rate: f32,
) -> Result<Outcome, String> {
    let (offsets, numbers) = (offsets_of(lengths), numbers_of(lengths));
    let t = *offsets.last().expect("never empty") as usize;
    let mut noise = Noise::new(t * 41 + d);
    let mut x = noise.normal(t * d, 1.0);
    // No element is 0 by itself, so that a 0 shows that it was dropped.
    x.iter_mut().filter(|v| **v == 0.0).for_each(|v| *v = 1.0);
    let mask = Mask::new(rate, 7, 3, 1, Site::AttentionOutput);
    let run = |numbers: &[u32]| {
        let packing = PackedTexts::new(device, offsets.clone())?;
        let origins = Origins::new(&packing, numbers)?;
        let mut all = device.upload(&guarded(&cast::<A>(&x)))?;
        let mut view = all.as_slice_mut();
        let elements = guard::<A>()..guard::<A>() + t * d;
        dropout(view.slice_mut(elements), d, mask, &origins)?;
        inside(&all.read()?, POISONS[0]).map_err(Error::Invalid)
    };
    // What it writes is what it reads: there is nothing to poison.
    let got = twice(|_| run(&numbers))?;
    let want = reference::<f64>(&x, d, mask, &offsets, &numbers);
    for (got, want) in got.iter().zip(&want) {
        if (got.to_f32() == 0.0) != (*want == 0.0) {
            return Err("another mask".into());
        }
    }
    let broken = if t > 0 && rate > 0.0 {
        let other: Vec<u32> = numbers.iter().map(|n| n + 1).collect();
        Some(run(&other).map_err(line)?)
    } else {
        None
    };
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&want, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
