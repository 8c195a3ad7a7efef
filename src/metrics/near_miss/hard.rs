//! The pairs whose wording says the opposite of their meaning.

use serde::Serialize;

use super::{Kind, Measured, Options, ScoredPair, Study, check, in_test};
use crate::error::Result;
use crate::metrics::statistics::{median, roc_auc, share_at_least};

/// How a scorer does on paraphrases that share few words with their anchors, and on near-misses that share nearly all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hard {
    /// Median word-level distance of the paraphrases and of the near-misses, both halves.
    pub medians: [f64; 2],
    /// Paraphrases of the test half that lie further from their anchors than that.
    pub accepts: usize,
    /// Near-misses of the test half that lie nearer to theirs.
    pub near_misses: usize,
    /// Area under the ROC curve of these two.
    pub auc: Measured<f64>,
    /// Share of these paraphrases at or above the threshold that 95 % of all accepts of the calibration half reach.
    pub true_accept: Measured<f64>,
    /// Share of these near-misses below it.
    pub rejection: Measured<f64>,
}

/// Looks at the hard pairs among `pairs`.
///
/// # Errors
/// As [`evaluate`](super::evaluate).
pub fn hard(pairs: &[ScoredPair<'_>], options: &Options) -> Result<Hard> {
    check(pairs)?;
    let of = |kind: Kind| -> Vec<ScoredPair<'_>> {
        pairs.iter().filter(|p| p.kind == kind).copied().collect()
    };
    let (accepts, near_misses) = (of(Kind::Paraphrase), of(Kind::NearMiss));
    let middle = |pairs: &[ScoredPair<'_>]| {
        let sizes: Vec<f64> = pairs.iter().map(|p| p.edit_size as f64).collect();
        median(&sizes).unwrap_or_default()
    };
    let medians = [middle(&accepts), middle(&near_misses)];
    let scores = |pairs: &[ScoredPair<'_>], keep: &dyn Fn(f64) -> bool| -> Vec<f64> {
        let kept = in_test(pairs).filter(|p| keep(p.edit_size as f64));
        kept.map(|p| p.score).collect()
    };
    let accepts = scores(&accepts, &|size| size > medians[0]);
    let near_misses = scores(&near_misses, &|size| size < medians[1]);

    let minimum = options.minimum.max(1);
    let few = |n: usize, what: &str| {
        (n < minimum)
            .then(|| format!("hard {what} in the test half: {n}; at least {minimum} are needed"))
    };
    let missing = [
        few(accepts.len(), "paraphrases"),
        few(near_misses.len(), "near-misses"),
    ];
    let threshold = Study::new(pairs, options).thresholds(|_| true);
    let share = |scores: &[f64], missing: &Option<String>, below: bool| match (missing, &threshold)
    {
        (Some(why), _) => Measured::Refused {
            refused: why.clone(),
        },
        (None, Measured::Refused { refused }) => Measured::Refused {
            refused: refused.clone(),
        },
        (None, Measured::Value(limits)) => {
            let above = share_at_least(scores, limits[1]);
            Measured::Value(if below { 1.0 - above } else { above })
        }
    };
    let auc = match missing.iter().flatten().next() {
        Some(why) => Measured::Refused {
            refused: why.clone(),
        },
        None => Measured::Value(roc_auc(&accepts, &near_misses).expect("both sides have pairs")),
    };
    Ok(Hard {
        medians,
        accepts: accepts.len(),
        near_misses: near_misses.len(),
        auc,
        true_accept: share(&accepts, &missing[0], false),
        rejection: share(&near_misses, &missing[1], true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::near_miss::Split;

    #[test]
    fn wording_decides_what_is_hard() {
        let mut pairs = Vec::new();
        let mut add = |kind, split, edit_size, score| {
            pairs.push(ScoredPair {
                anchor: "a",
                kind,
                category: "",
                source: "",
                split,
                score,
                edit_size,
                length: 5,
            });
        };
        for split in [Split::Calibration, Split::Test] {
            // Distances 1, 2, 3, 4: the last two are above the median of 2.5.
            for (size, score) in [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.2)] {
                add(Kind::Paraphrase, split, size, score);
            }
            // 1, 1, 2, 3: two below 1.5.
            for (size, score) in [(1, 0.6), (1, 0.1), (2, 0.9), (3, 0.9)] {
                add(Kind::NearMiss, split, size, score);
            }
            // A control sets thresholds, and is never hard.
            add(Kind::Function, split, 9, 0.95);
        }
        let options = Options {
            minimum: 2,
            ..Options::default()
        };
        let found = hard(&pairs, &options).unwrap();
        assert_eq!(found.medians, [2.5, 1.5]);
        assert_eq!((found.accepts, found.near_misses), (2, 2));
        // 0.7 lies above both, 0.2 above one.
        assert_eq!(found.auc, Measured::Value(0.75));
        // The threshold is the lowest accept, 0.2.
        assert_eq!(found.true_accept, Measured::Value(1.0));
        assert_eq!(found.rejection, Measured::Value(0.5));
        let strict = Options {
            minimum: 3,
            ..options
        };
        let found = hard(&pairs, &strict).unwrap();
        assert!(found.auc.value().is_none() && found.rejection.value().is_none());
    }
}
