//! What a scorer of pairs is trained for: which pairs of a batch are scored, and what their scores cost.
//!
//! Scores of a batch are few, so losses and their gradients are computed on the host, in f64.

use serde::{Deserialize, Serialize};

use crate::train::batches::Row;

/// What is wanted of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Every anchor is to find its positive among those of the whole batch and its own negative: cross-entropy of a
    /// softmax over the scores divided by the temperature. The paper's.
    Softmax,
    /// The positive is to score above the own negative: the logistic loss of the difference.
    Pairwise,
    /// Each pair by itself is one of equal meaning, or not: binary cross-entropy of the score, scaled and shifted by two
    /// learned numbers. What makes scores comparable from pair to pair, which a threshold needs.
    Binary,
}

impl Objective {
    /// What tables and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Objective::Softmax => "softmax",
            Objective::Pairwise => "pairwise",
            Objective::Binary => "binary",
        }
    }
}

/// A row of which one pair of texts is to be accepted and one to be rejected.
pub trait PairRow: Row {
    /// The texts that mean the same, by their numbers in the row.
    const ACCEPT: [usize; 2];
    /// The texts that do not.
    const REJECT: [usize; 2];
}

impl PairRow for crate::data::triplets::Triplet {
    const ACCEPT: [usize; 2] = [0, 1];
    const REJECT: [usize; 2] = [0, 2];
}

/// A pair of equal meaning and a pair that only resembles one, of any two sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contrast {
    /// Says the same twice.
    pub accept: [String; 2],
    /// Says two things.
    pub reject: [String; 2],
}

impl Row for Contrast {
    const TEXTS: usize = 4;

    fn text(&self, i: usize) -> &str {
        let pairs = [&self.accept, &self.reject];
        &pairs[i / 2][i % 2]
    }
}

impl PairRow for Contrast {
    const ACCEPT: [usize; 2] = [0, 1];
    const REJECT: [usize; 2] = [2, 3];
}

/// The pairs of a batch of `b` rows in the order in which losses want their scores, as numbers of texts (text `i` of row
/// `r` is number `i b + r`). Each inner list is one that the reference scores in one call, on which statistics over
/// several pairs depend.
pub fn pairs<R: PairRow>(objective: Objective, b: usize) -> Vec<Vec<[u32; 2]>> {
    let number = |text: usize, row: usize| (text * b + row) as u32;
    let own = |[first, second]: [usize; 2]| -> Vec<[u32; 2]> {
        let pair = |row| [number(first, row), number(second, row)];
        (0..b).map(pair).collect()
    };
    match objective {
        Objective::Softmax => {
            let [anchor, positive] = R::ACCEPT;
            let of_anchor = |row| {
                let pair = |other| [number(anchor, row), number(positive, other)];
                (0..b).map(pair).collect()
            };
            (0..b).map(of_anchor).chain([own(R::REJECT)]).collect()
        }
        Objective::Pairwise => vec![own(R::ACCEPT), own(R::REJECT)],
        Objective::Binary => vec![[own(R::ACCEPT), own(R::REJECT)].concat()],
    }
}

/// What the scores of a batch cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Of every row; the loss is their mean.
    pub losses: Vec<f64>,
    /// The gradient of the loss in every score.
    pub d_scores: Vec<f64>,
    /// In scale and bias of a score.
    pub d_calibration: [f64; 2],
}

/// Losses and gradients of a batch of `b` rows, its scores in the order of [`pairs`].
pub fn cost(
    objective: Objective,
    b: usize,
    scores: &[f64],
    temperature: f64,
    calibration: [f64; 2],
) -> Cost {
    let mut cost = Cost {
        losses: vec![0.0; b],
        d_scores: vec![0.0; scores.len()],
        d_calibration: [0.0; 2],
    };
    let mean = 1.0 / b as f64;
    match objective {
        Objective::Softmax => {
            for row in 0..b {
                // The candidates of this anchor: all positives, its own negative.
                let places = || (row * b..(row + 1) * b).chain([b * b + row]);
                let logits: Vec<f64> = places().map(|at| scores[at] / temperature).collect();
                let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
                cost.losses[row] = largest + sum.ln() - logits[row];
                for (i, (at, logit)) in places().zip(&logits).enumerate() {
                    let target = if i == row { 1.0 } else { 0.0 };
                    let share = (logit - largest).exp() / sum;
                    cost.d_scores[at] = mean * (share - target) / temperature;
                }
            }
        }
        Objective::Pairwise => {
            for row in 0..b {
                let difference = scores[b + row] - scores[row];
                cost.losses[row] = softplus(difference);
                let slope = mean * sigmoid(difference);
                cost.d_scores[b + row] = slope;
                cost.d_scores[row] = -slope;
            }
        }
        Objective::Binary => {
            let [scale, bias] = calibration;
            for (at, &score) in scores.iter().enumerate() {
                let logit = scale * score + bias;
                let same = at < b;
                let loss = if same {
                    softplus(-logit)
                } else {
                    softplus(logit)
                };
                cost.losses[at % b] += 0.5 * loss;
                let slope = 0.5 * mean * (sigmoid(logit) - if same { 1.0 } else { 0.0 });
                cost.d_scores[at] = slope * scale;
                cost.d_calibration[0] += slope * score;
                cost.d_calibration[1] += slope;
            }
        }
    }
    cost
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::triplets::Triplet;
    use crate::random::Stream;

    const ALL: [Objective; 3] = [Objective::Softmax, Objective::Pairwise, Objective::Binary];

    fn count(objective: Objective, b: usize) -> usize {
        pairs::<Triplet>(objective, b).iter().map(Vec::len).sum()
    }

    #[test]
    fn gradients_are_those_of_the_loss() {
        let b = 3;
        for objective in ALL {
            let mut stream = Stream::new(4, &["scores"], 0);
            let scores: Vec<f64> = (0..count(objective, b)).map(|_| stream.normal()).collect();
            let calibration = [1.7, -0.4];
            let loss = |scores: &[f64], calibration| {
                let cost = cost(objective, b, scores, 0.3, calibration);
                cost.losses.iter().sum::<f64>() / b as f64
            };
            let got = cost(objective, b, &scores, 0.3, calibration);
            let h = 1e-5;
            let near = |got: f64, up: f64, down: f64| {
                assert!(
                    (got - (up - down) / (2.0 * h)).abs() < 1e-8,
                    "{objective:?}: {got}"
                );
            };
            for at in 0..scores.len() {
                let moved = |by| {
                    let mut scores = scores.clone();
                    scores[at] += by;
                    loss(&scores, calibration)
                };
                near(got.d_scores[at], moved(h), moved(-h));
            }
            for at in 0..2 {
                let moved = |by| {
                    let mut calibration = calibration;
                    calibration[at] += by;
                    loss(&scores, calibration)
                };
                near(got.d_calibration[at], moved(h), moved(-h));
            }
        }
    }

    #[test]
    fn pairs_are_those_of_the_rows() {
        // Two rows: anchors 0 and 1, positives 2 and 3, negatives 4 and 5.
        let of = |objective| pairs::<Triplet>(objective, 2);
        assert_eq!(
            of(Objective::Softmax),
            [[[0, 2], [0, 3]], [[1, 2], [1, 3]], [[0, 4], [1, 5]]]
        );
        assert_eq!(
            of(Objective::Pairwise),
            [[[0, 2], [1, 3]], [[0, 4], [1, 5]]]
        );
        assert_eq!(of(Objective::Binary), [[[0, 2], [1, 3], [0, 4], [1, 5]]]);
        let contrasts = pairs::<Contrast>(Objective::Binary, 2);
        assert_eq!(contrasts, [[[0, 2], [1, 3], [4, 6], [5, 7]]]);
        let text = |s: &str| s.to_string();
        let row = Contrast {
            accept: [text("a"), text("b")],
            reject: [text("c"), text("d")],
        };
        assert_eq!([0, 1, 2, 3].map(|i| row.text(i)), ["a", "b", "c", "d"]);
    }

    #[test]
    fn nothing_overflows() {
        for objective in ALL {
            let scores: Vec<f64> = (0..count(objective, 2)).map(|i| 1e4 * i as f64).collect();
            let cost = cost(objective, 2, &scores, 0.1, [10.0, 0.0]);
            assert!(
                cost.losses
                    .iter()
                    .chain(&cost.d_scores)
                    .all(|v| v.is_finite())
            );
        }
    }
}
