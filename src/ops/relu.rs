//! `x = x` where `gate > 0`, else 0, in place
//!
//! The gate is `x` itself in the forward, and in the backward, where `x` is the gradient in the result, that result. Values
//! that stay keep their bits. Cost: one read and one write of `x`, and one read of the gate: memory bound everywhere.
//! Comes after a [`mod@super::matmul`] without GELU.

use multiversion::multiversion;
use rayon::prelude::*;

use super::OpSpec;
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "relu",
    formula: "x = x where gate > 0, else 0",
    kernels: &[],
    ptx: None,
    ptx_variants: Vec::new,
    wgsl: None,
    wgsl_variants: Vec::new,
};

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
        Target::Gpu(_) => Err(SPEC.unsupported(device, "it has no kernel")),
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
