//! The gradient of the tables on the processor: pieces of segments in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;

/// Rows of a table, to be taken in rising order by one piece each.
struct Rows<'a> {
    rest: &'a mut [f32],
    /// The number of the first row of `rest`.
    next: usize,
    d: usize,
}

impl<'a> Rows<'a> {
    fn take(&mut self, row: usize) -> &'a mut [f32] {
        let rest = std::mem::take(&mut self.rest);
        let (_, rest) = rest.split_at_mut((row - self.next) * self.d);
        let (taken, rest) = rest.split_at_mut(self.d);
        (self.rest, self.next) = (rest, row + 1);
        taken
    }
}

/// `tables` as pieces name them: token types, positions, words.
pub(super) fn embedding_backward(args: &Args<'_>, mut tables: [&mut [f32]; 3]) {
    let (dx, list, d) = (args.dx.host(), args.list.host(), args.d);
    let mut sums = Vec::new();
    for (level, (pieces, n_sums)) in args.segments.levels().enumerate() {
        let rows: &[f32] = if level == 0 { dx } else { &sums };
        let mut next = vec![0f32; n_sums * d];
        let [token_type, position, word] = &mut tables;
        let mut targets =
            [&mut **token_type, position, word, &mut next].map(|rest| Rows { rest, next: 0, d });
        // In the order of the pieces the rows of each table rise.
        let jobs: Vec<(&[u32], &mut [f32])> = pieces
            .host()
            .chunks_exact(4)
            .map(|piece| {
                let from = &list[piece[0] as usize..][..piece[1] as usize];
                (from, targets[piece[2] as usize].take(piece[3] as usize))
            })
            .collect();
        jobs.into_par_iter()
            .with_min_len(16)
            .for_each(|(from, to)| add(to, rows, from));
        sums = next;
    }
}

/// Adds rows to a row, in their order.
#[multiversion(targets = "simd")]
fn add(to: &mut [f32], rows: &[f32], from: &[u32]) {
    let d = to.len();
    for &row in from {
        for (to, v) in to.iter_mut().zip(&rows[row as usize * d..][..d]) {
            *to += v;
        }
    }
}
