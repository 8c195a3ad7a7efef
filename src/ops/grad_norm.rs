//! `out[0] = sum g^2` over all gradients
//!
//! The square of the norm by which [`mod@super::adamw`] clips and by which it knows that a step is to be left out; nothing of
//! it need ever be read by the host. Two stages: the squares of each 16,384 elements, then the sum of those. Cost: 4 bytes
//! and two operations per element: memory bound everywhere. The order of the additions depends on the sizes of the gradients
//! alone.
//!
//! Range: the sum is an f32, and so is every square. It is infinite, and the step left out, for a norm beyond 1.8e19 = 2^64,
//! which a loss scale of 2^16 reaches only where the norm itself is 2^48, and gradients in f16 never, as they overflow before.
//! Squares of elements below 1e-19 are lost; a norm is below the 1e-6 that clipping adds to it before it depends on them.
//! An infinite or undefined element makes the sum infinite or undefined, on every device.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, OpSpec, Rounding, grid, in_every_tier, simd};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Cost, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "grad_norm",
    formula: "out[0] = sum of squares of all gradients",
    kernels: &[GRAD_NORM_CHUNKS, GRAD_NORM],
    ptx: GRAD_NORM.ptx,
    ptx_variants: || variants().to_vec(),
    wgsl: GRAD_NORM.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const GRAD_NORM: Kernel = Kernel {
    entry: "grad_norm",
    params: &[
        Param::read("sums"),
        Param::write("out"),
        Param::u32("count"),
    ],
    ptx: Some(Source {
        file: "grad_norm.ptx",
        text: include_str!("../../kernels/grad_norm.ptx"),
    }),
    wgsl: Some(Source {
        file: "grad_norm.wgsl",
        text: include_str!("../../shaders/grad_norm.wgsl"),
    }),
};

const GRAD_NORM_CHUNKS: Kernel = Kernel {
    entry: "grad_norm_chunks",
    params: &[
        Param::read("gradient"),
        Param::write("sums"),
        Param::u32("n"),
        Param::u32("chunks").wgsl(),
    ],
    ..GRAD_NORM
};

/// Elements whose squares make one sum of the first stage.
const CHUNK: usize = 1 << 14;

/// Elements of the result; those after the first are zero.
pub const NORM: usize = 8;

/// The sum of the squares of all elements of `gradients` into the first element of `out` `[8]`; the others become zero.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (every gradient a multiple of 8),
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is no room for the sums of the first stage, an f32 for every
/// 16,384 elements.
///
/// ```
/// use nearmiss::{Device, ops::grad_norm};
/// let cpu = Device::cpu();
/// let (matrices, vectors) = (cpu.upload(&[3.0f32; 16])?, cpu.upload(&[0.5f32; 8])?);
/// let mut out = cpu.alloc(8)?;
/// grad_norm(&[(&matrices).into(), (&vectors).into()], &mut out)?;
/// assert_eq!(out.read()?[..2], [16.0 * 9.0 + 8.0 * 0.25, 0.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn grad_norm<'a>(
    gradients: &[Slice<'_, f32>],
    out: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let mut out = out.into();
    let device = out.device();
    let check = SPEC.checks(device);
    check.holds("out", &out, NORM)?;
    let mut n = 0;
    for gradient in gradients {
        check.rows("gradients", gradient, 8)?;
        n += gradient.len();
    }
    let cost = Cost {
        flop: 2 * n as u64,
        bytes: 4 * n as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let out = out.host();
            out.fill(0.0);
            out[0] = cpu(gradients);
            Ok(())
        }
        Target::Gpu(on) => gpu(on, gradients, out),
    })
}

/// The definition: the first element of the result.
#[doc(hidden)]
pub fn reference<A: Accum, T: Copy + Into<f64>>(gradients: &[&[T]]) -> A {
    let mut sum = A::of(0.0);
    for &g in gradients.iter().flat_map(|gradient| gradient.iter()) {
        sum += A::of(g.into()) * A::of(g.into());
    }
    sum
}

/// `g(h)` of the sum, as all squares are positive, with `h` the additions that a square goes through at most: on no device
/// more than one in 32 of its chunk and one in 32 of the sums of the first stage (of which each gradient may have a last one
/// that is not whole), two trees, and its own rounding; adding the zero sum of no elements changes nothing. Squares below the
/// normal range may be flushed.
#[doc(hidden)]
pub fn error_bound(gradients: &[&[f32]], rounding: &Rounding) -> f64 {
    let sum = reference::<f64, f32>(gradients);
    let n: usize = gradients.iter().map(|gradient| gradient.len()).sum();
    let h = CHUNK / 32 + n.div_ceil(32 * CHUNK) + gradients.len() + 32;
    rounding.store(
        sum,
        rounding.g(h) * sum + n as f64 * f64::from(f32::MIN_POSITIVE),
        4,
    )
}

fn cpu(gradients: &[Slice<'_, f32>]) -> f32 {
    let chunks: Vec<&[f32]> = gradients
        .iter()
        .flat_map(|gradient| gradient.host().chunks(CHUNK))
        .collect();
    let sums: Vec<f32> = chunks.into_par_iter().map(squares).collect();
    simd::sum(&sums, |v| v)
}

#[multiversion(targets = "simd")]
fn squares(values: &[f32]) -> f32 {
    simd::sum(values, |v| v * v)
}

fn variant(stage: &'static str) -> Variant {
    Variant::new().with("stage", stage)
}

fn variants() -> [Variant; 2] {
    ["chunks", "total"].map(variant)
}

/// Sums of the first stage that one launch writes are a multiple of this, so that the next one's begin where a view may;
/// those of no elements are zero.
const SUMS: usize = 64;

/// What does not fit into one binding goes in turns.
fn gpu(gpu: Gpu<'_>, gradients: &[Slice<'_, f32>], mut out: SliceMut<'_, f32>) -> Result<()> {
    let fit = usize::try_from(gpu.max_binding()).unwrap_or(usize::MAX) / (4 * CHUNK);
    let at_once = match fit {
        0..SUMS => fit.max(1),
        _ => fit.min(1 << 17) / SUMS * SUMS,
    };
    let turns: Vec<Slice<'_, f32>> = gradients
        .iter()
        .flat_map(|gradient| {
            let starts = (0..gradient.len()).step_by(at_once * CHUNK);
            starts.map(|from| gradient.slice(from..gradient.len().min(from + at_once * CHUNK)))
        })
        .collect();
    let sums_of = |turn: &Slice<'_, f32>| turn.len().div_ceil(CHUNK).next_multiple_of(SUMS);
    let count = turns.iter().map(sums_of).sum::<usize>();
    let mut sums = out.device().alloc::<f32>(count.max(SUMS))?;
    let mut first = 0;
    for turn in turns {
        let chunks = sums_of(&turn);
        gpu.call(&Call {
            kernel: &GRAD_NORM_CHUNKS,
            variant: variant("chunks"),
            args: &[
                turn.into(),
                (&mut sums.as_slice_mut().slice_mut(first..first + chunks)).into(),
                turn.len().into(),
                chunks.into(),
            ],
            geometry: Geometry {
                groups: grid(chunks),
                grid: [chunks as u32, 1, 1],
                threads: 256,
                shared_bytes: 0,
            },
        })?;
        first += chunks;
    }
    gpu.call(&Call {
        kernel: &GRAD_NORM,
        variant: variant("total"),
        args: &[sums.as_slice().into(), (&mut out).into(), count.into()],
        geometry: Geometry {
            groups: [1, 1, 1],
            grid: [1, 1, 1],
            threads: 256,
            shared_bytes: 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn what_is_not_finite_shows() {
        let cpu = Device::cpu();
        let mut out = cpu.alloc(NORM).unwrap();
        for (bad, nan) in [
            (f32::NAN, true),
            (f32::INFINITY, false),
            (f32::NEG_INFINITY, false),
            // Its square is beyond the range.
            (2e19, false),
        ] {
            let mut values = vec![1e-3f32; 3 * CHUNK + 8];
            values[2 * CHUNK + 5] = bad;
            let gradient = cpu.upload(&values).unwrap();
            grad_norm(&[gradient.as_slice()], &mut out).unwrap();
            let sum = out.read().unwrap()[0];
            assert_eq!((sum.is_nan(), sum.is_finite()), (nan, false), "{bad}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cpu = Device::cpu();
        let gradient = cpu.upload(&[1f32; 12]).unwrap();
        let mut out = cpu.alloc(NORM).unwrap();
        let error = grad_norm(&[gradient.as_slice()], &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in grad_norm: gradients: expected rows of 8, got 12"
        );
        let mut short = cpu.alloc(1).unwrap();
        assert!(grad_norm(&[], &mut short).is_err());
        grad_norm(&[], &mut out).unwrap();
        assert_eq!(out.read().unwrap(), [0.0; NORM]);
    }
}
