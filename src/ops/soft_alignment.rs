//! `score(q, c) = mean_i sum_j A_ij M_ij`, `A_i = softmax_j((M_ij - lambda |i - j|) / tau)`, `M_ij = q_i . c_j`
//!
//! A soft alignment of the tokens of a query with those of a document: every query token chooses among the document's
//! tokens by product and by closeness of position (both counted from the text's first token), so that words that have
//! changed places answer each other less well than under [`mod@super::maxsim`]. Optionally only positions within a
//! *band* may be chosen, and alignments that run backwards are penalised: `monotonicity` times the mean, over
//! neighbouring query tokens, of `max(p_i - p_{i+1}, 0)^2` with `p_i = sum_j A_ij j` is subtracted. The map is consumed
//! where it is computed, in one pass with running maxima. Cost: `2 l_q l_c d` FLOP and `l_q l_c` exponentials per pair.
//!
//! A query token without a candidate (an empty document, or none within the band) counts as 0 and takes no part in the
//! penalty; an empty query scores 0.

use gemm::Parallelism;
use rayon::prelude::*;

use super::token_pairs::{check_pairs, pieces, widen};
use super::{
    Accum, FLOATS, OpSpec, PairList, Pairs, Rounding, TIERS, Tokens, check, grid, tier_variant,
};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Dispatch, ElementType, Float, Launch, Wgpu};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "soft_alignment",
    formula: "score = mean_i sum_j softmax_j((M_ij - lambda |i - j|) / tau) M_ij, M_ij = q_i . c_j",
    ptx: Some(PTX),
    ptx_variants: || [false, true].map(ptx_variant).to_vec(),
    wgsl: Some(WGSL),
    wgsl_variants: || {
        let all =
            TIERS.map(|tier| FLOATS.map(|tokens| tier_variant(tier).with("tokens", tokens.name())));
        all.into_iter().flatten().collect()
    },
};

const WGSL: Source = Source {
    file: "soft_alignment.wgsl",
    text: include_str!("../../shaders/soft_alignment.wgsl"),
};

const PTX: Source = Source {
    file: "soft_alignment.ptx",
    text: include_str!("../../kernels/soft_alignment.ptx"),
};

/// How tokens are aligned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// What a step of distance between the positions costs, in units of a product: lambda, 0 or more.
    pub distance: f32,
    /// Temperature of the softmax: tau, above 0.
    pub temperature: f32,
    /// The largest distance that may be chosen, if it is limited.
    pub band: Option<u32>,
    /// Weight of the penalty for alignments that run backwards: gamma, 0 or more.
    pub monotonicity: f32,
}

impl Default for Alignment {
    fn default() -> Self {
        Alignment {
            distance: 0.1,
            temperature: 0.1,
            band: None,
            monotonicity: 0.0,
        }
    }
}

impl Alignment {
    fn check(&self) -> Result<()> {
        let wrong = |what, expected: &str, got: f32| {
            Err(Error::shape(SPEC.name, what, expected.to_string(), got))
        };
        let not_negative = |v: f32| v.is_finite() && v >= 0.0;
        if !not_negative(self.distance) {
            return wrong("distance", "0 or more", self.distance);
        }
        if !not_negative(self.temperature) || self.temperature < 1e-6 {
            return wrong("temperature", "1e-6 or more", self.temperature);
        }
        if !not_negative(self.monotonicity) {
            return wrong("monotonicity", "0 or more", self.monotonicity);
        }
        Ok(())
    }

    fn admits(&self, i: usize, j: usize) -> bool {
        self.band.is_none_or(|band| i.abs_diff(j) <= band as usize)
    }

    /// The band as kernels take it.
    fn widest(&self) -> u32 {
        self.band.unwrap_or(u32::MAX)
    }
}

/// Scores `pairs` of the queries' and documents' token vectors `[t, d]` into `scores` `[p]`.
///
/// # Errors
/// [`Error::Shape`] for sizes or an alignment that do not fit (`d` a multiple of 8), [`Error::Unsupported`] for f32
/// tokens on CUDA, whose tensor cores multiply f16.
///
/// ```
/// use nearmiss::{Device, ops::{Packing, PairList, Tokens, soft_alignment::{Alignment, soft_alignment}}};
/// let cpu = Device::cpu();
/// let packing = Packing::new(&cpu, vec![0, 1, 2])?;
/// let rows = cpu.upload(&[0.25f32; 16])?;
/// let tokens = Tokens { rows: &rows, packing: &packing };
/// let pairs = PairList::new(&cpu, vec![[0, 1]])?;
/// let mut scores = cpu.alloc::<f32>(1)?;
/// soft_alignment(tokens, tokens, 8, &pairs, Alignment::default(), &mut scores)?;
/// assert_eq!(scores.read()?, [0.5]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn soft_alignment<T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    alignment: Alignment,
    scores: &mut Buffer<f32>,
) -> Result<()> {
    let device = scores.device().clone();
    alignment.check()?;
    check_pairs(&SPEC, queries, documents, d, Pairs::Listed(pairs), &device)?;
    check(SPEC.name, "scores", scores, pairs.len(), &device)?;
    if pairs.is_empty() {
        return Ok(());
    }
    let length = |tokens: &Tokens<'_, T>, text: u32| tokens.elements(text, 1).len();
    let products: usize = pairs
        .host
        .iter()
        .map(|&[q, c]| length(&queries, q) * length(&documents, c))
        .sum();
    let tokens = queries.packing.tokens() + documents.packing.tokens();
    let cost = Cost {
        flop: (products * (2 * d + 8)) as u64,
        bytes: (tokens * d * size_of::<T>() + 4 * pairs.len()) as u64,
    };
    device.run(SPEC.name, cost, |backend| match backend {
        Backend::Cpu(_) => {
            cpu(queries, documents, d, pairs, alignment, scores.host_mut());
            Ok(())
        }
        Backend::Wgpu(dev) => wgpu(dev, queries, documents, d, pairs, alignment, scores),
        Backend::Cuda(dev) if T::TYPE == ElementType::F16 => {
            cuda(dev, queries, documents, d, pairs, alignment, scores)
        }
        Backend::Cuda(_) => Err(SPEC.unsupported(&device, "tensor cores multiply f16 tokens")),
    })
}

/// What becomes of a map `[l_q, l_c]`, in any precision.
fn align<A: Accum>(map: &[A], l_c: usize, alignment: &Alignment) -> A {
    let number = |v: f32| A::of(v.into());
    let (mut sum, mut penalty) = (A::of(0.0), A::of(0.0));
    let (mut l_q, mut neighbours) = (0, 0);
    let mut before: Option<A> = None;
    for (i, row) in map.chunks_exact(l_c.max(1)).enumerate() {
        l_q += 1;
        let logit = |j: usize| {
            let distance = number(alignment.distance) * A::of(i.abs_diff(j) as f64);
            (row[j] - distance) / number(alignment.temperature)
        };
        let candidates = || (0..row.len()).filter(|&j| alignment.admits(i, j));
        let largest = candidates()
            .map(logit)
            .reduce(|a, b| if b > a { b } else { a });
        let mut position = None;
        if let Some(largest) = largest {
            let (mut total, mut value, mut place) = (A::of(0.0), A::of(0.0), A::of(0.0));
            for j in candidates() {
                let weight = (logit(j) - largest).exp();
                total += weight;
                value += weight * row[j];
                place += weight * A::of(j as f64);
            }
            sum += value / total;
            position = Some(place / total);
        }
        if let (Some(before), Some(position)) = (before, position) {
            neighbours += 1;
            if before > position {
                penalty += (before - position) * (before - position);
            }
        }
        before = position;
    }
    let score = sum / A::of(f64::from(l_q.max(1)));
    if alignment.monotonicity > 0.0 && neighbours > 0 {
        score - number(alignment.monotonicity) * penalty / A::of(f64::from(neighbours))
    } else {
        score
    }
}

/// The definition, for one pair of token matrices.
pub fn reference<A: Accum>(query: &[f32], document: &[f32], d: usize, alignment: &Alignment) -> A {
    let map = super::similarity_map::reference::<A>(query, document, d);
    if map.is_empty() {
        return A::of(0.0);
    }
    align(&map, document.len() / d, alignment)
}

/// Document tokens that a device takes at least between two rescalings by a new maximum.
const STEP: usize = 4;

/// Error of the score of one pair. With `e_j` the error of a product (`g(d) sum |q c|`), `z_j` the logits, `w_j` the
/// exact weights, `R_j = max z - z_j` and `T` the rescalings by a new maximum (one per four tokens, and eight to merge
/// what threads have found):
///
/// * logit: `z_j` is off by `(e_j + u lambda |i - j| + u |M_j - lambda |i - j||) / tau + (division + 1) u |z_j|`; the
///   maximum that is subtracted cancels, whatever it is
/// * a weight before its division, relative: `eps_j` = that, `u R_j` for the difference, `(exp.0 + exp.1 R_j) u` for the
///   exponential, and the same again for the rescalings, whose arguments add up to `R_j`: `T (exp.0 + 2) u + (exp.1 + 1)
///   R_j u`
/// * a mean `v` of values `x_j`: `sum_j w_j (eps_j (|x_j| + |v|) + e(x_j))`, `2 g(l_c + T) sum_j w_j |x_j|` for the sums
///   above and below, and a division
/// * the penalty's terms `D = max(p_i - p_{i+1}, 0)` with errors `e`: `2 D e + e^2` and three roundings of `D^2`
/// * sums over `l_q` terms, one division each, and a product and a difference with the penalty
pub fn error_bound(
    query: &[f32],
    document: &[f32],
    d: usize,
    alignment: &Alignment,
    rounding: &Rounding,
) -> f64 {
    let u = rounding.u;
    let map = super::similarity_map::reference::<f64>(query, document, d);
    if map.is_empty() {
        return 0.0;
    }
    let errors = super::similarity_map::error_bound(query, document, d, rounding);
    let (l_q, l_c) = (query.len() / d, document.len() / d);
    let steps = l_c.div_ceil(STEP) + 8;
    let sums = 2.0 * rounding.g(l_c + steps);
    let lambda = f64::from(alignment.distance);
    let tau = f64::from(alignment.temperature);
    let gamma = f64::from(alignment.monotonicity);
    let (mut score, mut score_error, mut magnitude) = (0.0, 0.0, 0.0);
    let (mut penalty, mut penalty_error, mut neighbours) = (0.0, 0.0, 0usize);
    let mut before: Option<(f64, f64)> = None;
    for i in 0..l_q {
        let (row, errors) = (
            &map[i * l_c..(i + 1) * l_c],
            &errors[i * l_c..(i + 1) * l_c],
        );
        let candidates: Vec<usize> = (0..l_c).filter(|&j| alignment.admits(i, j)).collect();
        let distance = |j: usize| lambda * i.abs_diff(j) as f64;
        let logits: Vec<f64> = candidates
            .iter()
            .map(|&j| (row[j] - distance(j)) / tau)
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
        // Weights and their relative errors.
        let weighted: Vec<(usize, f64, f64)> = candidates
            .iter()
            .zip(&logits)
            .map(|(&j, z)| {
                let range = largest - z;
                let of_logit = (errors[j] + u * distance(j) + u * f64::abs(row[j] - distance(j)))
                    / tau
                    + (rounding.division + 1.0) * u * z.abs();
                let exponents = u * range
                    + (rounding.exp.0 + rounding.exp.1 * range) * u
                    + steps as f64 * (rounding.exp.0 + 2.0) * u
                    + (rounding.exp.1 + 1.0) * range * u;
                (
                    j,
                    (z - largest).exp() / total,
                    of_logit.exp_m1() + exponents,
                )
            })
            .collect();
        let mean = |x: &dyn Fn(usize) -> (f64, f64)| -> (f64, f64) {
            let value: f64 = weighted.iter().map(|&(j, w, _)| w * x(j).0).sum();
            let (mut error, mut size) = (0.0, 0.0);
            for &(j, w, eps) in &weighted {
                let (x, e) = x(j);
                error += w * (eps * (x.abs() + value.abs()) + e);
                // What is flushed to zero.
                error += f64::from(f32::MIN_POSITIVE) * (x.abs() + value.abs());
                size += w * x.abs();
            }
            (
                value,
                error + sums * size + rounding.division * u * value.abs(),
            )
        };
        if candidates.is_empty() {
            before = None;
            continue;
        }
        let (value, error) = mean(&|j| (row[j], errors[j]));
        score += value;
        score_error += error;
        magnitude += value.abs() + error;
        let (position, error) = mean(&|j| (j as f64, 0.0));
        if let Some((last, last_error)) = before {
            let step = last - position;
            let error = error + last_error + u * step.abs();
            let back = step.max(0.0);
            neighbours += 1;
            penalty += back * back;
            penalty_error += 2.0 * back * error + error * error + 3.0 * u * back * back;
        }
        before = Some((position, error));
    }
    let n = l_q as f64;
    let mean_error = (score_error + rounding.g(l_q) * magnitude) / n
        + rounding.division * u * (score.abs() + magnitude) / n;
    let neighbours = neighbours.max(1) as f64;
    let penalty_size = gamma * (penalty + penalty_error) / neighbours;
    let of_penalty = gamma * penalty_error / neighbours
        + (rounding.g(l_q) + (rounding.division + 2.0) * u) * penalty_size;
    let of_difference = u * (magnitude / n + penalty_size);
    let extra = if gamma > 0.0 {
        of_penalty + of_difference
    } else {
        0.0
    };
    mean_error + extra + f64::from(f32::MIN_POSITIVE)
}

fn cpu<T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    alignment: Alignment,
    scores: &mut [f32],
) {
    let (asked, stored) = (queries.rows.host(), documents.rows.host());
    (pairs.host.par_iter().zip(scores)).for_each_init(
        || [const { Vec::new() }; 3],
        |[query, document, map], (pair, score)| {
            widen(&asked[queries.elements(pair[0], d)], query);
            widen(&stored[documents.elements(pair[1], d)], document);
            let (m, n) = (query.len() / d, document.len() / d);
            map.resize(m * n, 0.0);
            *score = if map.is_empty() {
                0.0
            } else {
                super::matmul::product(query, document, map, m, n, d, Parallelism::None);
                align::<f32>(map, n, &alignment)
            };
        },
    );
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    pairs: u32,
    d4: u32,
    first_document: u32,
    end_document: u32,
    first_row: u32,
    band: u32,
    distance: f32,
    temperature: f32,
    monotonicity: f32,
}

fn wgpu<T: Float>(
    dev: &Wgpu,
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    alignment: Alignment,
    scores: &mut Buffer<f32>,
) -> Result<()> {
    let variant = tier_variant(dev.tier()).with("tokens", T::TYPE.name());
    // Documents beyond one binding go in pieces; a launch passes over the pairs of other pieces.
    for piece in pieces(documents.packing, d * size_of::<T>(), dev.max_binding()) {
        let params = Params {
            pairs: pairs.len() as u32,
            d4: (d / 4) as u32,
            first_document: piece.documents.start as u32,
            end_document: piece.documents.end as u32,
            first_row: piece.rows.start as u32,
            band: alignment.widest(),
            distance: alignment.distance,
            temperature: alignment.temperature,
            monotonicity: alignment.monotonicity,
        };
        dev.dispatch(&Dispatch {
            source: WGSL,
            entry: "soft_alignment",
            variant: variant.clone(),
            bindings: &[
                queries.rows.bind(),
                queries.packing.device_offsets.bind(),
                documents
                    .rows
                    .bind_range(piece.rows.start * d..piece.rows.end * d),
                documents.packing.device_offsets.bind(),
                pairs.device.bind(),
                scores.bind_mut(),
            ],
            params: bytemuck::bytes_of(&params),
            groups: grid(pairs.len()),
        })?;
    }
    Ok(())
}

fn ptx_variant(monotone: bool) -> Variant {
    Variant::new().with("monotone", monotone)
}

fn cuda<T: Float>(
    dev: &Cuda,
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    alignment: Alignment,
    scores: &mut Buffer<f32>,
) -> Result<()> {
    dev.launch(&Launch {
        source: PTX,
        entry: "soft_alignment",
        variant: ptx_variant(alignment.monotonicity > 0.0),
        args: &[
            Arg::Buffer(queries.rows.bind()),
            Arg::Buffer(queries.packing.device_offsets.bind()),
            Arg::Buffer(documents.rows.bind()),
            Arg::Buffer(documents.packing.device_offsets.bind()),
            Arg::Buffer(pairs.device.bind()),
            Arg::Buffer(scores.bind_mut()),
            Arg::U32(d as u32),
            Arg::U32(alignment.widest()),
            Arg::F32(alignment.distance),
            Arg::F32(alignment.temperature),
            Arg::F32(alignment.monotonicity),
        ],
        grid: [pairs.len() as u32, 1, 1],
        block: [128, 1, 1],
        // Four stages of 32 of d: 128 document tokens and 32 query tokens.
        shared_bytes: 4 * (128 + 32) * 64,
    })
}
