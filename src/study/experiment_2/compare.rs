//! Scorers beside each other: how each ranks and what it rejects, over seeds, and what training changed.

use std::sync::Arc;

use serde::Serialize;

use super::measure::{Measured, OfEncoder};
use super::models::{Model, Recipe};
use super::scorings::{Beside, Scoring, contrasts, rankings_of, scorings};
use crate::error::Result;
use crate::metrics::cache::CacheAreas;
use crate::metrics::near_miss::{
    CrossFitted, Evaluation, Hard, Kind, Measured as NearMiss, Options, ScoredPair, Split,
    compare_runs, evaluate, hard,
};
use crate::metrics::statistics::mean;
use crate::study::changes::{AtThreshold, NearMissChange, Rankings, RetrievalChange, at_threshold};
use crate::study::measured::RetrievalSet;
use crate::study::near_miss::{Divided, Examples, of_part, scored, unscored};

/// What a scoring does on a near-miss test set, model by model.
#[derive(Clone, Debug, Serialize)]
pub struct OnTest {
    /// Separation, rejection and so on.
    pub evaluations: Vec<Evaluation>,
    /// Pairs whose wording says the opposite of their meaning.
    pub hard: Vec<Hard>,
    /// What a cache would make of it, on the test half.
    pub cache: Vec<Option<CacheAreas>>,
    /// Rates by thresholds from other folds, if they are wanted and this is the main test set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cross_fitted: Vec<NearMiss<CrossFitted>>,
}

impl OnTest {
    /// The mean over the models of what each has; `None` if one has not.
    pub(super) fn mean<T>(items: &[T], of: impl Fn(&T) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = items.iter().map(of).collect();
        mean(&values?)
    }

    /// Rejection at 95 % true accept.
    pub(super) fn rejection(&self) -> Option<f64> {
        Self::mean(&self.evaluations, |e| {
            let points = e.all.separation.value()?.rejection.value()?;
            Some(points[1].rejection.value)
        })
    }

    /// Area under the ROC curve.
    pub(super) fn auc(&self) -> Option<f64> {
        Self::mean(&self.evaluations, |e| Some(e.all.auc()?.0.value))
    }
}

/// A near-miss test set, and every scoring on it.
#[derive(Clone, Debug, Serialize)]
pub struct TestSet {
    /// The set of pairs, and the part of it.
    pub name: String,
    /// Whether structural rows are made of the same templates and words.
    pub own: bool,
    /// One per scoring.
    pub scorings: Vec<OnTest>,
    /// One per contrast.
    pub changes: Vec<NearMissChange>,
    /// What the guard's own threshold does.
    pub guard: Option<AtThreshold>,
}

/// What was found by comparing scorers.
#[derive(Clone, Debug, Serialize)]
pub struct Comparisons {
    /// The scorings, in the order in which others name them.
    pub scorings: Vec<Scoring>,
    /// Which of them are set beside which.
    pub contrasts: Vec<Beside>,
    /// What each second stage makes of its first.
    pub reranking: Vec<RetrievalChange>,
    /// What training changed in what encoders find by themselves.
    pub encoders: Vec<RetrievalChange>,
    /// The best second stage beside the next best, of those over the published encoder.
    pub best: Option<RetrievalChange>,
    /// Near-misses.
    pub tests: Vec<TestSet>,
}

/// What is compared.
pub(super) struct Compared<'a> {
    pub models: &'a [Model],
    pub measured: &'a [Measured],
    pub sets: &'a [RetrievalSet],
    pub near_misses: &'a [Arc<Examples>],
    pub options: &'a Options,
    /// Whether structural rows come from the built-in edit sets' grammar.
    pub grammar: bool,
    /// The guard's threshold.
    pub threshold: Option<f64>,
}

impl<'a> Compared<'a> {
    /// Compares.
    ///
    /// # Errors
    /// What metrics report, and [`crate::Error::Invalid`] for models that were measured on other queries.
    pub fn compare(&self) -> Result<Comparisons> {
        let scorings = scorings(self.models);
        let between = |before: usize, after: usize| {
            let [before, after] = [before, after].map(|i| self.rankings(&scorings[i]));
            RetrievalChange::between(&before, &after, self.sets, self.options.bootstrap)
        };
        let (mut reranking, mut encoders) = (Vec::new(), Vec::new());
        for (i, scoring) in scorings.iter().enumerate() {
            match scoring.first_stage {
                Some(first) => reranking.push(between(first, i)?),
                None if i > 0 => encoders.push(between(0, i)?),
                None => {}
            }
        }
        let best = match self.best_two(&scorings) {
            Some([best, next]) => Some(between(next, best)?),
            None => None,
        };
        let contrasts = contrasts(self.models, &scorings);
        let mut tests = Vec::new();
        for at in 0..self.near_misses.len() {
            self.on_set(at, &scorings, &contrasts, &mut tests)?;
        }
        Ok(Comparisons {
            scorings,
            contrasts,
            reranking,
            encoders,
            best,
            tests,
        })
    }

    fn of_encoder(&self, model: usize) -> Option<&'a OfEncoder> {
        self.measured[model].encoder.as_ref()
    }

    fn rankings<'b>(&'b self, scoring: &'b Scoring) -> Rankings<'b> {
        let of = |&model: &usize| rankings_of(scoring, &self.measured[model]);
        Rankings {
            name: &scoring.name,
            models: scoring.models.iter().map(of).collect(),
        }
    }

    /// The two second stages over the published encoder that rank best, by mean nDCG@10.
    fn best_two(&self, scorings: &[Scoring]) -> Option<[usize; 2]> {
        let mut order: Vec<(f64, usize)> = (0..scorings.len())
            .filter(|&i| scorings[i].first_stage == Some(0))
            .map(|i| (mean_ndcg(&scorings[i], self.measured), i))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        match order[..] {
            [(_, best), (_, next), ..] => Some([best, next]),
            _ => None,
        }
    }

    fn on_set(
        &self,
        at: usize,
        scorings: &[Scoring],
        contrasts: &[Beside],
        tests: &mut Vec<TestSet>,
    ) -> Result<()> {
        let set = &self.near_misses[at];
        let blank = unscored(&set.items);
        let divided = Divided::new(set);
        let scores_of = |scoring: &Scoring, model: usize| -> &[f64] {
            let scores = match scoring.encoder {
                true => self.of_encoder(model).map(|e| &e.near_misses[at]),
                false => self.measured[model]
                    .scorer
                    .as_ref()
                    .map(|s| &s.near_misses[at]),
            };
            scores.map_or(&[], |scores| &scores[..])
        };
        let runs_of = |scoring: &Scoring, part: usize| -> Vec<Vec<ScoredPair<'_>>> {
            let run = |&model: &usize| {
                let all = scored(&blank, scores_of(scoring, model));
                of_part(&set.items, &all, part)
            };
            scoring.models.iter().map(run).collect()
        };
        for (part, name) in set.parts.iter().enumerate() {
            let runs: Vec<_> = scorings.iter().map(|s| runs_of(s, part)).collect();
            let mut found = Vec::with_capacity(scorings.len());
            for (scoring, runs) in scorings.iter().zip(&runs) {
                let options = self.options_for(scoring.cosine);
                let each = |run: &Vec<ScoredPair<'_>>| evaluate(run, &options);
                let judged = |&model: &usize| divided.judged(scores_of(scoring, model), &options);
                let models = scoring.models.iter().filter(|_| part == 0);
                found.push(OnTest {
                    cross_fitted: models.filter_map(judged).collect(),
                    evaluations: runs.iter().map(each).collect::<Result<_>>()?,
                    hard: runs
                        .iter()
                        .map(|run| hard(run, &options))
                        .collect::<Result<_>>()?,
                    cache: runs.iter().map(|run| cache_of(run)).collect(),
                });
            }
            let mut changes = Vec::with_capacity(contrasts.len());
            for &Beside { before, after, .. } in contrasts {
                let sides = [before, after].map(|i| {
                    let runs = runs[i].iter();
                    runs.map(|run| &run[..]).collect::<Vec<_>>()
                });
                let cosine = scorings[before].cosine && scorings[after].cosine;
                let options = self.options_for(cosine);
                changes.push(NearMissChange {
                    before: scorings[before].name.clone(),
                    after: scorings[after].name.clone(),
                    changes: compare_runs(&sides[0], &sides[1], &options)?,
                });
            }
            let guard = self.models.iter().position(|m| m.recipe == Recipe::Guard);
            let of_guard = scorings
                .iter()
                .position(|s| Some(s.models[0]) == guard && !s.encoder);
            let guard = of_guard.zip(self.threshold);
            tests.push(TestSet {
                guard: guard.and_then(|(at, limit)| at_threshold(&runs[at][0], limit)),
                name: format!("{}, {name}", set.name),
                own: set.built_in && self.grammar && part == 0,
                scorings: found,
                changes,
            });
        }
        Ok(())
    }

    fn options_for(&self, cosine: bool) -> Options {
        Options {
            cosine,
            ..*self.options
        }
    }
}

/// Mean nDCG@10 over collections and seeds.
fn mean_ndcg(scoring: &Scoring, measured: &[Measured]) -> f64 {
    let values: Vec<f64> = scoring
        .models
        .iter()
        .flat_map(|&model| rankings_of(scoring, &measured[model]))
        .map(|set| set.mean().ndcg_at_10)
        .collect();
    mean(&values).unwrap_or_default()
}

fn cache_of(pairs: &[ScoredPair<'_>]) -> Option<CacheAreas> {
    let of = |wanted: &dyn Fn(Kind) -> bool| -> Vec<f64> {
        let tested = pairs
            .iter()
            .filter(|p| p.split == Split::Test && wanted(p.kind));
        tested.map(|p| p.score).collect()
    };
    CacheAreas::of(&of(&Kind::is_accept), &of(&|kind| kind == Kind::NearMiss))
}
