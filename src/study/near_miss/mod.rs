//! Which scorers tell near-misses from paraphrases, and by how much.

mod examples;
mod report;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

pub use examples::{Example, Examples, FileOptions};
pub use report::NearMissConfig;
pub(super) use report::{cross_fitted_rates, digest, fewer_samples};

use super::pair_scores::{PairScores, Scorers, score_pairs};
use super::progress::Progress;
use super::session::Session;
use super::stage::{Report, Stage};
use crate::data::groups::connected;
use crate::data::triplets::{self, Identical, Triplet, TripletNotes};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::metrics::geometry::{Cap, Displacement, cap, displacement};
use crate::metrics::near_miss::{
    ALPHAS, CrossFitted, Evaluation, Folds, Grouped, Kind, Measured, Options, ScoredPair, Split,
    cross_fitted, evaluate,
};
use crate::metrics::statistics::{Summary, cosine};
use crate::random::Stream;
use crate::text::TextKind;

/// Pairs of the encoder's training domain to set near-misses beside.
pub struct Triplets {
    /// All of the file.
    pub all: Vec<Triplet>,
    /// What was left out of it, or is odd in it.
    pub notes: TripletNotes,
    /// How many are drawn at random.
    pub sample: usize,
    /// By which seed.
    pub seed: u64,
}

impl Triplets {
    /// Reads a file of triplets.
    ///
    /// # Errors
    /// As [`triplets::read`]; [`Error::Input`] for rows without a negative.
    pub fn read(file: &Path, sample: usize, seed: u64) -> Result<Self> {
        let (examples, notes) = triplets::read(file, Identical::Drop)?;
        let triplets::Examples::Triplets(all) = examples else {
            let what =
                "has no negatives; the triplets to compare with need anchor, positive and negative";
            return Err(Error::input(file, what));
        };
        Ok(Triplets {
            all,
            notes,
            sample,
            seed,
        })
    }
}

/// The stage: examples, scored by the encoder's own cosine and by every verifier.
pub struct NearMissStage {
    /// What is scored.
    pub examples: Arc<Examples>,
    /// What they are set beside, if anything.
    pub triplets: Option<Triplets>,
    /// The verifiers.
    pub scorers: Arc<Scorers>,
    /// How scorers are evaluated.
    pub options: Options,
}

impl Stage for NearMissStage {
    const NAME: &'static str = "near-miss";
    const ROWS: &'static str = "pairs.jsonl";
    type Config = NearMissConfig;
    type Found = NearMissStudy;

    fn subject<'a>(&'a self, _session: &'a Session) -> &'a str {
        &self.examples.name
    }

    fn inputs(&self) -> Value {
        json!({ "set": self.examples.name })
    }

    fn config(&self, session: &Session) -> NearMissConfig {
        NearMissConfig::new(self, session)
    }

    fn measure(&self, session: &Session) -> Result<NearMissStudy> {
        let (encoder, progress) = (&session.encoder, &session.progress);
        let examples = &self.examples;
        progress.log(&format!("{}: {}", examples.name, examples.counts()));
        let mut found = near_miss(encoder, examples, &self.scorers, &self.options, progress)?;
        if self.options.folds.is_some() {
            found.cross_fit(examples, &self.options, progress);
        }
        if let Some(triplets) = &self.triplets {
            let near_misses = found.scorers[0].evaluation.all.near_misses.mean;
            let comparison = compare_triplets(encoder, triplets, near_misses, progress)?;
            found.comparison = Some(comparison);
        }
        Ok(found)
    }

    fn notes(&self, found: &NearMissStudy) -> Vec<String> {
        let mut notes = report::notes(&self.examples, found);
        if let Some(triplets) = &self.triplets {
            notes.extend(triplets.notes.lines("triplets"));
        }
        notes
    }

    fn log(&self, found: &NearMissStudy) -> Vec<String> {
        report::log(found)
    }

    fn markdown(&self, report: &Report<Self>) -> String {
        report::markdown(&self.examples, report)
    }

    fn summary(&self, report: &Report<Self>) -> Option<String> {
        Some(report::summary(&self.examples, report))
    }

    fn metrics(&self, found: &NearMissStudy) -> Value {
        report::metrics(found)
    }

    fn rows<'a>(&'a self, found: &'a NearMissStudy) -> impl Iterator<Item = Value> + 'a {
        report::rows(self, found)
    }

    fn times(&self, found: &NearMissStudy) -> Value {
        report::times(found)
    }
}

/// Everything found about a scorer.
#[derive(Clone, Debug, Serialize)]
pub struct ScorerReport {
    /// `pooled`, `none`, `f0`, ...
    pub name: String,
    /// Learned parameters beyond the encoder's.
    pub parameters: usize,
    /// Separation, rejection and so on, on the main test set.
    pub evaluation: Evaluation,
    /// The same on further test sets, with their names and the same thresholds.
    pub further: Vec<(&'static str, Evaluation)>,
    /// Angles of near-misses, paraphrases and unrelated sentences, per category; for cosines.
    pub displacement: Vec<(String, Displacement)>,
    /// What fits under the angle that 95 % of the paraphrases keep; for cosines.
    pub cap: Option<Cap>,
    /// Rates by thresholds from other folds, if wanted: of the calibration half and the main test set together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_fitted: Option<Measured<CrossFitted>>,
}

/// Angles in the encoder's training domain to set near-misses beside.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Which triplets were drawn, in this order; written with the pairs.
    #[serde(skip)]
    pub rows: Vec<usize>,
    /// Of each, the cosines of anchor and positive and of anchor and negative.
    #[serde(skip)]
    pub cosines: Vec<[f64; 2]>,
    /// Cosine of anchor and positive.
    pub positives: Summary,
    /// Cosine of anchor and negative.
    pub negatives: Summary,
    /// Difference of the two means.
    pub separation: f64,
    /// Mean cosine of the near-misses less that of these negatives: how much harder near-misses are.
    pub hardness: f64,
}

/// What a near-miss run found.
#[derive(Debug)]
pub struct NearMissStudy {
    /// The scores of the examples' pairs.
    pub scores: PairScores,
    /// One per scorer, `pooled` first.
    pub scorers: Vec<ScorerReport>,
    /// Beside pairs of the training domain, if triplets were given.
    pub comparison: Option<Comparison>,
}

impl NearMissStudy {
    /// Of all scorers on all test sets.
    fn evaluations(&self) -> impl Iterator<Item = &Evaluation> {
        self.scorers.iter().flat_map(|scorer| {
            let further = scorer.further.iter().map(|(_, evaluation)| evaluation);
            [&scorer.evaluation].into_iter().chain(further)
        })
    }

    /// Judges the pairs of every scorer by thresholds from other folds.
    fn cross_fit(&mut self, examples: &Examples, options: &Options, progress: &Progress) {
        let pairs = Divided::new(examples);
        let mut task = progress.task("folds", self.scorers.len());
        for (i, scorer) in self.scorers.iter_mut().enumerate() {
            scorer.cross_fitted = pairs.judged(&self.scores.scores[i], options);
            task.at(i + 1);
        }
        task.finish();
    }
}

/// Near-misses and accepts of the calibration half and the main test set, by the sentences that they share.
pub(super) struct Divided<'a> {
    /// With their places among all.
    items: Vec<(usize, &'a Example)>,
    /// Of each, its group.
    groups: Vec<usize>,
}

impl<'a> Divided<'a> {
    pub fn new(examples: &'a Examples) -> Self {
        // Unrelated sentences would join what has nothing to do with each other.
        let judged = |(_, item): &(usize, &Example)| {
            let kind = item.kind == Kind::NearMiss || item.kind.is_accept();
            kind && (item.split == Split::Calibration || item.part == 0)
        };
        let items = examples.items.iter().enumerate().filter(judged);
        let items: Vec<(usize, &Example)> = items.collect();
        let sentences = items.iter().map(|(_, item)| [&item.anchor[..], &item.text]);
        Divided {
            groups: connected(sentences),
            items,
        }
    }

    /// What thresholds from other folds make of all pairs' `scores`, if folds are wanted; a division that cannot be made is a
    /// refusal.
    pub fn judged(&self, scores: &[f64], options: &Options) -> Option<Measured<CrossFitted>> {
        let folds = Folds {
            count: options.folds?,
            minimum: options.minimum,
            bootstrap: options.bootstrap,
        };
        let pairs = self.items.iter().zip(&self.groups);
        let pairs = pairs.map(|(&(at, item), &group)| Grouped {
            accept: item.kind.is_accept(),
            category: &item.category,
            score: scores[at],
            group,
        });
        let found = cross_fitted(&pairs.collect::<Vec<_>>(), &folds, &ALPHAS);
        Some(match found {
            Ok(found) => Measured::Value(found),
            Err(e) => Measured::Refused {
                refused: e.to_string(),
            },
        })
    }
}

/// Scores `examples` by the encoder's own cosine and by each verifier, and evaluates every scorer.
///
/// # Errors
/// What encoder, verifiers and metrics report; a text that cannot be encoded is quoted.
pub fn near_miss(
    encoder: &Encoder,
    examples: &Examples,
    scorers: &Scorers,
    options: &Options,
    progress: &Progress,
) -> Result<NearMissStudy> {
    let items = &examples.items;
    let pairs: Vec<[&str; 2]> = items.iter().map(|e| [&e.anchor[..], &e.text]).collect();
    let mut study = NearMissStudy {
        scores: score_pairs(encoder, &pairs, scorers, progress)?,
        scorers: Vec::new(),
        comparison: None,
    };
    let verifiers = &scorers.verifiers;
    let blank = unscored(items);
    let mut task = progress.task("scorers", 1 + verifiers.len());
    for (i, name) in study.scores.names.iter().enumerate() {
        let verifier = i.checked_sub(1).map(|i| &verifiers[i]);
        let options = Options {
            cosine: verifier.is_none_or(|v| v.is_cosine()),
            ..*options
        };
        let all = scored(&blank, &study.scores.scores[i]);
        let of_part = |part: usize| of_part(items, &all, part);
        let main = of_part(0);
        let further = examples.parts.iter().enumerate().skip(1);
        let further: Result<Vec<_>> = further
            .map(|(part, &name)| Ok((name, evaluate(&of_part(part), &options)?)))
            .collect();
        study.scorers.push(ScorerReport {
            name: name.clone(),
            parameters: verifier.map_or(0, |v| v.parameters()),
            evaluation: evaluate(&main, &options)?,
            further: further?,
            displacement: if options.cosine {
                displacements(&main)
            } else {
                Vec::new()
            },
            cap: options.cosine.then(|| cap_of(&main)).flatten(),
            cross_fitted: None,
        });
        task.at(i + 1);
    }
    task.finish();
    Ok(study)
}

/// The examples as the metrics take them, with a score of 0.
pub fn unscored(items: &[Example]) -> Vec<ScoredPair<'_>> {
    items
        .par_iter()
        .map(|item| {
            let (edit_size, length) = item.size_and_length();
            ScoredPair {
                anchor: &item.anchor,
                kind: item.kind,
                category: &item.category,
                source: &item.source,
                split: item.split,
                score: 0.0,
                edit_size,
                length,
            }
        })
        .collect()
}

/// The same pairs with the scores of a scorer.
pub fn scored<'a>(pairs: &[ScoredPair<'a>], scores: &[f64]) -> Vec<ScoredPair<'a>> {
    let with_scores = pairs.iter().zip(scores);
    with_scores
        .map(|(pair, &score)| ScoredPair { score, ..*pair })
        .collect()
}

/// The pairs of the calibration half and of one test set.
pub fn of_part<'a>(
    items: &[Example],
    scored: &[ScoredPair<'a>],
    part: usize,
) -> Vec<ScoredPair<'a>> {
    let with_items = items.iter().zip(scored);
    let inside = |item: &Example| item.split == Split::Calibration || item.part == part;
    with_items
        .filter(|(item, _)| inside(item))
        .map(|(_, pair)| *pair)
        .collect()
}

/// Cosines of the pairs that `keep` admits.
fn cosines(scored: &[ScoredPair<'_>], keep: impl Fn(&ScoredPair<'_>) -> bool) -> Vec<f64> {
    let kept = scored.iter().filter(|pair| keep(pair));
    kept.map(|pair| pair.score).collect()
}

/// How far near-misses of each category, then of all, lie from their anchors beside paraphrases and unrelated sentences.
fn displacements(scored: &[ScoredPair<'_>]) -> Vec<(String, Displacement)> {
    let near_misses = |pair: &&ScoredPair<'_>| pair.kind == Kind::NearMiss;
    let categories: BTreeSet<&str> = scored
        .iter()
        .filter(near_misses)
        .map(|p| p.category)
        .collect();
    let unrelated = cosines(scored, |pair| pair.kind == Kind::Unrelated);
    let all = [None].into_iter();
    all.chain(categories.into_iter().map(Some))
        .filter_map(|category| {
            let inside = |pair: &ScoredPair<'_>| category.is_none_or(|c| pair.category == c);
            let near = cosines(scored, |pair| pair.kind == Kind::NearMiss && inside(pair));
            let anchors: BTreeSet<&str> = scored
                .iter()
                .filter(|pair| pair.kind == Kind::NearMiss && inside(pair))
                .map(|pair| pair.anchor)
                .collect();
            let own = |pair: &ScoredPair<'_>| {
                pair.kind == Kind::Paraphrase && anchors.contains(pair.anchor)
            };
            let mut paraphrases = cosines(scored, own);
            if paraphrases.is_empty() {
                paraphrases = cosines(scored, |pair| pair.kind == Kind::Paraphrase);
            }
            let name = category.unwrap_or("all").to_string();
            Some((name, displacement(&near, &paraphrases, &unrelated)?))
        })
        .collect()
}

fn cap_of(scored: &[ScoredPair<'_>]) -> Option<Cap> {
    let of = |kind| cosines(scored, move |pair| pair.kind == kind);
    cap(&of(Kind::Paraphrase), &of(Kind::NearMiss))
}

/// Sets triplets beside near-misses whose mean cosine is known.
///
/// # Errors
/// What the encoder reports; a text that cannot be encoded is quoted.
pub fn compare_triplets(
    encoder: &Encoder,
    triplets: &Triplets,
    near_miss_mean: f64,
    progress: &Progress,
) -> Result<Comparison> {
    let mut order: Vec<usize> = (0..triplets.all.len()).collect();
    Stream::new(triplets.seed, &["triplets"], 0).shuffle(&mut order);
    order.truncate(triplets.sample);
    let texts: Vec<&str> = order
        .iter()
        .flat_map(|&i| {
            let Triplet {
                anchor,
                positive,
                negative,
                ..
            } = &triplets.all[i];
            [anchor.as_str(), positive, negative]
        })
        .collect();
    let d = encoder.width();
    let mut rows = Vec::with_capacity(texts.len() * d);
    let mut task = progress.task("triplets", texts.len());
    let keep = |_, part: &[f32]| {
        rows.extend_from_slice(part);
        Ok(())
    };
    encoder
        .encode(&texts, TextKind::Plain, keep, |done, _| task.at(done))
        .map_err(|e| e.quoting_text(&texts))?;
    task.finish();
    let of_triplet = |triplet: &[f32]| {
        let (anchor, others) = triplet.split_at(d);
        let (positive, negative) = others.split_at(d);
        [cosine(anchor, positive), cosine(anchor, negative)]
    };
    let cosines: Vec<[f64; 2]> = rows.chunks_exact(3 * d).map(of_triplet).collect();
    let side = |side: usize| -> Vec<f64> { cosines.iter().map(|both| both[side]).collect() };
    let (positives, negatives) = (Summary::of(&side(0)), Summary::of(&side(1)));
    Ok(Comparison {
        rows: order,
        cosines,
        positives,
        negatives,
        separation: positives.mean - negatives.mean,
        hardness: near_miss_mean - negatives.mean,
    })
}
