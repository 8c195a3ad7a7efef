//! What the sum of table rows is, and how far from it a result may be.

use crate::ops::{Accum, Rounding};

/// The definition, in loops. All tables row-major; result `[t, d]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    tables: [&[T]; 3],
    ids: &[u32],
    positions: &[u32],
    d: usize,
) -> Vec<A> {
    let mut x = Vec::with_capacity(ids.len() * d);
    for (&id, &position) in ids.iter().zip(positions) {
        for c in 0..d {
            let word = A::of(tables[0][id as usize * d + c].into());
            let position = A::of(tables[1][position as usize * d + c].into());
            let token_type = A::of(tables[2][c].into());
            x.push(word + position + token_type);
        }
    }
    x
}

/// Two roundings: `g(2) (|word| + |position| + |token_type|)` per element.
pub fn error_bound(
    tables: [&[f32]; 3],
    ids: &[u32],
    positions: &[u32],
    d: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let magnitudes = tables.map(|table| table.iter().map(|v| v.abs()).collect::<Vec<f32>>());
    let sums = reference::<f64, _>(
        [&magnitudes[0], &magnitudes[1], &magnitudes[2]],
        ids,
        positions,
        d,
    );
    sums.into_iter()
        .map(|sum| rounding.store(0.0, rounding.g(2) * sum, 4))
        .collect()
}
