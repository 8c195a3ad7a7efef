//! Cases of `max_pool`; broken variant: the lower line of each square is taken for the upper one.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::max_pool::{error_bound, max_pool, reference};

use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, twice, where_bindings_end, with_small_bindings, with_type,
};

/// Lines and pixels of a line of each picture, and channels: units of a part of a block, and more than a block has threads.
type Shape = (&'static [[u32; 2]], usize);

/// What the gradient is tested on, too.
pub const SHAPES: [Shape; 10] = [
    (&[], 8),
    (&[[0, 4]], 8),
    (&[[2, 2]], 8),
    (&[[2, 2]], 128),
    (&[[4, 2], [0, 4], [2, 6], [30, 34]], 8),
    (&[[4, 2], [0, 4], [2, 6], [30, 34]], 72),
    (&[[16, 16], [2, 2], [14, 10]], 128),
    (&[[16, 16], [2, 2], [14, 10]], 256),
    (&[[2, 4], [4, 2]], 2056),
    (&[[2, 4], [4, 2]], 4104),
];

/// More squares than a binding of 64 KiB holds, in pictures of all sorts.
pub const LARGE: Shape = (&[[2, 40], [64, 2], [36, 38], [20, 40], [2, 2]], 16);

pub fn cases() -> Vec<Case> {
    let case = |(sizes, c): Shape| Case {
        op: "max_pool",
        name: format!("{sizes:?},c={c}"),
        on: anywhere,
        run: Box::new(move |device| all(device, sizes, c)),
    };
    let mut cases: Vec<Case> = SHAPES.into_iter().map(case).collect();
    cases.push(Case {
        op: "max_pool",
        name: "more than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| one::<f16>(device, &[[364, 362]], 512)),
    });
    cases.push(Case {
        op: "max_pool",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| with_small_bindings(device, |small| all(small, LARGE.0, LARGE.1))),
    });
    cases
}

fn all(device: &Device, sizes: &[[u32; 2]], c: usize) -> Result<Outcome, String> {
    each(
        activations(device),
        |element| with_type!(element, A => one::<A>(device, sizes, c)),
    )
}

/// Pixels, factors and summands. In every third channel many pixels are equal; in two channels, whose factor is 0, all.
pub fn inputs(sizes: &[[u32; 2]], c: usize) -> [Vec<f32>; 3] {
    let pixels = sizes.iter().map(|[lines, width]| (lines * width) as usize);
    let r: usize = pixels.sum();
    let mut noise = Noise::new(r * 31 + c);
    let mut x = noise.normal(r * c, 1.0);
    for channel in x.chunks_mut(c).flat_map(|row| row.iter_mut().step_by(3)) {
        *channel = channel.round();
    }
    // More bits than an f16 has, so that a sum is rounded.
    let [mut scale, mut shift] = [noise.normal(c, 1.0), noise.normal(c, 0.5)];
    scale.iter_mut().chain(&mut shift).for_each(|v| *v /= 3.0);
    (scale[1], scale[2]) = (0.0, 0.0);
    (shift[1], shift[2]) = (0.3, 0.0);
    [x, scale, shift]
}

/// Each square's upper line in the place of its lower one, too.
pub fn upper_lines(x: &[f32], sizes: &[[u32; 2]], c: usize) -> Vec<f32> {
    let (mut x, mut first) = (x.to_vec(), 0);
    for &[lines, width] in sizes {
        let line = width as usize * c;
        for _ in 0..lines / 2 {
            x.copy_within(first..first + line, first + line);
            first += 2 * line;
        }
    }
    x
}

fn one<A: Float>(device: &Device, sizes: &[[u32; 2]], c: usize) -> Result<Outcome, String> {
    let [x, scale, shift] = inputs(sizes, c);
    let run = |poison, x: &[f32]| {
        let pictures = Pictures::new(device, sizes)?;
        let mut y = Output::<A>::new(device, x.len() / 4, poison)?;
        let x = device.upload(&cast::<A>(x))?;
        let (scale, shift) = (device.upload(&scale)?, device.upload(&shift)?);
        max_pool(&x, &scale, &shift, &pictures, y.target())?;
        y.read()
    };
    let got = twice(|poison| run(poison, &x))?;
    let broken = (!x.is_empty()).then(|| run(POISONS[0], &upper_lines(&x, sizes, c)));
    let broken = broken.transpose().map_err(line)?;
    let want = reference::<f64>(&x, &scale, &shift, sizes);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&x, &scale, &shift, sizes, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
