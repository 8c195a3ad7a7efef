//! Cases of `max_pool_backward`; broken variant: the lower line of each square is taken for the upper one.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::max_pool_backward::{error_bound, max_pool_backward, reference};

use super::max_pool::{LARGE, SHAPES, inputs, upper_lines};
use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    rounding, twice, where_bindings_end, with_small_bindings, with_type,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (sizes, c) in SHAPES {
        cases.push(Case {
            op: "max_pool_backward",
            name: format!("{sizes:?},c={c}"),
            on: anywhere,
            run: Box::new(move |device| all(device, sizes, c)),
        });
    }
    cases.push(Case {
        op: "max_pool_backward",
        name: "more than a grid has places in one dimension".into(),
        on: where_bindings_end,
        run: Box::new(|device| one::<f16>(device, &[[364, 362]], 512)),
    });
    cases.push(Case {
        op: "max_pool_backward",
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

fn one<A: Float>(device: &Device, sizes: &[[u32; 2]], c: usize) -> Result<Outcome, String> {
    let [x, scale, shift] = inputs(sizes, c);
    let d_y = Noise::new(x.len() + c).normal(x.len() / 4, 1.0);
    let run = |poison, x: &[f32]| {
        let pictures = Pictures::new(device, sizes)?;
        let mut d_pre = Output::<A>::new(device, x.len(), poison)?;
        let (x, d_y) = (
            device.upload(&cast::<A>(x))?,
            device.upload(&cast::<A>(&d_y))?,
        );
        let (scale, shift) = (device.upload(&scale)?, device.upload(&shift)?);
        max_pool_backward(&x, &scale, &shift, &pictures, &d_y, d_pre.target())?;
        d_pre.read()
    };
    let got = twice(|poison| run(poison, &x))?;
    let broken = (!x.is_empty()).then(|| run(POISONS[0], &upper_lines(&x, sizes, c)));
    let broken = broken.transpose().map_err(line)?;
    let want = reference::<f64>(&x, &scale, &shift, sizes, &d_y);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&x, &scale, &shift, sizes, &d_y, bytes, &rounding);
    // Nearly every winner is the same on all devices, and its gradient has no error.
    let open = bound(size_of::<A>()).iter().filter(|&&b| b > 0.0).count();
    if open * 1000 > want.len() {
        return Err(format!("{open} of {} elements are left open", want.len()));
    }
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
