//! What the gradient of windows over maps is, and how far from it a result may be.

use crate::ops::map_features::{Cut, Picture, Windows};
use crate::ops::{Accum, Rounding};

/// The definition, for one map: from the gradients of the rows of its windows and its winners, that of the map
/// `[l_q, l_c]`.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    d_rows: &[T],
    winners: &[u32],
    shape: [u32; 2],
    windows: Windows,
    picture: Picture,
) -> Vec<A> {
    let mut d_map = vec![A::of(0.0); shape[0] as usize * shape[1] as usize];
    each(winners, shape, windows, picture, |from, to| {
        d_map[to] += A::of(d_rows[from].into());
    });
    d_map
}

/// Element `to` of a map is where element `from` of the rows has its number from.
fn each(
    winners: &[u32],
    shape: [u32; 2],
    windows: Windows,
    picture: Picture,
    mut element: impl FnMut(usize, usize),
) {
    let cut = Cut::new(windows, shape, picture);
    let l_c = cut.shape[1];
    let (of_rows, of_columns) = winners.split_at(cut.winners()[0]);
    let side = windows.side();
    for window in 0..cut.grid[0] * cut.grid[1] {
        let row = (windows.zero_rows() + window) * windows.width();
        let place = [window / cut.grid[1], window % cut.grid[1]].map(|at| at * windows.stride());
        for pixel in 0..side * side {
            // Above and left of the plane there is nothing.
            let i = (place[0] + pixel / side).wrapping_sub(windows.before());
            let j = (place[1] + pixel % side).wrapping_sub(windows.before());
            let [is_element, in_row, in_column] = cut.shows(i, j);
            if is_element {
                element(row + pixel, i * l_c + j);
            }
            if in_row {
                element(row + side * side + pixel, i * l_c + of_rows[i] as usize);
            }
            if in_column {
                element(
                    row + 2 * side * side + pixel,
                    of_columns[j] as usize * l_c + j,
                );
            }
        }
    }
}

/// `g(n) sum |terms|` of a sum of `n` terms in any order.
pub fn error_bound(
    d_rows: &[f32],
    winners: &[u32],
    shape: [u32; 2],
    windows: Windows,
    picture: Picture,
    rounding: &Rounding,
) -> Vec<f64> {
    let elements = shape[0] as usize * shape[1] as usize;
    let (mut sums, mut terms) = (vec![0f64; elements], vec![0usize; elements]);
    each(winners, shape, windows, picture, |from, to| {
        sums[to] += f64::from(d_rows[from].abs());
        terms[to] += 1;
    });
    sums.iter()
        .zip(&terms)
        .map(|(sum, &n)| rounding.store(0.0, rounding.g(n) * sum, 4))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::differences_test::{hold, noise, weighted};
    use crate::ops::map_features;

    #[test]
    fn central_differences_agree() {
        let larger = Picture {
            height: 6,
            width: 9,
            extent: [6, 8],
        };
        let smaller = Picture {
            height: 3,
            width: 4,
            extent: [2, 5],
        };
        for (shape, windows, picture) in [
            ([4, 7], Windows::Patches, Picture::of([4, 7])),
            ([9, 10], Windows::Patches, Picture::of([9, 10])),
            ([130, 2], Windows::Patches, Picture::of([130, 2])),
            ([4, 7], Windows::Neighbours, Picture::of([4, 7])),
            ([4, 7], Windows::Neighbours, larger),
            ([4, 7], Windows::Neighbours, smaller),
            ([1, 1], Windows::Neighbours, larger),
        ] {
            // Far enough apart that a step makes no other winner.
            let n = (shape[0] * shape[1]) as usize;
            let mut map: Vec<f64> = (0..n).map(|i| (i * 7919 % n) as f64 / 64.0).collect();
            map.iter_mut().for_each(|v| *v -= n as f64 / 128.0);
            let features = |map: &[f64]| map_features::reference(map, shape, windows, picture);
            let (rows, winners) = features(&map);
            let weight = noise(rows.len(), 1);
            let gradient = reference::<f64, _>(&weight, &winners, shape, windows, picture);
            let f = |map: &[f64]| weighted(&features(map).0, &weight);
            hold(
                &format!("{shape:?} {windows:?} {picture:?}"),
                &map,
                &gradient,
                rows.len() + 1,
                f,
            );
        }
    }
}
