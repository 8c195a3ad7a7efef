//! The conditional penalty: what a base scorer finds nearly identical must be confirmed.

use super::Scorer;
use crate::error::Result;
use crate::index::TokenVectors;
use crate::ops::PairList;

/// A base scorer whose high scores must be confirmed by a verifier, see [`conditional_penalty`]; named `BASE-VERIFIER`,
/// as in `f1-f2`.
pub struct ConditionalPenalty {
    /// Scores everything.
    pub base: Box<dyn Scorer>,
    /// Is asked where the base score is high.
    pub verifier: Box<dyn Scorer>,
    /// What the penalty weighs and where it sets in.
    pub penalty: Penalty,
}

/// The constants of [`conditional_penalty`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// Base score at which half of the penalty applies, tau.
    pub threshold: f64,
    /// The most that is taken off per unit of doubt, beta, 0 or more.
    pub weight: f64,
}

impl Default for Penalty {
    fn default() -> Self {
        Penalty {
            threshold: 0.9,
            weight: 0.5,
        }
    }
}

/// `s - beta sigmoid(20 (s - tau)) (1 - clamp(v, -1, 1))` of a base score `s` and a verifier's score `v`: a pair that
/// the base scorer finds nearly identical loses up to `2 beta`, the more the verifier disagrees.
///
/// ```
/// use nearmiss::verifier::{Penalty, conditional_penalty};
/// let confirmed = conditional_penalty(0.95, 1.0, Penalty::default());
/// let doubted = conditional_penalty(0.95, 0.2, Penalty::default());
/// assert!(confirmed == 0.95 && (doubted - 0.657_576_568_5).abs() < 1e-9);
/// ```
pub fn conditional_penalty(s: f64, v: f64, penalty: Penalty) -> f64 {
    let gate = 1.0 / (1.0 + (-20.0 * (s - penalty.threshold)).exp());
    s - penalty.weight * gate * (1.0 - v.clamp(-1.0, 1.0))
}

impl Scorer for ConditionalPenalty {
    fn name(&self) -> String {
        format!("{}-{}", self.base.name(), self.verifier.name())
    }

    fn parameters(&self) -> usize {
        self.base.parameters() + self.verifier.parameters()
    }

    fn constants(&self) -> Vec<(String, f64)> {
        let Penalty { threshold, weight } = self.penalty;
        let mut all = vec![
            ("threshold".to_string(), threshold),
            ("weight".to_string(), weight),
        ];
        for (whose, verifier) in [("base", &self.base), ("verifier", &self.verifier)] {
            let constants = verifier.constants().into_iter();
            all.extend(constants.map(|(name, value)| (format!("{whose} {name}"), value)));
        }
        all
    }

    fn score(&self, q: &TokenVectors, c: &TokenVectors, pairs: &PairList) -> Result<Vec<f32>> {
        let base = self.base.score(q, c, pairs)?;
        let doubts = self.verifier.score(q, c, pairs)?;
        Ok(base
            .into_iter()
            .zip(doubts)
            .map(|(s, v)| conditional_penalty(f64::from(s), f64::from(v), self.penalty) as f32)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_is_that_of_its_formula() {
        let with = |weight| Penalty {
            weight,
            ..Penalty::default()
        };
        for (s, v, weight, expected) in [
            (0.95, 0.2, 1.0, 0.365_153_137_1),
            (0.95, 0.2, 0.5, 0.657_576_568_5),
            (0.5, 0.2, 1.0, 0.499_731_719_9),
            // Beyond [-1, 1] a verifier's score counts as the nearer end.
            (0.9, 7.0, 1.0, 0.9),
            (0.9, -7.0, 1.0, -0.1),
        ] {
            let got = conditional_penalty(s, v, with(weight));
            assert!((got - expected).abs() < 1e-10, "{s} {v} {weight}: {got}");
        }
    }
}
