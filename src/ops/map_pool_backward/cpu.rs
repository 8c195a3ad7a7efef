//! The gradient of means over maps on the processor: maps in parallel.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Args, MapPooling};
use crate::ops::simd;
use crate::ops::soft_alignment::Alignment;

pub(super) fn map_pool_backward(args: &Args<'_>, d_maps: &mut [f32]) {
    let (maps, layout, pooling) = (args.maps.host(), args.layout, args.pooling);
    let maps = layout
        .offsets()
        .windows(2)
        .map(|span| &maps[span[0] as usize..span[1] as usize]);
    let jobs: Vec<_> = maps
        .zip(layout.split(d_maps))
        .zip(layout.shapes().iter().zip(args.d_scores.host()))
        .collect();
    jobs.into_par_iter()
        .for_each_init(Vec::new, |weights, ((map, d_map), (shape, d_score))| {
            let [l_q, l_c] = shape.map(|l| l as usize);
            if map.is_empty() {
                return;
            }
            if pooling == MapPooling::Mean {
                d_map.fill(d_score / map.len() as f32);
                return;
            }
            let of_row = d_score / l_q as f32;
            for (i, (row, d_row)) in map
                .chunks_exact(l_c)
                .zip(d_map.chunks_exact_mut(l_c))
                .enumerate()
            {
                d_row.fill(0.0);
                match pooling {
                    MapPooling::Max => {
                        let largest = simd::max(row);
                        if let Some(winner) = row.iter().position(|&v| v == largest) {
                            d_row[winner] = of_row;
                        }
                    }
                    _ => soft(row, i, &pooling.alignment(), of_row, weights, d_row),
                }
            }
        });
}

/// One row; `weights` is scratch.
#[multiversion(targets = "simd")]
fn soft(
    row: &[f32],
    i: usize,
    alignment: &Alignment,
    of_row: f32,
    weights: &mut Vec<f32>,
    d_row: &mut [f32],
) {
    // Candidates lie side by side.
    let band = alignment.band.map_or(row.len() + i, |band| band as usize);
    let (first, end) = (
        i.saturating_sub(band),
        i.saturating_add(band + 1).min(row.len()),
    );
    if first >= end {
        return;
    }
    let (row, d_row) = (&row[first..end], &mut d_row[first..end]);
    let (distance, temperature) = (alignment.distance, alignment.temperature);
    weights.clear();
    weights.extend(
        row.iter()
            .zip(first..)
            .map(|(&v, j)| (v - distance * i.abs_diff(j) as f32) / temperature),
    );
    let largest = simd::max(weights);
    weights
        .iter_mut()
        .for_each(|z| *z = simd::exp_nonpositive(*z - largest));
    let total = simd::sum(weights, |w| w);
    let value = simd::dot(weights, row) / total;
    for ((d, &w), &v) in d_row.iter_mut().zip(&*weights).zip(row) {
        *d = of_row * (w / total) * (1.0 + (v - value) / temperature);
    }
}
