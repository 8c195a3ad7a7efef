//! Negatives for rows that have none, as a training asks for them.

use serde::{Deserialize, Serialize};

use crate::data::negatives::{Candidates, by_words, random};
use crate::data::pairs::Triplet;
use crate::data::triplets::{Examples, Pair};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::index::VectorIndex;
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

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
