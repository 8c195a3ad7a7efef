//! Which scorers tell near-misses from paraphrases, and by how much.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

pub use report::{NearMissConfig, markdown, metrics_json, notes, save, summary};

use super::explain::cosine;
use super::pair_scores::{PairScores, score_pairs};
use super::progress::Reporter;
use crate::data::edits::{self, EditSet};
use crate::data::pairs::{Filter, Triplet, read_near_misses, read_paraphrases};
use crate::encoder::Encoder;
use crate::error::Result;
use crate::metrics::edits::{word_distance, words};
use crate::metrics::geometry::{Cap, Displacement, cap, displacement};
use crate::metrics::near_miss::{Evaluation, Kind, Options, ScoredPair, Split, evaluate};
use crate::metrics::statistics::Summary;
use crate::random::Stream;
use crate::text::TextKind;
use crate::verifier::Verifier;

/// Pairs of unrelated sentences that angles are set in relation to.
const UNRELATED: usize = 2_000;

/// A pair to be scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    /// The sentence that counts as given.
    pub anchor: String,
    /// The other one.
    pub text: String,
    /// What it is to the anchor.
    pub kind: Kind,
    /// Category of a near-miss; empty for other kinds.
    pub category: String,
    /// Where it comes from.
    pub source: String,
    /// Half of the anchor.
    pub split: Split,
    /// Which of [`Examples::parts`] it belongs to, if it is of the test half.
    pub part: usize,
}

/// Pairs to be scored, under the name of a set.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// Name of the set.
    pub name: String,
    /// The pairs.
    pub items: Vec<Example>,
    /// Names of the test sets that share the calibration half; the first is the main one.
    pub parts: Vec<&'static str>,
    /// What was left out of the files, or is odd in them.
    pub notes: Vec<String>,
}

impl Examples {
    /// Near-misses and paraphrases from CSV files (see [`crate::data::pairs`]); the halves come from the anchors' text.
    /// Unrelated pairs are added: anchors set beside other anchors, at most 2,000.
    ///
    /// # Errors
    /// As [`read_near_misses`].
    pub fn from_files(
        pairs: &Path,
        paraphrases: Option<&Path>,
        filter: Filter,
        seed: u64,
    ) -> Result<Self> {
        let (near_misses, notes) = read_near_misses(pairs, filter)?;
        let mut examples = Examples {
            name: stem(pairs),
            notes: notes.lines("near-misses"),
            items: Vec::new(),
            parts: vec!["test"],
        };
        for pair in near_misses {
            examples.items.push(Example {
                split: Split::of_anchor(&pair.anchor),
                category: pair.category.to_string(),
                kind: Kind::NearMiss,
                anchor: pair.anchor,
                text: pair.text,
                source: pair.source,
                part: 0,
            });
        }
        examples.add_unrelated(seed);
        if let Some(path) = paraphrases {
            let (paraphrases, notes) = read_paraphrases(path)?;
            examples.notes.extend(notes.lines("paraphrases"));
            for pair in paraphrases {
                examples.items.push(Example {
                    split: Split::of_anchor(&pair.anchor),
                    category: String::new(),
                    kind: Kind::Paraphrase,
                    anchor: pair.anchor,
                    text: pair.text,
                    source: pair.source,
                    part: 0,
                });
            }
        }
        Ok(examples)
    }

    /// The built-in edit set: its calibration split, and those of its test splits that it has.
    pub fn from_edits(set: &EditSet) -> Self {
        use edits::Split as From;
        const TESTS: [(From, &str); 3] = [
            (From::Test, "test"),
            (From::TestTemplates, "unseen templates"),
            (From::TestWords, "unseen words"),
        ];
        let has = |split| set.anchors.iter().any(|anchor| anchor.split == split);
        let tests: Vec<_> = TESTS.into_iter().filter(|(split, _)| has(*split)).collect();
        let mut items = Vec::new();
        for anchor in &set.anchors {
            let part = tests.iter().position(|(split, _)| *split == anchor.split);
            let split = match (anchor.split, part) {
                (From::Calibration, _) => Split::Calibration,
                (_, Some(_)) => Split::Test,
                _ => continue,
            };
            for variant in &anchor.variants {
                let category = match variant.kind {
                    Kind::NearMiss => anchor.category.to_string(),
                    _ => String::new(),
                };
                items.push(Example {
                    anchor: anchor.text.clone(),
                    text: variant.text.clone(),
                    kind: variant.kind,
                    category,
                    source: anchor.domain.to_string(),
                    split,
                    part: part.unwrap_or(0),
                });
            }
        }
        Examples {
            name: "edits".into(),
            items,
            parts: tests.into_iter().map(|(_, name)| name).collect(),
            notes: vec![
                "written by a grammar: shows how scorers differ on structure, and is no evidence about natural text"
                    .into(),
            ],
        }
    }

    /// The pairs of paraphrases.
    pub fn paraphrases(&self) -> Vec<[&str; 2]> {
        let kept = self.items.iter().filter(|e| e.kind == Kind::Paraphrase);
        kept.map(|e| [&e.anchor[..], &e.text]).collect()
    }

    /// Sets anchors beside other anchors in random order.
    fn add_unrelated(&mut self, seed: u64) {
        let distinct: BTreeSet<(&str, &str)> = self
            .items
            .iter()
            .map(|item| (item.anchor.as_str(), item.source.as_str()))
            .collect();
        let mut anchors: Vec<(String, String)> = distinct
            .into_iter()
            .map(|(anchor, source)| (anchor.to_string(), source.to_string()))
            .collect();
        Stream::new(seed, &["unrelated"], 0).shuffle(&mut anchors);
        let others = anchors[1.min(anchors.len())..].iter();
        for ((anchor, source), (other, _)) in anchors.iter().zip(others).take(UNRELATED) {
            if anchor == other {
                continue;
            }
            self.items.push(Example {
                anchor: anchor.clone(),
                text: other.clone(),
                kind: Kind::Unrelated,
                category: String::new(),
                source: source.clone(),
                split: Split::of_anchor(anchor),
                part: 0,
            });
        }
    }
}

/// The name of a file without folders and endings.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".gz").trim_end_matches(".csv");
    name.to_string()
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
}

/// Angles in the encoder's training domain to set near-misses beside.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparison {
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

/// Scores `examples` by the encoder's own cosine and by each of `verifiers`, which see at most `max_length` tokens, and
/// evaluates every scorer.
///
/// # Errors
/// What encoder, verifiers and metrics report; a text that cannot be encoded is quoted.
pub fn near_miss(
    encoder: &Encoder,
    examples: &Examples,
    verifiers: &[Box<dyn Verifier>],
    max_length: usize,
    options: &Options,
    reporter: &Reporter,
) -> Result<NearMissStudy> {
    let items = &examples.items;
    let pairs: Vec<[&str; 2]> = items.iter().map(|e| [&e.anchor[..], &e.text]).collect();
    let mut study = NearMissStudy {
        scores: score_pairs(encoder, &pairs, verifiers, max_length, reporter)?,
        scorers: Vec::new(),
        comparison: None,
    };
    let mut task = reporter.task("scorers", 1 + verifiers.len());
    for (i, name) in study.scores.names.iter().enumerate() {
        let verifier = i.checked_sub(1).map(|i| &verifiers[i]);
        let options = Options {
            cosine: verifier.is_none_or(|v| v.is_cosine()),
            ..*options
        };
        let all = scored(items, &study.scores.scores[i]);
        let of_part = |part: usize| -> Vec<ScoredPair<'_>> {
            let with_items = items.iter().zip(&all);
            let inside = |item: &Example| item.split == Split::Calibration || item.part == part;
            with_items
                .filter(|(item, _)| inside(item))
                .map(|(_, pair)| *pair)
                .collect()
        };
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
        });
        task.at(i + 1);
    }
    task.finish();
    Ok(study)
}

/// The examples as the metrics take them.
pub fn scored<'a>(items: &'a [Example], scores: &[f64]) -> Vec<ScoredPair<'a>> {
    let with_scores = items.iter().zip(scores);
    with_scores
        .map(|(item, &score)| {
            let (before, after) = (words(&item.anchor), words(&item.text));
            ScoredPair {
                anchor: &item.anchor,
                kind: item.kind,
                category: &item.category,
                source: &item.source,
                split: item.split,
                score,
                edit_size: word_distance(&before, &after),
                length: before.len(),
            }
        })
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

/// Sets `triplets` (at most `sample` of them, drawn by `seed`) beside near-misses whose mean cosine is known.
///
/// # Errors
/// What the encoder reports; a text that cannot be encoded is quoted.
pub fn compare_triplets(
    encoder: &Encoder,
    triplets: &[Triplet],
    sample: usize,
    seed: u64,
    near_miss_mean: f64,
    reporter: &Reporter,
) -> Result<Comparison> {
    let mut order: Vec<usize> = (0..triplets.len()).collect();
    Stream::new(seed, &["triplets"], 0).shuffle(&mut order);
    order.truncate(sample);
    let texts: Vec<&str> = order
        .iter()
        .flat_map(|&i| {
            let Triplet {
                anchor,
                positive,
                negative,
                ..
            } = &triplets[i];
            [anchor.as_str(), positive, negative]
        })
        .collect();
    let d = encoder.width();
    let mut rows = Vec::with_capacity(texts.len() * d);
    let mut task = reporter.task("triplets", texts.len());
    let keep = |_, part: &[f32]| {
        rows.extend_from_slice(part);
        Ok(())
    };
    encoder
        .encode(&texts, TextKind::Plain, keep, |done, _| task.at(done))
        .map_err(|e| e.quoting_text(&texts))?;
    task.finish();
    let (mut positives, mut negatives) = (Vec::new(), Vec::new());
    for triplet in rows.chunks_exact(3 * d) {
        let (anchor, others) = triplet.split_at(d);
        let (positive, negative) = others.split_at(d);
        positives.push(cosine(anchor, positive));
        negatives.push(cosine(anchor, negative));
    }
    let (positives, negatives) = (Summary::of(&positives), Summary::of(&negatives));
    Ok(Comparison {
        positives,
        negatives,
        separation: positives.mean - negatives.mean,
        hardness: near_miss_mean - negatives.mean,
    })
}

/// Counts of kinds, for a line of log.
pub fn counts(items: &[Example]) -> String {
    let mut by_kind: BTreeMap<Kind, usize> = BTreeMap::new();
    for item in items {
        *by_kind.entry(item.kind).or_default() += 1;
    }
    let named = by_kind.iter().map(|(kind, n)| {
        let name = match kind {
            Kind::NearMiss => "near-misses",
            Kind::Paraphrase => "paraphrases",
            Kind::Synonym => "synonym controls",
            Kind::Function => "function-word controls",
            Kind::Identity => "identities",
            Kind::Unrelated => "unrelated pairs",
        };
        format!("{n} {name}")
    });
    named.collect::<Vec<_>>().join(", ")
}
