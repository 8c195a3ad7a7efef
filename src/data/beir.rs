//! Retrieval test collections in the BEIR folder layout (Thakur et al., 2021).
//!
//! ```text
//! scifact/corpus.jsonl      {"_id": "4983", "title": "...", "text": "..."}   one document a line
//! scifact/queries.jsonl     {"_id": "1", "text": "..."}                      one query a line
//! scifact/qrels/test.tsv    query-id <tab> corpus-id <tab> score             header, then one judgement a line
//! ```
//!
//! [`Collection::load`] keeps the queries that can be evaluated and their judgements; whatever it leaves out or finds odd
//! is counted in [`CollectionNotes`], so that a number never rests on a silently shortened set. What cannot be read at
//! all is an error that names file and line. The files are read line by line: memory is what is kept.
//!
//! ```no_run
//! # fn main() -> nearmiss::Result<()> {
//! use nearmiss::data::beir::Collection;
//!
//! let scifact = Collection::load("data/scifact", "test")?;
//! println!("{}: {} documents, {} queries", scifact.name, scifact.corpus.len(), scifact.queries.len());
//! for line in scifact.notes.lines() {
//!     eprintln!("note: {line}");
//! }
//! # Ok(()) }
//! ```

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{TextLines, write_atomically};
use crate::error::{Error, Result};
use crate::metrics::ranking::Qrels;

const LAYOUT: &str = "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/<split>.tsv (for example qrels/test.tsv)";

/// A document of the corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Unique id within the corpus.
    pub id: String,
    /// Title, often empty.
    pub title: String,
    /// Body.
    pub text: String,
}

impl Document {
    /// What an encoder reads: title, one space, text; or the text alone where there is no title. Trimmed.
    pub fn text_for_encoder(&self) -> Cow<'_, str> {
        match (self.title.trim(), self.text.trim()) {
            ("", text) => Cow::Borrowed(text),
            (title, "") => Cow::Borrowed(title),
            _ => Cow::Owned(format!("{} {}", self.title, self.text).trim().to_string()),
        }
    }
}

/// A query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Unique id within the queries.
    pub id: String,
    /// The query.
    pub text: String,
}

/// What was left out of a collection or looks odd in it, as counts. All zero for a clean collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionNotes {
    /// Queries of the file that the split does not judge; left out, as a file may hold the queries of all splits.
    pub unjudged_queries: usize,
    /// Judged queries without text; left out.
    pub empty_queries: usize,
    /// Judged queries without a relevant document (no grade above 0); left out, since no metric is defined for them.
    pub queries_without_relevant: usize,
    /// Judgements of queries that the query file lacks; left out.
    pub judgements_of_unknown_queries: usize,
    /// Judgements of documents that the corpus lacks, among the queries that are kept. They stay: a relevant document
    /// that cannot be found lowers recall and the ideal DCG counts it, as in trec_eval.
    pub judgements_of_unknown_documents: usize,
    /// Judgements given twice with the same grade; counted once.
    pub repeated_judgements: usize,
    /// Documents with neither title nor text; kept, so that the corpus is what others evaluate on.
    pub empty_documents: usize,
}

impl CollectionNotes {
    /// One line for every count that is not zero.
    pub fn lines(&self) -> Vec<String> {
        let all = [
            (
                self.unjudged_queries,
                "queries without a judgement in this split, left out",
            ),
            (self.empty_queries, "judged queries without text, left out"),
            (
                self.queries_without_relevant,
                "judged queries without a relevant document, left out",
            ),
            (
                self.judgements_of_unknown_queries,
                "judgements of queries that are not in queries.jsonl, left out",
            ),
            (
                self.judgements_of_unknown_documents,
                "judgements of documents that are not in corpus.jsonl, counted as not found",
            ),
            (
                self.repeated_judgements,
                "judgements given twice, counted once",
            ),
            (
                self.empty_documents,
                "documents with neither title nor text, kept",
            ),
        ];
        all.iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{what}: {count}"))
            .collect()
    }
}

/// A retrieval test collection: what to search, what to ask, and what should be found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Collection {
    /// Name, from the folder.
    pub name: String,
    /// Which judgements: `test`, `dev`, `train`.
    pub split: String,
    /// Documents, in the order of the file; ties between equal scores go to the earlier one.
    pub corpus: Vec<Document>,
    /// Queries with text and at least one relevant document, in the order of the file.
    pub queries: Vec<Query>,
    /// Judgements of exactly those queries.
    pub qrels: Qrels,
    /// What was left out or looks odd.
    pub notes: CollectionNotes,
}

impl Collection {
    /// Reads a BEIR folder with the judgements `qrels/<split>.tsv`.
    ///
    /// `_id` may be a string or an integer; other fields than those in the layout are ignored, and a document may lack
    /// `title`. The header of the judgements may be missing.
    ///
    /// # Errors
    /// One line with file and line number for: a missing folder or file, text that is not UTF-8, invalid JSON, a missing
    /// or mistyped field, an id used twice, an empty corpus, a row of judgements that is not `query-id`, `corpus-id` and
    /// an integer, contradictory judgements, or a collection in which no query is left to evaluate.
    pub fn load(dir: impl AsRef<Path>, split: &str) -> Result<Self> {
        let dir = dir.as_ref();
        let qrels_path = check_layout(dir, split)?;
        let mut notes = CollectionNotes::default();
        let mut qrels = read_qrels(&qrels_path, &mut notes)?;

        let mut queries = Vec::new();
        let known = read_records(&dir.join("queries.jsonl"), "query", |id, mut record| {
            let text = record.text()?;
            if qrels.judged(&id).is_none() {
                notes.unjudged_queries += 1;
            } else if qrels.n_relevant(&id) == 0 {
                notes.queries_without_relevant += 1;
            } else if text.trim().is_empty() {
                notes.empty_queries += 1;
            } else {
                queries.push(Query { id, text });
            }
            Ok(())
        })?;
        notes.judgements_of_unknown_queries = qrels
            .iter()
            .filter(|(query, _)| !known.contains_key(*query))
            .map(|(_, judged)| judged.len())
            .sum();
        let n_judged = qrels.n_queries();
        let kept: HashSet<&str> = queries.iter().map(|q| q.id.as_str()).collect();
        qrels.retain_queries(|query| kept.contains(query));
        if queries.is_empty() {
            let why = format!(
                "no query is left to evaluate: of {n_judged} judged queries none is in queries.jsonl with text and has a relevant document (score above 0)"
            );
            return Err(Error::input(&qrels_path, why));
        }

        let corpus_path = dir.join("corpus.jsonl");
        let mut corpus = Vec::new();
        let known = read_records(&corpus_path, "document", |id, mut record| {
            let document = Document {
                id,
                title: record.title()?,
                text: record.text()?,
            };
            notes.empty_documents += usize::from(document.text_for_encoder().is_empty());
            corpus.push(document);
            Ok(())
        })?;
        if corpus.is_empty() {
            return Err(Error::input(
                &corpus_path,
                "the corpus has no documents; expected one JSON object a line",
            ));
        }
        let judged = qrels.iter().flat_map(|(_, judged)| judged.keys());
        notes.judgements_of_unknown_documents =
            judged.filter(|d| !known.contains_key(d.as_str())).count();

        Ok(Self {
            name: folder_name(dir),
            split: split.to_string(),
            corpus,
            queries,
            qrels,
            notes,
        })
    }

    /// Writes the collection as a BEIR folder, from which [`Collection::load`] reads the same documents, queries and
    /// judgements.
    ///
    /// Each file is written under a temporary name and then renamed. The judgements come last, and older ones are removed
    /// first: a folder whose writing was cut short does not load as a mixture of two collections.
    ///
    /// # Errors
    /// An id that a tab-separated file cannot hold (a tab or a line break in it, or nothing at all), a split that is not
    /// a plain file name, or a failure of the file system.
    pub fn write(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let qrels_path = qrels_path(dir, &self.split)?;
        for (query, judged) in self.qrels.iter() {
            let ids = std::iter::once(query).chain(judged.keys().map(String::as_str));
            if let Some(id) = ids
                .into_iter()
                .find(|id| id.is_empty() || id.contains(['\t', '\n', '\r']))
            {
                return Err(Error::input(
                    &qrels_path,
                    format!(
                        "id {id:?} cannot be written in a tab-separated file; use ids without tabs and line breaks"
                    ),
                ));
            }
        }
        match std::fs::remove_file(&qrels_path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Error::io("replace", &qrels_path, e));
            }
            _ => {}
        }
        write_atomically(&dir.join("corpus.jsonl"), |out| {
            for d in &self.corpus {
                writeln!(
                    out,
                    "{}",
                    json!({"_id": d.id, "title": d.title, "text": d.text})
                )?;
            }
            Ok(())
        })?;
        write_atomically(&dir.join("queries.jsonl"), |out| {
            for q in &self.queries {
                writeln!(out, "{}", json!({"_id": q.id, "text": q.text}))?;
            }
            Ok(())
        })?;
        write_atomically(&qrels_path, |out| {
            writeln!(out, "query-id\tcorpus-id\tscore")?;
            for (query, judged) in self.qrels.iter() {
                for (document, grade) in judged {
                    writeln!(out, "{}\t{}\t{grade}", quoted(query), quoted(document))?;
                }
            }
            Ok(())
        })
    }
}

/// The last part of the path, also for `.` and `..`.
fn folder_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let name = dir.file_name().or(full.file_name());
    name.map_or_else(|| "collection".into(), |n| n.to_string_lossy().into_owned())
}

fn qrels_path(dir: &Path, split: &str) -> Result<PathBuf> {
    if split.is_empty() || split.contains(['/', '\\']) || split.starts_with('.') {
        return Err(Error::Invalid(format!(
            "split {split:?} is not the name of a part, such as test, dev or train"
        )));
    }
    Ok(dir.join("qrels").join(format!("{split}.tsv")))
}

/// Says which part of the layout is missing before anything large is read; returns the path of the judgements.
fn check_layout(dir: &Path, split: &str) -> Result<PathBuf> {
    let qrels = qrels_path(dir, split)?;
    match std::fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(Error::input(
                dir,
                format!("is a file, not a folder; {LAYOUT}"),
            ));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Error::input(dir, format!("no such folder; {LAYOUT}")));
        }
        Err(e) => return Err(Error::io("read", dir, e)),
    }
    for path in [
        dir.join("corpus.jsonl"),
        dir.join("queries.jsonl"),
        qrels.clone(),
    ] {
        if path.is_file() {
            continue;
        }
        let mut packed = path.clone().into_os_string();
        packed.push(".gz");
        let hint = if Path::new(&packed).is_file() {
            "; unpack the .gz file beside it (gunzip)".to_string()
        } else if path == qrels {
            let found = splits(dir);
            if found.is_empty() {
                String::new()
            } else {
                format!("; splits in this folder: {}", found.join(", "))
            }
        } else {
            String::new()
        };
        return Err(Error::input(path, format!("no such file; {LAYOUT}{hint}")));
    }
    Ok(qrels)
}

/// Names of the judgement files of a folder, sorted.
fn splits(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("qrels")).into_iter().flatten();
    let names = entries
        .flatten()
        .map(|entry| PathBuf::from(entry.file_name()));
    let mut splits: Vec<String> = names
        .filter(|name| name.extension().is_some_and(|e| e == "tsv"))
        .filter_map(|name| Some(name.file_stem()?.to_str()?.to_string()))
        .collect();
    splits.sort();
    splits
}

/// One JSON object of a file, with the place to name in an error.
struct Record<'a> {
    path: &'a Path,
    line: usize,
    fields: Map<String, Value>,
}

impl Record<'_> {
    fn fault(&self, message: String) -> Error {
        Error::input(self.path, format!("line {}: {message}", self.line))
    }

    /// Takes the identifier, a string or an integer.
    fn id(&mut self) -> Result<String> {
        match self.fields.remove("_id") {
            Some(Value::String(id)) if !id.is_empty() => Ok(id),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(n.to_string()),
            None => Err(self.fault("field \"_id\" is missing".into())),
            Some(other) => Err(self.fault(format!(
                "field \"_id\" is {}; expected a string that is not empty, or an integer",
                kind(&other)
            ))),
        }
    }

    /// Takes the text, which has to be there (but may be empty).
    fn text(&mut self) -> Result<String> {
        match self.fields.remove("text") {
            Some(Value::String(text)) => Ok(text),
            None => Err(self.fault("field \"text\" is missing".into())),
            Some(other) => Err(self.fault(format!(
                "field \"text\" is {}; expected a string",
                kind(&other)
            ))),
        }
    }

    /// Takes the title, empty where there is none.
    fn title(&mut self) -> Result<String> {
        match self.fields.remove("title") {
            Some(Value::String(title)) => Ok(title),
            None | Some(Value::Null) => Ok(String::new()),
            Some(other) => Err(self.fault(format!(
                "field \"title\" is {}; expected a string",
                kind(&other)
            ))),
        }
    }
}

/// A JSON value in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(n) if n.is_f64() => "not an integer of 64 bits",
        Value::Number(_) => "a number",
        Value::String(s) if s.is_empty() => "an empty string",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Hands each JSON object of a file to `take`, with its id; returns the line of every id.
fn read_records(
    path: &Path,
    what: &str,
    mut take: impl FnMut(String, Record) -> Result<()>,
) -> Result<HashMap<String, usize>> {
    let mut first_line = HashMap::new();
    let mut lines = TextLines::open(path)?;
    while let Some((line, text)) = lines.next_full_line()? {
        let fields = serde_json::from_str(text).map_err(|e| {
            // The parser sees one line and calls it line 1.
            let message = e.to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            let place = format!("line {line}, column {}", e.column());
            Error::input(
                path,
                format!("{place}: {reason}; expected one JSON object a line"),
            )
        })?;
        let mut record = Record { path, line, fields };
        let id = record.id()?;
        if let Some(earlier) = first_line.insert(id.clone(), line) {
            return Err(record.fault(format!(
                "{what} id {id:?} is already used in line {earlier}; ids must be unique"
            )));
        }
        take(id, record)?;
    }
    Ok(first_line)
}

/// A field of a tab-separated file as BEIR's own reader takes it: one that begins with a quote ends with one, and
/// quotes in between are doubled. `None` if they are not.
fn unquoted(field: &str) -> Option<Cow<'_, str>> {
    let Some(rest) = field.strip_prefix('"') else {
        return Some(Cow::Borrowed(field));
    };
    let inner = rest.strip_suffix('"')?;
    let single = inner.replace("\"\"", "").contains('"');
    (!single).then(|| Cow::Owned(inner.replace("\"\"", "\"")))
}

/// A field that [`unquoted`] reads as `id`.
fn quoted(id: &str) -> Cow<'_, str> {
    if id.starts_with('"') {
        Cow::Owned(format!("\"{}\"", id.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(id)
    }
}

/// Reads the judgements of a split; only repetitions are noted here.
fn read_qrels(path: &Path, notes: &mut CollectionNotes) -> Result<Qrels> {
    let mut qrels = Qrels::new();
    let mut lines = TextLines::open(path)?;
    let mut first = true;
    while let Some((number, line)) = lines.next_full_line()? {
        let fault = |message: String| Error::input(path, format!("line {number}: {message}"));
        let fields: Option<Vec<Cow<'_, str>>> = line.split('\t').map(unquoted).collect();
        let Some(fields) = fields else {
            return Err(fault(
                "a quote opens a field and does not close it at the field's end; close it, double every quote (\"\") that belongs to the id, or write no quotes"
                    .into(),
            ));
        };
        let [query, document, score] = &fields[..] else {
            return Err(fault(format!(
                "expected 3 columns separated by tabs (query-id, corpus-id, score), got {}",
                fields.len()
            )));
        };
        let is_first = std::mem::take(&mut first);
        let Ok(grade) = score.trim().parse::<i64>() else {
            // Only a first line whose last column is a known heading is a header: anything else that does not parse is
            // a damaged judgement, and skipping it would change the results.
            let heading = score.trim().to_ascii_lowercase();
            if is_first && ["score", "relevance", "grade", "label"].contains(&heading.as_str()) {
                continue;
            }
            return Err(fault(format!("score {score:?} is not an integer")));
        };
        if query.is_empty() || document.is_empty() {
            return Err(fault(
                "an id is empty; expected query-id, corpus-id, score".into(),
            ));
        }
        match qrels.insert(query.as_ref(), document.as_ref(), grade) {
            None => {}
            Some(earlier) if earlier == grade => notes.repeated_judgements += 1,
            Some(earlier) => {
                return Err(fault(format!(
                    "query {query:?} and document {document:?} are judged {grade}, but {earlier} in an earlier line"
                )));
            }
        }
    }
    if qrels.is_empty() {
        return Err(Error::input(
            path,
            "holds no judgements; expected rows of query-id, corpus-id, score",
        ));
    }
    Ok(qrels)
}

#[cfg(test)]
mod tests;
