//! `x[places[i]] += y[i]`
//!
//! Adds rows to the rows of a residual stream in f32: those that `places` names, or all of them in order. Where all are
//! added to, a copy of the sums rounded to f16, for the next matrix product, is written in the same pass. Rows that no
//! place names stay as they are. Cost: one addition against 10 to 14 bytes an element: memory bound everywhere.
//! Comes after the last product of a sublayer whose norm comes first, where nothing is normalised with the sum.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::{Accum, FLOATS, OpSpec, Places, Rounding, grid, in_every_tier, rows_per_binding};
use crate::device::template::{Source, Variant};
use crate::device::{
    Call, Cost, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target,
};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "add_rows",
    formula: "x[places[i]] += y[i]",
    kernels: &[ADD_ROWS],
    ptx: ADD_ROWS.ptx,
    ptx_variants: variants,
    wgsl: ADD_ROWS.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const ADD_ROWS: Kernel = Kernel {
    entry: "add_rows",
    params: &[
        Param::read("y"),
        Param::read("places").optional(),
        Param::write("x"),
        Param::write("rounded").optional(),
        Param::u32("n"),
        Param::u32("units"),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::u32("first_row").wgsl(),
        Param::u32("end_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "add_rows.ptx",
        text: include_str!("../../kernels/add_rows.ptx"),
    }),
    wgsl: Some(Source {
        file: "add_rows.wgsl",
        text: include_str!("../../shaders/add_rows.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

/// Elements that a thread adds at a time.
const UNIT: usize = 4;

/// Adds the rows of `y` `[n, d]` to their places in `x` `[m, d]`; without `places` to its rows in order, `n` being `m`.
/// Then `rounded` `[m, d]` gets the sums, rounded.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (`d` a multiple of 8), a place that is not below `m`, or `rounded` together
/// with `places`.
///
/// ```
/// use nearmiss::{Device, ops::{Places, add_rows}};
/// let cpu = Device::cpu();
/// let y = cpu.upload(&[[1.0f32; 8], [2.0; 8]].concat())?;
/// let mut x = cpu.upload(&[0.5f32; 24])?;
/// add_rows(&y, 8, Some(&Places::new(&cpu, &[2, 0])?), &mut x, None)?;
/// assert_eq!(x.read()?, [[2.5; 8], [0.5; 8], [1.5; 8]].concat());
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn add_rows<'a, A: Float>(
    y: impl Into<Slice<'a, A>>,
    d: usize,
    places: Option<&Places>,
    x: impl Into<SliceMut<'a, f32>>,
    rounded: Option<SliceMut<'_, f16>>,
) -> Result<()> {
    let (y, mut x, mut rounded) = (y.into(), x.into(), rounded);
    let device = x.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let m = check.rows("x", &x, d)?;
    let n = places.map_or(m, Places::len);
    check.holds("y", &y, n * d)?;
    let listed = match places {
        Some(_) if rounded.is_some() => {
            return Err(Error::shape(
                SPEC.name,
                "rounded",
                "none where rows have places",
                "some",
            ));
        }
        Some(places) => Some(places.among(SPEC.name, m)?),
        None => None,
    };
    check.optional("places", &listed, n)?;
    check.optional("rounded", &rounded, m * d)?;
    let per_element = 8 + size_of::<A>() + if rounded.is_some() { 2 } else { 0 };
    let cost = Cost {
        flop: (n * d) as u64,
        bytes: (n * d * per_element + listed.map_or(0, |_| 4 * n)) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let rounded = rounded.as_mut().map(|rounded| rounded.host());
            cpu(y.host(), d, listed.map(|l| l.host()), x.host(), rounded);
            Ok(())
        }
        Target::Gpu(on) => gpu(on, y, d, listed, x, rounded),
    })
}

/// The definition, in loops: what `x` holds afterwards.
#[doc(hidden)]
pub fn reference<A: Accum>(
    y: &[impl Copy + Into<f64>],
    d: usize,
    places: Option<&[u32]>,
    x: &[f32],
) -> Vec<A> {
    let mut sums: Vec<A> = x.iter().map(|&x| A::of(x.into())).collect();
    for (i, row) in y.chunks_exact(d).enumerate() {
        let place = places.map_or(i, |places| places[i] as usize);
        for (sum, &y) in sums[place * d..][..d].iter_mut().zip(row) {
            *sum += A::of(y.into());
        }
    }
    sums
}

/// One rounding of each sum; results are stored with `bytes` bytes.
#[doc(hidden)]
pub fn error_bound(sums: &[f64], bytes: usize, rounding: &Rounding) -> Vec<f64> {
    let bound = |&sum: &f64| rounding.store(sum, rounding.u * sum.abs(), bytes);
    sums.iter().map(bound).collect()
}

/// Elements of one task.
const TASK: usize = 1 << 14;

fn cpu<A: Float>(
    y: &[A],
    d: usize,
    places: Option<&[u32]>,
    x: &mut [f32],
    rounded: Option<&mut [f16]>,
) {
    let Some(places) = places else {
        let sums = x.par_chunks_mut(TASK).zip(y.par_chunks(TASK));
        match rounded {
            Some(rounded) => {
                sums.zip(rounded.par_chunks_mut(TASK))
                    .for_each(|((x, y), rounded)| {
                        add(x, y);
                        rounded.convert_from_f32_slice(x);
                    })
            }
            None => sums.for_each(|(x, y)| add(x, y)),
        }
        return;
    };
    // The rows of `x` that are added to, each a slice of its own.
    let mut rows: Vec<Option<&mut [f32]>> = x.chunks_exact_mut(d).map(Some).collect();
    let targets = places
        .iter()
        .filter_map(|&place| rows[place as usize].take());
    let jobs: Vec<(&[A], &mut [f32])> = y.chunks_exact(d).zip(targets).collect();
    jobs.into_par_iter()
        .with_min_len(64)
        .for_each(|(y, x)| add(x, y));
}

fn add<A: Float>(x: &mut [f32], y: &[A]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y.to_f32();
    }
}

fn variant(act: ElementType, places: bool, rounded: bool) -> Variant {
    Variant::new()
        .with("act", act.name())
        .with("places", places)
        .with("rounded", rounded)
}

fn variants() -> Vec<Variant> {
    let forms = [(false, false), (false, true), (true, false)];
    let of = |act| forms.map(|(places, rounded)| variant(act, places, rounded));
    FLOATS.map(of).concat()
}

/// Rows beyond one binding go in turns; where they have places, a launch passes over the rows of others.
fn gpu<A: Float>(
    gpu: Gpu<'_>,
    y: Slice<'_, A>,
    d: usize,
    places: Option<Slice<'_, u32>>,
    mut x: SliceMut<'_, f32>,
    mut rounded: Option<SliceMut<'_, f16>>,
) -> Result<()> {
    let (n, m) = (y.len() / d, x.len() / d);
    let units = d / UNIT;
    // Short rows share a block of the PTX kernel.
    let width = units.min(BLOCK);
    let rows = BLOCK / width;
    let at_once = match gpu {
        Gpu::Cuda(_) => m.max(1),
        Gpu::Wgpu(_) => rows_per_binding(gpu, d * size_of::<f32>()),
    };
    for first in (0..m).step_by(at_once) {
        let end = (first + at_once).min(m);
        let elements = first * d..end * d;
        let (y, n) = match places {
            Some(_) => (y, n),
            None => (y.slice(elements.clone()), end - first),
        };
        let mut rounded = rounded.as_mut().map(|r| r.slice_mut(elements.clone()));
        gpu.call(&Call {
            kernel: &ADD_ROWS,
            variant: variant(A::TYPE, places.is_some(), rounded.is_some()),
            args: &[
                y.into(),
                places.into(),
                (&mut x.slice_mut(elements)).into(),
                rounded.as_mut().into(),
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
    fn all_rows_are_added_in_order_and_rounded() {
        let cpu = Device::cpu();
        let y: Vec<f16> = (0..2400).map(|i| f16::from_f32(i as f32)).collect();
        let before: Vec<f32> = (0..2400).map(|i| i as f32 * 0.5).collect();
        let mut x = cpu.upload(&before).unwrap();
        let mut rounded = cpu.alloc::<f16>(2400).unwrap();
        let y_here = cpu.upload(&y).unwrap();
        add_rows(&y_here, 24, None, &mut x, Some(rounded.as_slice_mut())).unwrap();
        let sums = reference::<f32>(&y, 24, None, &before);
        assert_eq!(x.read().unwrap(), sums);
        let halves: Vec<f16> = sums.iter().map(|&sum| f16::from_f32(sum)).collect();
        assert_eq!(rounded.read().unwrap(), halves);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let y = cpu.upload(&[1f32; 8]).unwrap();
        let mut x = cpu.alloc::<f32>(16).unwrap();
        let mut rounded = cpu.alloc::<f16>(16).unwrap();
        let mut refused = |places: Option<&[u32]>, round: bool| {
            let places = places.map(|places| Places::new(&cpu, places).unwrap());
            let rounded = round.then(|| rounded.as_slice_mut());
            let done = add_rows(&y, 8, places.as_ref(), &mut x, rounded);
            done.unwrap_err().to_string()
        };
        for (places, round, why) in [
            (None, false, "y: expected 16, got 8"),
            (Some(&[2][..]), false, "places: expected below 2, got 2"),
            (
                Some(&[1]),
                true,
                "rounded: expected none where rows have places, got some",
            ),
        ] {
            let why = format!("shape mismatch in add_rows: {why}");
            assert_eq!(refused(places, round), why);
        }
    }
}
