//! What the gradient of the tables is, and how far from it a result may be.

use crate::ops::{Accum, Rounding};

/// The definition, in loops: from `dx` `[t, d]` what is added to tables of `rows` words, positions and token types,
/// `[row, d]` each.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    dx: &[T],
    ids: &[u32],
    positions: &[u32],
    rows: [usize; 3],
    d: usize,
) -> [Vec<A>; 3] {
    let mut tables = rows.map(|rows| vec![A::of(0.0); rows * d]);
    for (t, dx) in dx.chunks_exact(d).enumerate() {
        for (table, row) in tables.iter_mut().zip([ids[t], positions[t], 0]) {
            for (sum, &v) in table[row as usize * d..][..d].iter_mut().zip(dx) {
                *sum += A::of(v.into());
            }
        }
    }
    tables
}

/// A row that held `before` and gets `n` more has been through `n` additions, in whatever order:
/// `g(n) (|before| + sum |dx|)`.
pub fn error_bound(
    dx: &[f32],
    ids: &[u32],
    positions: &[u32],
    before: [&[f32]; 3],
    d: usize,
    rounding: &Rounding,
) -> [Vec<f64>; 3] {
    let rows = before.map(|table| table.len() / d);
    let magnitudes: Vec<f32> = dx.iter().map(|v| v.abs()).collect();
    let mut sums = reference::<f64, _>(&magnitudes, ids, positions, rows, d);
    let ones = vec![1f32; ids.len()];
    let counts = reference::<f64, _>(&ones, ids, positions, rows, 1);
    for ((sums, before), counts) in sums.iter_mut().zip(before).zip(counts) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let magnitude = *sum + f64::from(before[i]).abs();
            *sum = rounding.store(0.0, rounding.g(counts[i / d] as usize) * magnitude, 4);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::reference;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::embedding;

    #[test]
    fn central_differences_agree() {
        let (rows, d) = ([5, 4, 2], 8);
        let (ids, positions) = ([3, 1, 3, 0, 3], [0, 1, 2, 0, 1]);
        let dx = noise(5 * d, 1);
        let tables = [0, 1, 2].map(|i| noise(rows[i] * d, 2 + i as u64));
        let gradients = reference::<f64, _>(&dx, &ids, &positions, rows, d);
        for (i, what) in ["word", "position", "token_type"].into_iter().enumerate() {
            let f = |table: &[f64]| {
                let mut all = [&tables[0][..], &tables[1], &tables[2]];
                all[i] = table;
                weighted(
                    &embedding::reference::<f64, _>(all, &ids, &positions, d),
                    &dx,
                )
            };
            // Two additions, and the sum of all; the step is not one of the roundings, so the function is linear.
            hold(what, &tables[i], &gradients[i], 2 + 5 * d + 2, f);
        }
    }
}
