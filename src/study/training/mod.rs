//! Trainings as stages see them: their rows, how far they are, how they went.

pub mod data;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::progress::{Progress, Task};
use super::session::Session;
use crate::error::{Error, Result};
use crate::train::curve::{self, CURVE, Point};
use crate::train::trainer::MODEL;

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
pub fn model_folder(folder: &Path) -> PathBuf {
    folder.join(MODEL)
}

/// The error that reading what was trained in `folder` gave: it cannot be fetched from anywhere, but trained again.
pub(super) fn train_again(error: Error, folder: &Path) -> Error {
    match error {
        Error::Input { path, message } if path.starts_with(folder) => {
            let what = message.trim_end_matches("; fetch it again");
            let cure = format!("remove {} to train it again", folder.display());
            Error::input(path, format!("{what}; {cure}"))
        }
        other => other,
    }
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
    fn what_was_trained_here_is_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("train-x");
        let model = model_folder(&folder);
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("model.safetensors"), "damaged").unwrap();
        let error = crate::model::checkpoint::Checkpoint::open(&model)
            .err()
            .unwrap();
        let said = train_again(error, &folder).to_string();
        assert!(
            said.contains("model.safetensors: not a complete safetensors file"),
            "{said}"
        );
        let cure = format!("; remove {} to train it again", folder.display());
        assert!(said.ends_with(&cure) && !said.contains("fetch"), "{said}");
        // What lies elsewhere may be fetched.
        let error = crate::model::checkpoint::Checkpoint::open(&model)
            .err()
            .unwrap();
        let said = train_again(error, &dir.path().join("other")).to_string();
        assert!(said.ends_with("; fetch it again"), "{said}");
    }

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
