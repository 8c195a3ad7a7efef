//! Cases of `relu`; broken variant: another gate of the last element.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::relu::{reference, relu};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, line, sum, twice, where_bindings_end,
    with_small_bindings,
};

pub fn cases() -> Vec<Case> {
    let case = |n: usize| Case {
        op: "relu",
        name: format!("n={n}"),
        on: anywhere,
        run: Box::new(move |device| all(device, n)),
    };
    let mut cases: Vec<Case> = [0, 8, 2040, 2048, 2056, 100_008].map(case).into();
    cases.push(Case {
        op: "relu",
        name: "more than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| one::<f16>(device, 65_600 * 512, false)),
    });
    cases.push(Case {
        op: "relu",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| with_small_bindings(device, |small| all(small, 80_000))),
    });
    cases
}

fn all(device: &Device, n: usize) -> Result<Outcome, String> {
    Ok(sum([
        one::<f16>(device, n, false)?,
        one::<f16>(device, n, true)?,
        one::<f32>(device, n, false)?,
        one::<f32>(device, n, true)?,
    ]))
}

/// Any bits at all, NaN and subnormal numbers among them; and first what is close to 0 or to a NaN.
fn bits<T: Float>(noise: &mut Noise, len: usize) -> Vec<T> {
    let words = (len * size_of::<T>()).div_ceil(8);
    let mut words: Vec<u64> = (0..words).map(|_| noise.bits()).collect();
    let edges: [u64; 5] = match size_of::<T>() {
        2 => [
            0x0001_0000_8000_8001,
            0x7c00_7c01_7e00_7fff,
            0xfc00_fc01_fe00_ffff,
            0x7bff_0400_03ff_8400,
            0x3c00_bc00_3c01_fbff,
        ],
        _ => [
            0x0000_0001_0000_0000,
            0x8000_0000_8000_0001,
            0x7f80_0000_7f80_0001,
            0xff80_0000_ffff_ffff,
            0x3f80_0000_0080_0000,
        ],
    };
    words.iter_mut().zip(edges).for_each(|(w, edge)| *w = edge);
    bytemuck::cast_slice(&words)[..len].to_vec()
}

fn one<T: Float>(device: &Device, n: usize, gated: bool) -> Result<Outcome, String> {
    let mut noise = Noise::new(n);
    let (before, gate) = (bits::<T>(&mut noise, n), bits::<T>(&mut noise, n));
    // Beside each kind of gate all kinds of numbers.
    let gate: Vec<T> = (0..n).map(|i| gate[(i + i / 64) % n]).collect();
    let run = |poison, x: &[T], gate: &[T]| {
        let mut x = Output::holding(device, x, poison)?;
        let gate = gated.then(|| device.upload(gate)).transpose()?;
        relu(x.target(), gate.as_ref().map(|gate| gate.as_slice()))?;
        x.read()
    };
    let want = reference(&before, gated.then_some(&gate[..]));
    let bytes = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
    let same = |got: &[T]| bytes(got) == bytes(&want);
    if !same(&twice(|poison| run(poison, &before, &gate))?) {
        return Err("other bits".into());
    }
    let mut outcome = Outcome {
        elements: want.len() as u64,
        ..Outcome::default()
    };
    if n > 0 {
        // The last element is a number that is not 0, with a gate or by itself.
        let last = |values: &[T], to: f32| {
            let mut values = values.to_vec();
            values[n - 1] = T::from_f32(to);
            values
        };
        let (opened, closed) = if gated {
            let x = last(&before, 1.0);
            let run = |to| run(POISONS[0], &x, &last(&gate, to)).map_err(line);
            (run(1.0)?, run(-1.0)?)
        } else {
            let run = |to| run(POISONS[0], &last(&before, to), &gate).map_err(line);
            (run(1.0)?, run(-1.0)?)
        };
        if opened[n - 1].to_f32() != 1.0 || closed[n - 1].to_f32() != 0.0 {
            return Err("a gate neither opens nor closes".into());
        }
        if same(&opened) && same(&closed) {
            return Err("the broken variant passes: the test cannot fail".into());
        }
        outcome.rejected = 1;
    }
    Ok(outcome)
}
