//! `x = x` where `gate > 0`, else 0, in place
//!
//! The gate is `x` itself in the forward, and in the backward, where `x` is the gradient in the result, that result. Values
//! that stay keep their bits. Cost: one read and one write of `x`, and one read of the gate: memory bound everywhere.
//! Comes after a [`mod@super::matmul`] without GELU.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{FLOATS, OpSpec, grid, in_every_tier, rows_per_binding};
use crate::device::template::{Source, Variant};
use crate::device::{
    Call, Cost, ElementType, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target,
};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "relu",
    formula: "x = x where gate > 0, else 0",
    kernels: &[RELU],
    ptx: RELU.ptx,
    ptx_variants: variants,
    wgsl: RELU.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const RELU: Kernel = Kernel {
    entry: "relu",
    params: &[
        Param::write("x"),
        Param::read("gate").optional(),
        Param::u32("n"),
    ],
    ptx: Some(Source {
        file: "relu.ptx",
        text: include_str!("../../kernels/relu.ptx"),
    }),
    wgsl: Some(Source {
        file: "relu.wgsl",
        text: include_str!("../../shaders/relu.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel.
const BLOCK: usize = 256;

/// Bytes that a thread takes.
const UNIT: usize = 16;

/// Sets to 0 what is not above 0 in `gate`, or in `x` itself without one; `x` holds a multiple of 8 elements, and `gate` as
/// many.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit.
///
/// ```
/// use nearmiss::{Device, ops::relu};
/// let cpu = Device::cpu();
/// let mut x = cpu.upload(&[-1.0f32, 2.0, -3.0, 4.0, -5.0, 6.0, -7.0, 8.0])?;
/// relu(&mut x, None)?;
/// assert_eq!(x.read()?, [0.0, 2.0, 0.0, 4.0, 0.0, 6.0, 0.0, 8.0]);
/// let mut gradient = cpu.upload(&[-1.0f32; 8])?;
/// relu(&mut gradient, Some(x.as_slice()))?;
/// assert_eq!(gradient.read()?, [0.0, -1.0, 0.0, -1.0, 0.0, -1.0, 0.0, -1.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn relu<'a, T: Float>(x: impl Into<SliceMut<'a, T>>, gate: Option<Slice<'_, T>>) -> Result<()> {
    let mut x = x.into();
    let device = x.device();
    let check = SPEC.checks(device);
    let n = 8 * check.rows("x", &x, 8)?;
    check.optional("gate", &gate, n)?;
    let per_element = if gate.is_some() { 3 } else { 2 };
    let cost = Cost {
        flop: n as u64,
        bytes: (n * per_element * size_of::<T>()) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(x.host(), gate.map(|gate| gate.host()));
            Ok(())
        }
        Target::Gpu(on) => gpu(on, x, gate),
    })
}

/// The definition: what `x` holds afterwards.
#[doc(hidden)]
pub fn reference<T: Float>(x: &[T], gate: Option<&[T]>) -> Vec<T> {
    let kept = |(&x, gate): (&T, &T)| {
        if gate.to_f32() > 0.0 {
            x
        } else {
            T::from_f32(0.0)
        }
    };
    x.iter().zip(gate.unwrap_or(x)).map(kept).collect()
}

/// Elements of one task.
const TASK: usize = 1 << 14;

fn cpu<T: Float>(x: &mut [T], gate: Option<&[T]>) {
    match gate {
        Some(gate) => x
            .par_chunks_mut(TASK)
            .zip(gate.par_chunks(TASK))
            .for_each(|(x, gate)| gated(x, gate)),
        None => x.par_chunks_mut(TASK).for_each(|x| by_itself(x)),
    }
}

#[multiversion(targets = "simd")]
fn gated<T: Float>(x: &mut [T], gate: &[T]) {
    for (x, gate) in x.iter_mut().zip(gate) {
        *x = if gate.to_f32() > 0.0 {
            *x
        } else {
            T::from_f32(0.0)
        };
    }
}

#[multiversion(targets = "simd")]
fn by_itself<T: Float>(x: &mut [T]) {
    for x in x {
        *x = if x.to_f32() > 0.0 {
            *x
        } else {
            T::from_f32(0.0)
        };
    }
}

fn variant(act: ElementType, gated: bool) -> Variant {
    Variant::new().with("act", act.name()).with("gated", gated)
}

fn variants() -> Vec<Variant> {
    let of = |act| [false, true].map(|gated| variant(act, gated));
    FLOATS.map(of).concat()
}

/// What is beyond one binding goes in turns.
fn gpu<T: Float>(gpu: Gpu<'_>, mut x: SliceMut<'_, T>, gate: Option<Slice<'_, T>>) -> Result<()> {
    let unit = UNIT / size_of::<T>();
    let units = x.len() / unit;
    let at_once = rows_per_binding(gpu, UNIT);
    for first in (0..units).step_by(at_once) {
        let end = (first + at_once).min(units);
        let elements = first * unit..end * unit;
        gpu.call(&Call {
            kernel: &RELU,
            variant: variant(T::TYPE, gate.is_some()),
            args: &[
                (&mut x.slice_mut(elements.clone())).into(),
                gate.map(|gate| gate.slice(elements)).into(),
                (end - first).into(),
            ],
            geometry: Geometry {
                groups: grid((end - first).div_ceil(64)),
                grid: [(end - first).div_ceil(BLOCK) as u32, 1, 1],
                threads: BLOCK as u32,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::Device;

    #[test]
    fn the_gate_decides_and_zero_is_closed() {
        let cpu = Device::cpu();
        let x: Vec<f16> = (0..40_000)
            .map(|i| f16::from_f32(1.0 - (i % 7) as f32))
            .collect();
        let gate: Vec<f16> = (0..40_000)
            .map(|i| f16::from_f32((i % 3) as f32 - 1.0))
            .collect();
        for gate in [None, Some(&gate[..])] {
            let mut changed = cpu.upload(&x).unwrap();
            let on_device = gate.map(|gate| cpu.upload(gate).unwrap());
            relu(&mut changed, on_device.as_ref().map(|gate| gate.as_slice())).unwrap();
            let changed = changed.read().unwrap();
            assert_eq!(changed, reference(&x, gate));
            let open = |i: usize| gate.unwrap_or(&x)[i] > f16::ZERO;
            assert!((0..40_000).all(|i| changed[i] == if open(i) { x[i] } else { f16::ZERO }));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let gate = cpu.upload(&[0f32; 8]).unwrap();
        let mut x = cpu.alloc::<f32>(16).unwrap();
        let error = relu(&mut x, Some(gate.as_slice())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in relu: gate: expected 16, got 8"
        );
    }
}
