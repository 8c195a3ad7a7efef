//! Windows of maps on the processor: maps in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use super::layout::{Cut, LARGEST, Windows};
use crate::device::Float;
use crate::ops::maxsim::NO_WINNER;
use crate::ops::simd;

/// The channels of what is shown of one map, with a margin of [`MARGIN`] zeros on every side, and its winners.
struct Planes {
    /// Three planes of [`SIDE`] x [`SIDE`].
    values: Vec<f32>,
    rows: Vec<(f32, u32)>,
    columns: Vec<(f32, u32)>,
}

/// Beyond the plane lies what neighbourhoods of its edge show.
const MARGIN: usize = 1;

/// Pixels across a plane with its margins; patches at the edge reach no further, since 128 is a multiple of 8.
const SIDE: usize = LARGEST as usize + 2 * MARGIN;

pub(super) fn map_features<A: Float>(args: &Args<'_>, rows: &mut [A], winners: Option<&mut [u32]>) {
    let (layout, maps) = (args.layout, args.maps.host());
    let width = layout.windows().width();
    let (mut maps, mut rows, mut winners) = (maps, rows, winners);
    let mut jobs = Vec::with_capacity(layout.cuts().len());
    for cut in layout.cuts() {
        let (map, other) = maps.split_at(cut.shape[0] * cut.shape[1]);
        maps = other;
        let (of_map, others) = rows.split_at_mut(cut.rows(layout.windows()) * width);
        rows = others;
        let won = winners.take().map(|all| {
            let (won, others) = all.split_at_mut(cut.winners().iter().sum());
            winners = Some(others);
            won
        });
        jobs.push((cut, map, of_map, won));
    }
    jobs.into_par_iter().for_each_init(
        || Planes {
            values: vec![0.0; 3 * SIDE * SIDE],
            rows: Vec::new(),
            columns: Vec::new(),
        },
        |planes, (cut, map, rows, won)| {
            maxima(map, cut, planes);
            if let Some(won) = won {
                let found = planes.rows.iter().chain(&planes.columns);
                for (won, &(_, winner)) in won.iter_mut().zip(found) {
                    *won = winner;
                }
            }
            draw(map, cut, planes);
            match layout.windows() {
                Windows::Patches => {
                    let (zeros, rows) = rows.split_at_mut(width);
                    zeros.fill(A::from_f32(0.0));
                    write::<A, 8>(&planes.values, cut, Windows::Patches, rows);
                }
                Windows::Neighbours => {
                    write::<A, 3>(&planes.values, cut, Windows::Neighbours, rows);
                }
            }
        },
    );
}

/// The maxima of all rows and columns that may be shown, the first of equal ones.
#[multiversion(targets = "simd")]
fn maxima(map: &[f32], cut: &Cut, planes: &mut Planes) {
    let l_c = cut.shape[1];
    let [rows, columns] = cut.winners();
    planes.rows.clear();
    planes.columns.clear();
    planes.columns.resize(columns, (0.0, NO_WINNER));
    if l_c == 0 {
        planes.rows.resize(rows, (0.0, NO_WINNER));
        return;
    }
    for (i, row) in map.chunks_exact(l_c).enumerate() {
        if i < rows {
            let largest = simd::max(row);
            let winner = row.iter().position(|&v| v == largest);
            planes
                .rows
                .push((largest, winner.map_or(NO_WINNER, |j| j as u32)));
        }
        for (best, &v) in planes.columns.iter_mut().zip(row) {
            if i == 0 || v > best.0 {
                *best = (v, i as u32);
            }
        }
    }
}

/// Draws the three channels of a map; what is not shown is zero.
fn draw(map: &[f32], cut: &Cut, planes: &mut Planes) {
    let [l_q, l_c] = cut.shape;
    // Windows at the lower and the right edge reach beyond the picture.
    let reach = cut
        .picture
        .map(|n| n.next_multiple_of(8).min(SIDE - 2 * MARGIN) + MARGIN);
    let ([height, width], [down, across]) = (cut.picture, cut.extent);
    let (rows, columns) = (&planes.rows, &planes.columns);
    for (channel, plane) in planes.values.chunks_exact_mut(SIDE * SIDE).enumerate() {
        for (i, line) in plane[MARGIN * SIDE..]
            .chunks_exact_mut(SIDE)
            .take(reach[0])
            .enumerate()
        {
            let line = &mut line[MARGIN..][..reach[1]];
            let shown = if i >= height {
                0
            } else {
                match channel {
                    0 if i < l_q => {
                        let shown = l_c.min(width);
                        line[..shown].copy_from_slice(&map[i * l_c..][..shown]);
                        shown
                    }
                    1 if i < l_q && l_c > 0 => {
                        let shown = across.min(width);
                        line[..shown].fill(rows[i].0);
                        shown
                    }
                    2 if i < down && l_q > 0 => {
                        let shown = l_c.min(width);
                        for (v, &(largest, _)) in line[..shown].iter_mut().zip(columns) {
                            *v = largest;
                        }
                        shown
                    }
                    _ => 0,
                }
            };
            line[shown..].fill(0.0);
        }
    }
}

/// Writes windows of `N` x `N` of the planes.
fn write<A: Float, const N: usize>(planes: &[f32], cut: &Cut, windows: Windows, rows: &mut [A]) {
    let across = cut.grid[1];
    for (window, row) in rows.chunks_exact_mut(windows.width()).enumerate() {
        let (channels, zeros) = row.split_at_mut(3 * N * N);
        let [top, left] = [window / across, window % across]
            .map(|at| at * windows.stride() + MARGIN - windows.before());
        for (channel, plane) in channels
            .chunks_exact_mut(N * N)
            .zip(planes.chunks_exact(SIDE * SIDE))
        {
            for (y, line) in channel.chunks_exact_mut(N).enumerate() {
                let from = &plane[(top + y) * SIDE + left..][..N];
                for (to, &from) in line.iter_mut().zip(from) {
                    *to = A::from_f32(from);
                }
            }
        }
        zeros.fill(A::from_f32(0.0));
    }
}
