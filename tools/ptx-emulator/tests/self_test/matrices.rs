use half::f16;

use crate::common::fragments::{of_8x8, of_a, of_b, of_c};
use crate::common::{Arg, shape};
use crate::{Random, SelfTest, Want};

const TEXT: &str = include_str!("matrices.ptx");

#[test]
fn matrices_from_shared_memory() {
    let mut random = Random(9);
    let blocks = 3;
    let data: Vec<u16> = (0..256 * blocks).map(|_| random.word() as u16).collect();
    let mut wanted = Vec::new();
    for matrices in data.chunks(256) {
        for lane in 0..32 {
            for transposed in [false, true] {
                for count in [1, 2, 4] {
                    for matrix in 0..count {
                        let element = |i| {
                            let (row, column) = of_8x8(lane, i);
                            let (row, column) = if transposed {
                                (column, row)
                            } else {
                                (row, column)
                            };
                            u32::from(matrices[64 * matrix + 8 * row + column])
                        };
                        wanted.push(Want::Bits(element(1) << 16 | element(0)));
                    }
                }
            }
        }
    }
    SelfTest {
        text: TEXT,
        entry: "loads",
        shape: shape(blocks as u32, 32),
        args: vec![Arg::halves(data), Arg::zeros(1792 * blocks)],
        wanted: vec![(1, wanted)],
        per_item: 14,
    }
    .check();
}

/// Matrices of `value`s, multiplied; `want` makes of the exact sum, the sum of magnitudes and f16 or f32 what is allowed.
fn multiply(
    seed: u64,
    value: impl Fn(&mut Random) -> f32,
    error: impl Fn(usize, f64, bool) -> f64,
) {
    let mut random = Random(seed);
    for k in [16usize, 8] {
        for narrow in [false, true] {
            let blocks = 20;
            let (mut input, mut wanted) = (Vec::new(), Vec::new());
            for _ in 0..blocks {
                let mut matrix = |n: usize| -> Vec<f16> {
                    (0..n).map(|_| f16::from_f32(value(&mut random))).collect()
                };
                let (a, b, c) = (matrix(16 * k), matrix(8 * k), matrix(128));
                let pair = |low: f16, high: f16| {
                    u32::from(high.to_bits()) << 16 | u32::from(low.to_bits())
                };
                for lane in 0..32 {
                    let at_a = |i| {
                        let (row, column) = of_a(lane, i);
                        a[row * k + column]
                    };
                    let at_b = |i| {
                        let (row, column) = of_b(lane, i);
                        b[row * 8 + column]
                    };
                    let at_c = |i| {
                        let (row, column) = of_c(lane, i);
                        c[row * 8 + column]
                    };
                    input.extend((0..k / 4).map(|w| pair(at_a(2 * w), at_a(2 * w + 1))));
                    input.extend((0..k / 8).map(|w| pair(at_b(2 * w), at_b(2 * w + 1))));
                    if narrow {
                        input.extend((0..2).map(|w| pair(at_c(2 * w), at_c(2 * w + 1))));
                    } else {
                        input.extend((0..4).map(|i| at_c(i).to_f32().to_bits()));
                    }
                    let result = |i| {
                        let (row, column) = of_c(lane, i);
                        let terms =
                            (0..k).map(|j| a[row * k + j].to_f64() * b[j * 8 + column].to_f64());
                        let terms = terms.chain([at_c(i).to_f64()]);
                        let sum: f64 = terms.clone().sum();
                        let magnitude: f64 = terms.map(f64::abs).sum();
                        let last = if narrow {
                            2f64.powi(-11) * sum.abs() + 2f64.powi(-25)
                        } else {
                            0.0
                        };
                        let error = error(k, magnitude, narrow);
                        (sum, if error == 0.0 { 0.0 } else { error + last })
                    };
                    if narrow {
                        wanted.extend(
                            (0..2).map(|w| Want::NearHalves([result(2 * w), result(2 * w + 1)])),
                        );
                    } else {
                        wanted.extend((0..4).map(|i| {
                            let (sum, error) = result(i);
                            Want::Near(sum, error)
                        }));
                    }
                }
            }
            SelfTest {
                text: TEXT,
                entry: &format!("multiply_{k}_{}", if narrow { "f16" } else { "f32" }),
                shape: shape(blocks, 32),
                args: vec![Arg::words(input), Arg::zeros(4 * wanted.len())],
                per_item: if narrow { 2 } else { 4 },
                wanted: vec![(1, wanted)],
            }
            .check();
        }
    }
}

/// Sums below 2048 are exact in f16 too, in any order.
#[test]
fn products_of_small_integers_are_exact() {
    multiply(
        10,
        |random| (random.word() % 17) as f32 - 8.0,
        |_, _, _| 0.0,
    );
}

/// k + 1 terms: each addition is off by at most one unit in the last place of f32 (the hardware truncates), relative to
/// the largest intermediate sum, which the sum of magnitudes bounds. f16 results are rounded once more.
#[test]
fn products_of_random_values_are_close() {
    multiply(
        11,
        |random| (random.unit() * 4.0 - 2.0) as f32,
        |k, magnitude, _| (k + 1) as f64 * 2f64.powi(-23) * magnitude,
    );
}
