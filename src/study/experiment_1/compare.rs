//! What training changed: between kinds of models, over seeds, with intervals.

use serde::Serialize;

use super::measure::Measured;
use super::models::Model;
use crate::error::Result;
use crate::metrics::near_miss::{
    CrossFitted, Evaluation, Measured as NearMiss, Options, ScoredPair, compare_runs, evaluate,
};
use crate::metrics::ranking::RankingMetrics;
use crate::metrics::statistics::spearman;
use crate::study::changes::{
    AtThreshold, Group, NearMissChange, Rankings, RetrievalChange, at_threshold,
};
use crate::study::measured::RetrievalSet;
use crate::study::near_miss::{Divided, Examples, of_part, scored, unscored};

/// Which arms are set beside which, by their names: every arm beside the published encoder and beside A, and the controls
/// beside what they control.
pub fn contrasts(groups: &[Group]) -> Vec<[usize; 2]> {
    const CONTROLS: [[&str; 2]; 5] = [
        ["A-id", "B"],
        ["A-para", "B-para"],
        ["B", "B-matched"],
        ["B", "B-para"],
        ["B", "B-own"],
    ];
    let place = |name: &str| groups.iter().position(|group| group.name == name);
    let (base, a) = (place("Base"), place("A"));
    let after = |before: Option<usize>, passed: &[Option<usize>]| -> Vec<[usize; 2]> {
        let others = (0..groups.len()).filter(|&i| !passed.contains(&Some(i)));
        before.map_or(Vec::new(), |before| others.map(|i| [before, i]).collect())
    };
    let mut all = after(base, &[base]);
    all.extend(after(a, &[base, a]));
    let controls = CONTROLS.into_iter();
    all.extend(controls.filter_map(|[before, after]| Some([place(before)?, place(after)?])));
    all
}

/// A near-miss test set, and every model on it.
#[derive(Clone, Debug, Serialize)]
pub struct TestSet {
    /// The set of pairs, and the part of it.
    pub name: String,
    /// Whether structural rows are made of the same templates and words.
    pub own: bool,
    /// One per model.
    pub evaluations: Vec<Evaluation>,
    /// What the published encoder's 95 % threshold does, one per model.
    pub transferred: Vec<Option<AtThreshold>>,
    /// Rates by thresholds from other folds, one per model, if they are wanted and this is the main test set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cross_fitted: Vec<NearMiss<CrossFitted>>,
    /// Between kinds of models.
    pub changes: Vec<NearMissChange>,
}

/// A model's place between rejection and retrieval.
#[derive(Clone, Debug, Serialize)]
pub struct TradeOff {
    /// The model.
    pub model: String,
    /// Rejection at 95 % true accept, one per test set.
    pub rejection: Vec<Option<f64>>,
    /// Area under the ROC curve, one per test set.
    pub auc: Vec<Option<f64>>,
    /// Mean nDCG@10 over the collections.
    pub ndcg: f64,
    /// The same over the zero-shot ones.
    pub ndcg_zero_shot: Option<f64>,
}

/// What was found by comparing models.
#[derive(Clone, Debug, Serialize)]
pub struct Comparisons {
    /// Models by arm.
    pub groups: Vec<Group>,
    /// Changes in retrieval.
    pub retrieval: Vec<RetrievalChange>,
    /// Near-misses.
    pub tests: Vec<TestSet>,
    /// Every model between the two.
    pub trade_off: Vec<TradeOff>,
    /// Rank correlation of rejection and mean nDCG@10 over the models, one per test set.
    pub correlation: Vec<Option<f64>>,
}

/// What is compared.
pub(super) struct Compared<'a> {
    pub models: &'a [Model],
    pub measured: &'a [Measured],
    pub sets: &'a [RetrievalSet],
    pub near_misses: &'a [std::sync::Arc<Examples>],
    pub options: &'a Options,
    /// Whether structural rows come from the built-in edit sets' grammar.
    pub grammar: bool,
}

impl Compared<'_> {
    /// Compares.
    ///
    /// # Errors
    /// What metrics report, and [`Error::Invalid`] for models that were measured on other queries.
    pub fn compare(&self) -> Result<Comparisons> {
        let groups = Group::by_name(self.models.iter().map(Model::group));
        let contrasts = contrasts(&groups);
        let mut retrieval = Vec::with_capacity(contrasts.len());
        for pair in &contrasts {
            let [before, after] = pair.map(|i| self.rankings(&groups[i]));
            let bootstrap = self.options.bootstrap;
            let change = RetrievalChange::between(&before, &after, self.sets, bootstrap)?;
            retrieval.push(change);
        }
        let mut tests = Vec::new();
        for at in 0..self.near_misses.len() {
            self.near_miss_tests(at, &groups, &contrasts, &mut tests)?;
        }
        let trade_off = self.trade_off(&tests);
        let ndcg: Vec<f64> = trade_off.iter().map(|point| point.ndcg).collect();
        let correlation = |test: usize| {
            let of = trade_off.iter().map(|point| point.rejection[test]);
            spearman(&of.collect::<Option<Vec<f64>>>()?, &ndcg)
        };
        Ok(Comparisons {
            correlation: (0..tests.len()).map(correlation).collect(),
            groups,
            retrieval,
            tests,
            trade_off,
        })
    }

    fn rankings<'a>(&'a self, group: &'a Group) -> Rankings<'a> {
        let models = group.models.iter();
        Rankings {
            name: &group.name,
            models: models.map(|&i| &self.measured[i].retrieval[..]).collect(),
        }
    }

    fn near_miss_tests(
        &self,
        at: usize,
        groups: &[Group],
        contrasts: &[[usize; 2]],
        tests: &mut Vec<TestSet>,
    ) -> Result<()> {
        let set = &self.near_misses[at];
        let blank = unscored(&set.items);
        let all: Vec<Vec<ScoredPair<'_>>> = self
            .measured
            .iter()
            .map(|measured| scored(&blank, &measured.near_misses[at]))
            .collect();
        for (part, name) in set.parts.iter().enumerate() {
            let of_models: Vec<Vec<ScoredPair<'_>>> = all
                .iter()
                .map(|pairs| of_part(&set.items, pairs, part))
                .collect();
            let evaluations: Vec<Evaluation> = of_models
                .iter()
                .map(|pairs| evaluate(pairs, self.options))
                .collect::<Result<_>>()?;
            let base = self.models.iter().position(|model| model.arm.is_none());
            let limit = base.and_then(|i| Some(evaluations[i].thresholds.value()?[1]));
            let runs = |group: usize| -> Vec<&[ScoredPair<'_>]> {
                groups[group]
                    .models
                    .iter()
                    .map(|&i| &of_models[i][..])
                    .collect()
            };
            let mut changes = Vec::with_capacity(contrasts.len());
            for &[before, after] in contrasts {
                changes.push(NearMissChange {
                    before: groups[before].name.clone(),
                    after: groups[after].name.clone(),
                    changes: compare_runs(&runs(before), &runs(after), self.options)?,
                });
            }
            tests.push(TestSet {
                name: format!("{}, {name}", set.name),
                own: set.built_in && self.grammar && part == 0,
                transferred: of_models
                    .iter()
                    .map(|pairs| at_threshold(pairs, limit?))
                    .collect(),
                evaluations,
                cross_fitted: match part {
                    0 => self.cross_fitted(at),
                    _ => Vec::new(),
                },
                changes,
            });
        }
        Ok(())
    }

    /// What thresholds from other folds make of a set's pairs, model by model; nothing if no folds are wanted.
    fn cross_fitted(&self, at: usize) -> Vec<NearMiss<CrossFitted>> {
        let pairs = Divided::new(&self.near_misses[at]);
        let models = self.measured.iter();
        models
            .filter_map(|measured| pairs.judged(&measured.near_misses[at], self.options))
            .collect()
    }

    fn trade_off(&self, tests: &[TestSet]) -> Vec<TradeOff> {
        let point = |i: usize| {
            let separation = |test: &TestSet| test.evaluations[i].all.separation.value().cloned();
            TradeOff {
                model: self.models[i].to_string(),
                rejection: tests
                    .iter()
                    .map(|test| Some(separation(test)?.rejection.value()?[1].rejection.value))
                    .collect(),
                auc: tests
                    .iter()
                    .map(|test| Some(separation(test)?.auc.value))
                    .collect(),
                ndcg: self.mean_over(i, |_| true).map_or(0.0, |m| m.ndcg_at_10),
                ndcg_zero_shot: self
                    .mean_over(i, |set| !set.in_domain)
                    .map(|m| m.ndcg_at_10),
            }
        };
        (0..self.models.len()).map(point).collect()
    }

    /// The mean of a model's metrics over some collections.
    pub fn mean_over(
        &self,
        model: usize,
        admits: impl Fn(&RetrievalSet) -> bool,
    ) -> Option<RankingMetrics> {
        let sets = self.sets.iter().zip(&self.measured[model].retrieval);
        let means: Vec<RankingMetrics> = sets
            .filter(|(set, _)| admits(set))
            .map(|(_, metrics)| metrics.mean())
            .collect();
        RankingMetrics::mean_of(&means)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::arms::Arm;

    fn model(arm: Option<Arm>, seed: u64) -> Model {
        Model { arm, seed }
    }

    #[test]
    fn arms_are_set_beside_what_they_control() {
        let models = [
            model(None, 0),
            model(Some(Arm::A), 1),
            model(Some(Arm::A), 2),
            model(Some(Arm::AId), 1),
            model(Some(Arm::B), 1),
            model(Some(Arm::B), 2),
            model(Some(Arm::BPara), 1),
        ];
        let groups = Group::by_name(models.iter().map(Model::group));
        let names: Vec<&str> = groups.iter().map(|g| &g.name[..]).collect();
        assert_eq!(names, ["Base", "A", "A-id", "B", "B-para"]);
        assert_eq!(groups[1].models, [1, 2]);
        let pairs: Vec<[&str; 2]> = contrasts(&groups)
            .into_iter()
            .map(|pair| pair.map(|i| names[i]))
            .collect();
        assert_eq!(
            pairs,
            [
                ["Base", "A"],
                ["Base", "A-id"],
                ["Base", "B"],
                ["Base", "B-para"],
                ["A", "A-id"],
                ["A", "B"],
                ["A", "B-para"],
                ["A-id", "B"],
                ["B", "B-para"]
            ]
        );
        assert!(contrasts(&groups[..1]).is_empty());
    }
}
