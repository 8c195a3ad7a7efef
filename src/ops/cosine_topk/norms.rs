//! Inverse norms of rows, computed once and stored beside them.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{IN_PTX, SPEC, WGSL};
use crate::device::template::Variant;
use crate::device::{Call, Cost, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target};
use crate::error::Result;
use crate::ops::token_pairs::widen_to;
use crate::ops::{FLOATS, grid, rows_per_binding, simd};

pub(super) const INVERSE_NORMS: Kernel = Kernel {
    entry: "inverse_norms",
    params: &[
        Param::read("rows"),
        Param::write("out"),
        Param::u32("n"),
        Param::u32("d"),
    ],
    wgsl: Some(WGSL),
    ..IN_PTX
};

pub(super) fn variants() -> Vec<Variant> {
    FLOATS.map(|rows| variant(rows.name())).to_vec()
}

fn variant(rows: &'static str) -> Variant {
    Variant::new().with("pass", "norms").with("rows", rows)
}

/// `1 / |row|` of every row of `rows` `[n, d]` (0 for a zero row) into `out` `[n]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit.
pub fn inverse_norms<'a, T: Float>(
    rows: impl Into<Slice<'a, T>>,
    d: usize,
    out: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (rows, mut out) = (rows.into(), out.into());
    let device = out.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let n = out.len();
    check.holds("rows", &rows, n * d)?;
    let cost = Cost {
        flop: 2 * (n * d) as u64,
        bytes: (n * d * size_of::<T>() + 4 * n) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let rows = rows.host();
            out.host()
                .par_iter_mut()
                .enumerate()
                .with_min_len(64)
                .for_each_init(
                    || vec![0f32; d],
                    |wide, (r, out)| {
                        widen_to(&rows[r * d..][..d], wide);
                        *out = inverse_norm(wide);
                    },
                );
            Ok(())
        }
        Target::Gpu(gpu) => on_gpu(gpu, rows, d, out),
    })
}

#[multiversion(targets = "simd")]
pub(super) fn inverse_norm(row: &[f32]) -> f32 {
    let norm = simd::sum(row, |v| v * v).sqrt();
    if norm > 0.0 { 1.0 / norm } else { 0.0 }
}

/// Rows beyond one binding go in turns of whole, aligned rows.
pub(super) fn on_gpu<T: Float>(
    gpu: Gpu<'_>,
    rows: Slice<'_, T>,
    d: usize,
    mut out: SliceMut<'_, f32>,
) -> Result<()> {
    let n = out.len();
    let at_once = rows_per_binding(gpu, d * size_of::<T>());
    for start in (0..n).step_by(at_once) {
        let range = start..(start + at_once).min(n);
        gpu.call(&Call {
            kernel: &INVERSE_NORMS,
            variant: variant(T::TYPE.name()),
            args: &[
                rows.slice(range.start * d..range.end * d).into(),
                (&mut out.slice_mut(range.clone())).into(),
                range.len().into(),
                d.into(),
            ],
            geometry: Geometry {
                groups: grid(range.len().div_ceil(64)),
                grid: [range.len().div_ceil(4) as u32, 1, 1],
                threads: 128,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}
