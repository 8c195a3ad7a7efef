//! What training, or another scorer, changed.

use rayon::prelude::*;
use serde::Serialize;

use super::{
    ALPHAS, AUC, Estimate, Group, MARGIN, Measured, NUMBERS, Options, REJECTION, ScoredPair, Sizes,
    Study, check, fewer, in_test,
};
use crate::error::{Error, Result};
use crate::metrics::statistics::{Bootstrap, Summary, mcnemar};

/// What training, or another scorer, changed for one category, pair by pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Its name, or `all`.
    pub category: String,
    /// Difference of near-miss scores, after less before, both halves.
    pub difference: Summary,
    /// Share of near-misses whose score fell by more than 0.01.
    pub lower: f64,
    /// Share of near-misses whose score rose by more than 0.01.
    pub higher: f64,
    /// Change of area under the ROC curve.
    pub auc: Measured<Estimate>,
    /// Change of the mean margin.
    pub margin: Option<Estimate>,
    /// Change of rejection, one per [`ALPHAS`], each scorer with its own thresholds.
    pub rejection: Option<[Estimate; ALPHAS.len()]>,
    /// Near-misses of the test half rejected at 95 % by the first scorer alone and by the second alone; for one scoring
    /// beside one.
    pub flips: Option<[usize; 2]>,
    /// McNemar's exact test on those.
    pub mcnemar: Option<f64>,
    /// Samples that intervals rest on, if these are fewer than were wanted: what [`affordable`](super::affordable) says of a
    /// sample's work, which is, summed over all categories, the anchors and, for every run, the pairs of the test half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resamples: Option<usize>,
}

/// Compares two scorings of the same pairs, given in the same order: per category, then over all.
///
/// # Errors
/// As [`evaluate`](super::evaluate); [`Error::Invalid`] if the pairs are not the same.
pub fn compare(
    before: &[ScoredPair<'_>],
    after: &[ScoredPair<'_>],
    options: &Options,
) -> Result<Vec<Change>> {
    compare_runs(&[before], &[after], options)
}

/// Compares scorings by several runs of two kinds, as trainings with other seeds are: every number is the mean over the
/// runs of its kind, and so it is in every sample of the bootstrap. Differences of scores are those of the first run
/// from the first, of the second from the second and so on; of the kind with fewer runs they come again.
///
/// # Errors
/// As [`compare`]; [`Error::Invalid`] also for no runs.
pub fn compare_runs(
    before: &[&[ScoredPair<'_>]],
    after: &[&[ScoredPair<'_>]],
    options: &Options,
) -> Result<Vec<Change>> {
    let (Some(&first), Some(_)) = (before.first(), after.first()) else {
        return Err(Error::Invalid(
            "a comparison needs a scoring on either side".into(),
        ));
    };
    for pairs in before.iter().chain(after) {
        check(pairs)?;
        let same = |(a, b): (&ScoredPair<'_>, &ScoredPair<'_>)| {
            ScoredPair {
                score: b.score,
                ..*a
            } == *b
        };
        if first.len() != pairs.len() || !first.iter().zip(*pairs).all(same) {
            return Err(Error::Invalid(format!(
                "the two scorings are not of the same pairs ({} and {} of them); score one list with both",
                first.len(),
                pairs.len()
            )));
        }
    }
    let sides = [before, after].map(|runs| Side::of(runs, options));
    let study = &sides[0].studies[0];
    let runs = (before.len() + after.len()) as u64;
    // What both halves say is not compared.
    let work = |group: Sizes| u64::from(group.rates) * (group.anchors + runs * group.pairs);
    let bootstrap = study.bootstrap(work);
    let categories = study.categories().into_iter().map(Some);
    let categories: Vec<Option<&str>> = categories.chain([None]).collect();
    Ok(categories
        .into_par_iter()
        .map(|category| change(&sides, category, options, bootstrap))
        .collect())
}

/// The runs of one kind, with their thresholds.
struct Side<'a> {
    studies: Vec<Study<'a>>,
    limits: Vec<Option<[f64; ALPHAS.len()]>>,
}

impl<'a> Side<'a> {
    fn of(runs: &[&[ScoredPair<'a>]], options: &'a Options) -> Self {
        let studies: Vec<_> = runs
            .iter()
            .map(|pairs| Study::new(pairs, options))
            .collect();
        let limits = studies
            .iter()
            .map(|study| study.thresholds(|_| true).value().copied());
        Side {
            limits: limits.collect(),
            studies,
        }
    }

    fn groups(&self, category: Option<&str>) -> Vec<Group<'a>> {
        let group = |study: &Study<'a>| {
            let (near_misses, accepts) = study.judged(category);
            Group::new(&near_misses, &accepts.pairs)
        };
        self.studies.iter().map(group).collect()
    }

    /// The mean over the runs of each number, if all of them have it.
    fn numbers(&self, groups: &[Group<'_>], counts: Option<&[u32]>) -> [Option<f64>; NUMBERS] {
        let mut sums = [Some(0.0); NUMBERS];
        for (group, limits) in groups.iter().zip(&self.limits) {
            let numbers = group.numbers(limits, counts);
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum = sum.zip(number).map(|(sum, number)| sum + number);
            }
        }
        sums.map(|sum| Some(sum? / groups.len() as f64))
    }
}

fn change(
    sides: &[Side<'_>; 2],
    category: Option<&str>,
    options: &Options,
    bootstrap: Bootstrap,
) -> Change {
    let minimum = options.minimum.max(1);
    let (near_misses, accepts) = sides[0].studies[0].judged(category);
    let [n, a] = [near_misses, accepts.pairs].map(|pairs| in_test(&pairs).count());
    let enough = n >= minimum && a >= minimum;
    let groups = sides.each_ref().map(|side| match enough {
        true => side.groups(category),
        false => Vec::new(),
    });
    let runs = sides[0].studies.len().max(sides[1].studies.len());
    let differences: Vec<f64> = (0..runs)
        .flat_map(|run| {
            let [before, after] = sides
                .each_ref()
                .map(|side| side.studies[run % side.studies.len()].near_misses_of(category));
            let pairs = before.iter().zip(&*after);
            let differences = pairs.map(|(before, after)| after.score - before.score);
            differences.collect::<Vec<_>>()
        })
        .collect();
    let share = |inside: &dyn Fn(f64) -> bool| {
        let count = differences.iter().filter(|&&d| inside(d)).count();
        count as f64 / differences.len().max(1) as f64
    };
    let difference = |counts: Option<&[u32]>| -> [Option<f64>; NUMBERS] {
        let [before, after] = [0, 1].map(|i| sides[i].numbers(&groups[i], counts));
        std::array::from_fn(|at| Some(after[at]? - before[at]?))
    };
    let (values, intervals) = if enough {
        let sample = |counts: &[u32]| difference(Some(counts));
        let anchors = groups[0][0].anchors.len();
        let intervals = bootstrap.intervals(anchors, sample);
        (difference(None), intervals)
    } else {
        ([None; NUMBERS], [None; NUMBERS])
    };
    let estimate = |at: usize| {
        enough.then_some(())?;
        Some(Estimate {
            value: values[at]?,
            interval: intervals[at],
        })
    };
    let limits = sides.each_ref().map(|side| side.limits[0]);
    let rejected = |i: usize, near_miss: usize| {
        limits[i].is_some_and(|limits| groups[i][0].near_misses[near_miss] < limits[1])
    };
    let single = sides.iter().all(|side| side.studies.len() == 1);
    let flips = (single && enough && limits.iter().all(Option::is_some)).then(|| {
        let only = |i: usize| {
            let flipped = (0..n).filter(|&at| rejected(i, at) && !rejected(1 - i, at));
            flipped.count()
        };
        [only(0), only(1)]
    });
    let rejection = [0, 1, 2].map(|i| estimate(REJECTION + i));
    Change {
        category: category.unwrap_or("all").to_string(),
        difference: Summary::of(&differences),
        lower: share(&|d| d < -0.01),
        higher: share(&|d| d > 0.01),
        auc: match estimate(AUC) {
            Some(estimate) => Measured::Value(estimate),
            None => Measured::Refused {
                refused: format!(
                    "near-misses and accepts in the test half: {n} and {a}; at least {minimum} of each are needed"
                ),
            },
        },
        margin: estimate(MARGIN),
        rejection: rejection
            .iter()
            .all(Option::is_some)
            .then(|| rejection.map(|estimate| estimate.expect("all are there"))),
        flips,
        mcnemar: flips.map(|[before, after]| mcnemar(before, after)),
        resamples: fewer(bootstrap, options),
    }
}
