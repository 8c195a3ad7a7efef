//! Cases of `scatter_rows`; broken variant: the last row goes to the place of the first, and the first to its.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::Places;
use nearmiss::ops::scatter_rows::{reference, scatter_rows};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, line, sum, twice, where_bindings_end,
    with_small_bindings,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let sizes = [
        (0, 0),
        (0, 5),
        (1, 1),
        (31, 31),
        (33, 40),
        (127, 257),
        (1023, 1100),
    ];
    // Rows of one unit, of a part of a block, and of more than a block has threads.
    for (n, m) in sizes {
        for d in [8, 72, 384, 4104] {
            if n * d > 500_000 {
                continue;
            }
            cases.push(Case {
                op: "scatter_rows",
                name: format!("n={n},m={m},d={d}"),
                on: anywhere,
                run: Box::new(move |device| both(device, n, m, d)),
            });
        }
    }
    cases.push(Case {
        op: "scatter_rows",
        name: "more than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| case::<f16>(device, 65_600, 65_601, 512)),
    });
    cases.push(Case {
        op: "scatter_rows",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| with_small_bindings(device, |small| both(small, 200, 1500, 64))),
    });
    cases
}

fn both(device: &Device, n: usize, m: usize, d: usize) -> Result<Outcome, String> {
    Ok(sum([
        case::<f16>(device, n, m, d)?,
        case::<f32>(device, n, m, d)?,
    ]))
}

/// Any bits at all: NaN and subnormal numbers among them.
fn noise<T: Float>(noise: &mut Noise, len: usize) -> Vec<T> {
    let words = (len * size_of::<T>()).div_ceil(8);
    let words: Vec<u64> = (0..words).map(|_| noise.bits()).collect();
    bytemuck::cast_slice(&words)[..len].to_vec()
}

fn case<T: Float>(device: &Device, n: usize, m: usize, d: usize) -> Result<Outcome, String> {
    let mut random = Noise::new(n * 17 + d);
    let (x, before) = (
        noise::<T>(&mut random, n * d),
        noise::<T>(&mut random, m * d),
    );
    let mut order: Vec<u32> = (0..m as u32).collect();
    for i in (1..m).rev() {
        order.swap(i, random.below(i + 1));
    }
    // First every row of the output, then some of them: what is not named stays.
    let run = |poison, places: &[u32]| {
        let mut out = Output::<T>::new(device, m * d, poison)?;
        let all: Vec<u32> = (0..m as u32).collect();
        let all = Places::new(device, &all)?;
        scatter_rows(&device.upload(&before)?, d, &all, out.target())?;
        let places = Places::new(device, places)?;
        scatter_rows(&device.upload(&x)?, d, &places, out.target())?;
        out.read()
    };
    let places = &order[..n];
    let want = reference(&x, d, places, &before);
    let bits = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
    let same = |got: &[T]| bits(got) == bits(&want);
    if !same(&twice(|poison| run(poison, places))?) {
        return Err("other bits".into());
    }
    let mut outcome = Outcome {
        elements: want.len() as u64,
        ..Outcome::default()
    };
    if n > 1 {
        let mut wrong = places.to_vec();
        wrong.swap(0, n - 1);
        if same(&run(POISONS[0], &wrong).map_err(line)?) {
            return Err("the broken variant passes: the test cannot fail".into());
        }
        outcome.rejected = 1;
    }
    Ok(outcome)
}
