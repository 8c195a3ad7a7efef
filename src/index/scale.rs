//! Lengths of rows, which a cosine does not depend on, brought near 1 before they are rounded or squared.
//!
//! f16 ends at 65,504 and loses digits below 6e-5, and the square of an f32 overflows from 1.8e19 on. A row is therefore
//! scaled by a power of two to a length between 0.7 and 1.42: exact, and nothing happens to a row of unit length.

use std::borrow::Cow;
use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::widen;

/// Length of a row, in f64, in which the square of an f32 neither overflows nor vanishes.
pub(super) fn length(row: &[f32]) -> f64 {
    let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
    squares.sqrt()
}

/// The power of two that brings a length nearest to 1; 1 for zero.
pub(super) fn towards_unit(length: f64) -> f64 {
    // The root of two itself, and lengths that rounding has pushed over it, stay as they are.
    if length == 0.0 || (FRAC_1_SQRT_2..=SQRT_2).contains(&length) {
        return 1.0;
    }
    2f64.powi(-(length.log2().round() as i32))
}

/// Scales a row. The product is exact unless it is subnormal, which next to a length of 1 is nothing.
pub(super) fn scale(row: &[f32], by: f64, to: &mut [f32]) {
    for (to, &from) in to.iter_mut().zip(row) {
        *to = (f64::from(from) * by) as f32;
    }
}

/// Rows `[n, d]`, finite, each of a length near 1 or zero.
pub(super) fn near_unit(rows: &[f32], d: usize) -> Cow<'_, [f32]> {
    let by: Vec<f64> = rows
        .par_chunks(d)
        .with_min_len(64)
        .map(|row| towards_unit(length(row)))
        .collect();
    if by.iter().all(|&by| by == 1.0) {
        return Cow::Borrowed(rows);
    }
    let mut scaled = vec![0f32; rows.len()];
    let both = scaled.par_chunks_mut(d).zip(rows.par_chunks(d));
    both.zip(by)
        .with_min_len(64)
        .for_each(|((to, row), by)| scale(row, by, to));
    Cow::Owned(scaled)
}

/// f16 rows `[n, d]`, finite, those shorter than 0.7 made longer. What is subnormal gains the digits of a normal number, since
/// devices may take it for zero; a longer row stays as it is, so that nothing is lost.
pub(super) fn lengthened(rows: &[f16], d: usize) -> Cow<'_, [f16]> {
    let by: Vec<f64> = rows
        .par_chunks(d)
        .with_min_len(64)
        .map_init(Vec::new, |row32, row| {
            widen(row, row32);
            towards_unit(length(row32)).max(1.0)
        })
        .collect();
    if by.iter().all(|&by| by == 1.0) {
        return Cow::Borrowed(rows);
    }
    let mut longer = rows.to_vec();
    let short = longer.par_chunks_mut(d).zip(by).with_min_len(64);
    short.for_each_init(
        || (Vec::new(), vec![0f32; d]),
        |(row32, scaled), (row, by)| {
            widen(row, row32);
            scale(row32, by, scaled);
            row.convert_from_f32_slice(scaled);
        },
    );
    Cow::Owned(longer)
}

/// Requires rows `[n, d]` to be finite; `row` names one by its number.
pub(super) fn check_finite(rows: &[f32], d: usize, row: impl Fn(usize) -> String) -> Result<()> {
    match rows.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::Invalid(format!(
            "{}: element {} is {}; embeddings must be finite",
            row(at / d),
            at % d,
            rows[at]
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_near_to_one_exactly() {
        for exponent in [-149, -140, -126, -30, -1, 0, 1, 15, 64, 127] {
            let mut row = [0f32; 8];
            row[3] = (2f64.powi(exponent)) as f32;
            let scaled = near_unit(&row, 8);
            assert_eq!(scaled[3], 1.0, "2^{exponent}");
        }
        let unit = [0.25f32; 16];
        assert!(matches!(near_unit(&unit, 16), Cow::Borrowed(_)));
        assert!(matches!(near_unit(&[0.0; 16], 8), Cow::Borrowed(_)));
        // The largest row there is, whose squares overflow in f32.
        let all = near_unit(&[f32::MAX; 1024], 1024).into_owned();
        assert!((0.70..1.42).contains(&length(&all)));
        for i in 1..200 {
            let length = f64::from(i) / 37.0;
            assert!((0.707..1.4143).contains(&(length * towards_unit(length))));
        }
    }

    #[test]
    fn short_f16_rows_gain_digits_and_long_ones_lose_none() {
        let tiny = f16::from_bits(5);
        let mut rows = [f16::ZERO; 24];
        (rows[0], rows[1]) = (tiny, f16::from_bits(1));
        (rows[8], rows[9]) = (f16::MAX, tiny);
        let longer = lengthened(&rows, 8);
        let ratio = longer[0].to_f64() / longer[1].to_f64();
        assert!(
            ratio == 5.0 && longer[0].to_f64() > 0.5,
            "{:?}",
            &longer[..2]
        );
        assert_eq!(longer[8..], rows[8..]);
        assert!(matches!(lengthened(&rows[8..], 8), Cow::Borrowed(_)));
    }
}
