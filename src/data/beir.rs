//! Retrieval test collections in the BEIR folder layout (Thakur et al., 2021).
//!
//! ```text
//! scifact/corpus.jsonl      {"_id": "4983", "title": "...", "text": "..."}   one document a line
//! scifact/queries.jsonl     {"_id": "1", "text": "..."}                      one query a line
//! scifact/qrels/test.tsv    query-id <tab> corpus-id <tab> score             header, then one judgement a line
//! ```
//!
//! The columns of judgements are found by the names in their header, in any order; without one they are in this order.
//! Judgements may also be as TREC has them, in four columns without a header: query, 0, document, grade, separated by tabs
//! or spaces; the file may then be called `.txt`, `.qrels` or `.qrel` too.
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
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::rows::named;
use super::{TextLines, write_atomically};
use crate::error::{Error, Result};
use crate::metrics::ranking::Qrels;

/// Said of judgements in TREC's form.
const TREC: &str = "judgements read as TREC's four columns (query, 0, document, grade)";

/// What files of judgements end in; only the first is BEIR's.
const ENDINGS: [&str; 4] = ["tsv", "txt", "qrels", "qrel"];

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
    /// Judgements with a grade below 0, as TREC has for spam; not relevant, as those of grade 0.
    pub negative_judgements: usize,
    /// Whether the judgements are in TREC's four columns.
    pub trec_judgements: bool,
    /// Documents given again under their id, with the same title and text; read once.
    pub repeated_documents: usize,
    /// Queries given again under their id, with the same text; read once.
    pub repeated_queries: usize,
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
                self.negative_judgements,
                "judgements below 0, not relevant like those of 0",
            ),
            (
                self.repeated_documents,
                "documents given again with the same text, read once",
            ),
            (
                self.repeated_queries,
                "queries given again with the same text, read once",
            ),
            (
                self.empty_documents,
                "documents with neither title nor text, kept",
            ),
        ];
        let counts = all.iter().filter(|(count, _)| *count > 0);
        let trec = self.trec_judgements.then(|| TREC.to_string());
        counts
            .map(|(count, what)| format!("{what}: {count}"))
            .chain(trec)
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
    /// `title`. The header of the judgements may be missing. A document or query that comes again as it was counts once.
    ///
    /// # Errors
    /// One line with file and line number for: a missing folder or file, text that is not UTF-8, invalid JSON, a missing
    /// or mistyped field, an id used for two texts, an empty corpus, a row of judgements that is not `query-id`, `corpus-id`
    /// and a whole number, contradictory judgements, or a collection in which no query is left to evaluate.
    pub fn load(dir: impl AsRef<Path>, split: &str) -> Result<Self> {
        let dir = dir.as_ref();
        let qrels_path = check_layout(dir, split)?;
        let mut notes = CollectionNotes::default();
        let mut qrels = read_qrels(&qrels_path, &mut notes)?;

        let mut queries = Vec::new();
        let known = read_records(&dir.join("queries.jsonl"), "query", |record| {
            let Record { id, text, .. } = record;
            if qrels.judged(&id).is_none() {
                notes.unjudged_queries += 1;
            } else if qrels.n_relevant(&id) == 0 {
                notes.queries_without_relevant += 1;
            } else if text.trim().is_empty() {
                notes.empty_queries += 1;
            } else {
                queries.push(Query { id, text });
            }
        })?;
        notes.repeated_queries = known.repeated;
        notes.judgements_of_unknown_queries = qrels
            .iter()
            .filter(|(query, _)| !known.contains(query))
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

        let (corpus, known) = read_corpus(dir, &mut notes)?;
        let judged = qrels.iter().flat_map(|(_, judged)| judged.keys());
        notes.judgements_of_unknown_documents = judged.filter(|d| !known.contains(d)).count();

        Ok(Self {
            name: folder_name(dir),
            split: split.to_string(),
            corpus,
            queries,
            qrels,
            notes,
        })
    }

    /// Reads the documents of a BEIR folder alone; it needs neither queries nor judgements.
    ///
    /// # Errors
    /// As [`Collection::load`], of the corpus.
    pub fn load_corpus(dir: impl AsRef<Path>) -> Result<(Vec<Document>, CollectionNotes)> {
        let dir = dir.as_ref();
        check_folder(dir)?;
        check_file(&dir.join("corpus.jsonl"))?;
        let mut notes = CollectionNotes::default();
        let (corpus, _) = read_corpus(dir, &mut notes)?;
        Ok((corpus, notes))
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
    check_folder(dir)?;
    for name in ["corpus.jsonl", "queries.jsonl"] {
        check_file(&dir.join(name))?;
    }
    let mut all = ENDINGS.iter().map(|ending| qrels.with_extension(ending));
    if let Some(found) = all.find(|path| path.is_file()) {
        return Ok(found);
    }
    check_file(&qrels).map_err(|e| match (e, &splits(dir)[..]) {
        (Error::Input { path, message }, found @ [_, ..]) => {
            let hint = format!("splits in this folder: {}", found.join(", "));
            Error::input(path, format!("{message}; {hint} (--split)"))
        }
        (e, _) => e,
    })?;
    Ok(qrels)
}

/// Fails for a folder that is not there.
fn check_folder(dir: &Path) -> Result<()> {
    match std::fs::metadata(dir) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::input(
            dir,
            format!("is a file, not a folder; {LAYOUT}"),
        )),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(Error::input(dir, format!("no such folder; {LAYOUT}")))
        }
        Err(e) => Err(Error::io("read", dir, e)),
    }
}

/// Fails for a file of the layout that is not there.
fn check_file(path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    let mut packed = path.to_path_buf().into_os_string();
    packed.push(".gz");
    let hint = match Path::new(&packed).is_file() {
        true => "; unpack the .gz file beside it (gunzip)",
        false => "",
    };
    Err(Error::input(path, format!("no such file; {LAYOUT}{hint}")))
}

/// The documents of a folder, and their ids.
fn read_corpus(dir: &Path, notes: &mut CollectionNotes) -> Result<(Vec<Document>, Ids)> {
    let path = dir.join("corpus.jsonl");
    let mut corpus = Vec::new();
    let known = read_records(&path, "document", |Record { id, title, text }| {
        let document = Document { id, title, text };
        notes.empty_documents += usize::from(document.text_for_encoder().is_empty());
        corpus.push(document);
    })?;
    if corpus.is_empty() {
        return Err(Error::input(
            &path,
            "the corpus has no documents; expected one JSON object a line",
        ));
    }
    notes.repeated_documents = known.repeated;
    Ok((corpus, known))
}

/// Names of the judgement files of a folder, sorted.
fn splits(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("qrels")).into_iter().flatten();
    let names = entries
        .flatten()
        .map(|entry| PathBuf::from(entry.file_name()));
    let mut splits: Vec<String> = names
        .filter(|name| {
            ENDINGS
                .iter()
                .any(|e| name.extension().is_some_and(|is| is == *e))
        })
        .filter_map(|name| Some(name.file_stem()?.to_str()?.to_string()))
        .collect();
    splits.sort();
    splits.dedup();
    splits
}

/// A document or query, which has no title.
#[derive(Hash)]
struct Record {
    id: String,
    title: String,
    text: String,
}

/// The ids of a file.
struct Ids {
    /// Of each the line of its record, and what that hashes to: the texts a second time would double the memory.
    first: HashMap<String, (usize, u64)>,
    /// Records that were there before.
    repeated: usize,
}

impl Ids {
    fn contains(&self, id: &str) -> bool {
        self.first.contains_key(id)
    }
}

/// One JSON object of a file, with the place to name in an error.
struct Fields<'a> {
    path: &'a Path,
    line: usize,
    fields: Map<String, Value>,
}

impl Fields<'_> {
    fn fault(&self, message: String) -> Error {
        Error::input(self.path, format!("line {}: {message}", self.line))
    }

    /// Takes the identifier, a string or an integer.
    fn id(&mut self) -> Result<String> {
        match self.fields.remove("_id") {
            Some(Value::String(id)) if !id.is_empty() => Ok(id),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(n.to_string()),
            None => {
                let names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
                let names = named(&names);
                Err(self.fault(format!("field \"_id\" is missing; there are: {names}")))
            }
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

/// Hands each record of a file to `take`, once; returns their ids.
fn read_records(path: &Path, what: &str, mut take: impl FnMut(Record)) -> Result<Ids> {
    let hasher = RandomState::new();
    let mut ids = Ids {
        first: HashMap::new(),
        repeated: 0,
    };
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
        let mut fields = Fields { path, line, fields };
        let record = Record {
            id: fields.id()?,
            title: match what {
                "document" => fields.title()?,
                _ => String::new(),
            },
            text: fields.text()?,
        };
        let hash = hasher.hash_one(&record);
        match ids.first.get(&record.id) {
            None => {
                ids.first.insert(record.id.clone(), (line, hash));
                take(record);
            }
            Some(&(_, earlier)) if earlier == hash => ids.repeated += 1,
            Some((earlier, _)) => {
                return Err(fields.fault(format!(
                    "{what} id {:?} is already used in line {earlier}, for another text; give each an id of its own",
                    record.id
                )));
            }
        }
    }
    Ok(ids)
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

/// How the columns of a file of judgements are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Three between tabs: the places of query, document and grade.
    Beir([usize; 3]),
    /// Four between tabs or spaces: query, 0 or Q0, document, grade.
    Trec,
}

/// What a header may call query, document and grade; `_` is as good as `-`.
const HEADINGS: [&[&str]; 3] = [
    &["query-id", "query", "qid", "topic"],
    &[
        "corpus-id",
        "document-id",
        "doc-id",
        "docid",
        "document",
        "doc",
    ],
    &["score", "relevance", "grade", "label"],
];

impl Layout {
    /// As a header names the columns; `None` for a line that does not name all three.
    fn of_header(line: &str) -> Option<Self> {
        let names = line.split('\t').map(|name| {
            let name = unquoted(name.trim())?.to_ascii_lowercase();
            Some(name.trim().replace('_', "-"))
        });
        let names: Vec<String> = names.collect::<Option<_>>()?;
        let mut places = [0; 3];
        for (place, known) in places.iter_mut().zip(HEADINGS) {
            *place = names.iter().position(|name| known.contains(&&name[..]))?;
        }
        (names.len() == places.len()).then_some(Layout::Beir(places))
    }

    /// Of a file that begins with this line.
    fn of(line: &str) -> Self {
        let columns: Vec<&str> = line.split_whitespace().collect();
        match columns[..] {
            [_, "0" | "Q0" | "q0", _, _] if line.split('\t').count() != 3 => Layout::Trec,
            _ => Layout::Beir([0, 1, 2]),
        }
    }

    /// Query, document and grade of a line, or what is wrong with it.
    fn columns(self, line: &str) -> Result<[Cow<'_, str>; 3], String> {
        match self {
            Layout::Trec => match line.split_whitespace().collect::<Vec<_>>()[..] {
                [query, _, document, grade] => Ok([query, document, grade].map(Cow::Borrowed)),
                ref other => Err(format!(
                    "expected 4 columns (query, 0, document, grade) as in the lines before, got {}",
                    other.len()
                )),
            },
            Layout::Beir(places) => {
                let fields: Option<Vec<Cow<'_, str>>> = line.split('\t').map(unquoted).collect();
                let fields = fields.ok_or(
                    "a quote opens a field and does not close it at the field's end; close it, double every quote (\"\") that belongs to the id, or write no quotes",
                )?;
                let n = fields.len();
                let mut fields: [Cow<'_, str>; 3] = fields.try_into().map_err(|_| {
                    format!(
                        "expected 3 columns separated by tabs (query-id, corpus-id, score) or TREC's 4 (query, 0, document, grade), got {n} between tabs"
                    )
                })?;
                Ok(places.map(|at| std::mem::take(&mut fields[at])))
            }
        }
    }
}

/// A grade: a whole number, also where it is written as `1.0` (as programs do that once had a gap in the column).
fn grade(text: &str) -> Option<i64> {
    let text = text.trim();
    let whole = match text.split_once('.') {
        Some((whole, rest)) if !rest.is_empty() && rest.bytes().all(|b| b == b'0') => whole,
        _ => text,
    };
    whole.parse().ok()
}

/// Reads the judgements of a split; only what concerns them alone is noted here.
fn read_qrels(path: &Path, notes: &mut CollectionNotes) -> Result<Qrels> {
    let mut qrels = Qrels::new();
    let mut lines = TextLines::open(path)?;
    let mut layout = None;
    while let Some((number, line)) = lines.next_full_line()? {
        let fault = |message: String| Error::input(path, format!("line {number}: {message}"));
        let is_first = layout.is_none();
        if is_first && let Some(named) = Layout::of_header(line) {
            layout = Some(named);
            continue;
        }
        let layout = *layout.get_or_insert_with(|| Layout::of(line));
        let [query, document, score] = layout.columns(line).map_err(fault)?;
        let Some(grade) = grade(&score) else {
            // Only a first line whose last column is a known heading is a header: anything else that does not parse is
            // a damaged judgement, and skipping it would change the results.
            let heading = score.trim().to_ascii_lowercase();
            if is_first && HEADINGS[2].contains(&heading.as_str()) {
                continue;
            }
            return Err(fault(format!(
                "score {score:?} is not an integer; grades are whole numbers, above 0 for what is relevant"
            )));
        };
        if query.is_empty() || document.is_empty() {
            return Err(fault(
                "an id is empty; expected query-id, corpus-id, score".into(),
            ));
        }
        match qrels.insert(query.as_ref(), document.as_ref(), grade) {
            None => notes.negative_judgements += usize::from(grade < 0),
            Some(earlier) if earlier == grade => notes.repeated_judgements += 1,
            Some(earlier) => {
                return Err(fault(format!(
                    "query {query:?} and document {document:?} are judged {grade}, but {earlier} in an earlier line"
                )));
            }
        }
    }
    notes.trec_judgements = layout == Some(Layout::Trec);
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
