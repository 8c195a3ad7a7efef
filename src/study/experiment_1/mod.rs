//! Experiment 1: what an encoder gains and loses when near-misses become negatives of its training.
//!
//! ```text
//! rows for retrieval, structural rows -> arm (train::arms) -> Trainer -> model    one job per arm and seed
//! every model, the published encoder too -> rankings, near-miss scores, geometry  one job per model
//! all of them -> changes between arms with intervals -> tables                    the stage
//! ```
//!
//! All models are compared on the same queries and the same pairs, with the length limit of the training. Rows are divided
//! once, whatever the seeds: every model has seen the same rows for retrieval, and none those that are held out. A model
//! that is there is not trained again, what was measured is not measured again, and a training that was cut short goes on
//! from its last checkpoint.
//!
//! * [`models`] is the training of one model, [`measure`] what is measured of it.
//! * [`compare`] sets arms beside each other.

pub mod compare;
pub mod measure;
pub mod models;
mod report;

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use compare::{Compared, Comparisons};
use measure::{Before, Inputs, Measured, Times, measured};
use models::{Job, Model, TrainConfig};

use super::changes::resamples;
use super::measured::{RetrievalSet, notes_of, seen};
use super::near_miss::{Examples, fewer_samples};
use super::pair_scores::Scorers;
use super::results::Setup;
use super::session::Session;
use super::stage::{Report, Stage};
use super::training::data::TrainingData;
use crate::error::Result;
use crate::metrics::near_miss::Options;
use crate::train::arms::Arm;
use crate::train::{Length, TrainOptions};

/// The stage: an encoder as published and trained by every arm, on the same questions.
pub struct Experiment1 {
    /// What is trained on.
    pub data: TrainingData,
    /// By which arms, beside none.
    pub arms: Vec<Arm>,
    /// By which seeds.
    pub seeds: Vec<u64>,
    /// For so many steps, of arms that match another's rows more; `None` for as many as the protocol has for the encoder's
    /// size.
    pub steps: Option<u64>,
    /// How, but for seed and length.
    pub options: TrainOptions,
    /// Collections that models are compared on.
    pub sets: Vec<RetrievalSet>,
    /// Pairs that they are compared on.
    pub near_misses: Vec<Arc<Examples>>,
    /// How near-misses are evaluated; the bootstrap is that of retrieval too.
    pub evaluation: Options,
    /// Held-out rows that are compared, at most.
    pub held_out: usize,
    /// Retrieval sentences that the space is described by, at most.
    pub sentences: usize,
    /// Of what is drawn beside the training.
    pub seed: u64,
}

/// What the experiment depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct Experiment1Config {
    /// Which stage.
    pub stage: &'static str,
    /// How models are trained; the published encoder comes first and is none of them.
    pub trained: Vec<TrainConfig>,
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
    /// The encoder as published, with the experiment's length limit.
    #[serde(flatten)]
    pub setup: Setup,
}

/// What was found.
pub struct Found {
    /// The models, the published encoder first.
    pub models: Vec<Model>,
    /// What was measured of each.
    pub measured: Vec<Measured>,
    /// How long each took in this run.
    pub times: Vec<Times>,
    /// Between arms.
    pub comparisons: Comparisons,
    /// What is odd about the arms' rows.
    pub notes: Vec<String>,
}

impl Experiment1 {
    /// The models, the published encoder first, then arm by arm.
    fn models(&self) -> Vec<Model> {
        let trained = self.arms.iter().flat_map(|&arm| {
            self.seeds.iter().map(move |&seed| Model {
                arm: Some(arm),
                seed,
            })
        });
        let published = Model { arm: None, seed: 0 };
        std::iter::once(published).chain(trained).collect()
    }

    /// The published encoder's setup, with the length limit of the training.
    fn setup(&self, session: &Session) -> Setup {
        let limit = self
            .options
            .max_length
            .min(session.encoder.tokenizer().max_length());
        let none = Scorers {
            verifiers: Vec::new(),
            max_length: limit,
            token_bytes: 0,
        };
        let mut setup = session.setup(&none);
        setup.max_length = limit;
        setup
    }

    /// The trainings, in the order of the models.
    fn jobs(&self, session: &Session, setup: &Setup) -> Result<Vec<Job<'_>>> {
        let protocol = TrainOptions::protocol(session.encoder.config(), self.options.batch);
        let options = TrainOptions {
            length: self.steps.map_or(protocol.length, Length::Steps),
            ..self.options.clone()
        };
        let trained = self.models().into_iter().filter_map(|m| Some((m, m.arm?)));
        trained
            .map(|(model, arm)| Job::new(model, arm, &self.data, &options, session, setup))
            .collect()
    }

    fn compared<'a>(&'a self, models: &'a [Model], measured: &'a [Measured]) -> Compared<'a> {
        Compared {
            models,
            measured,
            sets: &self.sets,
            near_misses: &self.near_misses,
            options: &self.evaluation,
            grammar: self.data.grammar,
        }
    }
}

/// What is odd about an arm's rows.
fn notes_of_rows(job: &Job<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let structural = job.config.structural;
    if job.repeated > 0 {
        notes.push(format!(
            "{}: {} of {} structural rows come again, since there are fewer than its share",
            job.model, job.repeated, structural
        ));
    }
    if job.without_paraphrase > 0 {
        notes.push(format!(
            "{}: {} of {} structural rows have no paraphrase and take the sentence itself as the positive",
            job.model, job.without_paraphrase, structural
        ));
    }
    notes
}

impl Stage for Experiment1 {
    const NAME: &'static str = "experiment-1";
    const ROWS: &'static str = "measured.jsonl";
    type Config = Experiment1Config;
    type Found = Found;

    fn subject<'a>(&'a self, session: &'a Session) -> &'a str {
        &session.backbone.name
    }

    fn inputs(&self) -> Value {
        let collections = self.sets.iter().map(|set| &set.collection.name);
        let pairs = self.near_misses.iter().map(|set| &set.name);
        json!({
            "training": self.data.names,
            "collections": collections.collect::<Vec<_>>(),
            "pairs": pairs.collect::<Vec<_>>(),
        })
    }

    fn config(&self, session: &Session) -> Experiment1Config {
        let setup = self.setup(session);
        let jobs = self.jobs(session, &setup);
        // What cannot be trained is reported before anything is named after it.
        let trained = jobs.unwrap_or_default().into_iter().map(|job| job.config);
        let bootstrap = self.evaluation.bootstrap;
        Experiment1Config {
            stage: Self::NAME,
            trained: trained.collect(),
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
        let setup = self.setup(session);
        let jobs = self.jobs(session, &setup)?;
        let inputs = Inputs::of(self, session);
        let models = self.models();
        let mut before = Before::new(self, session, setup.max_length);
        let (mut all, mut times) = (Vec::new(), Vec::new());
        for model in &models {
            let job = jobs.iter().find(|job| job.model == *model);
            let (found, time) = measured(self, session, &setup, &inputs, model, job, &mut before)?;
            all.push(found);
            times.push(time);
        }
        session.progress.log("comparing models");
        let comparisons = self.compared(&models, &all).compare()?;
        let mut notes: Vec<String> = jobs.iter().flat_map(notes_of_rows).collect();
        let structural = self.arms.iter().any(|arm| *arm != Arm::A);
        let trained = self.data.texts(structural);
        notes.extend(seen(
            &trained,
            "training rows",
            &self.sets,
            &self.near_misses,
        ));
        Ok(Found {
            comparisons,
            models,
            measured: all,
            times,
            notes,
        })
    }

    fn notes(&self, found: &Found) -> Vec<String> {
        let mut notes = self.data.notes.clone();
        notes.extend(found.notes.iter().cloned());
        notes.extend(notes_of(&self.sets, &self.near_misses));
        let tests = found.comparisons.tests.iter();
        notes.extend(fewer_samples(tests.flat_map(|test| {
            let evaluations = test.evaluations.iter().filter_map(|e| e.resamples);
            evaluations.chain(resamples(&test.changes))
        })));
        for (model, measured) in found.models.iter().zip(&found.measured) {
            let [documents, queries, pairs] = measured.truncated;
            if model.arm.is_none() && documents + queries + pairs > 0 {
                notes.push(format!(
                    "texts cut at the length limit: {documents} documents, {queries} queries, {pairs} of pairs"
                ));
            }
            let skipped = measured.training.as_ref().map_or(0, |t| t.skipped);
            if skipped > 0 {
                notes.push(format!(
                    "{model}: steps without an update, as gradients overflowed: {skipped}"
                ));
            }
        }
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
