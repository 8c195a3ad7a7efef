//! What Kang et al. (2025) ask of an ideal embedding, transcribed for sentences and counted.
//!
//! Their four conditions are about a space that images and texts share, where no two of them can hold at once. For
//! embeddings of sentences that theorem says nothing; how often each condition holds, and each pair on the same sentence,
//! can be counted all the same.

use serde::Serialize;

/// Scores of a two-part sentence against what has been done to it. Higher is nearer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SceneScores {
    /// Against its own two content phrases.
    pub own: [f64; 2],
    /// Against content phrases that it does not hold.
    pub foreign: Vec<f64>,
    /// Against a sentence of the same meaning.
    pub paraphrase: f64,
    /// Against itself with the modifiers exchanged.
    pub rebound: f64,
    /// Against itself with another relation, or with the things exchanged in it.
    pub related: Vec<f64>,
    /// Against its negation.
    pub negation: f64,
    /// Against the denial of its negation, which means the same.
    pub double_negation: f64,
    /// Of its negation against an unrelated sentence.
    pub negation_unrelated: f64,
}

/// How far the cosines of the two parts may differ for a sentence to count as balanced.
pub const BALANCE: f64 = 0.1;

/// Names of the conditions that [`Conditions::joint`] pairs.
pub const CONDITIONS: [&str; 4] = ["content", "binding", "relation", "negation"];

/// Shares of sentences that meet each condition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Conditions {
    /// Sentences.
    pub n: usize,
    /// By how much a paraphrase has to win.
    pub margin: f64,
    /// C1: nearer to each of its own phrases than to every foreign one.
    pub content: f64,
    /// C1: equally near to its two phrases, within [`BALANCE`].
    pub balance: f64,
    /// C2: the paraphrase is nearer than the sentence with exchanged modifiers.
    pub binding: f64,
    /// C3: the paraphrase is nearer than every sentence with another relation.
    pub relation: f64,
    /// C4: the paraphrase is nearer than the negation.
    pub negation: f64,
    /// C4, strong: the negation is farther than an unrelated sentence.
    pub strong_negation: f64,
    /// C4: the doubly negated sentence is nearer than the negation.
    pub double_negation: f64,
    /// Both of two [`CONDITIONS`], on the same sentence; the diagonal is each alone.
    pub joint: [[f64; 4]; 4],
    /// All four on the same sentence.
    pub all: f64,
}

/// Counts the conditions, a paraphrase having to win by `margin`. `None` of no scenes.
///
/// Only comparisons of scores with each other enter, but for `balance` and a margin other than 0, whose unit is the
/// score's.
pub fn conditions(scenes: &[SceneScores], margin: f64) -> Option<Conditions> {
    let n = scenes.len();
    let share = |holds: &dyn Fn(&SceneScores) -> bool| {
        scenes.iter().filter(|scene| holds(scene)).count() as f64 / n as f64
    };
    let four = |scene: &SceneScores| {
        let wins = |other: f64| scene.paraphrase >= other + margin;
        let content = |own: &f64| scene.foreign.iter().all(|foreign| own > foreign);
        [
            scene.own.iter().all(content),
            wins(scene.rebound),
            scene.related.iter().all(|&other| wins(other)),
            wins(scene.negation),
        ]
    };
    let both = |i: usize, j: usize| share(&|scene| four(scene)[i] && four(scene)[j]);
    (n > 0).then(|| Conditions {
        n,
        margin,
        content: both(0, 0),
        balance: share(&|scene| (scene.own[0] - scene.own[1]).abs() <= BALANCE),
        binding: both(1, 1),
        relation: both(2, 2),
        negation: both(3, 3),
        strong_negation: share(&|scene| scene.negation < scene.negation_unrelated),
        double_negation: share(&|scene| scene.double_negation >= scene.negation + margin),
        joint: std::array::from_fn(|i| std::array::from_fn(|j| both(i, j))),
        all: share(&|scene| four(scene) == [true; 4]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_by_hand() {
        let ideal = SceneScores {
            own: [0.7, 0.65],
            foreign: vec![0.2, 0.1],
            paraphrase: 0.9,
            rebound: 0.5,
            related: vec![0.6, 0.5],
            negation: 0.1,
            double_negation: 0.8,
            negation_unrelated: 0.2,
        };
        let blind = SceneScores {
            own: [0.7, 0.4],
            rebound: 0.99,
            related: vec![0.5, 0.88],
            negation: 0.95,
            ..ideal.clone()
        };
        let lost = SceneScores {
            foreign: vec![0.1, 0.66],
            ..ideal.clone()
        };
        let found = conditions(&[ideal, blind.clone(), lost, blind], 0.0).unwrap();
        assert_eq!((found.n, found.content, found.balance), (4, 0.75, 0.5));
        assert_eq!((found.binding, found.relation), (0.5, 1.0));
        assert_eq!((found.negation, found.strong_negation), (0.5, 0.5));
        assert_eq!(found.double_negation, 0.5);
        // Binding holds on the first and third scene, content on all but the third.
        assert_eq!(found.joint[0], [0.75, 0.25, 0.75, 0.25]);
        assert_eq!(found.joint[1], [0.25, 0.5, 0.5, 0.5]);
        assert_eq!(found.all, 0.25);

        let stricter = conditions(
            &[SceneScores {
                related: vec![0.86],
                ..lost_margin()
            }],
            0.05,
        );
        assert_eq!(stricter.unwrap().relation, 0.0);
        assert_eq!(conditions(&[], 0.0), None);
    }

    fn lost_margin() -> SceneScores {
        SceneScores {
            own: [0.5; 2],
            foreign: vec![0.5],
            paraphrase: 0.9,
            rebound: 0.85,
            related: Vec::new(),
            negation: 0.0,
            double_negation: 0.0,
            negation_unrelated: 0.0,
        }
    }

    #[test]
    fn a_tie_meets_a_margin_of_zero_but_not_content() {
        let tied = SceneScores {
            paraphrase: 0.85,
            ..lost_margin()
        };
        let found = conditions(&[tied], 0.0).unwrap();
        assert_eq!((found.content, found.binding), (0.0, 1.0));
        assert_eq!((found.double_negation, found.strong_negation), (1.0, 0.0));
    }
}
