//! The gradient of windows over maps on the processor: maps in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use crate::ops::map_features::{Cut, LARGEST, Windows};
use crate::ops::simd;

/// Pixels across a plane of gradients, one more than any window shows on every side.
const SIDE: usize = LARGEST as usize + 2;

/// What a thread adds up for a map at a time.
struct Sums {
    /// Three planes of [`SIDE`] x [`SIDE`].
    planes: Vec<f32>,
    rows: Vec<f32>,
    columns: Vec<f32>,
}

pub(super) fn map_features_backward(args: &Args<'_>, d_maps: &mut [f32]) {
    let layout = args.layout;
    let windows = layout.windows();
    let (mut d_rows, mut winners, mut d_maps) = (args.d_rows.host(), args.winners.host(), d_maps);
    let mut jobs = Vec::with_capacity(layout.cuts().len());
    for cut in layout.cuts() {
        let (of_map, others) = d_rows.split_at(cut.rows(windows) * windows.width());
        d_rows = others;
        let (won, others) = winners.split_at(cut.winners().iter().sum());
        winners = others;
        let (d_map, others) = d_maps.split_at_mut(cut.shape[0] * cut.shape[1]);
        d_maps = others;
        jobs.push((cut, of_map, won, d_map));
    }
    jobs.into_par_iter().for_each_init(
        || Sums {
            planes: vec![0.0; 3 * SIDE * SIDE],
            rows: Vec::new(),
            columns: Vec::new(),
        },
        |sums, (cut, d_rows, winners, d_map)| {
            if d_map.is_empty() {
                return;
            }
            let d_windows = &d_rows[windows.zero_rows() * windows.width()..];
            match windows {
                Windows::Patches => add::<8>(d_windows, cut, windows, &mut sums.planes),
                Windows::Neighbours => add::<3>(d_windows, cut, windows, &mut sums.planes),
            }
            spread(cut, winners, sums, d_map);
        },
    );
}

/// Adds the gradients of windows of `N` x `N` up to planes.
fn add<const N: usize>(d_windows: &[f32], cut: &Cut, windows: Windows, planes: &mut [f32]) {
    let [down, across] = cut.grid;
    // As far down as windows reach.
    let lines = (down.saturating_sub(1) * windows.stride() + N + 1).min(SIDE);
    for plane in planes.chunks_exact_mut(SIDE * SIDE) {
        plane[..lines * SIDE].fill(0.0);
    }
    for (window, row) in d_windows.chunks_exact(windows.width()).enumerate() {
        let [top, left] = [window / across, window % across]
            .map(|at| at * windows.stride() + 1 - windows.before());
        let channels = row[..3 * N * N].chunks_exact(N * N);
        for (channel, plane) in channels.zip(planes.chunks_exact_mut(SIDE * SIDE)) {
            for (y, line) in channel.chunks_exact(N).enumerate() {
                let to = &mut plane[(top + y) * SIDE + left..][..N];
                for (to, from) in to.iter_mut().zip(line) {
                    *to += from;
                }
            }
        }
    }
}

/// The first `len` pixels of row `i` of a plane.
#[inline(always)]
fn line(plane: &[f32], i: usize, len: usize) -> &[f32] {
    &plane[(i + 1) * SIDE + 1..][..len]
}

/// From the planes of one map to its elements.
#[multiversion(targets = "simd")]
fn spread(cut: &Cut, winners: &[u32], sums: &mut Sums, d_map: &mut [f32]) {
    let [l_q, l_c] = cut.shape;
    let ([height, width], [down, across]) = (cut.picture, cut.extent);
    let (elements, maxima) = sums.planes.split_at(SIDE * SIDE);
    let (of_rows, of_columns) = maxima.split_at(SIDE * SIDE);
    sums.rows.clear();
    sums.rows.extend(
        (0..l_q.min(height)).map(|i| simd::sum(line(of_rows, i, across.min(width)), |v| v)),
    );
    let columns = l_c.min(width);
    sums.columns.clear();
    sums.columns.resize(columns, 0.0);
    for i in 0..down.min(height) {
        for (sum, v) in sums.columns.iter_mut().zip(line(of_columns, i, columns)) {
            *sum += v;
        }
    }
    d_map.fill(0.0);
    for (i, row) in d_map
        .chunks_exact_mut(l_c)
        .enumerate()
        .take(l_q.min(height))
    {
        row[..columns].copy_from_slice(line(elements, i, columns));
    }
    let (of_rows, of_columns) = winners.split_at(cut.winners()[0]);
    for (i, (sum, &j)) in sums.rows.iter().zip(of_rows).enumerate() {
        if (j as usize) < l_c {
            d_map[i * l_c + j as usize] += sum;
        }
    }
    for (j, (sum, &i)) in sums.columns.iter().zip(of_columns).enumerate() {
        if (i as usize) < l_q {
            d_map[i as usize * l_c + j] += sum;
        }
    }
}
