//! What changes from one kind of models to another, over seeds: groups of models, and rankings with intervals.

use serde::Serialize;

use super::measured::{RetrievalSet, SetMetrics};
use crate::error::{Error, Result};
use crate::metrics::near_miss::{Change, Estimate, Kind, ScoredPair, Split};
use crate::metrics::statistics::{Bootstrap, share_at_least};

/// Models that differ by their seeds alone.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// What they have in common.
    pub name: String,
    /// Their places among all models, in the order of the seeds.
    pub models: Vec<usize>,
}

impl Group {
    /// Models by the names of their groups, in the order in which these come.
    pub fn by_name(names: impl IntoIterator<Item = String>) -> Vec<Self> {
        let mut groups: Vec<Group> = Vec::new();
        for (i, name) in names.into_iter().enumerate() {
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

    /// The mean over its models of what each has; `None` if one has not.
    pub(super) fn mean(&self, of: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.models.iter().map(|&model| of(model)).collect();
        crate::metrics::statistics::mean(&values?)
    }
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

/// Bootstrap samples that changes rest on, where these are fewer than were wanted.
pub(super) fn resamples(changes: &[NearMissChange]) -> impl Iterator<Item = usize> {
    let changes = changes.iter().flat_map(|change| &change.changes);
    changes.filter_map(|change| change.resamples)
}

/// What a threshold that was chosen elsewhere does on the test half of some pairs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AtThreshold {
    /// Share of the near-misses that it keeps out.
    pub rejection: f64,
    /// Share of the accepts that it lets in.
    pub true_accept: f64,
}

/// What a threshold does on the test half.
pub(super) fn at_threshold(pairs: &[ScoredPair<'_>], limit: f64) -> Option<AtThreshold> {
    let of = |wanted: &dyn Fn(Kind) -> bool| -> Vec<f64> {
        let tested = pairs
            .iter()
            .filter(|p| p.split == Split::Test && wanted(p.kind));
        tested.map(|p| p.score).collect()
    };
    let (near_misses, accepts) = (of(&|kind| kind == Kind::NearMiss), of(&Kind::is_accept));
    (!near_misses.is_empty() && !accepts.is_empty()).then(|| AtThreshold {
        rejection: 1.0 - share_at_least(&near_misses, limit),
        true_accept: share_at_least(&accepts, limit),
    })
}

/// The rankings of some models that differ by their seeds alone: per model, one entry per collection.
pub(super) struct Rankings<'a> {
    /// What the models have in common.
    pub name: &'a str,
    /// Of each of them.
    pub models: Vec<&'a [SetMetrics]>,
}

impl Rankings<'_> {
    /// nDCG@10 of every query of a collection, the mean over the models.
    fn per_query(&self, set: usize, sets: &[RetrievalSet]) -> Result<Vec<f64>> {
        let of = |model: &&[SetMetrics]| -> Vec<(String, f64)> {
            let queries = model[set].per_query.iter();
            queries.map(|(id, m)| (id.clone(), m.ndcg_at_10)).collect()
        };
        let first = self.models.first().map(of).unwrap_or_default();
        let mut sums = vec![0.0; first.len()];
        for model in &self.models {
            let queries = &model[set].per_query;
            let same = queries.len() == first.len()
                && queries.iter().zip(&first).all(|((a, _), (b, _))| a == b);
            if !same {
                return Err(differ(&sets[set]));
            }
            for (sum, (_, metrics)) in sums.iter_mut().zip(queries) {
                *sum += metrics.ndcg_at_10 / self.models.len() as f64;
            }
        }
        Ok(sums)
    }
}

fn differ(set: &RetrievalSet) -> Error {
    Error::Invalid(format!(
        "models were measured on different queries of {}",
        set.collection.name
    ))
}

impl RetrievalChange {
    /// From some models to others.
    ///
    /// # Errors
    /// [`Error::Invalid`] for models that were measured on other queries.
    pub(super) fn between(
        before: &Rankings<'_>,
        after: &Rankings<'_>,
        sets: &[RetrievalSet],
        bootstrap: Bootstrap,
    ) -> Result<Self> {
        let mut values = Vec::with_capacity(sets.len());
        for set in 0..sets.len() {
            let pair = [before.per_query(set, sets)?, after.per_query(set, sets)?];
            if pair[0].len() != pair[1].len() {
                return Err(differ(&sets[set]));
            }
            values.push(pair);
        }
        let each: Vec<Estimate> = values.iter().map(|pair| paired(pair, bootstrap)).collect();
        let mut means = Vec::new();
        for (over, which) in kinds(sets) {
            let chosen: Vec<&[Vec<f64>; 2]> = which.iter().map(|&i| &values[i]).collect();
            let [absolute, relative] = over_sets(&chosen, bootstrap);
            let count = |holds: &dyn Fn([f64; 2]) -> bool| {
                let intervals = which.iter().filter_map(|&i| each[i].interval);
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
            before: before.name.to_string(),
            after: after.name.to_string(),
            sets: each,
            means,
        })
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
        // There is no percentage of nothing.
        value: values[i].unwrap_or(f64::NAN),
        interval: intervals[i],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_one_name_are_a_group() {
        let names = ["Base", "A", "A", "B", "A"].map(String::from);
        let groups = Group::by_name(names);
        let found: Vec<(&str, &[usize])> = groups
            .iter()
            .map(|g| (&g.name[..], &g.models[..]))
            .collect();
        assert_eq!(found, [("Base", &[0][..]), ("A", &[1, 2, 4]), ("B", &[3])]);
        let odd = |model: usize| (model > 0).then_some(model as f64);
        assert_eq!([0, 1].map(|i| groups[i].mean(odd)), [None, Some(7.0 / 3.0)]);
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
}
