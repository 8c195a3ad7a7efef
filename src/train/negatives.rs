//! Negatives for rows that have none, as a training asks for them.

use serde::{Deserialize, Serialize};

use crate::data::negatives::{Candidates, by_words, random};
use crate::data::triplets::{Examples, Pair, Triplet};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::index::VectorIndex;
use crate::metrics::statistics::cosine;
use crate::text::TextKind;

/// How rows without a negative get one: always the positive of another row that does not answer the anchor as well.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub enum Negatives {
    /// Of another row, uniformly drawn: what the protocol's baseline is trained with.
    #[default]
    Random,
    /// One of those that share most words with the anchor.
    Bm25 {
        /// Ranks it is drawn from, from 0, the second not among them.
        ranks: [usize; 2],
    },
    /// One of those that the encoder finds most similar to the anchor, before it is trained.
    Encoder {
        /// Ranks it is drawn from, from 0, the second not among them.
        ranks: [usize; 2],
        /// Those whose cosine to the anchor is more than this share of the positive's are passed over: they may answer it
        /// as well (Moreira et al., 2024, who take 0.95).
        below: f64,
    },
}

/// Ranks and share that are taken where nothing else is asked for.
const RANKS: [usize; 2] = [0, 10];
const BELOW: f64 = 0.95;

/// The last rank that can be asked for.
const MOST_RANKS: usize = 1000;

/// Texts that a search returns at most: what operators select on a GPU.
const MOST_FOUND: usize = 2048;

/// Texts that are looked at beyond what is wanted, since some come too close to the anchor.
const SPARE: usize = 100;

/// Anchors that are searched at a time.
const QUERIES: usize = 1024;

impl Negatives {
    /// BM25 over the first ten ranks.
    pub fn bm25() -> Self {
        Negatives::Bm25 { ranks: RANKS }
    }

    /// The encoder over the first ten ranks, below 95 % of the positive's cosine.
    pub fn encoder() -> Self {
        Negatives::Encoder {
            ranks: RANKS,
            below: BELOW,
        }
    }

    /// Whether its values can be worked with.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first that cannot.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |setting, message| Err(Error::Setting { setting, message });
        let (Negatives::Bm25 { ranks } | Negatives::Encoder { ranks, .. }) = self else {
            return Ok(());
        };
        if ranks[0] >= ranks[1] || ranks[1] > MOST_RANKS {
            let why = format!(
                "`ranks` is {ranks:?}; give two numbers, the first below the second and that at most {MOST_RANKS}"
            );
            return refuse("ranks", why);
        }
        if let Negatives::Encoder { below, .. } = self
            && !(*below > 0.0 && below.is_finite())
        {
            let why = format!("`below` is {below}; give a share above 0");
            return refuse("below", why);
        }
        Ok(())
    }

    /// The rows with negatives: as they are where they have some, else as asked for. Returns them with the number of those
    /// for which nothing was found and that took a random one; `progress` hears how many texts of how many the encoder
    /// has done.
    ///
    /// # Errors
    /// [`Error::Setting`] for values that cannot be worked with; [`Error::Invalid`] for an anchor that every positive
    /// answers; what the encoder reports.
    pub fn complete(
        &self,
        examples: Examples,
        encoder: &Encoder,
        seed: u64,
        progress: impl FnMut(usize, usize),
    ) -> Result<(Vec<Triplet>, usize)> {
        self.check()?;
        let pairs = match examples {
            Examples::Triplets(rows) => return Ok((rows, 0)),
            Examples::Pairs(pairs) => pairs,
        };
        match *self {
            Negatives::Random => Ok((random(&pairs, seed)?, 0)),
            Negatives::Bm25 { ranks } => by_words(&pairs, ranks, seed),
            Negatives::Encoder { ranks, below } => {
                by_encoder(&pairs, encoder, ranks, below, seed, progress)
            }
        }
    }
}

/// Rows with a negative that the encoder finds similar to the anchor.
fn by_encoder(
    pairs: &[Pair],
    encoder: &Encoder,
    ranks: [usize; 2],
    below: f64,
    seed: u64,
    mut progress: impl FnMut(usize, usize),
) -> Result<(Vec<Triplet>, usize)> {
    let candidates = Candidates::new(pairs)?;
    let d = encoder.width();
    let total = candidates.texts().len() + pairs.len();
    let mut texts = Vec::with_capacity(candidates.texts().len() * d);
    let mut index = VectorIndex::new(encoder.device(), d)?;
    let keep = |_: usize, rows: &[f32]| {
        texts.extend_from_slice(rows);
        index.append(rows)
    };
    let done = |n, _| progress(n, total);
    encoder
        .encode(candidates.texts(), TextKind::Document, keep, done)
        .map_err(|e| e.quoting_text(candidates.texts()))?;

    let mut found: Vec<Vec<u32>> = Vec::with_capacity(pairs.len());
    for (first, rows) in (0..).step_by(QUERIES).zip(pairs.chunks(QUERIES)) {
        let anchors: Vec<&str> = rows.iter().map(|pair| pair.anchor.as_str()).collect();
        let queries = encoder
            .embed(&anchors, TextKind::Query)
            .map_err(|e| e.quoting_text(&anchors))?;
        let excluded = (first..first + rows.len()).map(|row| candidates.excluded(row));
        let k = excluded.max().unwrap_or(0) + ranks[1] + SPARE;
        let hits = index.search(&queries, k.min(MOST_FOUND))?;
        for (i, (query, hits)) in queries.chunks_exact(d).zip(hits).enumerate() {
            let row = first + i;
            let positive = candidates.positive(row) as usize;
            let limit = below * cosine(query, &texts[positive * d..][..d]);
            let fits = hits.into_iter().filter(|hit| {
                candidates.admits(row, hit.id as u32) && f64::from(hit.score) <= limit
            });
            let ranked = fits.map(|hit| hit.id as u32);
            found.push(ranked.take(ranks[1]).skip(ranks[0]).collect());
        }
        progress(candidates.texts().len() + first + rows.len(), total);
    }
    candidates.choose(&found, seed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Device;
    use crate::data::Category;
    use crate::encoder::LoadOptions;

    fn encoder() -> Encoder {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-2x64");
        Encoder::load(&folder, &Device::cpu(), LoadOptions::default()).unwrap()
    }

    /// Twelve anchors with two answers each; every answer answers two.
    fn pairs() -> Vec<Pair> {
        let words = [
            "dog", "cat", "river", "bank", "house", "city", "water", "light", "paper", "red",
            "blue", "old",
        ];
        let pair = |i: usize, answer: usize| Pair {
            anchor: format!("the {} is here", words[i]),
            positive: format!(
                "a {} and a {}",
                words[answer % 12],
                words[(answer + 5) % 12]
            ),
            category: Category::parse("x"),
        };
        (0..12).flat_map(|i| [pair(i, i), pair(i, i + 1)]).collect()
    }

    #[test]
    fn the_encoder_finds_what_is_most_similar_and_not_too_similar() {
        let (encoder, pairs) = (encoder(), pairs());
        let candidates = Candidates::new(&pairs).unwrap();
        let embed = |texts: &[&str]| encoder.embed(texts, TextKind::Plain).unwrap();
        let texts = embed(candidates.texts());
        let d = encoder.width();
        let row = |rows: &[f32], i: usize| rows[i * d..][..d].to_vec();
        // Vectors are stored in f16: each component of a unit vector moves by 2^-11 of itself at most, so that a cosine
        // moves by less than 2^-10.
        let slack = 1.0 / 1024.0;
        let mut limited = 0;
        for below in [0.99, 1e3] {
            let mut heard = (0, 0);
            let mined = by_encoder(&pairs, &encoder, [0, 1], below, 1, |n, of| heard = (n, of));
            let (rows, random) = mined.unwrap();
            assert_eq!(heard, (36, 36));
            let mut without = 0;
            for (i, triplet) in rows.iter().enumerate() {
                let anchor = row(&embed(&[triplet.anchor.as_str()]), 0);
                let of = |text: usize| cosine(&anchor, &row(&texts, text));
                let limit = below * of(candidates.positive(i) as usize);
                let number = candidates
                    .texts()
                    .iter()
                    .position(|t| *t == triplet.negative);
                let number = number.unwrap();
                assert!(candidates.admits(i, number as u32));
                let fits = |bound: f64| {
                    let all =
                        (0..candidates.texts().len()).filter(|&t| candidates.admits(i, t as u32));
                    all.map(of)
                        .filter(|&c| c <= bound)
                        .fold(f64::NEG_INFINITY, f64::max)
                };
                limited += usize::from(fits(f64::INFINITY) > limit + slack);
                if fits(limit + slack) == f64::NEG_INFINITY {
                    without += 1;
                    continue;
                }
                // Unless rounding leaves none.
                if fits(limit - slack) > f64::NEG_INFINITY {
                    assert!(of(number) <= limit + slack, "{triplet:?}");
                    assert!(of(number) >= fits(limit - slack) - slack, "{triplet:?}");
                }
            }
            assert!(random >= without && random <= 24);
            assert!(below < 1.0 || random == 0);
        }
        assert!(limited > 0, "the limit has nothing to do");
    }

    #[test]
    fn rows_with_negatives_keep_them() {
        let encoder = encoder();
        let none = |_: usize, _: usize| panic!("nothing is to be encoded");
        let rows = random(&pairs(), 3).unwrap();
        let kept =
            Negatives::encoder().complete(Examples::Triplets(rows.clone()), &encoder, 1, none);
        assert_eq!(kept.unwrap(), (rows.clone(), 0));
        let found = Negatives::Random.complete(Examples::Pairs(pairs()), &encoder, 3, none);
        assert_eq!(found.unwrap(), (rows, 0));
        let ranks = [3, 3];
        let wrong = Negatives::Bm25 { ranks }.complete(Examples::Pairs(pairs()), &encoder, 3, none);
        assert!(matches!(
            wrong.unwrap_err(),
            Error::Setting {
                setting: "ranks",
                ..
            }
        ));
        let (rows, random) = Negatives::bm25()
            .complete(Examples::Pairs(pairs()), &encoder, 3, none)
            .unwrap();
        assert_eq!((rows.len(), random), (24, 0));
    }
}
