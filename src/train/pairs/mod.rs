//! Training of scorers of pairs: a verifier over the token vectors of an encoder that stays as it is (frozen), or that is
//! trained with it (end to end).
//!
//! The course of a training, its checkpoints, its curve and its folder are those of the encoder's trainer.

mod mix;
mod objective;
mod protocol;
mod step;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

pub use mix::{MixOptions, Mixture, Sides, mix};
pub use objective::{Contrast, Cost, Objective, PairRow, cost, pairs, sigmoid};
pub use step::{PairStep, Task};

use super::batches::{Packing, TextBatch, rows_sha256};
use super::checkpoint::Identity;
use super::course::{At, Course, Learner};
use super::group::Array;
use super::options::{check_moments, check_positive, check_rates, check_sizes, refuse};
use super::sampler::Sampler;
use super::schedule::Schedule;
use super::trainer::{Progress, default_budget};
use crate::device::Device;
use crate::encoder::{Dropout, Encoder};
use crate::error::{Error, Result};
use crate::model::hub::FetchOptions;
use crate::ops::adamw::AdamW;
use crate::text::TextKind;
use crate::verifier::{Kind, Learned, LoadVerifier, Verifier};

/// The verifier in a training folder, once the training has ended.
pub const VERIFIER: &str = "verifier";

/// Learning rate and weight decay of one of the two models. Decay takes all weights, biases and norms included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Share of a weight that goes per unit of learning rate.
    pub weight_decay: f64,
}

/// What a training is asked for. Everything has a default, which is the protocol's where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairOptions {
    /// What is wanted of scores. Softmax.
    pub objective: Objective,
    /// Rows of a step. 32.
    pub batch: usize,
    /// Steps. 1,125.
    pub steps: u64,
    /// Of the verifier: 1e-4, 0.01.
    pub verifier: Rates,
    /// Of the encoder; `None` leaves it as it is. `None`.
    pub encoder: Option<Rates>,
    /// Share of the steps, rounded down, in which learning rates rise. 0.1.
    pub warmup: f64,
    /// What the moments keep of a step. 0.9, 0.999.
    pub beta: [f64; 2],
    /// Added to the root of the second moment. 1e-8.
    pub eps: f64,
    /// Longest gradient, of either model by itself. 1.
    pub max_norm: f64,
    /// Of the softmax. 0.1.
    pub temperature: f64,
    /// Whether the texts of every pair change places in every second step. No.
    pub swap: bool,
    /// Most tokens of a text. 128.
    pub max_length: usize,
    /// Share of the values dropped in the verifier. 0.1.
    pub dropout: f64,
    /// Whether `f3` has the reference's habit of [`Learned::with_padding`]. No.
    pub padded: bool,
    /// Of batches, masks and first weights. 42.
    pub seed: u64,
    /// Most tokens of a chunk of texts; `None` takes what suits the device.
    pub token_budget: Option<usize>,
    /// Steps between two checkpoints; `None` for as many hundreds as keep what writing them takes below a twentieth of the
    /// time: weights and moments are large, and a GPU trains a hundred steps while they are written.
    pub checkpoint_every: Option<u64>,
}

impl Default for PairOptions {
    fn default() -> Self {
        PairOptions {
            objective: Objective::Softmax,
            batch: 32,
            steps: 1125,
            verifier: Rates {
                learning_rate: 1e-4,
                weight_decay: 0.01,
            },
            encoder: None,
            warmup: 0.1,
            beta: [0.9, 0.999],
            eps: 1e-8,
            max_norm: 1.0,
            temperature: 0.1,
            swap: false,
            max_length: 128,
            dropout: 0.1,
            padded: false,
            seed: 42,
            token_budget: None,
            checkpoint_every: None,
        }
    }
}

impl PairOptions {
    /// Whether every value is one that can be trained with.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first that is not.
    pub fn check(&self) -> Result<()> {
        let share = |value: f64| (0.0..1.0).contains(&value);
        for (setting, value) in [("batch", self.batch as u64), ("steps", self.steps)] {
            if value == 0 {
                refuse(setting, 0, "give 1 or more")?;
            }
        }
        for rates in [Some(self.verifier), self.encoder].into_iter().flatten() {
            check_rates(Some(rates.learning_rate), Some(rates.weight_decay))?;
        }
        if !share(self.warmup) {
            let why = "it is a share of the steps: give 0 to below 1";
            refuse("warmup", self.warmup, why)?;
        }
        check_moments(self.beta)?;
        check_positive(&[
            ("eps", self.eps),
            ("max_norm", self.max_norm),
            ("temperature", self.temperature),
        ])?;
        if !share(self.dropout) {
            refuse("dropout", self.dropout, "give a number from 0 to below 1")?;
        }
        check_sizes(self.max_length, self.token_budget, self.checkpoint_every)
    }

    fn schedule(&self, rates: Rates) -> Schedule {
        Schedule {
            peak: rates.learning_rate,
            steps: self.steps,
            warm_up: self.warmup_steps(),
        }
    }
}

/// Everything that a training's numbers depend on besides the start weights of the encoder.
#[derive(Serialize)]
struct Plan<'a> {
    // The options have their own `verifier`.
    scorer: &'static str,
    width: usize,
    rows_sha256: String,
    rows: usize,
    max_tokens: usize,
    encoder_dropout: [f32; 2],
    #[serde(flatten)]
    options: &'a PairOptions,
}

/// What a training made.
pub struct TrainedPair {
    /// The encoder, changed if it was trained.
    pub encoder: Encoder,
    /// The verifier.
    pub verifier: Learned,
    /// Steps done, by runs before this one too.
    pub steps: u64,
    /// Steps without an update, as their gradients overflowed.
    pub skipped: u64,
    /// Texts of this run that lost their end at the length limit.
    pub truncated: usize,
    /// Whether all steps were done, or it was told to stop before.
    pub finished: bool,
}

/// Trains a scorer of pairs.
///
/// With a [`folder`](PairTrainer::folder) the training can be cut short at any moment, and goes on where it was when it is
/// run again; at the end the folder holds the verifier, as [`Verifier::load`] takes it.
pub struct PairTrainer<'a> {
    encoder: Encoder,
    kind: Kind,
    options: PairOptions,
    encoder_name: Option<String>,
    folder: Option<PathBuf>,
    stop: Option<Arc<AtomicBool>>,
    watch: Box<dyn FnMut(&Progress) + 'a>,
}

impl<'a> PairTrainer<'a> {
    /// A training of a scorer over the token vectors of `encoder`.
    pub fn new(encoder: Encoder, kind: Kind, options: PairOptions) -> Self {
        PairTrainer {
            encoder,
            kind,
            options,
            encoder_name: None,
            folder: None,
            stop: None,
            watch: Box::new(|_| {}),
        }
    }

    /// By what name a verifier over an encoder that stays as it is finds it again; without this call the folder that it
    /// was read from.
    pub fn encoder_name(mut self, name: impl Into<String>) -> Self {
        self.encoder_name = Some(name.into());
        self
    }

    /// Keeps checkpoints and the learning curve in `folder`, goes on from a checkpoint that is there, and at the end
    /// writes the verifier there.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Stops after the step in which `flag` becomes true, with a checkpoint if there is a folder.
    pub fn stop_when(mut self, flag: Arc<AtomicBool>) -> Self {
        self.stop = Some(flag);
        self
    }

    /// Tells `watch` of every step.
    pub fn watch(mut self, watch: impl FnMut(&Progress) + 'a) -> Self {
        self.watch = Box::new(watch);
        self
    }

    /// Trains on `rows`.
    ///
    /// # Errors
    /// As [`PairOptions::check`]; [`Error::Usage`] for a scorer without weights over an encoder that stays as it is;
    /// [`Error::Invalid`] for fewer rows than a batch, for rows that an objective cannot use, and for a loss that is not
    /// finite, with the rows of its batch; [`Error::Input`] for a folder of another training; what the device reports.
    pub fn run<R: PairRow>(self, rows: impl Into<Arc<[R]>>) -> Result<TrainedPair> {
        let rows = rows.into();
        let PairTrainer {
            encoder,
            kind,
            options,
            encoder_name,
            folder,
            stop,
            mut watch,
        } = self;
        options.check()?;
        let encoder_name =
            encoder_name.unwrap_or_else(|| encoder.folder().to_string_lossy().into_owned());
        if options.encoder.is_none() && !kind.learns() {
            return Err(Error::Usage(format!(
                "{kind} has no weights, so there is nothing to train while the encoder stays as it is; train it end to end"
            )));
        }
        if options.objective == Objective::Softmax && R::ACCEPT[0] != R::REJECT[0] {
            return Err(Error::Invalid(
                "the softmax over a batch wants a negative of every anchor; give triplets, or train by binary cross-entropy"
                    .into(),
            ));
        }
        if rows.len() < options.batch {
            return Err(Error::Invalid(format!(
                "{} training rows are fewer than a batch of {}; give more rows or a smaller batch",
                rows.len(),
                options.batch
            )));
        }
        let device = encoder.device().clone();
        let max_tokens = options.max_length.min(encoder.tokenizer().max_length());
        let config = encoder.config();
        let dropout = [config.hidden_dropout, config.attention_dropout];
        let verifier = Learned::start(kind, encoder.token_width(), options.seed, &device)?;
        let verifier = verifier.with_padding(options.padded);
        let end_to_end = options.encoder.is_some();
        let step = PairStep::new(encoder, verifier, end_to_end)?;
        let packing = Packing {
            tokenizer: step.encoder.tokenizer().with_max_length(max_tokens)?,
            token_budget: options.token_budget.unwrap_or(default_budget(&device)),
            kinds: [TextKind::Plain; 2],
        };
        let course = Course {
            sampler: Sampler::new(rows.len(), options.batch, options.seed)?,
            packing,
            steps: options.steps,
            checkpoint_every: options.checkpoint_every,
            folder,
            stop,
            watch: &mut *watch,
            rows: rows.clone(),
        };
        let mut learner = Pairs {
            step,
            options: &options,
            dropout,
            max_tokens,
            encoder_name: &encoder_name,
            rows: std::marker::PhantomData::<R>,
        };
        let outcome = course.run(&mut learner, |learner| {
            // How often it is saved, and how much is on the device at a time, no number depends on.
            let options = PairOptions {
                token_budget: None,
                checkpoint_every: PairOptions::default().checkpoint_every,
                ..options.clone()
            };
            let plan = Plan {
                scorer: kind.name(),
                width: learner.step.encoder.token_width(),
                rows_sha256: rows_sha256(&rows),
                rows: rows.len(),
                max_tokens,
                encoder_dropout: dropout,
                options: &options,
            };
            let weights = learner.step.encoder.weights_sha256()?;
            Identity::new(weights, device.precision(), &plan)
        })?;
        let (encoder, verifier) = learner.step.into_parts();
        Ok(TrainedPair {
            encoder,
            verifier,
            steps: outcome.steps,
            skipped: outcome.skipped,
            truncated: outcome.truncated,
            finished: outcome.steps == options.steps,
        })
    }
}

/// A scorer of pairs that is trained.
struct Pairs<'a, R> {
    step: PairStep,
    options: &'a PairOptions,
    /// Of hidden values and attention probabilities in the encoder.
    dropout: [f32; 2],
    max_tokens: usize,
    encoder_name: &'a str,
    rows: std::marker::PhantomData<R>,
}

impl<R: PairRow> Learner for Pairs<'_, R> {
    type Row = R;

    fn device(&self) -> Device {
        self.step.encoder.device().clone()
    }

    fn arrays(&mut self) -> Result<Vec<(String, Array<'_>)>> {
        self.step.arrays()
    }

    fn limits(&mut self) -> [&mut Option<usize>; 2] {
        [&mut self.step.chunk, &mut self.step.pair_memory]
    }

    fn gradients(&mut self, batch: &TextBatch, at: &At) -> Result<Vec<f32>> {
        let options = self.options;
        let [hidden, attention] = self.dropout;
        let task = Task {
            objective: options.objective,
            temperature: options.temperature,
            swapped: options.swap && at.step % 2 == 1,
            loss_scale: at.loss_scale,
            dropout: Dropout {
                hidden,
                attention,
                seed: options.seed,
                step: at.step,
            },
            rate: options.dropout as f32,
        };
        self.step.gradients::<R>(batch, &task)
    }

    fn update(&mut self, at: &At) -> Result<f32> {
        let options = self.options;
        let settings = |rates: Rates| AdamW {
            learning_rate: options.schedule(rates).rate(at.updates),
            beta: options.beta,
            eps: options.eps as f32,
            weight_decay: rates.weight_decay as f32,
            step: at.updates + 1,
            gradient_factor: at.gradient_factor,
            max_norm: options.max_norm as f32,
        };
        let verifier = settings(options.verifier);
        let encoder = settings(options.encoder.unwrap_or(options.verifier));
        self.step.update(&verifier, &encoder)
    }

    fn learning_rate(&self, updates: u64) -> f32 {
        let rates = [Some(self.options.verifier), self.options.encoder];
        let rate = |rates: Rates| self.options.schedule(rates).rate(updates);
        rates.into_iter().flatten().map(rate).fold(0.0, f32::max)
    }

    fn is_made(&self, folder: &Path) -> bool {
        folder.join(VERIFIER).exists()
    }

    fn take(&mut self, folder: &Path) -> Result<()> {
        // Its encoder was here when it was trained.
        let fetch = FetchOptions {
            offline: true,
            ..FetchOptions::default()
        };
        let options = LoadVerifier {
            fetch,
            ..LoadVerifier::default()
        };
        let saved = Verifier::load_with(&folder.join(VERIFIER), &self.device(), &options)?;
        (self.step.encoder, self.step.verifier) = saved.into_parts();
        Ok(())
    }

    fn leave(&mut self, folder: &Path) -> Result<()> {
        let PairStep {
            encoder, verifier, ..
        } = &self.step;
        let training = serde_json::to_value(self.options)
            .map_err(|e| Error::Invalid(format!("options that are not JSON: {e}")))?;
        let name = match self.options.encoder {
            Some(_) => None,
            None => Some(self.encoder_name),
        };
        let max_length = self.max_tokens;
        Verifier::save(
            &folder.join(VERIFIER),
            encoder,
            name,
            verifier,
            max_length,
            training,
        )
    }
}
