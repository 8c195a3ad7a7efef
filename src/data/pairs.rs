//! Pairs and triplets of sentences, as CSV files.
//!
//! ```text
//! near-misses    sentence1,sentence2,category[,source][,label]   sentence2 resembles sentence1 and says something else
//! paraphrases    sentence1,sentence2[,source]                    sentence2 says the same
//! triplets       anchor,positive,negative[,category]
//! ```
//!
//! Columns are found by name in any order and any case, others are ignored; a file whose name ends in `.gz` is
//! decompressed. Without a source column the file's name is the source. Rows that cannot serve are left out and
//! counted in [`PairNotes`].

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Serialize;

use super::Category;
use crate::error::{Error, Result};

/// Texts that stand in files where a near-miss was to be written and was not.
const PLACEHOLDERS: [&str; 3] = [
    "negatives_placeholder",
    "negatives_fix",
    "negatives are barred",
];

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

/// A training triplet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triplet {
    /// The query.
    pub anchor: String,
    /// What answers it or says the same.
    pub positive: String,
    /// What does not.
    pub negative: String,
    /// Of which kind the negative is, where the file says so.
    pub category: Category,
}

/// Rows of a file that were left out, or that look odd, as counts. All zero for a clean file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
}

impl PairNotes {
    /// One line for every count that is not zero; `what` names the rows.
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
/// [`Error::Io`] for a file that cannot be read; [`Error::Input`] with the line for one that is damaged or not UTF-8,
/// that lacks a column, or that holds no usable pair.
pub fn read_near_misses(path: &Path, filter: Filter) -> Result<(Vec<NearMiss>, PairNotes)> {
    let mut notes = PairNotes::default();
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    let wanted = ["sentence1", "sentence2", "category"];
    read(
        path,
        &wanted,
        "source",
        |[anchor, text, category], source| {
            let lower = text.to_lowercase();
            let dropped = if anchor.is_empty() || text.is_empty() {
                &mut notes.empty
            } else if PLACEHOLDERS.iter().any(|mark| lower.contains(mark)) {
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
    some(path, pairs, notes)
}

/// Reads paraphrases.
///
/// # Errors
/// As [`read_near_misses`].
pub fn read_paraphrases(path: &Path) -> Result<(Vec<Paraphrase>, PairNotes)> {
    let mut notes = PairNotes::default();
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    read(
        path,
        &["sentence1", "sentence2"],
        "source",
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
    some(path, pairs, notes)
}

/// Reads triplets; the category is the file's name where the file has no such column.
///
/// # Errors
/// As [`read_near_misses`].
pub fn read_triplets(path: &Path) -> Result<(Vec<Triplet>, PairNotes)> {
    let mut notes = PairNotes::default();
    let mut seen = HashSet::new();
    let mut triplets = Vec::new();
    let wanted = ["anchor", "positive", "negative"];
    read(
        path,
        &wanted,
        "category",
        |[anchor, positive, negative], category| {
            if anchor.is_empty() || positive.is_empty() || negative.is_empty() {
                notes.empty += 1;
            } else if positive == negative || anchor == negative {
                notes.identical += 1;
            } else {
                let row = [anchor, positive, negative].map(str::to_string);
                notes.repeated += usize::from(!seen.insert(row));
                triplets.push(Triplet {
                    anchor: anchor.into(),
                    positive: positive.into(),
                    negative: negative.into(),
                    category: Category::parse(category),
                });
            }
        },
    )?;
    some(path, triplets, notes)
}

/// A file in which nothing is usable is a mistake that is better named than averaged.
fn some<T>(path: &Path, rows: Vec<T>, notes: PairNotes) -> Result<(Vec<T>, PairNotes)> {
    if rows.is_empty() {
        let why = notes.lines("rows").join("; ");
        let why = if why.is_empty() {
            "it has no rows"
        } else {
            &why
        };
        return Err(Error::input(
            path,
            format!("holds no usable row ({why}); give a file with some"),
        ));
    }
    Ok((rows, notes))
}

/// Calls `row` with the `N` columns `wanted` of every row, trimmed, and with column `optional` or the file's name.
fn read<const N: usize>(
    path: &Path,
    wanted: &[&str; N],
    optional: &str,
    mut row: impl FnMut([&str; N], &str),
) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let packed = name.ends_with(".gz");
    let stem = name.trim_end_matches(".gz").trim_end_matches(".csv");
    let bytes: Box<dyn Read> = if packed {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut reader = csv::ReaderBuilder::new()
        .flexible(false)
        .buffer_capacity(1 << 16)
        .from_reader(bytes);
    let broken = |e: csv::Error| {
        if let csv::ErrorKind::Io(e) = e.kind() {
            let cure = if packed {
                "; decompress it or fetch it again"
            } else {
                ""
            };
            return Error::input(path, format!("cannot be read: {e}{cure}"));
        }
        let line = e.position().map_or(0, csv::Position::line);
        let what = match e.kind() {
            csv::ErrorKind::Utf8 { .. } => "not UTF-8; convert the file to UTF-8".to_string(),
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => format!(
                "{len} fields where the header has {expected_len}; quote fields that hold commas or line ends"
            ),
            _ => e.to_string(),
        };
        Error::input(path, format!("line {line}: {what}"))
    };
    let header = reader.headers().map_err(broken)?.clone();
    let column = |name: &str| {
        header.iter().position(|h| {
            h.trim_start_matches('\u{feff}')
                .trim()
                .eq_ignore_ascii_case(name)
        })
    };
    let mut places = [0; N];
    for (place, name) in places.iter_mut().zip(wanted) {
        *place = column(name).ok_or_else(|| {
            let found: Vec<&str> = header.iter().collect();
            Error::input(
                path,
                format!(
                    "has no column `{name}`; the first line must name {}, it names {}",
                    wanted.join(", "),
                    found.join(", ")
                ),
            )
        })?;
    }
    let optional = column(optional);
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(broken)? {
        let extra = optional.map_or(stem, |at| record[at].trim());
        row(places.map(|at| record[at].trim()), extra);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
        };
        assert_eq!(notes, expected);
        assert_eq!(notes.lines("pairs").len(), 4);
        // "It rains.", "It hails." and "red ball, blue cube" have at most 20 characters.
        let (pairs, notes) = read_near_misses(&path, Filter::Paper).unwrap();
        assert_eq!((pairs.len(), notes.short), (2, 3));
    }

    #[test]
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
    fn triplets_take_the_file_name_for_a_category() {
        let (_dir, path) = file("nq.csv", b"anchor,positive,negative\nq,a,b\nq,a,a\n,a,b\n");
        let (triplets, notes) = read_triplets(&path).unwrap();
        assert_eq!(triplets[0].category, Category::Other("nq".into()));
        assert_eq!((triplets.len(), notes.identical, notes.empty), (1, 1, 1));
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
