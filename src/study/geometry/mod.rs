//! How close an encoder comes to the premises under which an embedding must be blind to structure.
//!
//! The premises are those of Kang et al., *Is CLIP ideal? No. Can we fix it? Yes!* (2025), transcribed from images and
//! texts to sentences. Their theorem is about a space shared by both and does not carry over; the premises can be
//! measured: whether sentences are superpositions of their parts, which conditions hold together, how much room a cap of
//! paraphrases leaves, and what the space of a retrieval collection looks like.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

pub use report::GeometryConfig;

use super::near_miss::Examples;
use super::pair_scores::{PairScores, Scorers, score_pairs};
use super::progress::Progress;
use super::retrieve::subset;
use super::session::Session;
use super::stage::{Report, Stage};
use crate::data::beir::Collection;
use crate::data::probe::{Grid, Scene, grid, scenes};
use crate::encoder::Encoder;
use crate::error::Result;
use crate::metrics::geometry::{
    Conditions, SceneScores, Space, Structure, Superposition, conditions, share_outside, space,
    structure, superposition,
};
use crate::metrics::statistics::{cosine, degrees, quantile};
use crate::random::Stream;
use crate::text::TextKind;

/// By how much a paraphrase has to win, in the score's unit.
pub const MARGINS: [f64; 2] = [0.0, 0.05];

/// What is measured, beside encoder and verifiers.
#[derive(Clone, Copy, Debug)]
pub struct GeometryOptions {
    /// Of everything random.
    pub seed: u64,
    /// Scenes that conditions are counted on.
    pub scenes: usize,
    /// Retrieval sentences that the space is described by, at most.
    pub sentences: usize,
    /// One in how many sentences of the grid is held out, 2 or more.
    pub held_out: usize,
}

impl Default for GeometryOptions {
    fn default() -> Self {
        GeometryOptions {
            seed: 42,
            scenes: 500,
            sentences: 5_000,
            held_out: 5,
        }
    }
}

/// The stage: what the encoder's space is like, and which conditions every scorer meets.
pub struct GeometryStage {
    /// Their paraphrases set the cap.
    pub examples: Arc<Examples>,
    /// They give retrieval sentences and relevant pairs.
    pub collections: Vec<Arc<Collection>>,
    /// The verifiers.
    pub scorers: Arc<Scorers>,
    /// How much is measured.
    pub options: GeometryOptions,
}

impl GeometryStage {
    fn collections(&self) -> Vec<&Collection> {
        self.collections.iter().map(|c| &**c).collect()
    }
}

impl Stage for GeometryStage {
    const NAME: &'static str = "geometry";
    const ROWS: &'static str = "scenes.jsonl";
    type Config = GeometryConfig;
    type Found = GeometryStudy;

    fn subject<'a>(&'a self, session: &'a Session) -> &'a str {
        &session.backbone.name
    }

    fn inputs(&self) -> Value {
        let collections = self.collections.iter().map(|c| &c.name[..]);
        json!({
            "collections": collections.collect::<Vec<_>>(),
            "paraphrases": self.examples.name,
        })
    }

    fn config(&self, session: &Session) -> GeometryConfig {
        GeometryConfig::new(self, session)
    }

    fn measure(&self, session: &Session) -> Result<GeometryStudy> {
        geometry(
            &session.encoder,
            &self.examples.paraphrases(),
            &self.collections(),
            &self.scorers,
            &self.options,
            &session.progress,
        )
    }

    fn notes(&self, found: &GeometryStudy) -> Vec<String> {
        report::notes(found)
    }

    fn log(&self, found: &GeometryStudy) -> Vec<String> {
        vec![format!("geometry: {:.1} s", found.time.as_secs_f64())]
    }

    fn markdown(&self, report: &Report<Self>) -> String {
        report::markdown(report)
    }

    fn metrics(&self, found: &GeometryStudy) -> Value {
        report::metrics(found)
    }

    fn rows<'a>(&'a self, found: &'a GeometryStudy) -> impl Iterator<Item = Value> + 'a {
        report::rows(found)
    }

    fn times(&self, found: &GeometryStudy) -> Value {
        json!({ "seconds": found.time.as_secs_f64() })
    }
}

/// How often a scorer meets each condition, one per [`MARGINS`].
#[derive(Clone, Debug, Serialize)]
pub struct ScorerConditions {
    /// `pooled`, `none`, `f0`, ...
    pub name: String,
    /// One per [`MARGINS`].
    pub conditions: Vec<Conditions>,
}

/// What a limit on the angle that lets paraphrases through costs in retrieval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CapCost {
    /// Pairs of paraphrases that set the limit.
    pub paraphrases: usize,
    /// The 95th percentile of their angles in degrees.
    pub degrees: f64,
    /// Relevant pairs of query and document.
    pub relevant: usize,
    /// Share of these beyond the limit.
    pub outside: f64,
}

/// What a geometry run found.
#[derive(Debug)]
pub struct GeometryStudy {
    /// The scenes.
    pub scenes: Vec<Scene>,
    /// Their scores, `[scorers][scenes]`.
    pub scores: Vec<Vec<SceneScores>>,
    /// One per scorer, the encoder's own cosine first.
    pub scorers: Vec<ScorerConditions>,
    /// How much of sentences is the superposition of their parts, and what follows when `modifiers` or `things` are
    /// exchanged.
    pub superposition: Vec<(&'static str, Superposition)>,
    /// What the grid's embeddings are sums of.
    pub structure: Option<Structure>,
    /// What the cap of the paraphrases costs; `None` without paraphrases or relevant pairs.
    pub cap: Option<CapCost>,
    /// The space of the retrieval sentences.
    pub space: Option<Space>,
    /// Time of everything.
    pub time: Duration,
}

/// Measures `encoder`, and counts the conditions for verifiers too.
///
/// `paraphrases` set the cap, `collections` give retrieval sentences and relevant pairs; either may be empty.
///
/// # Errors
/// What encoder and verifiers report; a text that cannot be encoded is quoted.
pub fn geometry(
    encoder: &Encoder,
    paraphrases: &[[&str; 2]],
    collections: &[&Collection],
    scorers: &Scorers,
    options: &GeometryOptions,
    progress: &Progress,
) -> Result<GeometryStudy> {
    let start = std::time::Instant::now();
    let scenes = scenes(options.seed, options.scenes);
    let (names, scores) = scene_scores(encoder, &scenes, scorers, progress)?;
    let found_of = names.into_iter().zip(&scores).map(|(name, scores)| {
        let of = |margin| conditions(scores, margin);
        ScorerConditions {
            name,
            conditions: MARGINS.into_iter().filter_map(of).collect(),
        }
    });
    let conditions = found_of.collect();
    let grid = grid();
    let words = grid.words.iter().flatten().copied();
    let embedded = Embedded::new(encoder, grid.texts.iter().map(|t| &t[..]).chain(words))?;
    let structure = structure_of(&grid, &embedded, options);
    let superposition = superpositions(encoder, &grid, &embedded, &scenes)?;

    let sentences = Sentences::of(collections, options.sentences);
    let rows = sentences.embed(encoder, progress)?;
    let d = encoder.width();
    let row = |i: usize| &rows[i * d..][..d];
    let relevant: Vec<f64> = sentences
        .relevant
        .iter()
        .map(|&[q, p]| cosine(row(q), row(p)))
        .collect();
    let pooled = Scorers {
        verifiers: Vec::new(),
        ..*scorers
    };
    let found = score_pairs(encoder, paraphrases, &pooled, progress)?;
    let angles: Vec<f64> = found.scores[0].iter().map(|&c| degrees(c)).collect();
    let cap = quantile(&angles, 0.95).and_then(|rho| {
        Some(CapCost {
            paraphrases: angles.len(),
            degrees: rho,
            relevant: relevant.len(),
            outside: share_outside(rho, &relevant)?,
        })
    });
    Ok(GeometryStudy {
        scenes,
        scores,
        scorers: conditions,
        superposition,
        structure,
        cap,
        space: space(&rows, d, &sentences.relevant),
        time: start.elapsed(),
    })
}

/// The scores of scenes by every scorer, with the scorers' names.
fn scene_scores(
    encoder: &Encoder,
    scenes: &[Scene],
    scorers: &Scorers,
    progress: &Progress,
) -> Result<(Vec<String>, Vec<Vec<SceneScores>>)> {
    let mut pairs: Vec<[&str; 2]> = Vec::new();
    for scene in scenes {
        let s = scene.text.as_str();
        pairs.extend(scene.parts.iter().map(|part| [s, part]));
        pairs.extend([
            [s, &scene.paraphrase],
            [s, &scene.rebound],
            [s, &scene.negation],
            [s, &scene.double_negation],
            [&scene.negation, &scene.unrelated],
        ]);
        pairs.extend(scene.related.iter().map(|other| [s, other]));
        pairs.extend(scene.foreign.iter().map(|other| [s, other]));
    }
    let PairScores { names, scores, .. } = score_pairs(encoder, &pairs, scorers, progress)?;
    let of_scorer = |scores: &Vec<f64>| -> Vec<SceneScores> {
        let mut scores = scores.iter().copied();
        let mut next = || scores.next().expect("a score for every pair");
        scenes
            .iter()
            .map(|scene| SceneScores {
                own: [next(), next()],
                paraphrase: next(),
                rebound: next(),
                negation: next(),
                double_negation: next(),
                negation_unrelated: next(),
                related: scene.related.iter().map(|_| next()).collect(),
                foreign: scene.foreign.iter().map(|_| next()).collect(),
            })
            .collect()
    };
    Ok((names, scores.iter().map(of_scorer).collect()))
}

/// Texts with their embeddings, scaled to length 1.
struct Embedded<'a> {
    place: BTreeMap<&'a str, usize>,
    rows: Vec<f32>,
    d: usize,
}

impl<'a> Embedded<'a> {
    fn new(encoder: &Encoder, texts: impl Iterator<Item = &'a str>) -> Result<Self> {
        let texts: BTreeSet<&str> = texts.collect();
        let texts: Vec<&str> = texts.into_iter().collect();
        let d = encoder.width();
        let rows = encoder.embed(&texts, TextKind::Plain);
        Ok(Embedded {
            rows: units(rows.map_err(|e| e.quoting_text(&texts))?, d),
            place: texts.into_iter().zip(0..).collect(),
            d,
        })
    }

    /// The row of one of the texts.
    fn of(&self, text: &str) -> &[f32] {
        &self.rows[self.place[text] * self.d..][..self.d]
    }

    /// The cosines of a sentence and of another made of the same parts with the parts' superposition, and of the two.
    fn superposed(&self, sentence: &str, other: &str, parts: &[&str]) -> [f64; 3] {
        let mut sum = vec![0.0; self.d];
        for part in parts {
            for (sum, x) in sum.iter_mut().zip(self.of(part)) {
                *sum += x;
            }
        }
        let (sentence, other) = (self.of(sentence), self.of(other));
        [
            cosine(sentence, &sum),
            cosine(other, &sum),
            cosine(sentence, other),
        ]
    }
}

/// Superposition of words in the grid, whose sentences have their modifiers exchanged, and of phrases in scenes, whose
/// things are exchanged.
fn superpositions(
    encoder: &Encoder,
    grid: &Grid,
    embedded: &Embedded<'_>,
    scenes: &[Scene],
) -> Result<Vec<(&'static str, Superposition)>> {
    let exchanged = (0..grid.texts.len()).map(|i| {
        let other = &grid.texts[grid.rebound[i]];
        embedded.superposed(&grid.texts[i], other, &grid.words[i])
    });
    let modifiers = superposition(&exchanged.collect::<Vec<_>>());

    let texts = scenes.iter().flat_map(|scene| {
        let [a, b] = &scene.parts;
        [&scene.text[..], &scene.related[0], a, b]
    });
    let embedded = Embedded::new(encoder, texts)?;
    let exchanged = scenes.iter().map(|scene| {
        let [a, b] = &scene.parts;
        embedded.superposed(&scene.text, &scene.related[0], &[a, b])
    });
    let things = superposition(&exchanged.collect::<Vec<_>>());
    let named = [("modifiers", modifiers), ("things", things)];
    Ok(named
        .into_iter()
        .filter_map(|(name, found)| Some((name, found?)))
        .collect())
}

/// What the grid's embeddings are sums of.
fn structure_of(
    grid: &Grid,
    embedded: &Embedded<'_>,
    options: &GeometryOptions,
) -> Option<Structure> {
    let rows: Vec<f32> = grid
        .texts
        .iter()
        .flat_map(|text| embedded.of(text).iter().copied())
        .collect();
    let mut stream = Stream::new(options.seed, &["held-out cells"], 0);
    let held_out: Vec<bool> = grid
        .cells
        .iter()
        .map(|_| stream.below(options.held_out.max(1)) == 0)
        .collect();
    structure(&grid.cells, &rows, embedded.d, &held_out)
}

/// Rows scaled to length 1.
fn units(mut rows: Vec<f32>, d: usize) -> Vec<f32> {
    for row in rows.chunks_exact_mut(d) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        for x in row {
            *x /= length.max(f32::MIN_POSITIVE);
        }
    }
    rows
}

/// Documents and queries of some collections, and which belong together.
pub(super) struct Sentences {
    documents: Vec<String>,
    queries: Vec<String>,
    /// Row of the query, row of the document; queries come after all documents.
    pub(super) relevant: Vec<[usize; 2]>,
}

impl Sentences {
    /// At most `most` sentences, the same share of every collection.
    pub(super) fn of(collections: &[&Collection], most: usize) -> Self {
        let mut found = Sentences {
            documents: Vec::new(),
            queries: Vec::new(),
            relevant: Vec::new(),
        };
        let share = most / collections.len().max(1);
        for collection in collections {
            let n = collection.corpus.len() + collection.queries.len();
            let part = (n > share).then(|| subset(collection, share * 2 / 3));
            let collection = part.as_ref().unwrap_or(collection);
            let start = found.documents.len();
            let place: BTreeMap<&str, usize> = (start..)
                .zip(&collection.corpus)
                .map(|(i, document)| (&document.id[..], i))
                .collect();
            let texts = collection.corpus.iter();
            found
                .documents
                .extend(texts.map(|d| d.text_for_encoder().to_string()));
            let left = share - collection.corpus.len();
            for query in collection.queries.iter().take(left) {
                for (document, &grade) in collection.qrels.judged(&query.id).into_iter().flatten() {
                    if let (true, Some(&at)) = (grade > 0, place.get(&document[..])) {
                        found.relevant.push([found.queries.len(), at]);
                    }
                }
                found.queries.push(query.text.clone());
            }
        }
        for [query, _] in &mut found.relevant {
            *query += found.documents.len();
        }
        found
    }

    /// Their embeddings, `[n, d]`, documents first.
    pub(super) fn embed(&self, encoder: &Encoder, progress: &Progress) -> Result<Vec<f32>> {
        let n = self.documents.len();
        let mut rows = Vec::with_capacity((n + self.queries.len()) * encoder.width());
        let mut task = progress.task("sentences", n + self.queries.len());
        let turns = [
            (&self.documents, TextKind::Document, 0),
            (&self.queries, TextKind::Query, n),
        ];
        for (texts, kind, before) in turns {
            let keep = |_, part: &[f32]| {
                rows.extend_from_slice(part);
                Ok(())
            };
            encoder
                .encode(texts, kind, keep, |done, _| task.at(before + done))
                .map_err(|e| e.quoting_text(texts))?;
        }
        task.finish();
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::beir::Query;
    use crate::data::generated::COLLECTIONS;

    #[test]
    fn sentences_keep_their_limit_and_their_pairs() {
        // More questions than passages, as in collections of questions about few texts.
        let collections = [0, 1].map(|i| {
            let mut collection = COLLECTIONS[i].generate(42, 60, 60).unwrap();
            for query in collection.queries.clone() {
                let judged = collection.qrels.judged(&query.id).cloned();
                for copy in 0..3 {
                    let id = format!("{}-{copy}", query.id);
                    for (document, &grade) in judged.iter().flatten() {
                        collection.qrels.insert(&id, document, grade);
                    }
                    let text = query.text.clone();
                    collection.queries.push(Query { id, text });
                }
            }
            collection
        });
        for most in [60, 120, 240, 10_000] {
            let found = Sentences::of(&collections.each_ref(), most);
            let n = found.documents.len();
            assert!(n > 0 && n + found.queries.len() <= most, "{most}");
            assert!(!found.relevant.is_empty());
            for &[query, document] in &found.relevant {
                let question = &found.queries[query - n];
                let text = &found.documents[document];
                let judged = collections.iter().any(|c| {
                    let query = c.queries.iter().find(|q| q.text == *question);
                    let place = c.corpus.iter().find(|d| d.text_for_encoder() == text[..]);
                    let (Some(query), Some(document)) = (query, place) else {
                        return false;
                    };
                    c.qrels.grade(&query.id, &document.id) > 0
                });
                assert!(judged, "{question} does not ask for {text}");
            }
        }
    }
}
