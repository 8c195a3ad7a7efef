//! Rows of CSV files, and what would get lost on the way.
//!
//! The `csv` crate always finds *a* reading: a quote that is never closed makes one field of the rest of the file, a
//! stray one that is closed by the next quote swallows the rows between. So a [`Watch`] follows the quotes of the bytes
//! that the parser gets. What certainly damages rows is an error that names the line; what may be meant is counted in
//! [`QuoteNotes`].

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use serde::Serialize;

use super::{BUFFER, signature};
use crate::error::{Error, Result};

const BYTE_ORDER_MARK: [u8; 3] = *b"\xef\xbb\xbf";

/// Quotes of a file that may be mistakes, as counts. All zero for a file without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QuoteNotes {
    /// Quoted fields that hold line ends; kept.
    pub with_line_ends: usize,
    /// The line on which the first of them opens; 0 if there is none.
    pub first_with_line_ends: usize,
    /// The most lines that one of them has.
    pub most_lines: usize,
    /// Fields with more text behind their closing quote; kept without these quotes.
    pub with_text_behind: usize,
    /// The line of the first of them; 0 if there is none.
    pub first_with_text_behind: usize,
}

impl QuoteNotes {
    /// One line for every count that is not zero; `what` names the rows.
    pub fn lines(&self, what: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if self.with_line_ends > 0 {
            lines.push(format!(
                "{what}: quoted fields that hold line ends, kept: {} (the first opens in line {}, the longest has {} lines); a stray quote makes such a field of the rows behind it",
                self.with_line_ends, self.first_with_line_ends, self.most_lines
            ));
        }
        if self.with_text_behind > 0 {
            lines.push(format!(
                "{what}: fields with text behind their closing quote, kept without these quotes: {} (the first in line {})",
                self.with_text_behind, self.first_with_text_behind
            ));
        }
        lines
    }
}

/// What a gzip file holds.
#[cfg(feature = "study")]
fn unpacked(path: &Path, file: BufReader<File>) -> Result<Box<dyn Read>> {
    signature::text(path, flate2::bufread::MultiGzDecoder::new(file))
}

/// Refused: nothing that reads archives is there.
#[cfg(not(feature = "study"))]
fn unpacked(path: &Path, _: BufReader<File>) -> Result<Box<dyn Read>> {
    let why = "compressed, which only the feature `study` reads; decompress it";
    Err(Error::input(path, why))
}

/// Whether the name of a file says that it is compressed.
fn packed(path: &Path) -> bool {
    let ending = path.extension();
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

/// The bytes of a file, decompressed where its name ends in `.gz`.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be opened; [`Error::Input`] for a folder, for what is no text by its first bytes
/// (with what it looks like), for one whose name is wrong about compression, and for a compressed one where none can be read.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>> {
    let failed = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(Error::input(path, "is a folder; give a file"));
    }
    let mut file = BufReader::with_capacity(BUFFER, file);
    signature::check_packing(path, &mut file, packed(path))?;
    match packed(path) {
        true => unpacked(path, file),
        false => signature::text(path, file),
    }
}

/// `name` without an ending, in whatever case that is written.
fn without<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let (rest, end) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
    end.eq_ignore_ascii_case(ending).then_some(rest)
}

/// The name of a file without `.gz`.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    without(&name, ".gz").unwrap_or(&name).to_string()
}

/// Endings of files that hold an object in each line.
const LINES: [&str; 3] = [".jsonl", ".ndjson", ".json"];

/// Whether the name of a file says that each of its lines is a JSON object.
pub(super) fn holds_json(path: &Path) -> bool {
    let name = plain_name(path);
    LINES.iter().any(|ending| without(&name, ending).is_some())
}

/// The name of a file without its endings.
pub(crate) fn stem(path: &Path) -> String {
    let name = plain_name(path);
    let mut endings = [".csv"].iter().chain(&LINES);
    let rest = endings.find_map(|ending| without(&name, ending));
    rest.unwrap_or(&name).to_string()
}

/// The error for a file in which nothing is usable, which is a mistake that is better named than averaged; `notes` are what
/// became of its rows.
pub(super) fn no_usable_row(path: &Path, notes: &[String]) -> Error {
    let why = match notes {
        [] => "it has no rows".to_string(),
        notes => notes.join("; "),
    };
    Error::input(
        path,
        format!("holds no usable row ({why}); give a file with some"),
    )
}

/// What a file of rows is like, apart from the rows.
pub(super) struct Said {
    /// Quotes that may be mistakes.
    pub quotes: QuoteNotes,
    /// Whether it has the optional column.
    pub optional: bool,
    /// Columns that are not read, see [`unread`].
    pub unread: Vec<String>,
}

/// Calls `row` with the `N` columns `wanted` of every row of a CSV file, trimmed, and with column `optional` or the
/// file's name without its endings. `capacity` is the size of the buffers in bytes. Columns of a name in `refused` are errors,
/// each with what is wrong with it, since rows without them would mean something else.
///
/// # Errors
/// As [`CsvFile::open`] and [`CsvFile::read`], and for a refused column.
pub(super) fn read_rows<const N: usize>(
    path: &Path,
    capacity: usize,
    wanted: &[&str; N],
    optional: &str,
    refused: &[[&str; 2]],
    row: impl FnMut([&str; N], &str),
) -> Result<Said> {
    let file = CsvFile::open(path, capacity)?;
    let has = file.column(optional)?.is_some();
    for [name, why] in refused {
        if file.column(name)?.is_some() {
            return Err(Error::input(path, format!("has a column `{name}`: {why}")));
        }
    }
    let unread = unread(&file.columns(), &[&wanted[..], &[optional]].concat());
    Ok(Said {
        quotes: file.read(wanted, optional, row)?,
        optional: has,
        unread,
    })
}

/// Those of the columns that are not `read`.
pub(super) fn unread(columns: &[&str], read: &[&str]) -> Vec<String> {
    let is_read = |name: &str| read.iter().any(|read| read.eq_ignore_ascii_case(name));
    let others = columns.iter().filter(|name| !is_read(name));
    others.map(|name| name.to_string()).collect()
}

/// The line that says which columns of a file are not read, if there are any; `what` names its rows.
pub(super) fn unread_line(what: &str, columns: &[String]) -> Option<String> {
    let shown = columns.iter().map(|name| match &name[..] {
        "" => "(one without a name)",
        name => name,
    });
    let shown = named(&shown.collect::<Vec<_>>());
    (!columns.is_empty()).then(|| format!("{what}: columns that are not read: {shown}"))
}

/// Whether columns seem to be separated by something else than commas.
pub(super) fn wrong_separator(columns: &[&str]) -> bool {
    matches!(columns, [one] if one.contains(['\t', ';', '|']))
}

/// The most column names that a line lists, and the most characters of one.
const NAMED: [usize; 2] = [12, 40];

/// The names of columns, for a line: without what would break its line, and not without end.
pub(super) fn named(columns: &[&str]) -> String {
    let [most, characters] = NAMED;
    let shown = columns.iter().take(most).map(|name| {
        let short: String = name.chars().take(characters).collect();
        let more = if short.len() < name.len() { "..." } else { "" };
        format!("{}{more}", short.escape_debug())
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match columns.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A CSV file whose header has been read.
pub(super) struct CsvFile<'a> {
    path: &'a Path,
    reader: csv::Reader<Watch<BufReader<Box<dyn Read>>>>,
    header: csv::StringRecord,
}

/// A file that cannot be read any further.
fn broken(path: &Path, e: std::io::Error) -> Error {
    let cure = match packed(path) {
        true => "; decompress it or fetch it again",
        false => "",
    };
    Error::input(path, format!("cannot be read: {e}{cure}"))
}

impl<'a> CsvFile<'a> {
    /// Reads the header of a file, `capacity` bytes at a time.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be opened; [`Error::Input`] with the line for one whose first row is damaged.
    pub(super) fn open(path: &'a Path, capacity: usize) -> Result<Self> {
        Self::of(path, open(path)?, capacity)
    }

    /// [`CsvFile::open`] of bytes from elsewhere; `path` is what errors call them.
    pub(super) fn of(path: &'a Path, bytes: Box<dyn Read>, capacity: usize) -> Result<Self> {
        let bytes = BufReader::with_capacity(capacity, bytes);
        let watch = Watch::new(bytes).map_err(|e| broken(path, e))?;
        let reader = csv::ReaderBuilder::new()
            .flexible(true)
            .buffer_capacity(capacity)
            .from_reader(watch);
        let mut file = CsvFile {
            path,
            reader,
            header: csv::StringRecord::new(),
        };
        let header = file.reader.headers().cloned();
        file.header = file.settle(header)?;
        Ok(file)
    }

    /// A result of the parser, or what is wrong with the file. What the watch saw explains what the parser made of it.
    fn settle<T>(&self, result: csv::Result<T>) -> Result<T> {
        let watch = self.reader.get_ref();
        if let Some(fault) = &watch.fault {
            return Err(Error::input(self.path, fault));
        }
        result.map_err(|e| match e.into_kind() {
            csv::ErrorKind::Io(e) => broken(self.path, e),
            kind => {
                let what = format!("line {}: {}", watch.record, watch.why(kind));
                Error::input(self.path, what)
            }
        })
    }

    /// Reads the next row that is not a line of white space; false at the end.
    fn next(&mut self, record: &mut csv::StringRecord) -> Result<bool> {
        loop {
            let more = self.reader.read_record(record);
            if !self.settle(more)? {
                return Ok(false);
            }
            if record.len() == self.header.len() {
                return Ok(true);
            }
            if !matches!(record.iter().next(), Some(only) if record.len() == 1 && only.trim().is_empty())
            {
                let watch = self.reader.get_ref();
                let what = watch.unequal(record.len(), self.header.len());
                return Err(Error::input(
                    self.path,
                    format!("line {}: {what}", watch.record),
                ));
            }
        }
    }

    /// The names of its columns.
    pub(super) fn columns(&self) -> Vec<&str> {
        self.header.iter().map(str::trim).collect()
    }

    /// The place of a column.
    fn column(&self, name: &str) -> Result<Option<usize>> {
        let header = &self.header;
        let mut places = (0..header.len()).filter(|&i| header[i].trim().eq_ignore_ascii_case(name));
        match (places.next(), places.next()) {
            (_, Some(_)) => Err(Error::input(
                self.path,
                format!("names column `{name}` twice; rename the one that is not meant"),
            )),
            (place, None) => Ok(place),
        }
    }

    /// The places of columns that must be there.
    fn places<const N: usize>(&self, wanted: &[&str; N]) -> Result<[usize; N]> {
        let mut places = [0; N];
        for (place, name) in places.iter_mut().zip(wanted) {
            *place = self.column(name)?.ok_or_else(|| {
                let found = self.columns();
                let cure = match wrong_separator(&found) {
                    true => "; separate columns by commas",
                    false => "",
                };
                Error::input(
                    self.path,
                    format!(
                        "has no column `{name}`; the first line must name {}, it names {}{cure}",
                        wanted.join(", "),
                        named(&found)
                    ),
                )
            })?;
        }
        Ok(places)
    }

    /// Calls `row` with the line and the `N` columns `wanted`, trimmed, of every row, as soon as its bytes are there.
    ///
    /// # Errors
    /// As [`CsvFile::read`], and what `row` reports.
    pub(super) fn each<const N: usize>(
        mut self,
        wanted: &[&str; N],
        mut row: impl FnMut(usize, [&str; N]) -> Result<()>,
    ) -> Result<()> {
        let places = self.places(wanted)?;
        let mut record = csv::StringRecord::new();
        loop {
            if !self.next(&mut record)? {
                return Ok(());
            }
            let line = self.reader.get_ref().record;
            row(line, places.map(|at| record[at].trim()))?;
        }
    }

    /// Calls `row` with the `N` columns `wanted` of every row, trimmed, and with column `optional` or the file's name
    /// without its endings.
    ///
    /// # Errors
    /// [`Error::Input`] with the line for a file that is damaged, not UTF-8 or holds NUL bytes, whose columns are missing
    /// or doubled, whose rows differ in length, or whose quotes swallow rows.
    pub(super) fn read<const N: usize>(
        mut self,
        wanted: &[&str; N],
        optional: &str,
        mut row: impl FnMut([&str; N], &str),
    ) -> Result<QuoteNotes> {
        let places = self.places(wanted)?;
        let optional = self.column(optional)?;
        let stem = stem(self.path);
        let mut record = csv::StringRecord::new();
        loop {
            if !self.next(&mut record)? {
                return Ok(self.reader.get_ref().notes);
            }
            let extra = optional.map_or(&stem[..], |at| record[at].trim());
            row(places.map(|at| record[at].trim()), extra);
        }
    }
}

/// Where a byte stands in a row, as the `csv` crate sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first byte of a field.
    Start,
    /// In a field that is not quoted, or behind the closing quote of one that is.
    Field,
    /// Between quotes.
    Quoted,
    /// Behind a quote that closes a field, or is the first half of a doubled one.
    Closing,
}

/// Hands on the bytes of `inner`, following lines and quotes.
///
/// A read ends with a line, so that the parser, which reads when it needs more, is never ahead by more than the line of
/// the row it works on.
struct Watch<R> {
    inner: std::io::Chain<Cursor<Vec<u8>>, R>,
    place: Place,
    /// Line of the next byte, from 1; `\n`, `\r\n` and `\r` end a line.
    line: usize,
    after_return: bool,
    /// Whether the next byte that ends no line begins a row.
    between: bool,
    /// Line on which the present row begins, or the last one if there is none.
    record: usize,
    /// Line of the quote that opened the present field.
    opened: usize,
    /// First and last line of the latest field that holds line ends.
    latest: Option<[usize; 2]>,
    notes: QuoteNotes,
    /// The first thing that damages rows.
    fault: Option<String>,
}

impl<R: BufRead> Watch<R> {
    /// Without a byte order mark, if there is one.
    fn new(mut inner: R) -> std::io::Result<Self> {
        let mut head = Vec::new();
        let most = BYTE_ORDER_MARK.len() as u64;
        inner.by_ref().take(most).read_to_end(&mut head)?;
        if head == BYTE_ORDER_MARK {
            head.clear();
        }
        Ok(Watch {
            inner: Cursor::new(head).chain(inner),
            place: Place::Start,
            line: 1,
            after_return: false,
            between: true,
            record: 1,
            opened: 0,
            latest: None,
            notes: QuoteNotes::default(),
            fault: None,
        })
    }

    fn see(&mut self, byte: u8) {
        let ends_line = matches!(byte, b'\n' | b'\r');
        if self.between && !ends_line {
            self.between = false;
            self.record = self.line;
        }
        if byte == 0 {
            self.damaged(format!(
                "line {}: holds a NUL byte: a hole in a damaged file, or UTF-16; fetch it again or convert it to UTF-8",
                self.line
            ));
        }
        self.place = match (self.place, byte) {
            (Place::Start, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            (Place::Quoted, b'"') => Place::Closing,
            (Place::Quoted, _) | (Place::Closing, b'"') => Place::Quoted,
            (place, b',' | b'\n' | b'\r') => {
                if place == Place::Closing {
                    self.closed();
                }
                self.between |= ends_line;
                Place::Start
            }
            (Place::Closing, _) => {
                self.text_behind();
                Place::Field
            }
            (Place::Start | Place::Field, _) => Place::Field,
        };
        // The second half of `\r\n` ends nothing.
        self.line += usize::from(ends_line && !(byte == b'\n' && self.after_return));
        self.after_return = byte == b'\r';
    }

    /// The field between quotes has ended on this line.
    fn closed(&mut self) {
        if self.line == self.opened {
            return;
        }
        let notes = &mut self.notes;
        if notes.with_line_ends == 0 {
            notes.first_with_line_ends = self.opened;
        }
        notes.with_line_ends += 1;
        notes.most_lines = notes.most_lines.max(self.line - self.opened + 1);
        self.latest = Some([self.opened, self.line]);
    }

    /// Text follows a closing quote: on one line it is a matter of spelling, over several the quotes do not belong
    /// together.
    fn text_behind(&mut self) {
        if self.line == self.opened {
            if self.notes.with_text_behind == 0 {
                self.notes.first_with_text_behind = self.line;
            }
            self.notes.with_text_behind += 1;
        } else {
            self.damaged(format!(
                "line {}: a quote opens here, and the next one, in line {}, has text behind it, so that the rows between would be lost; remove the stray one, or double it (\"\") where it belongs to the text",
                self.opened, self.line
            ));
        }
    }

    fn end(&mut self) {
        match self.place {
            Place::Quoted => self.damaged(format!(
                "line {}: a quote opens here and is never closed, so that all rows behind it would be lost; close it, remove it, or double it (\"\") where it belongs to the text",
                self.opened
            )),
            Place::Closing => self.closed(),
            Place::Start | Place::Field => {}
        }
        self.place = Place::Start;
    }

    fn damaged(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// What is wrong with the present row, and the cure.
    fn why(&self, kind: csv::ErrorKind) -> String {
        match kind {
            csv::ErrorKind::Utf8 { .. } => "not UTF-8; convert the file to UTF-8".into(),
            other => format!("{other:?}"),
        }
    }

    /// What is wrong with the present row, which has `len` fields.
    fn unequal(&self, len: usize, expected: usize) -> String {
        let lengths = format!("{len} fields where the header has {expected}");
        match self.latest {
            Some([first, last]) if first >= self.record => format!(
                "{lengths}, one of them from a quote in line {first} to the next in line {last}; remove a stray quote, or double it (\"\") where it belongs to the text"
            ),
            _ => format!("{lengths}; quote fields that hold commas or line ends"),
        }
    }
}

impl<R: BufRead> Read for Watch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.fill_buf()?;
        let most = bytes.len().min(buffer.len());
        let end = bytes[..most]
            .iter()
            .position(|b| matches!(b, b'\n' | b'\r'));
        let n = end.map_or(most, |at| at + 1);
        buffer[..n].copy_from_slice(&bytes[..n]);
        self.inner.consume(n);
        for &byte in &buffer[..n] {
            self.see(byte);
        }
        if n == 0 && !buffer.is_empty() {
            self.end();
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// The rows of a file of columns `a` and `b`, or the error, which must be one line that names the file.
    fn read(text: &[u8], capacity: usize) -> Result<(Vec<[String; 2]>, QuoteNotes), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, text).unwrap();
        let mut rows = Vec::new();
        let notes = read_rows(&path, capacity, &["a", "b"], "c", &[], |[a, b], c| {
            assert_eq!(c, "x");
            rows.push([a.to_string(), b.to_string()]);
        });
        let notes = notes.map(|said| {
            assert!(!said.optional);
            said.quotes
        });
        let error = |e: Error| {
            let line = e.to_string();
            assert!(line.contains("x.csv: ") && !line.contains('\n'), "{line}");
            line
        };
        Ok((rows, notes.map_err(error)?))
    }

    fn refused(text: &str, parts: &[&str]) {
        // What is found does not depend on where buffers end.
        for capacity in [1, 3, 16, 1 << 16] {
            let error = read(text.as_bytes(), capacity).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
    }

    #[test]
    fn a_quote_that_is_never_closed_is_found_where_it_opens() {
        let never = "is never closed";
        refused("a,b\na,\"b\nc,d\ne,f\n", &["line 2: a quote opens", never]);
        refused("a,b\nx,y\n\n\"a,b\nc,d", &["line 4: ", never]);
        refused("a,b\r\nx,y\r\n\"l\r\nm\",\"b\r\nc,d", &["line 4: ", never]);
        refused("a,b\rx,y\ra,\"b\rc,d\r", &["line 3: ", never]);
        refused("a,b\nx,\"\"\"y\nz,w\n", &["line 2: ", never]);
        refused("a,\"b\nx,y\n", &["line 1: ", never]);
        refused("a,b\nx,\"", &["line 2: ", never]);
    }

    #[test]
    fn a_quote_that_is_closed_by_a_stranger_is_refused_or_counted() {
        // The next quote opens a field of a later row.
        let text = "a,b\nx,\"y\nz,w\nu,\"v, v\"\nr,s\n";
        refused(text, &["line 2: ", "in line 4, has text behind it"]);
        // It closes one: the rows between have become one.
        let (rows, notes) = read(b"a,b\nx,\"y\nz,w\nu,v\"\nr,s\n\"k\nl\",m\n", 7).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0][1], "y\nz,w\nu,v");
        let expected = QuoteNotes {
            with_line_ends: 2,
            first_with_line_ends: 2,
            most_lines: 3,
            ..QuoteNotes::default()
        };
        assert_eq!(notes, expected);
        let said = notes.lines("pairs");
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("kept: 2 (the first opens in line 2, the longest has 3 lines)"));
        // It leaves a row of another length.
        let text = "a,b\nx,y\n\"k,l\nm,n\"\nr,s\n";
        refused(
            text,
            &[
                "line 3: 1 fields",
                "a quote in line 3 to the next in line 4",
            ],
        );
    }

    #[test]
    fn lines_of_white_space_are_no_rows() {
        let text = "a,b\r\nx,y\r\n  \t\r\n\r\nz,w\r\n \r\n\r\n";
        for capacity in [1, 16] {
            let (rows, notes) = read(text.as_bytes(), capacity).unwrap();
            assert_eq!((rows.len(), notes), (2, QuoteNotes::default()));
        }
        refused("a,b\nx,y\n  ,\nz\n", &["line 4: 1 fields where"]);
        // What a spreadsheet leaves behind the last row are rows, and empty.
        let (rows, _) = read(b"a,b\nx,y\n,\n", 16).unwrap();
        assert_eq!(rows[1], ["", ""]);
    }

    #[test]
    fn other_separators_are_named_and_long_headers_cut() {
        let refused = |text: &str, parts: &[&str]| {
            let error = read(text.as_bytes(), 16).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
            assert!(error.len() < 1000, "{error}");
        };
        refused("a;b\nx;y\n", &["it names a;b; separate columns by commas"]);
        refused(
            "a\tb\nx\ty\n",
            &["it names a\\tb; separate columns by commas"],
        );
        refused("\"a\u{1b}\nb\",c\n", &["it names a\\u{1b}\\nb, c"]);
        let wide: Vec<String> = (0..5000).map(|i| format!("column {i}")).collect();
        refused(&(wide.join(",") + "\n"), &["column 11 and 4988 more"]);
        refused(&("x".repeat(1 << 20) + ",y\n"), &["x..., y"]);
    }

    #[test]
    fn text_behind_a_closing_quote_is_counted() {
        let (rows, notes) = read(b"a,b\n\"so \"said\" he\",y\nz,\"w\" \n", 5).unwrap();
        assert_eq!(rows[0][0], "so said\" he\"");
        assert_eq!(
            (notes.with_text_behind, notes.first_with_text_behind),
            (2, 2)
        );
        assert!(notes.lines("pairs")[0].ends_with(": 2 (the first in line 2)"));
        let (_, clean) = read(b"a,b\n\"x \"\"y\"\"\",\"\"\nz \"w\",\"a, b\"", 5).unwrap();
        assert!(clean.lines("pairs").is_empty(), "{clean:?}");
    }

    #[test]
    fn lines_are_counted_alike_whatever_ends_them() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,b", "x,\"y", "y\"", "", "z", "r,s"].join(end);
            refused(&text, &["line 5: 1 fields where the header has 2; quote"]);
            let text = ["\u{feff}\"a\",b", "x,y", "", "z,w"].join(end);
            let (rows, notes) = read(text.as_bytes(), 3).unwrap();
            assert_eq!((rows.len(), notes), (2, QuoteNotes::default()), "{end:?}");
        }
        refused("a,b\r\nx,y\r\nz,\0\r\n", &["line 3: holds a NUL byte"]);
        refused("a,b\na,b,c\n", &["line 2: 3 fields"]);
        refused("a,b, A\na,b,c\n", &["column `a` twice"]);
    }

    #[test]
    fn the_watch_sees_the_quotes_that_the_parser_sees() {
        const ALPHABET: &[u8] = b"x\"\",,\n\r\n";
        let (mut multiline, mut never) = (0, 0);
        for case in 0..20_000 {
            let mut stream = Stream::new(7, &["quotes"], case);
            let length = stream.below(24);
            let text: Vec<u8> = (0..length)
                .map(|_| ALPHABET[stream.below(ALPHABET.len())])
                .collect();
            let mut watch = Watch::new(&text[..]).unwrap();
            std::io::copy(&mut watch, &mut std::io::sink()).unwrap();
            // A mark behind everything is a row of its own unless a quote swallows it; field by field, line ends are
            // those that the parser left in.
            let marked = [&text[..], b"\n#"].concat();
            let mut reader = csv::ReaderBuilder::new();
            let mut reader = reader
                .flexible(true)
                .has_headers(false)
                .from_reader(&marked[..]);
            let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.unwrap()).collect();
            let swallowed = rows.last().unwrap() != vec!["#"];
            let unclosed = watch
                .fault
                .as_ref()
                .is_some_and(|f| f.contains("never closed"));
            let torn = watch.fault.is_some() && !unclosed;
            let shown = String::from_utf8_lossy(&text);
            if !torn {
                assert_eq!(swallowed, unclosed, "{shown:?}");
                let with_ends = rows.iter().flatten().filter(|f| f.contains(['\n', '\r']));
                let expected = with_ends.count() - usize::from(unclosed);
                assert_eq!(watch.notes.with_line_ends, expected, "{shown:?}");
                multiline += expected;
                never += usize::from(unclosed);
            }
        }
        assert!(multiline > 100 && never > 100, "{multiline} {never}");
    }
}
