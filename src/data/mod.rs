//! Texts and judgements as they come from files. Nothing here knows a device.
//!
//! [`beir`] reads and writes retrieval test collections in the BEIR folder layout, [`pairs`] reads near-misses and
//! paraphrases, [`triplets`] reads what training takes, and [`negatives`] finds negatives where it has none; [`groups`]
//! splits rows so that no sentence is on both sides; [`generated`] holds the built-in collections, [`edits`] the built-in
//! near-misses, [`questions`] pairs of questions with rewordings and near-misses, [`probe`] sentences that show what an
//! embedding is made of.

pub mod beir;
mod category;
pub mod edits;
mod fingerprint;
pub mod generated;
pub mod groups;
pub mod negatives;
pub mod pairs;
#[cfg(feature = "study")]
pub mod probe;
pub mod questions;
mod rows;
mod signature;
pub mod triplets;

pub use category::Category;
pub(crate) use fingerprint::{Fingerprint, hex};
#[cfg(feature = "study")]
pub(crate) use rows::stem;

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes of a file read at a time.
const BUFFER: usize = 1 << 16;

/// The texts of a file that holds one a line; a blank line is an empty text.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read; [`Error::Input`] with the line for one that is not UTF-8, holds NUL
/// bytes or carriage returns within lines, or for one that is empty.
pub fn read_texts(path: &Path) -> Result<Vec<String>> {
    let mut lines = TextLines::open(path)?;
    let mut texts = Vec::new();
    while let Some((_, line)) = lines.next_line()? {
        texts.push(line.to_string());
    }
    if texts.is_empty() {
        return Err(Error::input(path, "empty; write one text per line"));
    }
    Ok(texts)
}

/// The lines of a UTF-8 text file, one at a time, with their numbers.
///
/// A byte order mark, `\r\n` line ends and a missing last line end are tolerated; a file whose name ends in `.gz` is
/// decompressed. Memory: one line.
pub(crate) struct TextLines<'a> {
    path: &'a Path,
    reader: BufReader<Box<dyn Read>>,
    bytes: Vec<u8>,
    number: usize,
}

impl<'a> TextLines<'a> {
    /// Opens `path`.
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        Self::with_buffer(path, BUFFER)
    }

    /// Opens `path`, to read `capacity` bytes at a time.
    fn with_buffer(path: &'a Path, capacity: usize) -> Result<Self> {
        Ok(Self {
            path,
            reader: BufReader::with_capacity(capacity, rows::open(path)?),
            bytes: Vec::new(),
            number: 0,
        })
    }

    /// The next line without its end, with its number (from 1); `None` at the end of the file.
    pub(crate) fn next_line(&mut self) -> Result<Option<(usize, &str)>> {
        if self.read()? {
            Ok(Some((self.number, self.line()?)))
        } else {
            Ok(None)
        }
    }

    /// [`TextLines::next_line`] without the lines that hold white space alone; their numbers count.
    pub(crate) fn next_full_line(&mut self) -> Result<Option<(usize, &str)>> {
        while self.read()? {
            if !self.bytes.trim_ascii().is_empty() {
                return Ok(Some((self.number, self.line()?)));
            }
        }
        Ok(None)
    }

    /// Reads a line into `bytes`; false at the end of the file.
    fn read(&mut self) -> Result<bool> {
        self.bytes.clear();
        let read = self.reader.read_until(b'\n', &mut self.bytes);
        let n = read.map_err(|e| Error::io("read", self.path, e))?;
        self.number += 1;
        if self.number == 1 && self.bytes.starts_with(b"\xef\xbb\xbf") {
            self.bytes.drain(..3);
        }
        Ok(n > 0)
    }

    /// The line that was read. Bytes that other programs would end a line or a file at are refused.
    fn line(&self) -> Result<&str> {
        let fault = |what: String| {
            let number = self.number;
            Err(Error::input(self.path, format!("line {number}: {what}")))
        };
        let line = match std::str::from_utf8(&self.bytes) {
            Ok(line) => line,
            Err(e) => {
                return fault(format!(
                    "not UTF-8 at byte {} of the line; convert the file to UTF-8",
                    e.valid_up_to() + 1
                ));
            }
        };
        let line = line.trim_end_matches(['\n', '\r']);
        if line.contains('\0') {
            return fault(
                "holds a NUL byte: a hole in a damaged file, or UTF-16; fetch it again or convert it to UTF-8".into(),
            );
        }
        if line.contains('\r') {
            return fault(
                "holds a carriage return that ends no line; end every line with \\n or \\r\\n"
                    .into(),
            );
        }
        Ok(line)
    }
}

/// Writes rows of width `d` as a `.npy` file, f32, shape `[n, d]`.
///
/// # Errors
/// [`Error::Io`] naming the file; [`Error::Invalid`] for a length that is no multiple of `d`.
pub fn write_npy(path: &Path, rows: &[f32], d: usize) -> Result<()> {
    use npyz::WriterBuilder;
    if d == 0 || !rows.len().is_multiple_of(d) {
        return Err(Error::Invalid(format!(
            "{} numbers are no rows of width {d}",
            rows.len()
        )));
    }
    write_atomically(path, |file| {
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[(rows.len() / d) as u64, d as u64])
            .writer(file)
            .begin_nd()?;
        writer.extend(rows.iter().copied())?;
        writer.finish()
    })
}

/// Fails if no file can be written at `path`: better known before the work than after it. Nothing is left behind, and folders
/// on the way that are missing are not made yet.
///
/// # Errors
/// [`Error::Input`] for a folder in its place or a file in the place of a folder; [`Error::Io`] naming a folder that cannot be
/// written.
pub fn check_output(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::input(path, "is a folder; name a file in it"));
    }
    match is_special(path) {
        true => Ok(()),
        false => check_output_folder(folder_of(path)),
    }
}

/// [`check_output`] of a folder that files are to be written into.
///
/// # Errors
/// As [`check_output`].
pub fn check_output_folder(folder: &Path) -> Result<()> {
    let there = |path: &&Path| path.symlink_metadata().is_ok();
    // What is there of the way to it; a path without a root begins where we are.
    let nearest = match folder.ancestors().find(there) {
        Some(path) => path,
        None if folder.has_root() => Path::new("/"),
        None => Path::new("."),
    };
    if !nearest.is_dir() {
        let what = match (nearest == folder, nearest.exists()) {
            (true, true) => "is a file, where a folder is needed; name another place".to_string(),
            (false, true) => format!(
                "cannot be made: {} is a file; name another place",
                nearest.display()
            ),
            (_, false) => format!(
                "cannot be made: {} is a link to nothing; name another place",
                nearest.display()
            ),
        };
        return Err(Error::input(folder, what));
    }
    match tempfile::tempfile_in(nearest) {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::io("write to", nearest, e)),
    }
}

/// The folder of a file.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether `path` is a device or a pipe, which is written to and not replaced.
fn is_special(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Writes `path` so that it is either absent (or as before) or complete: into a temporary file beside it, which is then
/// renamed. Folders on the way are created. A device or a pipe is written to as it is.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    if is_special(path) {
        let file = std::fs::OpenOptions::new().write(true).open(path);
        let mut buffered = BufWriter::with_capacity(BUFFER, file.map_err(failed)?);
        write(&mut buffered).map_err(failed)?;
        return buffered.flush().map_err(failed);
    }
    let folder = folder_of(path);
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create folder", folder, e))?;
    let mut builder = tempfile::Builder::new();
    // A temporary file is private by default; this one becomes an ordinary file, subject to the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(failed)?;
    let mut buffered = BufWriter::with_capacity(BUFFER, file.as_file_mut());
    write(&mut buffered).map_err(failed)?;
    buffered.flush().map_err(failed)?;
    drop(buffered);
    // Without this a power cut could leave the new name with no content.
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: impl AsRef<[u8]>) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn every_line_is_a_text() {
        let long = "x".repeat(200);
        let text = format!("\u{feff}one\r\n\n  {long}\n\u{2028}two\n\n");
        let expected = ["one", "", &format!("  {long}"), "\u{2028}two", ""];
        let (_dir, path) = file(&text);
        assert_eq!(read_texts(&path).unwrap(), expected);
        // Lines that are longer than what is read at a time.
        for capacity in [1, 7, 64] {
            let mut lines = TextLines::with_buffer(&path, capacity).unwrap();
            for (number, line) in (1..).zip(expected) {
                assert_eq!(lines.next_line().unwrap(), Some((number, line)));
            }
            assert_eq!(lines.next_line().unwrap(), None);
            let mut lines = TextLines::with_buffer(&path, capacity).unwrap();
            for (number, line) in [(1, "one"), (3, expected[2]), (4, "\u{2028}two")] {
                assert_eq!(lines.next_full_line().unwrap(), Some((number, line)));
            }
            assert_eq!(lines.next_full_line().unwrap(), None);
        }
    }

    #[test]
    fn files_that_would_be_fewer_texts_elsewhere_are_refused() {
        let refused = |text: &[u8], part: &str| {
            let (_dir, path) = file(text);
            let error = read_texts(&path).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        };
        refused(b"", "empty; write one text per line");
        refused(b"one\ntwo\rthree\r", "line 2: holds a carriage return");
        refused(b"one\n\ntwo\0\0\nthree\n", "line 3: holds a NUL byte");
        refused(b"one\n\nt\xffwo", "line 3: not UTF-8 at byte 2");
    }

    #[test]
    fn places_are_tried_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "old").unwrap();
        for good in ["x.npy", "file", "new/and/deeper/x.npy"] {
            check_output(&at(good)).unwrap();
        }
        for good in ["", "new", "new/and/deeper"] {
            check_output_folder(&at(good)).unwrap();
        }
        check_output(Path::new("x.npy")).unwrap();
        let refused = |result: Result<()>, parts: &[&str]| {
            let error = result.unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
            for part in parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        };
        refused(check_output(dir.path()), &["is a folder; name a file"]);
        refused(
            check_output(&at("file/x.npy")),
            &["file", "is a file, where a folder"],
        );
        refused(
            check_output_folder(&at("file/a/b")),
            &["a/b: cannot be made", "file is a file"],
        );
        // Where nobody can make a file, not even who may do everything.
        if cfg!(target_os = "linux") {
            refused(
                check_output(Path::new("/proc/x/x.npy")),
                &["cannot write to /proc: "],
            );
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
            refused(
                check_output_folder(&at("link/a")),
                &["link is a link to nothing"],
            );
            std::fs::remove_file(at("link")).unwrap();
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(std::fs::read(at("file")).unwrap(), b"old");
    }

    /// A rename over a pipe, or over /dev/null, would replace it.
    #[cfg(target_os = "linux")]
    #[test]
    fn pipes_are_written_to_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        check_output(&path).unwrap();
        let from = path.clone();
        let reader = std::thread::spawn(move || std::fs::read(from).unwrap());
        write_atomically(&path, |file| file.write_all(b"picture")).unwrap();
        assert_eq!(reader.join().unwrap(), b"picture");
        assert!(is_special(&path));
    }

    #[test]
    fn rows_have_a_width() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        for d in [0, 3] {
            let error = write_npy(&path, &[0.0; 8], d).unwrap_err().to_string();
            assert!(error.contains("width"), "{error}");
        }
        assert!(!path.exists());
        write_npy(&path, &[0.0; 8], 4).unwrap();
    }
}
