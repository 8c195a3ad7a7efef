//! What training changed: between kinds of models, over seeds, with intervals.

use serde::Serialize;

use super::measure::{Measured, RetrievalSet};
use super::models::Model;
use crate::error::{Error, Result};
use crate::metrics::near_miss::{
    Change, Estimate, Evaluation, Kind, Options, ScoredPair, Split, compare_runs, evaluate,
};
use crate::metrics::ranking::RankingMetrics;
use crate::metrics::statistics::{Bootstrap, share_at_least, spearman};
use crate::study::near_miss::{Examples, of_part, scored};

/// The models of one arm.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// `Base`, or the arm.
    pub name: String,
    /// Their places among all models, in the order of the seeds.
    pub models: Vec<usize>,
}

/// What means are over, and the places of the collections: `all`, and `zero-shot` and `in-domain` where there are both.
pub(super) fn kinds(sets: &[RetrievalSet]) -> Vec<(&'static str, Vec<usize>)> {
    let of = |in_domain: Option<bool>| -> Vec<usize> {
        let fits = |i: &usize| in_domain.is_none_or(|wanted| sets[*i].in_domain == wanted);
        (0..sets.len()).filter(fits).collect()
    };
    let mut kinds = vec![("all", of(None))];
    for (name, wanted) in [("zero-shot", false), ("in-domain", true)] {
        let which = of(Some(wanted));
        if !which.is_empty() && which.len() < sets.len() {
            kinds.push((name, which));
        }
    }
    kinds
}

/// Models by arm, in the order in which these come.
pub fn groups(models: &[Model]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (i, model) in models.iter().enumerate() {
        let name = model.group();
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.models.push(i),
            None => groups.push(Group {
                name,
                models: vec![i],
            }),
        }
    }
    groups
}

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

/// The change of nDCG@10 over some collections.
#[derive(Clone, Debug, Serialize)]
pub struct MeanChange {
    /// Which collections: `all`, `zero-shot` or `in-domain`.
    pub over: &'static str,
    /// How many.
    pub sets: usize,
    /// Difference of the means.
    pub absolute: Estimate,
    /// The same in percent of the mean before.
    pub relative: Estimate,
    /// Collections in which the interval of the difference lies below 0.
    pub significant_drops: usize,
    /// Collections in which it lies above 0.
    pub significant_gains: usize,
}

/// The change of nDCG@10 from one kind of models to another.
#[derive(Clone, Debug, Serialize)]
pub struct RetrievalChange {
    /// From what.
    pub before: String,
    /// To what.
    pub after: String,
    /// Per collection, the difference of the means over queries and seeds.
    pub sets: Vec<Estimate>,
    /// Over collections, each counting the same.
    pub means: Vec<MeanChange>,
}

/// The change of how near-misses are scored, on one test set.
#[derive(Clone, Debug, Serialize)]
pub struct NearMissChange {
    /// From what.
    pub before: String,
    /// To what.
    pub after: String,
    /// Per category, then over all.
    pub changes: Vec<Change>,
}

/// What the published encoder's threshold does to another model.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Transferred {
    /// Share of the test half's near-misses that it keeps out.
    pub rejection: f64,
    /// Share of the accepts that it lets in.
    pub true_accept: f64,
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
    pub transferred: Vec<Option<Transferred>>,
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
        let groups = groups(self.models);
        let contrasts = contrasts(&groups);
        let mut retrieval = Vec::with_capacity(contrasts.len());
        for pair in &contrasts {
            retrieval.push(self.retrieval_change(pair.map(|i| &groups[i]))?);
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

    /// nDCG@10 of every query of a collection, the mean over a group's models.
    fn per_query(&self, group: &Group, set: usize) -> Result<Vec<f64>> {
        let of = |model: usize| &self.measured[model].retrieval[set].per_query;
        let first = of(group.models[0]);
        let mut sums = vec![0.0; first.len()];
        for &model in &group.models {
            let queries = of(model);
            let same = queries.len() == first.len()
                && queries.iter().zip(first).all(|((a, _), (b, _))| a == b);
            if !same {
                return Err(Error::Invalid(format!(
                    "models were measured on different queries of {}",
                    self.sets[set].collection.name
                )));
            }
            for (sum, (_, metrics)) in sums.iter_mut().zip(queries) {
                *sum += metrics.ndcg_at_10 / group.models.len() as f64;
            }
        }
        Ok(sums)
    }

    fn retrieval_change(&self, [before, after]: [&Group; 2]) -> Result<RetrievalChange> {
        let mut values = Vec::with_capacity(self.sets.len());
        for set in 0..self.sets.len() {
            let pair = [self.per_query(before, set)?, self.per_query(after, set)?];
            if pair[0].len() != pair[1].len() {
                return Err(Error::Invalid(format!(
                    "models were measured on different queries of {}",
                    self.sets[set].collection.name
                )));
            }
            values.push(pair);
        }
        let bootstrap = self.options.bootstrap;
        let sets: Vec<Estimate> = values.iter().map(|pair| paired(pair, bootstrap)).collect();
        let mut means = Vec::new();
        for (over, which) in kinds(self.sets) {
            let chosen: Vec<&[Vec<f64>; 2]> = which.iter().map(|&i| &values[i]).collect();
            let [absolute, relative] = over_sets(&chosen, bootstrap);
            let count = |holds: &dyn Fn([f64; 2]) -> bool| {
                let intervals = which.iter().filter_map(|&i| sets[i].interval);
                intervals.filter(|&interval| holds(interval)).count()
            };
            means.push(MeanChange {
                over,
                sets: which.len(),
                absolute,
                relative,
                significant_drops: count(&|[_, high]| high < 0.0),
                significant_gains: count(&|[low, _]| low > 0.0),
            });
        }
        Ok(RetrievalChange {
            before: before.name.clone(),
            after: after.name.clone(),
            sets,
            means,
        })
    }

    fn near_miss_tests(
        &self,
        at: usize,
        groups: &[Group],
        contrasts: &[[usize; 2]],
        tests: &mut Vec<TestSet>,
    ) -> Result<()> {
        let set = &self.near_misses[at];
        let all: Vec<Vec<ScoredPair<'_>>> = self
            .measured
            .iter()
            .map(|measured| scored(&set.items, &measured.near_misses[at]))
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
                    .map(|pairs| transferred(pairs, limit?))
                    .collect(),
                evaluations,
                changes,
            });
        }
        Ok(())
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

/// The difference of the means of paired values, with its interval over the pairs.
fn paired([before, after]: &[Vec<f64>; 2], bootstrap: Bootstrap) -> Estimate {
    let n = before.len();
    let differences: Vec<f64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
    let [interval] = bootstrap.intervals(n, |counts| {
        let weighted = counts.iter().zip(&differences);
        [Some(
            weighted.map(|(&c, d)| f64::from(c) * d).sum::<f64>() / n as f64,
        )]
    });
    Estimate {
        value: differences.iter().sum::<f64>() / n.max(1) as f64,
        interval,
    }
}

/// The difference of the means over sets of the sets' means, absolute and in percent of the mean before, with intervals
/// from samples of queries within sets.
fn over_sets(sets: &[&[Vec<f64>; 2]], bootstrap: Bootstrap) -> [Estimate; 2] {
    let strata: Vec<usize> = sets.iter().map(|[before, _]| before.len()).collect();
    let changes = |counts: Option<&[u32]>| {
        let mut means = [0.0; 2];
        let mut first = 0;
        for (set, &n) in sets.iter().zip(&strata) {
            for (mean, values) in means.iter_mut().zip(*set) {
                let sum: f64 = match counts {
                    None => values.iter().sum(),
                    Some(counts) => {
                        let weighted = counts[first..].iter().zip(values);
                        weighted.map(|(&c, v)| f64::from(c) * v).sum()
                    }
                };
                *mean += sum / (n.max(1) * sets.len()) as f64;
            }
            first += n;
        }
        let absolute = means[1] - means[0];
        let relative = (means[0] > 0.0).then(|| 100.0 * absolute / means[0]);
        [Some(absolute), relative]
    };
    let values = changes(None);
    let intervals = bootstrap.stratified_intervals(&strata, |counts| changes(Some(counts)));
    [0, 1].map(|i| Estimate {
        value: values[i].unwrap_or_default(),
        interval: intervals[i],
    })
}

/// What a threshold does on the test half.
fn transferred(pairs: &[ScoredPair<'_>], limit: f64) -> Option<Transferred> {
    let of = |wanted: &dyn Fn(Kind) -> bool| -> Vec<f64> {
        let tested = pairs
            .iter()
            .filter(|p| p.split == Split::Test && wanted(p.kind));
        tested.map(|p| p.score).collect()
    };
    let (near_misses, accepts) = (of(&|kind| kind == Kind::NearMiss), of(&Kind::is_accept));
    (!near_misses.is_empty() && !accepts.is_empty()).then(|| Transferred {
        rejection: 1.0 - share_at_least(&near_misses, limit),
        true_accept: share_at_least(&accepts, limit),
    })
}

/// Where an arm tells near-misses apart better than another, and where not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Test sets in which the interval of the change of AUC lies above 0.
    pub better: Vec<&'a TestName>,
    /// Test sets in which it lies below 0.
    pub worse: Vec<&'a TestName>,
    /// The others.
    pub unclear: Vec<&'a TestName>,
}

/// A test set's name, and whether structural rows are made of its templates and words.
pub type TestName = (String, bool);

impl<'a> Verdict<'a> {
    /// From the intervals of a change, one per test set.
    pub fn of(changes: impl IntoIterator<Item = (&'a TestName, Option<[f64; 2]>)>) -> Self {
        let mut verdict = Verdict::default();
        for (name, interval) in changes {
            match interval {
                Some([low, _]) if low > 0.0 => verdict.better.push(name),
                Some([_, high]) if high < 0.0 => verdict.worse.push(name),
                _ => verdict.unclear.push(name),
            }
        }
        verdict
    }

    /// Whether it is better on sentences of the templates and words that it was trained on and nowhere else.
    pub fn only_own_grammar(&self) -> bool {
        !self.better.is_empty() && self.better.iter().all(|name| name.1)
    }

    /// In a sentence.
    pub fn sentence(&self, before: &str, after: &str) -> String {
        let list = |names: &[&TestName]| {
            let names: Vec<&str> = names.iter().map(|(name, _)| &name[..]).collect();
            names.join("; ")
        };
        let mut parts = Vec::new();
        for (what, names) in [
            ("tells near-misses apart better on", &self.better),
            ("worse on", &self.worse),
            ("without a clear change on", &self.unclear),
        ] {
            if !names.is_empty() {
                parts.push(format!("{what} {}", list(names)));
            }
        }
        let own = match self.only_own_grammar() {
            true => {
                " **It improves on its own grammar alone, where templates and words are those that it was trained on.**"
            }
            false => "",
        };
        format!("{after} beside {before}: {}.{own}", parts.join(", "))
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
        let groups = groups(&models);
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

    #[test]
    fn changes_are_means_over_sets_and_samples_stay_within_them() {
        let bootstrap = Bootstrap {
            resamples: 2000,
            seed: 1,
        };
        // 200 queries that all lose a tenth, and 50 that stay: the mean over sets is half of it, however many there are.
        let first = [vec![0.5; 200], vec![0.4; 200]];
        let second = [vec![0.25; 50], vec![0.25; 50]];
        let [absolute, relative] = over_sets(&[&first, &second], bootstrap);
        assert!((absolute.value + 0.05).abs() < 1e-12);
        assert!((relative.value + 100.0 * 0.05 / 0.375).abs() < 1e-9);
        // Equal queries leave nothing to chance.
        let [low, high] = absolute.interval.unwrap();
        assert!((low + 0.05).abs() < 1e-9 && (high + 0.05).abs() < 1e-9);
        let one = paired(&first, bootstrap);
        assert!((one.value + 0.1).abs() < 1e-12 && one.interval.unwrap()[1] < -0.09);
        // Differences of +-1 with mean 0: the interval is that of a mean of 100, 1.96 / 10 on either side.
        let spread = [
            vec![0.0; 100],
            (0..100).map(|i| f64::from(i % 2) * 2.0 - 1.0).collect(),
        ];
        let [low, high] = paired(&spread, bootstrap).interval.unwrap();
        assert!(
            (low + 0.196).abs() < 0.03 && (high - 0.196).abs() < 0.03,
            "{low} {high}"
        );
    }

    #[test]
    fn a_gain_on_the_own_grammar_alone_is_called_that() {
        let names: Vec<TestName> = [("own", true), ("words", false), ("file", false)]
            .map(|(name, own)| (name.to_string(), own))
            .to_vec();
        let of = |intervals: [Option<[f64; 2]>; 3]| Verdict::of(names.iter().zip(intervals));
        let own = of([Some([0.1, 0.2]), Some([-0.1, 0.1]), Some([-0.2, -0.1])]);
        assert!(own.only_own_grammar());
        let said = own.sentence("A", "B");
        assert!(
            said.contains("better on own, worse on file, without a clear change on words"),
            "{said}"
        );
        assert!(said.contains("alone"));
        let both = of([Some([0.1, 0.2]), Some([0.1, 0.2]), None]);
        assert!(!both.only_own_grammar() && !both.sentence("A", "B").contains("alone"));
        assert!(!of([None; 3]).only_own_grammar());
    }
}
