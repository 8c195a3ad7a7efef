//! Our own cache: one folder per model, which appears whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{FetchOptions, in_home, is_model, var};

/// The cache folder: the caller's, `$NEARMISS_CACHE`, or `nearmiss` in the platform's place; `None` without a home.
pub(super) fn place(options: &FetchOptions) -> Option<PathBuf> {
    let platform = || {
        if cfg!(target_os = "macos") {
            in_home("Library/Caches")
        } else if cfg!(windows) {
            var("LOCALAPPDATA").map(PathBuf::from)
        } else {
            var("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| in_home(".cache"))
        }
    };
    (options.cache_dir.clone())
        .or_else(|| var("NEARMISS_CACHE").map(PathBuf::from))
        .or_else(|| platform().map(|folder| folder.join("nearmiss")))
}

/// Where a repository's model is in the cache.
pub(super) fn entry(cache: &Path, repository: &str) -> PathBuf {
    cache.join("backbones").join(repository.replace('/', "--"))
}

/// Whether this is a folder with something in it.
pub(super) fn has_entries(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Makes the folder `target` of the cache: `make` is given a scratch folder beside it, builds the model in there and
/// says where; a rename then puts it into place. Returns whether this call made it: another process may have.
///
/// The error is a reason to print.
pub(super) fn fill(
    target: &Path,
    log: &mut dyn FnMut(&str),
    make: impl FnOnce(&Path, &mut dyn FnMut(&str)) -> Result<PathBuf, String>,
) -> Result<bool, String> {
    let (parent, entry) = (target.parent(), target.file_name());
    let parent = parent.ok_or("the cache folder has no name")?;
    let entry = entry
        .ok_or("the cache folder has no name")?
        .to_string_lossy();
    let unwritable = |e: std::io::Error| {
        format!(
            "the cache folder {} cannot be written: {e}; set NEARMISS_CACHE to one that can",
            parent.display()
        )
    };
    fs::create_dir_all(parent).map_err(unwritable)?;

    // One process at a time. With the lock held, every temporary folder of this model was left by a killed one.
    let lock = File::create(parent.join(format!(".{entry}.lock"))).map_err(unwritable)?;
    let prefix = format!(".{entry}.part-");
    let locked = match lock.try_lock() {
        Ok(()) => true,
        Err(fs::TryLockError::WouldBlock) => {
            log(&format!(
                "waiting for another process that fetches into {}",
                target.display()
            ));
            lock.lock().is_ok()
        }
        // Some network file systems have no locks: two processes then both fetch, and one rename wins.
        Err(fs::TryLockError::Error(_)) => false,
    };
    if locked {
        if is_model(target) {
            return Ok(false);
        }
        for stale in fs::read_dir(parent).map_err(unwritable)?.flatten() {
            if stale.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_dir_all(stale.path()); // worth a try only: it is in nobody's way
            }
        }
    }
    let scratch = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(parent)
        .map_err(unwritable)?;
    let model = make(scratch.path(), log)?;
    match fs::rename(&model, target) {
        Ok(()) => Ok(true),
        // Without locks, someone else's rename may have come first; theirs is as good.
        Err(_) if is_model(target) => Ok(false),
        Err(e) => Err(unwritable(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::super::{BackboneSource, DEFAULT_BACKBONE, REQUIRED};
    #[test]
    fn the_cache_is_used_and_half_unpacked_folders_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let around = bare(dir.path());
        let backbones = dir.path().join("cache/backbones");
        let stale = backbones.join(format!(".{ORG}.part-x1y2z3"));
        model(&stale.join("model"), &REQUIRED);
        assert!(search(DEFAULT_BACKBONE, true, &around).0.is_err());

        let folder = backbones.join(ORG);
        model(&folder, &["config.json"]);
        let error = search(DEFAULT_BACKBONE, true, &around).0.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("lacks tokenizer.json, model.safetensors; add the rest or remove"),
            "{error}"
        );
        model(&folder, &REQUIRED);
        let found = search(DEFAULT_BACKBONE, false, &around).0.unwrap();
        assert_eq!(found.source, BackboneSource::Cache);
        assert_eq!(
            (found.name.as_str(), found.folder),
            (DEFAULT_BACKBONE, folder)
        );
    }

    #[test]
    #[cfg(feature = "hub")]
    fn a_cache_that_cannot_be_written_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = bare(dir.path());
        // A file in the way refuses every user, unlike a mode, which does not bind the superuser.
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        around.cache = Some(file.clone());
        let error = search(DEFAULT_BACKBONE, false, &around).0.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cannot be written"), "{text}");
        assert!(text.contains("NEARMISS_CACHE"), "{text}");
    }
}
