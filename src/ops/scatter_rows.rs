//! `out[places[i]] = x[i]`
//!
//! Copies rows to places of their own, bit for bit: a batch that was sorted by length goes back into the order of its
//! texts in one launch. Rows of `out` that no place names stay as they are. Cost: two times the bytes of `x`: memory
//! bound everywhere.
//! Comes after [`mod@super::pool`] or [`mod@super::normalize_rows`], where results of several batches make one matrix.

use rayon::prelude::*;

use super::{OpSpec, Places, grid, in_every_tier, rows_per_binding};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Cost, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "scatter_rows",
    formula: "out[places[i]] = x[i]",
    kernels: &[SCATTER_ROWS],
    ptx: SCATTER_ROWS.ptx,
    ptx_variants: || vec![Variant::new()],
    wgsl: SCATTER_ROWS.wgsl,
    wgsl_variants: || in_every_tier([Variant::new()]),
};

const SCATTER_ROWS: Kernel = Kernel {
    entry: "scatter_rows",
    params: &[
        Param::read("x"),
        Param::read("places"),
        Param::write("out"),
        Param::u32("n"),
        Param::u32("units"),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::u32("first_row").wgsl(),
        Param::u32("end_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "scatter_rows.ptx",
        text: include_str!("../../kernels/scatter_rows.ptx"),
    }),
    wgsl: Some(Source {
        file: "scatter_rows.wgsl",
        text: include_str!("../../shaders/scatter_rows.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

/// Bytes that a thread copies at a time.
const UNIT: usize = 16;

/// Copies the rows of `x` `[n, d]` to their places in `out` `[m, d]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8) or a place that is not below `m`.
///
/// ```
/// use nearmiss::{Device, ops::{Places, scatter_rows}};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[[1.0f32; 8], [2.0; 8]].concat())?;
/// let mut out = cpu.upload(&[0.0f32; 24])?;
/// scatter_rows(&x, 8, &Places::new(&cpu, &[2, 0])?, &mut out)?;
/// assert_eq!(out.read()?, [[2.0; 8], [0.0; 8], [1.0; 8]].concat());
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn scatter_rows<'a, T: Float>(
    x: impl Into<Slice<'a, T>>,
    d: usize,
    places: &Places,
    out: impl Into<SliceMut<'a, T>>,
) -> Result<()> {
    let (x, mut out) = (x.into(), out.into());
    let device = out.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let m = check.rows("out", &out, d)?;
    let n = places.len();
    check.holds("x", &x, n * d)?;
    let listed = places.among(SPEC.name, m)?;
    check.holds("places", &listed, n)?;
    let cost = Cost {
        flop: 0,
        bytes: (2 * n * d * size_of::<T>() + 4 * n) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(x.host(), d, listed.host(), out.host());
            Ok(())
        }
        Target::Gpu(on) => gpu(on, x, d, listed, out),
    })
}

/// The definition: what `out` holds afterwards.
#[doc(hidden)]
pub fn reference<T: Copy>(x: &[T], d: usize, places: &[u32], out: &[T]) -> Vec<T> {
    let mut out = out.to_vec();
    for (row, &place) in x.chunks_exact(d).zip(places) {
        out[place as usize * d..][..d].copy_from_slice(row);
    }
    out
}

fn cpu<T: Float>(x: &[T], d: usize, places: &[u32], out: &mut [T]) {
    // The rows of `out` that are written, each a slice of its own.
    let mut rows: Vec<Option<&mut [T]>> = out.chunks_exact_mut(d).map(Some).collect();
    let targets = places
        .iter()
        .filter_map(|&place| rows[place as usize].take());
    let jobs: Vec<(&[T], &mut [T])> = x.chunks_exact(d).zip(targets).collect();
    jobs.into_par_iter()
        .with_min_len(64)
        .for_each(|(from, to)| to.copy_from_slice(from));
}

/// Places beyond one binding go in turns; a launch passes over the rows of others.
fn gpu<T: Float>(
    gpu: Gpu<'_>,
    x: Slice<'_, T>,
    d: usize,
    places: Slice<'_, u32>,
    mut out: SliceMut<'_, T>,
) -> Result<()> {
    let (n, m) = (places.len(), out.len() / d);
    let units = d * size_of::<T>() / UNIT;
    // Short rows share a block of the PTX kernel.
    let width = units.min(BLOCK);
    let rows = BLOCK / width;
    let at_once = match gpu {
        Gpu::Cuda(_) => m.max(1),
        Gpu::Wgpu(_) => rows_per_binding(gpu, d * size_of::<T>()),
    };
    for first in (0..m).step_by(at_once) {
        let end = (first + at_once).min(m);
        gpu.call(&Call {
            kernel: &SCATTER_ROWS,
            variant: Variant::new(),
            args: &[
                x.into(),
                places.into(),
                (&mut out.slice_mut(first * d..end * d)).into(),
                n.into(),
                units.into(),
                width.into(),
                rows.into(),
                first.into(),
                end.into(),
            ],
            geometry: Geometry {
                groups: grid((n * units).div_ceil(64)),
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

    #[test]
    fn places_are_there_and_each_is_named_once() {
        let cpu = Device::cpu();
        let x = cpu.upload(&[1f32; 16]).unwrap();
        let mut out = cpu.alloc::<f32>(16).unwrap();
        let beyond = Places::new(&cpu, &[0, 2]).unwrap();
        let error = scatter_rows(&x, 8, &beyond, &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in scatter_rows: places: expected below 2, got 2"
        );
        let error = Places::new(&cpu, &[3, 7, 1, 7]).err().unwrap();
        assert_eq!(
            error.to_string(),
            "shape mismatch in places: values: expected no number twice, got 7 twice"
        );
        assert!(Places::new(&cpu, &[5, 5]).is_err());
    }
}
