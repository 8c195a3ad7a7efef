//! From triplets to a trained encoder.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::batches::{Batches, Packing, TripletBatch};
use super::checkpoint::{self, CHECKPOINT, Identity, Snapshot, State};
use super::curve::{self, CURVE, Curve, Point};
use super::lock::FolderLock;
use super::options::{Plan, TrainOptions};
use super::sampler::{Position, Sampler};
use super::scale::LossScale;
use super::step::{Objective, Step};
use crate::data::triplets::Triplet;
use crate::device::{Device, DeviceKind, Precision};
use crate::encoder::{Dropout, Encoder};
use crate::error::{Error, Result};
use crate::ops::adamw::AdamW;
use crate::text::TextKind;

/// The model in a training folder, once the training has ended.
pub const MODEL: &str = "model";

/// The picture of the curve there.
pub const PICTURE: &str = "curve.svg";

/// A loss scale below which gradients that still overflow are those of a training that has gone wrong.
const LEAST_SCALE: f32 = 1.0 / 1024.0;

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
    /// As [`TrainOptions::plan`], [`FolderLock::take`] and [`Snapshot::open`]; [`Error::Input`] for a folder with a model
    /// that is not this training's; [`Error::Invalid`] for a loss that is not finite, with the rows of its batch; what
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
        let lock = folder.as_deref().map(FolderLock::take).transpose()?;
        let mut step = Step::new(encoder)?;
        let device = step.encoder.device().clone();
        let mut run = Run {
            state: State {
                step: 0,
                updates: 0,
                sampler: Position::default(),
                scale: LossScale::new(device.precision()),
                chunk: None,
            },
            files: None,
        };
        if let Some(folder) = &folder {
            let identity = Identity::new(step.weights_sha256()?, device.precision(), &plan)?;
            run.resume(folder, identity, plan.steps, &mut step)?;
        }
        let mut truncated = 0;
        if run.state.step < plan.steps {
            let mut sampler = if plan.distinct {
                Sampler::distinct(&rows, plan.batch, plan.seed)?
            } else {
                Sampler::new(rows.len(), plan.batch, plan.seed)?
            };
            sampler.seek(run.state.sampler)?;
            let packing = Packing {
                tokenizer: step.encoder.tokenizer().with_max_length(plan.max_length)?,
                token_budget: options.token_budget.unwrap_or(default_budget(&device)),
                kinds: if plan.prompts {
                    [TextKind::Query, TextKind::Document]
                } else {
                    [TextKind::Plain; 2]
                },
            };
            let mut batches = Batches::start(Arc::clone(&rows), sampler, packing)?;
            let (started, first) = (Instant::now(), run.state.step);
            while run.state.step < plan.steps {
                let begun = Instant::now();
                let batch = batches.next_batch()?;
                truncated += batch.truncated;
                let mut point = run.step(&mut step, &batch, &plan, &own)?;
                point.tokens_per_second = batch.tokens as f32 / begun.elapsed().as_secs_f32();
                if let Some(files) = &mut run.files {
                    files.curve.push(&point)?;
                }
                let done = (run.state.step - first) as f64;
                watch(&Progress {
                    point,
                    steps: plan.steps,
                    seconds_left: started.elapsed().as_secs_f64() / done
                        * (plan.steps - run.state.step) as f64,
                });
                let stopped = stop
                    .as_ref()
                    .is_some_and(|flag| flag.load(Ordering::Relaxed));
                let due = run.state.step.is_multiple_of(options.checkpoint_every);
                if stopped || due || run.state.step == plan.steps {
                    run.save(&mut step)?;
                }
                if stopped {
                    break;
                }
            }
        }
        if run.state.step == plan.steps {
            // What it was not trained beyond it is not to be used beyond, as sentence-transformers has it.
            step.encoder.set_max_length(plan.max_length)?;
            run.finish(&step)?;
        }
        drop(lock);
        Ok(Trained {
            encoder: step.into_encoder(),
            plan,
            steps: run.state.step,
            skipped: run.state.step - run.state.updates,
            truncated,
        })
    }
}

/// A training on its way.
struct Run {
    state: State,
    files: Option<Files>,
}

/// What it keeps in its folder.
struct Files {
    folder: PathBuf,
    identity: Identity,
    curve: Curve,
}

impl Run {
    /// Goes on from what is in `folder`.
    fn resume(
        &mut self,
        folder: &Path,
        identity: Identity,
        steps: u64,
        step: &mut Step,
    ) -> Result<()> {
        let snapshot = Snapshot::open(&folder.join(CHECKPOINT), &identity)?;
        let model = folder.join(MODEL);
        match snapshot {
            None if model.exists() => {
                return Err(Error::input(
                    model,
                    "a model is here already, without a checkpoint of this training; name another folder",
                ));
            }
            None => {}
            Some(snapshot) => {
                self.state = snapshot.state().clone();
                step.chunk = self.state.chunk;
                if self.state.step == steps && model.exists() {
                    step.encoder.read_weights(&model)?;
                } else {
                    for (name, mut array) in step.arrays()? {
                        let values = snapshot.array(name, array.len())?;
                        array.write(&values)?;
                    }
                }
            }
        }
        self.files = Some(Files {
            curve: Curve::after(&folder.join(CURVE), self.state.step)?,
            folder: folder.to_path_buf(),
            identity,
        });
        Ok(())
    }

    /// Trains on a batch.
    fn step(
        &mut self,
        step: &mut Step,
        batch: &TripletBatch,
        plan: &Plan,
        own: &[bool],
    ) -> Result<Point> {
        let [hidden, attention] = plan.dropout.map(|rate| rate as f32);
        let dropout = Dropout {
            hidden,
            attention,
            seed: plan.seed,
            step: self.state.step,
        };
        let objective = Objective {
            scale: plan.scale as f32,
            loss_scale: self.state.scale.scale(),
            dropout,
            own,
        };
        let losses = step.gradients(batch, &objective)?;
        let number = self.state.step + 1;
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        if !loss.is_finite() {
            return Err(not_finite("loss", number, batch, &losses));
        }
        let settings = AdamW {
            learning_rate: plan.schedule().rate(self.state.updates),
            beta: plan.beta,
            eps: plan.eps as f32,
            weight_decay: plan.weight_decay as f32,
            step: self.state.updates + 1,
            gradient_factor: self.state.scale.gradient_factor(),
            max_norm: plan.max_norm as f32,
        };
        let norm = step.update(&settings)?;
        let dynamic = step.encoder.device().precision() == Precision::Mixed;
        if self.state.scale.update(norm.is_finite()) {
            self.state.updates += 1;
        } else if !dynamic || self.state.scale.scale() < LEAST_SCALE {
            return Err(not_finite("gradient", number, batch, &losses));
        }
        self.state.step = number;
        self.state.sampler = batch.next;
        self.state.chunk = step.chunk;
        Ok(Point {
            step: number,
            loss: loss as f32,
            gradient_norm: norm * settings.gradient_factor,
            scale: objective.loss_scale,
            learning_rate: settings.learning_rate,
            tokens_per_second: f32::NAN,
        })
    }

    /// Writes a checkpoint, if there is a folder.
    fn save(&self, step: &mut Step) -> Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let arrays = step.arrays()?;
        let lengths: Vec<(&str, usize)> = arrays.iter().map(|(name, a)| (*name, a.len())).collect();
        let path = files.folder.join(CHECKPOINT);
        checkpoint::write(&path, &files.identity, &self.state, &lengths, |i| {
            arrays[i].1.read().map(Cow::Owned)
        })
    }

    /// Writes the model and the picture of the curve, if there is a folder; of the checkpoint it leaves what says that the
    /// model is this training's.
    fn finish(&self, step: &Step) -> Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let model = files.folder.join(MODEL);
        if !model.exists() {
            step.encoder.save(&model)?;
        }
        let path = files.folder.join(CHECKPOINT);
        checkpoint::write(&path, &files.identity, &self.state, &[], |_| {
            Ok(Cow::Borrowed(&[]))
        })?;
        let points = curve::read(files.curve.path())?;
        curve::save_svg(&files.folder.join(PICTURE), &points, "Training")
    }
}

/// A number of a step that is not finite, with the rows that it was computed from.
fn not_finite(what: &str, step: u64, batch: &TripletBatch, losses: &[f32]) -> Error {
    let list = |rows: &[u32]| {
        const MOST: usize = 8;
        let shown: Vec<String> = rows.iter().take(MOST).map(u32::to_string).collect();
        let more = match rows.len().saturating_sub(MOST) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        shown.join(", ") + &more
    };
    let own: Vec<u32> = (batch.rows.iter().zip(losses))
        .filter(|(_, loss)| !loss.is_finite())
        .map(|(&row, _)| row)
        .collect();
    let own = match own.len() {
        0 => String::new(),
        all if all == batch.rows.len() => ", the loss of each of them".into(),
        _ => format!(", the loss of rows {} themselves", list(&own)),
    };
    Error::Invalid(format!(
        "step {step}: the {what} is not finite on the batch of training rows {} (from 0){own}; lower the learning rate, or look at these rows and at the weights that it began with",
        list(&batch.rows)
    ))
}

/// Tokens of a chunk whose activations, kept for the backward, leave room on most devices of a kind: about 150 KB a token
/// for six layers of width 384 in f32, 90 KB in f16.
fn default_budget(device: &Device) -> usize {
    match device.kind() {
        DeviceKind::Cpu => 8192,
        _ if device.is_software() => 2048,
        _ => 65_536,
    }
}
