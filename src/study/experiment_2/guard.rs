//! The guard: a scorer for use, trained to say of any two sentences whether they mean the same, with its threshold.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::jobs::TrainConfig;
use crate::data::Fingerprint;
use crate::data::edits::{self, EditSet, Split};
use crate::data::pairs::{NearMiss, Paraphrase};
use crate::data::triplets::TRAINING_SHARE;
use crate::data::{questions, stem};
use crate::error::{Error, Result};
use crate::metrics::near_miss::Kind;
use crate::study::guard::{Lists, built_in_rows};
use crate::study::results::{ResultFolder, id};
use crate::study::session::Session;
use crate::study::training::data::TrainingFiles;
use crate::train::pairs::{Contrast, MixOptions, PairOptions, mix};
use crate::train::rows_sha256;
use crate::verifier::{Calibration, Config, fewest_accepts};

/// The folder of the verifier in that of the guard.
pub const VERIFIER: &str = "verifier";

/// Share of the accepts kept aside that the guard's threshold lets in.
pub const TRUE_ACCEPT: f64 = 0.95;

/// What the guard is trained on, and what it is calibrated on.
#[derive(Clone, Debug)]
pub struct GuardRows {
    /// Where they are from.
    pub name: String,
    /// To be trained on.
    pub rows: Vec<Contrast>,
    /// Pairs of equal meaning kept aside.
    pub accepts: Vec<[String; 2]>,
    /// Near-misses kept aside.
    pub rejects: Vec<[String; 2]>,
    /// What was left out, or is odd.
    pub notes: Vec<String>,
}

impl GuardRows {
    /// From files that give both near-misses and sentences of equal meaning, a tenth of which is kept aside, no sentence
    /// being on both sides; without them from the built-in edit sets, so many anchors of every kind of edit. With
    /// `questions`, built-in ones come to either and make half of the rows; beside edit sets they are half of what is kept
    /// aside too. They teach a training of some thousand steps, and hinder one of some hundred.
    ///
    /// # Errors
    /// What readers, the grammar and [`mix`] report; [`Error::Invalid`] for too few accepts to be kept aside.
    pub fn new(
        files: &TrainingFiles,
        seed: u64,
        per_category: usize,
        questions: bool,
    ) -> Result<Self> {
        let mut notes = Vec::new();
        let given = !files.structural.is_empty() && !files.positives.is_empty();
        let (name, train, aside) = match given {
            true => {
                let mut lists = Lists::read_leniently(&files.structural, &files.positives)?;
                notes.append(&mut lists.notes);
                let [train, mut aside] = lists.divided(TRAINING_SHARE, seed)?;
                notes.append(&mut aside.notes);
                let names = files.structural.iter().chain(&files.positives);
                let names: Vec<String> = names.map(|file| stem(file)).collect();
                (names.join("+"), train, aside)
            }
            false => {
                let of = |split: Split| -> Result<Lists> {
                    let set = edits::generate(&edits::Options {
                        seed,
                        per_category,
                        splits: vec![split],
                        ..edits::Options::default()
                    })?;
                    Ok(lists_of(&set))
                };
                let mut aside = of(Split::Calibration)?;
                let train = of(Split::Train)?;
                if questions {
                    let n = aside.near_misses.len() + aside.paraphrases.len();
                    let split = questions::Split::UnseenTemplates;
                    let questions = questions::generate(split, seed, n.max(2))?;
                    aside.near_misses.extend(questions.near_misses());
                    aside.paraphrases.extend(questions.paraphrases());
                    ("edits+questions".into(), train, aside)
                } else {
                    ("edits".into(), train, aside)
                }
            }
        };
        let options = MixOptions {
            seed,
            ..MixOptions::default()
        };
        let mixture = mix(&train.near_misses, &train.paraphrases, &options)?;
        let alone = mixture
            .sources
            .iter()
            .filter(|(_, sides)| sides.accepts == 0);
        let alone: Vec<&str> = alone.map(|(source, _)| &source[..]).collect();
        if !alone.is_empty() {
            notes.push(format!(
                "sources of which every pair of the guard's rows is to be rejected: {}",
                alone.join(", ")
            ));
        }
        let mut rows = mixture.rows;
        let Lists {
            near_misses,
            paraphrases,
            ..
        } = aside;
        let fewest = fewest_accepts(TRUE_ACCEPT);
        if paraphrases.len() < fewest {
            return Err(Error::Invalid(format!(
                "{}: {} pairs of equal meaning are left to calibrate the guard on, and it takes {fewest}; give more, or leave the guard out (--no-guard)",
                name,
                paraphrases.len()
            )));
        }
        if questions {
            let aside = (near_misses.iter().map(|p| [&p.anchor, &p.text]))
                .chain(paraphrases.iter().map(|p| [&p.anchor, &p.text]));
            let aside = aside.flatten().map(String::as_str);
            rows.extend(built_in_rows(seed, rows.len(), aside)?);
        }
        Ok(GuardRows {
            name,
            rows,
            accepts: paraphrases
                .into_iter()
                .map(|p| [p.anchor, p.text])
                .collect(),
            rejects: near_misses
                .into_iter()
                .map(|p| [p.anchor, p.text])
                .collect(),
            notes,
        })
    }

    /// Every text that it is trained on.
    pub(super) fn texts(&self) -> HashSet<&str> {
        let pairs = self.rows.iter().flat_map(|row| [&row.accept, &row.reject]);
        pairs.flatten().map(String::as_str).collect()
    }

    /// SHA-256 over everything.
    fn sha256(&self) -> String {
        let mut hash = Fingerprint::default();
        hash.field(&rows_sha256(&self.rows));
        for pairs in [&self.accepts, &self.rejects] {
            hash.field(&pairs.len().to_string());
            pairs.iter().flatten().for_each(|text| hash.field(text));
        }
        hash.finish()
    }
}

/// The near-misses of an edit set, and its anchors beside what means the same.
fn lists_of(set: &EditSet) -> Lists {
    let mut lists = Lists::default();
    for anchor in &set.anchors {
        for variant in &anchor.variants {
            let [of, text] = [&anchor.text, &variant.text].map(String::clone);
            let source = anchor.domain.to_string();
            if variant.kind == Kind::NearMiss {
                lists.near_misses.push(NearMiss {
                    anchor: of,
                    text,
                    category: anchor.category.clone(),
                    source,
                });
            } else if variant.kind.is_accept() {
                lists.paraphrases.push(Paraphrase {
                    anchor: of,
                    text,
                    source,
                });
            }
        }
    }
    lists
}

/// The guard with its rows, and how it is trained.
#[derive(Clone, Debug)]
pub struct Guard {
    /// What it is trained and calibrated on.
    pub rows: GuardRows,
    /// How, but for the seed.
    pub options: PairOptions,
}

/// What a guard depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
struct GuardConfig<'a> {
    stage: &'static str,
    /// SHA-256 over its rows and what is kept aside.
    rows_sha256: String,
    true_accept: f64,
    training: &'a TrainConfig,
}

impl Guard {
    /// SHA-256 over its rows and what is kept aside.
    pub(super) fn sha256(&self) -> String {
        self.rows.sha256()
    }

    /// The calibration that the guard in the folder for results was left with, if it is the one of this training; its user
    /// may have set another since.
    pub(super) fn left(&self, session: &Session, training: &TrainConfig) -> Option<Calibration> {
        let folder = session.out.join(FOLDER);
        let wanted = id(&self.config(training));
        let found = fs::read_to_string(folder.join(ID)).ok()?;
        Config::read(&folder.join(VERIFIER)).ok()?;
        let calibration = fs::read(folder.join(CALIBRATION)).ok()?;
        let calibration = serde_json::from_slice(&calibration).ok()?;
        (found.trim() == wanted).then_some(calibration)
    }

    /// Leaves the trained verifier as `study-guard/verifier` in the folder for results, in place of what is there, with its
    /// threshold.
    ///
    /// # Errors
    /// As [`Calibration::choose`]; what the device and the file system report.
    pub(super) fn leave(
        &self,
        session: &Session,
        trained: &Path,
        training: &TrainConfig,
    ) -> Result<Calibration> {
        let folder = ResultFolder::new(&session.out, FOLDER);
        let [part, last] = ["verifier.part", VERIFIER].map(|name| folder.path().join(name));
        remove(&part)?;
        copy(trained, &part)?;
        let mut verifier = session.load_verifier(&part, None)?;
        let accepts = verifier.score(&self.rows.accepts)?;
        let rejects = verifier.score(&self.rows.rejects)?;
        let calibration = Calibration::choose(&accepts, &rejects, TRUE_ACCEPT)?;
        verifier.set_calibration(&part, calibration.clone())?;
        drop(verifier);
        // Until the id is there again, what is in the folder is nobody's.
        let id_file = folder.path().join(ID);
        remove(&id_file)?;
        remove(&last)?;
        fs::rename(&part, &last).map_err(|e| Error::io("write", &last, e))?;
        let config = self.config(training);
        folder.json("config.json", &config)?;
        folder.json(CALIBRATION, &calibration)?;
        folder.text(ID, &format!("{}\n", id(&config)))?;
        session
            .progress
            .log(&format!("the guard: {}", last.display()));
        Ok(calibration)
    }

    fn config<'a>(&self, training: &'a TrainConfig) -> GuardConfig<'a> {
        GuardConfig {
            stage: "guard",
            rows_sha256: self.sha256(),
            true_accept: TRUE_ACCEPT,
            training,
        }
    }
}

/// The guard's folder in that for results; not the one that `train-verifier` has for the user's own.
pub const FOLDER: &str = "study-guard";

/// The file in it with the threshold as the study chose it.
const CALIBRATION: &str = "calibration.json";

/// The file in it that says which guard this is.
const ID: &str = "id";

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|e| Error::io("create folder", to, e))?;
    let entries = fs::read_dir(from).map_err(|e| Error::io("read", from, e))?;
    for entry in entries {
        let from = entry.map_err(|e| Error::io("read", from, e))?.path();
        let Some(name) = from.file_name() else {
            continue;
        };
        let to = to.join(name);
        match from.is_dir() {
            true => copy(&from, &to)?,
            false => drop(fs::copy(&from, &to).map_err(|e| Error::io("write", &to, e))?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sentences of some pairs.
    fn sentences<'a>(pairs: impl IntoIterator<Item = &'a [String; 2]>) -> HashSet<&'a str> {
        pairs.into_iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn what_is_kept_aside_is_not_trained_on() {
        let rows = GuardRows::new(&TrainingFiles::default(), 42, 8, true).unwrap();
        let aside = sentences(rows.accepts.iter().chain(&rows.rejects));
        assert!(rows.texts().is_disjoint(&aside));
        // 5 kinds of 8 anchors, with two controls and a synonym where there is one; and as many questions.
        let (rejects, accepts) = (rows.rejects.len(), rows.accepts.len());
        let edits = (rejects + accepts) / 2;
        assert_eq!(rejects - edits / 2, 40);
        assert!((80..=120).contains(&(accepts - edits / 2)));
        assert!(rows.rows.len() >= rows.accepts.len() / 2 && rows.notes.is_empty());
        let again = GuardRows::new(&TrainingFiles::default(), 42, 8, true).unwrap();
        assert_eq!(again.sha256(), rows.sha256());
        let alone = GuardRows::new(&TrainingFiles::default(), 42, 8, false).unwrap();
        assert_eq!(alone.rejects.len() + alone.accepts.len(), edits);
        assert_eq!(2 * alone.rows.len(), rows.rows.len());
        let other = GuardRows::new(&TrainingFiles::default(), 7, 8, true).unwrap();
        assert_ne!(other.sha256(), rows.sha256());
    }

    #[test]
    fn files_are_divided_and_what_contradicts_itself_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, head: &str, row: &dyn Fn(usize) -> String, n: usize| {
            let path = dir.path().join(name);
            let rows: String = (0..n).map(row).collect();
            fs::write(&path, format!("{head}\n{rows}")).unwrap();
            path
        };
        let near = |i: usize| format!("dog {i} sees,dog {i} is seen,role\n");
        let equal = |i: usize| match i {
            0 => "dog 5 is seen,dog 5 sees\n".to_string(),
            i => format!("dog {i} sees,what dog {i} does is see\n"),
        };
        let files = |n: usize| TrainingFiles {
            structural: vec![file("near.csv", "sentence1,sentence2,category", &near, n)],
            positives: vec![file("same.csv", "sentence1,sentence2", &equal, n)],
            ..TrainingFiles::default()
        };
        let rows = GuardRows::new(&files(300), 1, 8, true).unwrap();
        assert_eq!(rows.name, "near+same");
        let aside = sentences(rows.accepts.iter().chain(&rows.rejects));
        assert!(rows.texts().is_disjoint(&aside));
        // A tenth of 599 pairs, by anchors that have both.
        assert!((59..=62).contains(&(rows.accepts.len() + rows.rejects.len())));
        let said = rows.notes.join("; ");
        assert!(said.contains("near-misses too, left out: 1"), "{said}");
        // One file of each is one source.
        assert!(!said.contains("to be rejected"), "{said}");
        let error = GuardRows::new(&files(30), 1, 8, true).unwrap_err();
        assert!(error.to_string().contains("it takes 20"), "{error}");
    }
}
