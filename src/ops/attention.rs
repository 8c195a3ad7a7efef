//! `out = softmax(scale q k^T) v` for every text and head, over packed texts
//!
//! `qkv` `[t, 3 d]` is the output of one fused projection: columns `0 .. d` are queries, `d .. 2 d` keys, `2 d .. 3 d`
//! values, each `n_heads` heads of `head_dim`. A token attends to the tokens of its own text only, so nothing is ever
//! masked or padded. Scores and probabilities are never stored. Cost: `4 d sum_i l_i^2` FLOP for text lengths `l_i`,
//! against `4 t d` elements read and written.
//!
//! The CPU handles one text at a time per thread: keys of a head are transposed once, then four query rows at a time
//! go through a register-tiled product, softmax and a second product. GPUs stream the keys with an online softmax; on
//! CUDA both products run on tensor cores, and short texts share a block of threads between heads.
//! Comes after the fused q, k, v projection ([`mod@super::matmul`]), before the output projection.

use half::f16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Accum, FLOATS, OpSpec, Packing, Rounding, TIERS, check, simd, tier_variant};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, DeviceKind, Dispatch, Float, Launch, Wgpu};
use crate::device::{ElementType, Tier};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "attention",
    formula: "out = softmax(scale q k^T) v, per text and head, packed",
    ptx: Some(PTX),
    ptx_variants,
    wgsl: Some(WGSL),
    wgsl_variants,
};

const WGSL: Source = Source {
    file: "attention.wgsl",
    text: include_str!("../../shaders/attention.wgsl"),
};

const PTX: Source = Source {
    file: "attention.ptx",
    text: include_str!("../../kernels/attention.ptx"),
};

/// Query rows of a block in the shader's work list.
const WGSL_ROWS: usize = 16;

/// Query rows of a block in the PTX kernel's work list, by class. A text belongs to the last class whose rows hold all
/// of it, or else to the first; a block of threads takes as many heads as there are such blocks in the first.
const PTX_ROWS: [usize; 3] = [128, 64, 32];

/// Query rows, or pairs of heads and rows, of a warp of the PTX kernel.
const WARP_ROWS: usize = PTX_ROWS[2];

/// Dimensions of a head that one invocation (or one register tile) handles.
const PART: usize = 32;

/// Largest head dimension; the one of a 768-wide verifier with a single head.
const MAX_HEAD_DIM: usize = 768;

/// Keys per step of the online softmax in the shader.
const KEYS: usize = 8;

/// The most heads that share a workgroup, so that narrow heads still fill 64 invocations.
fn most_heads(head_dim: usize) -> usize {
    (64 / WGSL_ROWS / (head_dim / PART)).max(1)
}

/// Heads that share a workgroup.
fn heads_per_group(n_heads: usize, head_dim: usize) -> usize {
    (1..=most_heads(head_dim))
        .rev()
        .find(|h| n_heads.is_multiple_of(*h))
        .unwrap_or(1)
}

/// Workgroups that share a block of rows: an adapter need not take more than 256 invocations in one.
fn splits(head_dim: usize) -> usize {
    (WGSL_ROWS * head_dim / PART).div_ceil(256)
}

fn wgsl_variant(tier: Tier, act: ElementType, head_dim: usize, heads: usize) -> Variant {
    tier_variant(tier)
        .with("act", act.name())
        .with("parts", (head_dim / PART) as i64)
        .with("heads", heads as i64)
}

fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tier in TIERS {
        for act in FLOATS {
            for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
                // So many heads share a workgroup if there are just so many.
                let heads = 1..=most_heads(head_dim);
                all.extend(heads.map(|heads| wgsl_variant(tier, act, head_dim, heads)));
            }
        }
    }
    all
}

/// How the PTX kernel divides a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PtxShape {
    /// A warp has all columns of its rows.
    Whole {
        /// Columns of a head, 32 or 64.
        width: usize,
    },
    /// A warp has 64 columns (or fewer, the last); the warps of a block add up their scores.
    Slices {
        /// Warps of a block.
        slices: usize,
        /// Keys per step.
        keys: usize,
    },
}

impl PtxShape {
    /// Columns of a slice.
    const SLICE: usize = 64;

    fn of(head_dim: usize) -> Self {
        if head_dim <= Self::SLICE {
            return PtxShape::Whole { width: head_dim };
        }
        let slices = head_dim.div_ceil(Self::SLICE);
        // With 16 keys up to 12 slices fit into the shared memory (99 KiB) and the registers of every device.
        let keys = if slices <= 8 { 32 } else { 16 };
        PtxShape::Slices { slices, keys }
    }

    fn variant(self) -> Variant {
        let (width, sliced, keys) = match self {
            PtxShape::Whole { width } => (width, false, 64),
            PtxShape::Slices { keys, .. } => (Self::SLICE, true, keys),
        };
        Variant::new()
            .with("width", width as i64)
            .with("sliced", sliced)
            .with("keys", keys as i64)
    }

    fn threads(self) -> u32 {
        match self {
            PtxShape::Whole { .. } => 128,
            PtxShape::Slices { slices, .. } => 32 * slices as u32,
        }
    }

    fn shared_bytes(self) -> u32 {
        match self {
            // Three stages of 64 keys and values.
            PtxShape::Whole { width } => 3 * 64 * 2 * (2 * width as u32),
            // Keys and values of a slice, and 32 rows of scores in f32.
            PtxShape::Slices { slices, keys } => {
                slices as u32 * keys as u32 * (2 * 2 * Self::SLICE as u32 + 4 * WARP_ROWS as u32)
            }
        }
    }

    /// Blocks of threads for the entries of each class.
    fn launch_blocks(self, entries: [usize; 3], n_heads: usize) -> usize {
        let per_entry = PTX_ROWS.map(|rows| match self {
            PtxShape::Whole { .. } => n_heads.div_ceil(PTX_ROWS[0] / rows),
            PtxShape::Slices { .. } => n_heads * (rows / WARP_ROWS),
        });
        entries.iter().zip(per_entry).map(|(n, per)| n * per).sum()
    }
}

fn ptx_variants() -> Vec<Variant> {
    [32, 64, 96, MAX_HEAD_DIM]
        .map(|head_dim| PtxShape::of(head_dim).variant())
        .into()
}

/// How many entries the work list of a [`Packing`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    /// For the shader (and for the CPU, which needs none): (text, first row) of blocks of [`WGSL_ROWS`] rows.
    Wgsl(usize),
    /// For the PTX kernel, by class: (first row of the text, its rows, first row of the block within the text, 0) of
    /// blocks of [`PTX_ROWS`] rows; longest texts first, so that a launch does not end with a long one.
    Ptx([usize; 3]),
}

/// The work list for a kind of device: texts cut into blocks of query rows.
pub(super) fn blocks(kind: DeviceKind, offsets: &[u32]) -> (Vec<u32>, Blocks) {
    let mut list = Vec::new();
    if kind != DeviceKind::Cuda {
        for (text, span) in offsets.windows(2).enumerate() {
            for start in (span[0]..span[1]).step_by(WGSL_ROWS) {
                list.extend([text as u32, start]);
            }
        }
        let n = list.len() / 2;
        return (list, Blocks::Wgsl(n));
    }
    let mut texts: Vec<[u32; 2]> = offsets.windows(2).map(|w| [w[0], w[1] - w[0]]).collect();
    texts.sort_by_key(|&[_, rows]| std::cmp::Reverse(rows));
    let mut entries = [0; 3];
    for [first, rows] in texts {
        let class = PTX_ROWS
            .iter()
            .rposition(|&most| rows as usize <= most)
            .unwrap_or(0);
        for start in (0..rows).step_by(PTX_ROWS[class]) {
            list.extend([first, rows, start, 0]);
            entries[class] += 1;
        }
    }
    (list, Blocks::Ptx(entries))
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
/// [`Error::Shape`] for sizes that do not fit, [`Error::Unsupported`] for element types a device does not have (CUDA
/// takes f16 activations, the CPU f32).
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
        Backend::Cuda(dev) => {
            let (Some(qkv), Some(out)) = (qkv.same_type::<f16>(), out.same_type_mut::<f16>())
            else {
                return Err(SPEC.unsupported(&device, "tensor cores multiply f16 activations"));
            };
            cuda(dev, qkv, packing, n_heads, head_dim, out)
        }
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
/// * a numerator as the operand of a matrix unit: `operand.0` relative and, below the normal range, `operand.1` absolute.
///   The largest numerator of the keys so far is at least 1 (more where the maximum lags behind), later rescaling only
///   shrinks the error, and the sum of the numerators is taken before they are narrowed: `operand.1` times
///   `1 / sum_j exp(s_j - max)` for each value, twice since a rounded maximum may leave a little less than 1
/// * sums over `l` terms with `T` rescalings: `g(l + T)`, in numerator and denominator, then one division:
///   `(2 eps + operand.0 + 2 g(l + T) + division u) sum_j w_j |v_j| + 2 operand.1 sum_j |v_j| / sum_j exp(s_j - max)`
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
                let relative = 2.0 * eps
                    + rounding.operand.0
                    + 2.0 * rounding.g(l + steps)
                    + rounding.division * u;
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for c in 0..head_dim {
                    let (mut value, mut magnitude, mut narrowed) = (0.0, 0.0, 0.0);
                    for (j, s) in rows.clone().zip(&scores) {
                        let v = at(j, 2, head, c);
                        let term = (s - max).exp() / total * v;
                        value += term;
                        magnitude += term.abs();
                        narrowed += v.abs() / total;
                    }
                    let e = relative / (1.0 - relative).max(0.5) * magnitude
                        + 2.0 * rounding.operand.1 * narrowed;
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
    let Blocks::Wgsl(n_blocks) = packing.n_blocks else {
        unreachable!("a packing has the work list of its device")
    };
    let heads = heads_per_group(n_heads, head_dim);
    let head_groups = n_heads / heads;
    let params = Params {
        n_blocks: n_blocks as u32,
        head_groups: head_groups as u32,
        d4: (n_heads * head_dim / 4) as u32,
        scale: scale_of(head_dim),
    };
    dev.dispatch(&Dispatch {
        source: WGSL,
        entry: "attention",
        variant: wgsl_variant(dev.tier(), A::TYPE, head_dim, heads),
        bindings: &[
            qkv.bind(),
            packing.device_offsets.bind(),
            packing.blocks.bind(),
            out.bind_mut(),
        ],
        params: bytemuck::bytes_of(&params),
        groups: super::grid(n_blocks * splits(head_dim) * head_groups),
    })
}

fn cuda(
    dev: &Cuda,
    qkv: &Buffer<f16>,
    packing: &Packing,
    n_heads: usize,
    head_dim: usize,
    out: &mut Buffer<f16>,
) -> Result<()> {
    let Blocks::Ptx(entries) = packing.n_blocks else {
        unreachable!("a packing has the work list of its device")
    };
    let shape = PtxShape::of(head_dim);
    let blocks = shape.launch_blocks(entries, n_heads);
    if blocks == 0 {
        return Ok(());
    }
    if blocks >= 1 << 31 || 3 * n_heads * head_dim >= 1 << 30 {
        let why = format!(
            "{} tokens of width {} are too many for one launch",
            packing.tokens(),
            n_heads * head_dim
        );
        return Err(SPEC.unsupported(out.device(), &why));
    }
    let exponent = f64::from(scale_of(head_dim)) * std::f64::consts::LOG2_E;
    dev.launch(&Launch {
        source: PTX,
        entry: "attention",
        variant: shape.variant(),
        args: &[
            Arg::Buffer(qkv.bind()),
            Arg::Buffer(packing.blocks.bind()),
            Arg::Buffer(out.bind_mut()),
            Arg::U32(entries[0] as u32),
            Arg::U32(entries[1] as u32),
            Arg::U32(n_heads as u32),
            Arg::U32(head_dim as u32),
            Arg::F32(exponent as f32),
        ],
        grid: [blocks as u32, 1, 1],
        block: [shape.threads(), 1, 1],
        shared_bytes: shape.shared_bytes(),
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

    #[test]
    fn every_shader_variant_that_is_asked_for_is_listed_and_no_other() {
        let listed = wgsl_variants();
        let mut asked = Vec::new();
        for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
            for n_heads in 1..=24 {
                for (tier, act) in TIERS.iter().flat_map(|t| FLOATS.map(|act| (*t, act))) {
                    let heads = heads_per_group(n_heads, head_dim);
                    asked.push(wgsl_variant(tier, act, head_dim, heads));
                }
            }
        }
        assert!(asked.iter().all(|v| listed.contains(v)));
        assert!(listed.iter().all(|v| asked.contains(v)));
    }

    #[test]
    fn a_workgroup_takes_what_every_adapter_has() {
        assert_eq!([32, 384, 512].map(splits), [1, 1, 1]);
        assert_eq!([544, 768].map(splits), [2, 2]);
        for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
            let variant = wgsl_variant(Tier::Core, ElementType::F32, head_dim, 1);
            let shader = crate::device::template::expand(WGSL, &variant)
                .unwrap()
                .text;
            let rows = WGSL_ROWS / splits(head_dim);
            for line in [
                format!("const SPLITS: u32 = {}u;", splits(head_dim)),
                format!("@workgroup_size({})", rows * head_dim / PART),
            ] {
                assert!(shader.contains(&line), "{head_dim}: {line}");
            }
        }
    }

    #[test]
    fn every_row_is_in_one_block_of_its_class() {
        // Lengths 65, 0, 32, 300, 33, 1.
        let offsets = [0, 65, 65, 97, 397, 430, 431];
        let (list, blocks) = blocks(DeviceKind::Cuda, &offsets);
        assert_eq!(blocks, Blocks::Ptx([4, 1, 2]));
        let want: [[u32; 4]; 7] = [
            [97, 300, 0, 0],
            [97, 300, 128, 0],
            [97, 300, 256, 0],
            [0, 65, 0, 0],
            [397, 33, 0, 0],
            [65, 32, 0, 0],
            [430, 1, 0, 0],
        ];
        assert_eq!(list, want.concat());
        let whole = PtxShape::of(32);
        assert_eq!(whole.launch_blocks([4, 1, 2], 12), 4 * 12 + 6 + 2 * 3);
        assert_eq!(whole.launch_blocks([4, 1, 2], 3), 4 * 3 + 2 + 2);
        let sliced = PtxShape::of(384);
        assert_eq!(sliced.launch_blocks([4, 1, 2], 1), 4 * 4 + 2 + 2);
        let (list, blocks) = super::blocks(DeviceKind::Wgpu, &offsets[..4]);
        assert_eq!(blocks, Blocks::Wgsl(7));
        assert_eq!(list[list.len() - 4..], [2, 65, 2, 81]);
    }

    #[test]
    fn ptx_shapes_are_those_of_the_kernel() {
        let mut asked = Vec::new();
        for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
            let shape = PtxShape::of(head_dim);
            let kernel = crate::device::template::expand(PTX, &shape.variant())
                .unwrap()
                .text;
            let most: u32 = kernel
                .split_once(".maxntid ")
                .and_then(|(_, rest)| rest.split(',').next()?.parse().ok())
                .unwrap();
            assert!(shape.threads() <= most, "{head_dim}");
            assert!(shape.shared_bytes() <= 99 << 10, "{head_dim}");
            if let PtxShape::Whole { .. } = shape {
                // The offset at which the last stage wraps round to the first.
                assert!(kernel.contains(&format!("%r_use, {};\n", shape.shared_bytes())));
            }
            asked.push(shape.variant());
        }
        assert!(asked.iter().all(|v| ptx_variants().contains(v)));
        assert!(ptx_variants().iter().all(|v| asked.contains(v)));
    }
}
