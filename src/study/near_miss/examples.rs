//! Pairs of sentences to be scored: of files, or of the built-in edit sets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::{Value, json};

use crate::data::edits::{self, EditSet};
use crate::data::pairs::{Filter, read_near_misses, read_paraphrases};
use crate::data::stem;
use crate::error::Result;
use crate::metrics::edits::{BEYOND, MOST, size_and_length};
use crate::metrics::near_miss::{Kind, Split};
use crate::random::Stream;

/// A pair to be scored.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// The sentence that counts as given.
    pub anchor: String,
    /// The other one.
    pub text: String,
    /// What it is to the anchor.
    pub kind: Kind,
    /// Category of a near-miss; empty for other kinds.
    pub category: String,
    /// Where it comes from.
    pub source: String,
    /// Half of the anchor.
    pub split: Split,
    /// Which of [`Examples::parts`] it belongs to, if it is of the test half.
    pub part: usize,
    /// See [`Example::size_and_length`], once somebody asked.
    #[serde(skip)]
    words: OnceLock<(usize, usize)>,
}

impl Example {
    /// Word-level distance of its sentences, and words of the first, as [`size_and_length`] has them. They are compared once,
    /// for all scorers and files.
    pub fn size_and_length(&self) -> (usize, usize) {
        let compare = || size_and_length(&self.anchor, &self.text);
        *self.words.get_or_init(compare)
    }

    /// It as result files have it, but for the scores.
    pub fn line(&self) -> Value {
        let mut line = json!(self);
        line["edit_size"] = match self.size_and_length().0 {
            BEYOND => json!(format!("more than {MOST}")),
            size => json!(size),
        };
        line
    }
}

/// Pairs to be scored, under the name of a set.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// Name of the set.
    pub name: String,
    /// The pairs.
    pub items: Vec<Example>,
    /// Names of the test sets that share the calibration half; the first is the main one.
    pub parts: Vec<&'static str>,
    /// Whether they are the built-in edit sets.
    pub built_in: bool,
    /// What was left out of the files, or is odd in them.
    pub notes: Vec<String>,
}

/// How examples are made of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Which near-misses count.
    pub filter: Filter,
    /// Draws the unrelated pairs.
    pub seed: u64,
    /// The most pairs of unrelated sentences, which angles are set in relation to.
    pub unrelated: usize,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions {
            filter: Filter::Corrected,
            seed: 42,
            unrelated: 2_000,
        }
    }
}

impl Examples {
    /// Name of the built-in edit set.
    pub const BUILT_IN: &'static str = "edits";

    /// Near-misses and paraphrases from CSV files (see [`crate::data::pairs`]); the halves come from the anchors' text.
    /// Unrelated pairs are added: anchors set beside other anchors. Unless every file has a column of sources, none is
    /// known: names of two files say nothing about what is in them.
    ///
    /// # Errors
    /// As [`read_near_misses`].
    pub fn from_files(
        pairs: &Path,
        paraphrases: Option<&Path>,
        options: FileOptions,
    ) -> Result<Self> {
        let (near_misses, notes) = read_near_misses(pairs, options.filter)?;
        let paraphrases = paraphrases.map(read_paraphrases).transpose()?;
        let without = [
            (notes.no_sources, "near-misses"),
            (
                paraphrases.as_ref().is_some_and(|(_, n)| n.no_sources),
                "paraphrases",
            ),
        ];
        let without: Vec<&str> = (without.iter().filter(|(none, _)| *none))
            .map(|(_, what)| *what)
            .collect();
        let source = |of: String| match without.is_empty() {
            true => of,
            false => String::new(),
        };
        let mut examples = Examples {
            name: stem(pairs),
            notes: notes.lines("near-misses"),
            items: Vec::new(),
            parts: vec!["test"],
            built_in: false,
        };
        for pair in near_misses {
            examples.items.push(Example {
                split: Split::of_anchor(&pair.anchor),
                category: pair.category.to_string(),
                kind: Kind::NearMiss,
                anchor: pair.anchor,
                text: pair.text,
                source: source(pair.source),
                part: 0,
                words: OnceLock::new(),
            });
        }
        examples.add_unrelated(options.seed, options.unrelated);
        if let Some((paraphrases, notes)) = paraphrases {
            examples.notes.extend(notes.lines("paraphrases"));
            for pair in paraphrases {
                examples.items.push(Example {
                    split: Split::of_anchor(&pair.anchor),
                    category: String::new(),
                    kind: Kind::Paraphrase,
                    anchor: pair.anchor,
                    text: pair.text,
                    source: source(pair.source),
                    part: 0,
                    words: OnceLock::new(),
                });
            }
        }
        if let [what] = without[..]
            && examples.items.iter().any(|e| e.kind == Kind::Paraphrase)
        {
            examples.notes.push(format!(
                "{what} have no column source, so nothing is said by source"
            ));
        }
        Ok(examples)
    }

    /// The built-in edit set: its calibration split, and those of its test splits that it has.
    pub fn from_edits(set: &EditSet) -> Self {
        use edits::Split as From;
        const TESTS: [(From, &str); 3] = [
            (From::Test, "test"),
            (From::TestTemplates, "unseen templates"),
            (From::TestWords, "unseen words"),
        ];
        let has = |split| set.anchors.iter().any(|anchor| anchor.split == split);
        let tests: Vec<_> = TESTS.into_iter().filter(|(split, _)| has(*split)).collect();
        let mut items = Vec::new();
        for anchor in &set.anchors {
            let part = tests.iter().position(|(split, _)| *split == anchor.split);
            let split = match (anchor.split, part) {
                (From::Calibration, _) => Split::Calibration,
                (_, Some(_)) => Split::Test,
                _ => continue,
            };
            for variant in &anchor.variants {
                let category = match variant.kind {
                    Kind::NearMiss => anchor.category.to_string(),
                    _ => String::new(),
                };
                items.push(Example {
                    anchor: anchor.text.clone(),
                    text: variant.text.clone(),
                    kind: variant.kind,
                    category,
                    source: anchor.domain.to_string(),
                    split,
                    part: part.unwrap_or(0),
                    words: OnceLock::new(),
                });
            }
        }
        Examples {
            name: Self::BUILT_IN.into(),
            items,
            parts: tests.into_iter().map(|(_, name)| name).collect(),
            built_in: true,
            notes: vec![
                "written by a grammar: shows how scorers differ on structure, and is no evidence about natural text"
                    .into(),
            ],
        }
    }

    /// The pairs of paraphrases.
    pub fn paraphrases(&self) -> Vec<[&str; 2]> {
        let kept = self.items.iter().filter(|e| e.kind == Kind::Paraphrase);
        kept.map(|e| [&e.anchor[..], &e.text]).collect()
    }

    /// Counts of kinds, for a line of log.
    pub fn counts(&self) -> String {
        let mut by_kind: BTreeMap<Kind, usize> = BTreeMap::new();
        for item in &self.items {
            *by_kind.entry(item.kind).or_default() += 1;
        }
        let named = by_kind.iter().map(|(kind, n)| {
            let name = match kind {
                Kind::NearMiss => "near-misses",
                Kind::Paraphrase => "paraphrases",
                Kind::Synonym => "synonym controls",
                Kind::Function => "function-word controls",
                Kind::Identity => "identities",
                Kind::Unrelated => "unrelated pairs",
            };
            format!("{n} {name}")
        });
        named.collect::<Vec<_>>().join(", ")
    }

    /// Sets anchors beside other anchors in random order, at most `most` pairs.
    fn add_unrelated(&mut self, seed: u64, most: usize) {
        let distinct: BTreeSet<(&str, &str)> = self
            .items
            .iter()
            .map(|item| (item.anchor.as_str(), item.source.as_str()))
            .collect();
        let mut anchors: Vec<(String, String)> = distinct
            .into_iter()
            .map(|(anchor, source)| (anchor.to_string(), source.to_string()))
            .collect();
        Stream::new(seed, &["unrelated"], 0).shuffle(&mut anchors);
        let others = anchors[1.min(anchors.len())..].iter();
        for ((anchor, source), (other, _)) in anchors.iter().zip(others).take(most) {
            if anchor == other {
                continue;
            }
            self.items.push(Example {
                anchor: anchor.clone(),
                text: other.clone(),
                kind: Kind::Unrelated,
                category: String::new(),
                source: source.clone(),
                split: Split::of_anchor(anchor),
                part: 0,
                words: OnceLock::new(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_known_where_every_file_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let near = ["", ",source"].map(|column| {
            let cell = if column.is_empty() { "" } else { ",news" };
            let text = format!("sentence1,sentence2,category{column}\na b,b a,role{cell}\n");
            file(&format!("near{}.csv", column.len()), &text)
        });
        let same = ["", ",source"].map(|column| {
            let cell = if column.is_empty() { "" } else { ",news" };
            let text = format!("sentence1,sentence2{column}\na b,a and b{cell}\n");
            file(&format!("same{}.csv", column.len()), &text)
        });
        let sources = |near: &Path, same: Option<&Path>| {
            let found = Examples::from_files(near, same, FileOptions::default()).unwrap();
            let all: BTreeSet<String> = found.items.iter().map(|e| e.source.clone()).collect();
            let said = found
                .notes
                .iter()
                .any(|note| note.contains("no column source"));
            (all.into_iter().collect::<Vec<_>>(), said)
        };
        let known = (vec!["news".to_string()], false);
        assert_eq!(sources(&near[1], Some(&same[1])), known);
        assert_eq!(sources(&near[1], None), known);
        // Two files are no two sources.
        assert_eq!(
            sources(&near[0], Some(&same[0])),
            (vec![String::new()], false)
        );
        assert_eq!(sources(&near[0], None), (vec![String::new()], false));
        // One that names them cannot be set beside one that does not.
        assert_eq!(
            sources(&near[1], Some(&same[0])),
            (vec![String::new()], true)
        );
        assert_eq!(
            sources(&near[0], Some(&same[1])),
            (vec![String::new()], true)
        );
    }

    #[test]
    fn unrelated_pairs_are_limited_and_the_mode_decides_what_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.csv");
        let row = |i: usize| format!("the cat sees {i} birds,{i} birds see,role\n");
        let rows: String = (0..30).map(row).collect();
        let long = "the cat sees a bird,the bird sees a cat in the garden,role\n";
        std::fs::write(&path, format!("sentence1,sentence2,category\n{rows}{long}")).unwrap();
        let of = |options| Examples::from_files(&path, None, options).unwrap();
        let unrelated = |examples: &Examples| -> Vec<Value> {
            let items = examples.items.iter();
            let unrelated = items.filter(|item| item.kind == Kind::Unrelated);
            unrelated.map(Example::line).collect()
        };
        // Every anchor but the last beside the next, in random order.
        let all = unrelated(&of(FileOptions::default()));
        assert_eq!(all.len(), 30);
        for most in [0, 1, 29, 30, 31] {
            let some = unrelated(&of(FileOptions {
                unrelated: most,
                ..FileOptions::default()
            }));
            assert_eq!(some, all[..most.min(30)], "{most}");
        }
        let other = unrelated(&of(FileOptions {
            seed: 43,
            ..FileOptions::default()
        }));
        assert_ne!(other, all);
        let paper = of(FileOptions {
            filter: Filter::Paper,
            ..FileOptions::default()
        });
        assert_eq!((paper.items.len(), unrelated(&paper).len()), (1, 0));
    }
}
