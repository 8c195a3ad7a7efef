//! The product of few rows on the processor: a query's tokens, a pair of texts, the queries of a search.
//!
//! A product in general packs both operands, so that its innermost loop reads them in order. For few rows packing `w` takes
//! longer than multiplying by it: where its rows are 1,536 wide, and so a multiple of a cache way apart, up to five times.
//! Here `w` is read once as it lies, and the few rows are packed instead, columns first: every value of `w` is multiplied
//! by a vector of as many rows of `a` as a tile is wide, and sums stay in registers.
//!
//! The result comes out with columns first, too; it is turned around by rows, just before the epilogue, or used as it is: what
//! is wanted of every row of `w` then lies side by side for all of the few, as in a vector of maxima over `w`.
//!
//! The loop is written in vectors: from arrays the compiler makes vectors of either index of a tile, and of the wrong one
//! it is thirty times as slow.

use std::borrow::Cow;

use gemm::Parallelism;
use rayon::prelude::*;

use super::Dims;
use super::cpu::product as general;
#[cfg(target_arch = "x86_64")]
use x86::kernels;

/// Rows of `a` up to which this is faster than packing `w`.
const MOST: usize = 128;

/// Rows of `a` in a tile.
const LANES: usize = 16;

/// Rows of `w` that a thread takes at a time: a multiple of every tile's, few enough for several threads to share 384.
const TASK: usize = 48;

/// Rows of `w` come in multiples of these: every tile's are a divisor.
pub(in crate::ops) const STEP: usize = 8;

/// Adds all of `a`, which is packed, times some rows of `w`, `k` wide and a multiple of [`STEP`] in number, to as many rows
/// of `c^T`.
type Kernel = fn(a: &[f32], w: &[f32], turned: &mut [f32], k: usize);

/// The kernels that this processor has instructions for, the fastest one first.
#[cfg(not(target_arch = "x86_64"))]
fn kernels() -> Vec<Kernel> {
    Vec::new()
}

/// Rows `[m, k]`, made ready for products with the rows of other matrices; `k` is a multiple of 8.
pub(in crate::ops) struct Few<'a> {
    /// `None` where none suits the processor: rows are as they were then.
    kernel: Option<Kernel>,
    values: Cow<'a, [f32]>,
    columns: usize,
    k: usize,
}

impl<'a> Few<'a> {
    /// Of rows of width `k`.
    pub fn new(rows: impl Into<Cow<'a, [f32]>>, k: usize) -> Self {
        Self::by(kernels().first().copied(), rows.into(), k)
    }

    fn by(kernel: Option<Kernel>, rows: Cow<'a, [f32]>, k: usize) -> Self {
        let m = rows.len() / k;
        let (values, columns) = match kernel {
            Some(_) => {
                let columns = m.next_multiple_of(LANES);
                (pack(&rows, k, columns).into(), columns)
            }
            None => (rows, m),
        };
        Few {
            kernel,
            values,
            columns,
            k,
        }
    }

    /// How many columns a product has: at least as many as there are rows, of which those behind them are zero.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `turned = w rows^T` `[n, columns]`, on this thread alone; `w` is `[n, k]`, `n` a multiple of [`STEP`].
    pub fn times(&self, w: &[f32], turned: &mut Vec<f32>) {
        turned.clear();
        turned.resize(w.len() / self.k * self.columns, 0.0);
        if turned.is_empty() {
            return;
        }
        match self.kernel {
            Some(kernel) => kernel(&self.values, w, turned, self.k),
            None => {
                let n = w.len() / self.k;
                let (m, one) = (self.columns, Parallelism::None);
                general(w, &self.values, turned, n, m, self.k, one);
            }
        }
    }
}

/// `c^T = w a^T` `[n, columns]`, `columns` being `m` rounded up to whole tiles; `None` where packing `w` is worth it, or no
/// kernel suits the processor. `n` and `k` are multiples of 8.
pub(super) fn product(a: &[f32], w: &[f32], dims: Dims) -> Option<Turned> {
    if dims.m > MOST {
        return None;
    }
    let kernel = *kernels().first()?;
    Some(multiply(kernel, a, w, dims))
}

fn multiply(kernel: Kernel, a: &[f32], w: &[f32], Dims { m, n, k }: Dims) -> Turned {
    let few = Few::by(Some(kernel), a[..m * k].into(), k);
    let columns = few.columns;
    let mut values = vec![0f32; n * columns];
    let tasks = values.par_chunks_mut(TASK * columns);
    tasks
        .zip(w.par_chunks(TASK * k))
        .for_each(|(turned, w)| kernel(&few.values, w, turned, k));
    Turned { values, columns }
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

/// A product by columns.
pub(super) struct Turned {
    /// `[n, columns]`.
    values: Vec<f32>,
    columns: usize,
}

impl Turned {
    /// Writes rows of `c` `[., n]`, the first of which is number `first`.
    pub fn write(&self, first: usize, c: &mut [f32], n: usize) {
        for (r, row) in c.chunks_exact_mut(n).enumerate() {
            let column = self.values[first + r..].iter().step_by(self.columns);
            for (c, &value) in row.iter_mut().zip(column) {
                *c = value;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_set1_ps,
        _mm512_fmadd_ps, _mm512_set1_ps,
    };

    use super::{Kernel, LANES};

    /// Elements of `k` between two checks that there are more.
    const UNROLLED: usize = 4;

    /// Elements of `k` that are summed up by themselves, so that rounding grows with their number and that of the sums, not
    /// with `k`.
    const BLOCK: usize = 256;

    /// Steps of [`UNROLLED`] elements in which a cache line of a row is used up. A tile's rows are read side by side, in an order
    /// that the processor does not foresee, so that lines have to be asked for.
    const STEPS: usize = 64 / size_of::<[f32; UNROLLED]>();

    /// The kernels that this processor has instructions for, the fastest one first.
    pub fn kernels() -> Vec<Kernel> {
        let mut kernels: Vec<Kernel> = Vec::new();
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            kernels.push(|a, w, turned, k| unsafe { avx512::product(a, w, turned, k) });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            kernels.push(|a, w, turned, k| unsafe { avx2::product(a, w, turned, k) });
        }
        kernels
    }

    /// A kernel whose tile of `$rows` rows of `w` and `$groups` times [`LANES`] of `a` takes half of the registers or fewer.
    macro_rules! kernel {
        ($name:ident, $features:literal, $vector:ty, $rows:literal, $groups:literal, $splat:ident, $multiply_add:ident) => {
            mod $name {
                use super::*;

                #[target_feature(enable = $features)]
                pub fn product(packed: &[f32], w: &[f32], turned: &mut [f32], k: usize) {
                    let columns = packed.len() / k;
                    let tiles = turned.chunks_exact_mut($rows * columns);
                    for (turned, w) in tiles.zip(w.chunks_exact($rows * k)) {
                        let together = packed.chunks_exact($groups * LANES * k);
                        let rest = together.remainder().chunks_exact(LANES * k);
                        let mut first = 0;
                        for a in together {
                            tile::<$groups>(a, w, turned, k, first);
                            first += $groups * LANES;
                        }
                        for a in rest {
                            tile::<1>(a, w, turned, k, first);
                            first += LANES;
                        }
                    }
                }

                /// Some groups of `a`, the first of which is the column `first`, with a tile's rows of `w`.
                #[target_feature(enable = $features)]
                #[inline]
                fn tile<const G: usize>(
                    a: &[f32],
                    w: &[f32],
                    turned: &mut [f32],
                    k: usize,
                    first: usize,
                ) {
                    const VECTORS: usize = LANES * size_of::<f32>() / size_of::<$vector>();
                    let columns = turned.len() / $rows;
                    for block in (0..k).step_by(BLOCK) {
                        let n = BLOCK.min(k - block);
                        let mut groups: [&[[[f32; LANES]; UNROLLED]]; G] = [&[]; G];
                        for g in 0..G {
                            let a = &a[(g * k + block) * LANES..][..n * LANES];
                            groups[g] = a.as_chunks().0.as_chunks().0;
                        }
                        let mut rows: [&[[f32; UNROLLED]]; $rows] = [&[]; $rows];
                        for r in 0..$rows {
                            rows[r] = w[r * k + block..][..n].as_chunks().0;
                        }
                        let mut sums = [[[$splat(0.0); VECTORS]; G]; $rows];
                        for step in 0..n / UNROLLED {
                            if first == 0 {
                                // One line of every row of the next tile by the time that this one's is used up.
                                for r in (step % STEPS..$rows).step_by(STEPS) {
                                    let at = ($rows + r) * k + block + step * UNROLLED;
                                    let at = w.as_ptr().wrapping_add(at);
                                    _mm_prefetch::<_MM_HINT_T0>(at.cast());
                                }
                            }
                            for u in 0..UNROLLED {
                                let mut a = [[$splat(0.0); VECTORS]; G];
                                for g in 0..G {
                                    a[g] = bytemuck::cast(groups[g][step][u]);
                                }
                                for r in 0..$rows {
                                    let w = $splat(rows[r][step][u]);
                                    for g in 0..G {
                                        for v in 0..VECTORS {
                                            sums[r][g][v] =
                                                $multiply_add(w, a[g][v], sums[r][g][v]);
                                        }
                                    }
                                }
                            }
                        }
                        for r in 0..$rows {
                            for g in 0..G {
                                let sums: [f32; LANES] = bytemuck::cast(sums[r][g]);
                                let totals =
                                    &mut turned[r * columns + first + g * LANES..][..LANES];
                                for (total, sum) in totals.iter_mut().zip(sums) {
                                    *total += sum;
                                }
                            }
                        }
                    }
                }
            }
        };
    }

    kernel!(
        avx512,
        "avx512f",
        __m512,
        8,
        2,
        _mm512_set1_ps,
        _mm512_fmadd_ps
    );
    kernel!(
        avx2,
        "avx2,fma",
        __m256,
        4,
        1,
        _mm256_set1_ps,
        _mm256_fmadd_ps
    );
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
        let shapes = [
            (1, 8, 8),
            (15, 40, 24),
            (16, 48, 264),
            (17, 56, 8),
            (40, 104, 520),
            (70, 16, 8),
        ];
        for (kernel, (m, n, k)) in kernels()
            .into_iter()
            .flat_map(|kernel| shapes.map(|s| (kernel, s)))
        {
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let w: Vec<f32> = (0..n * k).map(|i| value(i + 7)).collect();
            let turned = multiply(kernel, &a, &w, Dims { m, n, k });
            let mut c = vec![f32::NAN; m * n];
            // In two pieces, as two threads take them.
            let (first, rest) = c.split_at_mut(m / 2 * n);
            turned.write(0, first, n);
            turned.write(m / 2, rest, n);
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
