//! Cases of `fold`; broken variant: pictures with lines and widths exchanged, or where that changes nothing the gradient of
//! the last pixel in reverse.

use half::f16;
use nearmiss::device::{Device, Float};
use nearmiss::ops::Pictures;
use nearmiss::ops::fold::{error_bound, fold, reference};

use super::unfold::{SHAPES, transposed};
use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, judge, line, rounding, sum, twice,
    where_bindings_end, with_small_bindings,
};

pub fn cases() -> Vec<Case> {
    let case = |(sizes, c)| Case {
        op: "fold",
        name: format!("sizes={sizes:?},c={c}"),
        on: anywhere,
        run: Box::new(move |device| {
            Ok(sum([
                one::<f16>(device, sizes, c)?,
                one::<f32>(device, sizes, c)?,
            ]))
        }),
    };
    let mut cases: Vec<Case> = SHAPES.map(case).into();
    cases.push(Case {
        op: "fold",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            with_small_bindings(device, |small| {
                one::<f16>(small, &[[30, 20], [25, 30], [2, 100]], 8)
            })
        }),
    });
    cases
}

fn one<T: Float>(device: &Device, sizes: &[[u32; 2]], c: usize) -> Result<Outcome, String> {
    let r = sizes.iter().map(|&[h, w]| (h * w) as usize).sum::<usize>();
    let mut noise = Noise::new(r * 29 + c);
    let d_out = noise.normal(r * 9 * c, 1.0);
    let run = |poison, sizes: &[[u32; 2]], d_out: &[f32]| {
        let pictures = Pictures::new(device, sizes)?;
        let mut dx = Output::<T>::new(device, r * c, poison)?;
        let d_out = device.upload(&cast::<T>(d_out))?;
        fold(&d_out, c, &pictures, dx.target())?;
        dx.read()
    };
    let got = twice(|poison| run(poison, sizes, &d_out))?;
    let broken = if r == 0 {
        None
    } else if let Some(others) = transposed(sizes) {
        Some(run(POISONS[0], &others, &d_out))
    } else {
        let mut wrong = d_out.clone();
        wrong[(r - 1) * 9 * c..].reverse();
        Some(run(POISONS[0], sizes, &wrong))
    };
    let broken = broken.transpose().map_err(line)?;
    let want = reference::<f64>(&d_out, c, sizes);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&d_out, c, sizes, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
