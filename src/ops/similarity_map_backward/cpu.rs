//! The gradients of token vectors on the processor: tiles of tokens in parallel, their sums in registers over all pairs.

use multiversion::multiversion;
use rayon::prelude::*;

use super::Args;
use super::partners::{Partner, Partners};
use crate::device::{ElementType, Float};
use crate::ops::token_pairs::widen;

/// Tokens whose sums are in registers at once: with 16 elements of each, twelve of sixteen 256-bit registers.
const TILE: usize = 6;

/// Tokens of one task: whole tiles, few enough that a batch of few texts keeps many threads busy.
const TASK: usize = 2 * TILE;

pub(super) fn similarity_map_backward<T: Float>(
    args: &Args<'_, T>,
    d_queries: &mut [f32],
    d_documents: &mut [f32],
) {
    for (side, gradient) in [(0, d_queries), (1, d_documents)] {
        of_side(args, side, gradient);
    }
}

fn of_side<T: Float>(args: &Args<'_, T>, side: usize, gradient: &mut [f32]) {
    let d = args.d;
    let texts = [args.queries, args.documents];
    let packings = texts.map(|tokens| tokens.packing);
    let partners = Partners::of(args.pairs, args.layout, packings, side);
    let others = texts[1 - side].rows.host();
    // A text's vectors are read once for every tile of all its partners' tokens.
    let mut wide = Vec::new();
    let others: &[f32] = if T::TYPE == ElementType::F32 {
        bytemuck::cast_slice(others)
    } else {
        widen(others, &mut wide);
        &wide
    };
    let mut rest = gradient;
    let mut jobs = Vec::new();
    for text in 0..packings[side].texts() {
        let (of_text, after) = rest.split_at_mut(packings[side].rows(text).len() * d);
        rest = after;
        let tasks = of_text.chunks_mut(TASK * d).enumerate();
        jobs.extend(tasks.map(|(task, tokens)| (text, task * TASK, tokens)));
    }
    let d_maps = args.d_maps.host();
    jobs.into_par_iter()
        .for_each_init(Vec::new, |gradients, (text, first, tokens)| {
            let partners = partners.of_text(text);
            for (tile, rows) in tokens.chunks_mut(TILE * d).enumerate() {
                let count = rows.len() / d;
                gather(
                    partners,
                    d_maps,
                    side,
                    first + tile * TILE,
                    count,
                    gradients,
                );
                let sums = Sums {
                    partners,
                    others,
                    gradients,
                    d,
                };
                match count {
                    1 => add::<1>(&sums, rows),
                    2 => add::<2>(&sums, rows),
                    3 => add::<3>(&sums, rows),
                    4 => add::<4>(&sums, rows),
                    5 => add::<5>(&sums, rows),
                    _ => add::<TILE>(&sums, rows),
                }
            }
        });
}

/// The gradients of the products of `count` tokens of a text, from `first` on, with every token of its partners.
fn gather(
    partners: &[Partner],
    d_maps: &[f32],
    side: usize,
    first: usize,
    count: usize,
    gradients: &mut Vec<f32>,
) {
    gradients.clear();
    for partner in partners {
        let (l_c, others) = (partner.l_c as usize, partner.tokens as usize);
        let map = &d_maps[partner.map as usize..];
        if side == 0 {
            // Its tokens are rows of the map.
            let rows = &map[first * l_c..(first + count) * l_c];
            gradients.extend((0..others).flat_map(|j| rows[j..].iter().step_by(l_c)));
        } else {
            let columns = map.chunks(l_c).take(others);
            gradients.extend(columns.flat_map(|row| &row[first..first + count]));
        }
    }
}

/// What the gradients of some tokens are sums of.
struct Sums<'a> {
    partners: &'a [Partner],
    /// `[t, d]`, the partners' token vectors among them.
    others: &'a [f32],
    /// For each token of each partner one of every token.
    gradients: &'a [f32],
    d: usize,
}

/// Writes the gradients of `N` tokens.
#[multiversion(targets = "simd")]
fn add<const N: usize>(sums: &Sums<'_>, rows: &mut [f32]) {
    let d = sums.d;
    let mut start = 0;
    while start + 16 <= d {
        elements::<N, 16>(sums, start, rows);
        start += 16;
    }
    // Widths are multiples of eight.
    if start < d {
        elements::<N, 8>(sums, start, rows);
    }
}

/// `L` elements of them. The sums stay in registers as long as every index of `tile` is a constant.
#[inline(always)]
fn elements<const N: usize, const L: usize>(sums: &Sums<'_>, start: usize, rows: &mut [f32]) {
    let d = sums.d;
    let mut tile = [[0f32; L]; N];
    let mut at = 0;
    for partner in sums.partners {
        for row in partner.first as usize..(partner.first + partner.tokens) as usize {
            let row = &sums.others[row * d + start..][..L];
            let row: &[f32; L] = row.try_into().expect("L elements");
            let gradients = &sums.gradients[at..][..N];
            let gradients: &[f32; N] = gradients.try_into().expect("N gradients");
            at += N;
            for n in 0..N {
                for c in 0..L {
                    tile[n][c] = gradients[n].mul_add(row[c], tile[n][c]);
                }
            }
        }
    }
    for n in 0..N {
        rows[n * d + start..][..L].copy_from_slice(&tile[n]);
    }
}
