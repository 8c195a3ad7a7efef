//! How well scores tell near-misses from sentences that say the same.
//!
//! An *anchor* is a sentence; its *near-misses* look like it and mean something else, its *accepts* (paraphrases, and
//! controls with a synonym or a changed function word) mean the same. A scorer is to accept the latter and reject the
//! former. [`evaluate`] reports, per category of near-miss and over all:
//!
//! | | |
//! | --- | --- |
//! | margin | `s(a, p) - s(a, n)`: mean, median, 5th percentile, share at or below 0 |
//! | AUC, AP, EER, d' | of accepts against near-misses, see [`statistics`](super::statistics) |
//! | anchor accuracy | share of near-misses that score below the accepts of their own anchor |
//! | rejection | share of near-misses below the threshold that lets in 90, 95 or 99 % of the accepts |
//! | fixed points | what a semantic cache with a threshold of 0.85, 0.90 or 0.95 would let in and keep out |
//!
//! **Thresholds are chosen on one half of the anchors and judged on the other** ([`Split`]); everything but the plain
//! summaries is computed on the test half. **Numbers that would rest on too few pairs are refused**, with the reason
//! ([`Measured`]); what needs no threshold is then computed over both halves ([`BothHalves`]), and [`cross_fitted`] judges
//! every pair by thresholds from other groups of sentences. Accepts of a category are those of its own anchors; where there
//! are too few, those of the same sources, then all: [`Basis`] says which, and how many near-misses have no accept from
//! their source, since a difference between sources is then part of the number.
//!
//! Intervals are 95 % bootstrap intervals over anchors; the threshold is held fixed in them. Where there are so many
//! categories that their samples would take too long, fewer are drawn ([`MOST_WORK`]), and [`Evaluation::resamples`] says so.

mod change;
mod folds;
mod hard;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use change::{Change, compare, compare_runs};
pub use folds::{CategoryRates, CrossFitted, CrossPoint, Folds, Grouped, cross_fitted};
pub use hard::{Hard, hard};

use super::edits::{Edit, Sensitivity, sensitivity};
use super::statistics::{
    Bootstrap, Ranking, Summary, average_precision, d_prime, degrees, equal_error_rate, median,
    quantile, share_at_least, threshold,
};
use crate::error::{Error, Result};

/// True-accept rates at which rejection is reported.
pub const ALPHAS: [f64; 3] = [0.90, 0.95, 0.99];

/// Fixed thresholds on a cosine.
pub const FIXED: [f64; 3] = [0.85, 0.90, 0.95];

/// Lower edges of the histogram's bins; the last ends at 1.01, so that 1 and its rounding errors are inside.
pub const BINS: [f64; 5] = [0.0, 0.5, 0.7, 0.85, 0.95];

/// What a pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Another meaning.
    NearMiss,
    /// The same meaning in another form.
    Paraphrase,
    /// The same meaning with one word replaced by a synonym.
    Synonym,
    /// The same meaning with a function word, a contraction or punctuation changed.
    Function,
    /// The anchor itself.
    Identity,
    /// A sentence about something else.
    Unrelated,
}

impl Kind {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Kind::NearMiss => "near_miss",
            Kind::Paraphrase => "paraphrase",
            Kind::Synonym => "synonym",
            Kind::Function => "function",
            Kind::Identity => "identity",
            Kind::Unrelated => "unrelated",
        }
    }

    /// Whether a scorer ought to accept it and is calibrated on it.
    pub fn is_accept(self) -> bool {
        matches!(self, Kind::Paraphrase | Kind::Synonym | Kind::Function)
    }
}

/// Which half of the anchors a pair belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Thresholds are chosen here.
    Calibration,
    /// Everything is judged here.
    Test,
}

impl Split {
    /// The half of an anchor, from the parity of the SHA-256 of its text: the same for every file, order and machine.
    pub fn of_anchor(anchor: &str) -> Self {
        match Sha256::digest(anchor.trim().as_bytes())[0] & 1 {
            0 => Split::Calibration,
            _ => Split::Test,
        }
    }
}

/// A pair with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredPair<'a> {
    /// The sentence that counts as given.
    pub anchor: &'a str,
    /// What the other one is to it.
    pub kind: Kind,
    /// Category of a near-miss; empty for other kinds.
    pub category: &'a str,
    /// Where the pair comes from; empty if that is not known, and then nothing is said by source.
    pub source: &'a str,
    /// Half of the anchor.
    pub split: Split,
    /// What the scorer says.
    pub score: f64,
    /// Word-level distance of the two sentences.
    pub edit_size: usize,
    /// Words of the anchor.
    pub length: usize,
}

/// How [`evaluate`] works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Whether scores are cosines, so that angles and fixed thresholds make sense.
    pub cosine: bool,
    /// Fewest near-misses and accepts that a rate may rest on, and fewest accepts for a threshold.
    pub minimum: usize,
    /// Samples for intervals.
    pub bootstrap: Bootstrap,
    /// Thresholds taken from elsewhere, one per [`ALPHAS`], in place of calibrated ones.
    pub transferred: Option<[f64; ALPHAS.len()]>,
    /// Folds of who judges by [`cross_fitted`] besides; [`evaluate`] knows no second sentence to divide pairs by.
    pub folds: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            cosine: true,
            minimum: 30,
            bootstrap: Bootstrap::default(),
            transferred: None,
            folds: None,
        }
    }
}

/// A number, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Measured<T> {
    /// It.
    Value(T),
    /// What is missing.
    Refused {
        /// One line.
        refused: String,
    },
}

impl<T> Measured<T> {
    /// The number, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Measured::Value(value) => Some(value),
            Measured::Refused { .. } => None,
        }
    }
}

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Of the pairs as they are.
    pub value: f64,
    /// Bootstrap interval over anchors.
    pub interval: Option<[f64; 2]>,
}

/// Whose accepts a category is judged against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Those of the category's own anchors.
    SameAnchors,
    /// Those of other anchors from the same sources.
    SameSources,
    /// Those of all sources.
    AllSources,
}

/// Margins between an anchor's accepts and its near-misses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Margins {
    /// Near-misses whose anchor has an accept.
    pub n: usize,
    /// Mean margin.
    pub mean: Estimate,
    /// Median margin.
    pub median: f64,
    /// 5th percentile.
    pub p05: f64,
    /// Share of margins at or below 0: the anchor's accepts score no higher than the near-miss.
    pub triplet_error: f64,
    /// Mean of `angle(a, n) - angle(a, p)` in degrees, for cosines.
    pub degrees: Option<f64>,
}

/// What a threshold does on the test half.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// The true-accept rate that was asked for.
    pub alpha: f64,
    /// The threshold that gave it on the calibration half.
    pub threshold: f64,
    /// Share of the test half's accepts that it lets in.
    pub true_accept: f64,
    /// Share of the test half's near-misses that it keeps out.
    pub rejection: Estimate,
}

/// What a threshold given beforehand does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FixedPoint {
    /// The threshold.
    pub threshold: f64,
    /// Share of near-misses let in.
    pub false_accept: f64,
    /// Share of accepts kept out.
    pub false_reject: f64,
}

/// How far accepts and near-misses of the test half lie apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Separation {
    /// Near-misses of the test half.
    pub near_misses: usize,
    /// Accepts of the test half.
    pub accepts: usize,
    /// Anchors of both together.
    pub anchors: usize,
    /// Area under the ROC curve.
    pub auc: Estimate,
    /// Average precision, accepts being the positives.
    pub average_precision: f64,
    /// Equal error rate.
    pub equal_error_rate: f64,
    /// Difference of means over spread.
    pub d_prime: Option<f64>,
    /// Margins, if any anchor has both.
    pub margins: Option<Margins>,
    /// Share of the near-misses with margins that score below the mean of their anchor's accepts.
    pub anchor_accuracy: Option<f64>,
    /// Rejection at fixed true-accept rates.
    pub rejection: Measured<Vec<OperatingPoint>>,
    /// The same with thresholds calibrated without the anchors of this category.
    pub rejection_left_out: Measured<Vec<OperatingPoint>>,
    /// What fixed thresholds do, for cosines.
    pub fixed: Option<[FixedPoint; FIXED.len()]>,
}

/// How far accepts and near-misses of both halves lie apart, where one half has too few for rates: what needs no threshold
/// needs no second half either.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BothHalves {
    /// Near-misses.
    pub near_misses: usize,
    /// Accepts.
    pub accepts: usize,
    /// Anchors of both together.
    pub anchors: usize,
    /// Area under the ROC curve.
    pub auc: Estimate,
    /// Equal error rate.
    pub equal_error_rate: Estimate,
}

/// Fewest of either side for [`BothHalves`]: below that a single pair moves the area by more than a tenth.
pub const FEWEST_OF_BOTH: usize = 10;

/// The most that the bootstrap of an evaluation may take, in pairs looked at and anchors drawn, over all samples of all
/// categories. Every category without accepts of its own anchors is judged against all accepts
/// in every sample, so that thousands of categories would take hours.
pub const MOST_WORK: u64 = 20_000_000_000;

/// The fewest samples to which [`MOST_WORK`] limits an evaluation: with fewer, the ends of an interval rest on too little.
pub const FEWEST_RESAMPLES: usize = 1_000;

/// How many samples of `work` each an evaluation takes, if so many are wanted: all, or as many as [`MOST_WORK`] allows, but
/// no fewer than [`FEWEST_RESAMPLES`].
pub fn affordable(wanted: usize, work: u64) -> usize {
    let most = usize::try_from(MOST_WORK / work.max(1)).unwrap_or(usize::MAX);
    wanted.min(most.max(FEWEST_RESAMPLES))
}

/// Shares of scores in [`BINS`], and outside.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Below 0.
    pub below_zero: f64,
    /// In each bin.
    pub shares: [f64; BINS.len()],
    /// At 1.01 or above, as scores that are no cosines can be.
    pub above: f64,
}

/// Everything about one category.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CategoryReport {
    /// Its name; `all` for all near-misses together, weighted by their counts.
    pub category: String,
    /// Scores of all its near-misses, both halves.
    pub near_misses: Summary,
    /// Scores of the accepts that it is judged against, both halves.
    pub accepts: Summary,
    /// Mean of `1 - s(a, n)`: what the margin would be if an anchor were its own paraphrase, for cosines.
    pub identity_margin: Option<f64>,
    /// Whose accepts these are.
    pub basis: Basis,
    /// Near-misses of the test half (of both, if numbers are of both) from sources without any accept there.
    pub without_accepts_of_their_source: usize,
    /// Where the near-misses' scores lie.
    pub histogram: Histogram,
    /// How far the two lie apart.
    pub separation: Measured<Separation>,
    /// The same without a threshold over both halves, where the test half has too few for [`CategoryReport::separation`].
    pub both_halves: Option<BothHalves>,
    /// How the score moves with the edit, for cosines.
    pub sensitivity: Option<Sensitivity>,
}

impl CategoryReport {
    /// The area under the ROC curve with near-misses and accepts that it rests on: of the test half, or of both where that is
    /// too small.
    pub fn auc(&self) -> Option<(Estimate, [usize; 2])> {
        match (self.separation.value(), &self.both_halves) {
            (Some(found), _) => Some((found.auc, [found.near_misses, found.accepts])),
            (None, Some(found)) => Some((found.auc, [found.near_misses, found.accepts])),
            (None, None) => None,
        }
    }
}

/// Means over categories, each counting the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MacroAverage {
    /// Categories that have a value.
    pub categories: usize,
    /// Mean of the near-misses' mean scores, over all categories.
    pub near_miss_mean: f64,
    /// Mean area under the ROC curve.
    pub auc: Option<f64>,
    /// Mean of mean margins.
    pub margin: Option<f64>,
    /// Mean rejection, one per [`ALPHAS`].
    pub rejection: [Option<f64>; ALPHAS.len()],
}

/// Counts of a source, and what can be said of it alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// Its name.
    pub source: String,
    /// Near-misses, calibration and test half.
    pub near_misses: [usize; 2],
    /// Accepts, calibration and test half.
    pub accepts: [usize; 2],
    /// Area under the ROC curve of its own accepts and near-misses in the test half.
    pub auc: Measured<f64>,
    /// Share of its near-misses in the test half below the common 95 % threshold.
    pub rejection_95: Measured<f64>,
}

/// What [`evaluate`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// One per [`ALPHAS`], from the accepts of the calibration half, or as given.
    pub thresholds: Measured<[f64; ALPHAS.len()]>,
    /// In the order of their names.
    pub categories: Vec<CategoryReport>,
    /// All near-misses together.
    pub all: CategoryReport,
    /// Means over categories.
    pub macro_average: MacroAverage,
    /// In the order of their names; none if no pair has a source.
    pub sources: Vec<SourceReport>,
    /// Samples that intervals rest on, if these are fewer than were wanted: what [`affordable`] says of a sample's work, which
    /// is, summed over `all` and the categories, the near-misses, accepts and anchors that an interval counts in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resamples: Option<usize>,
}

/// Evaluates scored pairs.
///
/// # Errors
/// [`Error::Invalid`] if there is no near-miss, or naming a pair whose score is not finite.
pub fn evaluate(pairs: &[ScoredPair<'_>], options: &Options) -> Result<Evaluation> {
    check(pairs)?;
    let study = Study::new(pairs, options);
    let thresholds = study.thresholds(|_| true);
    let bootstrap = study.bootstrap(|group| group.work());
    let all = study.report(None, &thresholds, bootstrap);
    let categories: Vec<CategoryReport> = study
        .categories()
        .into_par_iter()
        .map(|category| study.report(Some(category), &thresholds, bootstrap))
        .collect();
    Ok(Evaluation {
        macro_average: macro_average(&categories),
        sources: study.sources(&thresholds),
        resamples: fewer(bootstrap, options),
        thresholds,
        categories,
        all,
    })
}

/// How many samples are drawn, if these are fewer than were wanted.
fn fewer(bootstrap: Bootstrap, options: &Options) -> Option<usize> {
    (bootstrap.resamples < options.bootstrap.resamples).then_some(bootstrap.resamples)
}

fn check(pairs: &[ScoredPair<'_>]) -> Result<()> {
    if let Some(pair) = pairs.iter().find(|pair| !pair.score.is_finite()) {
        return Err(Error::Invalid(format!(
            "the score of a pair of {:?} from {} is {}; scores must be finite",
            pair.anchor, pair.source, pair.score
        )));
    }
    if !pairs.iter().any(|pair| pair.kind == Kind::NearMiss) {
        return Err(Error::Invalid(
            "there is no near-miss among the pairs; give some".into(),
        ));
    }
    Ok(())
}

/// Places of pairs by what `key` says of them.
fn places<'a>(
    pairs: &[ScoredPair<'a>],
    key: impl Fn(&ScoredPair<'a>) -> &'a str,
) -> BTreeMap<&'a str, Vec<usize>> {
    let mut of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, pair) in pairs.iter().enumerate() {
        of.entry(key(pair)).or_default().push(place);
    }
    of
}

/// The pairs of an evaluation, by what they are.
struct Study<'a> {
    options: &'a Options,
    near_misses: Vec<ScoredPair<'a>>,
    accepts: Vec<ScoredPair<'a>>,
    /// Places of near-misses; there may be thousands of categories, and each asks for its own.
    of_category: BTreeMap<&'a str, Vec<usize>>,
    /// Places of accepts.
    of_anchor: BTreeMap<&'a str, Vec<usize>>,
    of_source: BTreeMap<&'a str, Vec<usize>>,
}

/// The accepts that near-misses are judged against.
struct Accepts<'s, 'a> {
    pairs: Cow<'s, [ScoredPair<'a>]>,
    basis: Basis,
}

/// What a sample of a group of near-misses and their accepts goes through.
#[derive(Clone, Copy, Default)]
struct Sizes {
    pairs: u64,
    anchors: u64,
    /// Whether the test half alone is judged.
    rates: bool,
}

impl Sizes {
    fn of<'a>(pairs: impl Iterator<Item = &'a ScoredPair<'a>>, rates: bool) -> Self {
        let anchors: Vec<&str> = pairs.map(|pair| pair.anchor).collect();
        Sizes {
            pairs: anchors.len() as u64,
            anchors: anchors.iter().collect::<HashSet<_>>().len() as u64,
            rates,
        }
    }

    fn work(self) -> u64 {
        self.pairs + self.anchors
    }
}

/// Places of the numbers that intervals are wanted of.
const AUC: usize = 0;
const MARGIN: usize = 1;
const REJECTION: usize = 2;
const NUMBERS: usize = REJECTION + ALPHAS.len();

impl<'a> Study<'a> {
    fn new(pairs: &[ScoredPair<'a>], options: &'a Options) -> Self {
        let of = |wanted: &dyn Fn(Kind) -> bool| -> Vec<ScoredPair<'a>> {
            pairs.iter().filter(|p| wanted(p.kind)).copied().collect()
        };
        let near_misses = of(&|kind| kind == Kind::NearMiss);
        let accepts = of(&Kind::is_accept);
        Study {
            options,
            of_category: places(&near_misses, |pair| pair.category),
            of_anchor: places(&accepts, |pair| pair.anchor),
            of_source: places(&accepts, |pair| pair.source),
            near_misses,
            accepts,
        }
    }

    fn categories(&self) -> Vec<&'a str> {
        self.of_category.keys().copied().collect()
    }

    /// What a sample of a category, or of all, goes through; nothing if no sample is drawn of it.
    fn sizes(&self, category: Option<&str>) -> Sizes {
        let (near_misses, accepts) = self.judged(category);
        let sides = [&*near_misses, &*accepts.pairs];
        let minimum = self.options.minimum.max(1);
        if sides.iter().all(|side| in_test(side).count() >= minimum) {
            return Sizes::of(sides.into_iter().flat_map(in_test), true);
        }
        match sides.iter().all(|side| side.len() >= FEWEST_OF_BOTH) {
            true => Sizes::of(sides.into_iter().flatten(), false),
            false => Sizes::default(),
        }
    }

    /// The samples that are wanted, or as many as are [`affordable`] where one takes the `work` of every category and of all.
    fn bootstrap(&self, work: impl Fn(Sizes) -> u64 + Sync) -> Bootstrap {
        let mut groups: Vec<Option<&str>> = self.categories().into_iter().map(Some).collect();
        groups.push(None);
        let each = groups.into_par_iter().map(|group| work(self.sizes(group)));
        let wanted = self.options.bootstrap;
        Bootstrap {
            resamples: affordable(wanted.resamples, each.sum()),
            ..wanted
        }
    }

    /// Those of a category, or all.
    fn near_misses_of(&self, category: Option<&str>) -> Cow<'_, [ScoredPair<'a>]> {
        let Some(category) = category else {
            return Cow::Borrowed(&self.near_misses);
        };
        let places = self.of_category.get(category).into_iter().flatten();
        places.map(|&place| self.near_misses[place]).collect()
    }

    /// Thresholds from the calibration accepts that `keep` admits.
    fn thresholds(&self, keep: impl Fn(&ScoredPair<'_>) -> bool) -> Measured<[f64; ALPHAS.len()]> {
        if let Some(given) = self.options.transferred {
            return Measured::Value(given);
        }
        let scores: Vec<f64> = self
            .accepts
            .iter()
            .filter(|pair| pair.split == Split::Calibration && keep(pair))
            .map(|pair| pair.score)
            .collect();
        if scores.len() < self.options.minimum.max(1) {
            return Measured::Refused {
                refused: format!(
                    "no threshold (accepts in the calibration half: {}; at least {} are needed; give more paraphrases)",
                    scores.len(),
                    self.options.minimum.max(1)
                ),
            };
        }
        Measured::Value(ALPHAS.map(|alpha| threshold(&scores, alpha).expect("some accepts")))
    }

    /// The accepts that the near-misses of a category are judged against.
    fn accepts_for(&self, near_misses: &[ScoredPair<'_>]) -> Accepts<'_, 'a> {
        let anchors: BTreeSet<&str> = near_misses.iter().map(|pair| pair.anchor).collect();
        let sources: BTreeSet<&str> = near_misses.iter().map(|pair| pair.source).collect();
        let of = |places: &BTreeMap<&str, Vec<usize>>, names: &BTreeSet<&str>| {
            let mut places: Vec<usize> = (names.iter())
                .filter_map(|name| places.get(name))
                .flatten()
                .copied()
                .collect();
            places.sort_unstable();
            let pairs = places.into_iter().map(|place| self.accepts[place]);
            pairs.collect::<Vec<_>>()
        };
        let enough = |accepts: &[ScoredPair<'_>]| in_test(accepts).count() >= self.options.minimum;
        let same_anchors = of(&self.of_anchor, &anchors);
        if enough(&same_anchors) {
            return Accepts {
                pairs: same_anchors.into(),
                basis: Basis::SameAnchors,
            };
        }
        let named: BTreeSet<&str> = sources
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect();
        let same_sources = of(&self.of_source, &named);
        if enough(&same_sources) {
            return Accepts {
                pairs: same_sources.into(),
                basis: Basis::SameSources,
            };
        }
        self.all_accepts()
    }

    fn all_accepts(&self) -> Accepts<'_, 'a> {
        Accepts {
            pairs: Cow::Borrowed(&self.accepts),
            basis: Basis::AllSources,
        }
    }

    /// The near-misses of a category with their accepts; all are judged against all.
    fn judged(&self, category: Option<&str>) -> (Cow<'_, [ScoredPair<'a>]>, Accepts<'_, 'a>) {
        let near_misses = self.near_misses_of(category);
        let accepts = match category {
            Some(_) => self.accepts_for(&near_misses),
            None => self.all_accepts(),
        };
        (near_misses, accepts)
    }

    fn report(
        &self,
        category: Option<&str>,
        thresholds: &Measured<[f64; ALPHAS.len()]>,
        bootstrap: Bootstrap,
    ) -> CategoryReport {
        let (near_misses, Accepts { pairs, basis }) = self.judged(category);
        let (near_misses, accepts) = (&*near_misses, &*pairs);
        let scores_of = |pairs: &[ScoredPair<'_>]| -> Vec<f64> {
            pairs.iter().map(|pair| pair.score).collect()
        };
        let scores = scores_of(near_misses);
        let cosine = self.options.cosine;
        let distances: Vec<f64> = scores.iter().map(|s| 1.0 - s).collect();
        let edits = || {
            let both = near_misses.iter().chain(accepts);
            let edits: Vec<Edit> = both
                .map(|pair| Edit {
                    changes_meaning: pair.kind == Kind::NearMiss,
                    cosine: pair.score,
                    size: pair.edit_size,
                    length: pair.length,
                })
                .collect();
            sensitivity(&edits)
        };
        let separation = self.separation(category, near_misses, accepts, thresholds, bootstrap);
        let both_halves = match separation {
            Measured::Value(_) => None,
            Measured::Refused { .. } => self.both_halves(near_misses, accepts, bootstrap),
        };
        // Of the pairs that are shown.
        let shown = |pair: &&ScoredPair<'_>| both_halves.is_some() || pair.split == Split::Test;
        let with_accepts: HashSet<&str> = match basis {
            // The near-misses' own sources are all that is asked for.
            Basis::AllSources => (near_misses.iter().map(|pair| pair.source))
                .collect::<HashSet<_>>()
                .into_iter()
                .filter(|source| {
                    let places = self.of_source.get(source).into_iter().flatten();
                    places.map(|&place| &self.accepts[place]).any(|p| shown(&p))
                })
                .collect(),
            _ => accepts
                .iter()
                .filter(shown)
                .map(|pair| pair.source)
                .collect(),
        };
        CategoryReport {
            category: category.unwrap_or("all").to_string(),
            near_misses: Summary::of(&scores),
            accepts: Summary::of(&scores_of(accepts)),
            identity_margin: cosine.then(|| Summary::of(&distances).mean),
            basis,
            without_accepts_of_their_source: near_misses
                .iter()
                .filter(shown)
                .filter(|pair| !pair.source.is_empty() && !with_accepts.contains(pair.source))
                .count(),
            histogram: histogram(&scores),
            both_halves,
            separation,
            sensitivity: cosine.then(edits).flatten(),
        }
    }

    fn separation(
        &self,
        category: Option<&str>,
        near_misses: &[ScoredPair<'a>],
        accepts: &[ScoredPair<'a>],
        thresholds: &Measured<[f64; ALPHAS.len()]>,
        bootstrap: Bootstrap,
    ) -> Measured<Separation> {
        let minimum = self.options.minimum.max(1);
        for (pairs, what) in [(near_misses, "near-misses"), (accepts, "accepts")] {
            let found = in_test(pairs).count();
            if found < minimum {
                return Measured::Refused {
                    refused: format!(
                        "{what} in the test half: {found}; at least {minimum} are needed"
                    ),
                };
            }
        }
        let group = Group::new(near_misses, accepts);
        let limits = thresholds.value().copied();
        let values = group.numbers(&limits, None);
        let intervals = bootstrap.intervals(group.anchors.len(), |counts| {
            group.numbers(&limits, Some(counts))
        });
        let estimate = |at: usize| {
            values[at].map(|value| Estimate {
                value,
                interval: intervals[at],
            })
        };
        let rejection = match thresholds {
            Measured::Refused { refused } => Measured::Refused {
                refused: refused.clone(),
            },
            Measured::Value(limits) => Measured::Value(
                (0..ALPHAS.len())
                    .map(|i| OperatingPoint {
                        alpha: ALPHAS[i],
                        threshold: limits[i],
                        true_accept: share_at_least(&group.accepts, limits[i]),
                        rejection: estimate(REJECTION + i).expect("there are near-misses"),
                    })
                    .collect(),
            ),
        };
        let own: BTreeSet<&str> = near_misses.iter().map(|pair| pair.anchor).collect();
        let others = match category {
            None => Measured::Refused {
                refused: "all categories together have no rest to calibrate on".into(),
            },
            Some(_) => self.thresholds(|pair| !own.contains(pair.anchor)),
        };
        let rejection_left_out = match others {
            Measured::Refused { refused } => Measured::Refused { refused },
            Measured::Value(limits) => Measured::Value(
                ALPHAS
                    .iter()
                    .zip(limits)
                    .map(|(&alpha, threshold)| OperatingPoint {
                        alpha,
                        threshold,
                        true_accept: share_at_least(&group.accepts, threshold),
                        rejection: Estimate {
                            value: 1.0 - share_at_least(&group.near_misses, threshold),
                            interval: None,
                        },
                    })
                    .collect(),
            ),
        };
        let margins: Vec<f64> = group.margins.iter().map(|m| m.margin).collect();
        let n = margins.len();
        let share = |count: usize| count as f64 / n as f64;
        Measured::Value(Separation {
            near_misses: group.near_misses.len(),
            accepts: group.accepts.len(),
            anchors: group.anchors.len(),
            auc: estimate(AUC).expect("both sides have pairs"),
            average_precision: average_precision(&group.accepts, &group.near_misses)
                .expect("there are accepts"),
            equal_error_rate: equal_error_rate(&group.accepts, &group.near_misses)
                .expect("both sides have pairs"),
            d_prime: d_prime(&group.accepts, &group.near_misses),
            anchor_accuracy: (n > 0)
                .then(|| share(margins.iter().filter(|&&margin| margin > 0.0).count())),
            margins: estimate(MARGIN).map(|mean| Margins {
                n,
                mean,
                median: median(&margins).expect("a mean exists"),
                p05: quantile(&margins, 0.05).expect("a mean exists"),
                triplet_error: share(margins.iter().filter(|&&margin| margin <= 0.0).count()),
                degrees: self.options.cosine.then(|| {
                    let angles: Vec<f64> = group.margins.iter().map(|m| m.degrees).collect();
                    Summary::of(&angles).mean
                }),
            }),
            rejection,
            rejection_left_out,
            fixed: self.options.cosine.then(|| {
                FIXED.map(|threshold| FixedPoint {
                    threshold,
                    false_accept: share_at_least(&group.near_misses, threshold),
                    false_reject: 1.0 - share_at_least(&group.accepts, threshold),
                })
            }),
        })
    }

    /// What needs no threshold, over both halves, if there are pairs enough.
    fn both_halves(
        &self,
        near_misses: &[ScoredPair<'a>],
        accepts: &[ScoredPair<'a>],
        bootstrap: Bootstrap,
    ) -> Option<BothHalves> {
        let (n, a) = (near_misses.len(), accepts.len());
        if n.min(a) < FEWEST_OF_BOTH {
            return None;
        }
        let tested = |pairs: &[ScoredPair<'a>]| -> Vec<ScoredPair<'a>> {
            let test = |pair: &ScoredPair<'a>| ScoredPair {
                split: Split::Test,
                ..*pair
            };
            pairs.iter().map(test).collect()
        };
        let group = Group::new(&tested(near_misses), &tested(accepts));
        let numbers = |counts: Option<&[u32]>| {
            let times = |anchor: usize| counts.map_or(1, |counts| counts[anchor]);
            let accept = |i: usize| times(group.anchor_of_accept[i]);
            let near_miss = |i: usize| times(group.anchor_of_near_miss[i]);
            [
                group.ranking.auc(accept, near_miss),
                group.ranking.equal_error_rate(accept, near_miss),
            ]
        };
        let intervals = bootstrap.intervals(group.anchors.len(), |counts| numbers(Some(counts)));
        let values = numbers(None);
        let estimate = |at: usize| {
            values[at].map(|value| Estimate {
                value,
                interval: intervals[at],
            })
        };
        Some(BothHalves {
            near_misses: n,
            accepts: a,
            anchors: group.anchors.len(),
            auc: estimate(0)?,
            equal_error_rate: estimate(1)?,
        })
    }

    fn sources(&self, thresholds: &Measured<[f64; ALPHAS.len()]>) -> Vec<SourceReport> {
        let sources_of_near_misses = places(&self.near_misses, |pair| pair.source);
        let of_both = sources_of_near_misses.keys().chain(self.of_source.keys());
        let names: BTreeSet<&str> = of_both.copied().collect();
        if names.iter().all(|name| name.is_empty()) {
            return Vec::new();
        }
        let minimum = self.options.minimum.max(1);
        names
            .into_iter()
            .map(|source| {
                let halves = |pairs: &[ScoredPair<'a>], places: &BTreeMap<&str, Vec<usize>>| {
                    let here = || places.get(source).into_iter().flatten();
                    [Split::Calibration, Split::Test].map(|split| -> Vec<f64> {
                        let half = here().map(|&place| pairs[place]);
                        let half = half.filter(|pair| pair.split == split);
                        half.map(|pair| pair.score).collect()
                    })
                };
                let near_misses = halves(&self.near_misses, &sources_of_near_misses);
                let accepts = halves(&self.accepts, &self.of_source);
                let few = |n: usize, what: &str| Measured::Refused {
                    refused: format!("{what} in the test half: {n}; at least {minimum} are needed"),
                };
                SourceReport {
                    source: source.to_string(),
                    auc: if near_misses[1].len() < minimum {
                        few(near_misses[1].len(), "near-misses")
                    } else if accepts[1].len() < minimum {
                        few(accepts[1].len(), "accepts")
                    } else {
                        let ranking = Ranking::new(&accepts[1], &near_misses[1]);
                        Measured::Value(ranking.auc(|_| 1, |_| 1).expect("both sides have pairs"))
                    },
                    rejection_95: match thresholds {
                        _ if near_misses[1].len() < minimum => {
                            few(near_misses[1].len(), "near-misses")
                        }
                        Measured::Refused { refused } => Measured::Refused {
                            refused: refused.clone(),
                        },
                        Measured::Value(limits) => {
                            Measured::Value(1.0 - share_at_least(&near_misses[1], limits[1]))
                        }
                    },
                    near_misses: near_misses.map(|half| half.len()),
                    accepts: accepts.map(|half| half.len()),
                }
            })
            .collect()
    }
}

fn in_test<'a, 'b>(pairs: &'b [ScoredPair<'a>]) -> impl Iterator<Item = &'b ScoredPair<'a>> {
    pairs.iter().filter(|pair| pair.split == Split::Test)
}

/// The test half of some near-misses and accepts, ready to be counted over and over.
struct Group<'a> {
    anchors: Vec<&'a str>,
    near_misses: Vec<f64>,
    accepts: Vec<f64>,
    /// Places of their anchors.
    anchor_of_near_miss: Vec<usize>,
    anchor_of_accept: Vec<usize>,
    ranking: Ranking,
    margins: Vec<Margin>,
}

struct Margin {
    anchor: usize,
    margin: f64,
    /// Angle to the near-miss less angle to the accepts, if scores are cosines.
    degrees: f64,
}

impl<'a> Group<'a> {
    fn new(near_misses: &[ScoredPair<'a>], accepts: &[ScoredPair<'a>]) -> Self {
        let mut anchors = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut place_of = |pair: &ScoredPair<'a>| {
            *places.entry(pair.anchor).or_insert_with(|| {
                anchors.push(pair.anchor);
                anchors.len() - 1
            })
        };
        let anchor_of_near_miss: Vec<usize> = in_test(near_misses).map(&mut place_of).collect();
        let anchor_of_accept: Vec<usize> = in_test(accepts).map(&mut place_of).collect();
        let scores = |pairs: &[ScoredPair<'_>]| in_test(pairs).map(|p| p.score).collect();
        let (near_misses, accept_scores): (Vec<f64>, Vec<f64>) =
            (scores(near_misses), scores(accepts));

        // An anchor's paraphrases speak for it; without any, its other accepts.
        let mut own: BTreeMap<usize, [Vec<f64>; 2]> = BTreeMap::new();
        for (pair, &anchor) in in_test(accepts).zip(&anchor_of_accept) {
            let of_kind = usize::from(pair.kind != Kind::Paraphrase);
            own.entry(anchor).or_default()[of_kind].push(pair.score);
        }
        let with_accepts = near_misses.iter().zip(&anchor_of_near_miss);
        let margins = with_accepts
            .filter_map(|(&score, &anchor)| {
                let [paraphrases, others] = own.get(&anchor)?;
                let accepts = if paraphrases.is_empty() {
                    others
                } else {
                    paraphrases
                };
                let mean = |values: &mut dyn Iterator<Item = f64>| {
                    values.sum::<f64>() / accepts.len() as f64
                };
                let angle = mean(&mut accepts.iter().map(|&s| degrees(s)));
                Some(Margin {
                    anchor,
                    margin: mean(&mut accepts.iter().copied()) - score,
                    degrees: degrees(score) - angle,
                })
            })
            .collect();
        Group {
            anchors,
            ranking: Ranking::new(&accept_scores, &near_misses),
            near_misses,
            accepts: accept_scores,
            anchor_of_near_miss,
            anchor_of_accept,
            margins,
        }
    }

    /// AUC, mean margin and rejection at the `limits` if each anchor occurs `counts` times, or once.
    fn numbers(
        &self,
        limits: &Option<[f64; ALPHAS.len()]>,
        counts: Option<&[u32]>,
    ) -> [Option<f64>; NUMBERS] {
        let times = |anchor: usize| counts.map_or(1, |counts| counts[anchor]);
        let mut numbers = [None; NUMBERS];
        numbers[AUC] = self.ranking.auc(
            |i| times(self.anchor_of_accept[i]),
            |i| times(self.anchor_of_near_miss[i]),
        );
        let (mut n, mut sum) = (0u32, 0.0);
        for margin in &self.margins {
            let times = times(margin.anchor);
            n += times;
            sum += f64::from(times) * margin.margin;
        }
        numbers[MARGIN] = (n > 0).then(|| sum / f64::from(n));
        if let Some(limits) = limits {
            let (mut n, mut below) = (0u32, [0u32; ALPHAS.len()]);
            for (&score, &anchor) in self.near_misses.iter().zip(&self.anchor_of_near_miss) {
                let times = times(anchor);
                n += times;
                for (below, &limit) in below.iter_mut().zip(limits) {
                    *below += if score < limit { times } else { 0 };
                }
            }
            for (number, below) in numbers[REJECTION..].iter_mut().zip(below) {
                *number = (n > 0).then(|| f64::from(below) / f64::from(n));
            }
        }
        numbers
    }
}

/// Shares of `scores` in [`BINS`].
pub fn histogram(scores: &[f64]) -> Histogram {
    let share = |inside: &dyn Fn(f64) -> bool| {
        let count = scores.iter().filter(|&&s| inside(s)).count();
        count as f64 / scores.len().max(1) as f64
    };
    const END: f64 = 1.01;
    let shares = std::array::from_fn(|i| {
        let end = BINS.get(i + 1).copied().unwrap_or(END);
        share(&|s| s >= BINS[i] && s < end)
    });
    Histogram {
        below_zero: share(&|s| s < 0.0),
        shares,
        above: share(&|s| s >= END),
    }
}

fn macro_average(categories: &[CategoryReport]) -> MacroAverage {
    let mean = |values: Vec<f64>| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let separations: Vec<&Separation> = categories
        .iter()
        .filter_map(|category| category.separation.value())
        .collect();
    let means = categories.iter().map(|c| c.near_misses.mean).collect();
    MacroAverage {
        categories: separations.len(),
        near_miss_mean: mean(means).unwrap_or_default(),
        auc: mean(separations.iter().map(|s| s.auc.value).collect()),
        margin: mean(
            separations
                .iter()
                .filter_map(|s| Some(s.margins?.mean.value))
                .collect(),
        ),
        rejection: std::array::from_fn(|i| {
            let at = |s: &&Separation| Some(s.rejection.value()?[i].rejection.value);
            mean(separations.iter().filter_map(at).collect())
        }),
    }
}

#[cfg(test)]
mod tests;
