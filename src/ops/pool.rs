//! `e_i = normalise(mean_{t in text i} h_t)` or `normalise(h_{first t of text i})`
//!
//! From token vectors `h` `[t, d]` to one embedding per text, optionally with unit L2 norm (the norm is floored at
//! 1e-12). An empty text gives the zero vector. Cost: `t d` additions against `4 t d` bytes: memory bound.
//! The last operator of an encoder; its result is what a [`crate::index::VectorIndex`] stores.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    Accum, FLOATS, OpSpec, Packing, Rounding, TIERS, check, check_width, simd, tier_variant,
};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Dispatch, ElementType, Float, Launch, Wgpu};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "pool",
    formula: "e = normalise(mean of a text's token vectors, or its first one)",
    ptx: Some(PTX),
    ptx_variants,
    wgsl: Some(WGSL),
    wgsl_variants,
};

const WGSL: Source = Source {
    file: "pool.wgsl",
    text: include_str!("../../shaders/pool.wgsl"),
};

const PTX: Source = Source {
    file: "pool.ptx",
    text: include_str!("../../kernels/pool.ptx"),
};

/// Which token vectors make the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens of the text.
    Mean,
    /// The vector of the first token.
    First,
}

impl Pooling {
    fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::First => "first",
        }
    }
}

/// Norms below this count as this, so that a zero vector stays zero.
const NORM_FLOOR: f32 = 1e-12;

/// Largest width of the shader, which keeps a pooled row in workgroup memory.
const MAX_WIDTH: usize = 2048;

/// Largest width of the PTX kernel: a pooled row and 32 bytes more in the 48 KiB of shared memory that a kernel gets
/// without asking.
const MAX_WIDTH_CUDA: usize = (48 * 1024 - 32) / 4;

fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tier in TIERS {
        for output in FLOATS {
            for pooling in [Pooling::Mean, Pooling::First] {
                for normalize in [true, false] {
                    all.push(
                        tier_variant(tier)
                            .with("output", output.name())
                            .with("pooling", pooling.name())
                            .with("normalize", normalize),
                    );
                }
            }
        }
    }
    all
}

/// The entry `pool` of the PTX template: from token vectors (`direct`) or from the sums of slices (`finish`).
fn ptx_variant(
    stage: &'static str,
    output: ElementType,
    pooling: Pooling,
    normalize: bool,
) -> Variant {
    Variant::new()
        .with("stage", stage)
        .with("output", output.name())
        .with("pooling", pooling.name())
        .with("normalize", normalize)
}

/// The entry `pool_slices` of the PTX template.
fn slices_variant() -> Variant {
    Variant::new().with("stage", "slices")
}

fn ptx_variants() -> Vec<Variant> {
    let mut all = vec![slices_variant()];
    for output in FLOATS {
        for normalize in [true, false] {
            // The first row alone needs no second stage.
            for (stage, pooling) in [
                ("direct", Pooling::Mean),
                ("direct", Pooling::First),
                ("finish", Pooling::Mean),
            ] {
                all.push(ptx_variant(stage, output, pooling, normalize));
            }
        }
    }
    all
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    texts: u32,
    d4: u32,
}

/// Pools the token vectors `h` `[t, d]` of each text of `packing` into `out` `[n, d]`.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (wgpu: `d` at most 2,048; CUDA: 12,280), [`Error::OutOfMemory`] on CUDA, where
/// a few long texts take room for sums of eight rows each.
///
/// ```
/// use nearmiss::{Device, ops::{Packing, pool::{Pooling, pool}}};
/// let cpu = Device::cpu();
/// let packing = Packing::new(&cpu, vec![0, 2])?;
/// let h: Vec<f32> = [[3.0f32; 8], [5.0; 8]].concat();
/// let mut out = cpu.alloc::<f32>(8)?;
/// pool(&cpu.upload(&h)?, &packing, Pooling::Mean, false, &mut out)?;
/// assert_eq!(out.read()?, [4.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn pool<T: Float>(
    h: &Buffer<f32>,
    packing: &Packing,
    pooling: Pooling,
    normalize: bool,
    out: &mut Buffer<T>,
) -> Result<()> {
    let device = out.device().clone();
    let n = packing.texts();
    if n == 0 {
        return Ok(());
    }
    let d = out.len() / n;
    check_width(SPEC.name, "d", d)?;
    check(SPEC.name, "out", out, n * d, &device)?;
    check(SPEC.name, "h", h, packing.tokens() * d, &device)?;
    let cost = Cost {
        flop: ((packing.tokens() + 3 * n) * d) as u64,
        bytes: (packing.tokens() * d * 4 + n * d * size_of::<T>()) as u64,
    };
    device.run(SPEC.name, cost, |backend| match backend {
        Backend::Cpu(_) => {
            cpu(
                h.host(),
                packing.offsets(),
                pooling,
                normalize,
                out.host_mut(),
                d,
            );
            Ok(())
        }
        Backend::Wgpu(dev) => {
            check_max_width(d, MAX_WIDTH)?;
            wgpu(dev, h, packing, pooling, normalize, out, d)
        }
        Backend::Cuda(dev) => {
            check_max_width(d, MAX_WIDTH_CUDA)?;
            cuda(dev, h, packing, pooling, normalize, out, d)
        }
    })
}

fn check_max_width(d: usize, limit: usize) -> Result<()> {
    if d > limit {
        return Err(Error::shape(SPEC.name, "d", format!("at most {limit}"), d));
    }
    Ok(())
}

/// The rows of a text that are averaged.
fn rows(span: &[u32], pooling: Pooling) -> std::ops::Range<usize> {
    let (start, end) = (span[0] as usize, span[1] as usize);
    match pooling {
        Pooling::Mean => start..end,
        Pooling::First => start..end.min(start + 1),
    }
}

/// The definition, in loops; result `[n, d]`.
pub fn reference<A: Accum>(
    h: &[f32],
    offsets: &[u32],
    pooling: Pooling,
    normalize: bool,
    d: usize,
) -> Vec<A> {
    let mut out = Vec::with_capacity((offsets.len() - 1) * d);
    for span in offsets.windows(2) {
        let rows = rows(span, pooling);
        let count = A::of(rows.len().max(1) as f64);
        let mut row: Vec<A> = (0..d)
            .map(|c| {
                let mut sum = A::of(0.0);
                for t in rows.clone() {
                    sum += A::of(h[t * d + c].into());
                }
                sum / count
            })
            .collect();
        if normalize {
            let mut squares = A::of(0.0);
            for &v in &row {
                squares += v * v;
            }
            let floor = A::of(NORM_FLOOR.into());
            let norm = squares.sqrt();
            let norm = if norm > floor { norm } else { floor };
            row.iter_mut().for_each(|v| *v = *v / norm);
        }
        out.extend(row);
    }
    out
}

/// Mean: `g(l) mean |h| + division u |e|`. Normalising divides by the norm: an error `e_c` of each mean gives
/// `e_c / norm + |e| sum(|m| e) / norm^2` and `g(d / 2 + sqrt + division + 2)` for the norm itself.
pub fn error_bound(
    h: &[f32],
    offsets: &[u32],
    pooling: Pooling,
    normalize: bool,
    d: usize,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let u = rounding.u;
    let mut bounds = Vec::with_capacity((offsets.len() - 1) * d);
    for span in offsets.windows(2) {
        let rows = rows(span, pooling);
        let count = rows.len().max(1) as f64;
        let (mut means, mut errors) = (vec![0f64; d], vec![0f64; d]);
        for c in 0..d {
            let magnitude: f64 = rows.clone().map(|t| f64::from(h[t * d + c]).abs()).sum();
            means[c] = rows.clone().map(|t| f64::from(h[t * d + c])).sum::<f64>() / count;
            errors[c] =
                rounding.g(rows.len()) * magnitude / count + rounding.division * u * means[c].abs();
        }
        let norm = means
            .iter()
            .map(|m| m * m)
            .sum::<f64>()
            .sqrt()
            .max(NORM_FLOOR.into());
        let drift: f64 = means
            .iter()
            .zip(&errors)
            .map(|(m, e)| m.abs() * e)
            .sum::<f64>()
            / (norm * norm);
        let own = rounding.g(d / 2 + 2) + (rounding.sqrt + rounding.division) * u;
        for c in 0..d {
            bounds.push(if normalize {
                let value = means[c].abs() / norm;
                rounding.store(value, errors[c] / norm + value * (drift + own), bytes)
            } else {
                rounding.store(means[c], errors[c], bytes)
            });
        }
    }
    bounds
}

fn cpu<T: Float>(
    h: &[f32],
    offsets: &[u32],
    pooling: Pooling,
    normalize: bool,
    out: &mut [T],
    d: usize,
) {
    out.par_chunks_mut(d)
        .zip(offsets.par_windows(2))
        .for_each_init(
            || vec![0f32; d],
            |row, (out, span)| {
                let rows = rows(span, pooling);
                mean(&h[rows.start * d..rows.end * d], row);
                if normalize {
                    scale_to_unit(row);
                }
                for (out, &v) in out.iter_mut().zip(row.iter()) {
                    *out = T::from_f32(v);
                }
            },
        );
}

/// The mean of `rows` `[n, d]`; zero of none.
#[multiversion(targets = "simd")]
fn mean(rows: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let mut n = 0u32;
    for row in rows.chunks_exact(out.len()) {
        n += 1;
        for (sum, &v) in out.iter_mut().zip(row) {
            *sum += v;
        }
    }
    let n = n.max(1) as f32;
    out.iter_mut().for_each(|v| *v /= n);
}

#[multiversion(targets = "simd")]
fn scale_to_unit(row: &mut [f32]) {
    let norm = simd::sum(row, |v| v * v).sqrt().max(NORM_FLOOR);
    row.iter_mut().for_each(|v| *v /= norm);
}

fn wgpu<T: Float>(
    dev: &Wgpu,
    h: &Buffer<f32>,
    packing: &Packing,
    pooling: Pooling,
    normalize: bool,
    out: &mut Buffer<T>,
    d: usize,
) -> Result<()> {
    let params = Params {
        texts: packing.texts() as u32,
        d4: (d / 4) as u32,
    };
    dev.dispatch(&Dispatch {
        source: WGSL,
        entry: "pool",
        variant: tier_variant(dev.tier())
            .with("output", T::TYPE.name())
            .with("pooling", pooling.name())
            .with("normalize", normalize),
        bindings: &[h.bind(), packing.device_offsets.bind(), out.bind_mut()],
        params: bytemuck::bytes_of(&params),
        groups: super::grid(packing.texts()),
    })
}

/// Rows that a thread of the PTX kernel adds up one by one; a text's sum is a tree over such slices.
const SLICE: usize = 8;

/// Threads in a block of the PTX kernel.
const BLOCK: usize = 256;

/// Slices that one thread of the PTX kernel adds up one after the other before two stages are the shorter way: a slice
/// takes about as long as its loads, a second launch and its round trip through memory as long as a few of them.
const PATIENCE: usize = 8;

fn cuda<T: Float>(
    dev: &Cuda,
    h: &Buffer<f32>,
    packing: &Packing,
    pooling: Pooling,
    normalize: bool,
    out: &mut Buffer<T>,
    d: usize,
) -> Result<()> {
    let n = packing.texts();
    // A thread takes four elements of a row; short rows leave room for several groups of threads in a block.
    let width = (d / 4).min(BLOCK);
    let groups = BLOCK / width;
    let longest = packing
        .offsets()
        .windows(2)
        .map(|span| rows(span, pooling).len())
        .max()
        .unwrap_or(0);
    let chunks = longest.div_ceil(SLICE).div_ceil(groups);
    // One block per text is enough where the texts fill the device or are short; the bits are the same either way.
    let in_one_stage = n >= dev.multiprocessors() as usize || chunks <= PATIENCE;

    let arg = |value: usize| Arg::U32(value as u32);
    let mut sums = None;
    if !in_one_stage {
        let sums = sums.insert(
            h.device()
                .alloc::<f32>((packing.tokens() / SLICE + n) * d)?,
        );
        dev.launch(&Launch {
            source: PTX,
            entry: "pool_slices",
            variant: slices_variant(),
            args: &[
                Arg::Buffer(h.bind()),
                Arg::Buffer(packing.device_offsets.bind()),
                Arg::Buffer(sums.bind_mut()),
                arg(d),
                arg(width),
                arg(groups),
                arg(chunks),
            ],
            grid: [(n * chunks) as u32, 1, 1],
            block: [(width * groups) as u32, 1, 1],
            shared_bytes: 0,
        })?;
    }
    let stage = if in_one_stage { "direct" } else { "finish" };
    dev.launch(&Launch {
        source: PTX,
        entry: "pool",
        variant: ptx_variant(stage, T::TYPE, pooling, normalize),
        args: &[
            Arg::Buffer(sums.as_ref().unwrap_or(h).bind()),
            Arg::Buffer(packing.device_offsets.bind()),
            Arg::Buffer(out.bind_mut()),
            arg(d),
            arg(width),
            arg(groups),
        ],
        grid: [n as u32, 1, 1],
        block: [BLOCK as u32, 1, 1],
        shared_bytes: (groups * d * 4) as u32,
    })
}
