//! Everything in one file, which is whole at every moment.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use lzma_rust2::XzReader;
use nearmiss::{Error, Result};

/// Larger files stay out: what carries the archive back takes 16 MiB.
const MOST: u64 = 4 << 20;

/// Packs all files below `folder` into `to`, a tar.gz, put in place by renaming. Returns the files that were too large.
///
/// # Errors
/// [`Error::Io`].
pub fn pack(folder: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    let part = to.with_extension("part");
    let write = |e| Error::io("write", &part, e);
    let file = File::create(&part).map_err(write)?;
    let gzip = GzEncoder::new(BufWriter::new(file), Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    let mut left_out = Vec::new();
    for path in files(folder)? {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_path_buf();
        // A step may be writing: its file is taken as it is now.
        let bytes = match fs::metadata(&path) {
            Ok(meta) if meta.len() > MOST => {
                left_out.push(name);
                continue;
            }
            Ok(_) => fs::read(&path).map_err(|e| Error::io("read", &path, e))?,
            Err(_) => continue,
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(now());
        archive
            .append_data(&mut header, &name, &bytes[..])
            .map_err(write)?;
    }
    let gzip = archive.into_inner().map_err(write)?;
    let mut file = gzip.finish().map_err(write)?;
    file.flush().map_err(write)?;
    fs::rename(&part, to).map_err(|e| Error::io("create", to, e))?;
    Ok(left_out)
}

/// The file `name.xz` or `name.gz` of a folder; `None` if there is neither.
pub fn packed(folder: &Path, name: &str) -> Option<PathBuf> {
    ["xz", "gz"]
        .map(|ending| folder.join(format!("{name}.{ending}")))
        .into_iter()
        .find(|path| path.is_file())
}

/// The content of a compressed file, by its ending.
fn content(from: &Path) -> Result<Box<dyn Read>> {
    let file = BufReader::new(File::open(from).map_err(|e| Error::io("read", from, e))?);
    Ok(
        match from.extension().is_some_and(|ending| ending == "xz") {
            true => Box::new(XzReader::new(file, false)),
            false => Box::new(GzDecoder::new(file)),
        },
    )
}

/// Unpacks a tar.gz or tar.xz into `to`, which is made if it is not there.
///
/// # Errors
/// [`Error::Io`] or, for a damaged archive, [`Error::Input`].
pub fn unpack(from: &Path, to: &Path) -> Result<()> {
    let content = content(from)?;
    fs::create_dir_all(to).map_err(|e| Error::io("create", to, e))?;
    tar::Archive::new(content).unpack(to).map_err(|e| {
        Error::input(
            from,
            format!("cannot be unpacked ({e}); is it a whole archive?"),
        )
    })
}

/// All files below `folder`, sorted by path.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What xz makes of the line `near`.
    const XZ: [u8; 64] = [
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21,
        0x01, 0x1c, 0x00, 0x00, 0x00, 0x10, 0xcf, 0x58, 0xcc, 0x01, 0x00, 0x04, 0x6e, 0x65, 0x61,
        0x72, 0x0a, 0x00, 0x00, 0x00, 0x00, 0x27, 0xcc, 0x6e, 0xc4, 0x65, 0x9d, 0x3c, 0x67, 0x00,
        0x01, 0x1d, 0x05, 0xb8, 0x2d, 0x80, 0xaf, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00,
        0x00, 0x04, 0x59, 0x5a,
    ];

    #[test]
    fn either_compression_is_read_by_its_ending() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(packed(folder.path(), "line"), None);
        let gz = folder.path().join("line.gz");
        let mut to = GzEncoder::new(File::create(&gz).unwrap(), Compression::fast());
        to.write_all(b"near\n").unwrap();
        to.finish().unwrap();
        let read = || {
            let path = packed(folder.path(), "line").unwrap();
            let mut text = String::new();
            content(&path).unwrap().read_to_string(&mut text).unwrap();
            (path, text)
        };
        assert_eq!(read(), (gz, "near\n".into()));
        let xz = folder.path().join("line.xz");
        fs::write(&xz, XZ).unwrap();
        assert_eq!(read(), (xz, "near\n".into()));
    }

    #[test]
    fn what_is_packed_comes_out_again_and_large_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("a/b/c/d")).unwrap();
        fs::write(from.join("a/b/c/d/deep"), "one").unwrap();
        fs::write(from.join("flat"), "two").unwrap();
        fs::write(from.join("large"), vec![0; MOST as usize + 1]).unwrap();
        let archive = folder.path().join("all.tar.gz");
        for _ in 0..2 {
            assert_eq!(pack(&from, &archive).unwrap(), [PathBuf::from("large")]);
        }
        assert!(!folder.path().join("all.tar.part").exists());
        unpack(&archive, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/c/d/deep")).unwrap(), "one");
        assert_eq!(fs::read_to_string(to.join("flat")).unwrap(), "two");
        assert!(!to.join("large").exists());
    }

    #[test]
    fn half_an_archive_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half.tar.gz");
        fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
        let error = unpack(&path, &folder.path().join("to"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("half.tar.gz"), "{error}");
    }
}
