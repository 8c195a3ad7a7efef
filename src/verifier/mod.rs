//! Second-stage scorers: what says whether a candidate really matches, and not only shares its words.
//!
//! [`open`] makes one by its name. It scores pairs of texts by their token vectors, see [`Scorer`].
//!
//! ```
//! use nearmiss::{Device, index::{TokenIndex, TokenVectors}, verifier::{self, VerifierOptions}};
//! let cpu = Device::cpu();
//! let mut index = TokenIndex::new(&cpu, 8)?;
//! index.append_with_ids(TokenVectors::from_rows(&cpu, &[0.5; 24], 8, vec![0, 1, 3])?, &[20, 10])?;
//! let query = TokenVectors::from_rows(&cpu, &[0.5; 8], 8, vec![0, 1])?;
//! let verifier = verifier::open("f2", &VerifierOptions::default(), &cpu)?;
//! let scores = verifier.score_index(&index, &query, &[(0, 10), (0, 20)])?;
//! assert_eq!(scores.len(), 2);
//! # Ok::<(), nearmiss::Error>(())
//! ```

mod calibration;
mod cnn;
mod fixed;
mod layers;
pub mod learned;
mod parameters;
mod penalty;
mod saved;
mod transformer;

pub use calibration::{Calibration, check_true_accept, fewest_accepts};
pub use fixed::{BagOfSimilarities, MaxSim, MeanCosine, SoftAlignment};
pub use learned::{Contributions, Kind, Learned};
pub use parameters::{Parameters, Tensors};
pub use penalty::{ConditionalPenalty, Penalty, conditional_penalty};
pub use saved::{CONFIG, Config, EncoderName, LoadVerifier, Verdict, Verifier};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::index::{TokenIndex, TokenVectors};
use crate::ops::PairList;
use crate::ops::soft_alignment::Alignment;

/// Tokens that a verifier sees of a text, special ones included, unless it is told otherwise.
pub const MAX_LENGTH: usize = 128;

/// A scorer of (query, candidate) pairs that reads the token vectors of both.
pub trait Scorer: Send + Sync {
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

    /// The scores of pairs of a query and a text of an index, named by its id.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id that is not there, [`Error::Shape`] for such a query, or what the device reports.
    fn score_index(
        &self,
        index: &TokenIndex,
        queries: &TokenVectors,
        pairs: &[(u32, u64)],
    ) -> Result<Vec<f32>> {
        let place = |&(query, id): &(u32, u64)| {
            let (piece, text) = index.place(id)?;
            Ok((piece, [query, text]))
        };
        let placed = pairs.iter().map(place).collect::<Result<Vec<_>>>()?;
        by_piece(&placed, |piece, pairs| {
            let pairs = PairList::new(index.device(), pairs)?;
            self.score(queries, index.piece(piece), &pairs)
        })
    }

    /// The scores of pairs of texts of an index, named by their ids; the first of a pair is the query.
    ///
    /// # Errors
    /// As [`Scorer::score_index`].
    fn score_within(&self, index: &TokenIndex, pairs: &[[u64; 2]]) -> Result<Vec<f32>> {
        let place = |&[query, id]: &[u64; 2]| {
            let (piece, text) = index.place(query)?;
            Ok((piece, (text, id)))
        };
        let placed = pairs.iter().map(place).collect::<Result<Vec<_>>>()?;
        by_piece(&placed, |piece, pairs| {
            self.score_index(index, index.piece(piece), &pairs)
        })
    }

    /// Learned parameters.
    fn parameters(&self) -> usize {
        0
    }

    /// Names and values of what its scores depend on beside its name and the token vectors.
    fn constants(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Pairs so far of which it did not see all, since it reads maps of 128 x 128 tokens at most.
    fn cut(&self) -> usize {
        0
    }

    /// Whether scores are cosines, so that angles can be made of them.
    fn is_cosine(&self) -> bool {
        false
    }
}

/// Scores pairs, each given with the piece of an index that it needs, piece by piece; scores are in the pairs' order.
fn by_piece<P: Copy>(
    placed: &[(usize, P)],
    mut score: impl FnMut(usize, Vec<P>) -> Result<Vec<f32>>,
) -> Result<Vec<f32>> {
    let mut scores = vec![0.0; placed.len()];
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by_key(|&i| placed[i].0);
    for here in order.chunk_by(|&a, &b| placed[a].0 == placed[b].0) {
        let pairs = here.iter().map(|&i| placed[i].1).collect();
        for (&i, found) in here.iter().zip(score(placed[here[0]].0, pairs)?) {
            scores[i] = found;
        }
    }
    Ok(scores)
}

/// What verifiers are opened with.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifierOptions {
    /// Constants of conditional penalties.
    pub penalty: Penalty,
    /// Constants of `f2`.
    pub alignment: Alignment,
}

/// How a verifier is opened; one that has weights places them on the device.
type Open = fn(&VerifierOptions, &Device) -> Result<Box<dyn Scorer>>;

/// Every verifier that has a name of its own.
const NAMED: &[(&str, Open)] = &[
    ("none", |_, _| Ok(Box::new(MeanCosine))),
    ("f0", |_, _| Ok(Box::new(BagOfSimilarities))),
    ("f1", |_, _| Ok(Box::new(MaxSim))),
    ("f2", |options, _| {
        let alignment = options.alignment;
        Ok(Box::new(SoftAlignment { alignment }))
    }),
];

/// The names that [`open`] knows, beside combinations of two.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|(name, _)| *name)
}

/// The verifier called `name`, for token vectors on `device`: one of [`names`], or two of them as `BASE-VERIFIER`, a
/// [`ConditionalPenalty`].
///
/// # Errors
/// [`Error::Usage`] for another name.
pub fn open(name: &str, options: &VerifierOptions, device: &Device) -> Result<Box<dyn Scorer>> {
    let find = |name: &str| {
        let found = NAMED.iter().find(|(known, _)| *known == name);
        found.map(|(_, open)| *open)
    };
    if let Some(open) = find(name) {
        return open(options, device);
    }
    let both = name.split_once('-');
    let both = both.and_then(|(base, verifier)| find(base).zip(find(verifier)));
    let Some((base, verifier)) = both else {
        let known: Vec<&str> = names().collect();
        return Err(Error::Usage(format!(
            "there is no verifier `{name}`: choose from {}, or BASE-VERIFIER as in f1-f2 for the conditional penalty",
            known.join(", ")
        )));
    };
    Ok(Box::new(ConditionalPenalty {
        base: base(options, device)?,
        verifier: verifier(options, device)?,
        penalty: options.penalty,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::maxsim::{self, Reduction};

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

    pub(super) fn scores(verifier: &dyn Scorer) -> Vec<f32> {
        let (queries, documents) = texts();
        let pairs = PairList::new(queries.device(), vec![[0, 0], [0, 1]]).unwrap();
        verifier.score(&queries, &documents, &pairs).unwrap()
    }

    #[test]
    fn names_lead_back() {
        let cpu = Device::cpu();
        let options = VerifierOptions::default();
        for name in names().chain(["f1-f2", "none-f1"]) {
            let verifier = open(name, &options, &cpu).unwrap();
            assert_eq!(verifier.name(), name);
        }
        let (base, doubt) = (scores(&MaxSim)[0], scores(&SoftAlignment::default())[0]);
        let combined = open("f1-f2", &options, &cpu).unwrap();
        let expected = conditional_penalty(base.into(), doubt.into(), Penalty::default());
        assert_eq!(scores(&*combined)[0], expected as f32);
        for name in ["", "f9", "f1-", "f1-f2-f0"] {
            let error = open(name, &options, &cpu).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }

    #[test]
    fn options_reach_the_verifier() {
        let mut options = VerifierOptions::default();
        options.penalty.weight = 0.0;
        options.alignment.temperature *= 2.0;
        let cpu = Device::cpu();
        let opened = |name| scores(&*open(name, &options, &cpu).unwrap());
        assert_eq!(opened("f1-f2"), scores(&MaxSim), "no weight, no penalty");
        let alignment = options.alignment;
        assert_eq!(opened("f2"), scores(&SoftAlignment { alignment }));
        assert_ne!(opened("f2"), scores(&SoftAlignment::default()));
    }

    /// An index of nine texts of 1 to 3 tokens in pieces of 4 and 5, with ids that fall, and its texts as stored.
    fn index() -> (TokenIndex, Vec<Vec<f32>>) {
        let (cpu, d) = (Device::cpu(), 8);
        let mut index = TokenIndex::new(&cpu, d).unwrap();
        let mut stored = Vec::new();
        for texts in [0..4u32, 4..9] {
            let lengths = texts.clone().map(|text| 1 + text % 3);
            let offsets = lengths.scan(0, |end, length| {
                *end += length;
                Some(*end)
            });
            let offsets: Vec<u32> = [0].into_iter().chain(offsets).collect();
            let n = *offsets.last().unwrap() as usize * d;
            let wave = |i: usize| ((i + texts.start as usize * 100) as f32 * 0.7).sin();
            let rows: Vec<f32> = (0..n).map(wave).collect();
            let ids: Vec<u64> = texts.map(|text| 90 - u64::from(text)).collect();
            let vectors = TokenVectors::from_rows(&cpu, &rows, d, offsets.clone()).unwrap();
            let rows = vectors.tokens().rows.read().unwrap();
            stored.extend(offsets.windows(2).map(|w| {
                let rows = &rows[w[0] as usize * d..w[1] as usize * d];
                rows.iter().map(|v| v.to_f32()).collect()
            }));
            index.append_with_ids(vectors, &ids).unwrap();
        }
        (index, stored)
    }

    #[test]
    fn scores_of_an_index_come_back_in_the_order_of_their_pairs() {
        let (mut index, stored) = index();
        let of = |id: u64| &stored[(90 - id) as usize];
        let exact = |a: &[f32], b: &[f32]| maxsim::reference::<f64>(a, b, 8, Reduction::Mean).0;
        // Products of eight terms whose magnitudes add up to 1, the sum of three and its division: eleven roundings.
        let near = |got: f32, want: f64| {
            assert!(
                (f64::from(got) - want).abs() < 12.0 * 2f64.powi(-24),
                "{got} {want}"
            );
        };
        let asked = [0.5, 1.0, -0.5, 0.25, 0.0, -1.0, 0.75, 1.0];
        let queries = TokenVectors::from_rows(index.device(), &asked, 8, vec![0, 1]).unwrap();
        let rows = queries.tokens().rows.read().unwrap();
        let asked: Vec<f32> = rows.iter().map(|v| v.to_f32()).collect();
        let pairs = [(0, 84), (0, 90), (0, 85), (0, 84)];
        let scores = MaxSim.score_index(&index, &queries, &pairs).unwrap();
        for (score, (_, id)) in scores.iter().zip(pairs) {
            near(*score, exact(&asked, of(id)));
        }
        let pairs = [[84, 90], [90, 84], [85, 84], [90, 90], [84, 90]];
        let within = MaxSim.score_within(&index, &pairs).unwrap();
        for (score, [q, c]) in within.iter().zip(pairs) {
            near(*score, exact(of(q), of(c)));
        }
        assert!(MaxSim.score_index(&index, &queries, &[(1, 84)]).is_err());
        index.remove(&[85]);
        for id in [85, 0] {
            let error = MaxSim
                .score_index(&index, &queries, &[(0, id)])
                .unwrap_err();
            let expected = format!("none of its 8 texts has id {id}");
            assert!(error.to_string().contains(&expected), "{error}");
            assert!(MaxSim.score_within(&index, &[[90, id]]).is_err());
            assert!(MaxSim.score_within(&index, &[[id, 90]]).is_err());
        }
        assert_eq!(
            MaxSim.score_within(&index, &pairs[..2]).unwrap(),
            within[..2]
        );
    }
}
