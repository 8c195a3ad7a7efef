//! `score(q, c) = sum_i max_j q_i . c_j` over the tokens of a query and a document, or its mean over `i`
//!
//! Late interaction (ColBERT, arXiv 2004.12832): every query token looks for the document token that answers it best. On
//! token vectors of unit length the products are cosines, and the mean is a score in [-1, 1]. The map `q_i . c_j` is
//! never stored: each device keeps running maxima. Cost: `2 l_q l_c d` FLOP per pair; a document's tokens are read once
//! per query or tile of queries.
//!
//! * **CPU**: runs of documents of some hundred tokens are widened to f32 in cache and multiplied with all queries.
//! * **wgpu**: a workgroup per pair; an invocation owns document tokens and eight query tokens at a time.
//! * **CUDA**: a block per pair on the tensor cores, documents on the M side; only maxima leave the registers.
//!
//! The score is not symmetric. An empty query or document scores 0. Among equal products the token that comes first
//! wins. Rows of unit length come from [`mod@super::pool`], each token being a text of its own.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::token_pairs::{check_pairs, products};
use super::{OpSpec, Pairs, Tokens};
use crate::device::{Cost, ElementType, Float, Gpu, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "maxsim",
    formula: "score = sum or mean over query tokens of the largest product with a document token",
    kernels: &[gpu::MAXSIM],
    ptx: gpu::MAXSIM.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::MAXSIM.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// The winner of a query token for which there is no document token.
pub const NO_WINNER: u32 = u32::MAX;

/// What becomes of the maxima of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum (ColBERT).
    Sum,
    /// Their mean over the query's tokens, which does not grow with the query.
    Mean,
}

/// The arguments after checking.
struct Args<'a, T: Float> {
    queries: Tokens<'a, T>,
    documents: Tokens<'a, T>,
    d: usize,
    pairs: Pairs<'a>,
    reduction: Reduction,
    /// Places for the winners of a pair.
    longest: usize,
}

/// Scores `pairs` of the queries' and documents' token vectors `[t, d]` into `scores` `[p]`, or `[n_q, n_c]` for all.
///
/// `winners`, if wanted, is `[pairs, longest]` for any `longest` that holds the tokens of every query: for each query
/// token the position within its document of the token that won, or [`NO_WINNER`].
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8),
/// [`Error::Unsupported`](crate::Error::Unsupported) for f32 tokens on CUDA, whose tensor cores multiply f16.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, Pairs, Tokens, maxsim::{Reduction, maxsim}}};
/// let cpu = Device::cpu();
/// let token = |axis: usize| (0..8).map(move |i| if i == axis { 1f32 } else { 0.0 });
/// let (queries, documents) = (PackedTexts::new(&cpu, vec![0, 2])?, PackedTexts::new(&cpu, vec![0, 1, 3])?);
/// let asked = cpu.upload(&[0, 1].into_iter().flat_map(token).collect::<Vec<_>>())?;
/// let stored = cpu.upload(&[1, 1, 0].into_iter().flat_map(token).collect::<Vec<_>>())?;
/// let mut scores = cpu.alloc::<f32>(2)?;
/// maxsim(
///     Tokens { rows: (&asked).into(), packing: &queries },
///     Tokens { rows: (&stored).into(), packing: &documents },
///     8,
///     Pairs::All,
///     Reduction::Mean,
///     &mut scores,
///     None,
/// )?;
/// assert_eq!(scores.read()?, [0.5, 1.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn maxsim<'a, T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: Pairs<'_>,
    reduction: Reduction,
    scores: impl Into<SliceMut<'a, f32>>,
    winners: Option<SliceMut<'a, u32>>,
) -> Result<()> {
    let mut scores = scores.into();
    let device = scores.device();
    let check = SPEC.checks(device);
    check_pairs(&check, queries, documents, d, pairs)?;
    let count = match pairs {
        Pairs::All => queries.packing.texts() * documents.packing.texts(),
        Pairs::Listed(list) => list.len(),
    };
    check.holds("scores", &scores, count)?;
    let places = winners.as_ref().map_or(0, SliceMut::len);
    let longest = places.checked_div(count).unwrap_or(0);
    let needed = longest.max(queries.packing.longest());
    check.optional("winners", &winners, count * needed)?;
    let products = products(queries.packing, documents.packing, pairs);
    let tokens = queries.packing.tokens() + documents.packing.tokens();
    let cost = Cost {
        flop: (2 * products * d) as u64,
        bytes: (tokens * d * size_of::<T>() + 4 * count) as u64,
    };
    let args = Args {
        queries,
        documents,
        d,
        pairs,
        reduction,
        longest,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let mut winners = winners;
            cpu::maxsim(&args, scores.host(), winners.as_mut().map(SliceMut::host));
            Ok(())
        }
        Target::Gpu(Gpu::Cuda(_)) if T::TYPE != ElementType::F16 => {
            Err(SPEC.unsupported(device, "tensor cores multiply f16 tokens"))
        }
        Target::Gpu(gpu) => gpu::maxsim(gpu, &args, scores, winners),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::{PackedTexts, PairList};

    #[test]
    fn pairs_beyond_the_texts_are_refused() {
        let cpu = Device::cpu();
        let packing = PackedTexts::new(&cpu, vec![0, 1]).unwrap();
        let rows = cpu.upload(&[1f32; 8]).unwrap();
        let tokens = Tokens {
            rows: (&rows).into(),
            packing: &packing,
        };
        let list = PairList::new(&cpu, vec![[0, 1]]).unwrap();
        let mut scores = cpu.alloc(1).unwrap();
        let pairs = Pairs::Listed(&list);
        let error = maxsim(tokens, tokens, 8, pairs, Reduction::Sum, &mut scores, None);
        assert_eq!(
            error.unwrap_err().to_string(),
            "shape mismatch in maxsim: pairs: expected numbers of 1 queries and 1 documents, got 1 and 2"
        );
    }
}
