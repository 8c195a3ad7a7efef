//! `d_pre = d_y` at the pixel of a square with the largest `scale x + shift`, if that is above 0, else 0
//!
//! The gradient of [`mod@super::max_pool`] in `scale x + shift`, which is computed again. Of equal pixels the first one,
//! line by line, gets all. Every element of `d_pre` is written. Cost: about `3 r c` operations against `9 / 4 r c`
//! elements: memory bound everywhere.
//! Comes after [`mod@super::fold`] or [`mod@super::weighted_pool_backward`]; before [`mod@super::batch_norm_backward`],
//! which takes `d_pre` as it is.
//!
//! Numerics: sums as in the forward, which decide; what is written has the bits of `d_y`. Equal pixels have equal sums on
//! every device. Where two pixels, or one and 0, are closer than a rounding, devices may decide otherwise.

use multiversion::multiversion;
use rayon::prelude::*;

use super::max_pool::{affine, squares};
use super::{Accum, FLOATS, OpSpec, Pictures, Rounding, grid, in_every_tier};
use crate::device::template::{Source, Variant};
use crate::device::{
    Call, Cost, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target,
};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "max_pool_backward",
    formula: "d_pre = d_y where scale x + shift is the largest of its square and above 0, else 0",
    kernels: &[MAX_POOL_BACKWARD],
    ptx: MAX_POOL_BACKWARD.ptx,
    ptx_variants: variants,
    wgsl: MAX_POOL_BACKWARD.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const MAX_POOL_BACKWARD: Kernel = Kernel {
    entry: "max_pool_backward",
    params: &[
        Param::read("x"),
        Param::read("scale"),
        Param::read("shift"),
        Param::read("squares"),
        Param::read("d_y"),
        Param::write("d_pre"),
        Param::u32("n"),
        Param::u32("c"),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::u32("first_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "max_pool_backward.ptx",
        text: include_str!("../../kernels/max_pool_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "max_pool_backward.wgsl",
        text: include_str!("../../shaders/max_pool_backward.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

/// Bytes that a thread of the PTX kernel takes of a pixel at a time.
const UNIT: usize = 16;

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
        Target::Gpu(on) => gpu(on, x, [scale, shift], pictures, squares, d_y, d_pre),
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

/// How far the gradients, stored with `bytes` bytes, may be off. With every sum `s` between `s - e` and `s + e` (see
/// [`affine`]), a pixel surely gets nothing if its `s + e` is not above 0 or below the `s - e` of another, or if it is equal
/// to an earlier one; it surely gets all if its `s - e` is above 0 and the `s + e` of all others but later ones that are
/// equal. Then nothing is rounded, and only what is subnormal may be flushed. A pixel between may get all or nothing.
#[doc(hidden)]
pub fn error_bound(
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    sizes: &[[u32; 2]],
    d_y: &[f32],
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let c = scale.len();
    let normal = match bytes {
        2 => rounding.tiny,
        _ => f64::from(f32::MIN_POSITIVE),
    };
    let mut bounds = vec![0.0; x.len()];
    for (rows, d_y) in squares(sizes).into_iter().zip(d_y.chunks_exact(c)) {
        for i in 0..c {
            let pixels = rows.map(|row| x[row * c + i]);
            let sums = pixels.map(|x| affine(x, scale[i], shift[i], rounding));
            let (least, most) = (sums.map(|(s, e)| s - e), sums.map(|(s, e)| s + e));
            let equal = |j: usize, k: usize| pixels[j] == pixels[k] || scale[i] == 0.0;
            let size = f64::from(d_y[i]).abs();
            for (k, row) in rows.into_iter().enumerate() {
                let loses = most[k] <= 0.0
                    || (0..4).any(|j| least[j] > most[k])
                    || (0..k).any(|j| equal(j, k));
                let beaten = |j: usize| most[j] < least[k] || j > k && equal(j, k);
                let wins = least[k] > 0.0 && (0..4).all(|j| j == k || beaten(j));
                let open = !loses && !wins;
                bounds[row * c + i] = if open || size < normal { size } else { 0.0 };
            }
        }
    }
    bounds
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

fn variant(act: ElementType) -> Variant {
    Variant::new().with("act", act.name())
}

fn variants() -> Vec<Variant> {
    FLOATS.map(variant).into()
}

fn gpu<A: Float>(
    gpu: Gpu<'_>,
    x: Slice<'_, A>,
    [scale, shift]: [Slice<'_, f32>; 2],
    pictures: &Pictures,
    squares: Slice<'_, u32>,
    d_y: Slice<'_, A>,
    mut d_pre: SliceMut<'_, A>,
) -> Result<()> {
    let c = scale.len();
    // Short pixels share a block of the PTX kernel.
    let width = (c * size_of::<A>() / UNIT).min(BLOCK);
    let at_once = BLOCK / width;
    for (these, rows) in pictures.square_turns(gpu, c * size_of::<A>()) {
        let n = these.len();
        gpu.call(&Call {
            kernel: &MAX_POOL_BACKWARD,
            variant: variant(A::TYPE),
            args: &[
                x.slice(rows.start * c..rows.end * c).into(),
                scale.into(),
                shift.into(),
                squares.slice(2 * these.start..2 * these.end).into(),
                d_y.slice(these.start * c..these.end * c).into(),
                (&mut d_pre.slice_mut(rows.start * c..rows.end * c)).into(),
                n.into(),
                c.into(),
                width.into(),
                at_once.into(),
                rows.start.into(),
            ],
            geometry: Geometry {
                groups: grid((n * c / 4).div_ceil(64)),
                grid: [n.div_ceil(at_once) as u32, 1, 1],
                threads: (width * at_once) as u32,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
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
