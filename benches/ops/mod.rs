//! The cases, one module per operator, and what they share.
//!
//! Shapes are those of a six-layer MiniLM encoder (`d_model` 384, 12 heads of 32, `d_ff` 1536) at a full batch of
//! tokens. Activations are f32 on the CPU and f16 elsewhere, as in the encoder.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Device, DeviceKind, Element, Float};
use nearmiss::ops::Rounding;
use rayon::prelude::*;
use serde_json::json;

use super::{Case, Context, Prepared, Recorded, Scale};

mod adamw;
mod add_rows;
mod attention;
mod attention_backward;
mod attention_pool;
mod attention_pool_backward;
mod batch_norm;
mod batch_norm_backward;
mod cosine_topk;
mod dropout;
mod embedding;
mod embedding_backward;
mod encode;
mod fold;
mod grad_norm;
mod info_nce;
mod layer_norm;
mod layer_norm_backward;
mod map_features;
mod map_features_backward;
mod map_pool_backward;
mod matmul;
mod matmul_nn;
mod matmul_tn;
mod max_pool;
mod max_pool_backward;
mod maxsim;
mod normalize_rows;
mod normalize_rows_backward;
mod pair_dot;
mod pair_step;
mod pairs;
mod pool;
mod pool_backward;
mod relu;
mod scatter_rows;
mod similarity_map;
mod similarity_map_backward;
mod soft_alignment;
mod train_step;
mod unfold;
mod verify;
mod weighted_pool;
mod weighted_pool_backward;

/// Width of the residual stream.
const D_MODEL: usize = 384;

/// Attention heads and their width.
const HEADS: (usize, usize) = (12, 32);

/// The number of the call whose result is read back and checked.
const CHECK: usize = usize::MAX;

/// Rows of a result that are held against the reference, which takes f64 loops.
const CHECKED_ROWS: usize = 8;

/// All cases of this scale, in the order in which a query meets the operators.
pub fn cases(context: &Context) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    cases.extend(embedding::cases(context));
    cases.extend(layer_norm::cases(context));
    cases.extend(matmul::cases(context));
    cases.extend(attention::cases(context));
    cases.extend(attention_backward::cases(context));
    cases.extend(attention_pool::cases(context));
    cases.extend(attention_pool_backward::cases(context));
    cases.extend(add_rows::cases(context));
    cases.extend(dropout::cases(context));
    cases.extend(pool::cases(context));
    cases.extend(normalize_rows::cases(context));
    cases.extend(normalize_rows_backward::cases(context));
    cases.extend(scatter_rows::cases(context));
    cases.extend(pool_backward::cases(context));
    cases.extend(layer_norm_backward::cases(context));
    cases.extend(embedding_backward::cases(context));
    cases.extend(cosine_topk::cases(context));
    cases.extend(pair_dot::cases(context));
    cases.extend(similarity_map::cases(context));
    cases.extend(maxsim::cases(context));
    cases.extend(soft_alignment::cases(context));
    cases.extend(map_features::cases(context));
    cases.extend(map_features_backward::cases(context));
    cases.extend(map_pool_backward::cases(context));
    cases.extend(similarity_map_backward::cases(context));
    cases.extend(unfold::cases(context));
    cases.extend(batch_norm::cases(context));
    cases.extend(batch_norm_backward::cases(context));
    cases.extend(fold::cases(context));
    cases.extend(max_pool::cases(context));
    cases.extend(max_pool_backward::cases(context));
    cases.extend(weighted_pool::cases(context));
    cases.extend(weighted_pool_backward::cases(context));
    cases.extend(relu::cases(context));
    cases.extend(matmul_nn::cases(context));
    cases.extend(matmul_tn::cases(context));
    cases.extend(info_nce::cases(context));
    cases.extend(grad_norm::cases(context));
    cases.extend(adamw::cases(context));
    cases.extend(encode::cases(context)?);
    cases.extend(train_step::cases(context)?);
    cases.extend(pair_step::cases(context)?);
    cases.extend(verify::cases(context)?);
    Ok(cases)
}

/// Tokens of a batch.
fn tokens(scale: Scale) -> &'static [usize] {
    match scale {
        Scale::Quick => &[33],
        Scale::Software => &[256],
        Scale::Cpu => &[2048],
        Scale::Gpu => &[32_768],
    }
}

/// Packed batches: number of texts and tokens of each.
fn packings(scale: Scale) -> &'static [(usize, usize)] {
    match scale {
        Scale::Quick => &[(3, 11)],
        Scale::Software => &[(2, 128), (13, 20)],
        Scale::Cpu => &[(16, 128), (100, 20)],
        Scale::Gpu => &[(256, 128), (1600, 20)],
    }
}

/// Elements of a flat buffer: those of all-MiniLM-L6-v2, where there is time.
fn parameters(scale: Scale) -> usize {
    match scale {
        Scale::Quick => 1000,
        Scale::Software => 1 << 20,
        Scale::Cpu | Scale::Gpu => 22_713_216,
    }
}

/// Offsets of `n` texts of `l` tokens.
fn offsets(n: usize, l: usize) -> Vec<u32> {
    (0..=n).map(|i| (i * l) as u32).collect()
}

/// splitmix64 of a counter, so that numbers can be made in parallel.
fn bits(seed: u64, i: u64) -> u64 {
    let mut z = (seed << 40)
        .wrapping_add(i)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Seeded numbers, uniform with standard deviation `scale`, rounded to f16 so that every element type holds them
/// exactly.
pub fn noise<T: Float>(len: usize, scale: f32, seed: u64) -> Vec<T> {
    let width = 2.0 * 3f32.sqrt() * scale;
    (0..len)
        .into_par_iter()
        .with_min_len(1 << 14)
        .map(|i| {
            let unit = (bits(seed, i as u64) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            T::from_f32(f16::from_f32(width * unit).to_f32())
        })
        .collect()
}

/// Seeded numbers below `n`.
fn indices(len: usize, n: usize, seed: u64) -> Vec<u32> {
    let all = 0..len as u64;
    all.map(|i| (bits(seed, i) % n as u64) as u32).collect()
}

/// Values as f32, exactly.
fn widen<T: Float>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// At most [`CHECKED_ROWS`] of `n` rows, the first and the last among them.
fn sample(n: usize) -> Vec<usize> {
    let count = n.min(CHECKED_ROWS);
    let mut rows: Vec<usize> = (0..count)
        .map(|i| i * (n - 1) / (count - 1).max(1))
        .collect();
    rows.dedup();
    rows
}

/// The rows `which` of a matrix with `width` columns.
fn gather<T: Copy>(values: &[T], width: usize, which: &[usize]) -> Vec<T> {
    let rows = which.iter().map(|&r| &values[r * width..][..width]);
    rows.flatten().copied().collect()
}

/// An output that is wrong wherever nothing is written.
fn poisoned<T: Float>(device: &Device, len: usize) -> Result<Buffer<T>> {
    repeated(device, &vec![T::from_f32(f32::NAN); len.min(BLOCK)], 0, len)
}

/// Numbers that the host makes and sends at a time; what is larger repeats them on the device.
const BLOCK: usize = 1 << 24;

/// `len` elements on the device that repeat `block`, beginning with its element `first`.
fn repeated<T: Element>(
    device: &Device,
    block: &[T],
    first: usize,
    len: usize,
) -> Result<Buffer<T>> {
    if first == 0 && len <= block.len() {
        return device.upload(&block[..len]);
    }
    let source = device.upload(block)?;
    let mut all = device.alloc(len)?;
    let mut at = 0;
    while at < len {
        let from = (first + at) % block.len();
        let count = (block.len() - from).min(len - at);
        all.copy_from(at, source.slice(from..from + count))?;
        at += count;
    }
    Ok(all)
}

/// The elements that [`repeated`] has in `range`, on the host.
fn repeats<T: Copy>(block: &[T], range: std::ops::Range<usize>) -> Vec<T> {
    range.map(|i| block[i % block.len()]).collect()
}

/// As many copies as a case has sets of inputs; the host sends the first.
fn copies<T: Element>(device: &Device, first: Buffer<T>, sets: usize) -> Result<Vec<Buffer<T>>> {
    let mut all = vec![first];
    for _ in 1..sets {
        let mut next = device.alloc(all[0].len())?;
        next.copy_from(0, &all[0])?;
        all.push(next);
    }
    Ok(all)
}

/// Largest `|got - want| / bound` over the rows `which` of `got`; infinite if any element of `got` at all is not
/// finite, be it because nothing wrote it.
fn worst_ratio<T: Float>(
    got: &[T],
    width: usize,
    which: &[usize],
    want: &[f64],
    bound: &[f64],
) -> f64 {
    let sampled = gather(got, width, which);
    if sampled.len() != want.len() || got.iter().any(|v| !v.to_f32().is_finite()) {
        return f64::INFINITY;
    }
    sampled
        .iter()
        .zip(want.iter().zip(bound))
        .map(|(got, (want, bound))| {
            let error = (f64::from(got.to_f32()) - want).abs();
            match error {
                0.0 => 0.0,
                _ if *bound > 0.0 => error / bound,
                _ => f64::INFINITY,
            }
        })
        .fold(0.0, f64::max)
}

/// [`worst_ratio`] of what was computed in two ways, one bound for all.
fn worst_of_two(got: &[f32], want: &[f32], bound: f64) -> f64 {
    let want: Vec<f64> = want.iter().copied().map(f64::from).collect();
    let all: Vec<usize> = (0..want.len()).collect();
    worst_ratio(got, 1, &all, &want, &vec![bound; want.len()])
}

/// The rounding rules of the device.
fn rounding(context: &Context) -> Rounding {
    Rounding::of(context.device.kind())
}

/// Whether activations are f32.
fn single(context: &Context) -> bool {
    context.device.kind() == DeviceKind::Cpu
}
