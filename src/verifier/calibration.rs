//! The threshold of a verifier: where a score is taken for "the same meaning".

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use crate::metrics::statistics::fewest_accepts;
use crate::metrics::statistics::{roc_auc, share_at_least, threshold};

/// A threshold, what it was chosen from and what it costs there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Scores from here on are accepted.
    pub threshold: f64,
    /// The share of pairs of equal meaning that was to be accepted.
    pub true_accept: f64,
    /// Pairs of equal meaning that it was chosen from.
    pub accepts: usize,
    /// Pairs of another meaning beside them; they have no part in the choice.
    pub rejects: usize,
    /// Share of the former that score at least the threshold.
    pub accepted: f64,
    /// Share of the latter that score below it; `None` without any.
    pub rejected: Option<f64>,
    /// Probability that a pair of equal meaning scores above one of another meaning.
    pub auc: Option<f64>,
}

/// Whether this is a share of pairs that can be asked for.
///
/// # Errors
/// [`Error::Setting`] for one that is not above 0 and below 1.
pub fn check_true_accept(true_accept: f64) -> Result<()> {
    if true_accept > 0.0 && true_accept < 1.0 {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "true_accept",
        message: format!(
            "`true_accept` is {true_accept}; give a share above 0 and below 1, as 0.95"
        ),
    })
}

impl Calibration {
    /// Chooses the threshold that accepts this share of `accepts`; `rejects` say what that costs.
    ///
    /// # Errors
    /// [`Error::Setting`] for a share that is not above 0 and below 1; [`Error::Invalid`] for too few accepts for it
    /// ([`fewest_accepts`]), or a score that is not finite.
    ///
    /// ```
    /// use nearmiss::verifier::Calibration;
    /// let (same, different) = ([0.9, 0.8, 0.7, 0.6], [0.75, 0.1]);
    /// let calibration = Calibration::choose(&same, &different, 0.75)?;
    /// assert_eq!((calibration.threshold, calibration.accepted), (0.7, 0.75));
    /// assert_eq!(calibration.rejected, Some(0.5));
    /// # Ok::<(), nearmiss::Error>(())
    /// ```
    pub fn choose(accepts: &[f64], rejects: &[f64], true_accept: f64) -> Result<Self> {
        check_true_accept(true_accept)?;
        let fewest = fewest_accepts(true_accept);
        if accepts.len() < fewest {
            return Err(Error::Invalid(format!(
                "{} pairs of equal meaning are too few to accept {true_accept} of them; give {fewest} or more, or a lower rate",
                accepts.len()
            )));
        }
        if let Some(score) = accepts
            .iter()
            .chain(rejects)
            .find(|score| !score.is_finite())
        {
            return Err(Error::Invalid(format!(
                "a threshold cannot be chosen from a score of {score}"
            )));
        }
        let threshold = threshold(accepts, true_accept).ok_or_else(|| {
            Error::Invalid("there are no pairs to choose a threshold from".into())
        })?;
        Ok(Calibration {
            threshold,
            true_accept,
            accepts: accepts.len(),
            rejects: rejects.len(),
            accepted: share_at_least(accepts, threshold),
            rejected: (!rejects.is_empty()).then(|| 1.0 - share_at_least(rejects, threshold)),
            auc: roc_auc(accepts, rejects),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_wants_pairs_enough() {
        assert_eq!([0.5, 0.9, 0.95, 0.99].map(fewest_accepts), [2, 10, 20, 100]);
        let scores: Vec<f64> = (0..20).map(f64::from).collect();
        let found = Calibration::choose(&scores, &[], 0.95).unwrap();
        assert_eq!(
            (found.threshold, found.accepted, found.rejected),
            (1.0, 0.95, None)
        );
        let error = Calibration::choose(&scores[1..], &[], 0.95).unwrap_err();
        assert!(error.to_string().contains("give 20 or more"), "{error}");
        for rate in [0.0, 1.0, f64::NAN] {
            assert_eq!(
                Calibration::choose(&scores, &[], rate)
                    .unwrap_err()
                    .exit_code(),
                2
            );
        }
        assert!(Calibration::choose(&[f64::NAN; 30], &[], 0.9).is_err());
    }
}
