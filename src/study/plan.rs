//! How much the study does, and with what.

use super::experiment_2::models::{Cell, Mode, Positives};
use super::retrieve::RetrieveOptions;
use super::session::Session;
use super::stage::{Job, Told};
use crate::data::beir::Collection;
use crate::data::edits::{self, EditSet, Split};
use crate::data::generated::{BuiltIn, COLLECTIONS};
use crate::error::Result;
use crate::train::TrainOptions;
use crate::train::options::PROTOCOL_BATCH;
use crate::train::pairs::{Objective, PairOptions, Rates};
use crate::verifier::{Kind, MAX_LENGTH};

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
        let per_category = match self {
            Preset::Smoke => 8,
            Preset::Small => 100,
            Preset::Full => 500,
        };
        self.edit_set_of(seed, per_category)
    }

    /// The built-in edit set with so many anchors of every kind of edit in each of its splits.
    ///
    /// # Errors
    /// As [`edits::generate`].
    pub fn edit_set_of(self, seed: u64, per_category: usize) -> Result<EditSet> {
        use Split::{Calibration, Test, TestTemplates, TestWords};
        let splits = match self {
            Preset::Smoke => vec![Calibration, Test],
            Preset::Small | Preset::Full => vec![Calibration, Test, TestTemplates, TestWords],
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
                ..size(80, 4, Some(6), 32, Some(2))
            },
            Preset::Small => size(1_000, 32, Some(60), 48, Some(20)),
            Preset::Full => Experiment1Size {
                seeds: 3,
                held_out: 5_000,
                sentences: 5_000,
                ..size(100_000, PROTOCOL_BATCH, None, 128, None)
            },
        }
    }

    /// How much experiment 2 trains and measures.
    pub fn experiment_2(self) -> Experiment2Size {
        let guard = |steps| PairOptions {
            objective: Objective::Binary,
            batch: 16,
            steps,
            encoder: Some(Rates {
                learning_rate: 1e-4,
                weight_decay: 0.005,
            }),
            verifier: Rates {
                learning_rate: 3e-4,
                weight_decay: 0.01,
            },
            swap: true,
            max_length: 64,
            ..PairOptions::default()
        };
        let cell = |verifier, mode, positives: &[Positives]| Cell {
            verifier,
            mode,
            positives: positives.to_vec(),
        };
        const BOTH: [Positives; 2] = [Positives::Identity, Positives::Paraphrase];
        use Kind::{MaxSim, Transformer};
        match self {
            Preset::Smoke => Experiment2Size {
                rows: 80,
                batch: Some(4),
                steps: Some(3),
                seeds: 1,
                cells: vec![
                    cell(Transformer, Mode::Frozen, &BOTH),
                    cell(Transformer, Mode::EndToEnd, &BOTH[..1]),
                    cell(MaxSim, Mode::EndToEnd, &BOTH[..1]),
                ],
                checkpoint_every: Some(2),
                scorer_length: 32,
                edit_anchors: 8,
                depth: 10,
                guard: guard(3),
                guard_anchors: 8,
                guard_questions: true,
            },
            Preset::Small => Experiment2Size {
                rows: 1_000,
                batch: Some(16),
                steps: Some(120),
                seeds: 1,
                cells: vec![
                    cell(Transformer, Mode::Frozen, &BOTH),
                    cell(MaxSim, Mode::EndToEnd, &BOTH[..1]),
                    cell(Transformer, Mode::EndToEnd, &BOTH[..1]),
                ],
                checkpoint_every: Some(40),
                scorer_length: 32,
                edit_anchors: 40,
                depth: 100,
                guard: guard(200),
                guard_anchors: 150,
                guard_questions: false,
            },
            Preset::Full => Experiment2Size {
                rows: 100_000,
                batch: None,
                steps: None,
                seeds: 3,
                cells: Cell::all(&Kind::ALL),
                checkpoint_every: None,
                scorer_length: MAX_LENGTH,
                edit_anchors: 500,
                depth: RetrieveOptions::default().depth,
                guard: guard(2_000),
                guard_anchors: 500,
                guard_questions: true,
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

/// How much experiment 2 does.
#[derive(Clone, Debug)]
pub struct Experiment2Size {
    /// Built-in rows for retrieval, those held out included.
    pub rows: usize,
    /// Rows of a step; `None` for the protocol's.
    pub batch: Option<usize>,
    /// Steps of a training; `None` for the protocol's.
    pub steps: Option<u64>,
    /// Seeds of every training.
    pub seeds: u64,
    /// What is trained.
    pub cells: Vec<Cell>,
    /// Steps between two checkpoints, as [`PairOptions::checkpoint_every`].
    pub checkpoint_every: Option<u64>,
    /// Tokens that scorers see of a text.
    pub scorer_length: usize,
    /// Anchors of every kind in each split of the built-in edit set that scorers are compared on.
    pub edit_anchors: usize,
    /// Candidates that a second stage re-ranks.
    pub depth: usize,
    /// How the guard is trained.
    pub guard: PairOptions,
    /// Built-in anchors of every kind that it is trained on.
    pub guard_anchors: usize,
    /// Whether built-in questions are among its rows.
    pub guard_questions: bool,
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

    /// Does every job, see [`Job::run`].
    ///
    /// # Errors
    /// As the first job that fails; those before it are told and saved.
    pub fn run(
        &self,
        session: &Session,
        mut tell: impl FnMut(Told<'_>) -> Result<()>,
    ) -> Result<()> {
        session.check_out()?;
        let mut jobs = self.jobs.iter();
        jobs.try_for_each(|job| job.run(session, &mut tell))
    }
}
