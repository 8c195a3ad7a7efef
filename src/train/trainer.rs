//! From triplets to a trained encoder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::batches::{Packing, TextBatch};
use super::checkpoint::Identity;
use super::course::{At, Course, Learner};
use super::curve::Point;
use super::group::Array;
use super::options::{Plan, TrainOptions};
use super::sampler::Sampler;
use super::step::{Objective, Step};
use crate::data::triplets::Triplet;
use crate::device::{Device, DeviceKind};
use crate::encoder::{Dropout, Encoder};
use crate::error::Result;
use crate::ops::adamw::AdamW;
use crate::text::TextKind;

/// The model in a training folder, once the training has ended.
pub const MODEL: &str = "model";

/// The picture of the curve there.
pub const PICTURE: &str = "curve.svg";

/// Trains an encoder with in-batch negatives.
///
/// ```
/// use nearmiss::{Device, encoder::{Encoder, LoadOptions}, text::TextKind};
/// use nearmiss::data::{Category, triplets::Triplet};
/// use nearmiss::train::{Length, TrainOptions, Trainer};
///
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-2x64");
/// let encoder = Encoder::load(&folder, &Device::cpu(), LoadOptions::default())?;
/// let row = |anchor: &str, positive: &str, negative: &str, category| Triplet {
///     anchor: anchor.into(),
///     positive: positive.into(),
///     negative: negative.into(),
///     category,
/// };
/// let triplets = vec![
///     row("the dog sees the cat", "the cat is seen by the dog", "the cat sees the dog", Category::Role),
///     row("the door is open", "the open door", "the door is not open", Category::Negation),
/// ];
/// let options = TrainOptions { batch: 2, length: Length::Steps(5), ..TrainOptions::default() };
/// let trained = Trainer::new(encoder, options).run(triplets)?;
/// trained.encoder.embed(&["the dog sees the cat"], TextKind::Document)?;
/// # Ok::<(), nearmiss::Error>(())
/// ```
///
/// With a [`folder`](Trainer::folder) the training can be cut short at any moment, by a kill too, and goes on where it
/// was when it is run again.
pub struct Trainer<'a> {
    encoder: Encoder,
    options: TrainOptions,
    own: Vec<bool>,
    folder: Option<PathBuf>,
    stop: Option<Arc<AtomicBool>>,
    watch: Box<dyn FnMut(&Progress) + 'a>,
}

/// How far a training is, after a step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The step.
    pub point: Point,
    /// Steps in all.
    pub steps: u64,
    /// Seconds that are left at the pace of the steps of this run.
    pub seconds_left: f64,
}

/// What a training made.
pub struct Trained {
    /// The encoder with its weights as they are now; [`Encoder::save`] writes it.
    pub encoder: Encoder,
    /// What was done.
    pub plan: Plan,
    /// Steps done, by runs before this one too.
    pub steps: u64,
    /// Steps without an update, as their gradients overflowed.
    pub skipped: u64,
    /// Texts of this run that lost their end at the length limit.
    pub truncated: usize,
}

impl Trained {
    /// Whether all steps were done, or it was told to stop before.
    pub fn finished(&self) -> bool {
        self.steps == self.plan.steps
    }
}

impl<'a> Trainer<'a> {
    /// A training of `encoder`.
    pub fn new(encoder: Encoder, options: TrainOptions) -> Self {
        Trainer {
            encoder,
            options,
            own: Vec::new(),
            folder: None,
            stop: None,
            watch: Box::new(|_| {}),
        }
    }

    /// Makes the negatives of some rows candidates for their own anchors alone: `own` says of every row whether its is.
    pub fn own_negatives(mut self, own: Vec<bool>) -> Self {
        self.own = own;
        self
    }

    /// Keeps checkpoints and the learning curve in `folder`, goes on from a checkpoint that is there, and at the end
    /// writes the model folder `model` in it.
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
    /// As [`TrainOptions::plan`], [`FolderLock::take`](super::FolderLock::take) and [`Snapshot::open`](super::Snapshot::open); [`Error::Input`](crate::Error::Input) for a folder with a model
    /// that is not this training's; [`Error::Invalid`](crate::Error::Invalid) for a loss that is not finite, with the rows of its batch; what
    /// the device reports.
    pub fn run(self, rows: impl Into<Arc<[Triplet]>>) -> Result<Trained> {
        let rows = rows.into();
        let Trainer {
            encoder,
            options,
            own,
            folder,
            stop,
            mut watch,
        } = self;
        let limit = encoder.tokenizer().max_length();
        let plan = options.plan(encoder.config(), limit, &rows, &own)?;
        let step = Step::new(encoder)?;
        let device = step.encoder.device().clone();
        let sampler = if plan.distinct {
            Sampler::distinct(&rows, plan.batch, plan.seed)?
        } else {
            Sampler::new(rows.len(), plan.batch, plan.seed)?
        };
        let packing = Packing {
            tokenizer: step.encoder.tokenizer().with_max_length(plan.max_length)?,
            token_budget: options.token_budget.unwrap_or(default_budget(&device)),
            kinds: if plan.prompts {
                [TextKind::Query, TextKind::Document]
            } else {
                [TextKind::Plain; 2]
            },
        };
        let course = Course {
            rows,
            sampler,
            packing,
            steps: plan.steps,
            checkpoint_every: options.checkpoint_every,
            folder,
            stop,
            watch: &mut *watch,
        };
        let mut learner = Contrastive {
            step,
            pairs: None,
            plan: &plan,
            own: &own,
        };
        let outcome = course.run(&mut learner, |learner| {
            let weights = learner.step.encoder.weights_sha256()?;
            Identity::new(weights, device.precision(), &plan)
        })?;
        let mut encoder = learner.step.into_encoder();
        if outcome.steps == plan.steps {
            // What it was not trained beyond it is not to be used beyond, as sentence-transformers has it.
            encoder.set_max_length(plan.max_length)?;
        }
        Ok(Trained {
            encoder,
            steps: outcome.steps,
            skipped: outcome.skipped,
            truncated: outcome.truncated,
            plan,
        })
    }
}

/// An encoder that is trained with in-batch negatives.
struct Contrastive<'a> {
    step: Step,
    /// There are no pairs.
    pairs: Option<usize>,
    plan: &'a Plan,
    own: &'a [bool],
}

impl Learner for Contrastive<'_> {
    type Row = Triplet;

    fn device(&self) -> Device {
        self.step.encoder.device().clone()
    }

    fn arrays(&mut self) -> Result<Vec<(String, Array<'_>)>> {
        self.step.arrays()
    }

    fn limits(&mut self) -> [&mut Option<usize>; 2] {
        [&mut self.step.chunk, &mut self.pairs]
    }

    fn gradients(&mut self, batch: &TextBatch, at: &At) -> Result<Vec<f32>> {
        let [hidden, attention] = self.plan.dropout.map(|rate| rate as f32);
        let objective = Objective {
            scale: self.plan.scale as f32,
            loss_scale: at.loss_scale,
            dropout: Dropout {
                hidden,
                attention,
                seed: self.plan.seed,
                step: at.step,
            },
            own: self.own,
        };
        self.step.gradients(batch, &objective)
    }

    fn update(&mut self, at: &At) -> Result<f32> {
        let plan = self.plan;
        let settings = AdamW {
            learning_rate: self.learning_rate(at.updates),
            beta: plan.beta,
            eps: plan.eps as f32,
            weight_decay: plan.weight_decay as f32,
            step: at.updates + 1,
            gradient_factor: at.gradient_factor,
            max_norm: plan.max_norm as f32,
        };
        self.step.update(&settings)
    }

    fn learning_rate(&self, updates: u64) -> f32 {
        self.plan.schedule().rate(updates)
    }

    fn is_made(&self, folder: &Path) -> bool {
        folder.join(MODEL).exists()
    }

    fn take(&mut self, folder: &Path) -> Result<()> {
        self.step.encoder.read_weights(&folder.join(MODEL))
    }

    fn leave(&mut self, folder: &Path) -> Result<()> {
        let encoder = &mut self.step.encoder;
        encoder.set_max_length(self.plan.max_length)?;
        encoder.save(&folder.join(MODEL))
    }
}

/// Tokens of a chunk whose activations, kept for the backward, leave room on most devices of a kind: about 150 KB a token
/// for six layers of width 384 in f32, 90 KB in f16.
pub(super) fn default_budget(device: &Device) -> usize {
    match device.kind() {
        DeviceKind::Cpu => 8192,
        _ if device.is_software() => 2048,
        _ => 65_536,
    }
}
