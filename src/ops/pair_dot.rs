//! `scores[p] = a[i] . b[j]` for listed pairs `(i, j)` of rows
//!
//! The products of chosen rows of two matrices: of unit rows, the cosines of pairs of embeddings. Who compares every row
//! with every other takes [`mod@super::cosine_topk`] or [`mod@super::matmul`], who compares texts token by token
//! [`mod@super::maxsim`]. Cost: `2 d` operations per pair against two rows read: memory bound everywhere.
//!
//! Numerics: products and sums in f32; f16 rows are exact.

use multiversion::multiversion;
use rayon::prelude::*;

use super::token_pairs::widen;
use super::{
    Accum, FLOATS, OpSpec, PairList, Rounding, grid, in_every_tier, rows_per_binding, simd,
};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Cost, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "pair_dot",
    formula: "scores[p] = a[i] . b[j] for listed pairs (i, j) of rows",
    kernels: &[PAIR_DOT],
    ptx: PAIR_DOT.ptx,
    ptx_variants: variants,
    wgsl: PAIR_DOT.wgsl,
    wgsl_variants: || in_every_tier(variants()),
};

const PAIR_DOT: Kernel = Kernel {
    entry: "pair_dot",
    params: &[
        Param::read("a"),
        Param::read("b"),
        Param::read("pairs"),
        Param::write("scores"),
        Param::u32("count"),
        Param::u32("d"),
        Param::u32("first_row").wgsl(),
        Param::u32("end_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "pair_dot.ptx",
        text: include_str!("../../kernels/pair_dot.ptx"),
    }),
    wgsl: Some(Source {
        file: "pair_dot.wgsl",
        text: include_str!("../../shaders/pair_dot.wgsl"),
    }),
};

/// Pairs in one block of the PTX kernel, a warp each.
const PAIRS_PER_BLOCK: usize = 4;

/// Pairs in one workgroup of the shader, eight invocations each.
const PAIRS_PER_GROUP: usize = 8;

/// The products of `pairs` of rows of `a` `[n_a, d]` and `b` `[n_b, d]` into `scores` `[p]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8) or a row that is not there.
///
/// ```
/// use nearmiss::{Device, ops::{PairList, pair_dot}};
/// let cpu = Device::cpu();
/// let a = cpu.upload(&[[1.0f32; 8], [2.0; 8]].concat())?;
/// let b = cpu.upload(&[0.5f32; 8])?;
/// let mut scores = cpu.alloc(2)?;
/// pair_dot(&a, &b, 8, &PairList::new(&cpu, vec![[1, 0], [0, 0]])?, &mut scores)?;
/// assert_eq!(scores.read()?, [8.0, 4.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn pair_dot<'a, T: Float>(
    a: impl Into<Slice<'a, T>>,
    b: impl Into<Slice<'a, T>>,
    d: usize,
    pairs: &PairList,
    scores: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (a, b, mut scores) = (a.into(), b.into(), scores.into());
    let device = scores.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let (n_a, n_b) = (check.rows("a", &a, d)?, check.rows("b", &b, d)?);
    let listed = pairs.among(SPEC.name, n_a, n_b)?;
    check.holds("pairs", &listed, 2 * pairs.len())?;
    check.holds("scores", &scores, pairs.len())?;
    let cost = Cost {
        flop: 2 * (pairs.len() * d) as u64,
        bytes: (pairs.len() * (2 * d * size_of::<T>() + 12)) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(a.host(), b.host(), d, pairs, scores.host());
            Ok(())
        }
        Target::Gpu(on) => gpu(on, a, b, d, listed, scores),
    })
}

/// The definition, in loops; result `[p]`.
#[doc(hidden)]
pub fn reference<A: Accum>(a: &[f32], b: &[f32], d: usize, pairs: &[[u32; 2]]) -> Vec<A> {
    let row = |rows: &[f32], i: u32| rows[i as usize * d..][..d].to_vec();
    let product = |&[i, j]: &[u32; 2]| {
        let mut sum = A::of(0.0);
        for (a, b) in row(a, i).into_iter().zip(row(b, j)) {
            sum += A::of(a.into()) * A::of(b.into());
        }
        sum
    };
    pairs.iter().map(product).collect()
}

/// `g(d) sum |a b|` per pair: `d` roundings in any order; products below the normal range may be flushed.
#[doc(hidden)]
pub fn error_bound(
    a: &[f32],
    b: &[f32],
    d: usize,
    pairs: &[[u32; 2]],
    rounding: &Rounding,
) -> Vec<f64> {
    let magnitudes = |rows: &[f32]| rows.iter().map(|v| v.abs()).collect::<Vec<f32>>();
    let flushed = d as f64 * f64::from(f32::MIN_POSITIVE);
    reference::<f64>(&magnitudes(a), &magnitudes(b), d, pairs)
        .into_iter()
        .map(|magnitude| rounding.store(magnitude, rounding.g(d) * magnitude + flushed, 4))
        .collect()
}

fn cpu<T: Float>(a: &[T], b: &[T], d: usize, pairs: &PairList, scores: &mut [f32]) {
    let row = |rows: &'_ [T], i: u32, wide: &mut Vec<f32>| {
        widen(&rows[i as usize * d..][..d], wide);
    };
    let jobs = pairs.pairs().par_iter().zip(scores).with_min_len(64);
    jobs.for_each_init(
        || (Vec::new(), Vec::new()),
        |(left, right), (&[i, j], score)| {
            row(a, i, left);
            row(b, j, right);
            *score = dot(left, right);
        },
    );
}

#[multiversion(targets = "simd")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    simd::dot(a, b)
}

fn variants() -> Vec<Variant> {
    FLOATS.map(|rows| variant(rows.name())).to_vec()
}

fn variant(rows: &'static str) -> Variant {
    Variant::new().with("rows", rows)
}

/// Rows of `b` beyond one binding go in turns; a launch passes over the pairs of others.
fn gpu<T: Float>(
    gpu: Gpu<'_>,
    a: Slice<'_, T>,
    b: Slice<'_, T>,
    d: usize,
    pairs: Slice<'_, u32>,
    mut scores: SliceMut<'_, f32>,
) -> Result<()> {
    let (count, n_b) = (scores.len(), b.len() / d);
    let at_once = match gpu {
        Gpu::Cuda(_) => n_b.max(1),
        Gpu::Wgpu(_) => rows_per_binding(gpu, d * size_of::<T>()),
    };
    for first in (0..n_b).step_by(at_once) {
        let end = (first + at_once).min(n_b);
        gpu.call(&Call {
            kernel: &PAIR_DOT,
            variant: variant(T::TYPE.name()),
            args: &[
                a.into(),
                b.slice(first * d..end * d).into(),
                pairs.into(),
                (&mut scores).into(),
                count.into(),
                d.into(),
                first.into(),
                end.into(),
            ],
            geometry: Geometry {
                groups: grid(count.div_ceil(PAIRS_PER_GROUP)),
                grid: [count.div_ceil(PAIRS_PER_BLOCK) as u32, 1, 1],
                threads: 32 * PAIRS_PER_BLOCK as u32,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}
