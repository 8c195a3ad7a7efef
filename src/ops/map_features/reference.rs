//! What the windows of a map are. Every number of a row is one of the map or zero: there is nothing to round but the
//! result.

use super::layout::{Cut, Picture, Windows};
use crate::ops::maxsim::NO_WINNER;

/// The definition, for one map `[l_q, l_c]`: the rows of its windows, and its winners.
pub fn reference<T: Copy + PartialOrd + Default>(
    map: &[T],
    shape: [u32; 2],
    windows: Windows,
    picture: Picture,
) -> (Vec<T>, Vec<u32>) {
    let cut = Cut::new(windows, shape, picture);
    let [l_q, l_c] = cut.shape;
    let element = |i: usize, j: usize| map[i * l_c + j];
    // The first of the largest.
    let winner = |count: usize, element: &dyn Fn(usize) -> T| {
        (0..count).reduce(|best, k| if element(k) > element(best) { k } else { best })
    };
    let of_row: Vec<Option<usize>> = (0..l_q).map(|i| winner(l_c, &|j| element(i, j))).collect();
    let of_column: Vec<Option<usize>> = (0..l_c).map(|j| winner(l_q, &|i| element(i, j))).collect();
    let zero = T::default();
    let (width, side) = (windows.width(), windows.side());
    let mut rows = vec![zero; windows.zero_rows() * width];
    for window in 0..cut.grid[0] * cut.grid[1] {
        let mut row = vec![zero; width];
        let place = [window / cut.grid[1], window % cut.grid[1]].map(|at| at * windows.stride());
        for pixel in 0..side * side {
            // Above and left of the plane there is nothing either.
            let i = (place[0] + pixel / side).wrapping_sub(windows.before());
            let j = (place[1] + pixel % side).wrapping_sub(windows.before());
            let [is_element, in_row, in_column] = cut.shows(i, j);
            if is_element {
                row[pixel] = element(i, j);
            }
            if let (true, Some(best)) = (in_row, of_row.get(i).copied().flatten()) {
                row[side * side + pixel] = element(i, best);
            }
            if let (true, Some(best)) = (in_column, of_column.get(j).copied().flatten()) {
                row[2 * side * side + pixel] = element(best, j);
            }
        }
        rows.extend(row);
    }
    let [rows_of, columns_of] = cut.winners();
    let of = |best: &Option<usize>| best.map_or(NO_WINNER, |best| best as u32);
    let winners = of_row[..rows_of].iter().chain(&of_column[..columns_of]);
    (rows, winners.map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_a_small_map_in_a_larger_picture() {
        // Two rows, two columns; the maxima of the rows reach one column further.
        let map = [1.0, 3.0, 2.0, 2.0];
        let picture = Picture {
            height: 2,
            width: 3,
            extent: [2, 3],
        };
        let (rows, winners) = reference(&map, [2, 2], Windows::Neighbours, picture);
        assert_eq!(winners, [1, 0, 1, 0]);
        assert_eq!(rows.len(), 6 * 32);
        // Around the pixel in row 1 and column 1.
        let row = &rows[4 * 32..5 * 32];
        assert_eq!(row[..9], [1.0, 3.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(row[9..18], [3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0]);
        assert_eq!(row[18..27], [2.0, 3.0, 0.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(row[27..], [0.0; 5]);
    }

    #[test]
    fn patches_begin_with_a_row_of_zeros_and_an_empty_map_has_no_other() {
        let map: Vec<f32> = (0..18).map(|v| v as f32).collect();
        let (rows, winners) = reference(&map, [2, 9], Windows::Patches, Picture::of([2, 9]));
        assert_eq!(rows.len(), 3 * 192);
        assert_eq!(rows[..192], [0.0; 192]);
        assert_eq!(
            rows[192..][..9],
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]
        );
        // The second patch shows the last column alone.
        let last = &rows[2 * 192..];
        assert_eq!([last[0], last[1], last[8], last[16]], [8.0, 0.0, 17.0, 0.0]);
        assert_eq!([last[64], last[65], last[72]], [8.0, 0.0, 17.0]);
        assert_eq!(
            [last[128], last[136], last[137], last[144]],
            [17.0, 17.0, 0.0, 0.0]
        );
        assert_eq!(winners, [8, 8, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        let (rows, winners) = reference::<f32>(&[], [3, 0], Windows::Patches, Picture::of([3, 0]));
        assert_eq!((rows, winners), (vec![0.0; 192], vec![NO_WINNER; 3]));
    }
}
