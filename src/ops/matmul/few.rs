//! The product of few rows on the processor: a query's tokens, a pair of texts.
//!
//! A product in general packs both operands, so that its innermost loop reads them in order. For few rows packing `w` takes
//! longer than multiplying by it: at 1,536 columns, whose rows lie a multiple of the cache's ways apart, six times as long.
//! Here `w` is read once as it lies, and the few rows are packed instead, columns first: every value of `w` is multiplied
//! by a vector of as many rows of `a` as a tile is wide, and sums stay in registers over all of `k`.
//!
//! The result comes out with columns first, too; it is turned around by rows, just before the epilogue.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::Dims;

/// Rows of `a` up to which this is faster than packing `w`.
pub(super) const MOST: usize = 128;

/// Rows of `a` in a tile.
const LANES: usize = 16;

/// Elements of `k` between two checks that there are more.
const UNROLLED: usize = 4;

/// Rows of `w` that a thread takes at a time: a multiple of every tile's, few enough for several threads to share 384.
const TASK: usize = 48;

/// `c^T = w a^T` `[n, columns]`, `columns` being `m` rounded up to whole tiles. `n` and `k` are multiples of 8.
pub(super) fn product(a: &[f32], w: &[f32], dims: Dims) -> (Vec<f32>, usize) {
    let Dims { m, n, k } = dims;
    let columns = m.next_multiple_of(LANES);
    let packed = pack(&a[..m * k], k, columns);
    let mut turned = vec![0f32; n * columns];
    let tasks = turned.par_chunks_mut(TASK * columns);
    tasks
        .zip(w.par_chunks(TASK * k))
        .for_each(|(turned, w)| tiles(&packed, w, turned, k));
    (turned, columns)
}

/// Rows of `a` in groups of [`LANES`], in each of which the elements of a column lie together; rows that are not there are
/// zero.
fn pack(a: &[f32], k: usize, columns: usize) -> Vec<f32> {
    let mut packed = vec![0f32; columns * k];
    for (group, rows) in packed.chunks_exact_mut(LANES * k).zip(a.chunks(LANES * k)) {
        for (lane, row) in rows.chunks_exact(k).enumerate() {
            for (column, &value) in group.as_chunks_mut::<LANES>().0.iter_mut().zip(row) {
                column[lane] = value;
            }
        }
    }
    packed
}

/// All of `packed` times some rows of `w`, in tiles that fill half of the registers there are.
#[multiversion(targets = "simd")]
fn tiles(packed: &[f32], w: &[f32], turned: &mut [f32], k: usize) {
    if target_cfg_f!(target_feature = "avx512f") {
        tiles_of::<8>(packed, w, turned, k);
    } else {
        tiles_of::<4>(packed, w, turned, k);
    }
}

#[inline(always)]
fn tiles_of<const ROWS: usize>(packed: &[f32], w: &[f32], turned: &mut [f32], k: usize) {
    let columns = packed.len() / k;
    let jobs = turned.chunks_exact_mut(ROWS * columns);
    for (turned, w) in jobs.zip(w.chunks_exact(ROWS * k)) {
        for (group, a) in packed.chunks_exact(LANES * k).enumerate() {
            let sums = tile::<ROWS>(a, w, k);
            for (row, sums) in turned.chunks_exact_mut(columns).zip(sums) {
                row[group * LANES..][..LANES].copy_from_slice(&sums);
            }
        }
    }
}

/// Products of `ROWS` rows of `w` with [`LANES`] of `a`, which are packed. The sums stay in registers as long as every
/// index of `tile` is a constant, nothing is checked between them and nothing called (a closure may be).
#[inline(always)]
fn tile<const ROWS: usize>(a: &[f32], w: &[f32], k: usize) -> [[f32; LANES]; ROWS] {
    let mut tile = [[0f32; LANES]; ROWS];
    let a = a.as_chunks::<LANES>().0.as_chunks::<UNROLLED>().0;
    let mut rows: [&[[f32; UNROLLED]]; ROWS] = [&[]; ROWS];
    for r in 0..ROWS {
        rows[r] = w[r * k..][..k].as_chunks().0;
    }
    for (step, a) in a.iter().enumerate() {
        let mut w = [&[0f32; UNROLLED]; ROWS];
        for r in 0..ROWS {
            w[r] = &rows[r][step];
        }
        for u in 0..UNROLLED {
            for r in 0..ROWS {
                for lane in 0..LANES {
                    tile[r][lane] = w[r][u].mul_add(a[u][lane], tile[r][lane]);
                }
            }
        }
    }
    tile
}

/// Writes rows of `c` `[., n]`, the first of which is number `first`, from their columns.
pub(super) fn turn(turned: &[f32], columns: usize, first: usize, c: &mut [f32], n: usize) {
    for (r, row) in c.chunks_exact_mut(n).enumerate() {
        let column = turned[first + r..].iter().step_by(columns);
        for (c, &value) in row.iter_mut().zip(column) {
            *c = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceKind;
    use crate::ops::Rounding;

    #[test]
    fn every_number_of_rows_and_tiles_is_the_sum_of_its_products() {
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 64.0;
        let g = |terms| Rounding::of(DeviceKind::Cpu).g(terms);
        for (m, n, k) in [
            (1, 8, 8),
            (15, 40, 24),
            (16, 48, 16),
            (17, 56, 8),
            (40, 104, 72),
        ] {
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let w: Vec<f32> = (0..n * k).map(|i| value(i + 7)).collect();
            let (turned, columns) = product(&a, &w, Dims { m, n, k });
            let mut c = vec![f32::NAN; m * n];
            // In two pieces, as two threads take them.
            let (first, rest) = c.split_at_mut(m / 2 * n);
            turn(&turned, columns, 0, first, n);
            turn(&turned, columns, m / 2, rest, n);
            for (i, c) in c.iter().enumerate() {
                let (a, w) = (&a[i / n * k..][..k], &w[i % n * k..][..k]);
                let products = a.iter().zip(w).map(|(a, w)| f64::from(*a) * f64::from(*w));
                let exact: f64 = products.clone().sum();
                let bound = g(k) * products.map(f64::abs).sum::<f64>();
                assert!((f64::from(*c) - exact).abs() <= bound, "{m} {n} {k}: {i}");
            }
        }
    }
}
