//! Scorers that learn nothing: `none`, `f0`, `f1`, `f2`.

use half::f16;

use super::Scorer;
use crate::device::Slice;
use crate::error::{Error, Result};
use crate::index::TokenVectors;
use crate::ops::maxsim::{Reduction, maxsim};
use crate::ops::soft_alignment::{Alignment, soft_alignment};
use crate::ops::{PairList, Pairs, pair_dot};

/// `none`: the cosine of the mean token vectors. For an encoder that pools by the mean this is the encoder's own score.
pub struct MeanCosine;

/// `f0`, a bag of similarities: the mean of the similarity map over all pairs of tokens.
///
/// The map is not computed, since its mean is the product of two averages, see [`TokenVectors::centroids`].
pub struct BagOfSimilarities;

/// `f1`: the mean over the query's tokens of the largest cosine with a token of the candidate (late interaction,
/// ColBERT, arXiv 2004.12832, there as a sum).
pub struct MaxSim;

/// `f2`: every query token is aligned softly with candidate tokens, near positions preferred; the score is the mean of
/// the aligned cosines (see [`mod@crate::ops::soft_alignment`]).
#[derive(Default)]
pub struct SoftAlignment {
    /// Distance cost, temperature, band and monotonicity.
    pub alignment: Alignment,
}

/// Checks that both sides have one width and says how wide they are.
fn width(queries: &TokenVectors, documents: &TokenVectors) -> Result<usize> {
    if queries.d != documents.d {
        return Err(Error::shape(
            "verifier",
            "documents",
            format!("token vectors {} wide, as the queries", queries.d),
            documents.d,
        ));
    }
    Ok(queries.d)
}

/// The products of averages, a row a text.
fn products(
    queries: Slice<'_, f16>,
    documents: Slice<'_, f16>,
    d: usize,
    pairs: &PairList,
) -> Result<Vec<f32>> {
    let mut scores = queries.device().alloc::<f32>(pairs.len())?;
    pair_dot(queries, documents, d, pairs, &mut scores)?;
    scores.read()
}

impl Scorer for MeanCosine {
    fn name(&self) -> String {
        "none".into()
    }

    fn is_cosine(&self) -> bool {
        true
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        products(q.means(), c.means(), width(q, c)?, pairs)
    }
}

impl Scorer for BagOfSimilarities {
    fn name(&self) -> String {
        "f0".into()
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        products(q.centroids(), c.centroids(), width(q, c)?, pairs)
    }
}

impl Scorer for MaxSim {
    fn name(&self) -> String {
        "f1".into()
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        let mut scores = q.device().alloc::<f32>(pairs.len())?;
        let (queries, documents, d) = (q.tokens(), c.tokens(), width(q, c)?);
        let pairs = Pairs::Listed(pairs);
        let mean = Reduction::Mean;
        maxsim(queries, documents, d, pairs, mean, &mut scores, None)?;
        scores.read()
    }
}

impl Scorer for SoftAlignment {
    fn name(&self) -> String {
        "f2".into()
    }

    fn constants(&self) -> Vec<(String, f64)> {
        let Alignment {
            distance,
            temperature,
            band,
            monotonicity,
        } = self.alignment;
        let always = [
            ("distance", distance),
            ("temperature", temperature),
            ("monotonicity", monotonicity),
        ];
        let always = always.map(|(name, value)| (name.to_string(), f64::from(value)));
        let band = band.map(|band| ("band".to_string(), f64::from(band)));
        always.into_iter().chain(band).collect()
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        let mut scores = q.device().alloc::<f32>(pairs.len())?;
        let (queries, documents, d) = (q.tokens(), c.tokens(), width(q, c)?);
        soft_alignment(queries, documents, d, pairs, self.alignment, &mut scores)?;
        scores.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::verifier::tests::scores;

    /// In f16 numbers between 0.25 and 1 are off by 2^-12 at most, and no score here has a slope above 4 in one of them:
    /// the steepest is f2, whose softmax of temperature 0.1 adds up to `p (1 - p) / 0.1` to the weight of a cosine.
    const TOLERANCE: f64 = 4.0 / 4096.0;

    #[test]
    fn known_values() {
        let f0_f1_f2: [(&dyn Scorer, [f64; 2]); 3] = [
            (&BagOfSimilarities, [0.6, 0.6]),
            (&MaxSim, [0.9, 0.9]),
            (
                &SoftAlignment::default(),
                [0.898_612_072_0, 0.890_150_404_9],
            ),
        ];
        for (verifier, expected) in f0_f1_f2 {
            for (got, want) in scores(verifier).into_iter().zip(expected) {
                let error = (f64::from(got) - want).abs();
                assert!(error <= TOLERANCE, "{}: {got} {want}", verifier.name());
            }
        }
        // Means (0.5, 0.5) and (0.8, 0.4).
        let cosine = (0.5 * 0.8 + 0.5 * 0.4) / (0.5f64.sqrt() * 0.8f64.sqrt());
        for got in scores(&MeanCosine) {
            assert!((f64::from(got) - cosine).abs() <= TOLERANCE, "{got}");
        }
    }

    #[test]
    fn widths_must_agree() {
        let cpu = Device::cpu();
        let narrow = TokenVectors::from_rows(&cpu, &[1.0; 8], 8, vec![0, 1]).unwrap();
        let wide = TokenVectors::from_rows(&cpu, &[1.0; 16], 16, vec![0, 1]).unwrap();
        let pairs = PairList::new(&cpu, vec![[0, 0]]).unwrap();
        assert!(MaxSim.score(&narrow, &wide, &pairs).is_err());
    }
}
