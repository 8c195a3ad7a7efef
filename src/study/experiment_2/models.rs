//! The models of the experiment, by how they come about.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::study::pair_scores::POOLED;
use crate::train::arms::Arm;
use crate::train::pairs::Objective;
use crate::verifier::Kind;

/// What of a scorer and its encoder is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Mode {
    /// The scorer, over an encoder that stays as it is.
    Frozen,
    /// Both.
    EndToEnd,
}

/// What the positives of structural rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Positives {
    /// The sentence itself: arm B of experiment 1.
    Identity,
    /// A paraphrase of it: arm B-para.
    Paraphrase,
}

impl Positives {
    /// The arm whose rows these are.
    pub(super) fn arm(self) -> Arm {
        match self {
            Positives::Identity => Arm::B,
            Positives::Paraphrase => Arm::BPara,
        }
    }
}

/// Names of values on the command line and in tables.
macro_rules! named {
    ($type:ident, $what:literal, $($name:literal => $value:ident),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $($type::$value => $name),+
                })
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                match name {
                    $($name => Ok($type::$value),)+
                    _ => Err(Error::Usage(format!(
                        concat!("there is no ", $what, " `{}`: choose from {}"),
                        name,
                        [$($name),+].join(", ")
                    ))),
                }
            }
        }
    };
}

named!(Mode, "training", "frozen" => Frozen, "end-to-end" => EndToEnd);
named!(Positives, "kind of positives", "identity" => Identity, "paraphrase" => Paraphrase);

/// How a model comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// The published encoder by its own cosine.
    Pooled,
    /// A scorer as it is, over the published encoder.
    Untrained(Kind),
    /// A scorer that is trained on the experiment's rows.
    Trained {
        /// Which.
        verifier: Kind,
        /// With or without its encoder.
        mode: Mode,
        /// What the rows have for positives.
        positives: Positives,
        /// What is wanted of scores.
        objective: Objective,
    },
    /// The guard.
    Guard,
}

/// A model that is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// How it comes about.
    pub recipe: Recipe,
    /// Of its training; 0 without one.
    pub seed: u64,
}

impl Model {
    /// One that is not trained.
    fn published(recipe: Recipe) -> Self {
        Model { recipe, seed: 0 }
    }

    /// What it shares with the same recipe's models of other seeds.
    pub fn group(&self) -> String {
        match self.recipe {
            Recipe::Pooled => POOLED.into(),
            Recipe::Untrained(kind) => kind.to_string(),
            Recipe::Guard => "guard".into(),
            Recipe::Trained {
                verifier,
                mode,
                positives,
                objective,
            } => {
                let objective = match objective {
                    Objective::Softmax => String::new(),
                    other => format!(", {}", other.name()),
                };
                format!("{verifier} {mode}, {positives}{objective}")
            }
        }
    }

    /// Its scorer; `None` for an encoder's own cosine. The guard's is the Transformer.
    pub fn verifier(&self) -> Option<Kind> {
        match self.recipe {
            Recipe::Pooled => None,
            Recipe::Untrained(kind) | Recipe::Trained { verifier: kind, .. } => Some(kind),
            Recipe::Guard => Some(Kind::Transformer),
        }
    }

    /// Whether it has an encoder of its own, which was trained with its scorer.
    pub fn own_encoder(&self) -> bool {
        match self.recipe {
            Recipe::Pooled | Recipe::Untrained(_) => false,
            Recipe::Trained { mode, .. } => mode == Mode::EndToEnd,
            Recipe::Guard => true,
        }
    }

    /// Whether it is trained.
    pub fn trained(&self) -> bool {
        matches!(self.recipe, Recipe::Trained { .. } | Recipe::Guard)
    }

    /// Its name in those of folders.
    pub fn slug(&self) -> String {
        self.group().replace(", ", "-").replace(' ', "-")
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.group())?;
        match self.trained() {
            true => write!(f, ", seed {}", self.seed),
            false => Ok(()),
        }
    }
}

/// A scorer that is trained in some way, on rows of each of some kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Which.
    pub verifier: Kind,
    /// With or without its encoder.
    pub mode: Mode,
    /// What the rows have for positives, one model each.
    pub positives: Vec<Positives>,
}

impl Cell {
    /// Every way to train these scorers: those without weights with their encoder alone.
    pub fn all(verifiers: &[Kind]) -> Vec<Self> {
        let of = |&verifier: &Kind| {
            let modes = [Mode::Frozen, Mode::EndToEnd].into_iter();
            let possible = modes.filter(move |mode| *mode == Mode::EndToEnd || verifier.learns());
            possible.map(move |mode| Cell {
                verifier,
                mode,
                positives: vec![Positives::Identity, Positives::Paraphrase],
            })
        };
        verifiers.iter().flat_map(of).collect()
    }
}

/// Which models are compared.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Scorers; those without weights are looked at as they are.
    pub verifiers: Vec<Kind>,
    /// What is trained.
    pub cells: Vec<Cell>,
    /// What is wanted of scores, one model each.
    pub objectives: Vec<Objective>,
    /// Of trainings, one model each.
    pub seeds: Vec<u64>,
}

impl Choice {
    /// The published encoder's own cosine, the scorers as they are, then what is trained.
    pub fn models(&self) -> Vec<Model> {
        let mut models = vec![Model::published(Recipe::Pooled)];
        let plain = self.verifiers.iter().filter(|kind| !kind.learns());
        models.extend(plain.map(|&kind| Model::published(Recipe::Untrained(kind))));
        for cell in &self.cells {
            for &objective in &self.objectives {
                for &positives in &cell.positives {
                    let recipe = Recipe::Trained {
                        verifier: cell.verifier,
                        mode: cell.mode,
                        positives,
                        objective,
                    };
                    let of_seed = |&seed: &u64| Model { recipe, seed };
                    models.extend(self.seeds.iter().map(of_seed));
                }
            }
        }
        models
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_say_what_a_model_is() {
        for mode in [Mode::Frozen, Mode::EndToEnd] {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
        }
        for positives in [Positives::Identity, Positives::Paraphrase] {
            assert_eq!(
                positives.to_string().parse::<Positives>().unwrap(),
                positives
            );
        }
        let error = "frosen".parse::<Mode>().unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        let choice = Choice {
            verifiers: vec![Kind::MaxSim, Kind::Transformer],
            cells: Cell::all(&[Kind::MaxSim, Kind::Transformer]),
            objectives: vec![Objective::Softmax, Objective::Binary],
            seeds: vec![1, 2],
        };
        let models = choice.models();
        let of_first: Vec<String> = models
            .iter()
            .filter(|model| model.seed < 2)
            .map(Model::to_string)
            .collect();
        assert_eq!(
            of_first,
            [
                "pooled",
                "f1",
                "f1 end-to-end, identity, seed 1",
                "f1 end-to-end, paraphrase, seed 1",
                "f1 end-to-end, identity, binary, seed 1",
                "f1 end-to-end, paraphrase, binary, seed 1",
                "f4 frozen, identity, seed 1",
                "f4 frozen, paraphrase, seed 1",
                "f4 frozen, identity, binary, seed 1",
                "f4 frozen, paraphrase, binary, seed 1",
                "f4 end-to-end, identity, seed 1",
                "f4 end-to-end, paraphrase, seed 1",
                "f4 end-to-end, identity, binary, seed 1",
                "f4 end-to-end, paraphrase, binary, seed 1",
            ]
        );
        assert_eq!(models.len(), 2 + 2 * 12);
        assert_eq!(models[4].slug(), "f1-end-to-end-paraphrase");
        let encoders = models.iter().filter(|model| model.own_encoder());
        assert_eq!(encoders.count(), 2 * 8);
        assert_eq!(models.iter().filter(|model| model.trained()).count(), 24);
    }
}
