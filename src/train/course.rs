//! A training on its way, whatever it trains: steps, checkpoints, the curve, and the end.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::batches::{Batches, Packing, Row, TextBatch};
use super::checkpoint::{self, CHECKPOINT, Identity, Snapshot, State};
use super::curve::{self, CURVE, Curve, Point};
use super::group::Array;
use super::lock::FolderLock;
use super::sampler::{Position, Sampler};
use super::scale::LossScale;
use super::trainer::{PICTURE, Progress};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};

/// A loss scale below which gradients that still overflow are those of a training that has gone wrong.
const LEAST_SCALE: f32 = 1.0 / 1024.0;

/// What is trained, and how one step of it goes.
pub(super) trait Learner: Send {
    /// A row of the training data.
    type Row: Row;

    /// Where it is.
    fn device(&self) -> Device;

    /// Everything on the device that a step changes, under its names.
    fn arrays(&mut self) -> Result<Vec<(String, Array<'_>)>>;

    /// How much is done at a time, since the device ran out of memory: most tokens of a chunk, and most bytes of pairs.
    fn limits(&mut self) -> [&mut Option<usize>; 2];

    /// Computes the gradients of a batch; returns the loss of every row, not scaled.
    fn gradients(&mut self, batch: &TextBatch, at: &At) -> Result<Vec<f32>>;

    /// Makes a step with them, unless they are not finite; returns their norm as they are, scaled.
    fn update(&mut self, at: &At) -> Result<f32>;

    /// The highest learning rate of the step.
    fn learning_rate(&self, updates: u64) -> f32;

    /// Whether the folder of a training holds what this one makes.
    fn is_made(&self, folder: &Path) -> bool;

    /// Takes what a training left in its folder.
    fn take(&mut self, folder: &Path) -> Result<()>;

    /// Leaves in the folder what the training made.
    fn leave(&mut self, folder: &Path) -> Result<()>;
}

/// Where a training stands when it takes a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// Steps before this one.
    pub step: u64,
    /// Updates before this one.
    pub updates: u64,
    /// Factor of the loss.
    pub loss_scale: f32,
    /// The factor that undoes it.
    pub gradient_factor: f32,
}

/// Steps between two checkpoints where nobody says how many.
const CHECKPOINT_STEPS: u64 = 100;

/// There, at least so many times what writing the last one took passes before the next.
const SAVING: u32 = 19;

/// What a training is besides what it trains.
pub(super) struct Course<'a, R> {
    pub rows: Arc<[R]>,
    pub sampler: Sampler,
    pub packing: Packing,
    pub steps: u64,
    pub checkpoint_every: Option<u64>,
    pub folder: Option<PathBuf>,
    pub stop: Option<Arc<AtomicBool>>,
    pub watch: &'a mut dyn FnMut(&Progress),
}

/// What came of it.
pub(super) struct Outcome {
    pub steps: u64,
    pub skipped: u64,
    pub truncated: usize,
}

impl<R: Row> Course<'_, R> {
    /// Goes through the steps that are left; `identity` says which training this is.
    pub fn run<L: Learner<Row = R>>(
        self,
        learner: &mut L,
        identity: impl FnOnce(&mut L) -> Result<Identity>,
    ) -> Result<Outcome> {
        let Course {
            rows,
            mut sampler,
            packing,
            steps,
            checkpoint_every,
            folder,
            stop,
            watch,
        } = self;
        let lock = folder.as_deref().map(FolderLock::take).transpose()?;
        let mut run = Run {
            state: State {
                step: 0,
                updates: 0,
                sampler: Position::default(),
                scale: LossScale::new(learner.device().precision()),
                chunk: None,
                pairs: None,
            },
            files: None,
        };
        if let Some(folder) = &folder {
            let identity = identity(learner)?;
            run.resume(folder, identity, steps, learner)?;
        }
        let mut truncated = 0;
        if run.state.step < steps {
            sampler.seek(run.state.sampler)?;
            let mut batches = Batches::start(rows, sampler, packing)?;
            let (started, first) = (Instant::now(), run.state.step);
            let mut next_save = started;
            while run.state.step < steps {
                let begun = Instant::now();
                let batch = batches.next_batch()?;
                truncated += batch.truncated;
                let mut point = run.step(learner, &batch)?;
                point.tokens_per_second = batch.tokens as f32 / begun.elapsed().as_secs_f32();
                if let Some(files) = &mut run.files {
                    files.curve.push(&point)?;
                }
                let done = (run.state.step - first) as f64;
                watch(&Progress {
                    point,
                    steps,
                    seconds_left: started.elapsed().as_secs_f64() / done
                        * (steps - run.state.step) as f64,
                });
                let stopped = stop
                    .as_ref()
                    .is_some_and(|flag| flag.load(Ordering::Relaxed));
                let saving = Instant::now();
                let due = match checkpoint_every {
                    Some(every) => run.state.step.is_multiple_of(every),
                    None => run.state.step.is_multiple_of(CHECKPOINT_STEPS) && saving >= next_save,
                };
                if stopped || due || run.state.step == steps {
                    run.save(learner)?;
                    next_save = Instant::now() + saving.elapsed() * SAVING;
                }
                if stopped {
                    break;
                }
            }
        }
        if run.state.step == steps {
            run.finish(learner)?;
        }
        drop(lock);
        Ok(Outcome {
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
    fn resume<L: Learner>(
        &mut self,
        folder: &Path,
        identity: Identity,
        steps: u64,
        learner: &mut L,
    ) -> Result<()> {
        let snapshot = Snapshot::open(&folder.join(CHECKPOINT), &identity)?;
        match snapshot {
            None if learner.is_made(folder) => {
                return Err(Error::input(
                    folder,
                    "a model is here already, without a checkpoint of this training; name another folder",
                ));
            }
            None => {}
            Some(snapshot) => {
                self.state = snapshot.state().clone();
                let [chunk, pairs] = learner.limits();
                (*chunk, *pairs) = (self.state.chunk, self.state.pairs);
                if self.state.step == steps && learner.is_made(folder) {
                    learner.take(folder)?;
                } else {
                    for (name, mut array) in learner.arrays()? {
                        let values = snapshot.array(&name, array.len())?;
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
    fn step<L: Learner>(&mut self, learner: &mut L, batch: &TextBatch) -> Result<Point> {
        let at = At {
            step: self.state.step,
            updates: self.state.updates,
            loss_scale: self.state.scale.scale(),
            gradient_factor: self.state.scale.gradient_factor(),
        };
        let device = learner.device();
        let losses = device.in_pool(|| learner.gradients(batch, &at))?;
        let number = self.state.step + 1;
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        if !loss.is_finite() {
            return Err(not_finite("loss", number, batch, &losses));
        }
        let learning_rate = learner.learning_rate(at.updates);
        let norm = device.in_pool(|| learner.update(&at))?;
        let dynamic = device.precision() == Precision::Mixed;
        if self.state.scale.update(norm.is_finite()) {
            self.state.updates += 1;
        } else if !dynamic || self.state.scale.scale() < LEAST_SCALE {
            return Err(not_finite("gradient", number, batch, &losses));
        }
        self.state.step = number;
        self.state.sampler = batch.next;
        let [chunk, pairs] = learner.limits();
        (self.state.chunk, self.state.pairs) = (*chunk, *pairs);
        Ok(Point {
            step: number,
            loss: loss as f32,
            gradient_norm: norm * at.gradient_factor,
            scale: at.loss_scale,
            learning_rate,
            tokens_per_second: f32::NAN,
        })
    }

    /// Writes a checkpoint, if there is a folder.
    fn save<L: Learner>(&self, learner: &mut L) -> Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let arrays = learner.arrays()?;
        let lengths: Vec<(&str, usize)> = arrays
            .iter()
            .map(|(name, a)| (&name[..], a.len()))
            .collect();
        let path = files.folder.join(CHECKPOINT);
        checkpoint::write(&path, &files.identity, &self.state, &lengths, |i| {
            arrays[i].1.read().map(Cow::Owned)
        })
    }

    /// Leaves what was made and the picture of the curve, if there is a folder; of the checkpoint it leaves what says that
    /// what is there is this training's.
    fn finish<L: Learner>(&self, learner: &mut L) -> Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        if !learner.is_made(&files.folder) {
            learner.leave(&files.folder)?;
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
fn not_finite(what: &str, step: u64, batch: &TextBatch, losses: &[f32]) -> Error {
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
