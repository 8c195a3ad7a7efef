use crate::common::{Arg, shape};
use crate::{Random, SelfTest, Want};

const TEXT: &str = include_str!("warps.ptx");

#[test]
fn lanes_of_a_warp() {
    let mut random = Random(7);
    let values: Vec<u32> = (0..512).map(|_| random.word()).collect();
    let mut wanted = Vec::new();
    for warp in values.chunks(32) {
        let lanes = |holds: &dyn Fn(usize) -> bool| {
            (0..32).filter(|&i| holds(i)).fold(0u32, |m, i| m | 1 << i)
        };
        let fourths = lanes(&|i| warp[i] % 4 == 0);
        let largest = |part: &[u32]| *part.iter().max().unwrap();
        for lane in 0..32 {
            wanted.extend([
                if lane >= 3 {
                    warp[lane - 3]
                } else {
                    warp[lane].wrapping_add(1)
                },
                if lane + 5 < 32 {
                    warp[lane + 5]
                } else {
                    warp[lane].wrapping_add(1)
                },
                warp[lane ^ 21],
                warp[lane / 8 * 8 + (lane * 7 + 3) % 8],
                fourths,
                u32::from(fourths != 0),
                lanes(&|i| warp[i] % 4 == warp[lane] % 4),
                warp.iter().fold(0, |s: u32, v| s.wrapping_add(*v)),
                warp.iter().map(|v| *v as i32).min().unwrap() as u32,
                warp.iter().fold(0, |s, v| s ^ v),
                (fourths & ((1 << lane) - 1)).count_ones(),
                largest(if lane < 16 { &warp[..16] } else { &warp[16..] }),
            ]);
        }
    }
    SelfTest {
        text: TEXT,
        entry: "warps",
        shape: shape(4, 128),
        args: vec![Arg::words(values), Arg::zeros(48 * 512)],
        wanted: vec![(1, wanted.into_iter().map(Want::Bits).collect())],
        per_item: 12,
    }
    .check();
}

#[test]
fn threads_of_a_block() {
    let mut random = Random(8);
    let matrix: Vec<u32> = (0..64 * 32).map(|_| random.word()).collect();
    let at = |row: usize, column: usize| {
        if row < 60 {
            matrix[32 * row + column]
        } else {
            0
        }
    };
    let transposed = (0..32).flat_map(|column| (0..64).map(move |row| (row, column)));
    let transposed = transposed
        .map(|(row, column)| Want::Bits(at(row, column)))
        .collect();
    let sums = (0..32)
        .map(|column| {
            Want::Bits((0..64).fold(column as u32, |s, row| s.wrapping_add(at(row, column))))
        })
        .collect();
    SelfTest {
        text: TEXT,
        entry: "transposes",
        shape: shape(1, 128),
        args: vec![
            Arg::words(matrix.iter().copied()),
            Arg::zeros(4 * 64 * 32),
            Arg::words(0..32),
        ],
        wanted: vec![(1, transposed), (2, sums)],
        per_item: 64,
    }
    .check();
}
