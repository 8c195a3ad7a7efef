//! The models of the experiment, and the training of one.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::data::TrainingData;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::study::progress::{Progress, Task};
use crate::study::results::{Setup, id};
use crate::study::session::Session;
use crate::train::arms::{Arm, Mixed, mix};
use crate::train::curve::{self, CURVE, Point};
use crate::train::trainer::MODEL;
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
        let mixed = mixed(arm, data, model.seed)?;
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
            session.backbone.name,
            arm.trim_end_matches('-'),
            self.model.seed,
            id(&self.config)
        )
    }

    /// Trains it, or takes it from its folder if it is there; what was begun is gone on with.
    pub fn run(&self, session: &Session) -> Result<(Encoder, Training, Duration)> {
        let folder = session.out.join(self.folder(session));
        let mut task = Training::task(session, &self.model.to_string(), self.config.plan.steps);
        let rows = mixed(self.arm, self.data, self.model.seed)?;
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
        let encoder = session.load(&model_folder(&folder), limit)?;
        Ok((encoder, training, time))
    }
}

fn mixed(arm: Arm, data: &TrainingData, seed: u64) -> Result<Mixed> {
    mix(
        arm,
        &data.retrieval,
        &data.structural,
        Some(data.share),
        seed,
    )
}

/// What is said of a training that was told to stop.
pub fn stopped(step: u64, steps: u64, folder: &Path) -> Error {
    Error::Stopped(format!(
        "stopped after step {step} of {steps}; the checkpoint is in {}, and the same command goes on from there",
        folder.display()
    ))
}

/// How a training went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Steps done.
    pub steps: u64,
    /// Those without an update, whose gradients overflowed.
    pub skipped: u64,
    /// Mean loss of the first tenth of the steps and of the last; `None` if the curve has not all of them.
    pub loss: Option<[f64; 2]>,
}

impl Training {
    /// How the training in `folder` went.
    ///
    /// # Errors
    /// As [`curve::read`].
    pub fn of(folder: &Path, steps: u64, skipped: u64) -> Result<Self> {
        let points = curve::read(&folder.join(CURVE))?;
        let whole = (1..=steps).eq(points.iter().map(|point| point.step));
        Ok(Training {
            steps,
            skipped,
            loss: whole.then(|| ends(&points)),
        })
    }

    /// Both losses as they are shown.
    pub fn losses(&self) -> [String; 2] {
        let shown = |loss: [f64; 2]| loss.map(|loss| format!("{loss:.3}"));
        self.loss.map_or(["-", "-"].map(String::from), shown)
    }

    /// Shows how far a training is.
    pub fn task(session: &Session, what: &str, steps: u64) -> TrainingTask {
        session
            .progress
            .log(&format!("training {what}: {steps} steps"));
        TrainingTask {
            task: session.progress.task("training", steps as usize),
            progress: session.progress,
            begun: false,
        }
    }
}

/// A training's progress as it is shown.
pub struct TrainingTask {
    task: Task,
    progress: Progress,
    begun: bool,
}

impl TrainingTask {
    /// A step is done.
    pub fn step(&mut self, progress: &crate::train::Progress) {
        let done = progress.point.step as usize;
        if !std::mem::replace(&mut self.begun, true) && done > 1 {
            self.progress
                .log(&format!("going on after step {}", done - 1));
            self.task.begin_at(done - 1);
        }
        let draws = self.progress.draws();
        self.task.at_with(done, || {
            let loss = format!("loss {:.3}", progress.point.loss);
            // A bar says that of itself.
            match draws {
                true => loss,
                false => format!("{loss}, {} left", shown(progress.seconds_left)),
            }
        });
    }

    /// Ends it; the time that it took.
    pub fn finish(self) -> Duration {
        self.task.finish()
    }
}

/// Seconds as a person says them.
fn shown(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// The model folder in a training's folder.
pub fn model_folder(folder: &Path) -> std::path::PathBuf {
    folder.join(MODEL)
}

/// Mean loss of the first tenth of the steps and of the last.
fn ends(points: &[Point]) -> [f64; 2] {
    let n = points.len().div_ceil(10);
    let mean = |points: &[Point]| {
        points.iter().map(|p| f64::from(p.loss)).sum::<f64>() / points.len().max(1) as f64
    };
    [mean(&points[..n]), mean(&points[points.len() - n..])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_both_ends() {
        let point = |step: u64| Point {
            step,
            loss: step as f32,
            gradient_norm: 1.0,
            scale: 1.0,
            learning_rate: 0.1,
            tokens_per_second: 1.0,
        };
        let points: Vec<Point> = (1..=20).map(point).collect();
        assert_eq!(ends(&points), [1.5, 19.5]);
        assert_eq!(ends(&points[..1]), [1.0, 1.0]);
        assert_eq!(
            [shown(9.4), shown(61.0), shown(7300.0)],
            ["9 s", "1 min 1 s", "2 h 1 min"]
        );
    }
}
