//! How much the study does, and with what.

use serde_json::Value;

use super::session::Session;
use super::stage::Job;
use crate::data::beir::Collection;
use crate::data::edits::{self, EditSet, Split};
use crate::data::generated::{BuiltIn, COLLECTIONS};
use crate::error::Result;

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

    /// Scenes that conditions are counted on.
    pub fn scenes(self) -> usize {
        match self {
            Preset::Smoke => 20,
            Preset::Small => 200,
            Preset::Full => 1000,
        }
    }
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
