//! What every stage of the study is, and the one way in which a stage is run.

use serde::Serialize;
use serde_json::Value;

use super::escape::{file_name, in_markdown, line};
use super::results::{Provenance, ResultFolder, id};
use super::session::Session;
use crate::error::Result;

/// A stage of the study with its inputs: what it depends on, what it does, and what is kept of what it finds.
pub trait Stage {
    /// Its name in files, and the beginning of its result folder's name.
    const NAME: &'static str;
    /// The file with a line per thing that was measured.
    const ROWS: &'static str;
    /// Everything that its numbers depend on, apart from the code.
    type Config: Serialize;
    /// What it finds.
    type Found;

    /// What the result folder is called after: a collection, a set, the backbone.
    fn subject<'a>(&'a self, session: &'a Session) -> &'a str;
    /// What its inputs are called; an object.
    fn inputs(&self) -> Value;
    /// Everything that its numbers depend on.
    fn config(&self, session: &Session) -> Self::Config;
    /// Does the work.
    ///
    /// # Errors
    /// What encoder, verifiers and metrics report.
    fn measure(&self, session: &Session) -> Result<Self::Found>;
    /// What is worth saying beside the numbers.
    fn notes(&self, found: &Self::Found) -> Vec<String>;
    /// Lines about how fast it was.
    fn log(&self, found: &Self::Found) -> Vec<String>;
    /// Every table, as Markdown.
    fn markdown(&self, report: &Report<Self>) -> String;
    /// What the terminal shows, if that is less than every table.
    fn summary(&self, _report: &Report<Self>) -> Option<String> {
        None
    }
    /// The numbers.
    fn metrics(&self, found: &Self::Found) -> Value;
    /// A line per thing that was measured.
    fn rows<'a>(&'a self, found: &'a Self::Found) -> impl Iterator<Item = Value> + 'a;
    /// How long it took.
    fn times(&self, found: &Self::Found) -> Value;
}

/// What is told of a stage that has run.
pub struct Report<S: Stage + ?Sized> {
    /// Everything that the numbers depend on.
    pub config: S::Config,
    /// Where they were made.
    pub provenance: Provenance,
    /// What was found.
    pub found: S::Found,
    /// What is worth saying beside it.
    pub notes: Vec<String>,
}

impl<S: Stage + ?Sized> Report<S> {
    /// The notes as a list under a line of its own; nothing if there are none.
    pub(super) fn notes_text(&self) -> String {
        if self.notes.is_empty() {
            return String::new();
        }
        let lines = self.notes.iter();
        let lines = lines.map(|note| format!("- {}\n", in_markdown(note)));
        format!("\nNotes:\n\n{}", lines.collect::<String>())
    }
}

/// A [`Stage`] of any kind, as a plan holds it.
pub trait Job {
    /// Name of its result folder: stage, subject and id. Jobs of equal numbers have equal ids, on every machine.
    fn folder(&self, session: &Session) -> String;
    /// Runs it, tells what it found, saves everything and logs how it went.
    ///
    /// `tell` gets numbers and tables before anything is saved, so that a full disk takes nothing that was computed; and where
    /// they cannot be told, they are saved all the same.
    ///
    /// # Errors
    /// What the stage, `tell` and the file system report.
    fn run(&self, session: &Session, tell: &mut dyn FnMut(Told<'_>) -> Result<()>) -> Result<()>;
}

/// What a job tells.
pub enum Told<'a> {
    /// The numbers with the stage's name and its inputs; once a job.
    Numbers(Value),
    /// Tables, or where they are, in Markdown.
    Tables(&'a str),
}

impl<S: Stage> Job for S {
    fn folder(&self, session: &Session) -> String {
        folder_name(self, &self.config(session), session)
    }

    fn run(&self, session: &Session, tell: &mut dyn FnMut(Told<'_>) -> Result<()>) -> Result<()> {
        let config = self.config(session);
        let inputs = self.inputs();
        let found = self.measure(session)?;
        for line in self.log(&found) {
            session.progress.log(&line);
        }
        let report = Report {
            provenance: Provenance::new(&session.encoder, &session.backbone, inputs.clone()),
            notes: self.notes(&found),
            config,
            found,
        };
        let tables = self.markdown(&report);
        let summary = self.summary(&report);
        let metrics = self.metrics(&report.found);
        let mut numbers = metrics.clone();
        numbers["stage"] = S::NAME.into();
        for (name, value) in inputs.as_object().into_iter().flatten() {
            numbers[name] = value.clone();
        }
        let told = tell(Told::Numbers(numbers)).and(match &summary {
            Some(summary) => tell(Told::Tables(summary)),
            None => tell(Told::Tables(&format!("{tables}\n"))),
        });

        let name = folder_name(self, &report.config, session);
        let folder = ResultFolder::new(&session.out, &name);
        folder.json("config.json", &report.config)?;
        folder.json("provenance.json", &report.provenance)?;
        folder.lines(S::ROWS, self.rows(&report.found))?;
        folder.text("report.md", &tables)?;
        folder.json("times.json", &self.times(&report.found))?;
        // Last: where it is, the others are.
        folder.json("metrics.json", &metrics)?;
        session
            .progress
            .log(&format!("saved: {}", folder.path().display()));
        told?;
        if summary.is_some() {
            let more = folder.path().join("report.md");
            let more = more.display().to_string();
            tell(Told::Tables(&format!("\nEvery table: {}\n\n", line(&more))))?;
        }
        Ok(())
    }
}

fn folder_name<S: Stage>(stage: &S, config: &S::Config, session: &Session) -> String {
    let subject = file_name(stage.subject(session));
    format!("{}-{subject}-{}", S::NAME, id(config))
}
