//! The product on the processor: the `gemm` crate's, in panels, each finished while it is in cache.

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Dims, Epilogue};

/// Rows of one CPU panel: at least this many, so that packing `w` (once per panel) stays a few per cent of the work.
const PANEL: usize = 256;

pub(super) fn matmul(a: &[f32], w: &[f32], epilogue: &Epilogue<'_>, c: &mut [f32], dims: Dims) {
    let Dims { m, n, k } = dims;
    if m == 0 {
        return;
    }
    let bias = epilogue.bias.map(|b| b.host());
    let residual = epilogue.residual.map(|b| b.host());
    let threads = rayon::current_num_threads();
    let panel = m.div_ceil(threads).max(PANEL).min(m);
    c.par_chunks_mut(panel * n).enumerate().for_each(|(i, c)| {
        let first_row = i * panel;
        let rows = c.len() / n;
        let parallelism = if rows == m {
            Parallelism::Rayon(0)
        } else {
            Parallelism::None
        };
        product(&a[first_row * k..], w, c, rows, n, k, parallelism);
        if bias.is_some() || epilogue.gelu || residual.is_some() {
            let residual = residual.map(|r| &r[first_row * n..][..rows * n]);
            finish(c, bias, epilogue.gelu, residual, n);
        }
    });
}

/// The epilogue on a panel of rows of width `n`; `residual` is as long as `c`.
#[multiversion(targets = "simd")]
fn finish(c: &mut [f32], bias: Option<&[f32]>, use_gelu: bool, residual: Option<&[f32]>, n: usize) {
    for row in c.chunks_exact_mut(n) {
        if let Some(bias) = bias {
            for (v, &b) in row.iter_mut().zip(bias) {
                *v += b;
            }
        }
        if use_gelu {
            row.iter_mut().for_each(|v| *v = gelu(*v));
        }
    }
    if let Some(residual) = residual {
        for (v, &r) in c.iter_mut().zip(residual) {
            *v += r;
        }
    }
}

/// `c = a w^T`, `a` `[m, k]`, `w` `[n, k]`, `c` `[m, n]`, all row-major.
pub(in crate::ops) fn product(
    a: &[f32],
    w: &[f32],
    c: &mut [f32],
    m: usize,
    n: usize,
    k: usize,
    parallelism: Parallelism,
) {
    assert!(a.len() >= m * k && w.len() >= n * k && c.len() >= m * n);
    // SAFETY: the three slices hold at least m k, n k and m n elements (asserted above), which is what the strides
    // reach; `c` is borrowed mutably and overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `erf(x)` for f32, from a rational fit of our own: `x P(x^2) / Q(x^2)` on `|x| <= 3.92`, where the fit is within
/// `ERF_FIT` of `reference.rs`; beyond, `|erf|` is 1 to within 3.0e-8 and the argument is clamped. All coefficients are positive, so
/// nothing cancels and rounding costs at most 34 units (see `error_bound`). The shader and the PTX kernel use the
/// same form.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.92, 3.92);
    let t = x * x;
    let mut p = ERF_P[5];
    let mut q = ERF_Q[5];
    for i in (0..5).rev() {
        p = p.mul_add(t, ERF_P[i]);
        q = q.mul_add(t, ERF_Q[i]);
    }
    x * p / q
}

#[allow(
    clippy::approx_constant,
    reason = "a fitted coefficient: near 2 / sqrt(pi), the slope of erf at 0, but not it"
)]
const ERF_P: [f32; 6] = [
    1.128_379,
    0.192_763_05,
    0.053_060_345,
    0.003_868_281_4,
    0.000_287_477_95,
    2.034_738_4e-6,
];
const ERF_Q: [f32; 6] = [
    1.0,
    0.504_163_44,
    0.115_084_2,
    0.015_172_207,
    0.001_188_103_1,
    3.807_059_7e-5,
];

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::super::reference::{ERF_FIT, erf_exact};
    use super::*;
    use crate::ops::Rounding;

    #[test]
    fn erf_matches_known_values() {
        // Digits from Abramowitz and Stegun, table 7.1.
        for (x, value) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.5, 0.999_999_256_901_627_7),
        ] {
            assert!((erf_exact(x) - value).abs() < 1e-14, "{x}");
            assert!((erf_exact(-x) + value).abs() < 1e-14, "-{x}");
        }
    }

    #[test]
    fn fast_erf_stays_within_its_bound() {
        let bound = ERF_FIT + Rounding::of(crate::DeviceKind::Cpu).g(35);
        let mut worst = 0f64;
        for i in -600_000..=600_000 {
            let x = i as f32 * 1e-5;
            worst = worst.max((f64::from(erf(x)) - erf_exact(x.into())).abs());
        }
        assert!(worst <= bound, "{worst:e} > {bound:e}");
        // The fit alone, in f64 with the same coefficients.
        let fit = |x: f64| {
            let t = x * x;
            let horner = |c: &[f32; 6]| c.iter().rev().fold(0.0, |s, &c| s * t + f64::from(c));
            x * horner(&ERF_P) / horner(&ERF_Q)
        };
        let worst = (0..=39_200)
            .map(|i| f64::from(i) * 1e-4)
            .map(|x| (fit(x) - erf_exact(x)).abs())
            .fold(0.0, f64::max);
        assert!(worst <= ERF_FIT, "{worst:e} > {ERF_FIT:e}");
    }
}
