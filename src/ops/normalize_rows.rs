//! `rows[i] = x[i] / max(|x[i]|, 1e-12)`, `norms[i] = |x[i]|`
//!
//! Rows of f32 scaled to unit length and rounded to f16, as an index stores them and as token vectors are compared. On
//! request also the scaled rows in f32, for who averages what was not rounded yet, and the lengths. Cost: about `3 n d`
//! operations against 6 to 10 bytes per element: memory bound everywhere.
//! Comes after [`mod@super::pool`] or an encoder's last layer; before [`mod@super::cosine_topk`], [`mod@super::maxsim`].
//!
//! Numerics: the sum of squares, its root and one division per element, all in f32. A zero row stays zero. Rows longer
//! than 1.8e19 overflow: their norm is infinite. A row with a NaN is NaN as a whole, and so is its norm (wgpu promises
//! nothing about NaN).

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, OpSpec, Rounding, grid, in_every_tier, rows_per_binding, simd};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Cost, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "normalize_rows",
    formula: "rows = x / max(|x|, 1e-12) in f16, norms = |x|",
    kernels: &[NORMALIZE_ROWS],
    ptx: NORMALIZE_ROWS.ptx,
    ptx_variants: variants,
    wgsl: NORMALIZE_ROWS.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const NORMALIZE_ROWS: Kernel = Kernel {
    entry: "normalize_rows",
    params: &[
        Param::read("x"),
        Param::write("rows"),
        Param::write("unit").optional(),
        Param::write("norms").optional(),
        Param::u32("n"),
        Param::u32("d"),
    ],
    ptx: Some(Source {
        file: "normalize_rows.ptx",
        text: include_str!("../../kernels/normalize_rows.ptx"),
    }),
    wgsl: Some(Source {
        file: "normalize_rows.wgsl",
        text: include_str!("../../shaders/normalize_rows.wgsl"),
    }),
};

/// Norms below this count as this, so that a zero row stays zero.
pub(super) const NORM_FLOOR: f32 = 1e-12;

/// Rows in one block of the PTX kernel, a warp each.
const ROWS_PER_BLOCK: usize = 4;

/// Scales the rows of `x` `[n, d]` to unit length into `rows` `[n, d]`; with `unit` `[n, d]` also without rounding to
/// f16, with `norms` `[n]` their lengths too.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8).
///
/// ```
/// use nearmiss::{Device, ops::normalize_rows};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[3.0f32, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// let (mut rows, mut norms) = (cpu.alloc(8)?, cpu.alloc(1)?);
/// normalize_rows(&x, 8, &mut rows, None, Some(norms.as_slice_mut()))?;
/// assert_eq!(rows.read()?[..2], [0.6, 0.8].map(half::f16::from_f32));
/// assert_eq!(norms.read()?, [5.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn normalize_rows<'a>(
    x: impl Into<Slice<'a, f32>>,
    d: usize,
    rows: impl Into<SliceMut<'a, f16>>,
    unit: Option<SliceMut<'a, f32>>,
    norms: Option<SliceMut<'a, f32>>,
) -> Result<()> {
    let (x, rows) = (x.into(), rows.into());
    let device = rows.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let n = check.rows("x", &x, d)?;
    check.holds("rows", &rows, n * d)?;
    check.optional("unit", &unit, n * d)?;
    check.optional("norms", &norms, n)?;
    let per_element = 6 + unit.as_ref().map_or(0, |_| 4);
    let cost = Cost {
        flop: 3 * (n * d) as u64,
        bytes: (n * d * per_element + norms.as_ref().map_or(0, |_| 4 * n)) as u64,
    };
    let out = Outputs { rows, unit, norms };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(x.host(), d, out);
            Ok(())
        }
        Target::Gpu(on) => gpu(on, x, d, out),
    })
}

/// What is written.
struct Outputs<'a> {
    rows: SliceMut<'a, f16>,
    unit: Option<SliceMut<'a, f32>>,
    norms: Option<SliceMut<'a, f32>>,
}

/// The definition, in loops: unit rows `[n, d]` and norms `[n]`.
#[doc(hidden)]
pub fn reference<A: Accum>(x: &[f32], d: usize) -> (Vec<A>, Vec<A>) {
    let (mut unit, mut norms) = (Vec::with_capacity(x.len()), Vec::new());
    let floor = A::of(NORM_FLOOR.into());
    for row in x.chunks_exact(d) {
        let mut squares = A::of(0.0);
        for &v in row {
            squares += A::of(v.into()) * A::of(v.into());
        }
        let norm = squares.sqrt();
        let divisor = if norm < floor { floor } else { norm };
        unit.extend(row.iter().map(|&v| A::of(v.into()) / divisor));
        norms.push(norm);
    }
    (unit, norms)
}

/// How far the unit rows, stored with `bytes` bytes, and the norms may be off.
///
/// * the sum `s` of squares, `d` roundings in any order, squares below the normal range flushed:
///   `e_s = g(d) s + d 2^-126`
/// * its root: `|sqrt(s + e) - sqrt(s)| <= min(e_s / sqrt(s), sqrt(e_s))`, plus the error of the root itself, `e_n`
/// * an element: `|x| / m` with `m = max(norm, floor)`, off by `e_n` at most too: `|x| / m * e_n / (m - e_n)`, plus one
///   division, plus `2^-126 / m` for an `x` that was flushed
#[doc(hidden)]
pub fn error_bound(x: &[f32], d: usize, bytes: usize, rounding: &Rounding) -> (Vec<f64>, Vec<f64>) {
    let (mut unit, mut norms) = (Vec::with_capacity(x.len()), Vec::new());
    let (u, smallest) = (rounding.u, f64::from(f32::MIN_POSITIVE));
    for row in x.chunks_exact(d) {
        let squares: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let norm = squares.sqrt();
        let e_s = rounding.g(d) * squares + d as f64 * smallest;
        let e_root = e_s.sqrt().min(e_s / norm);
        let e_n = e_root + rounding.sqrt * u * (norm + e_root);
        let m = norm.max(NORM_FLOOR.into());
        for &v in row {
            let value = f64::from(v).abs() / m;
            let scaled = value * e_n / (m - e_n) + smallest / (m - e_n);
            let error = scaled + rounding.division * u * (value + scaled);
            unit.push(rounding.store(value, error, bytes));
        }
        norms.push(rounding.store(norm, e_n, 4));
    }
    (unit, norms)
}

fn cpu(x: &[f32], d: usize, mut out: Outputs<'_>) {
    /// Rows of one task.
    const ROWS: usize = 32;
    let rows = out.rows.host().par_chunks_mut(ROWS * d);
    let unit = pieces(out.unit.as_mut(), ROWS * d, rows.len());
    let norms = pieces(out.norms.as_mut(), ROWS, rows.len());
    let tasks = x.par_chunks(ROWS * d).zip(rows).zip(unit).zip(norms);
    tasks.for_each_init(
        || vec![0f32; d],
        |scaled, (((x, rows), mut unit), mut norms)| {
            for (i, (x, row)) in x.chunks_exact(d).zip(rows.chunks_exact_mut(d)).enumerate() {
                let norm = scale_to_unit(x, scaled);
                row.convert_from_f32_slice(scaled);
                if let Some(unit) = &mut unit {
                    unit[i * d..][..d].copy_from_slice(scaled);
                }
                if let Some(norms) = &mut norms {
                    norms[i] = norm;
                }
            }
        },
    );
}

/// An output in `count` pieces of `len` elements, or so many times nothing.
fn pieces<'a>(
    out: Option<&'a mut SliceMut<'_, f32>>,
    len: usize,
    count: usize,
) -> Vec<Option<&'a mut [f32]>> {
    match out {
        Some(out) => out.host().chunks_mut(len).map(Some).collect(),
        None => (0..count).map(|_| None).collect(),
    }
}

/// Scales one row and returns its length.
#[multiversion(targets = "simd")]
fn scale_to_unit(x: &[f32], scaled: &mut [f32]) -> f32 {
    let norm = simd::sum(x, |v| v * v).sqrt();
    // Not `max`, which would take the floor in place of a NaN.
    let divisor = if norm < NORM_FLOOR { NORM_FLOOR } else { norm };
    for (to, &from) in scaled.iter_mut().zip(x) {
        *to = from / divisor;
    }
    norm
}

fn variants() -> Vec<Variant> {
    let both = [false, true];
    let all = both.map(|unit| both.map(|norms| variant(unit, norms)));
    all.into_iter().flatten().collect()
}

fn variant(unit: bool, norms: bool) -> Variant {
    Variant::new().with("unit", unit).with("norms", norms)
}

/// Rows beyond one binding go in turns of whole, aligned rows.
fn gpu(gpu: Gpu<'_>, x: Slice<'_, f32>, d: usize, mut out: Outputs<'_>) -> Result<()> {
    let n = x.len() / d;
    let at_once = rows_per_binding(gpu, d * size_of::<f32>());
    for start in (0..n).step_by(at_once) {
        let end = (start + at_once).min(n);
        let elements = start * d..end * d;
        let mut rows = out.rows.slice_mut(elements.clone());
        let unit = out.unit.as_mut();
        let mut unit = unit.map(|unit| unit.slice_mut(elements.clone()));
        let norms = out.norms.as_mut();
        let mut norms = norms.map(|norms| norms.slice_mut(start..end));
        gpu.call(&Call {
            kernel: &NORMALIZE_ROWS,
            variant: variant(unit.is_some(), norms.is_some()),
            args: &[
                x.slice(elements).into(),
                (&mut rows).into(),
                unit.as_mut().into(),
                norms.as_mut().into(),
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
