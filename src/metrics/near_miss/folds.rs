//! Rates by thresholds that were chosen on other groups of sentences: every pair is judged, and none by a threshold that
//! it had a part in.
//!
//! Halves ([`Split`](super::Split)) give up one half of the pairs for the threshold. Here the pairs are divided into K folds,
//! those that share a sentence staying together; the pairs of a fold are judged by the threshold that the accepts of all
//! other folds give, and the rate is over all folds. So 50 + 50 pairs give a rate that rests on all of them.
//!
//! **Threshold.** Of N accepts the interpolated `(1 - alpha)(N + 1)`th from below. A new accept falls below the kth of N with
//! probability `k / (N + 1)` whatever the scores' distribution, so that a share `alpha` of new accepts is let in; the accept
//! at index `floor((1 - alpha) N)`, which large halves are judged by, lets in 92.7 % in place of 95 % when N = 40.
//!
//! **Interval.** 95 % bootstrap over groups of sentences. Every sample draws as many groups as there are, copies of a group
//! staying in its fold, and chooses the thresholds anew, so that the interval covers what the choice of a threshold by so few
//! accepts adds.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Estimate, Measured};
use crate::error::{Error, Result};
use crate::metrics::statistics::Bootstrap;
use crate::random::Stream;

/// A scored pair and the group of sentences that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grouped<'a> {
    /// Whether both sentences mean the same.
    pub accept: bool,
    /// Category of a near-miss.
    pub category: &'a str,
    /// What the scorer says.
    pub score: f64,
    /// Number of its group ([`crate::data::groups::connected`]).
    pub group: usize,
}

/// How [`cross_fitted`] works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Folds {
    /// How many, at least 2.
    pub count: usize,
    /// Fewest near-misses that a rate may rest on.
    pub minimum: usize,
    /// Samples for intervals; its seed also deals groups to folds.
    pub bootstrap: Bootstrap,
}

/// What thresholds from other folds do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrossFitted {
    /// Number of folds.
    pub folds: usize,
    /// Groups of sentences.
    pub groups: usize,
    /// Pairs of equal meaning.
    pub accepts: usize,
    /// The rest.
    pub near_misses: usize,
    /// One per true-accept rate that was asked for.
    pub points: Vec<Measured<CrossPoint>>,
}

/// What the thresholds for one true-accept rate do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrossPoint {
    /// The true-accept rate that was asked for.
    pub alpha: f64,
    /// By fold, the threshold that the accepts of the others give.
    pub thresholds: Vec<f64>,
    /// Share of the accepts that is let in.
    pub true_accept: Estimate,
    /// Share of all near-misses that is kept out.
    pub rejection: Measured<Estimate>,
    /// The same by category, in the order of their names.
    pub categories: Vec<CategoryRates>,
}

/// What the thresholds do to one kind of near-miss.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CategoryRates {
    /// Its name.
    pub category: String,
    /// How many there are.
    pub near_misses: usize,
    /// Share that is kept out.
    pub rejection: Measured<Estimate>,
}

/// Judges pairs by thresholds for the shares `alphas` of accepts, each chosen on other folds than those that it judges.
///
/// A rate is refused where the accepts outside of some fold are so few that the threshold would be the lowest of them, which
/// samples often lack, so that intervals would be too short; or where near-misses are fewer than [`Folds::minimum`].
///
/// # Errors
/// [`Error::Usage`] for fewer than two folds; [`Error::Invalid`] for accepts of fewer groups than folds, or a score that is not
/// finite.
pub fn cross_fitted(pairs: &[Grouped<'_>], options: &Folds, alphas: &[f64]) -> Result<CrossFitted> {
    if options.count < 2 {
        return Err(Error::Usage(format!(
            "--folds {}: a threshold comes from other folds than it judges; give at least 2",
            options.count
        )));
    }
    if let Some(pair) = pairs.iter().find(|pair| !pair.score.is_finite()) {
        return Err(Error::Invalid(format!(
            "the score of a pair is {}; scores must be finite",
            pair.score
        )));
    }
    let dealt = Dealt::new(pairs, options)?;
    Ok(CrossFitted {
        folds: options.count,
        groups: dealt.fold_of.len(),
        accepts: dealt.accepts.len(),
        near_misses: dealt.near_misses.len(),
        points: alphas
            .iter()
            .map(|&alpha| dealt.point(alpha, options))
            .collect(),
    })
}

/// Pairs dealt to folds.
struct Dealt<'a> {
    folds: usize,
    /// By group.
    fold_of: Vec<usize>,
    /// By score from below, with their groups.
    accepts: Vec<(f64, usize)>,
    /// With their groups and the places of their categories.
    near_misses: Vec<(f64, usize, usize)>,
    categories: Vec<&'a str>,
}

/// Of one sample: the accepts let in, then the near-misses of all and of each category kept out.
type Shares = Vec<Option<f64>>;

impl<'a> Dealt<'a> {
    fn new(pairs: &[Grouped<'a>], options: &Folds) -> Result<Self> {
        let near_misses = || pairs.iter().filter(|pair| !pair.accept);
        let categories: BTreeSet<&str> = near_misses().map(|pair| pair.category).collect();
        let categories: Vec<&str> = categories.into_iter().collect();
        let of = |pair: &Grouped<'_>| {
            let place = categories.binary_search(&pair.category);
            (
                pair.score,
                pair.group,
                place.expect("a category that is there"),
            )
        };
        let accepts = pairs.iter().filter(|pair| pair.accept);
        let mut accepts: Vec<(f64, usize)> = accepts.map(|p| (p.score, p.group)).collect();
        accepts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let groups = pairs.iter().map(|pair| pair.group + 1).max().unwrap_or(0);
        let mut sizes = vec![[0usize; 2]; groups];
        for pair in pairs {
            sizes[pair.group][usize::from(!pair.accept)] += 1;
        }
        // Numbers of which no pair is are no groups: a sample would draw nothing with them.
        if sizes.contains(&[0, 0]) {
            return Err(Error::Invalid(
                "groups of pairs are to be numbered without gaps".into(),
            ));
        }
        let with_accepts = sizes.iter().filter(|[accepts, _]| *accepts > 0).count();
        if with_accepts < options.count {
            return Err(Error::Invalid(format!(
                "the {} pairs of equal meaning are of {with_accepts} groups that share no sentence, fewer than {} folds; give more \
                 paraphrases, or fewer --folds",
                accepts.len(),
                options.count
            )));
        }
        Ok(Dealt {
            folds: options.count,
            fold_of: deal(&sizes, options),
            accepts,
            near_misses: near_misses().map(of).collect(),
            categories,
        })
    }

    fn point(&self, alpha: f64, options: &Folds) -> Measured<CrossPoint> {
        // The second from below: (1 - alpha)(N + 1) = 2.
        let fewest = (2.0 / (1.0 - alpha) - 1.0 - 1e-9).ceil() as usize;
        let of_fold = |fold: usize| {
            let others = self.accepts.iter();
            others
                .filter(|(_, group)| self.fold_of[*group] != fold)
                .count()
        };
        let least = (0..self.folds).map(of_fold).min().unwrap_or(0);
        if least < fewest {
            return Measured::Refused {
                refused: format!(
                    "accepts outside of a fold: {least}; at least {fewest} are needed to accept {alpha} of them; give more paraphrases, or more --folds"
                ),
            };
        }
        let once = vec![1; self.fold_of.len()];
        let values = self.shares(&once, alpha);
        let samples = options
            .bootstrap
            .samples(&[self.fold_of.len()], |counts| self.shares(counts, alpha));
        let estimate = |at: usize| {
            let of_samples = samples.iter().map(|sample| sample[at]);
            values[at].map(|value| Estimate {
                value,
                interval: Bootstrap::interval(of_samples),
            })
        };
        let rejection = |at: usize, n: usize| match estimate(at) {
            Some(estimate) if n >= options.minimum.max(1) => Measured::Value(estimate),
            _ => Measured::Refused {
                refused: format!(
                    "near-misses: {n}; at least {} are needed",
                    options.minimum.max(1)
                ),
            },
        };
        let categories = self.categories.iter().enumerate().map(|(i, category)| {
            let n = self
                .near_misses
                .iter()
                .filter(|near_miss| near_miss.2 == i)
                .count();
            CategoryRates {
                category: category.to_string(),
                near_misses: n,
                rejection: rejection(2 + i, n),
            }
        });
        Measured::Value(CrossPoint {
            alpha,
            thresholds: self
                .thresholds(&once, alpha)
                .into_iter()
                .flatten()
                .collect(),
            true_accept: estimate(0).expect("there are accepts"),
            rejection: rejection(1, self.near_misses.len()),
            categories: categories.collect(),
        })
    }

    /// By fold, the threshold that the accepts of all others give, if each group occurs `counts` times; `None` without any.
    fn thresholds(&self, counts: &[u32], alpha: f64) -> Vec<Option<f64>> {
        let mut held = vec![0u32; self.folds];
        for (_, group) in &self.accepts {
            held[self.fold_of[*group]] += counts[*group];
        }
        let all: u32 = held.iter().sum();
        let others = held.iter().map(|held| f64::from(all - held));
        let rank = |n: f64| ((1.0 - alpha) * (n + 1.0) - 1e-9).clamp(1.0, n.max(1.0));
        let ranks = others.map(rank).enumerate();
        ranks
            .map(|(fold, rank)| self.ranked(counts, fold, rank))
            .collect()
    }

    /// The `rank`th accept outside of a fold from below, counted from 1; between two of them on the line that joins them.
    fn ranked(&self, counts: &[u32], fold: usize, rank: f64) -> Option<f64> {
        let outside =
            |(_, group): &&(f64, usize)| self.fold_of[*group] != fold && counts[*group] > 0;
        let (mut passed, mut below) = (0.0, None);
        for (score, group) in self.accepts.iter().filter(outside) {
            passed += f64::from(counts[*group]);
            if below.is_none() && passed >= rank.floor() {
                below = Some(score);
            }
            if let Some(below) = below.filter(|_| passed >= rank.ceil()) {
                return Some(below + (score - below) * rank.fract());
            }
        }
        None
    }

    fn shares(&self, counts: &[u32], alpha: f64) -> Shares {
        let thresholds = self.thresholds(counts, alpha);
        // How many, and of them the accepts let in or the near-misses kept out.
        let mut found = vec![[0u64; 2]; 2 + self.categories.len()];
        let mut lost = false;
        let mut judge = |places: &[usize], group: usize, holds: &dyn Fn(f64) -> bool| {
            let times = u64::from(counts[group]);
            let Some(limit) = thresholds[self.fold_of[group]] else {
                lost |= times > 0;
                return;
            };
            for &at in places {
                found[at][0] += times;
                found[at][1] += if holds(limit) { times } else { 0 };
            }
        };
        for &(score, group) in &self.accepts {
            judge(&[0], group, &|limit| score >= limit);
        }
        for &(score, group, category) in &self.near_misses {
            judge(&[1, 2 + category], group, &|limit| score < limit);
        }
        let share = |[n, k]: [u64; 2]| (n > 0 && !lost).then(|| k as f64 / n as f64);
        found.into_iter().map(share).collect()
    }
}

/// The fold of every group, whose `sizes` are its accepts and near-misses: large ones first, each to the fold that has fewest
/// accepts so far, then fewest near-misses; equal groups in a seeded order.
fn deal(sizes: &[[usize; 2]], options: &Folds) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    Stream::new(options.bootstrap.seed, &["folds"], 0).shuffle(&mut order);
    order.sort_by_key(|&group| std::cmp::Reverse(sizes[group]));
    let mut held = vec![[0usize; 2]; options.count];
    let mut fold_of = vec![0; sizes.len()];
    for group in order {
        let [accepts, _] = sizes[group];
        // Near-misses alone go where near-misses are fewest.
        let load = |&fold: &usize| match accepts {
            0 => [held[fold][1], 0],
            _ => held[fold],
        };
        let fold = (0..options.count).min_by_key(load).expect("two folds");
        fold_of[group] = fold;
        for (held, size) in held[fold].iter_mut().zip(sizes[group]) {
            *held += size;
        }
    }
    fold_of
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folds(count: usize, resamples: usize) -> Folds {
        Folds {
            count,
            minimum: 1,
            bootstrap: Bootstrap { resamples, seed: 3 },
        }
    }

    fn pair(accept: bool, category: &str, score: f64, group: usize) -> Grouped<'_> {
        Grouped {
            accept,
            category,
            score,
            group,
        }
    }

    /// Accepts and near-misses of normal distributions, `apart` apart: `n` groups of one each, or of three and two.
    fn drawn(n: usize, apart: f64, three: bool, case: u64) -> Vec<Grouped<'static>> {
        let mut stream = Stream::new(17, &["scores"], case);
        let mut pairs = Vec::new();
        for group in 0..n {
            // What a group has in common makes its pairs alike.
            let common = if three { stream.normal() } else { 0.0 };
            let mut score = |mean: f64| match three {
                true => mean + (common + stream.normal()) / 2f64.sqrt(),
                false => mean + stream.normal(),
            };
            for _ in 0..if three { 3 } else { 1 } {
                pairs.push(pair(true, "", score(apart), group));
            }
            for _ in 0..if three { 2 } else { 1 } {
                pairs.push(pair(false, "role", score(0.0), group));
            }
        }
        pairs
    }

    fn rejection(found: &CrossFitted) -> Estimate {
        let point = found.points[0].value().expect("accepts enough");
        *point.rejection.value().expect("near-misses enough")
    }

    #[test]
    fn thresholds_by_hand() {
        // 40 accepts 1, 2, ..., 40, each a group; a near-miss at 2.5 shares the group of each fourth.
        let mut pairs: Vec<_> = (0..40)
            .map(|i| pair(true, "", f64::from(i + 1), i as usize))
            .collect();
        pairs.extend((0..10).map(|i| pair(false, "role", 2.5, 4 * i)));
        let found = cross_fitted(&pairs, &folds(2, 10), &[0.9, 0.95]).unwrap();
        assert_eq!(
            (found.groups, found.accepts, found.near_misses),
            (40, 40, 10)
        );
        let dealt = Dealt::new(&pairs, &folds(2, 10)).unwrap();
        assert_eq!(
            [0, 1].map(|f| dealt.fold_of.iter().filter(|&&of| of == f).count()),
            [20, 20]
        );
        let thresholds = &found.points[0].value().unwrap().thresholds;
        for (fold, threshold) in thresholds.iter().enumerate() {
            // Of 20 others the 0.1 * 21 = 2.1th.
            let others: Vec<usize> = (0..40).filter(|&i| dealt.fold_of[i] != fold).collect();
            let [second, third] = [1, 2].map(|i| others[i] as f64 + 1.0);
            let want = second + 0.1 * (third - second);
            assert!((threshold - want).abs() < 1e-6, "{threshold} {want}");
        }
        let Measured::Refused { refused } = &found.points[1] else {
            panic!("the lowest of 20 is no threshold");
        };
        assert!(
            refused.contains("outside of a fold: 20; at least 39"),
            "{refused}"
        );
        // Every pair is judged by the other fold's threshold.
        let point = found.points[0].value().unwrap();
        let kept_out = |fold: usize| 2.5 < point.thresholds[fold];
        let count = (0..10).filter(|i| kept_out(dealt.fold_of[4 * i])).count();
        assert_eq!(rejection(&found).value, count as f64 / 10.0);
    }

    #[test]
    fn what_cannot_be_divided_is_refused() {
        let pairs = drawn(50, 2.0, false, 0);
        let error =
            |pairs: &[Grouped<'_>], folds: Folds| cross_fitted(pairs, &folds, &[0.95]).unwrap_err();
        let one = error(&pairs, folds(1, 10));
        assert!(
            one.exit_code() == 2 && one.to_string().contains("--folds 1"),
            "{one}"
        );
        let all_alike: Vec<_> = pairs
            .iter()
            .map(|pair| Grouped { group: 0, ..*pair })
            .collect();
        let alike = error(&all_alike, folds(5, 10)).to_string();
        assert!(
            alike.contains("of 1 groups") && alike.contains("fewer than 5 folds"),
            "{alike}"
        );
        let mut nan = pairs.clone();
        nan[3].score = f64::NAN;
        assert!(error(&nan, folds(5, 10)).to_string().contains("finite"));
        let few = Folds {
            minimum: 51,
            ..folds(5, 10)
        };
        let found = cross_fitted(&pairs, &few, &[0.95]).unwrap();
        let point = found.points[0].value().unwrap();
        assert!(
            point.rejection.value().is_none() && point.categories[0].rejection.value().is_none()
        );
    }

    #[test]
    fn fifty_and_fifty_pairs_give_a_rate() {
        let found = cross_fitted(&drawn(50, 2.0, false, 1), &folds(5, 2_000), &[0.95]).unwrap();
        let point = found.points[0].value().unwrap();
        let (rate, accepted) = (rejection(&found), point.true_accept);
        let [low, high] = rate.interval.unwrap();
        assert!(
            low < rate.value && rate.value < high && high - low < 0.7,
            "{rate:?}"
        );
        assert!((0.8..=1.0).contains(&accepted.value), "{accepted:?}");
        assert_eq!(point.categories[0].rejection, Measured::Value(rate));
        // The same on any number of threads, and another seed deals otherwise.
        let again = cross_fitted(&drawn(50, 2.0, false, 1), &folds(5, 2_000), &[0.95]).unwrap();
        assert_eq!(again, found);
    }

    /// How often intervals cover the true rate, over so many sets of pairs.
    fn covered(sets: u64, n: usize, apart: f64, three: bool) -> f64 {
        // The share of near-misses, N(0, 1), below the 5th percentile of accepts, N(apart, 1).
        let truth = normal_below(apart - 1.644_853_626_951_472_2);
        let hit = |&case: &u64| {
            let pairs = drawn(n, apart, three, case);
            let found = cross_fitted(&pairs, &folds(5, 400), &[0.95]).unwrap();
            let [low, high] = rejection(&found).interval.unwrap();
            low <= truth && truth <= high
        };
        (0..sets).filter(hit).count() as f64 / sets as f64
    }

    /// The standard normal distribution's share below `x`, by the midpoint rule.
    fn normal_below(x: f64) -> f64 {
        let (from, steps) = (-10.0, 100_000);
        let step = (x - from) / f64::from(steps);
        let density = |i: i32| {
            let at = from + (f64::from(i) + 0.5) * step;
            (-at * at / 2.0).exp() / std::f64::consts::TAU.sqrt()
        };
        (0..steps).map(density).sum::<f64>() * step
    }

    #[test]
    fn intervals_cover_the_true_rate_as_often_as_they_say() {
        for (n, apart, three) in [
            (50, 2.0, false),
            (50, 1.0, false),
            (120, 2.0, false),
            (60, 2.0, true),
        ] {
            let sets = 400;
            let share = covered(sets, n, apart, three);
            // Of 400 sets 95 % are covered within 3.3 standard deviations, once in a thousand more or less by chance.
            let tolerance = 3.3 * (0.95 * 0.05 / sets as f64).sqrt();
            println!("{n} groups, {apart} apart, three {three}: {share}");
            assert!(
                (share - 0.95).abs() <= tolerance,
                "{n} {apart} {three}: {share}"
            );
        }
    }
}
