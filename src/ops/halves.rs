//! Rows of f16 on the processor: widened as they are read.
//!
//! The processor's own instructions widen 8 or 16 values at a time, in registers: a search with one query then takes about as
//! long as reading the rows.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::ops::simd;

/// Rows of another matrix that [`dots`] multiplies at once.
pub(super) const MOST: usize = 4;

/// `to = from`, value by value; as long as it.
pub(super) fn widen(from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    if x86::widen(from, to) {
        return;
    }
    plain_widen(from, to);
}

/// The same on any processor.
fn plain_widen(from: &[f16], to: &mut [f32]) {
    from.convert_to_f32_slice(to);
}

/// `products[r][q] = rows[r] . queries[q]`: `rows` `[n, d]`, 1 to [`MOST`] `queries` `[m, d]`, `products` `[n, m]`; `d` is a
/// multiple of 8.
pub(super) fn dots(queries: &[f32], rows: &[f16], d: usize, products: &mut [f32]) {
    assert!(queries.len().is_multiple_of(d) && (1..=MOST).contains(&(queries.len() / d)));
    assert!(d.is_multiple_of(8) && products.len() * d * d == queries.len() * rows.len());
    #[cfg(target_arch = "x86_64")]
    if x86::dots(queries, rows, d, products) {
        return;
    }
    plain(queries, rows, d, products);
}

/// The same on any processor.
fn plain(queries: &[f32], rows: &[f16], d: usize, products: &mut [f32]) {
    let mut wide = vec![0f32; d];
    let products = products.chunks_exact_mut(queries.len() / d);
    for (products, row) in products.zip(rows.chunks_exact(d)) {
        row.convert_to_f32_slice(&mut wide);
        for (product, query) in products.iter_mut().zip(queries.chunks_exact(d)) {
            *product = simd::dot(query, &wide);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::MOST;

    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// Bytes from what is multiplied to what is asked for ahead: rows are read side by side, in an order that the processor does
    /// not foresee; without a hint a search with one query takes twice as long.
    const AHEAD: usize = 12 << 10;

    /// `false` where the processor lacks the instructions; nothing is done then.
    pub fn widen(from: &[f16], to: &mut [f32]) -> bool {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            unsafe { avx512::widen(from, to) };
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
            // SAFETY: the processor has the instructions.
            unsafe { avx2::widen(from, to) };
        } else {
            return false;
        }
        true
    }

    /// `false` where the processor lacks the instructions; nothing is done then.
    pub fn dots(queries: &[f32], rows: &[f16], d: usize, products: &mut [f32]) -> bool {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            unsafe { avx512::dots(queries, rows, d, products) };
        } else if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            // SAFETY: the processor has the instructions.
            unsafe { avx2::dots(queries, rows, d, products) };
        } else {
            return false;
        }
        true
    }

    /// The two functions in vectors of `$lanes` values.
    macro_rules! module {
        ($name:ident, $widens:literal, $multiplies:literal, $lanes:literal, $vector:ty, $zero:ident, $widen:ident,
         $multiply_add:ident, $total:ident) => {
            pub mod $name {
                use super::*;

                #[target_feature(enable = $widens)]
                pub fn widen(from: &[f16], to: &mut [f32]) {
                    let (from, tail) = from.as_chunks::<$lanes>();
                    let (to, rest) = to.as_chunks_mut::<$lanes>();
                    for (to, &from) in to.iter_mut().zip(from) {
                        *to = bytemuck::cast($widen(bytemuck::cast(from)));
                    }
                    for (to, from) in rest.iter_mut().zip(tail) {
                        *to = from.to_f32();
                    }
                }

                #[target_feature(enable = $multiplies)]
                pub fn dots(queries: &[f32], rows: &[f16], d: usize, products: &mut [f32]) {
                    let vectors = d.div_ceil($lanes);
                    let mut padded = [const { Vec::new() }; MOST];
                    let asked = queries.len() / d;
                    for (padded, query) in padded.iter_mut().zip(queries.chunks_exact(d)) {
                        *padded = vec![[0f32; $lanes]; vectors];
                        padded.as_flattened_mut()[..d].copy_from_slice(query);
                    }
                    match asked {
                        1 => all::<1, 8>([&padded[0]], rows, d, products),
                        2 => all::<2, 4>([&padded[0], &padded[1]], rows, d, products),
                        3 => all::<3, 4>([&padded[0], &padded[1], &padded[2]], rows, d, products),
                        4 => all::<4, 4>(
                            [&padded[0], &padded[1], &padded[2], &padded[3]],
                            rows,
                            d,
                            products,
                        ),
                        _ => {}
                    }
                }

                /// `R` rows at a time, the last ones by themselves.
                #[target_feature(enable = $multiplies)]
                fn all<const Q: usize, const R: usize>(
                    queries: [&[[f32; $lanes]]; Q],
                    rows: &[f16],
                    d: usize,
                    products: &mut [f32],
                ) {
                    let whole = rows.len() / (R * d) * R;
                    let (some, rest) = products.split_at_mut(whole * Q);
                    let tiles = some.as_chunks_mut::<Q>().0.as_chunks_mut::<R>().0;
                    for (found, rows) in tiles.iter_mut().zip(rows.chunks_exact(R * d)) {
                        *found = tile(queries, rows, d);
                    }
                    let rest = rest.as_chunks_mut::<Q>().0.as_chunks_mut::<1>().0;
                    for (found, row) in rest.iter_mut().zip(rows[whole * d..].chunks_exact(d)) {
                        *found = tile(queries, row, d);
                    }
                }

                #[target_feature(enable = $multiplies)]
                #[inline]
                fn tile<const Q: usize, const R: usize>(
                    queries: [&[[f32; $lanes]]; Q],
                    rows: &[f16],
                    d: usize,
                ) -> [[f32; Q]; R] {
                    let whole = d / $lanes;
                    let mut sums = [[$zero(); R]; Q];
                    let mut chunks: [&[[f16; $lanes]]; R] = [&[]; R];
                    for r in 0..R {
                        chunks[r] = rows[r * d..][..whole * $lanes].as_chunks().0;
                    }
                    assert!(queries.iter().all(|query| query.len() >= whole));
                    for i in 0..whole {
                        let mut wide = [$zero(); R];
                        for line in (0..R * $lanes * size_of::<f16>()).step_by(LINE) {
                            let at = i * R * $lanes * size_of::<f16>() + line + AHEAD;
                            let at = rows.as_ptr().cast::<i8>().wrapping_add(at);
                            _mm_prefetch::<_MM_HINT_T0>(at);
                        }
                        for r in 0..R {
                            // SAFETY: every row has `whole` chunks.
                            let chunk = unsafe { *chunks[r].get_unchecked(i) };
                            wide[r] = $widen(bytemuck::cast(chunk));
                        }
                        for q in 0..Q {
                            // SAFETY: every query has as many, asserted above.
                            let query = unsafe { *queries[q].get_unchecked(i) };
                            let query: $vector = bytemuck::cast(query);
                            for r in 0..R {
                                sums[q][r] = $multiply_add(query, wide[r], sums[q][r]);
                            }
                        }
                    }
                    // What is left of a row is multiplied with what pads the queries, too: zero.
                    if whole * $lanes < d {
                        for r in 0..R {
                            let mut tail = [f16::ZERO; $lanes];
                            let rest = &rows[r * d + whole * $lanes..(r + 1) * d];
                            tail[..rest.len()].copy_from_slice(rest);
                            let wide = $widen(bytemuck::cast(tail));
                            for q in 0..Q {
                                let query: $vector = bytemuck::cast(queries[q][whole]);
                                sums[q][r] = $multiply_add(query, wide, sums[q][r]);
                            }
                        }
                    }
                    let mut found = [[0f32; Q]; R];
                    for r in 0..R {
                        for q in 0..Q {
                            found[r][q] = $total(sums[q][r]);
                        }
                    }
                    found
                }
            }
        };
    }

    module!(
        avx512,
        "avx512f",
        "avx512f",
        16,
        __m512,
        _mm512_setzero_ps,
        _mm512_cvtph_ps,
        _mm512_fmadd_ps,
        _mm512_reduce_add_ps
    );
    module!(
        avx2,
        "avx2,f16c",
        "avx2,fma,f16c",
        8,
        __m256,
        _mm256_setzero_ps,
        _mm256_cvtph_ps,
        _mm256_fmadd_ps,
        total
    );

    /// The sum of all lanes, halves added to halves.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn total(lanes: __m256) -> f32 {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(lanes),
            _mm256_extractf128_ps::<1>(lanes),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceKind;
    use crate::ops::Rounding;

    fn halves(n: usize, seed: usize) -> Vec<f16> {
        let value = |i: usize| ((i * 37 + seed) % 101) as f32 / 64.0 - 0.75;
        (0..n).map(|i| f16::from_f32(value(i))).collect()
    }

    type Widen = fn(&[f16], &mut [f32]);
    type Dots = fn(&[f32], &[f16], usize, &mut [f32]);

    /// Every way that this processor knows, the portable one too.
    fn ways() -> Vec<(Widen, Dots)> {
        let mut ways: Vec<(Widen, Dots)> = vec![(widen, dots), (plain_widen, plain)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has the instructions.
                ways.push((
                    |f, t| unsafe { x86::avx512::widen(f, t) },
                    |q, r, d, p| unsafe { x86::avx512::dots(q, r, d, p) },
                ));
            }
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                // SAFETY: the processor has the instructions.
                ways.push((
                    |f, t| unsafe { x86::avx2::widen(f, t) },
                    |q, r, d, p| unsafe { x86::avx2::dots(q, r, d, p) },
                ));
            }
        }
        ways
    }

    #[test]
    fn every_value_is_widened_exactly() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for (widen, _) in ways() {
            for n in [all.len(), 0, 1, 7, 17] {
                let mut wide = vec![f32::NAN; n];
                widen(&all[..n], &mut wide);
                for (wide, narrow) in wide.iter().zip(&all) {
                    let exact = narrow.to_f32();
                    let same = wide.to_bits() == exact.to_bits();
                    assert!(same || wide.is_nan() && exact.is_nan(), "{narrow}");
                }
            }
        }
    }

    #[test]
    fn any_number_of_queries_rows_and_vectors_is_the_sum_of_its_products() {
        let g = |terms| Rounding::of(DeviceKind::Cpu).g(terms);
        for (_, dots) in ways() {
            for (asked, n, d) in [
                (1, 1, 8),
                (1, 17, 24),
                (2, 9, 384),
                (3, 5, 40),
                (4, 13, 392),
                (4, 0, 8),
            ] {
                let rows = halves(n * d, 5);
                let queries: Vec<f32> = halves(asked * d, 11).iter().map(|v| v.to_f32()).collect();
                let mut products = vec![f32::NAN; asked * n];
                dots(&queries, &rows, d, &mut products);
                for (i, &product) in products.iter().enumerate() {
                    let (r, q) = (i / asked, i % asked);
                    let terms = (0..d).map(|e| {
                        f64::from(queries[q * d + e]) * f64::from(rows[r * d + e].to_f32())
                    });
                    let bound = g(d) * terms.clone().map(f64::abs).sum::<f64>();
                    let exact: f64 = terms.sum();
                    assert!(
                        (f64::from(product) - exact).abs() <= bound,
                        "{asked} {n} {d}: {i}"
                    );
                }
            }
        }
    }
}
