//! Scores of pairs of sentences: by the encoder's own cosine and by every verifier.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::progress::Progress;
use crate::device::Device;
use crate::encoder::{EncodeStats, Encoder};
use crate::error::Result;
use crate::index::{TokenIndex, TokenVectors};
use crate::metrics::statistics::cosine;
use crate::text::TextKind;
use crate::verifier::{self, Penalty, Scorer, VerifierOptions};

/// Name of the encoder's own cosine among scorers.
pub const POOLED: &str = "pooled";

/// Verifiers, and how texts are handed to them.
pub struct Scorers {
    /// What scores beside the encoder's own cosine.
    pub verifiers: Vec<Box<dyn Scorer>>,
    /// Tokens that verifiers see of a text, where the encoder does not see fewer.
    pub max_length: usize,
    /// The most that token vectors of texts that are encoded together may take, in bytes.
    pub token_bytes: usize,
}

impl Scorers {
    /// The verifiers that the study compares.
    pub const NAMES: [&str; 4] = ["none", "f0", "f1", "f2"];

    /// Verifiers by name (see [`verifier::open`]), which see at most `max_length` tokens of a text; their token
    /// vectors may take two GiB.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for a name that no verifier has.
    pub fn named<S: AsRef<str>>(names: &[S], max_length: usize, penalty: Penalty) -> Result<Self> {
        let names = names.iter().map(AsRef::as_ref);
        let options = VerifierOptions {
            penalty,
            ..VerifierOptions::default()
        };
        // None of them has weights, which would have to be on the encoder's device.
        let cpu = Device::cpu();
        let verifiers: Result<_> = names
            .map(|name| verifier::open(name, &options, &cpu))
            .collect();
        Ok(Scorers {
            verifiers: verifiers?,
            max_length,
            token_bytes: 2 << 30,
        })
    }

    /// Tokens that verifiers see of a text that `encoder` reads.
    pub fn limit(&self, encoder: &Encoder) -> usize {
        self.max_length.min(encoder.tokenizer().max_length())
    }

    /// Names of all scorers, [`POOLED`] first.
    pub fn names(&self) -> Vec<String> {
        let pooled = [POOLED.to_string()].into_iter();
        pooled
            .chain(self.verifiers.iter().map(|v| v.name()))
            .collect()
    }
}

/// Scores of pairs, and what they cost.
#[derive(Debug)]
pub struct PairScores {
    /// [`POOLED`], then the verifiers' names.
    pub names: Vec<String>,
    /// One score per pair and scorer, `[scorers][pairs]`.
    pub scores: Vec<Vec<f64>>,
    /// What the encoder did with the distinct texts.
    pub texts: EncodeStats,
    /// Time of encoding.
    pub encoding: Duration,
    /// Time of scoring, one per verifier.
    pub scoring: Vec<Duration>,
}

/// Scores `pairs` of (query, candidate) by the encoder's own cosine and by each verifier.
///
/// A text is encoded once however many pairs it is in, as long as the token vectors of all texts fit
/// [`Scorers::token_bytes`].
///
/// # Errors
/// What encoder and verifiers report; a text that cannot be encoded is quoted.
pub fn score_pairs(
    encoder: &Encoder,
    pairs: &[[&str; 2]],
    scorers: &Scorers,
    progress: &Progress,
) -> Result<PairScores> {
    let names = scorers.names();
    let mut found = PairScores {
        scores: vec![vec![0.0; pairs.len()]; names.len()],
        names,
        texts: EncodeStats::default(),
        encoding: Duration::ZERO,
        scoring: vec![Duration::ZERO; scorers.verifiers.len()],
    };
    let limit = scorers.limit(encoder);
    let at_once = scorers.token_bytes / (2 * encoder.token_width() * limit);
    // Pairs of one query stand together, so that turns share few texts.
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by(|&a, &b| pairs[a][0].cmp(pairs[b][0]));
    let mut task = progress.task("pairs", pairs.len());
    let mut done = 0;
    let mut known: HashSet<&str> = HashSet::new();
    while done < order.len() {
        let mut places: HashMap<&str, u32> = HashMap::new();
        let mut texts: Vec<&str> = Vec::new();
        let mut places_of: Vec<[u32; 2]> = Vec::new();
        for &at in &order[done..] {
            if texts.len() + 2 > at_once.max(2) {
                break;
            }
            places_of.push(pairs[at].map(|text| {
                *places.entry(text).or_insert_with(|| {
                    texts.push(text);
                    texts.len() as u32 - 1
                })
            }));
        }
        let (from, n, n_texts) = (done, places_of.len(), texts.len().max(1));
        let again = texts.iter().copied().filter(|text| !known.insert(text));
        let turn = Turn {
            again: again.collect(),
            texts,
            pairs: places_of,
            at: &order[from..from + n],
        };
        turn.score(encoder, &scorers.verifiers, limit, &mut found, |encoded| {
            task.at(from + n * encoded / n_texts);
        })?;
        done += n;
    }
    task.finish();
    Ok(found)
}

/// Texts that are encoded together, and pairs of them.
struct Turn<'a> {
    texts: Vec<&'a str>,
    /// Those of them that an earlier turn had too.
    again: Vec<&'a str>,
    pairs: Vec<[u32; 2]>,
    /// Which of all pairs these are.
    at: &'a [usize],
}

impl Turn<'_> {
    fn score(
        &self,
        encoder: &Encoder,
        verifiers: &[Box<dyn Scorer>],
        limit: usize,
        found: &mut PairScores,
        mut progress: impl FnMut(usize),
    ) -> Result<()> {
        let start = Instant::now();
        let d = encoder.width();
        let mut pooled: Vec<f32> = Vec::with_capacity(self.texts.len() * d);
        let mut pieces: Vec<TokenVectors> = Vec::new();
        let stats = encoder
            .encode_tokens(
                &self.texts,
                TextKind::Plain,
                Some(limit),
                |_, vectors, rows| {
                    pooled.extend_from_slice(rows);
                    pieces.push(vectors);
                    Ok(())
                },
                |done, _| progress(done),
            )
            .map_err(|e| e.quoting_text(&self.texts))?;
        let again = self.again(encoder, limit)?;
        found.texts.texts += stats.texts - again.texts;
        found.texts.tokens += stats.tokens - again.tokens;
        found.texts.truncated += stats.truncated - again.truncated;
        found.texts.empty += stats.empty - again.empty;
        // The encoder's own limit may be longer than the verifiers': what these cut, it reads again in full.
        if stats.truncated > 0 && limit < encoder.tokenizer().max_length() {
            let lengths = pieces
                .iter()
                .flat_map(|piece| piece.tokens().packing.offsets().windows(2))
                .map(|w| (w[1] - w[0]) as usize);
            let cut: Vec<usize> = (0..)
                .zip(lengths)
                .filter(|&(_, n)| n == limit)
                .map(|(i, _)| i)
                .collect();
            let long: Vec<&str> = cut.iter().map(|&i| self.texts[i]).collect();
            let rows = encoder.embed(&long, TextKind::Plain);
            let rows = rows.map_err(|e| e.quoting_text(&long))?;
            for (row, i) in rows.chunks_exact(d).zip(cut) {
                pooled[i * d..][..d].copy_from_slice(row);
            }
        }
        found.encoding += start.elapsed();

        let row = |i: u32| &pooled[i as usize * d..][..d];
        for (&[a, b], &at) in self.pairs.iter().zip(self.at) {
            found.scores[0][at] = cosine(row(a), row(b));
        }
        let mut index = TokenIndex::new(encoder.device(), encoder.token_width())?;
        for piece in pieces {
            index.append(piece)?;
        }
        let pairs: Vec<[u64; 2]> = self.pairs.iter().map(|p| p.map(u64::from)).collect();
        for (v, verifier) in verifiers.iter().enumerate() {
            let start = Instant::now();
            let scores = verifier.score_within(&index, &pairs)?;
            found.scoring[v] += start.elapsed();
            for (score, &at) in scores.into_iter().zip(self.at) {
                found.scores[v + 1][at] = f64::from(score);
            }
        }
        Ok(())
    }

    /// What the encoder did with texts that are counted already.
    fn again(&self, encoder: &Encoder, limit: usize) -> Result<EncodeStats> {
        if self.again.is_empty() {
            return Ok(EncodeStats::default());
        }
        let tokenizer = encoder.tokenizer().with_max_length(limit)?;
        let tokens = tokenizer
            .encode_kind(&self.again, TextKind::Plain)
            .map_err(|e| e.quoting_text(&self.again))?;
        let empty = self.again.iter().filter(|text| text.trim().is_empty());
        Ok(EncodeStats {
            texts: self.again.len(),
            tokens: tokens.lengths().iter().sum(),
            truncated: tokens.n_truncated,
            empty: empty.count(),
        })
    }
}
