//! `d_pre = d_y` at the pixel of a square with the largest `scale x + shift`, if that is above 0, else 0
//!
//! The gradient of [`mod@super::max_pool`] in `scale x + shift`, which is computed again. Of equal pixels the first one,
//! line by line, gets all. Every element of `d_pre` is written. Cost: about `3 r c` operations against `9 / 4 r c`
//! elements: memory bound everywhere.
//! Comes after [`mod@super::fold`] or [`mod@super::weighted_pool_backward`]; before [`mod@super::batch_norm_backward`],
//! which takes `d_pre` as it is.

use multiversion::multiversion;
use rayon::prelude::*;

use super::max_pool::squares;
use super::{Accum, OpSpec, Pictures};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "max_pool_backward",
    formula: "d_pre = d_y where scale x + shift is the largest of its square and above 0, else 0",
    kernels: &[],
    ptx: None,
    ptx_variants: Vec::new,
    wgsl: None,
    wgsl_variants: Vec::new,
};

/// From `d_y` `[r / 4, c]`, the gradient in the result of [`max_pool`](super::max_pool()) with the same `x` `[r, c]`,
/// `scale`, `shift` `[c]` and `pictures`, writes that in `scale x + shift` to `d_pre` `[r, c]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`c` a multiple of 8) or an odd side.
///
/// ```
/// use nearmiss::{Device, ops::{Pictures, max_pool_backward}};
/// let cpu = Device::cpu();
/// let pictures = Pictures::new(&cpu, &[[2, 2]])?;
/// let x = cpu.upload(&[[1.0f32; 8], [4.0; 8], [4.0; 8], [2.0; 8]].concat())?;
/// let (scale, shift) = (cpu.upload(&[2.0f32; 8])?, cpu.upload(&[-1.0f32; 8])?);
/// let d_y = cpu.upload(&[5.0f32; 8])?;
/// let mut d_pre = cpu.alloc::<f32>(32)?;
/// max_pool_backward(&x, &scale, &shift, &pictures, &d_y, &mut d_pre)?;
/// assert_eq!(d_pre.read()?, [[0.0; 8], [5.0; 8], [0.0; 8], [0.0; 8]].concat());
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn max_pool_backward<'a, A: Float>(
    x: impl Into<Slice<'a, A>>,
    scale: impl Into<Slice<'a, f32>>,
    shift: impl Into<Slice<'a, f32>>,
    pictures: &Pictures,
    d_y: impl Into<Slice<'a, A>>,
    d_pre: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    let (x, scale, shift) = (x.into(), scale.into(), shift.into());
    let (d_y, mut d_pre) = (d_y.into(), d_pre.into());
    let device = d_pre.device();
    let check = SPEC.checks(device);
    let c = scale.len();
    check.width("scale", c)?;
    let r = pictures.pixels().tokens();
    let squares = pictures.squares(SPEC.name)?;
    check.holds("pictures", &squares, r / 2)?;
    check.holds("x", &x, r * c)?;
    check.holds("scale", &scale, c)?;
    check.holds("shift", &shift, c)?;
    check.holds("d_y", &d_y, r / 4 * c)?;
    check.holds("d_pre", &d_pre, r * c)?;
    let cost = Cost {
        flop: (3 * r * c) as u64,
        bytes: (9 * (r / 4) * c * size_of::<A>() + 2 * r + 8 * c) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let affine = [scale.host(), shift.host()];
            cpu(x.host(), affine, pictures.sizes(), d_y.host(), d_pre.host());
            Ok(())
        }
        Target::Gpu(_) => Err(SPEC.unsupported(device, "it has no kernel")),
    })
}

/// The definition, in loops; result `[r, c]`. `sizes` are lines and pixels of a line of each picture.
#[doc(hidden)]
pub fn reference<A: Accum>(
    x: &[impl Copy + Into<f64>],
    scale: &[impl Copy + Into<f64>],
    shift: &[impl Copy + Into<f64>],
    sizes: &[[u32; 2]],
    d_y: &[impl Copy + Into<f64>],
) -> Vec<A> {
    let c = scale.len();
    let mut d_pre = vec![A::of(0.0); x.len()];
    for (rows, d_y) in squares(sizes).into_iter().zip(d_y.chunks_exact(c)) {
        for i in 0..c {
            let (mut max, mut winner) = (A::of(0.0), None);
            for row in rows {
                let x = A::of(x[row * c + i].into());
                let pre = A::of(scale[i].into()) * x + A::of(shift[i].into());
                if pre > max {
                    (max, winner) = (pre, Some(row));
                }
            }
            if let Some(row) = winner {
                d_pre[row * c + i] = A::of(d_y[i].into());
            }
        }
    }
    d_pre
}

fn cpu<A: Float>(
    x: &[A],
    [scale, shift]: [&[f32]; 2],
    sizes: &[[u32; 2]],
    d_y: &[A],
    d_pre: &mut [A],
) {
    let c = scale.len();
    // Two lines of a picture make one line of results.
    let (mut x, mut d_y, mut d_pre) = (x, d_y, d_pre);
    let mut jobs = Vec::new();
    for &[lines, width] in sizes {
        let line = width as usize * c;
        for _ in 0..lines / 2 {
            let (x_here, x_rest) = x.split_at(2 * line);
            let (d_y_here, d_y_rest) = d_y.split_at(line / 2);
            let (d_pre_here, d_pre_rest) = d_pre.split_at_mut(2 * line);
            jobs.push((x_here, d_y_here, d_pre_here));
            (x, d_y, d_pre) = (x_rest, d_y_rest, d_pre_rest);
        }
    }
    jobs.into_par_iter()
        .for_each(|(x, d_y, d_pre)| two_lines(x, scale, shift, d_y, d_pre));
}

#[multiversion(targets = "simd")]
fn two_lines<A: Float>(x: &[A], scale: &[f32], shift: &[f32], d_y: &[A], d_pre: &mut [A]) {
    let c = scale.len();
    let line = x.len() / 2;
    let zero = A::from_f32(0.0);
    for (square, d_y) in d_y.chunks_exact(c).enumerate() {
        let first = 2 * square * c;
        let rows = [first, first + c, first + line, first + line + c];
        for i in 0..c {
            let (mut max, mut winner) = (0f32, 4);
            for (which, row) in rows.into_iter().enumerate() {
                let pre = x[row + i].to_f32().mul_add(scale[i], shift[i]);
                if pre > max {
                    (max, winner) = (pre, which);
                }
            }
            for (which, row) in rows.into_iter().enumerate() {
                d_pre[row + i] = if which == winner { d_y[i] } else { zero };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::max_pool;

    #[test]
    fn central_differences_agree() {
        let sizes = [[4, 2], [0, 4], [2, 4]];
        let c = 8;
        let (d_y, scale) = (noise(4 * c, 1), noise(c, 2));
        let shift: Vec<f64> = noise(c, 3).iter().map(|s| 0.1 * s).collect();
        // No two pixels of a channel are as close as the steps of the differences.
        let x: Vec<f64> = (0..16 * c)
            .map(|i| ((i / c * 5 + i % c * 3) % 16) as f64 / 8.0 - 0.9)
            .collect();
        let d_pre = reference::<f64>(&x, &scale, &shift, &sizes, &d_y);
        let dx: Vec<f64> = d_pre
            .iter()
            .zip(scale.iter().cycle())
            .map(|(d, s)| d * s)
            .collect();
        hold("x", &x, &dx, 4 * c + 4, |x| {
            let y = max_pool::reference::<f64>(x, &scale, &shift, &sizes);
            weighted(&y, &d_y)
        });
    }

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let sizes = [[4, 2], [0, 4], [2, 2], [2, 8], [6, 10]];
        let pictures = Pictures::new(&cpu, &sizes).unwrap();
        let r = pictures.pixels().tokens();
        // Few values, so that many are equal.
        let x: Vec<f32> = noise(r * 8, 1)
            .iter()
            .map(|v| (v * 3.0).round() as f32)
            .collect();
        let d_y: Vec<f32> = (0..r * 2).map(|i| i as f32 + 1.0).collect();
        let (scale, shift) = ([1.0, -1.0, 2.0, 0.5, 1.0, -2.0, 0.0, 1.0], [0.5f32; 8]);
        let mut d_pre = cpu.upload(&vec![f32::NAN; r * 8]).unwrap();
        let [x_here, scale_here, shift_here, d_y_here] =
            [&x[..], &scale, &shift, &d_y].map(|v| cpu.upload(v).unwrap());
        max_pool_backward(
            &x_here,
            &scale_here,
            &shift_here,
            &pictures,
            &d_y_here,
            &mut d_pre,
        )
        .unwrap();
        let d_pre = d_pre.read().unwrap();
        assert_eq!(d_pre, reference::<f32>(&x, &scale, &shift, &sizes, &d_y));
        let given = |first: f32| d_pre.iter().filter(|&&d| d == first).count();
        assert!((1..=r * 2).all(|g| given(g as f32) <= 1));
    }
}
