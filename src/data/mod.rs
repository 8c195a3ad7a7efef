//! Texts and judgements as they come from files. Nothing here knows a device.
//!
//! [`beir`] reads and writes retrieval test collections in the BEIR folder layout, [`pairs`] reads near-misses,
//! paraphrases and triplets; [`generated`] holds the built-in collections, [`edits`] the built-in near-misses, [`probe`]
//! sentences that show what an embedding is made of.

pub mod beir;
mod category;
pub mod edits;
pub mod generated;
pub mod pairs;
pub mod probe;
mod rows;

pub use category::Category;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// The lines of a UTF-8 text file, one at a time, with their numbers.
///
/// A byte order mark, `\r\n` line ends and a missing last line end are tolerated; blank lines are skipped (and counted
/// in the numbering). Memory: one line.
pub(crate) struct TextLines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    bytes: Vec<u8>,
    number: usize,
}

impl<'a> TextLines<'a> {
    /// Opens `path`.
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        Ok(Self {
            path,
            reader: BufReader::with_capacity(1 << 16, file),
            bytes: Vec::new(),
            number: 0,
        })
    }

    /// The next line that is not blank, with its number (from 1); `None` at the end of the file.
    pub(crate) fn next_line(&mut self) -> Result<Option<(usize, &str)>> {
        loop {
            self.bytes.clear();
            let read = self.reader.read_until(b'\n', &mut self.bytes);
            if read.map_err(|e| Error::io("read", self.path, e))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.number == 1 && self.bytes.starts_with(b"\xef\xbb\xbf") {
                self.bytes.drain(..3);
            }
            if !self.bytes.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(&self.bytes) {
            Ok(line) => Ok(Some((self.number, line.trim_end_matches(['\n', '\r'])))),
            Err(e) => Err(Error::input(
                self.path,
                format!(
                    "line {}: not UTF-8 at byte {} of the line; convert the file to UTF-8",
                    self.number,
                    e.valid_up_to() + 1
                ),
            )),
        }
    }
}

/// Writes rows of width `d` as a `.npy` file, f32, shape `[n, d]`.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_npy(path: &Path, rows: &[f32], d: usize) -> Result<()> {
    use npyz::WriterBuilder;
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

/// Writes `path` so that it is either absent (or as before) or complete: into a temporary file beside it, which is then
/// renamed. Folders on the way are created.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create folder", folder, e))?;
    let mut builder = tempfile::Builder::new();
    // A temporary file is private by default; this one becomes an ordinary file, subject to the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(failed)?;
    let mut buffered = BufWriter::with_capacity(1 << 16, file.as_file_mut());
    write(&mut buffered).map_err(failed)?;
    buffered.flush().map_err(failed)?;
    drop(buffered);
    // Without this a power cut could leave the new name with no content.
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}
