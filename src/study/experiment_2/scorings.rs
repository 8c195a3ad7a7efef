//! The scorers that are compared, each with its models of several seeds, and which of them are set beside which.

use serde::Serialize;

use super::measure::Measured;
use super::models::{Model, Positives, Recipe};
use crate::study::changes::Group;
use crate::study::measured::SetMetrics;
use crate::study::pair_scores::POOLED;
use crate::verifier::Kind;

/// A scorer of pairs, and its models of several seeds: a verifier, or an encoder's own cosine.
#[derive(Clone, Debug, Serialize)]
pub struct Scoring {
    /// What tables call it.
    pub name: String,
    /// Whether its scores are cosines.
    pub cosine: bool,
    /// Places of its models, in the order of their seeds.
    pub models: Vec<usize>,
    /// Whether it is the models' encoders, and not their scorers, that score.
    pub encoder: bool,
    /// The place of the scoring whose rankings it re-ranks; `None` for an encoder, which ranks by itself.
    pub first_stage: Option<usize>,
}

/// The scorings of models: of every kind of model its encoder's, if it has one of its own, then its scorer's.
pub fn scorings(models: &[Model]) -> Vec<Scoring> {
    let mut all: Vec<Scoring> = Vec::new();
    for Group { name, models: of } in Group::by_name(models.iter().map(Model::group)) {
        let model = &models[of[0]];
        let mut encoder = 0;
        if model.own_encoder() || model.recipe == Recipe::Pooled {
            encoder = all.len();
            all.push(Scoring {
                name: match model.recipe {
                    Recipe::Pooled => POOLED.into(),
                    _ => format!("{POOLED} of {name}"),
                },
                cosine: true,
                models: of.clone(),
                encoder: true,
                first_stage: None,
            });
        }
        if let Some(kind) = model.verifier() {
            all.push(Scoring {
                name,
                cosine: kind == Kind::MeanCosine,
                models: of,
                encoder: false,
                first_stage: Some(encoder),
            });
        }
    }
    all
}

/// Two scorings that are set beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Beside {
    /// The place of the one.
    pub before: usize,
    /// That of the other.
    pub after: usize,
    /// Whether they differ by the positives of their rows, and not by having been trained.
    pub positives: bool,
}

/// Which scorings are set beside which: what is trained beside what it was before (a scorer without weights beside itself as
/// it is, everything else beside the published encoder's cosine), and paraphrases as positives beside identity.
pub fn contrasts(models: &[Model], scorings: &[Scoring]) -> Vec<Beside> {
    let recipe = |scoring: &Scoring| models[scoring.models[0]].recipe;
    let find = |wanted: Recipe, encoder: bool| {
        let mut places = 0..scorings.len();
        places.find(|&i| scorings[i].encoder == encoder && recipe(&scorings[i]) == wanted)
    };
    let mut all = Vec::new();
    for (after, scoring) in scorings.iter().enumerate() {
        let own = recipe(scoring);
        let itself = match own {
            Recipe::Pooled | Recipe::Untrained(_) => continue,
            Recipe::Trained { verifier, .. } if !scoring.encoder => {
                find(Recipe::Untrained(verifier), false)
            }
            _ => None,
        };
        let before = itself.or_else(|| find(Recipe::Pooled, true));
        all.extend(before.map(|before| Beside {
            before,
            after,
            positives: false,
        }));
    }
    for (after, scoring) in scorings.iter().enumerate() {
        if let Recipe::Trained {
            verifier,
            mode,
            positives: Positives::Paraphrase,
            objective,
        } = recipe(scoring)
        {
            let identity = Recipe::Trained {
                verifier,
                mode,
                positives: Positives::Identity,
                objective,
            };
            let before = find(identity, scoring.encoder);
            all.extend(before.map(|before| Beside {
                before,
                after,
                positives: true,
            }));
        }
    }
    all
}

/// The rankings of a scoring's model.
pub(super) fn rankings_of<'a>(scoring: &Scoring, measured: &'a Measured) -> &'a [SetMetrics] {
    let found = match scoring.encoder {
        true => measured.encoder.as_ref().map(|e| &e.retrieval),
        false => measured.scorer.as_ref().map(|s| &s.retrieval),
    };
    found.map_or(&[], |sets| &sets[..])
}

#[cfg(test)]
mod tests {
    use super::super::models::{Cell, Choice, Mode};
    use super::*;
    use crate::train::pairs::Objective;

    #[test]
    fn what_is_trained_stands_beside_what_it_was() {
        let cells = [Kind::MaxSim, Kind::Transformer].map(|kind| Cell::all(&[kind]));
        let choice = Choice {
            verifiers: vec![Kind::MeanCosine, Kind::MaxSim, Kind::Transformer],
            cells: cells.concat(),
            objectives: vec![Objective::Softmax],
            seeds: vec![1, 2],
        };
        let mut models = choice.models();
        models.push(Model {
            recipe: Recipe::Guard,
            seed: 1,
        });
        let scorings = scorings(&models);
        let names: Vec<&str> = scorings.iter().map(|s| &s.name[..]).collect();
        assert_eq!(
            names,
            [
                "pooled",
                "none",
                "f1",
                "pooled of f1 end-to-end, identity",
                "f1 end-to-end, identity",
                "pooled of f1 end-to-end, paraphrase",
                "f1 end-to-end, paraphrase",
                "f4 frozen, identity",
                "f4 frozen, paraphrase",
                "pooled of f4 end-to-end, identity",
                "f4 end-to-end, identity",
                "pooled of f4 end-to-end, paraphrase",
                "f4 end-to-end, paraphrase",
                "pooled of guard",
                "guard",
            ]
        );
        assert_eq!(scorings[4].models, [3, 4]);
        let firsts: Vec<Option<usize>> = scorings.iter().map(|s| s.first_stage).collect();
        assert_eq!(firsts[..5], [None, Some(0), Some(0), None, Some(3)]);
        assert_eq!(
            (firsts[7], firsts[10], firsts[14]),
            (Some(0), Some(9), Some(13))
        );
        let cosines: Vec<bool> = scorings.iter().map(|s| s.cosine).collect();
        assert_eq!(cosines[..5], [true, true, false, true, false]);
        let pairs = contrasts(&models, &scorings);
        let of = |after: &str| -> Vec<&str> {
            let found = pairs.iter().filter(|pair| names[pair.after] == after);
            found.map(|pair| names[pair.before]).collect()
        };
        assert_eq!(of("f1 end-to-end, identity"), ["f1"]);
        assert_eq!(
            of("f1 end-to-end, paraphrase"),
            ["f1", "f1 end-to-end, identity"]
        );
        assert_eq!(
            of("f4 frozen, paraphrase"),
            ["pooled", "f4 frozen, identity"]
        );
        let encoder = "pooled of f4 end-to-end, paraphrase";
        assert_eq!(of(encoder), ["pooled", "pooled of f4 end-to-end, identity"]);
        assert_eq!(
            (of("guard"), of("pooled of guard")),
            (vec!["pooled"], vec!["pooled"])
        );
        assert!(of("pooled").is_empty() && of("f1").is_empty());
        // Without the scorer as it is, the published cosine takes its place.
        let few = Choice {
            verifiers: vec![Kind::Transformer],
            cells: Cell::all(&[Kind::MaxSim]),
            ..choice
        };
        let models = few.models();
        let scorings = super::scorings(&models);
        let first = contrasts(&models, &scorings)[1];
        assert_eq!((first.before, first.after, first.positives), (0, 2, false));
        assert!(matches!(
            models[1].recipe,
            Recipe::Trained {
                mode: Mode::EndToEnd,
                ..
            }
        ));
    }
}
