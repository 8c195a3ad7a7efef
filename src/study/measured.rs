//! What is measured of a model, on what, and the file that keeps it so that it is measured once.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::escape::file_name;
use super::near_miss::Examples;
use super::results::{ResultFolder, id};
use super::retrieve::Ranked;
use super::session::Session;
use crate::data::beir::Collection;
use crate::error::{Error, Result};
use crate::metrics::ranking::{Evaluation, RankingMetrics};

/// A collection that models are compared on.
#[derive(Clone, Debug)]
pub struct RetrievalSet {
    /// Passages, questions and judgements.
    pub collection: Arc<Collection>,
    /// Whether training rows are about the same things: no zero-shot set then.
    pub in_domain: bool,
}

/// A model's rankings on a collection, and their metrics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetMetrics {
    /// Per query, in the order of ids.
    pub per_query: Vec<(String, RankingMetrics)>,
    /// The rankings that these are of.
    pub ranked: Vec<Ranked>,
    /// The mean with documents left out whose id is the query's own; `None` if no ranking has one.
    pub without_identical: Option<RankingMetrics>,
}

impl SetMetrics {
    /// Of rankings by query, their evaluation, and that without documents whose id is the query's own.
    pub(super) fn of(
        mut ranked: BTreeMap<String, Ranked>,
        evaluation: Evaluation,
        without_identical: Option<Evaluation>,
    ) -> Self {
        let queries = evaluation.per_query.iter();
        let of_query = |(query, _): &(String, _)| ranked.remove(query).unwrap_or_default();
        SetMetrics {
            ranked: queries.map(of_query).collect(),
            per_query: evaluation.per_query,
            without_identical: without_identical.map(|e| e.mean),
        }
    }

    /// A query's ranking, as it is written beside its metrics.
    pub(super) fn ranking(&self, query: usize) -> Value {
        json!(self.ranked[query])
    }

    /// The mean over the queries.
    pub fn mean(&self) -> RankingMetrics {
        RankingMetrics::mean_of(self.per_query.iter().map(|(_, m)| m)).unwrap_or_default()
    }
}

/// What a file of what was measured holds; it is part of the folder's name, so that a file of another form is not read.
pub(super) const FORM: &str = "rankings, scores, cosines of held-out rows";

/// The file of what was measured of a model, in a folder that is named by everything that its numbers depend on.
pub(super) struct Record {
    folder: ResultFolder,
}

impl Record {
    const FILE: &str = "measured.json";

    /// That of a model of this name, whose numbers depend on `config`.
    pub fn of(session: &Session, model: &str, config: &impl Serialize) -> Self {
        let [backbone, model] = [&session.backbone.name, model].map(file_name);
        let name = format!("measure-{backbone}-{model}-{}", id(config));
        Record {
            folder: ResultFolder::new(&session.out, &name),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(Self::FILE)
    }

    /// What was measured before, if it was.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Input`] for a file that holds something else.
    pub fn read<T: DeserializeOwned>(&self, session: &Session, model: &str) -> Result<Option<T>> {
        if !self.path().exists() {
            return Ok(None);
        }
        session.progress.log(&format!(
            "{model}: measured before, see {}",
            self.folder.path().display()
        ));
        self.get().map(Some)
    }

    /// Keeps what was measured; returns what a later run will find.
    ///
    /// # Errors
    /// As [`ResultFolder::json`].
    pub fn keep<T: Serialize + DeserializeOwned>(
        &self,
        config: &impl Serialize,
        found: &T,
    ) -> Result<T> {
        self.folder.json("config.json", config)?;
        self.folder.json(Self::FILE, found)?;
        self.get()
    }

    fn get<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.path();
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        serde_json::from_str(&text).map_err(|e| {
            let what =
                format!("not what was measured of a model ({e}); remove it to measure again");
            Error::input(&path, what)
        })
    }
}

/// The pairs of a set as they are scored.
pub(super) fn pairs_of(set: &Examples) -> Vec<[&str; 2]> {
    let items = set.items.iter();
    items.map(|item| [&item.anchor[..], &item.text]).collect()
}

/// What of the test data is among the sentences that were trained on, which `rows` names.
pub(super) fn seen(
    trained: &HashSet<&str>,
    rows: &str,
    sets: &[RetrievalSet],
    near_misses: &[Arc<Examples>],
) -> Vec<String> {
    let mut notes = Vec::new();
    for set in sets {
        let queries = set.collection.queries.iter();
        let seen = queries.filter(|query| trained.contains(query.text.trim()));
        let (seen, name) = (seen.count(), &set.collection.name);
        if seen > 0 {
            notes.push(format!("queries of {name} that {rows} hold: {seen}"));
        }
    }
    for set in near_misses {
        let holds = |text: &String| trained.contains(&text[..]);
        let items = set.items.iter();
        let seen = items.filter(|item| holds(&item.anchor) || holds(&item.text));
        let (seen, name) = (seen.count(), &set.name);
        if seen > 0 {
            notes.push(format!(
                "pairs of {name} with a sentence that {rows} hold: {seen}"
            ));
        }
    }
    notes
}

/// What was left out of the test data, or is odd in it.
pub(super) fn notes_of(sets: &[RetrievalSet], near_misses: &[Arc<Examples>]) -> Vec<String> {
    let of = |name: &str, notes: &[String]| -> Vec<String> {
        notes.iter().map(|note| format!("{name}: {note}")).collect()
    };
    let pairs = near_misses.iter().flat_map(|set| of(&set.name, &set.notes));
    let collections = sets.iter().flat_map(|set| {
        let collection = &set.collection;
        of(&collection.name, &collection.notes.lines())
    });
    pairs.chain(collections).collect()
}
