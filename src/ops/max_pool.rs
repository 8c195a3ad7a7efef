//! `y = max over 2 x 2 pixels of relu(scale x + shift)`, scale and shift by channel
//!
//! The normalisation by [`mod@super::batch_norm`], with weight and bias folded into one factor and one summand, the
//! non-linearity and the pooling behind it in one pass: `x` is read once and a quarter is written. What was normalised is
//! not stored; [`mod@super::max_pool_backward`] computes it again. Cost: about `3 r c` operations against `5 / 4 r c`
//! elements: memory bound everywhere.
//! Comes after a convolution ([`mod@super::unfold`], [`mod@super::matmul`]) and the statistics of its result.
//!
//! Numerics: one fma per element in f32, so that the largest is known but for one rounding; WGSL may make it two.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, FLOATS, OpSpec, Pictures, Rounding, grid, in_every_tier};
use crate::device::template::{Source, Variant};
use crate::device::{
    Call, Cost, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target,
};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "max_pool",
    formula: "y = max over 2 x 2 pixels of relu(scale x + shift)",
    kernels: &[MAX_POOL],
    ptx: MAX_POOL.ptx,
    ptx_variants: variants,
    wgsl: MAX_POOL.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const MAX_POOL: Kernel = Kernel {
    entry: "max_pool",
    params: &[
        Param::read("x"),
        Param::read("scale"),
        Param::read("shift"),
        Param::read("squares"),
        Param::write("y"),
        Param::u32("n"),
        Param::u32("c"),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::u32("first_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "max_pool.ptx",
        text: include_str!("../../kernels/max_pool.ptx"),
    }),
    wgsl: Some(Source {
        file: "max_pool.wgsl",
        text: include_str!("../../shaders/max_pool.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

/// Bytes that a thread of the PTX kernel takes of a pixel at a time.
const UNIT: usize = 16;

/// Pools squares of 2 x 2 of the pixels `x` `[r, c]` of `pictures`, all sides even, into `y` `[r / 4, c]`, the pixels of
/// [`Pictures::halved`]; `scale` and `shift` are `[c]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`c` a multiple of 8) or an odd side.
///
/// ```
/// use nearmiss::{Device, ops::{Pictures, max_pool}};
/// let cpu = Device::cpu();
/// let pictures = Pictures::new(&cpu, &[[2, 2]])?;
/// let x = cpu.upload(&[[1.0f32; 8], [4.0; 8], [3.0; 8], [2.0; 8]].concat())?;
/// let (scale, shift) = (cpu.upload(&[2.0f32; 8])?, cpu.upload(&[-1.0f32; 8])?);
/// let mut y = cpu.alloc::<f32>(8)?;
/// max_pool(&x, &scale, &shift, &pictures, &mut y)?;
/// assert_eq!(y.read()?, [7.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn max_pool<'a, A: Float>(
    x: impl Into<Slice<'a, A>>,
    scale: impl Into<Slice<'a, f32>>,
    shift: impl Into<Slice<'a, f32>>,
    pictures: &Pictures,
    y: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    let (x, scale, shift, mut y) = (x.into(), scale.into(), shift.into(), y.into());
    let device = y.device();
    let check = SPEC.checks(device);
    let c = scale.len();
    check.width("scale", c)?;
    let r = pictures.pixels().tokens();
    let squares = pictures.squares(SPEC.name)?;
    check.holds("pictures", &squares, r / 2)?;
    check.holds("x", &x, r * c)?;
    check.holds("scale", &scale, c)?;
    check.holds("shift", &shift, c)?;
    check.holds("y", &y, r / 4 * c)?;
    let cost = Cost {
        flop: (3 * r * c) as u64,
        bytes: (5 * (r / 4) * c * size_of::<A>() + 2 * r + 8 * c) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(
                x.host(),
                scale.host(),
                shift.host(),
                squares.host(),
                y.host(),
            );
            Ok(())
        }
        Target::Gpu(on) => gpu(on, x, [scale, shift], pictures, squares, y),
    })
}

/// The definition, in loops; result `[r / 4, c]`. `sizes` are lines and pixels of a line of each picture.
#[doc(hidden)]
pub fn reference<A: Accum>(
    x: &[impl Copy + Into<f64>],
    scale: &[impl Copy + Into<f64>],
    shift: &[impl Copy + Into<f64>],
    sizes: &[[u32; 2]],
) -> Vec<A> {
    let c = scale.len();
    let mut y = Vec::with_capacity(x.len() / 4);
    for rows in squares(sizes) {
        for i in 0..c {
            let mut max = A::of(0.0);
            for row in rows {
                let x = A::of(x[row * c + i].into());
                let pre = A::of(scale[i].into()) * x + A::of(shift[i].into());
                max = if pre > max { pre } else { max };
            }
            y.push(max);
        }
    }
    y
}

/// How far the maxima, stored with `bytes` bytes, may be off. With every summand `s` between `s - e` and `s + e` (see
/// [`affine`]), a maximum is between those of all `s - e` and of all `s + e`, and of 0. One that can only be 0 is exact.
#[doc(hidden)]
pub fn error_bound(
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    sizes: &[[u32; 2]],
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let c = scale.len();
    let mut bounds = Vec::with_capacity(x.len() / 4);
    for rows in squares(sizes) {
        for i in 0..c {
            let (mut least, mut value, mut most) = (0f64, 0f64, 0f64);
            for row in rows {
                let (s, e) = affine(x[row * c + i], scale[i], shift[i], rounding);
                (least, value, most) = (least.max(s - e), value.max(s), most.max(s + e));
            }
            bounds.push(if most == 0.0 {
                0.0
            } else {
                rounding.store(value, (most - value).max(value - least), bytes)
            });
        }
    }
    bounds
}

/// `scale x + shift`, and how far it may be off: a product and a sum are rounded, `u |scale x| (1 + u) + u |scale x +
/// shift|`, and either of them or a number that is read may be subnormal and flushed. Without a product it is `shift`.
pub(super) fn affine(x: f32, scale: f32, shift: f32, rounding: &Rounding) -> (f64, f64) {
    let smallest = f64::from(f32::MIN_POSITIVE);
    let [x, scale, shift] = [x, scale, shift].map(f64::from);
    let product = scale * x;
    let value = product + shift;
    let e = if product != 0.0 {
        let u = rounding.u;
        u * product.abs() * (1.0 + u) + u * value.abs() + (3.0 + scale.abs() + x.abs()) * smallest
    } else if shift.abs() < smallest {
        shift.abs()
    } else {
        0.0
    };
    (value, e)
}

/// The four rows of each square of pictures of these sizes.
pub(super) fn squares(sizes: &[[u32; 2]]) -> Vec<[usize; 4]> {
    let (mut all, mut first) = (Vec::new(), 0);
    for &[lines, width] in sizes {
        let [lines, width] = [lines, width].map(|side| side as usize);
        for y in (0..lines).step_by(2) {
            for x in (0..width).step_by(2) {
                let row = first + y * width + x;
                all.push([row, row + 1, row + width, row + width + 1]);
            }
        }
        first += lines * width;
    }
    all
}

fn cpu<A: Float>(x: &[A], scale: &[f32], shift: &[f32], squares: &[u32], y: &mut [A]) {
    let c = scale.len();
    y.par_chunks_mut(c)
        .zip(squares.par_chunks_exact(2))
        .with_min_len(16)
        .for_each(|(y, square)| {
            let [row, width] = [square[0], square[1]].map(|number| number as usize);
            let lines = [row, row + width].map(|row| &x[row * c..][..2 * c]);
            one_square(lines, scale, shift, y);
        });
}

/// Of two pixels in each of two lines.
#[multiversion(targets = "simd")]
fn one_square<A: Float>(lines: [&[A]; 2], scale: &[f32], shift: &[f32], y: &mut [A]) {
    let c = y.len();
    let [(a, b), (d, e)] = lines.map(|line| line.split_at(c));
    for i in 0..c {
        let mut max = 0f32;
        for x in [a[i], b[i], d[i], e[i]] {
            let pre = x.to_f32().mul_add(scale[i], shift[i]);
            max = if pre > max { pre } else { max };
        }
        y[i] = A::from_f32(max);
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
    mut y: SliceMut<'_, A>,
) -> Result<()> {
    let c = scale.len();
    // Short pixels share a block of the PTX kernel.
    let width = (c * size_of::<A>() / UNIT).min(BLOCK);
    let at_once = BLOCK / width;
    for (these, rows) in pictures.square_turns(gpu, c * size_of::<A>()) {
        let n = these.len();
        gpu.call(&Call {
            kernel: &MAX_POOL,
            variant: variant(A::TYPE),
            args: &[
                x.slice(rows.start * c..rows.end * c).into(),
                scale.into(),
                shift.into(),
                squares.slice(2 * these.start..2 * these.end).into(),
                (&mut y.slice_mut(these.start * c..these.end * c)).into(),
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
    use crate::ops::differences_test::noise;

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let sizes = [[4, 2], [0, 4], [2, 2], [2, 8], [6, 10]];
        let pictures = Pictures::new(&cpu, &sizes).unwrap();
        let r = pictures.pixels().tokens();
        let [x, scale, shift] = [(r * 8, 1), (8, 2), (8, 3)].map(|(n, seed)| {
            noise(n, seed)
                .into_iter()
                .map(|v| v as f32)
                .collect::<Vec<_>>()
        });
        let [x_here, scale_here, shift_here] = [&x, &scale, &shift].map(|v| cpu.upload(v).unwrap());
        let mut y = cpu.upload(&vec![f32::NAN; r * 2]).unwrap();
        max_pool(&x_here, &scale_here, &shift_here, &pictures, &mut y).unwrap();
        let want = reference::<f64>(&x, &scale, &shift, &sizes);
        let y = y.read().unwrap();
        assert!(
            y.iter()
                .zip(&want)
                .all(|(&got, want)| (f64::from(got) - want).abs() < 1e-6)
        );
        assert!(y.contains(&0.0) && y.iter().any(|&y| y > 0.0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let x = cpu.upload(&[0f32; 48]).unwrap();
        let refused = |size, c: usize| {
            let pictures = Pictures::new(&cpu, &[size]).unwrap();
            let mut y = cpu.alloc::<f32>(8).unwrap();
            max_pool(&x, x.slice(..c), x.slice(..8), &pictures, &mut y)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused([2, 3], 8),
            "shape mismatch in max_pool: pictures: expected even sides, got 2 x 3"
        );
        assert_eq!(
            refused([2, 2], 8),
            "shape mismatch in max_pool: x: expected 32, got 48"
        );
    }
}
