//! The product on the processor: the `gemm` crate's, in panels, each finished while it is in cache, and for few rows that
//! of `few.rs`.

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Dims, Epilogue, few};

/// Rows of one CPU panel: at least this many, so that packing `w` (once per panel) stays a few per cent of the work.
const PANEL: usize = 256;

/// Rows of a panel of `m`, and how many threads share one: all where there is no other.
pub(in crate::ops) fn panels(m: usize) -> (usize, Parallelism) {
    let threads = rayon::current_num_threads();
    let rows = m.div_ceil(threads).max(PANEL).min(m);
    let parallelism = if rows == m {
        Parallelism::Rayon(0)
    } else {
        Parallelism::None
    };
    (rows, parallelism)
}

/// `before_gelu`, if wanted, is as long as `c`.
pub(super) fn matmul(
    a: &[f32],
    w: &[f32],
    epilogue: &Epilogue<'_>,
    before_gelu: Option<&mut [f32]>,
    c: &mut [f32],
    dims: Dims,
) {
    let Dims { m, n, k } = dims;
    if m == 0 {
        return;
    }
    let bias = epilogue.bias.map(|b| b.host());
    let residual = epilogue.residual.map(|b| b.host());
    let turned = few::product(a, w, dims);
    let (panel, parallelism) = match turned {
        Some(_) => (m.div_ceil(rayon::current_num_threads()), Parallelism::None),
        None => panels(m),
    };
    let mut saved = before_gelu.map(|saved| saved.chunks_mut(panel * n));
    let jobs: Vec<_> = c
        .chunks_mut(panel * n)
        .map(|c| (c, saved.as_mut().and_then(Iterator::next)))
        .collect();
    jobs.into_par_iter()
        .enumerate()
        .for_each(|(i, (c, saved))| {
            let first_row = i * panel;
            let rows = c.len() / n;
            match &turned {
                Some(turned) => turned.write(first_row, c, n),
                None => product(&a[first_row * k..], w, c, rows, n, k, parallelism),
            }
            if bias.is_some() || epilogue.gelu || residual.is_some() {
                let residual = residual.map(|r| &r[first_row * n..][..rows * n]);
                finish(c, bias, epilogue.gelu, saved, residual, n);
            }
        });
}

/// The epilogue on a panel of rows of width `n`; `saved` and `residual` are as long as `c`.
#[multiversion(targets = "simd")]
fn finish(
    c: &mut [f32],
    bias: Option<&[f32]>,
    use_gelu: bool,
    mut saved: Option<&mut [f32]>,
    residual: Option<&[f32]>,
    n: usize,
) {
    for (r, row) in c.chunks_exact_mut(n).enumerate() {
        if let Some(bias) = bias {
            for (v, &b) in row.iter_mut().zip(bias) {
                *v += b;
            }
        }
        if let Some(saved) = &mut saved {
            saved[r * n..][..n].copy_from_slice(row);
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

/// A matrix in memory: element `(i, j)` is `values[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` elements.
    pub fn rows(values: &'a [f32], width: usize) -> Self {
        Matrix {
            values,
            row: width,
            column: 1,
        }
    }

    /// The transpose of rows of `width` elements.
    pub fn columns(values: &'a [f32], width: usize) -> Self {
        Matrix {
            values,
            row: 1,
            column: width,
        }
    }

    /// Whether all of `rows` x `columns` elements are there.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = |count: usize, stride| count.saturating_sub(1) * stride;
        rows * columns == 0 || last(rows, self.row) + last(columns, self.column) < self.values.len()
    }
}

/// `c = a b`, or `c += a b` where it `adds`; `a` `[m, k]`, `b` `[k, n]`, `c` `[m, n]` row-major.
pub(in crate::ops) fn multiply(
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    adds: bool,
    [m, n, k]: [usize; 3],
    parallelism: Parallelism,
) {
    assert!(a.holds(m, k) && b.holds(k, n) && c.len() >= m * n);
    // SAFETY: the operands hold all of m k and k n elements at their strides, and `c` m n (asserted above); `c` is
    // borrowed mutably and overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            adds,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
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
    let (a, w) = (Matrix::rows(a, k), Matrix::columns(w, k));
    multiply(a, w, c, false, [m, n, k], parallelism);
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
