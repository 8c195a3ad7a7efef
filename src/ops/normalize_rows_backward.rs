//! `dx = (dy - y (y . dy)) / |x|`, `y = x / |x|`
//!
//! The gradient of [`mod@super::normalize_rows`]: what lies along a row is lost, the rest is scaled. Rows shorter than its
//! floor, which were divided by a constant, get `dy` divided by it. `y` is made again from `x`. Cost: about `9 n d`
//! operations against 12 bytes per element: memory bound everywhere.
//! Comes after [`mod@super::similarity_map_backward`], before the backward of the encoder.
//!
//! Numerics: two sums over a row, then one division per element for `y` and one for the result, all in f32.

use multiversion::multiversion;
use rayon::prelude::*;

use super::normalize_rows::NORM_FLOOR;
use super::{Accum, OpSpec, Rounding, grid, in_every_tier, rows_per_binding, simd};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Cost, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "normalize_rows_backward",
    formula: "dx = (dy - y (y . dy)) / |x|, y = x / |x|",
    kernels: &[NORMALIZE_ROWS_BACKWARD],
    ptx: NORMALIZE_ROWS_BACKWARD.ptx,
    ptx_variants: || vec![Variant::new()],
    wgsl: NORMALIZE_ROWS_BACKWARD.wgsl,
    wgsl_variants: || in_every_tier([Variant::new()]),
};

const NORMALIZE_ROWS_BACKWARD: Kernel = Kernel {
    entry: "normalize_rows_backward",
    params: &[
        Param::read("x"),
        Param::read("dy"),
        Param::write("dx"),
        Param::u32("n"),
        Param::u32("d"),
    ],
    ptx: Some(Source {
        file: "normalize_rows_backward.ptx",
        text: include_str!("../../kernels/normalize_rows_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "normalize_rows_backward.wgsl",
        text: include_str!("../../shaders/normalize_rows_backward.wgsl"),
    }),
};

/// Rows in one block of the PTX kernel, a warp each.
const ROWS_PER_BLOCK: usize = 4;

/// From `dy` `[n, d]`, the gradient of the rows of `x` `[n, d]` scaled to unit length, writes that of `x` to `dx` `[n, d]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8).
///
/// ```
/// use nearmiss::{Device, ops::normalize_rows_backward};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[0.0f32, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// let dy = cpu.upload(&[2.0f32, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])?;
/// let mut dx = cpu.alloc::<f32>(8)?;
/// normalize_rows_backward(&x, 8, &dy, &mut dx)?;
/// assert_eq!(dx.read()?, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.25]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn normalize_rows_backward<'a>(
    x: impl Into<Slice<'a, f32>>,
    d: usize,
    dy: impl Into<Slice<'a, f32>>,
    dx: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (x, dy, mut dx) = (x.into(), dy.into(), dx.into());
    let device = dx.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let n = check.rows("x", &x, d)?;
    check.holds("dy", &dy, n * d)?;
    check.holds("dx", &dx, n * d)?;
    let cost = Cost {
        flop: 9 * (n * d) as u64,
        bytes: 12 * (n * d) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(x.host(), d, dy.host(), dx.host());
            Ok(())
        }
        Target::Gpu(on) => gpu(on, x, d, dy, dx),
    })
}

/// The definition, in loops; result `[n, d]`.
#[doc(hidden)]
pub fn reference<A: Accum, T: Copy + Into<f64>>(x: &[T], d: usize, dy: &[T]) -> Vec<A> {
    let floor = A::of(NORM_FLOOR.into());
    let mut dx = Vec::with_capacity(x.len());
    for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
        let number = |v: &T| A::of((*v).into());
        let (mut squares, mut product) = (A::of(0.0), A::of(0.0));
        for v in x {
            squares += number(v) * number(v);
        }
        let norm = squares.sqrt();
        if norm < floor {
            dx.extend(dy.iter().map(|g| number(g) / floor));
            continue;
        }
        let y: Vec<A> = x.iter().map(|v| number(v) / norm).collect();
        for (&y, g) in y.iter().zip(dy) {
            product += y * number(g);
        }
        dx.extend(
            y.iter()
                .zip(dy)
                .map(|(&y, g)| (number(g) - y * product) / norm),
        );
    }
    dx
}

/// How far the gradient may be off, to first order in `u` but where a product says otherwise.
///
/// * the norm, relative: `e_n = g(d) / 2 + sqrt u`, and for squares below the normal range, which may be flushed, `min(1, d
///   2^-126 / (2 s))` of their sum `s`; a row whose norm may lie on either side of the floor has no bound
/// * `y = x / norm`: `e_y = |y| (e_n + division u) + 2^-126 / norm`
/// * `p = y . dy` or `x . dy / norm`: `e_p = sum |dy| e_y + g(d) sum |y dy| + d 2^-126 / min(1, norm)`
/// * `v = dy - y p`: `e_v = |y| e_p + |p| e_y + u |y p| + u |v|`
/// * `dx = v / norm`: `e_v / norm (1 + e_n) + |dx| (e_n + division u)`
#[doc(hidden)]
pub fn error_bound(x: &[f32], d: usize, dy: &[f32], rounding: &Rounding) -> Vec<f64> {
    let (u, smallest) = (rounding.u, f64::from(f32::MIN_POSITIVE));
    let division = rounding.division * u;
    let floor = f64::from(NORM_FLOOR);
    let mut bounds = Vec::with_capacity(x.len());
    for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
        let number = |v: &f32| f64::from(*v);
        let squares: f64 = x.iter().map(|v| number(v) * number(v)).sum();
        let norm = squares.sqrt();
        let flushed = (d as f64 * smallest / (2.0 * squares)).min(1.0);
        let e_n = rounding.g(d) / 2.0 + rounding.sqrt * u + flushed;
        if norm < floor * (1.0 - 2.0 * e_n.min(0.1)) {
            let of = |g: &f32| rounding.store(0.0, division * number(g).abs() / floor, 4);
            bounds.extend(dy.iter().map(of));
            continue;
        }
        let y: Vec<f64> = x.iter().map(|v| number(v) / norm).collect();
        let e_y = |y: f64| y.abs() * (e_n + division) + smallest / norm;
        let (mut p, mut e_p, mut size) = (0.0, d as f64 * smallest / norm.min(1.0), 0.0);
        for (&y, g) in y.iter().zip(dy) {
            p += y * number(g);
            e_p += number(g).abs() * e_y(y);
            size += f64::abs(y * number(g));
        }
        e_p += rounding.g(d) * size;
        bounds.extend(y.iter().zip(dy).map(|(&y, g)| {
            let v = number(g) - y * p;
            let e_v = y.abs() * e_p + (p.abs() + e_p) * e_y(y) + u * f64::abs(y * p) + u * v.abs();
            let error = e_v / norm * (1.0 + e_n) + v.abs() / norm * (e_n + division);
            rounding.store(0.0, error, 4)
        }));
    }
    bounds
}

fn cpu(x: &[f32], d: usize, dy: &[f32], dx: &mut [f32]) {
    /// Rows of one task.
    const ROWS: usize = 32;
    let pieces = x.par_chunks(ROWS * d).zip(dy.par_chunks(ROWS * d));
    pieces
        .zip(dx.par_chunks_mut(ROWS * d))
        .for_each(|((x, dy), dx)| {
            let rows = x.chunks_exact(d).zip(dy.chunks_exact(d));
            for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(d)) {
                row(x, dy, dx);
            }
        });
}

#[multiversion(targets = "simd")]
fn row(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let norm = simd::sum(x, |v| v * v).sqrt();
    if norm < NORM_FLOOR {
        for (dx, &g) in dx.iter_mut().zip(dy) {
            *dx = g / NORM_FLOOR;
        }
        return;
    }
    for (y, &x) in dx.iter_mut().zip(x) {
        *y = x / norm;
    }
    let product = simd::dot(dx, dy);
    for (dx, &g) in dx.iter_mut().zip(dy) {
        *dx = (g - *dx * product) / norm;
    }
}

/// Rows beyond one binding go in turns of whole, aligned rows.
fn gpu(
    gpu: Gpu<'_>,
    x: Slice<'_, f32>,
    d: usize,
    dy: Slice<'_, f32>,
    mut dx: SliceMut<'_, f32>,
) -> Result<()> {
    let n = x.len() / d;
    let at_once = rows_per_binding(gpu, d * size_of::<f32>());
    for start in (0..n).step_by(at_once) {
        let end = (start + at_once).min(n);
        let elements = start * d..end * d;
        gpu.call(&Call {
            kernel: &NORMALIZE_ROWS_BACKWARD,
            variant: Variant::new(),
            args: &[
                x.slice(elements.clone()).into(),
                dy.slice(elements.clone()).into(),
                (&mut dx.slice_mut(elements)).into(),
                (end - start).into(),
                d.into(),
            ],
            geometry: Geometry {
                groups: grid(end - start),
                grid: [(end - start).div_ceil(ROWS_PER_BLOCK) as u32, 1, 1],
                threads: 32 * ROWS_PER_BLOCK as u32,
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
    use crate::ops::normalize_rows;

    #[test]
    fn central_differences_agree() {
        let d = 16;
        let (x, weight) = (noise(3 * d, 1), noise(3 * d, 2));
        let f = |x: &[f64]| {
            let y = x.chunks_exact(d).flat_map(|row| {
                let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                row.iter().map(move |v| v / norm)
            });
            weighted(&y.collect::<Vec<_>>(), &weight)
        };
        let gradient = reference::<f64, _>(&x, d, &weight);
        hold("x", &x, &gradient, 2 * d + 3 * d + 4, f);
    }

    #[test]
    fn the_cpu_agrees_with_the_definition_at_the_floor_too() {
        let cpu = Device::cpu();
        let d = 40;
        let mut x: Vec<f32> = noise(5 * d, 1).iter().map(|&v| v as f32).collect();
        for (row, scale) in x.chunks_mut(d).zip([1.0, 0.0, 1e-14, 1e-11, 1e4]) {
            row.iter_mut().for_each(|v| *v *= scale);
        }
        let dy: Vec<f32> = noise(5 * d, 2).iter().map(|&v| v as f32).collect();
        let mut dx = cpu.upload(&vec![f32::NAN; 5 * d]).unwrap();
        let (x_here, dy_here) = (cpu.upload(&x).unwrap(), cpu.upload(&dy).unwrap());
        normalize_rows_backward(&x_here, d, &dy_here, &mut dx).unwrap();
        let want = reference::<f64, _>(&x, d, &dy);
        let bounds = error_bound(&x, d, &dy, &Rounding::of(cpu.kind()));
        let got = dx.read().unwrap();
        for ((got, want), bound) in got.iter().zip(want).zip(bounds) {
            assert!(
                (f64::from(*got) - want).abs() <= bound,
                "{got} {want} {bound:e}"
            );
        }
        // The forward divides such rows by its floor.
        let (unit, _) = normalize_rows::reference::<f64>(&x[2 * d..3 * d], d);
        assert!((unit[0] - f64::from(x[2 * d]) / 1e-12).abs() < 1e-6 * unit[0].abs());
    }
}
