//! Which scorers tell near-misses from paraphrases, and by how much.

mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use report::{NearMissConfig, markdown, metrics_json, notes, save};

use super::explain::cosine;
use super::progress::Reporter;
use crate::data::edits::{self, EditSet, VariantKind};
use crate::data::pairs::{Filter, Triplet, read_near_misses, read_paraphrases};
use crate::encoder::{EncodeStats, Encoder};
use crate::error::{Error, Result};
use crate::metrics::edits::{word_distance, words};
use crate::metrics::geometry::{Cap, Displacement, cap, displacement};
use crate::metrics::near_miss::{Evaluation, Kind, Options, ScoredPair, Split, evaluate};
use crate::metrics::statistics::Summary;
use crate::random::Stream;
use crate::score::{TokenIndex, TokenVectors, Verifier};
use crate::text::TextKind;

/// Bytes of token vectors held at a time at most; more pairs than that are scored in turns.
const TOKEN_BYTES: usize = 1 << 31;

/// Pairs of unrelated sentences that angles are set in relation to.
const UNRELATED: usize = 2_000;

/// Name of the encoder's own score.
pub const POOLED: &str = "pooled";

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
                let kind = match variant.kind {
                    VariantKind::NearMiss => Kind::NearMiss,
                    VariantKind::Paraphrase => Kind::Paraphrase,
                    VariantKind::Synonym => Kind::Synonym,
                    VariantKind::Function => Kind::Function,
                    VariantKind::Identity => Kind::Identity,
                    VariantKind::Unrelated => Kind::Unrelated,
                };
                let category = match kind {
                    Kind::NearMiss => anchor.category.to_string(),
                    _ => String::new(),
                };
                items.push(Example {
                    anchor: anchor.text.clone(),
                    text: variant.text.clone(),
                    kind,
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
    /// One score per pair and scorer, `[scorers][pairs]`.
    pub scores: Vec<Vec<f64>>,
    /// One per scorer, `pooled` first.
    pub scorers: Vec<ScorerReport>,
    /// What the encoder did with the distinct texts.
    pub texts: EncodeStats,
    /// Time of encoding.
    pub encoding: Duration,
    /// Time of scoring, one per verifier.
    pub scoring: Vec<Duration>,
    /// Beside pairs of the training domain, if triplets were given.
    pub comparison: Option<Comparison>,
}

/// Scores `examples` by the encoder's own cosine and by each of `verifiers`, which see at most `max_length` tokens, and
/// evaluates every scorer.
///
/// A text is encoded once however many pairs it is in, as long as the token vectors of all texts fit two GiB.
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
    let mut study = NearMissStudy {
        scores: vec![vec![0.0; items.len()]; 1 + verifiers.len()],
        scorers: Vec::new(),
        texts: EncodeStats::default(),
        encoding: Duration::ZERO,
        scoring: vec![Duration::ZERO; verifiers.len()],
        comparison: None,
    };
    let at_once = TOKEN_BYTES / (2 * encoder.width() * max_length);
    // Pairs of one anchor stand together, so that turns share few texts.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|&a, &b| items[a].anchor.cmp(&items[b].anchor));
    let mut task = reporter.task("pairs", items.len());
    let mut done = 0;
    while done < order.len() {
        let mut places: HashMap<&str, u32> = HashMap::new();
        let mut texts: Vec<&str> = Vec::new();
        let mut pairs: Vec<[u32; 2]> = Vec::new();
        for &at in &order[done..] {
            if texts.len() + 2 > at_once.max(2) {
                break;
            }
            pairs.push([&items[at].anchor, &items[at].text].map(|text| {
                *places.entry(text).or_insert_with(|| {
                    texts.push(text);
                    texts.len() as u32 - 1
                })
            }));
        }
        let these = &order[done..done + pairs.len()];
        let ended = |texts: usize, of: usize| done + pairs.len() * texts / of.max(1);
        let n = texts.len();
        score_turn(
            encoder,
            &texts,
            &pairs,
            verifiers,
            max_length,
            &mut study,
            these,
            |encoded| task.at(ended(encoded, n)),
        )?;
        done += pairs.len();
    }
    task.finish();
    let mut task = reporter.task("scorers", 1 + verifiers.len());
    let names = [POOLED.to_string()].into_iter();
    for (i, name) in names.chain(verifiers.iter().map(|v| v.name())).enumerate() {
        let verifier = i.checked_sub(1).map(|i| &verifiers[i]);
        let options = Options {
            cosine: verifier.is_none_or(|v| v.is_cosine()),
            ..*options
        };
        let all = scored(items, &study.scores[i]);
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
            name,
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

/// Encodes some texts and scores pairs of them, `pairs[i]` being example `these[i]`.
#[allow(clippy::too_many_arguments)]
fn score_turn(
    encoder: &Encoder,
    texts: &[&str],
    pairs: &[[u32; 2]],
    verifiers: &[Box<dyn Verifier>],
    max_length: usize,
    study: &mut NearMissStudy,
    these: &[usize],
    mut progress: impl FnMut(usize),
) -> Result<()> {
    let start = Instant::now();
    let d = encoder.width();
    let limit = max_length.min(encoder.tokenizer().max_length());
    let mut pooled: Vec<f32> = Vec::with_capacity(texts.len() * d);
    let mut pieces: Vec<TokenVectors> = Vec::new();
    let quoted = |e: Error| match e {
        Error::Invalid(message) => {
            let number = message.split(' ').nth(1).and_then(|n| n.parse().ok());
            match number.and_then(|n: usize| texts.get(n)) {
                Some(text) => Error::Invalid(format!("{message} (it reads {text:?})")),
                None => Error::Invalid(message),
            }
        }
        other => other,
    };
    let stats = encoder
        .encode_tokens(
            texts,
            TextKind::Plain,
            Some(limit),
            |_, vectors, rows| {
                pooled.extend_from_slice(rows);
                pieces.push(vectors);
                Ok(())
            },
            |done, _| progress(done),
        )
        .map_err(quoted)?;
    study.texts.texts += stats.texts;
    study.texts.tokens += stats.tokens;
    study.texts.truncated += stats.truncated;
    study.texts.empty += stats.empty;
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
        let long: Vec<&str> = cut.iter().map(|&i| texts[i]).collect();
        let rows = encoder.embed(&long, TextKind::Plain).map_err(quoted)?;
        for (row, i) in rows.chunks_exact(d).zip(cut) {
            pooled[i * d..][..d].copy_from_slice(row);
        }
    }
    study.encoding += start.elapsed();

    let row = |i: u32| &pooled[i as usize * d..][..d];
    for (&[a, b], &at) in pairs.iter().zip(these) {
        study.scores[0][at] = cosine(row(a), row(b));
    }
    let mut index = TokenIndex::new(encoder.device(), d);
    for piece in pieces {
        index.append(piece)?;
    }
    for (v, verifier) in verifiers.iter().enumerate() {
        let start = Instant::now();
        let found = index.score_within(&**verifier, pairs)?;
        study.scoring[v] += start.elapsed();
        for (score, &at) in found.into_iter().zip(these) {
            study.scores[v + 1][at] = f64::from(score);
        }
    }
    Ok(())
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
/// What the encoder reports.
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
    encoder.encode(
        &texts,
        TextKind::Plain,
        |_, part| {
            rows.extend_from_slice(part);
            Ok(())
        },
        |done, _| task.at(done),
    )?;
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
