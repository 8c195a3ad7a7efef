//! The product on the processor: the `gemm` crate's, in panels, each finished while it is in cache.

use std::f32::consts::FRAC_1_SQRT_2;

use multiversion::multiversion;
use rayon::prelude::*;

use super::Dims;
use crate::ops::matmul::{Matrix, erf, multiply, panels};
use crate::ops::simd;

pub(super) fn matmul_nn(
    a: &[f32],
    w: &[f32],
    gelu_of: Option<&[f32]>,
    residual: Option<&[f32]>,
    c: &mut [f32],
    dims: Dims,
) {
    let Dims { m, n, k } = dims;
    if m == 0 {
        return;
    }
    let (panel, parallelism) = panels(m);
    let jobs = c.par_chunks_mut(panel * k).enumerate();
    jobs.for_each(|(i, c)| {
        let first_row = i * panel;
        let rows = c.len() / k;
        let a = Matrix::rows(&a[first_row * n..], n);
        multiply(a, Matrix::rows(w, k), c, false, [rows, k, n], parallelism);
        let [gelu_of, residual] =
            [gelu_of, residual].map(|values| Some(&values?[first_row * k..][..rows * k]));
        if gelu_of.is_some() || residual.is_some() {
            finish(c, gelu_of, residual);
        }
    });
}

/// The epilogue on a panel; all are equally long.
#[multiversion(targets = "simd")]
fn finish(c: &mut [f32], gelu_of: Option<&[f32]>, residual: Option<&[f32]>) {
    if let Some(gelu_of) = gelu_of {
        for (v, &u) in c.iter_mut().zip(gelu_of) {
            *v *= gelu_slope(u);
        }
    }
    if let Some(residual) = residual {
        for (v, &r) in c.iter_mut().zip(residual) {
            *v += r;
        }
    }
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    /// `1 / sqrt(2 pi)`.
    const PEAK: f32 = 0.398_942_3;
    let bell = simd::exp_nonpositive(-0.5 * x * x);
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * PEAK * bell
}

#[cfg(test)]
mod tests {
    use super::super::reference::{slope, slope_bound};
    use super::*;
    use crate::DeviceKind;
    use crate::ops::Rounding;

    #[test]
    fn the_slope_stays_within_its_bound() {
        let rounding = Rounding::of(DeviceKind::Cpu);
        let near = (-150_000..=150_000).map(|i| i as f32 * 1e-4);
        // Far out nothing overflows.
        for x in near.chain([-65_504.0, 65_504.0, -1e30, 1e30]) {
            let (got, want) = (f64::from(gelu_slope(x)), slope(x.into()));
            let bound = slope_bound(x.into(), &rounding);
            assert!(
                (got - want).abs() <= bound,
                "{x}: {got} for {want}, {bound:e}"
            );
        }
        assert!(gelu_slope(f32::NAN).is_nan());
    }
}
