//! `out = softmax(scale q k^T) v` for every text and head, over packed texts
//!
//! `qkv` `[t, 3 d]` is the output of one fused projection: columns `0 .. d` are queries, `d .. 2 d` keys, `2 d .. 3 d`
//! values, each `n_heads` heads of `head_dim`. A token attends to the tokens of its own text only, so nothing is ever
//! masked or padded. Scores and probabilities are never stored. Cost: `4 d sum_i l_i^2` FLOP for text lengths `l_i`,
//! against `4 t d` elements read and written.
//!
//! The CPU handles one text at a time per thread: keys of a head are transposed once, then four query rows at a time
//! go through a register-tiled product, softmax and a second product. GPUs stream the keys with an online softmax.
//! Comes after the fused q, k, v projection ([`mod@super::matmul`]), before the output projection.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, FLOATS, OpSpec, Packing, Rounding, TIERS, check, simd, tier_variant};
use crate::device::{Backend, Buffer, Cost, Dispatch, Float, Wgpu};
use crate::error::{Error, Result};
use crate::template::{Source, Variant};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "attention",
    formula: "out = softmax(scale q k^T) v, per text and head, packed",
    ptx: None,
    ptx_variants: Vec::new,
    wgsl: Some(WGSL),
    wgsl_variants,
};

const WGSL: Source = Source {
    file: "attention.wgsl",
    text: include_str!("../../shaders/attention.wgsl"),
};

/// Dimensions of a head that one invocation (or one register tile) handles.
const PART: usize = 32;

/// Largest head dimension; the one of a 768-wide verifier with a single head.
const MAX_HEAD_DIM: usize = 768;

/// Keys per step of the online softmax in the shader.
const KEYS: usize = 8;

/// Heads that share a workgroup, so that narrow heads still fill 64 invocations.
fn heads_per_group(n_heads: usize, head_dim: usize) -> usize {
    let fit = (64 / Packing::BLOCK / (head_dim / PART)).max(1);
    (1..=fit)
        .rev()
        .find(|h| n_heads.is_multiple_of(*h))
        .unwrap_or(1)
}

fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tier in TIERS {
        for act in FLOATS {
            for (head_dim, heads) in [
                (32, 1),
                (32, 2),
                (32, 3),
                (32, 4),
                (64, 1),
                (64, 2),
                (384, 1),
            ] {
                all.push(
                    tier_variant(tier)
                        .with("act", act.name())
                        .with("parts", (head_dim / PART) as i64)
                        .with("heads", heads),
                );
            }
        }
    }
    all
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n_blocks: u32,
    head_groups: u32,
    d4: u32,
    scale: f32,
}

/// Attention of every text in `packing` over itself: `qkv` `[t, 3 d]` gives `out` `[t, d]`, `d = n_heads head_dim`,
/// with `scale = 1 / sqrt(head_dim)`. `head_dim` is a multiple of 32, at most 768.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, [`Error::Unsupported`] on CUDA and for f16 activations on the CPU.
///
/// ```
/// use nearmiss::{Device, ops::{Packing, attention}};
/// let cpu = Device::cpu();
/// let packing = Packing::new(&cpu, vec![0, 1])?; // one text of one token attends to itself
/// let qkv: Vec<f32> = (0..96).map(|i| i as f32).collect();
/// let mut out = cpu.alloc::<f32>(32)?;
/// attention(&cpu.upload(&qkv)?, &packing, 1, 32, &mut out)?;
/// assert_eq!(out.read()?, qkv[64..]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn attention<A: Float>(
    qkv: &Buffer<A>,
    packing: &Packing,
    n_heads: usize,
    head_dim: usize,
    out: &mut Buffer<A>,
) -> Result<()> {
    let device = out.device().clone();
    if head_dim == 0 || !head_dim.is_multiple_of(PART) || head_dim > MAX_HEAD_DIM {
        return Err(Error::shape(
            SPEC.name,
            "head_dim",
            format!("a multiple of {PART}, at most {MAX_HEAD_DIM}"),
            head_dim,
        ));
    }
    let (t, d) = (packing.tokens(), n_heads * head_dim);
    check(SPEC.name, "qkv", qkv, t * 3 * d, &device)?;
    check(SPEC.name, "out", out, t * d, &device)?;
    check(
        SPEC.name,
        "packing",
        &packing.blocks,
        packing.blocks.len(),
        &device,
    )?;
    device.run(SPEC.name, cost::<A>(packing, d), |backend| match backend {
        Backend::Cpu(_) => {
            let (Some(qkv), Some(out)) = (qkv.same_type::<f32>(), out.same_type_mut::<f32>())
            else {
                return Err(SPEC.unsupported(&device, "the CPU computes with f32 activations"));
            };
            cpu(
                qkv.host(),
                packing.offsets(),
                n_heads,
                head_dim,
                out.host_mut(),
            );
            Ok(())
        }
        Backend::Wgpu(dev) => wgpu(dev, qkv, packing, n_heads, head_dim, out),
        Backend::Cuda(_) => Err(SPEC.unsupported(
            &device,
            "its PTX kernel does not exist yet; use --device cpu or vulkan",
        )),
    })
}

fn cost<A: Float>(packing: &Packing, d: usize) -> Cost {
    let pairs: u64 = packing
        .offsets()
        .windows(2)
        .map(|w| u64::from(w[1] - w[0]).pow(2))
        .sum();
    Cost {
        flop: 4 * d as u64 * pairs,
        bytes: (4 * packing.tokens() * d * size_of::<A>()) as u64,
    }
}

fn scale_of(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// The definition, in loops; result `[t, d]`.
pub fn reference<A: Accum>(
    qkv: &[f32],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
) -> Vec<A> {
    let d = n_heads * head_dim;
    let at = |row: usize, which: usize, head: usize, c: usize| -> A {
        A::of(qkv[row * 3 * d + which * d + head * head_dim + c].into())
    };
    let scale = A::of(scale_of(head_dim).into());
    let mut out = vec![A::of(0.0); qkv.len() / 3];
    for text in offsets.windows(2) {
        let rows = text[0] as usize..text[1] as usize;
        for head in 0..n_heads {
            for i in rows.clone() {
                let scores: Vec<A> = rows
                    .clone()
                    .map(|j| {
                        let mut dot = A::of(0.0);
                        for c in 0..head_dim {
                            dot += at(i, 0, head, c) * at(j, 1, head, c);
                        }
                        dot * scale
                    })
                    .collect();
                let max = scores
                    .iter()
                    .fold(scores[0], |m, &s| if s > m { s } else { m });
                let probs: Vec<A> = scores.iter().map(|&s| (s - max).exp()).collect();
                let mut total = A::of(0.0);
                for &p in &probs {
                    total += p;
                }
                for c in 0..head_dim {
                    let mut sum = A::of(0.0);
                    for (j, &p) in rows.clone().zip(&probs) {
                        sum += p * at(j, 2, head, c);
                    }
                    out[i * d + head * head_dim + c] = sum / total;
                }
            }
        }
    }
    out
}

/// Error of each output, stored with `bytes` bytes. With `S_j = scale sum |q k_j|`, `R` the largest distance of a
/// score to the row's maximum, `T = ceil(l / 8)` steps of an online softmax and `w_j` the exact probabilities:
///
/// * score: `e_j = g(head_dim + 1) S_j`
/// * a probability's numerator, relative: `eps = 2 max_j e_j + (exp.0 + (exp.1 + 1) R) u` for its own exponential,
///   and as much again per step for the rescaling by `exp(old max - new max)`, whose arguments add up to at most `R`:
///   `T (exp.0 + 2) u + (exp.1 + 1) R u`
/// * sums over `l` terms with `T` rescalings: `g(l + T)`, in numerator and denominator, then one division:
///   `(2 eps + 2 g(l + T) + division u) sum_j w_j |v_j|`
pub fn error_bound(
    qkv: &[f32],
    offsets: &[u32],
    n_heads: usize,
    head_dim: usize,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let d = n_heads * head_dim;
    let u = rounding.u;
    let at = |row: usize, which: usize, head: usize, c: usize| {
        f64::from(qkv[row * 3 * d + which * d + head * head_dim + c])
    };
    let scale = f64::from(scale_of(head_dim));
    let mut bounds = vec![0.0; qkv.len() / 3];
    for text in offsets.windows(2) {
        let rows = text[0] as usize..text[1] as usize;
        let l = rows.len();
        let steps = l.div_ceil(KEYS);
        for head in 0..n_heads {
            for i in rows.clone() {
                let mut scores = Vec::with_capacity(l);
                let mut e_score = 0f64;
                for j in rows.clone() {
                    let (mut dot, mut magnitude) = (0.0, 0.0);
                    for c in 0..head_dim {
                        let product = at(i, 0, head, c) * at(j, 1, head, c);
                        dot += product;
                        magnitude += f64::abs(product);
                    }
                    scores.push(dot * scale);
                    e_score = e_score.max(rounding.g(head_dim + 1) * magnitude * scale);
                }
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let range = scores.iter().map(|s| max - s).fold(0.0, f64::max);
                let one = (rounding.exp.1 + 1.0) * range * u;
                let eps = 2.0 * e_score
                    + rounding.exp.0 * u
                    + one
                    + steps as f64 * (rounding.exp.0 + 2.0) * u
                    + one;
                let relative = 2.0 * eps + 2.0 * rounding.g(l + steps) + rounding.division * u;
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for c in 0..head_dim {
                    let (mut value, mut magnitude) = (0.0, 0.0);
                    for (j, s) in rows.clone().zip(&scores) {
                        let term = (s - max).exp() / total * at(j, 2, head, c);
                        value += term;
                        magnitude += term.abs();
                    }
                    let e = relative / (1.0 - relative).max(0.5) * magnitude;
                    bounds[i * d + head * head_dim + c] = rounding.store(value, e, bytes);
                }
            }
        }
    }
    bounds
}

/// Query rows in a register tile of the CPU path: with [`PART`] columns, 8 accumulators of 16 lanes.
const ROWS: usize = 4;

/// `tile[r][c] = sum_k lhs[r][k] rhs[k * stride + c]` for [`ROWS`] rows and [`PART`] columns.
#[inline(always)]
fn tile_product(lhs: [&[f32]; ROWS], rhs: &[f32], stride: usize) -> [[f32; PART]; ROWS] {
    let mut tile = [[0f32; PART]; ROWS];
    let k = lhs[0].len();
    for i in 0..k {
        let rhs: &[f32; PART] = rhs[i * stride..][..PART].try_into().expect("PART columns");
        for r in 0..ROWS {
            let x = lhs[r][i];
            for c in 0..PART {
                tile[r][c] = x.mul_add(rhs[c], tile[r][c]);
            }
        }
    }
    tile
}

fn cpu(qkv: &[f32], offsets: &[u32], n_heads: usize, head_dim: usize, out: &mut [f32]) {
    let d = n_heads * head_dim;
    // One piece of the output per text.
    let mut rest = out;
    let mut texts = Vec::with_capacity(offsets.len() - 1);
    for span in offsets.windows(2) {
        let (piece, tail) = rest.split_at_mut((span[1] - span[0]) as usize * d);
        texts.push((
            &qkv[span[0] as usize * 3 * d..span[1] as usize * 3 * d],
            piece,
        ));
        rest = tail;
    }
    texts
        .into_par_iter()
        .for_each_init(Vec::new, |scratch, (qkv, out)| {
            one_text(qkv, n_heads, head_dim, out, scratch);
        });
}

/// All heads of one text.
#[multiversion(targets = "simd")]
fn one_text(qkv: &[f32], n_heads: usize, head_dim: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
    let d = n_heads * head_dim;
    let l = out.len() / d;
    let padded = l.next_multiple_of(PART);
    let scale = scale_of(head_dim);
    scratch.clear();
    scratch.resize((head_dim + ROWS) * padded, 0.0);
    let (keys, probs) = scratch.split_at_mut(head_dim * padded);
    for head in 0..n_heads {
        let column = |which: usize| which * d + head * head_dim;
        // Keys, scaled and transposed to [head_dim, padded]; the padding stays zero.
        for j in 0..l {
            let key = &qkv[j * 3 * d + column(1)..][..head_dim];
            for (c, &k) in key.iter().enumerate() {
                keys[c * padded + j] = k * scale;
            }
        }
        for i in (0..l).step_by(ROWS) {
            // A last block with fewer rows repeats its last one; the repeats are not stored.
            let row = |r: usize| (i + r).min(l - 1);
            let queries: [&[f32]; ROWS] =
                std::array::from_fn(|r| &qkv[row(r) * 3 * d + column(0)..][..head_dim]);
            for j in (0..l).step_by(PART) {
                let tile = tile_product(queries, &keys[j..], padded);
                for r in 0..ROWS {
                    probs[r * padded + j..][..PART].copy_from_slice(&tile[r]);
                }
            }
            let mut totals = [0f32; ROWS];
            for r in 0..ROWS {
                let scores = &mut probs[r * padded..][..l];
                let max = simd::max(scores);
                for s in scores.iter_mut() {
                    *s = simd::exp_nonpositive(*s - max);
                }
                totals[r] = simd::sum(scores, |p| p);
            }
            let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &probs[r * padded..][..l]);
            for c in (0..head_dim).step_by(PART) {
                let tile = tile_product(weights, &qkv[column(2) + c..], 3 * d);
                for r in 0..ROWS.min(l - i) {
                    let out = &mut out[(i + r) * d + head * head_dim + c..][..PART];
                    let inverse = 1.0 / totals[r];
                    for (out, &v) in out.iter_mut().zip(&tile[r]) {
                        *out = v * inverse;
                    }
                }
            }
        }
    }
}

fn wgpu<A: Float>(
    dev: &Wgpu,
    qkv: &Buffer<A>,
    packing: &Packing,
    n_heads: usize,
    head_dim: usize,
    out: &mut Buffer<A>,
) -> Result<()> {
    let heads = heads_per_group(n_heads, head_dim);
    let head_groups = n_heads / heads;
    let params = Params {
        n_blocks: packing.n_blocks as u32,
        head_groups: head_groups as u32,
        d4: (n_heads * head_dim / 4) as u32,
        scale: scale_of(head_dim),
    };
    dev.dispatch(&Dispatch {
        source: WGSL,
        entry: "attention",
        variant: tier_variant(dev.tier())
            .with("act", A::TYPE.name())
            .with("parts", (head_dim / PART) as i64)
            .with("heads", heads as i64),
        bindings: &[
            qkv.bind(),
            packing.device_offsets.bind(),
            packing.blocks.bind(),
            out.bind_mut(),
        ],
        params: bytemuck::bytes_of(&params),
        groups: super::grid(packing.n_blocks * head_groups),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_heads_divide_the_heads() {
        assert_eq!(heads_per_group(12, 32), 4);
        assert_eq!(heads_per_group(3, 32), 3);
        assert_eq!(heads_per_group(12, 64), 2);
        assert_eq!(heads_per_group(1, 384), 1);
    }
}
