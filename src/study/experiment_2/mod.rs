//! Experiment 2: which second-stage scorer can tell near-misses apart?
//!
//! ```text
//! rows for retrieval, structural rows -> PairTrainer -> scorer, with or without its encoder    one job per model
//! published encoder: every scorer over it in one pass; each trained encoder: its own scorer   one record per model
//!     first stage by the encoder, 100 candidates re-ranked; near-misses and accepts scored
//! all of them -> second stages, separation, what training changed -> tables, findings          the stage
//! the guard -> OUT/study-guard/verifier, calibrated on pairs kept aside
//! ```
//!
//! Scores have scales of their own (a cosine, a mean of maxima, a tanh), so that means are compared within a scorer alone,
//! and thresholds are each scorer's. A scorer that gives low scores to everything rejects every near-miss: accepts stand
//! beside them everywhere.
//!
//! * [`models`] says which models there are, [`jobs`] trains one, [`guard`] says what the guard is trained on and leaves it.
//! * [`measure`] measures models, [`scorings`] are the scorers of tables, [`compare`] sets these beside each other.

pub mod compare;
pub mod guard;
pub mod jobs;
pub mod measure;
pub mod models;
mod report;
pub mod scorings;

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use compare::{Compared, Comparisons};
use guard::Guard;
use jobs::{Job, Source, TrainConfig};
use measure::{Inputs, Measured, Times, measure_all, untrained};
use models::{Choice, Mode, Model, Recipe};

use super::measured::{RetrievalSet, notes_of, seen};
use super::near_miss::Examples;
use super::pair_scores::Scorers;
use super::results::Setup;
use super::retrieve::RetrieveOptions;
use super::session::Session;
use super::stage::{Report, Stage};
use super::training::data::TrainingData;
use crate::error::Result;
use crate::metrics::near_miss::Options;
use crate::model::BertConfig;
use crate::train::pairs::PairOptions;
use crate::verifier::Calibration;

/// The stage: scorers as they are and trained, on the same questions and pairs.
pub struct Experiment2 {
    /// What is trained on.
    pub data: TrainingData,
    /// Which models there are.
    pub choice: Choice,
    /// Rows of a step; `None` for the protocol's.
    pub batch: Option<usize>,
    /// For so many steps; `None` for as many as the protocol has for scorer and encoder.
    pub steps: Option<u64>,
    /// Steps between two checkpoints, as [`PairOptions::checkpoint_every`].
    pub checkpoint_every: Option<u64>,
    /// Tokens that scorers see of a text, in training too.
    pub scorer_length: usize,
    /// Collections that second stages are compared on.
    pub sets: Vec<RetrievalSet>,
    /// How many candidates they re-rank.
    pub retrieve: RetrieveOptions,
    /// Pairs that scorers are compared on.
    pub near_misses: Vec<Arc<Examples>>,
    /// How near-misses are evaluated; the bootstrap is that of retrieval too.
    pub evaluation: Options,
    /// The guard, if there is to be one.
    pub guard: Option<Guard>,
    /// Of the guard.
    pub seed: u64,
}

/// What the experiment depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct Experiment2Config {
    /// Which stage.
    pub stage: &'static str,
    /// How models are trained.
    pub trained: Vec<TrainConfig>,
    /// SHA-256 over the guard's rows and what it is calibrated on.
    pub guard: Option<String>,
    /// What they are measured on.
    pub inputs: Inputs,
    /// Which collections are about what training rows are about.
    pub in_domain: Vec<bool>,
    /// Which pairs are of which test set of their set.
    pub parts: Vec<Vec<&'static str>>,
    /// Fewest pairs that a rate may rest on.
    pub minimum: usize,
    /// Bootstrap samples and their seed.
    pub bootstrap: [u64; 2],
    /// Folds for thresholds that judge every pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
    /// The published encoder, and the scorers that are compared as they are.
    #[serde(flatten)]
    pub setup: Setup,
}

/// What was found.
pub struct Found {
    /// The models, the published encoder's own cosine first.
    pub models: Vec<Model>,
    /// What was measured of each.
    pub measured: Vec<Measured>,
    /// How long each took in this run.
    pub times: Vec<Times>,
    /// Between scorers.
    pub comparisons: Comparisons,
    /// Where the guard accepts.
    pub calibration: Option<Calibration>,
    /// What is odd about rows.
    pub notes: Vec<String>,
}

impl Experiment2 {
    /// The models, the guard last.
    fn models(&self) -> Vec<Model> {
        let guard = self.guard.as_ref().map(|_| Model {
            recipe: Recipe::Guard,
            seed: self.seed,
        });
        self.choice.models().into_iter().chain(guard).collect()
    }

    /// Tokens that a model's scorer sees of a text.
    fn length_of(&self, model: &Model) -> usize {
        match (&self.guard, model.recipe) {
            (Some(guard), Recipe::Guard) => guard.options.max_length,
            _ => self.scorer_length,
        }
    }

    /// What a model's numbers depend on, the training aside.
    fn setup_of(&self, session: &Session, model: &Model) -> Result<Setup> {
        let scorers = Scorers {
            verifiers: match model.recipe {
                Recipe::Untrained(kind) => vec![untrained(kind, session)?],
                _ => Vec::new(),
            },
            max_length: self.length_of(model),
            token_bytes: 0,
        };
        let mut setup = session.setup(&scorers);
        if model.recipe == Recipe::Pooled {
            // It sees what the encoder sees.
            setup.verifier_max_length = setup.max_length;
        }
        Ok(setup)
    }

    /// The published encoder with the scorers that are looked at as they are.
    fn setup(&self, session: &Session) -> Result<Setup> {
        let models = self.choice.models();
        let plain = models.iter().filter_map(|model| match model.recipe {
            Recipe::Untrained(kind) => Some(untrained(kind, session)),
            _ => None,
        });
        Ok(session.setup(&Scorers {
            verifiers: plain.collect::<Result<_>>()?,
            max_length: self.scorer_length,
            token_bytes: 0,
        }))
    }

    /// How a scorer is trained, but for the seed.
    fn options(&self, config: &BertConfig, recipe: Recipe) -> PairOptions {
        let Recipe::Trained {
            verifier,
            mode,
            objective,
            ..
        } = recipe
        else {
            let guard = self.guard.as_ref();
            return guard.map_or(PairOptions::default(), |guard| guard.options.clone());
        };
        let end_to_end = mode == Mode::EndToEnd;
        let protocol = PairOptions::protocol(config, verifier, end_to_end, self.batch);
        PairOptions {
            objective,
            steps: self.steps.unwrap_or(protocol.steps),
            max_length: self.scorer_length,
            checkpoint_every: self.checkpoint_every,
            ..protocol
        }
    }

    /// The trainings, in the order of the models.
    fn jobs(&self, session: &Session, setup: &Setup) -> Result<Vec<Job<'_>>> {
        let config = session.encoder.config();
        let mut jobs = Vec::new();
        for model in self.models() {
            let source = match (model.recipe, &self.guard) {
                (Recipe::Trained { positives, .. }, _) => Source::Rows(&self.data, positives),
                (Recipe::Guard, Some(guard)) => Source::Guard(&guard.rows),
                _ => continue,
            };
            let Some(verifier) = model.verifier() else {
                continue;
            };
            let options = self.options(config, model.recipe);
            jobs.push(Job::new(model, verifier, source, options, session, setup)?);
        }
        Ok(jobs)
    }

    /// Leaves the guard where it is looked for, unless it is there.
    fn leave_guard(&self, session: &Session, jobs: &[Job<'_>]) -> Result<Option<Calibration>> {
        let job = jobs.iter().find(|job| job.model.recipe == Recipe::Guard);
        let Some((guard, job)) = self.guard.as_ref().zip(job) else {
            return Ok(None);
        };
        if let Some(calibration) = guard.left(session, &job.config) {
            return Ok(Some(calibration));
        }
        let folder = match job.made(session) {
            Some(folder) => folder,
            None => job.run(session)?.0,
        };
        guard.leave(session, &folder, &job.config).map(Some)
    }
}

/// What is odd about a model's rows.
fn notes_of_rows(job: &Job<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let structural = job.config.structural;
    if job.repeated > 0 {
        notes.push(format!(
            "{}: {} of {structural} structural rows come again, since there are fewer than its share",
            job.model, job.repeated
        ));
    }
    if job.without_paraphrase > 0 {
        notes.push(format!(
            "{}: {} of {structural} structural rows have no paraphrase and take the sentence itself as the positive",
            job.model, job.without_paraphrase
        ));
    }
    notes
}

impl Stage for Experiment2 {
    const NAME: &'static str = "experiment-2";
    const ROWS: &'static str = "measured.jsonl";
    type Config = Experiment2Config;
    type Found = Found;

    fn subject<'a>(&'a self, session: &'a Session) -> &'a str {
        &session.backbone.name
    }

    fn inputs(&self) -> Value {
        let collections = self.sets.iter().map(|set| &set.collection.name);
        let pairs = self.near_misses.iter().map(|set| &set.name);
        json!({
            "training": self.data.names,
            "guard_rows": self.guard.as_ref().map(|guard| &guard.rows.name),
            "collections": collections.collect::<Vec<_>>(),
            "pairs": pairs.collect::<Vec<_>>(),
        })
    }

    fn config(&self, session: &Session) -> Experiment2Config {
        // What cannot be opened or trained is reported before anything is named after it.
        let fallback = || {
            session.setup(&Scorers {
                verifiers: Vec::new(),
                max_length: self.scorer_length,
                token_bytes: 0,
            })
        };
        let setup = self.setup(session).unwrap_or_else(|_| fallback());
        let jobs = self.jobs(session, &setup).unwrap_or_default();
        let bootstrap = self.evaluation.bootstrap;
        Experiment2Config {
            stage: Self::NAME,
            trained: jobs.into_iter().map(|job| job.config).collect(),
            guard: self.guard.as_ref().map(Guard::sha256),
            inputs: Inputs::of(self, session),
            in_domain: self.sets.iter().map(|set| set.in_domain).collect(),
            parts: self
                .near_misses
                .iter()
                .map(|set| set.parts.clone())
                .collect(),
            minimum: self.evaluation.minimum,
            bootstrap: [bootstrap.resamples as u64, bootstrap.seed],
            folds: self.evaluation.folds,
            setup,
        }
    }

    fn measure(&self, session: &Session) -> Result<Found> {
        let setup = self.setup(session)?;
        let jobs = self.jobs(session, &setup)?;
        let inputs = Inputs::of(self, session);
        let models = self.models();
        let (measured, times) = measure_all(self, session, &models, &jobs, &inputs)?;
        let calibration = self.leave_guard(session, &jobs)?;
        session.progress.log("comparing models");
        let comparisons = Compared {
            models: &models,
            measured: &measured,
            sets: &self.sets,
            near_misses: &self.near_misses,
            options: &self.evaluation,
            grammar: self.data.grammar,
            threshold: calibration.as_ref().map(|found| found.threshold),
        }
        .compare()?;
        let mut notes: Vec<String> = jobs.iter().flat_map(notes_of_rows).collect();
        if !self.choice.cells.is_empty() {
            let trained = self.data.texts(true);
            notes.extend(seen(
                &trained,
                "training rows",
                &self.sets,
                &self.near_misses,
            ));
        }
        if let Some(guard) = &self.guard {
            let trained = guard.rows.texts();
            notes.extend(seen(
                &trained,
                "the guard's rows",
                &self.sets,
                &self.near_misses,
            ));
        }
        Ok(Found {
            comparisons,
            models,
            measured,
            times,
            calibration,
            notes,
        })
    }

    fn notes(&self, found: &Found) -> Vec<String> {
        let mut notes = self.data.notes.clone();
        notes.extend(self.guard.iter().flat_map(|guard| guard.rows.notes.clone()));
        notes.extend(found.notes.iter().cloned());
        notes.extend(notes_of(&self.sets, &self.near_misses));
        notes.extend(report::notes(found));
        notes
    }

    fn log(&self, found: &Found) -> Vec<String> {
        report::log(found)
    }

    fn markdown(&self, report: &Report<Self>) -> String {
        report::markdown(self, report)
    }

    fn summary(&self, report: &Report<Self>) -> Option<String> {
        Some(report::summary(self, report))
    }

    fn metrics(&self, found: &Found) -> Value {
        report::metrics(self, found)
    }

    fn rows<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = Value> + 'a {
        report::rows(self, found)
    }

    fn times(&self, found: &Found) -> Value {
        report::times(found)
    }
}

#[cfg(test)]
mod tests;
