//! The models of the experiment, and the training of one.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::encoder::Encoder;
use crate::error::Result;
use crate::study::escape::file_name;
use crate::study::results::{Setup, id};
use crate::study::session::Session;
use crate::study::training::data::TrainingData;
use crate::study::training::{Training, model_folder, stopped, train_again};
use crate::train::arms::Arm;
use crate::train::{Length, Plan, TrainOptions, Trainer};

/// A model that is evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// What it is trained on; `None` for the encoder as published.
    pub arm: Option<Arm>,
    /// Of its training.
    pub seed: u64,
}

impl Model {
    /// What it shares with the same arm's models of other seeds.
    pub fn group(&self) -> String {
        self.arm.map_or("Base".into(), |arm| arm.to_string())
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.arm {
            None => f.write_str("Base"),
            Some(arm) => write!(f, "{arm}, seed {}", self.seed),
        }
    }
}

/// What a trained model depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct TrainConfig {
    /// Which kind of job.
    pub stage: &'static str,
    /// SHA-256 of the order by which rows were divided into those trained on and those held out.
    pub order_sha256: String,
    /// How many of its rows are structural.
    pub structural: usize,
    /// How it is trained.
    pub plan: Plan,
    /// The encoder that it begins with.
    #[serde(flatten)]
    pub setup: Setup,
}

/// The training of a model. Its rows are mixed anew when their turn comes, since there are many trainings.
pub(super) struct Job<'a> {
    pub model: Model,
    pub config: TrainConfig,
    /// Structural rows that are there again, and those without the paraphrase that they were to have.
    pub repeated: usize,
    pub without_paraphrase: usize,
    arm: Arm,
    data: &'a TrainingData,
    options: TrainOptions,
}

impl<'a> Job<'a> {
    /// The training of an arm by a seed. `setup` is the encoder's, with the length limit of the experiment.
    pub fn new(
        model: Model,
        arm: Arm,
        data: &'a TrainingData,
        options: &TrainOptions,
        session: &Session,
        setup: &Setup,
    ) -> Result<Self> {
        let mixed = data.mixed(arm, model.seed)?;
        let options = TrainOptions {
            seed: model.seed,
            length: match options.length {
                Length::Steps(n) => Length::Steps(mixed.steps(n)),
                // Epochs of more rows are more steps.
                epochs => epochs,
            },
            ..options.clone()
        };
        let limit = setup.max_length;
        let plan = options.plan(session.encoder.config(), limit, &mixed.rows, &mixed.own)?;
        Ok(Job {
            model,
            config: TrainConfig {
                stage: "train",
                order_sha256: data.order_sha256.clone(),
                structural: mixed.structural,
                plan,
                setup: setup.clone(),
            },
            repeated: mixed.repeated,
            without_paraphrase: mixed.without_paraphrase,
            arm,
            data,
            options,
        })
    }

    /// The name of its folder.
    pub fn folder(&self, session: &Session) -> String {
        let arm = self.model.group().replace(['(', ')'], "-");
        format!(
            "train-{}-{}-{}-{}",
            file_name(&session.backbone.name),
            arm.trim_end_matches('-'),
            self.model.seed,
            id(&self.config)
        )
    }

    /// Trains it, or takes it from its folder if it is there; what was begun is gone on with.
    pub fn run(&self, session: &Session) -> Result<(Encoder, Training, Duration)> {
        let folder = session.out.join(self.folder(session));
        let mut task = Training::task(session, &self.model.to_string(), self.config.plan.steps);
        let rows = self.data.mixed(self.arm, self.model.seed)?;
        let listening = session.interrupt.listen();
        // With its own limit: the training's is written into the model, for all that read it.
        let limit = session.encoder.tokenizer().max_length();
        let encoder = session.load(&session.backbone.folder, Some(limit))?;
        let options = session.training_options(self.options.clone(), &encoder);
        let trained = Trainer::new(encoder, options)
            .own_negatives(rows.own)
            .folder(&folder)
            .stop_when(listening.flag())
            .watch(|progress| task.step(progress))
            .run(rows.rows)?;
        drop(listening);
        let time = task.finish();
        if !trained.finished() {
            return Err(stopped(trained.steps, trained.plan.steps, &folder));
        }
        let training = Training::of(&folder, trained.steps, trained.skipped)?;
        drop(trained);
        let limit = Some(self.config.setup.max_length);
        let encoder = session.load(&model_folder(&folder), limit);
        let encoder = encoder.map_err(|e| train_again(e, &folder))?;
        Ok((encoder, training, time))
    }
}
