//! What models are trained on: rows for retrieval and structural rows, built in or of files.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::data::edits::{self, EditSet};
use crate::data::generated::training_pairs;
use crate::data::pairs::{Filter, read_near_misses, read_paraphrases};
use crate::data::triplets::{self, Examples, Identical, SplitBy, TRAINING_SHARE, Triplet};
use crate::data::{Category, negatives, stem};
use crate::error::{Error, Result};
use crate::metrics::near_miss::Kind;
use crate::random::Stream;
use crate::train::arms::{Arm, Mixed, Structural, mix};

/// Share of structural rows in the protocol's training set: 23,856 of 123,856.
pub const SHARE: f64 = 0.193;

/// Kinds of near-misses that the protocol trains on. The built-in edit sets have more, which stay unseen.
pub const TRAINED: [Category; 3] = [Category::Negation, Category::Binding, Category::Spatial];

/// How rows are chosen and divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DataOptions {
    /// Of everything that is drawn.
    pub seed: u64,
    /// What stays together when rows for retrieval are divided into those trained on and those held out.
    pub split: SplitBy,
    /// What becomes of rows whose negative equals their positive or anchor.
    pub identical: Identical,
    /// Share of structural rows in arms that have some.
    pub share: f64,
    /// Rows for retrieval; of files, `None` takes all.
    pub rows: Option<usize>,
}

/// Files to train on; what is empty is built in.
#[derive(Clone, Debug, Default)]
pub struct TrainingFiles {
    /// Rows for retrieval, see [`crate::data::triplets`].
    pub triplets: Vec<PathBuf>,
    /// Near-misses, see [`crate::data::pairs`].
    pub structural: Vec<PathBuf>,
    /// Sentences of equal meaning, which become positives of near-misses' anchors.
    pub positives: Vec<PathBuf>,
}

/// Rows that all arms and seeds share.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// What rows for retrieval and structural rows are called.
    pub names: [String; 2],
    /// To be trained on.
    pub retrieval: Vec<Triplet>,
    /// Never trained on, nor are its texts negatives there unless the rows say so.
    pub held_out: Vec<Triplet>,
    /// Sentences with near-misses.
    pub structural: Vec<Structural>,
    /// Share of these in arms that have some.
    pub share: f64,
    /// SHA-256 of the order by which rows were divided.
    pub order_sha256: String,
    /// Whether structural rows come from the grammar of the built-in edit sets.
    pub grammar: bool,
    /// What was left out, or is odd.
    pub notes: Vec<String>,
}

impl TrainingData {
    /// Reads files, and writes what is not given.
    ///
    /// # Errors
    /// What readers and generators report; [`Error::Invalid`] for positives without near-misses.
    pub fn new(files: &TrainingFiles, options: &DataOptions) -> Result<Self> {
        if files.structural.is_empty() && !files.positives.is_empty() {
            return Err(Error::Invalid(
                "positives of near-misses were given without near-misses; give both or neither"
                    .into(),
            ));
        }
        let mut notes = Vec::new();
        let (sources, retrieval_name) = match files.triplets.is_empty() {
            true => {
                let n = options.rows.unwrap_or(1_000);
                let pairs = Examples::Pairs(training_pairs(options.seed, n)?);
                (vec![pairs], "built-in".into())
            }
            false => read_retrieval(&files.triplets, options, &mut notes)?,
        };
        let anchors = sources.iter().flat_map(Examples::anchors);
        let split = triplets::split(anchors, options.split, TRAINING_SHARE, options.seed)?;
        let train = complete(&sources, &split.train, options.seed, Err)?;
        // Of few rows hardly one is held out, which then has no other to take a negative from.
        let without = |error| match error {
            Error::Invalid(why) => {
                notes.push(format!("held-out rows that are left out: {why}"));
                Ok(())
            }
            other => Err(other),
        };
        let held_out = complete(&sources, &split.held_out, options.seed, without)?;
        let (structural, structural_name) = match files.structural.is_empty() {
            true => {
                let wanted = train.len() as f64 * options.share / (1.0 - options.share);
                let per_category = (wanted / TRAINED.len() as f64).ceil() as usize;
                (
                    built_in_structural(options.seed, per_category.max(1))?,
                    "edits".into(),
                )
            }
            false => read_structural(files, &mut notes)?,
        };
        Ok(TrainingData {
            names: [retrieval_name, structural_name],
            retrieval: train,
            held_out,
            structural,
            share: options.share,
            order_sha256: split.sha256,
            grammar: files.structural.is_empty(),
            notes,
        })
    }

    /// The rows of an arm, by a seed of its own.
    ///
    /// # Errors
    /// As [`mix`].
    pub fn mixed(&self, arm: Arm, seed: u64) -> Result<Mixed> {
        let share = Some(self.share);
        mix(arm, &self.retrieval, &self.structural, share, seed)
    }

    /// Every text that is trained on, with or without those of structural rows.
    pub fn texts(&self, structural: bool) -> HashSet<&str> {
        let rows = self.retrieval.iter();
        let texts = rows.flat_map(|row| [&row.anchor, &row.positive, &row.negative]);
        let rows = self.structural.iter().filter(|_| structural);
        let of_structural = rows.flat_map(|row| {
            let sentences = [&row.anchor, &row.near_miss].into_iter();
            sentences.chain(&row.paraphrase)
        });
        texts.chain(of_structural).map(|text| &text[..]).collect()
    }

    /// Kinds of near-misses that are trained on.
    pub fn categories(&self) -> Vec<&Category> {
        let mut all: Vec<&Category> = self.structural.iter().map(|row| &row.category).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Sentences of the edit sets' training split, each with a near-miss and a paraphrase.
fn built_in_structural(seed: u64, per_category: usize) -> Result<Vec<Structural>> {
    let set = edits::generate(&edits::Options {
        seed,
        per_category,
        categories: TRAINED.to_vec(),
        splits: vec![edits::Split::Train],
    })?;
    Ok(structural_of(&set))
}

/// The anchors of an edit set with their near-misses and paraphrases.
pub fn structural_of(set: &EditSet) -> Vec<Structural> {
    let rows = set.anchors.iter().filter_map(|anchor| {
        Some(Structural {
            near_miss: anchor.variant(Kind::NearMiss)?.text.clone(),
            paraphrase: anchor.variant(Kind::Paraphrase).map(|v| v.text.clone()),
            anchor: anchor.text.clone(),
            category: anchor.category.clone(),
        })
    });
    rows.collect()
}

fn joined(files: &[PathBuf]) -> String {
    let names = files.iter().map(|file| stem(file));
    names.collect::<Vec<_>>().join("+")
}

/// The rows of files with these numbers, counted through all of them. Those without a negative get the positive of another
/// one of them: what is held out is no negative of what is trained on. Where there is none, `failed` decides.
fn complete(
    sources: &[Examples],
    numbers: &[usize],
    seed: u64,
    mut failed: impl FnMut(Error) -> Result<()>,
) -> Result<Vec<Triplet>> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let mut all = Vec::with_capacity(numbers.len());
    let mut first = 0;
    for (i, source) in (0..).zip(sources) {
        let end = first + source.len();
        let of_source = numbers.iter().filter(|n| (first..end).contains(*n));
        match source.pick(of_source.map(|n| n - first)) {
            Examples::Triplets(rows) => all.extend(rows),
            Examples::Pairs(pairs) => match negatives::random(&pairs, seed.wrapping_add(i)) {
                Ok(rows) => all.extend(rows),
                Err(error) => failed(error)?,
            },
        }
        first = end;
    }
    Ok(all)
}

/// Rows of files, equal numbers of each where not all are wanted.
fn read_retrieval(
    files: &[PathBuf],
    options: &DataOptions,
    notes: &mut Vec<String>,
) -> Result<(Vec<Examples>, String)> {
    let mut all = Vec::with_capacity(files.len());
    for file in files {
        let (examples, found) = triplets::read(file, options.identical)?;
        notes.extend(found.lines(&format!("rows of {}", stem(file))));
        if let Examples::Pairs(pairs) = &examples {
            notes.push(format!(
                "rows of {} without a negative, which got the positive of another row: {}",
                stem(file),
                pairs.len()
            ));
        }
        all.push(examples);
    }
    if let Some(rows) = options.rows {
        let sizes: Vec<usize> = all.iter().map(Examples::len).collect();
        for (i, ((rows, take), file)) in
            (0..).zip(all.iter_mut().zip(shares(&sizes, rows)).zip(files))
        {
            if take < rows.len() {
                let mut order: Vec<usize> = (0..rows.len()).collect();
                Stream::new(options.seed, &["experiment-1", "rows"], i).shuffle(&mut order);
                order.truncate(take);
                order.sort_unstable();
                notes.push(format!("rows of {}: {take} of {}", stem(file), rows.len()));
                *rows = rows.pick(order);
            }
        }
    }
    Ok((all, joined(files)))
}

/// How many of each of some lists are taken so that together they are `wanted`, as evenly as their lengths allow.
fn shares(sizes: &[usize], wanted: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| sizes[i]);
    let mut shares = vec![0; sizes.len()];
    let mut left = wanted;
    for (done, &i) in order.iter().enumerate() {
        shares[i] = sizes[i].min(left / (sizes.len() - done));
        left -= shares[i];
    }
    shares
}

fn read_structural(
    files: &TrainingFiles,
    notes: &mut Vec<String>,
) -> Result<(Vec<Structural>, String)> {
    let (mut near_misses, mut paraphrases) = (Vec::new(), Vec::new());
    for file in &files.structural {
        let (rows, found) = read_near_misses(file, Filter::Corrected)?;
        notes.extend(found.lines(&format!("near-misses of {}", stem(file))));
        near_misses.extend(rows);
    }
    for file in &files.positives {
        let (rows, found) = read_paraphrases(file)?;
        notes.extend(found.lines(&format!("paraphrases of {}", stem(file))));
        paraphrases.extend(rows);
    }
    let rows = Structural::join(&near_misses, &paraphrases);
    let with = rows.iter().filter(|row| row.paraphrase.is_some()).count();
    notes.push(format!(
        "structural rows with a paraphrase: {with} of {}",
        rows.len()
    ));
    Ok((rows, joined(&files.structural)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::plan::Preset;

    const OPTIONS: DataOptions = DataOptions {
        seed: 42,
        split: SplitBy::Anchor,
        identical: Identical::Drop,
        share: SHARE,
        rows: Some(100),
    };

    #[test]
    fn built_in_rows_are_none_of_those_that_are_tested() {
        let data = TrainingData::new(&TrainingFiles::default(), &OPTIONS).unwrap();
        assert_eq!((data.retrieval.len(), data.held_out.len()), (90, 10));
        // 22 of 112, rounded up to whole anchors of three kinds.
        assert_eq!(data.structural.len(), 24);
        assert_eq!(data.categories(), TRAINED.iter().collect::<Vec<_>>());
        assert!(data.structural.iter().all(|row| row.paraphrase.is_some()));
        // What is held out is no negative of what is trained on.
        let positives: HashSet<&str> = data.retrieval.iter().map(|r| &r.positive[..]).collect();
        let mut rows = data.retrieval.iter();
        assert!(rows.all(|row| positives.contains(&row.negative[..])));
        let tested = Preset::Small.edit_set(42).unwrap();
        let tested: HashSet<&str> = (tested.anchors.iter())
            .flat_map(|anchor| anchor.variants.iter().map(|v| &v.text[..]))
            .collect();
        for row in &data.structural {
            assert!(!tested.contains(&row.anchor[..]) && !tested.contains(&row.near_miss[..]));
        }
        let trained: HashSet<&str> = data.retrieval.iter().map(|row| &row.anchor[..]).collect();
        assert!(
            data.held_out
                .iter()
                .all(|row| !trained.contains(&row.anchor[..]))
        );
    }

    #[test]
    fn files_give_equal_shares_and_missing_negatives_are_drawn() {
        assert_eq!(shares(&[10, 3, 10], 12), [4, 3, 5]);
        assert_eq!(shares(&[10, 3], 100), [10, 3]);
        assert_eq!(shares(&[], 5), [0usize; 0]);
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let rows = |form: fn(usize) -> String| (0..60).map(form).collect::<String>();
        let full = rows(|i| format!("who {i},it {i},that {i}\n"));
        let pairs = rows(|i| format!("where {i},there {i}\n"));
        let near = rows(|i| format!("a sees {i},{i} sees a,role\n"));
        let files = TrainingFiles {
            triplets: vec![
                file("full.csv", format!("anchor,positive,negative\n{full}")),
                file("pairs.csv", format!("anchor,positive\n{pairs}")),
            ],
            structural: vec![file(
                "near.csv",
                format!("sentence1,sentence2,category\n{near}"),
            )],
            positives: vec![file(
                "same.csv",
                "sentence1,sentence2\na sees 3,3 is seen\n".into(),
            )],
        };
        let options = DataOptions {
            rows: Some(60),
            ..OPTIONS
        };
        let data = TrainingData::new(&files, &options).unwrap();
        assert_eq!(data.names, ["full+pairs", "near"]);
        let of = |start: &str| {
            let all = data.retrieval.iter().chain(&data.held_out);
            all.filter(|row| row.anchor.starts_with(start)).count()
        };
        assert_eq!([of("who"), of("where")], [30, 30]);
        let all = data.retrieval.iter().chain(&data.held_out);
        let mut drawn = all.filter(|row| row.anchor.starts_with("where"));
        assert!(drawn.all(|row| row.negative.starts_with("there") && row.negative != row.positive));
        assert_eq!(data.structural.len(), 60);
        assert_eq!(data.structural[3].paraphrase.as_deref(), Some("3 is seen"));
        assert!(!data.grammar && data.notes.iter().any(|note| note.contains("1 of 60")));
        // The same again, and other rows by another seed.
        assert_eq!(
            TrainingData::new(&files, &options).unwrap().retrieval,
            data.retrieval
        );
        // A pair that is held out alone has no other to take a negative from.
        let few = DataOptions {
            rows: Some(20),
            ..options
        };
        let few = TrainingData::new(&files, &few).unwrap();
        assert_eq!((few.retrieval.len(), few.held_out.len()), (18, 1));
        let left_out = "held-out rows that are left out: row 0 can have no negative";
        assert!(few.notes.iter().any(|note| note.starts_with(left_out)));
        let other = DataOptions { seed: 1, ..options };
        assert_ne!(
            TrainingData::new(&files, &other).unwrap().retrieval,
            data.retrieval
        );
        let alone = TrainingFiles {
            structural: Vec::new(),
            ..files
        };
        assert!(TrainingData::new(&alone, &options).is_err());
    }
}
