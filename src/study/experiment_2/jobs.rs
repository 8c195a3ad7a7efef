//! The training of one model.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::guard::GuardRows;
use super::models::{Model, Positives};
use crate::data::triplets;
use crate::error::{Error, Result};
use crate::model::hub::{Backbone, BackboneSource, KNOWN};
use crate::study::escape::file_name;
use crate::study::results::{Setup, id};
use crate::study::session::Session;
use crate::study::training::data::TrainingData;
use crate::study::training::{Training, stopped};
use crate::train::pairs::{PairOptions, PairTrainer, VERIFIER};
use crate::train::rows_sha256;
use crate::verifier::Kind;

/// What a trained model depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct TrainConfig {
    /// Which kind of job.
    pub stage: &'static str,
    /// Which scorer.
    pub verifier: &'static str,
    /// SHA-256 of its rows, in their order.
    pub rows_sha256: String,
    /// How many they are.
    pub rows: usize,
    /// How many of them are structural.
    pub structural: usize,
    /// How it is trained.
    pub options: PairOptions,
    /// Dropout of hidden values and of attention probabilities, where the encoder is trained.
    pub encoder_dropout: Option<[f32; 2]>,
    /// The encoder that it begins with.
    #[serde(flatten)]
    pub setup: Setup,
}

/// What a model is trained on.
pub(super) enum Source<'a> {
    /// Rows of the experiment, mixed when their turn comes.
    Rows(&'a TrainingData, Positives),
    /// Those of the guard.
    Guard(&'a GuardRows),
}

/// The training of a model.
pub(super) struct Job<'a> {
    pub model: Model,
    pub config: TrainConfig,
    /// Structural rows that are there again, and those without the paraphrase that they were to have.
    pub repeated: usize,
    pub without_paraphrase: usize,
    verifier: Kind,
    source: Source<'a>,
    options: PairOptions,
}

impl<'a> Job<'a> {
    /// The training of a model by `options`, which say nothing of its seed. `setup` is that of the published encoder.
    pub fn new(
        model: Model,
        verifier: Kind,
        source: Source<'a>,
        options: PairOptions,
        session: &Session,
        setup: &Setup,
    ) -> Result<Self> {
        let options = PairOptions {
            seed: model.seed,
            ..options
        };
        options.check()?;
        let (rows_sha256, rows, structural, odd) = match &source {
            Source::Rows(data, positives) => {
                let mixed = data.mixed(positives.arm(), model.seed)?;
                let odd = [mixed.repeated, mixed.without_paraphrase];
                let sha256 = triplets::sha256(&mixed.rows);
                (sha256, mixed.rows.len(), mixed.structural, odd)
            }
            Source::Guard(guard) => {
                let rows = &guard.rows;
                (rows_sha256(rows), rows.len(), rows.len(), [0, 0])
            }
        };
        if rows < options.batch {
            return Err(Error::Invalid(format!(
                "{rows} training rows are fewer than a batch of {}; give more rows or a smaller batch",
                options.batch
            )));
        }
        let config = session.encoder.config();
        let dropout = [config.hidden_dropout, config.attention_dropout];
        // The first stage's limit is none of the training's.
        let limit = options.max_length.min(setup.max_length);
        let setup = Setup {
            max_length: limit,
            verifiers: Vec::new(),
            verifier_max_length: limit,
            ..setup.clone()
        };
        Ok(Job {
            model,
            config: TrainConfig {
                stage: "train-verifier",
                verifier: verifier.name(),
                rows_sha256,
                rows,
                structural,
                encoder_dropout: options.encoder.map(|_| dropout),
                // How often it is saved, and how much is on the device at a time, no number depends on.
                options: PairOptions {
                    token_budget: None,
                    checkpoint_every: PairOptions::default().checkpoint_every,
                    ..options.clone()
                },
                setup,
            },
            repeated: odd[0],
            without_paraphrase: odd[1],
            verifier,
            source,
            options,
        })
    }

    /// The name of its folder.
    pub fn folder(&self, session: &Session) -> String {
        format!(
            "train-{}-{}-{}-{}",
            file_name(&session.backbone.name),
            self.model.slug(),
            self.model.seed,
            id(&self.config)
        )
    }

    /// The folder of the verifier, if it was trained before.
    pub fn made(&self, session: &Session) -> Option<PathBuf> {
        let folder = session.out.join(self.folder(session)).join(VERIFIER);
        folder.exists().then_some(folder)
    }

    /// Trains it, or takes it from its folder if it is there; what was begun is gone on with. Returns the folder of the
    /// verifier.
    pub fn run(&self, session: &Session) -> Result<(PathBuf, Training, Duration)> {
        let folder = session.out.join(self.folder(session));
        let steps = self.options.steps;
        let mut task = Training::task(session, &self.model.to_string(), steps);
        let listening = session.interrupt.listen();
        let limit = session.encoder.tokenizer().max_length();
        let encoder = session.load(&session.backbone.folder, Some(limit))?;
        let options = session.pair_options(self.options.clone(), &encoder);
        let trainer = PairTrainer::new(encoder, self.verifier, options)
            .encoder_name(found_again(&session.backbone))
            .folder(&folder)
            .stop_when(listening.flag())
            .watch(|progress| task.step(progress));
        let trained = match &self.source {
            Source::Rows(data, positives) => {
                trainer.run(data.mixed(positives.arm(), self.model.seed)?.rows)?
            }
            Source::Guard(guard) => trainer.run(guard.rows.clone())?,
        };
        drop(listening);
        let time = task.finish();
        if !trained.finished {
            return Err(stopped(trained.steps, steps, &folder));
        }
        let training = Training::of(&folder, trained.steps, trained.skipped)?;
        Ok((folder.join(VERIFIER), training, time))
    }
}

/// By what a verifier over the published encoder finds it again, from whatever folder it is asked.
fn found_again(backbone: &Backbone) -> String {
    let known = KNOWN.iter().any(|(name, _)| *name == backbone.name);
    if known && backbone.source != BackboneSource::Folder {
        return backbone.name.clone();
    }
    let folder = &backbone.folder;
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
    whole.to_string_lossy().into_owned()
}
