//! `dx[r, i] = sum over the taps that read pixel r of d_out[their pixel, tap c + i]`
//!
//! The transpose of [`mod@super::unfold`], and so its gradient: each element adds up the at most nine that were copied from
//! it, in the order of the taps, in f32. Nothing is added to memory, so that two runs give equal bits. Cost: nine
//! elements read for one that is written: memory bound everywhere.
//! Comes after [`mod@super::matmul_nn`], the gradient of a convolution in its unfolded input.

use multiversion::multiversion;
use rayon::prelude::*;

use super::pictures::neighbour;
use super::unfold::{TAPS, shared_block};
use super::{
    ALIGN, Accum, FLOATS, OpSpec, Pictures, Rounding, grid, in_every_tier, rows_per_binding,
};
use crate::device::template::{Source, Variant};
use crate::device::{
    Call, Cost, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target,
};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "fold",
    formula: "dx[r] = sum over taps of d_out[the pixel whose tap is r, tap]",
    kernels: &[FOLD],
    ptx: FOLD.ptx,
    ptx_variants: variants,
    wgsl: FOLD.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const FOLD: Kernel = Kernel {
    entry: "fold",
    params: &[
        Param::read("d_out"),
        Param::read("neighbours"),
        Param::write("dx"),
        Param::u32("n").ptx(),
        Param::u32("units"),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::u32("first_row").wgsl(),
        Param::u32("end_row").wgsl(),
        Param::u32("first_seen").wgsl(),
    ],
    ptx: Some(Source {
        file: "fold.ptx",
        text: include_str!("../../kernels/fold.ptx"),
    }),
    wgsl: Some(Source {
        file: "fold.wgsl",
        text: include_str!("../../shaders/fold.wgsl"),
    }),
};

/// Folds `d_out` `[r, 9 c]`, the gradient in the unfolded pixels of `pictures`, into that in the pixels, `dx` `[r, c]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`c` a multiple of 8).
///
/// ```
/// use nearmiss::{Device, ops::{Pictures, fold}};
/// let cpu = Device::cpu();
/// let pictures = Pictures::new(&cpu, &[[1, 2]])?; // two pixels beside each other: both are read twice
/// let d_out = cpu.upload(&[1.0f32; 2 * 72])?;
/// let mut dx = cpu.alloc::<f32>(16)?;
/// fold(&d_out, 8, &pictures, &mut dx)?;
/// assert_eq!(dx.read()?, [2.0; 16]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn fold<'a, T: Float>(
    d_out: impl Into<Slice<'a, T>>,
    c: usize,
    pictures: &Pictures,
    dx: impl Into<SliceMut<'a, T>>,
) -> Result<()> {
    let (d_out, mut dx) = (d_out.into(), dx.into());
    let device = dx.device();
    let check = SPEC.checks(device);
    check.width("c", c)?;
    let r = pictures.pixels().tokens();
    check.holds("d_out", &d_out, r * TAPS * c)?;
    let neighbours = pictures.neighbours();
    check.holds("pictures", &neighbours, r)?;
    check.holds("dx", &dx, r * c)?;
    let cost = Cost {
        flop: (TAPS * r * c) as u64,
        bytes: ((1 + TAPS) * r * c * size_of::<T>() + 4 * r) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(d_out.host(), c, neighbours.host(), dx.host());
            Ok(())
        }
        Target::Gpu(on) => gpu(on, d_out, c, pictures, dx),
    })
}

/// The definition, in loops; result `[r, c]`. `sizes` are lines and pixels of a line of each picture.
#[doc(hidden)]
pub fn reference<A: Accum>(
    d_out: &[impl Copy + Into<f64>],
    c: usize,
    sizes: &[[u32; 2]],
) -> Vec<A> {
    let mut dx = vec![A::of(0.0); d_out.len() / TAPS];
    let mut first = 0;
    for &[lines, width] in sizes {
        let [lines, width] = [lines, width].map(|side| side as isize);
        for y in 0..lines {
            for x in 0..width {
                for tap in 0..TAPS {
                    // The pixel from which this one is seen in the direction of the tap.
                    let from_y = y - (tap / 3) as isize + 1;
                    let from_x = x - (tap % 3) as isize + 1;
                    if !(0..lines).contains(&from_y) || !(0..width).contains(&from_x) {
                        continue;
                    }
                    let row = first + (y * width + x) as usize;
                    let from = first + (from_y * width + from_x) as usize;
                    for i in 0..c {
                        dx[row * c + i] += A::of(d_out[(from * TAPS + tap) * c + i].into());
                    }
                }
            }
        }
        first += (lines * width) as usize;
    }
    dx
}

/// Nine numbers are added, the first to nothing: `g(8)` times the sum of their magnitudes; results are stored with `bytes`
/// bytes.
#[doc(hidden)]
pub fn error_bound(
    d_out: &[f32],
    c: usize,
    sizes: &[[u32; 2]],
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let magnitudes: Vec<f32> = d_out.iter().map(|d| d.abs()).collect();
    let values = reference::<f64>(d_out, c, sizes);
    let sums = reference::<f64>(&magnitudes, c, sizes);
    let bound = |(value, sum)| rounding.store(value, rounding.g(TAPS - 1) * sum, bytes);
    values.into_iter().zip(sums).map(bound).collect()
}

fn cpu<T: Float>(d_out: &[T], c: usize, neighbours: &[u32], dx: &mut [T]) {
    dx.par_chunks_mut(c)
        .zip(neighbours)
        .enumerate()
        .with_min_len(16)
        .for_each_init(
            || vec![0f32; c],
            |sums, (r, (dx, &neighbours))| {
                sums.fill(0.0);
                for tap in 0..TAPS {
                    // What is seen in the opposite direction sees this pixel in the direction of the tap.
                    if let Some(from) = neighbour(r, neighbours, TAPS - 1 - tap) {
                        add(sums, &d_out[(from * TAPS + tap) * c..][..c]);
                    }
                }
                for (dx, &sum) in dx.iter_mut().zip(sums.iter()) {
                    *dx = T::from_f32(sum);
                }
            },
        );
}

#[multiversion(targets = "simd")]
fn add<T: Float>(sums: &mut [f32], values: &[T]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value.to_f32();
    }
}

fn variant(act: ElementType) -> Variant {
    Variant::new().with("act", act.name())
}

fn variants() -> Vec<Variant> {
    FLOATS.map(variant).into()
}

/// Rows beyond one binding go in turns, with those of the lines above and below beside them.
fn gpu<T: Float>(
    gpu: Gpu<'_>,
    d_out: Slice<'_, T>,
    c: usize,
    pictures: &Pictures,
    mut dx: SliceMut<'_, T>,
) -> Result<()> {
    let neighbours = pictures.neighbours();
    let n = neighbours.len();
    // On CUDA a unit has 16 bytes, in the shader 4 elements.
    let (at_once, unit) = match gpu {
        Gpu::Cuda(_) => (n.max(1), 16 / size_of::<T>()),
        Gpu::Wgpu(_) => (rows_per_binding(gpu, TAPS * c * size_of::<T>()), 4),
    };
    let widths = pictures.sizes().iter().map(|size| size[1] as usize);
    let beside = (widths.max().unwrap_or(0) + 1).next_multiple_of(ALIGN);
    let at_once = if at_once < n {
        at_once.saturating_sub(2 * beside).max(ALIGN)
    } else {
        n.max(1)
    };
    let units = c / unit;
    let [width, rows] = shared_block(units);
    for first in (0..n).step_by(at_once) {
        let end = (first + at_once).min(n);
        let seen = first.saturating_sub(beside)..(end + beside).min(n);
        gpu.call(&Call {
            kernel: &FOLD,
            variant: variant(T::TYPE),
            args: &[
                d_out
                    .slice(seen.start * TAPS * c..seen.end * TAPS * c)
                    .into(),
                neighbours.into(),
                (&mut dx.slice_mut(first * c..end * c)).into(),
                n.into(),
                units.into(),
                width.into(),
                rows.into(),
                first.into(),
                end.into(),
                seen.start.into(),
            ],
            geometry: Geometry {
                groups: grid(((end - first) * units).div_ceil(64)),
                grid: [n.div_ceil(rows) as u32, 1, 1],
                threads: (width * rows) as u32,
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
    use crate::ops::unfold;

    const SIZES: [[u32; 2]; 5] = [[5, 3], [0, 4], [1, 1], [1, 6], [40, 2]];

    #[test]
    fn it_is_the_transpose_of_unfold() {
        let (x, d_out) = (noise(102 * 8, 1), noise(102 * 72, 2));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let forward = dot(&unfold::reference(&x, 8, &SIZES), &d_out);
        let backward = dot(&x, &reference::<f64>(&d_out, 8, &SIZES));
        assert!((forward - backward).abs() < 1e-11, "{forward} {backward}");
        // Every element of either, not only their sum.
        for at in [0, 8 * 8 + 3, 101 * 8] {
            let mut one = vec![0.0; x.len()];
            one[at] = 1.0;
            let forward = dot(&unfold::reference(&one, 8, &SIZES), &d_out);
            assert!((forward - reference::<f64>(&d_out, 8, &SIZES)[at]).abs() < 1e-14);
        }
    }

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let pictures = Pictures::new(&cpu, &SIZES).unwrap();
        let d_out: Vec<f32> = noise(102 * 72, 2).into_iter().map(|v| v as f32).collect();
        let mut dx = cpu.upload(&vec![f32::NAN; 102 * 8]).unwrap();
        fold(&cpu.upload(&d_out).unwrap(), 8, &pictures, &mut dx).unwrap();
        assert_eq!(dx.read().unwrap(), reference::<f32>(&d_out, 8, &SIZES));
    }
}
