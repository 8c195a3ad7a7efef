//! What a semantic cache makes of scores: it serves a stored answer where the score of the two questions reaches a threshold
//! (a *hit*), and the answer is right where they mean the same.
//!
//! | | |
//! | --- | --- |
//! | cache hit ratio | `CHR(t) = #{s >= t} / N`, over accepts and rejects |
//! | precision | `P(t) = #{accepts, s >= t} / #{s >= t}` |
//! | P-CHR AUC | area under `P` against `CHR`, thresholds at all distinct scores, trapezoids, from the smallest `CHR` to 1 |
//! | PR-AUC | area under `P` against recall, beginning at recall 0 and precision 1 |
//! | calibration retention rate | their quotient: what of the order of scores is left when pairs are served by one threshold |
//!
//! All of them depend on the share of accepts among the pairs, which is to be said beside them.

use serde::Serialize;

use super::statistics::Ranking;

/// The areas, and the share of accepts that they hold for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CacheAreas {
    /// Share of accepts among the pairs.
    pub base_rate: f64,
    /// Area under precision against cache hit ratio.
    pub p_chr_auc: f64,
    /// Area under precision against recall.
    pub pr_auc: f64,
    /// The first over the second.
    pub retention: f64,
}

impl CacheAreas {
    /// Those of some scores; `None` without accepts.
    ///
    /// ```
    /// use nearmiss::metrics::cache::CacheAreas;
    /// let found = CacheAreas::of(&[0.95, 0.85, 0.8], &[0.9, 0.7]).unwrap();
    /// assert!((found.p_chr_auc - 0.543_333_333_3).abs() < 1e-9);
    /// ```
    pub fn of(accepts: &[f64], rejects: &[f64]) -> Option<Self> {
        if accepts.is_empty() {
            return None;
        }
        let (n, all_accepts) = ((accepts.len() + rejects.len()) as f64, accepts.len() as f64);
        let (mut hits, mut right) = (0usize, 0usize);
        let (mut p_chr_auc, mut pr_auc) = (0.0, 0.0);
        // The point before: cache hit ratio, recall, precision.
        let mut before: Option<[f64; 3]> = None;
        for group in Ranking::new(accepts, rejects).groups() {
            hits += group.len();
            right += group.iter().filter(|item| item.accept).count();
            let precision = right as f64 / hits as f64;
            let [ratio, recall] = [hits as f64 / n, right as f64 / all_accepts];
            // The first ratio has no one before it; the first recall has 0, with precision 1.
            let [ratio_before, recall_before, p] = before.unwrap_or([ratio, 0.0, 1.0]);
            p_chr_auc += (ratio - ratio_before) * (precision + p) / 2.0;
            pr_auc += (recall - recall_before) * (precision + p) / 2.0;
            before = Some([ratio, recall, precision]);
        }
        Some(CacheAreas {
            base_rate: all_accepts / n,
            p_chr_auc,
            pr_auc,
            retention: p_chr_auc / pr_auc,
        })
    }
}

/// The share of hits that are right where a share `base_rate` of the pairs mean the same, at a threshold that accepts
/// `true_accept` of these and rejects `rejection` of the others; `None` if nothing is ever a hit.
pub fn precision_at(base_rate: f64, true_accept: f64, rejection: f64) -> Option<f64> {
    let right = base_rate * true_accept;
    let hits = right + (1.0 - base_rate) * (1.0 - rejection);
    (hits > 0.0).then(|| right / hits)
}

/// The expected calibration error of probabilities: what those of pairs that mean the same (`accepts`) and of others
/// (`rejects`) say, against how many do, in `bins` of equally many pairs, of neighbouring probabilities each; the mean
/// distance, weighted by pairs. `None` without pairs or bins.
pub fn calibration_error(accepts: &[f64], rejects: &[f64], bins: usize) -> Option<f64> {
    let of =
        |list: &[f64], same: f64| -> Vec<[f64; 2]> { list.iter().map(|&p| [p, same]).collect() };
    let mut all = of(accepts, 1.0);
    all.extend(of(rejects, 0.0));
    all.sort_by(|a, b| a[0].total_cmp(&b[0]));
    // Of equal probabilities none comes first: each stands for their mean.
    for equal in all.chunk_by_mut(|a, b| a[0] == b[0]) {
        let mean = equal.iter().map(|[_, same]| same).sum::<f64>() / equal.len() as f64;
        equal.iter_mut().for_each(|pair| pair[1] = mean);
    }
    let n = all.len();
    if n == 0 || bins == 0 {
        return None;
    }
    let distance = |bin: usize| {
        let bin = &all[bin * n / bins..(bin + 1) * n / bins];
        // Of the sums, so that it has the bin's weight.
        bin.iter().map(|[p, same]| p - same).sum::<f64>().abs()
    };
    Some((0..bins).map(distance).sum::<f64>() / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_error_by_hand() {
        // Bins (0.1 no, 0.3 no) and (0.6 yes, 0.8 no): 0.2 and 0.7 said, 0 and 0.5 seen.
        close(calibration_error(&[0.6], &[0.8, 0.1, 0.3], 2).unwrap(), 0.2);
        close(calibration_error(&[0.6], &[0.8, 0.1, 0.3], 1).unwrap(), 0.2);
        // More bins than pairs: every pair by itself.
        close(
            calibration_error(&[1.0, 0.75], &[0.0], 15).unwrap(),
            0.25 / 3.0,
        );
        assert_eq!(calibration_error(&[], &[], 15), None);
        close(calibration_error(&[0.5; 50], &[0.5; 50], 2).unwrap(), 0.0);
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }

    #[test]
    fn areas_by_hand() {
        // Precisions 1, 1/2, 2/3, 3/4, 3/5 at hit ratios 0.2 to 1 and recalls 1/3, 1/3, 2/3, 1, 1.
        let found = CacheAreas::of(&[0.95, 0.85, 0.8], &[0.9, 0.7]).unwrap();
        let steps = [1.0 + 0.5, 0.5 + 2.0 / 3.0, 2.0 / 3.0 + 0.75, 0.75 + 0.6];
        close(found.p_chr_auc, steps.iter().map(|s| 0.1 * s).sum());
        close(found.p_chr_auc, 0.543_333_333_333_333_3);
        let pr_auc = 1.0 / 3.0 + (steps[1] + steps[2]) / 6.0;
        close(found.pr_auc, pr_auc);
        close(found.retention, found.p_chr_auc / pr_auc);
        close(found.base_rate, 0.6);
        // Equal scores are one point.
        let level = CacheAreas::of(&[0.5, 0.5], &[0.5, 0.1]).unwrap();
        close(level.p_chr_auc, 0.25 * (2.0 / 3.0 + 0.5) / 2.0);
        close(level.pr_auc, (1.0 + 2.0 / 3.0) / 2.0);
        // Nothing wrong is ever served: all that is missing is what comes before the first hit.
        let perfect = CacheAreas::of(&[0.9, 0.8, 0.7, 0.6], &[]).unwrap();
        close(perfect.p_chr_auc, 0.75);
        close(perfect.pr_auc, 1.0);
        assert_eq!(CacheAreas::of(&[], &[0.5]), None);
    }

    #[test]
    fn precision_at_other_base_rates() {
        close(precision_at(0.5, 0.95, 0.95).unwrap(), 0.95);
        close(precision_at(0.05, 0.95, 0.95).unwrap(), 0.5);
        close(precision_at(0.2, 1.0, 0.0).unwrap(), 0.2);
        assert_eq!(precision_at(0.5, 0.0, 1.0), None);
    }
}
