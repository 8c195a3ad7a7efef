//! Cases of `unfold`; broken variant: pictures with lines and widths exchanged, or where that changes nothing other pixels.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::unfold::{reference, unfold};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, line, sum, twice, where_bindings_end,
    with_small_bindings,
};

/// Sizes of packed pictures, and channels.
type Shape = (&'static [[u32; 2]], usize);

/// What its transpose is tested on, too: no pixels, single ones and lines, and rows of fewer and more units than a block has
/// threads.
pub const SHAPES: [Shape; 8] = [
    (&[], 8),
    (&[[0, 3], [2, 0]], 16),
    (&[[1, 1]], 8),
    (&[[1, 9], [7, 1], [2, 2]], 72),
    (&[[5, 3], [0, 4], [1, 1], [1, 6], [40, 2]], 128),
    (&[[3, 300], [31, 33]], 8),
    (&[[4, 4], [10, 12]], 256),
    (&[[2, 3]], 2056),
];

pub fn cases() -> Vec<Case> {
    let case = |(sizes, c): Shape| Case {
        op: "unfold",
        name: format!("sizes={sizes:?},c={c}"),
        on: anywhere,
        run: Box::new(move |device| both(device, sizes, c)),
    };
    let mut cases: Vec<Case> = SHAPES.map(case).into();
    cases.push(Case {
        op: "unfold",
        name: "more than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| one::<f32>(device, &[[500, 600]], 8)),
    });
    cases.push(Case {
        op: "unfold",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            with_small_bindings(device, |small| both(small, &[[30, 20], [25, 30]], 8))
        }),
    });
    cases
}

/// Pictures of the transposed sizes, if those are others.
pub fn transposed(sizes: &[[u32; 2]]) -> Option<Vec<[u32; 2]>> {
    let others = sizes.iter().any(|&[h, w]| h != w && h > 1 && w > 1);
    others.then(|| sizes.iter().map(|&[h, w]| [w, h]).collect())
}

fn both(device: &Device, sizes: &[[u32; 2]], c: usize) -> Result<Outcome, String> {
    Ok(sum([
        one::<f16>(device, sizes, c)?,
        one::<f32>(device, sizes, c)?,
    ]))
}

fn one<T: Float + Default>(
    device: &Device,
    sizes: &[[u32; 2]],
    c: usize,
) -> Result<Outcome, String> {
    let r = sizes.iter().map(|&[h, w]| (h * w) as usize).sum::<usize>();
    let mut random = Noise::new(r * 23 + c);
    // Any bits at all: NaN and subnormal numbers among them.
    let words: Vec<u64> = (0..(r * c * size_of::<T>()).div_ceil(8))
        .map(|_| random.bits())
        .collect();
    let x = bytemuck::cast_slice::<u64, T>(&words)[..r * c].to_vec();
    let run = |poison, sizes: &[[u32; 2]], x: &[T]| {
        let pictures = Pictures::new(device, sizes)?;
        let mut out = Output::<T>::new(device, r * 9 * c, poison)?;
        unfold(&device.upload(x)?, c, &pictures, out.target())?;
        out.read()
    };
    let want = reference(&x, c, sizes);
    let bits = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
    let same = |got: &[T]| bits(got) == bits(&want);
    if !same(&twice(|poison| run(poison, sizes, &x))?) {
        return Err("other bits".into());
    }
    let mut outcome = Outcome {
        elements: want.len() as u64,
        ..Outcome::default()
    };
    if r > 0 {
        let broken = match transposed(sizes) {
            Some(others) => run(POISONS[0], &others, &x),
            None => {
                let mut others = x.clone();
                others[(r - 1) * c..].fill(T::from_f32(1.0));
                run(POISONS[0], sizes, &others)
            }
        };
        if same(&broken.map_err(line)?) {
            return Err("the broken variant passes: the test cannot fail".into());
        }
        outcome.rejected = 1;
    }
    Ok(outcome)
}
