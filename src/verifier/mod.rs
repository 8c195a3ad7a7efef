//! Second-stage scorers: what says whether a candidate really matches, and not only shares its words.

use crate::error::{Error, Result};
use crate::ops::maxsim::{Reduction, maxsim};
use crate::ops::soft_alignment::{Alignment, soft_alignment};
use crate::ops::{PairList, Pairs, Tokens};

use crate::index::TokenVectors;

/// Tokens that a verifier sees of a text, special ones included, unless it is told otherwise.
pub const MAX_LENGTH: usize = 128;

/// A scorer of (query, candidate) pairs that reads the token vectors of both.
pub trait Verifier: Send + Sync {
    /// What tables and files call it: `none`, `f0`, `f1`, ...
    fn name(&self) -> String;

    /// The scores of `pairs` (query, document), in their order; higher is a better match. The order of magnitude is
    /// the verifier's own.
    ///
    /// # Errors
    /// [`Error::Shape`] for pairs of texts that are not there or widths that differ, or what the device reports.
    fn score(
        &self,
        queries: &TokenVectors,
        documents: &TokenVectors,
        pairs: &PairList,
    ) -> Result<Vec<f32>>;

    /// Learned parameters.
    fn parameters(&self) -> usize {
        0
    }

    /// Names and values of what its scores depend on beside its name and the token vectors.
    fn constants(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Whether scores are cosines, so that angles can be made of them.
    fn is_cosine(&self) -> bool {
        false
    }
}

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

/// A base scorer whose high scores must be confirmed by a verifier, see [`conditional_penalty`]; named `BASE-VERIFIER`,
/// as in `f1-f2`.
pub struct ConditionalPenalty {
    /// Scores everything.
    pub base: Box<dyn Verifier>,
    /// Is asked where the base score is high.
    pub verifier: Box<dyn Verifier>,
    /// What the penalty weighs and where it sets in.
    pub penalty: Penalty,
}

/// The constants of [`conditional_penalty`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// Base score at which half of the penalty applies, tau.
    pub threshold: f64,
    /// The most that is taken off per unit of doubt, beta, 0 or more.
    pub weight: f64,
}

impl Default for Penalty {
    fn default() -> Self {
        Penalty {
            threshold: 0.9,
            weight: 0.5,
        }
    }
}

/// `s - beta sigmoid(20 (s - tau)) (1 - clamp(v, -1, 1))` of a base score `s` and a verifier's score `v`: a pair that
/// the base scorer finds nearly identical loses up to `2 beta`, the more the verifier disagrees.
///
/// ```
/// use nearmiss::verifier::{Penalty, conditional_penalty};
/// let confirmed = conditional_penalty(0.95, 1.0, Penalty::default());
/// let doubted = conditional_penalty(0.95, 0.2, Penalty::default());
/// assert!(confirmed == 0.95 && (doubted - 0.657_576_568_5).abs() < 1e-9);
/// ```
pub fn conditional_penalty(s: f64, v: f64, penalty: Penalty) -> f64 {
    let gate = 1.0 / (1.0 + (-20.0 * (s - penalty.threshold)).exp());
    s - penalty.weight * gate * (1.0 - v.clamp(-1.0, 1.0))
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

/// The mean of maxima, which for texts of one row is their product.
fn mean_of_maxima(
    queries: Tokens<'_, half::f16>,
    documents: Tokens<'_, half::f16>,
    d: usize,
    pairs: &PairList,
) -> Result<Vec<f32>> {
    let mut scores = queries.rows.device().alloc::<f32>(pairs.len())?;
    maxsim(
        queries,
        documents,
        d,
        Pairs::Listed(pairs),
        Reduction::Mean,
        &mut scores,
        None,
    )?;
    scores.read()
}

impl Verifier for MeanCosine {
    fn name(&self) -> String {
        "none".into()
    }

    fn is_cosine(&self) -> bool {
        true
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        mean_of_maxima(q.means(), c.means(), width(q, c)?, pairs)
    }
}

impl Verifier for BagOfSimilarities {
    fn name(&self) -> String {
        "f0".into()
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        mean_of_maxima(q.centroids(), c.centroids(), width(q, c)?, pairs)
    }
}

impl Verifier for MaxSim {
    fn name(&self) -> String {
        "f1".into()
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        mean_of_maxima(q.tokens(), c.tokens(), width(q, c)?, pairs)
    }
}

impl Verifier for SoftAlignment {
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

impl Verifier for ConditionalPenalty {
    fn name(&self) -> String {
        format!("{}-{}", self.base.name(), self.verifier.name())
    }

    fn parameters(&self) -> usize {
        self.base.parameters() + self.verifier.parameters()
    }

    fn constants(&self) -> Vec<(String, f64)> {
        let Penalty { threshold, weight } = self.penalty;
        let mut all = vec![
            ("threshold".to_string(), threshold),
            ("weight".to_string(), weight),
        ];
        for (whose, verifier) in [("base", &self.base), ("verifier", &self.verifier)] {
            let constants = verifier.constants().into_iter();
            all.extend(constants.map(|(name, value)| (format!("{whose} {name}"), value)));
        }
        all
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        let base = self.base.score(q, c, pairs)?;
        let doubts = self.verifier.score(q, c, pairs)?;
        Ok(base
            .into_iter()
            .zip(doubts)
            .map(|(s, v)| conditional_penalty(f64::from(s), f64::from(v), self.penalty) as f32)
            .collect())
    }
}

/// The verifier called `name`: `none`, `f0`, `f1`, `f2`, or two of them as `BASE-VERIFIER`, which take `penalty`.
///
/// # Errors
/// [`Error::Usage`] for another name.
pub fn by_name(name: &str, penalty: Penalty) -> Result<Box<dyn Verifier>> {
    let simple = |name: &str| -> Option<Box<dyn Verifier>> {
        Some(match name {
            "none" => Box::new(MeanCosine),
            "f0" => Box::new(BagOfSimilarities),
            "f1" => Box::new(MaxSim),
            "f2" => Box::new(SoftAlignment::default()),
            _ => return None,
        })
    };
    let combined = || {
        let (base, verifier) = name.split_once('-')?;
        Some(Box::new(ConditionalPenalty {
            base: simple(base)?,
            verifier: simple(verifier)?,
            penalty,
        }) as Box<dyn Verifier>)
    };
    simple(name).or_else(combined).ok_or_else(|| {
        Error::Usage(format!(
            "there is no verifier `{name}`: choose from none, f0, f1, f2, or BASE-VERIFIER as in f1-f2 for the conditional penalty"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    /// Query tokens (1, 0), (0, 1) and candidate tokens (1, 0), (0.6, 0.8), so that the map is [[1, 0.6], [0, 0.8]];
    /// and the candidate read backwards.
    fn texts() -> (TokenVectors, TokenVectors) {
        let row = |x: f32, y: f32| [x, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let cpu = Device::cpu();
        let queries = [row(1.0, 0.0), row(0.0, 1.0)].concat();
        let (a, b) = (row(1.0, 0.0), row(0.6, 0.8));
        let documents = [a, b, b, a].concat();
        (
            TokenVectors::from_rows(&cpu, &queries, 8, vec![0, 2]).unwrap(),
            TokenVectors::from_rows(&cpu, &documents, 8, vec![0, 2, 4]).unwrap(),
        )
    }

    fn scores(verifier: &dyn Verifier) -> Vec<f32> {
        let (queries, documents) = texts();
        let pairs = PairList::new(queries.device(), vec![[0, 0], [0, 1]]).unwrap();
        verifier.score(&queries, &documents, &pairs).unwrap()
    }

    /// In f16 numbers between 0.25 and 1 are off by 2^-12 at most, and no score here has a slope above 4 in one of them:
    /// the steepest is f2, whose softmax of temperature 0.1 adds up to `p (1 - p) / 0.1` to the weight of a cosine.
    const TOLERANCE: f64 = 4.0 / 4096.0;

    #[test]
    fn known_values() {
        let f0_f1_f2: [(&dyn Verifier, [f64; 2]); 3] = [
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
    fn the_penalty_is_that_of_its_formula() {
        let with = |weight| Penalty {
            weight,
            ..Penalty::default()
        };
        for (s, v, weight, expected) in [
            (0.95, 0.2, 1.0, 0.365_153_137_1),
            (0.95, 0.2, 0.5, 0.657_576_568_5),
            (0.5, 0.2, 1.0, 0.499_731_719_9),
            // Beyond [-1, 1] a verifier's score counts as the nearer end.
            (0.9, 7.0, 1.0, 0.9),
            (0.9, -7.0, 1.0, -0.1),
        ] {
            let got = conditional_penalty(s, v, with(weight));
            assert!((got - expected).abs() < 1e-10, "{s} {v} {weight}: {got}");
        }
    }

    #[test]
    fn names_lead_back() {
        for name in ["none", "f0", "f1", "f2", "f1-f2", "none-f1"] {
            let verifier = by_name(name, Penalty::default()).unwrap();
            assert_eq!(verifier.name(), name);
        }
        let (base, doubt) = (scores(&MaxSim)[0], scores(&SoftAlignment::default())[0]);
        let combined = by_name("f1-f2", Penalty::default()).unwrap();
        let expected = conditional_penalty(base.into(), doubt.into(), Penalty::default());
        assert_eq!(scores(&*combined)[0], expected as f32);
        for name in ["", "f9", "f1-", "f1-f2-f0"] {
            let error = by_name(name, Penalty::default()).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{error}");
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
