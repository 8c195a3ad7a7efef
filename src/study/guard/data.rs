//! Pairs of which it is known whether they mean the same, from files.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::groups::{connected, folded, split};
use crate::data::pairs::{
    Filter, NearMiss, Paraphrase, contradiction, read_near_misses, read_paraphrases,
};
use crate::data::triplets::{self, Examples, Identical, Triplet};
use crate::data::{Category, questions, stem, write_atomically};
use crate::error::{Error, Result};
use crate::train::pairs::{Contrast, MixOptions, Mixture, mix};
use crate::verifier::{check_true_accept, fewest_accepts};

/// Endings of the names of files that hold paraphrases of the source that the rest names.
const ENDINGS: [&str; 4] = ["_paraphrase", "_paraphrases", "-paraphrase", "-paraphrases"];

/// Files of pairs that were kept aside, in the folder of a guard.
const KEPT_ASIDE: &str = "kept-aside";

/// A pair of sentences of which it is known whether they mean the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The sentence that counts as given.
    pub anchor: String,
    /// The other one.
    pub text: String,
    /// What the difference is, if they do not mean the same.
    pub difference: Option<Category>,
    /// Where the pair comes from.
    pub source: String,
}

impl Labelled {
    /// Whether both sentences mean the same.
    pub fn same(&self) -> bool {
        self.difference.is_none()
    }

    /// Both sentences.
    pub fn texts(&self) -> [&str; 2] {
        [&self.anchor, &self.text]
    }
}

/// Near-misses and pairs of equal meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Pairs to be rejected.
    pub near_misses: Vec<NearMiss>,
    /// Pairs to be accepted.
    pub paraphrases: Vec<Paraphrase>,
    /// What was read and left out, and what is odd.
    pub notes: Vec<String>,
}

impl Lists {
    /// Reads CSV files, see [`crate::data::pairs`].
    ///
    /// Paraphrases whose file says nothing of sources are of the source that its name without an ending as `_paraphrases`
    /// is; if there is one file of each kind, and neither names sources, both are of one source.
    ///
    /// # Errors
    /// As [`read_near_misses`]; [`Error::Input`] for a pair that is in both, which it names with its files.
    pub fn read(near_misses: &[PathBuf], paraphrases: &[PathBuf]) -> Result<Self> {
        let (lists, starts, equal_starts) = Self::gather(near_misses, paraphrases)?;
        if let Some([near_miss, equal]) = contradiction(&lists.near_misses, &lists.paraphrases) {
            let row = &lists.near_misses[near_miss];
            let of = |starts: &[usize], row| starts.partition_point(|&start| start <= row) - 1;
            return Err(both(
                &row.anchor,
                &row.text,
                &near_misses[of(&starts, near_miss)],
                &paraphrases[of(&equal_starts, equal)],
            ));
        }
        Ok(lists)
    }

    /// [`Lists::read`] of files that are given for something else too, so that a pair that is in both is no mistake: it is
    /// taken for the near-miss that it is called, and said.
    ///
    /// # Errors
    /// As [`read_near_misses`].
    pub fn read_leniently(near_misses: &[PathBuf], paraphrases: &[PathBuf]) -> Result<Self> {
        let (mut lists, ..) = Self::gather(near_misses, paraphrases)?;
        let different: HashSet<[&str; 2]> = (lists.near_misses.iter())
            .flat_map(|p| [[&p.anchor[..], &p.text], [&p.text, &p.anchor]])
            .collect();
        let before = lists.paraphrases.len();
        let same = |p: &Paraphrase| !different.contains(&[&p.anchor[..], &p.text]);
        lists.paraphrases.retain(same);
        let left_out = before - lists.paraphrases.len();
        if left_out > 0 {
            lists.notes.push(format!(
                "pairs of equal meaning that are near-misses too, left out: {left_out}"
            ));
        }
        Ok(lists)
    }

    /// What files hold, and the first row of every one.
    fn gather(
        near_misses: &[PathBuf],
        paraphrases: &[PathBuf],
    ) -> Result<(Self, Vec<usize>, Vec<usize>)> {
        let mut lists = Lists::default();
        let (mut starts, mut equal_starts) = (Vec::new(), Vec::new());
        for path in near_misses {
            let (rows, notes) = read_near_misses(path, Filter::Corrected)?;
            let shown = path.display();
            let said = [format!("{shown}: {} near-misses", rows.len())];
            lists.notes.extend(said);
            lists.notes.extend(notes.lines("near-misses"));
            starts.push(lists.near_misses.len());
            lists.near_misses.extend(rows);
        }
        let mut named = false;
        for path in paraphrases {
            let (mut rows, notes) = read_paraphrases(path)?;
            let shown = path.display();
            let said = [format!("{shown}: {} pairs of equal meaning", rows.len())];
            lists.notes.extend(said);
            lists.notes.extend(notes.lines("pairs of equal meaning"));
            let own = stem(path);
            let of = ENDINGS.iter().find_map(|ending| own.strip_suffix(ending));
            for row in &mut rows {
                match row.source == own {
                    true => row.source = of.unwrap_or(&own).into(),
                    false => named = true,
                }
            }
            equal_starts.push(lists.paraphrases.len());
            lists.paraphrases.extend(rows);
        }
        if let ([one], [_]) = (near_misses, paraphrases) {
            let own = stem(one);
            if !named && lists.near_misses.iter().all(|row| row.source == own) {
                let rows = lists.paraphrases.iter_mut();
                rows.for_each(|row| row.source.clone_from(&own));
            }
        }
        Ok((lists, starts, equal_starts))
    }

    /// This share of all pairs to train on and the rest, in their order; pairs that share a sentence, even by way of others,
    /// stay together. Of a rest beyond what [`split`] keeps the number is in its notes.
    ///
    /// # Errors
    /// As [`split`].
    pub fn divided(&self, training_share: f64, seed: u64) -> Result<[Lists; 2]> {
        let n = self.paraphrases.len();
        let equal = self.paraphrases.iter().map(|p| [&p.anchor[..], &p.text]);
        let near = self.near_misses.iter().map(|p| [&p.anchor[..], &p.text]);
        let parts = split(&connected(equal.chain(near)), training_share, seed)?;
        let all = n + self.near_misses.len();
        let unused = all - parts.train.len() - parts.held_out.len();
        let pick = |mut rows: Vec<usize>| {
            rows.sort_unstable();
            let (equal, near) = rows.split_at(rows.partition_point(|&row| row < n));
            Lists {
                near_misses: near
                    .iter()
                    .map(|&row| self.near_misses[row - n].clone())
                    .collect(),
                paraphrases: equal
                    .iter()
                    .map(|&row| self.paraphrases[row].clone())
                    .collect(),
                notes: Vec::new(),
            }
        };
        let (train, mut rest) = (pick(parts.train), pick(parts.held_out));
        rest.notes.extend(beyond(unused));
        Ok([train, rest])
    }

    /// All pairs, those of equal meaning first.
    pub fn labelled(&self) -> Vec<Labelled> {
        let same = self.paraphrases.iter().map(|row| Labelled {
            anchor: row.anchor.clone(),
            text: row.text.clone(),
            difference: None,
            source: row.source.clone(),
        });
        let other = self.near_misses.iter().map(|row| Labelled {
            anchor: row.anchor.clone(),
            text: row.text.clone(),
            difference: Some(row.category.clone()),
            source: row.source.clone(),
        });
        same.chain(other).collect()
    }
}

/// What is said of a pair of which both is said.
fn both(anchor: &str, text: &str, near_miss: &Path, equal: &Path) -> Error {
    let place = match near_miss == equal {
        true => "here too".to_string(),
        false => format!("in {}", equal.display()),
    };
    Error::input(
        near_miss,
        format!(
            "{anchor:?} and {text:?} mean different things here and the same {place}; remove the pair where it is wrong"
        ),
    )
}

/// How pairs are divided and mixed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GuardOptions {
    /// Share of the rows that is not trained on, but judged by. 0.1.
    pub keep_aside: f64,
    /// Share of pairs of equal meaning that is to be accepted. 0.95.
    pub true_accept: f64,
    /// Share of the rows to train on that are built in: pairs of questions, see [`questions`]. What is given is often of few
    /// kinds, and what a guard meets is not. 0.5.
    pub built_in: f64,
    /// How rows are made of pairs.
    pub mix: MixOptions,
}

impl Default for GuardOptions {
    fn default() -> Self {
        GuardOptions {
            keep_aside: 0.1,
            true_accept: 0.95,
            built_in: 0.5,
            mix: MixOptions::default(),
        }
    }
}

/// Built-in rows that differ from each other, which leaves the grammar room to write them.
const BUILT_IN: usize = 20_000;

/// So many built-in rows: of each question a rewording to accept and a near-miss to reject, without sentences that are among
/// `kept_aside`. After 20,000 they come again.
///
/// # Errors
/// As [`questions::generate`].
pub fn built_in_rows<'a>(
    seed: u64,
    rows: usize,
    kept_aside: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Contrast>> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    let different = rows.min(BUILT_IN);
    let written = questions::generate(questions::Split::Train, seed, 2 * different)?;
    let both = |anchor: String, text: String| [anchor, text];
    let accepts = written
        .paraphrases()
        .into_iter()
        .map(|p| both(p.anchor, p.text));
    let rejects = written
        .near_misses()
        .into_iter()
        .map(|p| both(p.anchor, p.text));
    let all = accepts.zip(rejects);
    let kept_aside: HashSet<String> = kept_aside.into_iter().map(folded).collect();
    let all: Vec<Contrast> = all
        .map(|(accept, reject)| Contrast { accept, reject })
        .filter(|row| {
            let mut texts = row.accept.iter().chain(&row.reject);
            !texts.any(|text| kept_aside.contains(&folded(text)))
        })
        .collect();
    Ok(all.iter().cycle().take(rows).cloned().collect())
}

/// Rows to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// A pair to accept and a pair to reject.
    Contrasts(Vec<Contrast>),
    /// An anchor with what means the same and what does not.
    Triplets(Vec<Triplet>),
}

impl Rows {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Rows::Contrasts(rows) => rows.len(),
            Rows::Triplets(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a guard is trained on and what it is judged by; no sentence is in both.
#[derive(Clone, Debug)]
pub struct GuardData {
    /// To train on.
    pub rows: Rows,
    /// To choose a threshold by, and to say what it costs.
    pub kept_aside: Vec<Labelled>,
    /// What was read and left out, and what is odd.
    pub notes: Vec<String>,
}

impl GuardData {
    /// From near-misses and pairs of equal meaning.
    ///
    /// # Errors
    /// As [`Lists::read`] and [`mix`]; [`Error::Setting`] for shares that cannot be; [`Error::Invalid`] if fewer pairs of
    /// equal meaning would be kept aside than a threshold takes.
    pub fn of_pairs(
        near_misses: &[PathBuf],
        paraphrases: &[PathBuf],
        options: &GuardOptions,
    ) -> Result<Self> {
        check(options)?;
        let lists = Lists::read(near_misses, paraphrases)?;
        let [train, held_out] = lists.divided(1.0 - options.keep_aside, options.mix.seed)?;
        let kept_aside = once(held_out.labelled());
        enough(&kept_aside, lists.paraphrases.len(), options)?;
        let mixture = mix(&train.near_misses, &train.paraphrases, &options.mix)?;
        let mut notes = lists.notes;
        notes.extend(held_out.notes);
        notes.extend(mixed(&mixture));
        notes.push(aside(&kept_aside));
        let mut rows = mixture.rows;
        let wanted = rows.len() as f64 * options.built_in / (1.0 - options.built_in);
        let texts = kept_aside.iter().flat_map(Labelled::texts);
        let built_in = built_in_rows(options.mix.seed, wanted as usize, texts)?;
        if !built_in.is_empty() {
            notes.push(format!("built-in rows of questions: {}", built_in.len()));
        }
        rows.extend(built_in);
        Ok(GuardData {
            rows: Rows::Contrasts(rows),
            kept_aside,
            notes,
        })
    }

    /// From triplets: of each, the positive says the same as the anchor, and the negative does not.
    ///
    /// # Errors
    /// As [`triplets::read`] and [`GuardData::of_pairs`]; [`Error::Input`] for a file without negatives or without
    /// positives.
    pub fn of_triplets(files: &[PathBuf], options: &GuardOptions) -> Result<Self> {
        check(options)?;
        let mut notes = Vec::new();
        let mut rows: Vec<(Triplet, usize)> = Vec::new();
        for (file, path) in files.iter().enumerate() {
            let (examples, found) = triplets::read(path, Identical::Drop)?;
            let Examples::Triplets(of_file) = examples else {
                return Err(Error::input(
                    path,
                    "has no negatives; a guard learns from sentences that resemble the anchor and say something else: give columns anchor, positive and negative",
                ));
            };
            let n = of_file.len();
            let with = of_file.into_iter().filter(|row| row.positive != row.anchor);
            let before = rows.len();
            rows.extend(with.map(|row| (row, file)));
            let kept = rows.len() - before;
            if kept == 0 {
                return Err(Error::input(
                    path,
                    "has no positives beside the anchors themselves; give near-misses as such, together with pairs of equal meaning",
                ));
            }
            notes.push(format!("{}: {kept} triplets", path.display()));
            notes.extend(found.lines("triplets"));
            if kept < n {
                let left = n - kept;
                notes.push(format!(
                    "triplets whose positive equals their anchor, left out: {left}"
                ));
            }
        }
        let names: Vec<String> = files.iter().map(|path| stem(path)).collect();
        let labelled = |(row, file): &(Triplet, usize)| {
            let pair = |text: &String, difference| Labelled {
                anchor: row.anchor.clone(),
                text: text.clone(),
                difference,
                source: names[*file].clone(),
            };
            let category = row.category.clone();
            [
                pair(&row.positive, None),
                pair(&row.negative, Some(category)),
            ]
        };
        refuse_both(&rows, files)?;
        let groups = connected(
            rows.iter()
                .map(|(row, _)| [&row.anchor[..], &row.positive, &row.negative]),
        );
        let parts = split(&groups, 1.0 - options.keep_aside, options.mix.seed)?;
        let kept_aside = once(parts.held_out.iter().flat_map(|&row| labelled(&rows[row])));
        let positives: HashSet<[&str; 2]> = rows
            .iter()
            .map(|(row, _)| [&row.anchor[..], &row.positive])
            .collect();
        enough(&kept_aside, positives.len(), options)?;
        notes.extend(beyond(
            rows.len() - parts.train.len() - parts.held_out.len(),
        ));
        let mut train = parts.train;
        train.sort_unstable();
        let train: Vec<Triplet> = train.iter().map(|&row| rows[row].0.clone()).collect();
        notes.push(format!("rows to train on: {}", train.len()));
        notes.push(aside(&kept_aside));
        Ok(GuardData {
            rows: Rows::Triplets(train),
            kept_aside,
            notes,
        })
    }

    /// Writes what was kept aside into the folder of a guard, as files of near-misses and of pairs of equal meaning.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write_kept_aside(&self, folder: &Path) -> Result<()> {
        let folder = folder.join(KEPT_ASIDE);
        let write =
            |name: &str, header: &[&str], row: &dyn Fn(&Labelled) -> Option<Vec<String>>| {
                write_atomically(&folder.join(name), |file| {
                    let mut writer = csv::Writer::from_writer(file);
                    writer.write_record(header)?;
                    for fields in self.kept_aside.iter().filter_map(row) {
                        writer.write_record(&fields)?;
                    }
                    writer.flush()
                })
            };
        let pair = |row: &Labelled| vec![row.anchor.clone(), row.text.clone()];
        let header = ["sentence1", "sentence2", "category", "source"];
        write("near_misses.csv", &header, &|row| {
            let category = row.difference.as_ref()?.name().to_string();
            Some([pair(row), vec![category, row.source.clone()]].concat())
        })?;
        let header = ["sentence1", "sentence2", "source"];
        write("paraphrases.csv", &header, &|row| {
            let source = vec![row.source.clone()];
            row.same().then(|| [pair(row), source].concat())
        })
    }
}

/// Refuses triplets of which one says that two sentences mean the same, and one that they do not.
fn refuse_both(rows: &[(Triplet, usize)], files: &[PathBuf]) -> Result<()> {
    let mut equal: BTreeMap<[&str; 2], usize> = BTreeMap::new();
    for (row, file) in rows {
        for pair in [
            [&row.anchor[..], &row.positive],
            [&row.positive, &row.anchor],
        ] {
            equal.entry(pair).or_insert(*file);
        }
    }
    let mut wrong = rows.iter().filter_map(|(row, file)| {
        let other = equal.get(&[&row.anchor[..], &row.negative])?;
        Some(both(
            &row.anchor,
            &row.negative,
            &files[*file],
            &files[*other],
        ))
    });
    wrong.next().map_or(Ok(()), Err)
}

/// Refuses shares that cannot be.
fn check(options: &GuardOptions) -> Result<()> {
    check_true_accept(options.true_accept)?;
    if !(0.0..1.0).contains(&options.built_in) {
        let share = options.built_in;
        return Err(Error::Setting {
            setting: "built_in",
            message: format!("`built_in` is {share}; give a share from 0 to below 1"),
        });
    }
    let share = options.keep_aside;
    if share > 0.0 && share < 1.0 {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "keep_aside",
        message: format!("`keep_aside` is {share}; give a share above 0 and below 1, as 0.1"),
    })
}

/// Refuses to train where no threshold could be chosen afterwards. `all` are the pairs of equal meaning that there are.
fn enough(kept_aside: &[Labelled], all: usize, options: &GuardOptions) -> Result<()> {
    let kept = kept_aside.iter().filter(|pair| pair.same()).count();
    let fewest = fewest_accepts(options.true_accept);
    if kept >= fewest {
        return Ok(());
    }
    // Of what there is and of what such a share left, and a fifth more, since shares are of whole groups of sentences.
    let left = options.keep_aside * fewest as f64 / kept as f64;
    let share = (120.0 * left.max(fewest as f64 / all as f64)).ceil() / 100.0;
    let cure = match (share <= 0.5, kept) {
        (true, _) => format!("keep a larger share of the rows aside, as {share}"),
        (false, 0) if all >= 12 * fewest => {
            "give some that share no sentence with the others".into()
        }
        _ => format!("give more of them, {} or so", 12 * fewest),
    };
    Err(Error::Invalid(format!(
        "{kept} of {all} pairs of equal meaning are kept aside, and the threshold that accepts {} of them takes {fewest} or more: {cure}, or accept a smaller share of them",
        options.true_accept
    )))
}

/// Each pair once.
fn once(pairs: impl IntoIterator<Item = Labelled>) -> Vec<Labelled> {
    let mut seen = HashSet::new();
    pairs
        .into_iter()
        .filter(|pair| seen.insert((pair.anchor.clone(), pair.text.clone(), pair.same())))
        .collect()
}

/// What is neither trained on nor judged, of which there is enough.
fn beyond(unused: usize) -> Option<String> {
    (unused > 0).then(|| {
        format!("rows neither trained on nor kept aside, of which there are enough: {unused}")
    })
}

/// What was kept aside.
fn aside(pairs: &[Labelled]) -> String {
    let same = pairs.iter().filter(|pair| pair.same()).count();
    format!(
        "kept aside: {same} pairs of equal meaning, {} near-misses; none of their sentences is trained on",
        pairs.len() - same
    )
}

/// What rows were made of pairs.
fn mixed(mixture: &Mixture) -> Vec<String> {
    let mut notes = vec![format!(
        "rows to train on: {}, of which {} reject sentences that have nothing to do with each other, and {} such that share words",
        mixture.rows.len(),
        mixture.random,
        mixture.hard
    )];
    if mixture.sources.len() > 1 {
        let alone: Vec<String> = (mixture.sources.iter())
            .filter(|(_, sides)| sides.accepts == 0)
            .map(|(source, sides)| format!("{source} ({})", sides.rejects))
            .collect();
        if !alone.is_empty() {
            notes.push(format!(
                "sources of near-misses alone: {}; what they look like tells the answer, so pairs of equal meaning of these sources would help",
                alone.join(", ")
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of a folder.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Files(tempfile::tempdir().unwrap())
        }

        fn put(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        /// Near-misses and paraphrases of `n` anchors.
        fn pairs(&self, n: usize) -> [PathBuf; 2] {
            let near: String = (0..n)
                .map(|i| format!("cat {i} sat,cat {i} stood,verb\n"))
                .collect();
            let same: String = (0..n)
                .map(|i| format!("cat {i} sat,it sat cat {i}\n"))
                .collect();
            [
                self.put("near.csv", &format!("sentence1,sentence2,category\n{near}")),
                self.put("same.csv", &format!("sentence1,sentence2\n{same}")),
            ]
        }
    }

    fn options(keep_aside: f64, true_accept: f64) -> GuardOptions {
        GuardOptions {
            keep_aside,
            true_accept,
            built_in: 0.0,
            mix: MixOptions::default(),
        }
    }

    #[test]
    fn built_in_rows_are_of_one_question_each() {
        let rows = built_in_rows(42, 60, []).unwrap();
        assert_eq!(rows.len(), 60);
        for Contrast { accept, reject } in &rows {
            assert!(accept[0] == reject[0] && accept[1] != reject[1]);
        }
        assert_eq!(built_in_rows(42, 60, []).unwrap(), rows);
        // What is kept aside is not among them, in whatever spelling.
        let aside = rows[7].reject[1].to_uppercase();
        let others = built_in_rows(42, 60, [&aside[..]]).unwrap();
        assert_eq!((others.len(), &others[7]), (60, &rows[8]));
        assert_ne!(built_in_rows(7, 60, []).unwrap(), rows);
        assert!(built_in_rows(42, 0, []).unwrap().is_empty());
    }

    fn refused<T>(found: Result<T>, parts: &[&str]) {
        let error = found.err().unwrap().to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn no_sentence_is_trained_on_and_judged_by() {
        let files = Files::new();
        let [near, same] = files.pairs(100);
        let of = |seed| {
            let mut options = options(0.3, 0.9);
            options.mix.seed = seed;
            let files = |path: &PathBuf| vec![path.clone()];
            GuardData::of_pairs(&files(&near), &files(&same), &options).unwrap()
        };
        let data = of(1);
        let Rows::Contrasts(rows) = &data.rows else {
            panic!("of pairs");
        };
        let trained: HashSet<&str> = (rows.iter())
            .flat_map(|row| row.accept.iter().chain(&row.reject).map(String::as_str))
            .collect();
        assert!(
            data.kept_aside
                .iter()
                .all(|pair| !pair.texts().iter().any(|t| trained.contains(t)))
        );
        // An anchor has one pair of each kind.
        let same_aside = data.kept_aside.iter().filter(|pair| pair.same()).count();
        assert_eq!((same_aside, data.kept_aside.len()), (30, 60));
        assert_eq!(of(1).rows, data.rows);
        assert_ne!(of(2).kept_aside, data.kept_aside);
        data.write_kept_aside(files.0.path()).unwrap();
        let [near, same] = ["near_misses.csv", "paraphrases.csv"]
            .map(|name| files.0.path().join(KEPT_ASIDE).join(name));
        let mut again = Lists::read(&[near], &[same]).unwrap().labelled();
        let mut kept = data.kept_aside.clone();
        again.sort_by(|a, b| a.texts().cmp(&b.texts()));
        kept.sort_by(|a, b| a.texts().cmp(&b.texts()));
        assert_eq!(again, kept);
    }

    #[test]
    fn too_few_are_known_before_the_training() {
        let files = Files::new();
        let [near, same] = files.pairs(100).map(|path| vec![path]);
        let of = |keep_aside, rate| GuardData::of_pairs(&near, &same, &options(keep_aside, rate));
        refused(
            of(0.1, 0.95),
            &[
                "10 of 100 pairs",
                "accepts 0.95",
                "takes 20 or more",
                "as 0.24",
            ],
        );
        refused(of(0.1, 0.99), &["takes 100 or more", "give more of them"]);
        assert!(of(0.24, 0.95).is_ok());
        for share in [0.0, 1.0] {
            refused(of(share, 0.9), &["`keep_aside` is"]);
            refused(of(0.1, share), &["`true_accept` is"]);
        }
    }

    #[test]
    fn sources_of_files_that_name_none() {
        let files = Files::new();
        let [near, same] = files.pairs(3);
        let sources = |near: &[PathBuf], same: &[PathBuf]| -> Vec<String> {
            let lists = Lists::read(near, same).unwrap();
            let all: std::collections::BTreeSet<String> = lists
                .labelled()
                .into_iter()
                .map(|pair| pair.source)
                .collect();
            all.into_iter().collect()
        };
        assert_eq!(
            sources(std::slice::from_ref(&near), std::slice::from_ref(&same)),
            ["near"]
        );
        let named = files.put("near_paraphrases.csv", "sentence1,sentence2\na,b\n");
        assert_eq!(
            sources(std::slice::from_ref(&near), &[same.clone(), named]),
            ["near", "same"]
        );
        let with = files.put("x.csv", "sentence1,sentence2,source\na,b,web\n");
        assert_eq!(sources(&[near], &[with]), ["near", "web"]);
    }

    #[test]
    fn what_is_said_twice_differently_is_named_with_its_files() {
        let files = Files::new();
        let [near, same] = files.pairs(3);
        let wrong = files.put(
            "wrong.csv",
            "sentence1,sentence2\nx,y\ncat 1 stood,cat 1 sat\n",
        );
        let parts = [
            "near.csv: \"cat 1 sat\" and \"cat 1 stood\"",
            "the same in",
            "wrong.csv",
        ];
        refused(Lists::read(&[near], &[same, wrong]), &parts);
        let rows = "anchor,positive,negative\na,b,c\nb,d,a\n";
        let triplets = files.put("t.csv", rows);
        let found = GuardData::of_triplets(&[triplets], &GuardOptions::default());
        refused(found, &["t.csv: \"b\" and \"a\"", "the same here too"]);
    }

    #[test]
    fn triplets_are_pairs_of_both_kinds() {
        let files = Files::new();
        let row = |i: usize| format!("cat {i},a cat {i},no cat {i}\ncat {i},a cat {i},dog {i}\n");
        let rows: String = (0..50).map(row).collect();
        let rows = format!("anchor,positive,negative\n{rows}same,same,other\n");
        let path = files.put("t.csv", &rows);
        let data = GuardData::of_triplets(&[path], &options(0.4, 0.9)).unwrap();
        let Rows::Triplets(rows) = &data.rows else {
            panic!("of triplets");
        };
        // Both rows of an anchor are on one side, and their positive is one pair.
        let same = data.kept_aside.iter().filter(|pair| pair.same()).count();
        assert_eq!((rows.len(), same, data.kept_aside.len()), (60, 20, 60));
        let left = "triplets whose positive equals their anchor, left out: 1";
        assert!(
            data.notes.iter().any(|note| note == left),
            "{:?}",
            data.notes
        );
        let of = |name, text| {
            let path = files.put(name, text);
            GuardData::of_triplets(&[path], &GuardOptions::default())
        };
        refused(
            of("p.csv", "anchor,positive\na,b\n"),
            &["p.csv: has no negatives"],
        );
        let near = "sentence1,sentence2,category\na,b,neg\n";
        refused(of("n.csv", near), &["n.csv: has no positives"]);
    }
}
