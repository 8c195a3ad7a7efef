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

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

pub(super) use reference::align;

use super::token_pairs::{check_pairs, products};
use super::{FLOATS, OpSpec, PairList, Pairs, Tokens, in_every_tier};
use crate::device::{Cost, ElementType, Float, Gpu, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "soft_alignment",
    formula: "score = mean_i sum_j softmax_j((M_ij - lambda |i - j|) / tau) M_ij, M_ij = q_i . c_j",
    kernels: &[gpu::SOFT_ALIGNMENT],
    ptx: gpu::SOFT_ALIGNMENT.ptx,
    ptx_variants: || [false, true].map(gpu::ptx_variant).to_vec(),
    wgsl: gpu::SOFT_ALIGNMENT.wgsl,
    wgsl_variants: || in_every_tier(FLOATS.map(|tokens| gpu::wgsl_variant(tokens.name()))),
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
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let wrong =
            |what, expected: &str, got: f32| Err(Error::shape(op, what, expected.to_string(), got));
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

    pub(super) fn admits(&self, i: usize, j: usize) -> bool {
        self.band.is_none_or(|band| i.abs_diff(j) <= band as usize)
    }

    /// The band as kernels take it.
    pub(super) fn widest(&self) -> u32 {
        self.band.unwrap_or(u32::MAX)
    }
}

/// The arguments after checking.
struct Args<'a, T: Float> {
    queries: Tokens<'a, T>,
    documents: Tokens<'a, T>,
    d: usize,
    pairs: &'a PairList,
    alignment: Alignment,
}

/// Scores `pairs` of the queries' and documents' token vectors `[t, d]` into `scores` `[p]`.
///
/// # Errors
/// [`Error::Shape`] for sizes or an alignment that do not fit (`d` a multiple of 8), [`Error::Unsupported`] for f32
/// tokens on CUDA, whose tensor cores multiply f16.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, PairList, Tokens, soft_alignment::{Alignment, soft_alignment}}};
/// let cpu = Device::cpu();
/// let packing = PackedTexts::new(&cpu, vec![0, 1, 2])?;
/// let rows = cpu.upload(&[0.25f32; 16])?;
/// let tokens = Tokens { rows: (&rows).into(), packing: &packing };
/// let pairs = PairList::new(&cpu, vec![[0, 1]])?;
/// let mut scores = cpu.alloc::<f32>(1)?;
/// soft_alignment(tokens, tokens, 8, &pairs, Alignment::default(), &mut scores)?;
/// assert_eq!(scores.read()?, [0.5]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn soft_alignment<'a, T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    alignment: Alignment,
    scores: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let mut scores = scores.into();
    let device = scores.device();
    let check = SPEC.checks(device);
    alignment.check(SPEC.name)?;
    check_pairs(&check, queries, documents, d, Pairs::Listed(pairs))?;
    check.holds("scores", &scores, pairs.len())?;
    let products = products(queries.packing, documents.packing, Pairs::Listed(pairs));
    let tokens = queries.packing.tokens() + documents.packing.tokens();
    let cost = Cost {
        flop: (products * (2 * d + 8)) as u64,
        bytes: (tokens * d * size_of::<T>() + 4 * pairs.len()) as u64,
    };
    let args = Args {
        queries,
        documents,
        d,
        pairs,
        alignment,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::soft_alignment(&args, scores.host());
            Ok(())
        }
        Target::Gpu(Gpu::Cuda(_)) if T::TYPE != ElementType::F16 => {
            Err(SPEC.unsupported(device, "tensor cores multiply f16 tokens"))
        }
        Target::Gpu(gpu) => gpu::soft_alignment(gpu, &args, scores),
    })
}
