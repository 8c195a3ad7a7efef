//! The loss on the processor: products of the `gemm` crate, rows in parallel between them.

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use crate::ops::{OwnRows, simd};

/// `scores` `[b, m]` is scratch.
pub(super) fn info_nce(
    args: &Args<'_>,
    scores: &mut [f32],
    losses: &mut [f32],
    d_anchors: &mut [f32],
    d_candidates: &mut [f32],
) {
    let &Args { b, m, d, .. } = args;
    let (anchors, candidates) = (args.anchors.host(), args.candidates.host());
    let owners = args.owners.map(|owners| owners.host());
    let rows = |values, width| Operand {
        values,
        row: width,
        column: 1,
    };
    let transposed = |values, width| Operand {
        values,
        row: 1,
        column: width,
    };
    product(
        [b, m, d],
        rows(anchors, d),
        transposed(candidates, d),
        args.scale,
        scores,
    );
    scores
        .par_chunks_exact_mut(m)
        .zip(&mut *losses)
        .enumerate()
        .for_each(|(i, (row, loss))| *loss = softmax(row, i, owners, args.factor));
    let scores = &*scores;
    product(
        [b, d, m],
        rows(scores, m),
        rows(candidates, d),
        1.0,
        d_anchors,
    );
    product(
        [m, d, b],
        transposed(scores, m),
        rows(anchors, d),
        1.0,
        d_candidates,
    );
}

/// Replaces the scores of anchor `i` by `G_i`; returns its loss.
#[multiversion(targets = "simd")]
fn softmax(row: &mut [f32], i: usize, owners: Option<&[u32]>, factor: f32) -> f32 {
    if let Some(owners) = owners {
        for (score, &owner) in row.iter_mut().zip(owners) {
            if owner != OwnRows::EVERYBODY && owner as usize != i {
                *score = f32::NEG_INFINITY;
            }
        }
    }
    let max = simd::max(row);
    let positive = row[i];
    // The exponential knows no NaN; who trains has to see one.
    let mut nan = false;
    for score in row.iter_mut() {
        let x = *score - max;
        nan |= x.is_nan();
        *score = simd::exp_nonpositive(x);
    }
    let own = std::mem::replace(&mut row[i], 0.0);
    let others = simd::sum(row, |v| v);
    let total = if nan { f32::NAN } else { others + own };
    let factor = factor / total;
    row.iter_mut().for_each(|v| *v *= factor);
    row[i] = -factor * others;
    (max - positive) + total.ln()
}

/// A matrix: the distances between its rows and between its columns.
#[derive(Clone, Copy)]
struct Operand<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

/// `c = factor a b`, `a` `[m, k]`, `b` `[k, n]`, `c` `[m, n]` row-major.
fn product([m, n, k]: [usize; 3], a: Operand<'_>, b: Operand<'_>, factor: f32, c: &mut [f32]) {
    let holds = |of: Operand<'_>, rows: usize, columns: usize| {
        of.values.len() > (rows - 1) * of.row + (columns - 1) * of.column
    };
    assert!(holds(a, m, k) && holds(b, k, n) && c.len() >= m * n);
    // SAFETY: the operands reach to their last elements and `c` holds `m n` (asserted above); `c` is borrowed mutably and
    // overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            0.0,
            factor,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}
