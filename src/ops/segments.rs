//! The tokens of packed texts by the table rows that they use, sorted on the host, so that the gradient of a row is a
//! sum over a list, in an order that nothing else depends on.

use std::ops::Range;

use crate::device::{Buffer, Device, Slice};
use crate::error::{Error, Result};

/// Rows that one piece adds up.
pub(super) const PIECE: usize = 32;

/// Tables, as pieces name them; sums of pieces that are not yet a whole segment go to [`SUMS`].
pub(super) const TOKEN_TYPE: u32 = 0;
pub(super) const POSITION: u32 = 1;
pub(super) const WORD: u32 = 2;
pub(super) const SUMS: u32 = 3;

/// For every row of an embedding's tables that tokens of packed texts use, those tokens.
///
/// A *segment* is one table row and the tokens that use it, in their order. Some are as long as the batch: position 0
/// is in every text, and all tokens have token type 0. So segments are cut into *pieces* of at most 32 tokens, whose
/// sums are rows of the next *level*, where they are cut in the same way, until a piece is all that there is of its
/// segment: that piece adds to the table. The order of additions depends on the tokens alone.
pub struct TokenSegments {
    /// `[3 t]` token numbers: rising, by position, by word. Then, level by level and each where views may begin,
    /// pieces: where they begin in the list above, how many rows they add up, the table and the row in it that they add
    /// to. Levels above the first add up rows of the sums of the level before; the rising part of the list numbers
    /// them.
    on_device: Buffer<u32>,
    tokens: usize,
    levels: Vec<Level>,
    /// Table rows that are added to.
    rows: usize,
    /// Of words and of positions the largest number, and one more; 0 of none.
    ends: [usize; 2],
}

/// A level of pieces.
struct Level {
    /// Their place in the buffer.
    pieces: Range<usize>,
    /// Sums that are no whole segment yet.
    sums: usize,
}

/// Consecutive entries of a list of rows whose sum goes to one row of a table.
struct Segment {
    first: usize,
    count: usize,
    table: u32,
    row: u32,
}

impl TokenSegments {
    /// Sorts tokens by ids and by positions, `[t]` each, and places the lists on `device`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many of either, or 2^30 of them; [`Error::OutOfMemory`] and device
    /// failures.
    pub fn new(device: &Device, ids: &[u32], positions: &[u32]) -> Result<Self> {
        let wrong =
            |what, expected: String, got| Err(Error::shape("token segments", what, expected, got));
        let tokens = ids.len();
        if positions.len() != tokens {
            return wrong("positions", tokens.to_string(), positions.len());
        }
        if tokens >= 1 << 30 {
            return wrong("ids", "below 2^30".into(), tokens);
        }
        let mut list: Vec<u32> = (0..tokens as u32).collect();
        let mut segments = Vec::new();
        if tokens > 0 {
            segments.push(Segment {
                first: 0,
                count: tokens,
                table: TOKEN_TYPE,
                row: 0,
            });
        }
        let mut ends = [0; 2];
        for (numbers, table) in [(positions, POSITION), (ids, WORD)] {
            // Numbers, and of equal ones the tokens, rise.
            let mut sorted: Vec<u64> = (0u64..)
                .zip(numbers)
                .map(|(token, &number)| u64::from(number) << 32 | token)
                .collect();
            sorted.sort_unstable();
            for alike in sorted.chunk_by(|a, b| a >> 32 == b >> 32) {
                segments.push(Segment {
                    first: list.len(),
                    count: alike.len(),
                    table,
                    row: (alike[0] >> 32) as u32,
                });
                list.extend(alike.iter().map(|&both| both as u32));
            }
            ends[usize::from(table == POSITION)] =
                sorted.last().map_or(0, |last| (last >> 32) as usize + 1);
        }
        let rows = segments.len();
        let mut levels = Vec::new();
        while !segments.is_empty() {
            // Views on GPUs begin at multiples of 256 bytes.
            list.resize(list.len().next_multiple_of(64), 0);
            let (pieces, longer, sums) = cut(&segments);
            let start = list.len();
            list.extend(pieces.as_flattened());
            levels.push(Level {
                pieces: start..list.len(),
                sums,
            });
            segments = longer;
        }
        Ok(TokenSegments {
            on_device: device.upload(&list)?,
            tokens,
            levels,
            rows,
            ends,
        })
    }

    /// Number of tokens, `t`.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Rows of all tables that are added to.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The numbers of rows, if there are tables of so many words and positions.
    pub(super) fn below(&self, op: &'static str, limits: [usize; 2]) -> Result<Slice<'_, u32>> {
        for ((what, end), limit) in ["ids", "positions"].into_iter().zip(self.ends).zip(limits) {
            if end > limit {
                return Err(Error::shape(op, what, format!("below {limit}"), end - 1));
            }
        }
        Ok(self.on_device.slice(..3 * self.tokens))
    }

    /// The pieces of each level, four numbers each, and how many of them are sums for the next level.
    pub(super) fn levels(&self) -> impl Iterator<Item = (Slice<'_, u32>, usize)> {
        let level = |level: &Level| (self.on_device.slice(level.pieces.clone()), level.sums);
        self.levels.iter().map(level)
    }
}

/// The pieces of segments, what is left to add up of those with more than one, and how many pieces those have.
fn cut(segments: &[Segment]) -> (Vec<[u32; 4]>, Vec<Segment>, usize) {
    let (mut pieces, mut longer, mut sums) = (Vec::new(), Vec::new(), 0);
    for segment in segments {
        let &Segment {
            first,
            count,
            table,
            row,
        } = segment;
        if count <= PIECE {
            pieces.push([first as u32, count as u32, table, row]);
            continue;
        }
        longer.push(Segment {
            first: sums,
            count: count.div_ceil(PIECE),
            table,
            row,
        });
        for start in (0..count).step_by(PIECE) {
            let here = PIECE.min(count - start);
            pieces.push([(first + start) as u32, here as u32, SUMS, sums as u32]);
            sums += 1;
        }
    }
    (pieces, longer, sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows the pieces from level to level and counts how often each token reaches each table row.
    #[test]
    fn every_token_reaches_its_row_of_each_table_once() {
        let cpu = Device::cpu();
        for tokens in [0, 1, 31, 32, 33, 1024, 1025, 3000] {
            // One word is in every second place.
            let ids: Vec<u32> = (0..tokens)
                .map(|t| if t % 2 == 0 { 7 } else { t * 31 % 101 })
                .collect();
            let positions: Vec<u32> = (0..tokens).map(|t| t % 40).collect();
            let segments = TokenSegments::new(&cpu, &ids, &positions).unwrap();
            let list = segments.below("test", [101, 40]).unwrap().read().unwrap();
            let mut reached: Vec<(u32, u32, Vec<u32>)> = Vec::new();
            let mut rows: Vec<Vec<u32>> = (0..tokens).map(|t| vec![t]).collect();
            for (pieces, sums) in segments.levels() {
                let mut next = vec![Vec::new(); sums];
                for piece in pieces.read().unwrap().chunks_exact(4) {
                    let &[first, count, table, row] = piece else {
                        unreachable!("pieces are four numbers")
                    };
                    assert!((1..=PIECE as u32).contains(&count));
                    let of = &list[first as usize..(first + count) as usize];
                    let all: Vec<u32> = of.iter().flat_map(|&r| rows[r as usize].clone()).collect();
                    if table == SUMS {
                        assert!(next[row as usize].is_empty());
                        next[row as usize] = all;
                    } else {
                        reached.push((table, row, all));
                    }
                }
                rows = next;
            }
            assert_eq!(reached.len(), segments.rows());
            let mut want: Vec<(u32, u32, Vec<u32>)> = Vec::new();
            let all = |numbers: &[u32], row| {
                (0..tokens)
                    .filter(|&t| numbers[t as usize] == row)
                    .collect()
            };
            for (table, numbers) in [
                (TOKEN_TYPE, &vec![0; tokens as usize]),
                (POSITION, &positions),
                (WORD, &ids),
            ] {
                let used: std::collections::BTreeSet<u32> = numbers.iter().copied().collect();
                want.extend(used.into_iter().map(|row| (table, row, all(numbers, row))));
            }
            reached.sort();
            assert_eq!(reached, want);
        }
    }

    #[test]
    fn numbers_beyond_a_table_are_named() {
        let cpu = Device::cpu();
        assert!(TokenSegments::new(&cpu, &[1, 2], &[0]).is_err());
        let segments = TokenSegments::new(&cpu, &[4, 9], &[0, 3]).unwrap();
        assert!(segments.below("test", [10, 4]).is_ok());
        for (limits, what) in [
            ([9, 4], "ids: expected below 9, got 9"),
            ([10, 3], "positions: expected below 3, got 3"),
        ] {
            let error = segments.below("test", limits).unwrap_err();
            assert!(error.to_string().ends_with(what), "{error}");
        }
    }
}
