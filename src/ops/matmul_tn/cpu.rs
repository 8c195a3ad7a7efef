//! The product on the processor: the `gemm` crate's, rows of the result dealt out to threads.

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::Dims;
use crate::ops::matmul::{Matrix, multiply};

/// Rows of the result that a thread makes, at least: each packs all of `b` for itself.
const ROWS: usize = 96;

/// Columns whose sums a thread makes, a few cache lines of each row.
const COLUMNS: usize = 64;

pub(super) fn matmul_tn(
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    column_sums: Option<&mut [f32]>,
    dims: Dims,
) {
    let Dims { t, n, k } = dims;
    if t == 0 {
        return;
    }
    let threads = rayon::current_num_threads();
    let rows = n.div_ceil(threads).next_multiple_of(8).min(n);
    if rows < ROWS {
        let (a, b) = (Matrix::columns(a, n), Matrix::rows(b, k));
        multiply(a, b, c, true, [n, k, t], Parallelism::Rayon(0));
    } else {
        c.par_chunks_mut(rows * k).enumerate().for_each(|(i, c)| {
            let (a, b) = (Matrix::columns(&a[i * rows..], n), Matrix::rows(b, k));
            multiply(a, b, c, true, [c.len() / k, k, t], Parallelism::None);
        });
    }
    if let Some(sums) = column_sums {
        let jobs = sums.par_chunks_mut(COLUMNS).enumerate();
        jobs.for_each(|(i, sums)| add_columns(a, n, i * COLUMNS, sums));
    }
}

/// Adds the columns of `a` `[t, n]` from `first` on to `sums`, one row after the other.
#[multiversion(targets = "simd")]
fn add_columns(a: &[f32], n: usize, first: usize, sums: &mut [f32]) {
    for row in a.chunks_exact(n) {
        for (sum, &v) in sums.iter_mut().zip(&row[first..]) {
            *sum += v;
        }
    }
}
