//! Pairs of sentences, as CSV files.
//!
//! ```text
//! near-misses    sentence1,sentence2,category[,source][,label]   sentence2 resembles sentence1 and says something else
//! paraphrases    sentence1,sentence2[,source]                    sentence2 says the same
//! ```
//!
//! Columns are found by name in any order and any case; others are not read and named in [`PairNotes`]. Paraphrases with a
//! column `label` or `category` are refused: it would tell which rows are none. A file whose name ends in `.gz` is
//! decompressed. Without a source column the file's name is the source. Rows that cannot serve are left out and
//! counted in [`PairNotes`], and so are quotes that may be mistakes; quotes that swallow rows are errors.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use serde::Serialize;

pub use super::rows::QuoteNotes;
use super::rows::{CsvFile, no_usable_row, open, read_rows, unread_line};
use super::{BUFFER, Category, signature};
use crate::error::{Error, Result};

/// Texts that stand in files where a near-miss was to be written and was not.
const PLACEHOLDERS: [&str; 3] = [
    "negatives_placeholder",
    "negatives_fix",
    "negatives are barred",
];

/// Whether a text is a marker in place of a near-miss.
pub(super) fn is_placeholder(text: &str) -> bool {
    let lower = text.to_lowercase();
    PLACEHOLDERS.iter().any(|mark| lower.contains(mark))
}

/// In the mode `paper`, near-misses of at most so many characters are left out.
const SHORT: usize = 20;

/// A sentence and a near-miss of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The sentence that counts as given.
    pub anchor: String,
    /// What resembles it.
    pub text: String,
    /// What the edit does.
    pub category: Category,
    /// Where the pair comes from.
    pub source: String,
}

/// A sentence and another one of equal meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paraphrase {
    /// The sentence that counts as given.
    pub anchor: String,
    /// The other one.
    pub text: String,
    /// Where the pair comes from.
    pub source: String,
}

/// Rows of a file that were left out, or that look odd, as counts, and columns that are not read. Nothing for a clean file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PairNotes {
    /// Rows with an empty sentence; left out.
    pub empty: usize,
    /// Rows whose two sentences are equal, so that no meaning can differ (and nothing is paraphrased); left out.
    pub identical: usize,
    /// Rows that hold a marker in place of a near-miss; left out.
    pub placeholder: usize,
    /// Near-misses of 20 characters or fewer; left out in the mode `paper` alone.
    pub short: usize,
    /// Rows that occurred before; kept.
    pub repeated: usize,
    /// Whether the file has no column `source`, so that its name is what stands for one.
    pub no_sources: bool,
    /// Columns that are not read, in the order of the file.
    pub unread: Vec<String>,
    /// Quotes that may be mistakes.
    pub quotes: QuoteNotes,
}

impl PairNotes {
    /// One line for every count that is not zero, and one that names the columns that are not read; `what` names the rows.
    pub fn lines(&self, what: &str) -> Vec<String> {
        let all = [
            (self.empty, "with an empty sentence, left out"),
            (self.identical, "of two equal sentences, left out"),
            (
                self.placeholder,
                "with a marker in place of the second sentence, left out",
            ),
            (
                self.short,
                "with a second sentence of 20 characters or fewer, left out as in the paper",
            ),
            (self.repeated, "given more than once, kept"),
        ];
        let some = all.into_iter().filter(|(count, _)| *count > 0);
        some.map(|(count, why)| format!("{what} {why}: {count}"))
            .chain(self.quotes.lines(what))
            .chain(unread_line(what, &self.unread))
            .collect()
    }
}

/// How faithfully a file of near-misses is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    /// Short sentences are sentences.
    #[default]
    Corrected,
    /// As the paper's code does: near-misses of at most 20 characters are dropped.
    Paper,
}

/// Reads near-misses.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read; [`Error::Input`] with the line for
/// one that is damaged or not UTF-8, that lacks a column, whose quotes swallow rows, or that holds no usable pair.
pub fn read_near_misses(path: &Path, filter: Filter) -> Result<(Vec<NearMiss>, PairNotes)> {
    let mut notes = PairNotes::default();
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    let wanted = ["sentence1", "sentence2", "category"];
    let said = read_rows(
        path,
        BUFFER,
        &wanted,
        "source",
        &[],
        |[anchor, text, category], source| {
            let dropped = if anchor.is_empty() || text.is_empty() {
                &mut notes.empty
            } else if is_placeholder(text) {
                &mut notes.placeholder
            } else if filter == Filter::Paper && text.chars().count() <= SHORT {
                &mut notes.short
            } else if anchor == text {
                &mut notes.identical
            } else {
                let category = Category::parse(if category.is_empty() {
                    "other"
                } else {
                    category
                });
                let row = (anchor.to_string(), text.to_string(), category.clone());
                notes.repeated += usize::from(!seen.insert(row));
                pairs.push(NearMiss {
                    anchor: anchor.into(),
                    text: text.into(),
                    category,
                    source: source.into(),
                });
                return;
            };
            *dropped += 1;
        },
    )?;
    notes.quotes = said.quotes;
    notes.no_sources = !said.optional;
    notes.unread = said.unread;
    some(path, pairs, notes)
}

/// Columns that say which rows of a file are no paraphrases, and so cannot be passed over in one.
const NO_PARAPHRASES: [[&str; 2]; 2] = [
    [
        "label",
        "every row of this file counts as of equal meaning, whatever its label; keep the rows of equal meaning and leave the column out",
    ],
    [
        "category",
        "near-misses have one, and every row of this file counts as of equal meaning; give paraphrases, or leave the column out if these are some",
    ],
];

/// Reads paraphrases.
///
/// # Errors
/// As [`read_near_misses`]; [`Error::Input`] also for a column `label` or `category`, since all rows count as of equal meaning.
pub fn read_paraphrases(path: &Path) -> Result<(Vec<Paraphrase>, PairNotes)> {
    let mut notes = PairNotes::default();
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    let said = read_rows(
        path,
        BUFFER,
        &["sentence1", "sentence2"],
        "source",
        &NO_PARAPHRASES,
        |[anchor, text], source| {
            if anchor.is_empty() || text.is_empty() {
                notes.empty += 1;
            } else if anchor == text {
                notes.identical += 1;
            } else {
                notes.repeated += usize::from(!seen.insert((anchor.to_string(), text.to_string())));
                pairs.push(Paraphrase {
                    anchor: anchor.into(),
                    text: text.into(),
                    source: source.into(),
                });
            }
        },
    )?;
    notes.quotes = said.quotes;
    notes.no_sources = !said.optional;
    notes.unread = said.unread;
    some(path, pairs, notes)
}

/// What stands for standard input in the place of a file.
pub const STANDARD_INPUT: &str = "-";

/// Calls `take` with every pair of a CSV file of columns sentence1 and sentence2, and with its line, as soon as the row is
/// there: `-` reads standard input, which somebody may be writing to. Nothing is left out.
///
/// # Errors
/// As [`read_near_misses`], but for a file without pairs; [`Error::Input`] for an empty sentence; and
/// what `take` reports.
pub fn each_pair(path: &Path, mut take: impl FnMut(usize, [&str; 2]) -> Result<()>) -> Result<()> {
    const WANTED: [&str; 2] = ["sentence1", "sentence2"];
    let (name, bytes): (&Path, Box<dyn Read>) = match path.as_os_str() == STANDARD_INPUT {
        true => {
            let name = Path::new("standard input");
            (name, signature::text(name, std::io::stdin())?)
        }
        false => (path, open(path)?),
    };
    CsvFile::of(name, bytes, BUFFER)?.each(&WANTED, |line, pair| {
        match WANTED.iter().zip(pair).find(|(_, text)| text.is_empty()) {
            Some((column, _)) => Err(Error::input(
                name,
                format!("line {line}: {column} is empty; there is nothing to compare"),
            )),
            None => take(line, pair),
        }
    })
}

/// The first near-miss whose two sentences are paraphrases too, in either order, and the paraphrase: their numbers. Nothing
/// can be learned or measured from a pair of which both is said.
pub fn contradiction(near_misses: &[NearMiss], paraphrases: &[Paraphrase]) -> Option<[usize; 2]> {
    let mut equal: HashMap<[&str; 2], usize> = HashMap::new();
    for (number, pair) in paraphrases.iter().enumerate() {
        equal
            .entry(sorted(&pair.anchor, &pair.text))
            .or_insert(number);
    }
    let mut both = near_misses.iter().enumerate();
    both.find_map(|(number, pair)| {
        let other = equal.get(&sorted(&pair.anchor, &pair.text))?;
        Some([number, *other])
    })
}

/// The sentences of a pair whatever their order.
fn sorted<'a>(a: &'a str, b: &'a str) -> [&'a str; 2] {
    if a <= b { [a, b] } else { [b, a] }
}

/// Rows of a file that holds some.
fn some<T>(path: &Path, rows: Vec<T>, notes: PairNotes) -> Result<(Vec<T>, PairNotes)> {
    if rows.is_empty() {
        return Err(no_usable_row(path, &notes.lines("rows")));
    }
    Ok((rows, notes))
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "study")]
    use std::io::Write;

    use super::*;

    fn file(name: &str, text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    const ROWS: &str = "Category,sentence2,SENTENCE1,extra\n\
        neg,The dog does not bark.,The dog barks.,1\n\
        BIND,\"red ball, blue cube\",\"blue ball, red cube\",2\n\
        idiom,It rains.,It pours.,3\n\
        negation,  ,It snows.,4\n\
        negation,It hails.,It hails.,5\n\
        negation,NEGATIVES_FIX,It thaws.,6\n\
        neg,The dog does not bark.,The dog barks.,7\n";

    #[test]
    fn rows_are_read_filtered_and_counted() {
        let (_dir, path) = file("weather.csv", ROWS.as_bytes());
        let (pairs, notes) = read_near_misses(&path, Filter::Corrected).unwrap();
        let categories: Vec<&str> = pairs.iter().map(|p| p.category.name()).collect();
        assert_eq!(categories, ["negation", "binding", "idiom", "negation"]);
        assert_eq!(pairs[1].anchor, "blue ball, red cube");
        assert_eq!(pairs[1].source, "weather");
        let expected = PairNotes {
            empty: 1,
            identical: 1,
            placeholder: 1,
            short: 0,
            repeated: 1,
            no_sources: true,
            unread: vec!["extra".into()],
            quotes: QuoteNotes::default(),
        };
        assert_eq!(notes, expected);
        let lines = notes.lines("pairs");
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[4], "pairs: columns that are not read: extra");
        // "It rains.", "It hails." and "red ball, blue cube" have at most 20 characters.
        let (pairs, notes) = read_near_misses(&path, Filter::Paper).unwrap();
        assert_eq!((pairs.len(), notes.short), (2, 3));
    }

    #[test]
    fn columns_that_tell_which_rows_are_no_paraphrases_are_refused() {
        for (column, cell, cure) in [
            (
                "Label",
                "0",
                "keep the rows of equal meaning and leave the column out",
            ),
            ("category", "role", "give paraphrases"),
        ] {
            let text = format!("id,sentence1,sentence2,{column}\n1,a b,b a,{cell}\n");
            let (_dir, path) = file("p.csv", text.as_bytes());
            let error = read_paraphrases(&path).unwrap_err().to_string();
            let named = format!("p.csv: has a column `{}`: ", column.to_lowercase());
            assert!(error.contains(&named) && error.contains(cure), "{error}");
        }
        let (_dir, path) = file("p.csv", b"id,sentence1,sentence2,,source\n1,a b,b a,x,y\n");
        let (_, notes) = read_paraphrases(&path).unwrap();
        let said = "rows: columns that are not read: id, (one without a name)";
        assert_eq!(notes.lines("rows"), [said]);
        // Of near-misses a label is a column like others.
        let (_dir, path) = file(
            "n.csv",
            b"sentence1,sentence2,category,label\na b,b a,role,0\n",
        );
        let (_, notes) = read_near_misses(&path, Filter::Corrected).unwrap();
        assert_eq!(notes.unread, ["label"]);
    }

    #[test]
    fn pairs_come_one_by_one_with_their_lines() {
        let text = b"sentence2,sentence1\nb,a\n\n\"c\nd\", e \nf,g\nh, \n";
        let (_dir, path) = file("p.csv", text);
        let mut found = Vec::new();
        let error = each_pair(&path, |line, [a, b]| {
            found.push((line, a.to_string(), b.to_string()));
            Ok(())
        });
        let error = error.unwrap_err().to_string();
        let expected = "p.csv: line 7: sentence1 is empty; there is nothing to compare";
        assert!(error.ends_with(expected), "{error}");
        let row = |line, a: &str, b: &str| (line, a.to_string(), b.to_string());
        let rows = [row(2, "a", "b"), row(4, "e", "c\nd"), row(6, "g", "f")];
        assert_eq!(found, rows);
        let stop = each_pair(&path, |line, _| Err(Error::Invalid(format!("at {line}"))));
        assert_eq!(stop.unwrap_err().to_string(), "at 2");
    }

    #[test]
    fn a_pair_of_which_both_is_said_is_found_in_either_order() {
        let near_miss = |anchor: &str, text: &str| NearMiss {
            anchor: anchor.into(),
            text: text.into(),
            category: Category::Role,
            source: "x".into(),
        };
        let paraphrase = |anchor: &str, text: &str| Paraphrase {
            anchor: anchor.into(),
            text: text.into(),
            source: "y".into(),
        };
        let near_misses = [
            near_miss("a", "b"),
            near_miss("c", "d"),
            near_miss("e", "f"),
        ];
        let of = |paraphrases: &[Paraphrase]| contradiction(&near_misses, paraphrases);
        assert_eq!(of(&[paraphrase("a", "c"), paraphrase("b", "e")]), None);
        let either = [
            paraphrase("x", "y"),
            paraphrase("d", "c"),
            paraphrase("e", "f"),
        ];
        assert_eq!(of(&either), Some([1, 1]));
        assert_eq!(of(&either[2..]), Some([2, 0]));
    }

    #[test]
    #[cfg(feature = "study")]
    fn packed_files_and_paraphrases() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed
            .write_all(b"sentence1,sentence2,source\nA b.,B a.,x\nA b.,A b.,x\n")
            .unwrap();
        let bytes = packed.finish().unwrap();
        let (_dir, path) = file("p.csv.gz", &bytes);
        let (pairs, notes) = read_paraphrases(&path).unwrap();
        assert_eq!((pairs.len(), notes.identical), (1, 1));
        assert_eq!(pairs[0].source, "x");
        let (_dir, path) = file("cut.csv.gz", &bytes[..bytes.len() / 2]);
        let error = read_paraphrases(&path).unwrap_err().to_string();
        assert!(
            error.contains("cannot be read") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    #[cfg(feature = "study")]
    fn quotes_that_swallow_rows_are_refused_or_counted() {
        let packed = |text: &str| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).unwrap();
            file("p.csv.gz", &packed.finish().unwrap())
        };
        // A hundred rows of which the third has a quote too many: nothing behind it would be seen.
        let rows = |columns: &str, stray: &str| -> String {
            let row = |i: usize| match i {
                3 => format!("c {i},{stray}\n"),
                _ => format!("a {i},b {i},c {i}\n"),
            };
            let rows: String = (2..102).map(row).collect();
            format!("{columns}\n{rows}")
        };
        let near_misses = rows("sentence1,sentence2,category", "\"d,e");
        let paraphrases = rows("sentence1,sentence2,source", "d,\"e");
        for packs in [false, true] {
            let at = |text: &str| match packs {
                true => packed(text),
                false => file("p.csv", text.as_bytes()),
            };
            let says = |error: Error| {
                let line = error.to_string();
                assert!(
                    line.contains("line 3: a quote opens here and is never closed"),
                    "{line}"
                );
            };
            let (_dir, path) = at(&near_misses);
            says(read_near_misses(&path, Filter::Corrected).unwrap_err());
            let (_dir, path) = at(&paraphrases);
            says(read_paraphrases(&path).unwrap_err());
            // Closed by a quote in line 9, as one field among three.
            let closed = paraphrases.replace("a 9,b 9,c 9", "a 9,b 9\"");
            let (_dir, path) = at(&closed);
            let (pairs, notes) = read_paraphrases(&path).unwrap();
            assert_eq!((pairs.len(), notes.quotes.most_lines), (94, 7));
            let lines = notes.lines("paraphrases");
            assert_eq!(lines.len(), 1);
            assert!(lines[0].starts_with("paraphrases: quoted fields that hold line ends"));
        }
    }

    #[test]
    #[cfg(feature = "study")]
    #[ignore = "needs NEARMISS_DATA, a folder with nearmiss"]
    fn real_files_keep_every_row() {
        let data = std::env::var_os("NEARMISS_DATA").expect("NEARMISS_DATA");
        let mut found = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir(Path::new(&data).join("nearmiss")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let (rows, notes) = if name.ends_with("_paraphrase.csv") {
                let (rows, notes) = read_paraphrases(&path).unwrap();
                (rows.len(), notes)
            } else {
                let (rows, notes) = read_near_misses(&path, Filter::Corrected).unwrap();
                (rows.len(), notes)
            };
            println!("{name}: {rows} rows; {:?}", notes.lines("rows"));
            assert_eq!(notes.quotes, QuoteNotes::default(), "{name}");
            found.insert(name, rows);
        }
        // As Python's csv.reader counts them.
        assert_eq!(found.get("unified_test.csv"), Some(&6394));
    }

    #[test]
    #[cfg(not(feature = "study"))]
    fn packed_files_need_the_study() {
        let (_dir, path) = file("p.csv.gz", b"");
        let error = read_paraphrases(&path).unwrap_err().to_string();
        assert!(error.contains("p.csv.gz") && error.contains("decompress it"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let refused = |text: &[u8]| {
            let (_dir, path) = file("x.csv", text);
            let error = read_near_misses(&path, Filter::Corrected).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("x.csv") && !error.contains('\n'), "{error}");
            error
        };
        let header = b"sentence1,sentence2,category\n";
        assert!(refused(b"sentence1,text\na,b\n").contains("no column `sentence2`"));
        assert!(refused(&[&header[..], b"a,b,c,d\n"].concat()).contains("line 2: 4 fields"));
        assert!(refused(&[&header[..], b"a,\xff\xfe,c\n"].concat()).contains("line 2: not UTF-8"));
        assert!(refused(header).contains("no rows"));
        assert!(refused(&[&header[..], b"a,a,c\n"].concat()).contains("equal sentences"));
        let gone = Path::new("/no/such/pairs.csv");
        assert!(matches!(
            read_paraphrases(gone).unwrap_err(),
            Error::Io { .. }
        ));
    }
}
