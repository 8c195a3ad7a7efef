//! What a file is that was taken for a text file, by its first bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::BUFFER;
use crate::error::{Error, Result};

/// Beginnings of files that are no text, what they are, and the cure.
const KNOWN: [(&[u8], &str); 14] = [
    (
        b"PK\x03\x04",
        "a ZIP archive, as spreadsheets are (.xlsx, .ods); save it as CSV in UTF-8, or unpack it",
    ),
    (
        b"\xd0\xcf\x11\xe0",
        "an old spreadsheet (.xls); save it as CSV in UTF-8",
    ),
    (b"\xff\xfe\0\0", "text in UTF-32; convert the file to UTF-8"),
    (b"\0\0\xfe\xff", "text in UTF-32; convert the file to UTF-8"),
    (b"\xff\xfe", "text in UTF-16; convert the file to UTF-8"),
    (b"\xfe\xff", "text in UTF-16; convert the file to UTF-8"),
    (b"\x1f\x8b", "compressed again (gzip); decompress it"),
    (b"\xfd7zXZ\0", "compressed (xz); decompress it"),
    (b"BZh", "compressed (bzip2); decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd); decompress it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"PAR1", "a Parquet file; export it as CSV or JSON lines"),
    (b"%PDF", "a PDF; give the text in a file of its own"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS in the place of the file; fetch the file itself (git lfs pull)",
    ),
];

/// What begins with these bytes, if that is no text, and the cure.
fn other_than_text(head: &[u8]) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(first, _)| head.starts_with(first));
    if let Some((_, what)) = known {
        return Some(what);
    }
    // Without a byte order mark: every other byte of Western text is zero.
    if let [a, b, c, d, ..] = *head
        && [(a, b), (c, d)].iter().all(|&(x, y)| (x == 0) != (y == 0))
        && (a == 0) == (c == 0)
    {
        return Some("text in UTF-16; convert the file to UTF-8");
    }
    let text = head.trim_ascii_start();
    let page = [&b"<!doctype html"[..], b"<html"];
    let is_page = |start: &&[u8]| {
        text.get(..start.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(start))
    };
    page.iter().any(is_page).then_some(
        "a web page in the place of the file; fetch the file itself (the link to the raw file)",
    )
}

/// The bytes of `reader`, whose first ones are looked at; `path` is what errors call them. No more is read ahead than is
/// there, since somebody may be typing.
///
/// # Errors
/// [`Error::Input`] for what is no text, with what it looks like.
pub(super) fn text(path: &Path, reader: impl Read + 'static) -> Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    // What cannot be read is an error of whoever reads on.
    let head = reader.fill_buf().unwrap_or_default();
    match other_than_text(head) {
        Some(what) => Err(Error::input(path, format!("this is {what}"))),
        None => Ok(Box::new(reader)),
    }
}

/// Fails if what the name of a file says of compression is not so: `packed` if it ends in `.gz`.
pub(super) fn check_packing(path: &Path, file: &mut BufReader<File>, packed: bool) -> Result<()> {
    let head = file.fill_buf().map_err(|e| Error::io("read", path, e))?;
    let is_packed = head.starts_with(b"\x1f\x8b");
    let what = match (packed, is_packed) {
        (false, true) => "is compressed (gzip); end its name in .gz, or decompress it",
        // A beginning that is cut short is damage.
        (true, false) if head.len() > 1 => {
            "ends in .gz and is not compressed; take .gz from its name"
        }
        _ => return Ok(()),
    };
    Err(Error::input(path, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reading `bytes` from a file of this name says.
    fn said(name: &str, bytes: &[u8]) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut reader = super::super::rows::open(&path).map_err(|e| {
            let line = e.to_string();
            assert!(line.contains(name) && !line.contains('\n'), "{line}");
            line
        })?;
        let mut text = String::new();
        reader
            .read_to_string(&mut text)
            .map_err(|e| e.to_string())?;
        Ok(text)
    }

    #[test]
    fn what_is_no_text_is_named() {
        let utf16 = |text: &str, big: bool| -> Vec<u8> {
            let units = text.encode_utf16();
            let bytes = units.flat_map(|unit| match big {
                true => unit.to_be_bytes(),
                false => unit.to_le_bytes(),
            });
            bytes.collect()
        };
        let cases: [(Vec<u8>, &str); 12] = [
            (b"PK\x03\x04\x14\0\x06\0".to_vec(), ".xlsx"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec(), ".xls"),
            (utf16("\u{feff}sentence1,sentence2", false), "UTF-16"),
            (utf16("\u{feff}sentence1,sentence2", true), "UTF-16"),
            (utf16("sentence1,sentence2", false), "UTF-16"),
            (utf16("sentence1,sentence2", true), "UTF-16"),
            (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "end its name in .gz"),
            (b"\xfd7zXZ\0\0".to_vec(), "xz"),
            (b"BZh91AY".to_vec(), "bzip2"),
            (b"PAR1\x15".to_vec(), "Parquet"),
            (b"\n <!DOCTYPE html>\n<html>".to_vec(), "web page"),
            (
                b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
                "Git LFS",
            ),
        ];
        for (bytes, part) in cases {
            let error = said("x.csv", &bytes).unwrap_err();
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
        let error = said("x.csv.gz", b"sentence1,sentence2\n").unwrap_err();
        assert!(error.contains("take .gz from its name"), "{error}");
    }

    #[test]
    fn texts_of_any_beginning_are_texts() {
        for text in [
            "",
            "a",
            "\u{feff}sentence1",
            "PK is short for penalty kick",
            "<p>",
            "BZ",
            "\u{1f8b}",
            "version",
            "a\0b\0, a hole",
            "\u{4e2d}\u{6587}",
        ] {
            // A hole is found by its line, further on.
            if text.contains('\0') {
                assert!(said("x.csv", text.as_bytes()).is_err());
            } else {
                assert_eq!(said("x.csv", text.as_bytes()).unwrap(), text);
            }
        }
        assert_eq!(said("x.csv", b"one\ntw\0\0").unwrap(), "one\ntw\0\0");
    }

    #[test]
    fn folders_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.csv");
        std::fs::create_dir(&path).unwrap();
        let error = super::super::rows::open(&path).err().unwrap().to_string();
        assert!(error.ends_with("is a folder; give a file"), "{error}");
    }
}
