//! Descriptive statistics, measures of separation, and what a difference is worth.
//!
//! Quantiles interpolate linearly between order statistics (type 7 of Hyndman and Fan, 1996); standard deviations are
//! those of the population (divisor `n`). "Accepts" are scores that ought to be high, "rejects" those that ought to be
//! low.

use rayon::prelude::*;
use serde::Serialize;

use crate::random::Stream;

/// Count, mean and spread of some numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(into = "Written")]
pub struct Summary {
    /// How many.
    pub n: usize,
    /// Their mean; 0 of none, which is written as null.
    pub mean: f64,
    /// Standard deviation of the population; 0 of none, which is written as null.
    pub std: f64,
}

/// A [`Summary`] in a file.
#[derive(Serialize)]
struct Written {
    n: usize,
    mean: Option<f64>,
    std: Option<f64>,
}

impl From<Summary> for Written {
    fn from(found: Summary) -> Self {
        let some = |value| (found.n > 0).then_some(value);
        Written {
            n: found.n,
            mean: some(found.mean),
            std: some(found.std),
        }
    }
}

impl Summary {
    /// Summarises `values`.
    ///
    /// ```
    /// use nearmiss::metrics::statistics::Summary;
    /// let found = Summary::of(&[1.0, 3.0]);
    /// assert_eq!((found.n, found.mean, found.std), (2, 2.0, 1.0));
    /// ```
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        if n == 0 {
            return Summary::default();
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        Summary {
            n,
            mean,
            std: variance.sqrt(),
        }
    }
}

/// The `q`-quantile, `q` in [0, 1]; `None` of no values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

/// The arithmetic mean; `None` of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| Summary::of(values).mean)
}

/// The median; `None` of no values.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The cosine of two vectors; 0 if one of them is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        let terms = x.iter().zip(y);
        terms.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 {
        dot(a, b) / lengths
    } else {
        0.0
    }
}

/// The angle of a cosine in degrees; a cosine beyond [-1, 1] by rounding counts as the end.
pub fn degrees(cosine: f64) -> f64 {
    cosine.clamp(-1.0, 1.0).acos().to_degrees()
}

/// Area under the ROC curve: the chance that an accept scores above a reject, ties counting one half (Mann and Whitney,
/// 1947). `None` if either side is empty.
///
/// ```
/// use nearmiss::metrics::statistics::roc_auc;
/// assert_eq!(roc_auc(&[0.95, 0.90, 0.85, 0.80], &[0.92, 0.85, 0.70, 0.60]), Some(0.71875));
/// ```
pub fn roc_auc(accepts: &[f64], rejects: &[f64]) -> Option<f64> {
    let ranking = Ranking::new(accepts, rejects);
    ranking.auc(|_| 1, |_| 1)
}

/// Average precision with accepts as the positives: `sum (R_i - R_{i-1}) P_i` over the distinct scores from the highest
/// down, so that the order of equal scores does not matter. `None` without accepts.
pub fn average_precision(accepts: &[f64], rejects: &[f64]) -> Option<f64> {
    let (mut seen, mut hits, mut sum) = (0usize, 0usize, 0.0);
    for group in Ranking::new(accepts, rejects).groups() {
        let new = group.iter().filter(|item| item.accept).count();
        seen += group.len();
        hits += new;
        sum += new as f64 * hits as f64 / seen as f64;
    }
    (!accepts.is_empty()).then(|| sum / accepts.len() as f64)
}

/// Equal error rate: where, as the threshold falls, the share of rejects let in meets the share of accepts kept out;
/// between two thresholds on the straight line that joins them. `None` if either side is empty.
pub fn equal_error_rate(accepts: &[f64], rejects: &[f64]) -> Option<f64> {
    let ranking = Ranking::new(accepts, rejects);
    ranking.equal_error_rate(|_| 1, |_| 1)
}

/// `(mean of accepts - mean of rejects) / sqrt(mean of the two variances)`: how far apart they lie in units of their
/// spread, whatever the scale (d', Green and Swets, 1966). `None` if a side has fewer than two values or neither spreads.
pub fn d_prime(accepts: &[f64], rejects: &[f64]) -> Option<f64> {
    let (a, r) = (Summary::of(accepts), Summary::of(rejects));
    let spread = ((a.std.powi(2) + r.std.powi(2)) / 2.0).sqrt();
    (a.n > 1 && r.n > 1 && spread > 0.0).then(|| (a.mean - r.mean) / spread)
}

/// The threshold that lets in a share `alpha` of the accepts: the accept at ascending index `floor((1 - alpha) n)`, a
/// score being let in if it is not below. `None` without accepts.
pub fn threshold(accepts: &[f64], alpha: f64) -> Option<f64> {
    let mut sorted = accepts.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    // 1 - 0.95 is a little above 0.05 and 0.05 * 20 must still be 1, not 1.0000000000000009 or 0.9999999999999998.
    let index = ((1.0 - alpha) * sorted.len() as f64 + 1e-9).floor() as usize;
    sorted.get(index.min(sorted.len().checked_sub(1)?)).copied()
}

/// The share of `scores` at or above `threshold`; 0 of none.
pub fn share_at_least(scores: &[f64], threshold: f64) -> f64 {
    let above = scores.iter().filter(|&&s| s >= threshold).count();
    above as f64 / scores.len().max(1) as f64
}

/// Scores of both sides, highest first, made once for any number of weightings.
pub(super) struct Ranking {
    items: Vec<Item>,
}

#[derive(Clone, Copy)]
pub(super) struct Item {
    score: f64,
    pub(super) accept: bool,
    /// Place in the list it came from.
    place: usize,
}

impl Ranking {
    pub(super) fn new(accepts: &[f64], rejects: &[f64]) -> Self {
        let side = |scores: &[f64], accept| -> Vec<Item> {
            let numbered = scores.iter().enumerate();
            numbered
                .map(|(place, &score)| Item {
                    score,
                    accept,
                    place,
                })
                .collect()
        };
        let mut items = side(accepts, true);
        items.extend(side(rejects, false));
        items.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        Ranking { items }
    }

    /// Runs of equal scores.
    pub(super) fn groups(&self) -> impl Iterator<Item = &[Item]> {
        self.items.chunk_by(|a, b| a.score == b.score)
    }

    /// The area under the ROC curve if accept `i` occurs `accept(i)` times and reject `i` occurs `reject(i)` times.
    pub(super) fn auc(
        &self,
        accept: impl Fn(usize) -> u32,
        reject: impl Fn(usize) -> u32,
    ) -> Option<f64> {
        let (mut accepts, mut rejects, mut twice) = (0u64, 0u64, 0u64);
        for group in self.groups() {
            let (mut a, mut r) = (0u64, 0u64);
            for item in group {
                if item.accept {
                    a += u64::from(accept(item.place));
                } else {
                    r += u64::from(reject(item.place));
                }
            }
            // Rejects of this group lie below all accepts so far, and level with those of the group.
            twice += r * (2 * accepts + a);
            accepts += a;
            rejects += r;
        }
        let pairs = accepts * rejects;
        (pairs > 0).then(|| twice as f64 / (2 * pairs) as f64)
    }

    /// The equal error rate if accept `i` occurs `accept(i)` times and reject `i` occurs `reject(i)` times.
    pub(super) fn equal_error_rate(
        &self,
        accept: impl Fn(usize) -> u32,
        reject: impl Fn(usize) -> u32,
    ) -> Option<f64> {
        let count = |items: &[Item]| {
            let mut counts = [0u64; 2];
            for item in items {
                match item.accept {
                    true => counts[0] += u64::from(accept(item.place)),
                    false => counts[1] += u64::from(reject(item.place)),
                }
            }
            counts.map(|n| n as f64)
        };
        let [a, r] = count(&self.items);
        if a == 0.0 || r == 0.0 {
            return None;
        }
        let (mut let_in, mut kept_out) = (0.0, 1.0);
        let (mut accepts, mut rejects) = (0.0, 0.0);
        for group in self.groups() {
            let new = count(group);
            (accepts, rejects) = (accepts + new[0], rejects + new[1]);
            let next = (rejects / r, 1.0 - accepts / a);
            if next.0 >= next.1 {
                // let_in - kept_out goes from -before to after; it is 0 at that share of the way.
                let (before, after) = (kept_out - let_in, next.0 - next.1);
                let share = before / (before + after);
                return Some(let_in + share * (next.0 - let_in));
            }
            (let_in, kept_out) = next;
        }
        unreachable!("at the lowest threshold everything is let in and nothing kept out")
    }
}

/// Fewest accepts by which a share of them can be told from 1: with fewer, not even one may be lost.
pub fn fewest_accepts(alpha: f64) -> usize {
    // 1 - 0.95 is 0.050000000000000044.
    (1.0 / (1.0 - alpha) - 1e-9).ceil() as usize
}

/// Bootstrap samples of `units` things, as often as `resamples` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// How many samples.
    pub resamples: usize,
    /// Same seed, same samples.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap {
            resamples: 10_000,
            seed: 42,
        }
    }
}

impl Bootstrap {
    /// The 95 % percentile intervals (Efron, 1979) of the `N` numbers that `statistic` makes of how often each unit was
    /// drawn. A statistic that a sample does not have (`None`) is left out of its interval; an interval needs it in half
    /// of the samples at least.
    ///
    /// Samples are numbered, and each has its own stream of random numbers, so the result does not depend on threads.
    pub fn intervals<const N: usize>(
        &self,
        units: usize,
        statistic: impl Fn(&[u32]) -> [Option<f64>; N] + Sync,
    ) -> [Option<[f64; 2]>; N] {
        self.stratified_intervals(&[units], statistic)
    }

    /// [`Bootstrap::intervals`] over units of several kinds, `strata` saying how many there are of each: every sample draws
    /// as many of a kind as there are, from that kind alone.
    pub fn stratified_intervals<const N: usize>(
        &self,
        strata: &[usize],
        statistic: impl Fn(&[u32]) -> [Option<f64>; N] + Sync,
    ) -> [Option<[f64; 2]>; N] {
        let samples = self.samples(strata, statistic);
        std::array::from_fn(|i| Self::interval(samples.iter().map(|sample| sample[i])))
    }

    /// What `statistic` makes of how often each unit was drawn, sample by sample; nothing of no units.
    pub(super) fn samples<T: Send>(
        &self,
        strata: &[usize],
        statistic: impl Fn(&[u32]) -> T + Sync,
    ) -> Vec<T> {
        let units: usize = strata.iter().sum();
        if units == 0 {
            return Vec::new();
        }
        (0..self.resamples)
            .into_par_iter()
            .map_init(
                || vec![0u32; units],
                |counts, sample| {
                    counts.fill(0);
                    let mut stream = Stream::new(self.seed, &["bootstrap"], sample as u64);
                    let mut first = 0;
                    for &n in strata {
                        (0..n).for_each(|_| counts[first + stream.below(n)] += 1);
                        first += n;
                    }
                    statistic(counts)
                },
            )
            .collect()
    }

    /// The 95 % percentile interval of what samples gave, if half of them gave anything.
    pub(super) fn interval(
        samples: impl ExactSizeIterator<Item = Option<f64>>,
    ) -> Option<[f64; 2]> {
        let n = samples.len();
        let values: Vec<f64> = samples.flatten().collect();
        if values.len() * 2 < n {
            return None;
        }
        Some([quantile(&values, 0.025)?, quantile(&values, 0.975)?])
    }
}

/// Two-sided exact test of McNemar (1947) on paired yes/no answers: `only_before` and `only_after` are the pairs that
/// changed. The chance, if changes were as likely either way, of a split at least as uneven.
///
/// ```
/// use nearmiss::metrics::statistics::mcnemar;
/// // Of 5 changes all go one way: 2 / 2^5.
/// assert_eq!(mcnemar(0, 5), 0.0625);
/// assert_eq!(mcnemar(3, 3), 1.0);
/// ```
pub fn mcnemar(only_before: usize, only_after: usize) -> f64 {
    let n = only_before + only_after;
    let least = only_before.min(only_after);
    // ln of n choose k over 2^n, from k - 1.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = term.exp();
    for k in 1..=least {
        term += ((n - k + 1) as f64 / k as f64).ln();
        sum += term.exp();
    }
    (2.0 * sum).min(1.0)
}

/// Spearman's rank correlation, ties given the mean of their ranks; `None` for fewer than two pairs or if a side is
/// constant.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let (x, y) = (ranks(x), ranks(y));
    let (mx, my) = (Summary::of(&x), Summary::of(&y));
    if x.len() != y.len() || x.len() < 2 || mx.std == 0.0 || my.std == 0.0 {
        return None;
    }
    let terms = x.iter().zip(&y);
    let covariance: f64 = terms.map(|(x, y)| (x - mx.mean) * (y - my.mean)).sum();
    Some(covariance / (x.len() as f64 * mx.std * my.std))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = first as f64 + (group.len() + 1) as f64 / 2.0;
        for &i in group {
            ranks[i] = mean;
        }
        first += group.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: Option<f64>, want: f64) {
        let got = got.unwrap();
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }

    #[test]
    fn quantiles_interpolate() {
        let values = [4.0, 1.0, 3.0, 2.0];
        close(median(&values), 2.5);
        close(quantile(&values, 0.05), 1.15);
        close(quantile(&values, 1.0), 4.0);
        close(quantile(&[7.0], 0.3), 7.0);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn angles() {
        close(Some(degrees(0.5)), 60.0);
        assert_eq!(degrees(1.0 + 1e-9), 0.0);
        close(Some(degrees(-1.0)), 180.0);
    }

    #[test]
    fn auc_counts_pairs() {
        let accepts = [0.9, 0.5, 0.5, 0.2];
        let rejects = [0.5, 0.1, 0.9];
        let mut by_hand = 0.0;
        for a in accepts {
            for r in rejects {
                by_hand += if a > r {
                    1.0
                } else if a == r {
                    0.5
                } else {
                    0.0
                };
            }
        }
        close(roc_auc(&accepts, &rejects), by_hand / 12.0);
        assert_eq!(roc_auc(&accepts, &[]), None);
        // Counting a score twice is having it twice.
        let weighted = Ranking::new(&accepts, &rejects).auc(|i| [2, 0, 1, 1][i], |i| [1, 3, 0][i]);
        let spelled = roc_auc(&[0.9, 0.9, 0.5, 0.2], &[0.5, 0.1, 0.1, 0.1]);
        assert_eq!(weighted, spelled);
    }

    #[test]
    fn average_precision_by_hand() {
        // Ranks: accept, reject, accept: precisions 1 and 2/3.
        close(
            average_precision(&[0.9, 0.3], &[0.5]),
            (1.0 + 2.0 / 3.0) / 2.0,
        );
        // One of each level: precision 1/2 whatever the order.
        close(average_precision(&[0.5], &[0.5]), 0.5);
        close(average_precision(&[0.1, 0.2], &[]), 1.0);
        assert_eq!(average_precision(&[], &[1.0]), None);
    }

    #[test]
    fn equal_error_rate_by_hand() {
        // At 0.6 one of two rejects is let in and one of two accepts is kept out.
        close(equal_error_rate(&[0.9, 0.4], &[0.6, 0.1]), 0.5);
        close(equal_error_rate(&[0.9, 0.8], &[0.2]), 0.0);
        close(equal_error_rate(&[0.1], &[0.9]), 1.0);
        // From (0, 1/3) to (1/2, 1/3) while the threshold falls past a reject: they meet at 1/3.
        close(equal_error_rate(&[0.9, 0.8, 0.3], &[0.7, 0.2]), 1.0 / 3.0);
        // Counting a score twice is having it twice, and not at all is not having it.
        let weighted = Ranking::new(&[0.9, 0.8, 0.3], &[0.7, 0.2]);
        let weighted = weighted.equal_error_rate(|i| [2, 0, 1][i], |i| [1, 3][i]);
        let spelled = equal_error_rate(&[0.9, 0.9, 0.3], &[0.7, 0.2, 0.2, 0.2]);
        close(weighted, spelled.unwrap());
        // All level: from (0, 1) to (1, 0).
        close(equal_error_rate(&[0.5, 0.5], &[0.5]), 0.5);
    }

    #[test]
    fn d_prime_by_hand() {
        // Means 2 and 0, variances 1 and 4.
        close(d_prime(&[1.0, 3.0], &[2.0, -2.0]), 2.0 / 2.5f64.sqrt());
        assert_eq!(d_prime(&[1.0, 1.0], &[0.0, 0.0]), None);
        assert_eq!(d_prime(&[1.0], &[0.0, 1.0]), None);
    }

    #[test]
    fn thresholds_let_in_what_they_should() {
        let accepts: Vec<f64> = (1..=20).map(f64::from).collect();
        for (alpha, expected) in [
            (0.95, 2.0),
            (0.90, 3.0),
            (0.99, 1.0),
            (1.0, 1.0),
            (0.0, 20.0),
        ] {
            assert_eq!(threshold(&accepts, alpha), Some(expected));
        }
        assert_eq!(share_at_least(&accepts, 2.0), 0.95);
        assert_eq!(threshold(&[], 0.95), None);
    }

    #[test]
    fn bootstrap_covers_the_error_of_a_mean() {
        // The mean of 100 zeros and 100 ones has a standard error of 0.5 / sqrt(200) = 0.0354.
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 2)).collect();
        let mean = |counts: &[u32]| {
            let pairs = counts.iter().zip(&values);
            [
                Some(pairs.map(|(&c, v)| f64::from(c) * v).sum::<f64>() / 200.0),
                None,
            ]
        };
        let [interval, nothing] = Bootstrap::default().intervals(200, mean);
        let [low, high] = interval.unwrap();
        // A quantile of 10,000 normal samples is off by less than 0.06 standard deviations.
        let half = 1.96 * 0.035_355;
        assert!((low - (0.5 - half)).abs() < 0.005 && (high - (0.5 + half)).abs() < 0.005);
        assert_eq!(nothing, None);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let again = pool.install(|| Bootstrap::default().intervals(200, mean));
        assert_eq!(again[0], interval, "as many threads as you like");
    }

    #[test]
    fn samples_stay_within_their_strata() {
        let strata = [3, 0, 50];
        let found = Bootstrap::default().stratified_intervals(&strata, |counts| {
            let first: u32 = counts[..3].iter().sum();
            let rest: u32 = counts[3..].iter().sum();
            [
                Some(f64::from(first)),
                Some(f64::from(rest)),
                Some(f64::from(counts[0])),
            ]
        });
        assert_eq!(found[..2], [Some([3.0, 3.0]), Some([50.0, 50.0])]);
        // One of three is drawn up to three times, or not at all.
        assert_eq!(found[2].unwrap()[0], 0.0);
        let one = |counts: &[u32]| [Some(f64::from(counts[0]))];
        let bootstrap = Bootstrap::default();
        assert_eq!(
            bootstrap.intervals(9, one),
            bootstrap.stratified_intervals(&[9], one)
        );
    }

    #[test]
    fn mcnemar_by_hand() {
        // 1 of 6: 2 (1 + 6) / 64.
        close(Some(mcnemar(1, 5)), 14.0 / 64.0);
        assert_eq!(mcnemar(0, 0), 1.0);
        let large = mcnemar(4_900, 5_100);
        // 2 standard deviations of a binomial with 10,000 trials, with the continuity correction: 0.0466.
        assert!((large - 0.0466).abs() < 0.0005, "{large}");
    }

    #[test]
    fn spearman_by_hand() {
        close(spearman(&[1.0, 2.0, 3.0], &[9.0, 5.0, 1.0]), -1.0);
        // Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, variances 4.5 and 5.
        close(
            spearman(&[1.0, 2.0, 2.0, 7.0], &[1.0, 3.0, 2.0, 4.0]),
            4.5 / 22.5f64.sqrt(),
        );
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    }
}
