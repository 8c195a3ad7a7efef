//! Fingerprints of files that were taken before: `fingerprints.json` in the cache.
//!
//! Hashing the weights takes longer than the answer to a first question. A file whose place, number, size and times are
//! what they were is the same file; what cannot be remembered is hashed again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::hashing::sha256;

const FILE: &str = "fingerprints.json";

/// Fingerprints that are kept.
const MOST: usize = 256;

/// A file that was written just now may be written again within what its time resolves.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes of a file, time of its last change in nanoseconds since 1970, and where there are such its number and the time of the
/// last change of anything about it.
type Stamp = [u64; 4];

/// What files are known by, and the SHA-256 of all.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Of every file.
    stamps: Vec<Stamp>,
    sha256: String,
}

/// SHA-256 of files, one behind the other, in hexadecimal, taken from `cache` where it knows them, and put into it.
///
/// # Errors
/// What the file system says of a file; a cache that cannot be read or written is none.
pub(super) fn fingerprint(files: &[PathBuf], cache: Option<&Path>) -> std::io::Result<String> {
    let (Some(cache), Some(name), Some(stamps)) = (cache, name(files), stamps(files)) else {
        return sha256(files);
    };
    if let Some(entry) = read(cache).get(&name)
        && entry.stamps == stamps
    {
        return Ok(entry.sha256.clone());
    }
    let sha256 = sha256(files)?;
    // Not if one changed while it was read.
    if self::stamps(files).as_ref() == Some(&stamps) {
        let sha256 = sha256.clone();
        keep(cache, name, Entry { stamps, sha256 });
    }
    Ok(sha256)
}

/// Where files are, a line each; `None` for a place that is no text.
fn name(files: &[PathBuf]) -> Option<String> {
    let places = files.iter().map(|path| {
        let whole = fs::canonicalize(path).ok()?;
        Some(whole.to_str()?.to_string())
    });
    Some(places.collect::<Option<Vec<_>>>()?.join("\n"))
}

/// `None` where a file was changed just now, or its times are not known.
fn stamps(files: &[PathBuf]) -> Option<Vec<Stamp>> {
    let stamp = |path: &PathBuf| {
        let about = fs::metadata(path).ok()?;
        let changed = about.modified().ok()?;
        let age = SystemTime::now().duration_since(changed).ok()?;
        let since = changed.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let [number, of_anything] = more(&about);
        let stamp = [about.len(), since.as_nanos() as u64, number, of_anything];
        (age >= SETTLED).then_some(stamp)
    };
    files.iter().map(stamp).collect()
}

#[cfg(unix)]
fn more(about: &fs::Metadata) -> [u64; 2] {
    use std::os::unix::fs::MetadataExt;
    let at = about.ctime() as u64 * 1_000_000_000 + about.ctime_nsec() as u64;
    [about.ino(), at]
}

#[cfg(not(unix))]
fn more(_: &fs::Metadata) -> [u64; 2] {
    [0; 2]
}

/// Nothing where there is nothing, or nothing that we wrote.
fn read(cache: &Path) -> BTreeMap<String, Entry> {
    let bytes = fs::read(cache.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Adds an entry if the cache can be written; of two processes that do so at once one may be forgotten.
fn keep(cache: &Path, name: String, entry: Entry) {
    let mut kept = read(cache);
    kept.retain(|name, _| name.lines().all(|path| Path::new(path).is_file()));
    while kept.len() >= MOST {
        kept.pop_first();
    }
    kept.insert(name, entry);
    let _ = (|| -> std::io::Result<()> {
        fs::create_dir_all(cache)?;
        let mut file = tempfile::NamedTempFile::new_in(cache)?;
        serde_json::to_writer(&mut file, &kept)?;
        file.persist(cache.join(FILE))?;
        Ok(())
    })();
}

#[cfg(test)]
mod tests {
    use super::super::tests::hash;
    use super::*;

    /// A file that was changed a minute ago, by `offset` seconds less or more.
    fn put(path: &Path, text: &str, offset: u64) {
        fs::write(path, text).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        let changed = SystemTime::now() - Duration::from_secs(60 + offset);
        file.set_modified(changed).unwrap();
    }

    #[test]
    fn a_file_is_hashed_once_and_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, file) = (folder.path().join("cache"), folder.path().join("weights"));
        let files = [file.clone()];
        let ask = || fingerprint(&files, Some(&cache)).unwrap();
        put(&file, "one", 0);
        assert_eq!(ask(), hash(b"one"));
        // What was kept is what is answered: it is not read again.
        let text = fs::read_to_string(cache.join(FILE)).unwrap();
        let other = text.replace(&hash(b"one"), &hash(b"kept"));
        fs::write(cache.join(FILE), other).unwrap();
        assert_eq!(ask(), hash(b"kept"));
        // Of the same size, at another time.
        put(&file, "two", 5);
        assert_eq!(ask(), hash(b"two"));
        // Another file under the name, with the same size and time.
        #[cfg(unix)]
        {
            let changed = fs::metadata(&file).unwrap().modified().unwrap();
            let beside = folder.path().join("beside");
            fs::write(&beside, "six").unwrap();
            let opened = fs::File::options().write(true).open(&beside).unwrap();
            opened.set_modified(changed).unwrap();
            fs::rename(&beside, &file).unwrap();
            assert_eq!(ask(), hash(b"six"));
        }
    }

    #[test]
    fn what_was_written_just_now_and_a_cache_that_is_none_are_no_reason_to_err() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights");
        let files = [file.clone()];
        fs::write(&file, "new").unwrap();
        for cache in [None, Some(folder.path()), Some(&file)] {
            assert_eq!(fingerprint(&files, cache).unwrap(), hash(b"new"));
        }
        assert!(!folder.path().join(FILE).exists());
        // Damaged, it is written anew.
        put(&file, "old", 0);
        fs::write(folder.path().join(FILE), "{").unwrap();
        let cache = Some(folder.path());
        assert_eq!(fingerprint(&files, cache).unwrap(), hash(b"old"));
        assert_eq!(read(folder.path()).len(), 1);
        // Several have a fingerprint of their own.
        let more = folder.path().join("more");
        put(&more, "er", 0);
        let both = [file, more];
        for _ in 0..2 {
            assert_eq!(fingerprint(&both, cache).unwrap(), hash(b"older"));
        }
        assert_eq!(read(folder.path()).len(), 2);
        assert!(fingerprint(&[folder.path().join("none")], cache).is_err());
    }
}
