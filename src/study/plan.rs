//! How much the study does, and with what.

use serde_json::Value;

use super::session::Session;
use super::stage::Job;
use crate::data::beir::Collection;
use crate::data::edits::{self, EditSet, Split};
use crate::data::generated::{BuiltIn, COLLECTIONS};
use crate::error::Result;
use crate::train::TrainOptions;
use crate::train::options::PROTOCOL_BATCH;

/// How much of the built-in data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preset {
    /// To see that everything works, in seconds.
    Smoke,
    /// The default.
    #[default]
    Small,
    /// As much as the protocol asks for.
    Full,
}

impl Preset {
    /// The built-in collection of a name; without one all that the preset has.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for a name that no collection has.
    pub fn collections(self, seed: u64, name: Option<&str>) -> Result<Vec<Collection>> {
        let (passages, queries) = match self {
            Preset::Smoke => (60, 30),
            Preset::Small => (400, 200),
            Preset::Full => (1000, 500),
        };
        let chosen = match (name, self) {
            (Some(name), _) => vec![BuiltIn::named(name)?],
            (None, Preset::Smoke) => COLLECTIONS[..1].to_vec(),
            (None, _) => COLLECTIONS.to_vec(),
        };
        let chosen = chosen.iter();
        chosen
            .map(|c| c.generate(seed, passages, queries))
            .collect()
    }

    /// The built-in edit set.
    ///
    /// # Errors
    /// As [`edits::generate`].
    pub fn edit_set(self, seed: u64) -> Result<EditSet> {
        use Split::{Calibration, Test, TestTemplates, TestWords};
        let (per_category, splits) = match self {
            Preset::Smoke => (8, vec![Calibration, Test]),
            Preset::Small => (100, vec![Calibration, Test, TestTemplates, TestWords]),
            Preset::Full => (500, vec![Calibration, Test, TestTemplates, TestWords]),
        };
        edits::generate(&edits::Options {
            seed,
            per_category,
            splits,
            ..edits::Options::default()
        })
    }

    /// How much experiment 1 trains and measures.
    pub fn experiment_1(self) -> Experiment1Size {
        let size = |rows, batch, steps, max_length, checkpoint_every| Experiment1Size {
            rows,
            steps,
            seeds: 1,
            held_out: 100,
            sentences: 600,
            training: TrainOptions {
                batch,
                max_length,
                checkpoint_every,
                ..TrainOptions::default()
            },
        };
        match self {
            Preset::Smoke => Experiment1Size {
                held_out: 10,
                sentences: 60,
                ..size(80, 4, Some(6), 32, 2)
            },
            Preset::Small => size(1_000, 32, Some(60), 48, 20),
            Preset::Full => Experiment1Size {
                seeds: 3,
                held_out: 5_000,
                sentences: 5_000,
                ..size(100_000, PROTOCOL_BATCH, None, 128, 250)
            },
        }
    }

    /// Scenes that conditions are counted on.
    pub fn scenes(self) -> usize {
        match self {
            Preset::Smoke => 20,
            Preset::Small => 200,
            Preset::Full => 1000,
        }
    }
}

/// How much experiment 1 does.
#[derive(Clone, Debug)]
pub struct Experiment1Size {
    /// Built-in rows for retrieval, those held out included.
    pub rows: usize,
    /// Steps of a training; `None` for the protocol's.
    pub steps: Option<u64>,
    /// Seeds of every arm.
    pub seeds: u64,
    /// Held-out rows that are compared.
    pub held_out: usize,
    /// Retrieval sentences that the space is described by.
    pub sentences: usize,
    /// How it is trained.
    pub training: TrainOptions,
}

/// Jobs to be done one after the other.
#[derive(Default)]
pub struct Plan {
    jobs: Vec<Box<dyn Job>>,
}

impl Plan {
    /// Adds a stage with its inputs.
    pub fn push(&mut self, job: impl Job + 'static) {
        self.jobs.push(Box::new(job));
    }

    /// Names of the jobs' result folders, see [`Job::folder`].
    pub fn folders(&self, session: &Session) -> Vec<String> {
        self.jobs.iter().map(|job| job.folder(session)).collect()
    }

    /// Does every job (see [`Job::run`]) and returns their numbers.
    ///
    /// # Errors
    /// As the first job that fails; those before it are saved.
    pub fn run(
        &self,
        session: &Session,
        mut show: impl FnMut(&str) -> Result<()>,
    ) -> Result<Vec<Value>> {
        session.check_out()?;
        let jobs = self.jobs.iter();
        jobs.map(|job| job.run(session, &mut show)).collect()
    }
}
