//! One training at a time in a folder.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::data::check_output_folder;
use crate::error::{Error, Result};

/// The file of a training folder that is locked while a training runs.
pub const LOCK: &str = "training.lock";

/// A folder that is this training's own while the value lives.
///
/// The operating system holds the lock on a file in it, and lets go when the process ends, however it ends: what a kill
/// leaves is a file that nobody has locked.
#[derive(Debug)]
pub struct FolderLock {
    // Closing it is what unlocks it.
    _file: File,
    folder: PathBuf,
}

impl FolderLock {
    /// Makes the folder if it is not there, and takes it.
    ///
    /// # Errors
    /// [`Error::Input`] if another training has it; [`Error::Io`] if it cannot be made or locked.
    pub fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("create folder", folder, e))?;
        let path = folder.join(LOCK);
        let mut options = File::options();
        // Not truncated: it says who holds it.
        let open = options.read(true).write(true).create(true).truncate(false);
        let mut file = open
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Where a locked file cannot be read, its holder has no name.
                let _ = file.read_to_string(&mut holder);
                let who = match holder.trim() {
                    "" => String::new(),
                    id => format!(" (process {id})"),
                };
                return Err(Error::input(
                    folder,
                    format!(
                        "another training{who} writes into this folder; wait for its end, or name another folder"
                    ),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        // Who holds it is a courtesy to readers: a full disk is no reason not to train.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(FolderLock {
            _file: file,
            folder: folder.to_path_buf(),
        })
    }

    /// Fails if [`FolderLock::take`] would now, and leaves nothing behind.
    ///
    /// # Errors
    /// As [`FolderLock::take`], and as [`check_output_folder`].
    pub fn check(folder: &Path) -> Result<()> {
        check_output_folder(folder)?;
        match folder.join(LOCK).exists() {
            true => Self::take(folder).map(drop),
            false => Ok(()),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    fn refused(folder: &Path, holder: u32) {
        let error = FolderLock::take(folder).unwrap_err().to_string();
        assert!(
            error.contains(&format!("another training (process {holder}) writes")),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_folder_has_one_training() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep/er");
        let lock = FolderLock::take(&folder).unwrap();
        assert_eq!(lock.folder(), folder);
        refused(&folder, std::process::id());
        refused(&folder, std::process::id());
        let other = FolderLock::take(&dir.path().join("other")).unwrap();
        drop(lock);
        drop(FolderLock::take(&folder).unwrap());
        drop(other);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            FolderLock::take(&file).unwrap_err(),
            Error::Io { .. }
        ));
    }

    const FOLDER: &str = "NEARMISS_TEST_LOCKED_FOLDER";

    /// What [`a_kill_sets_the_folder_free`] runs in a process of its own; nothing otherwise.
    #[test]
    fn holds_a_folder_until_it_is_killed() {
        if let Some(folder) = std::env::var_os(FOLDER) {
            let _lock = FolderLock::take(Path::new(&folder)).unwrap();
            println!("\nlocked");
            // Until the parent goes away at the latest.
            let _ = std::io::stdin().read_line(&mut String::new());
        }
    }

    #[test]
    fn a_kill_sets_the_folder_free() {
        let dir = tempfile::tempdir().unwrap();
        let test = "train::lock::tests::holds_a_folder_until_it_is_killed";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(FOLDER, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let locked = output.lines().any(|line| line.unwrap() == "locked");
        assert!(locked, "the child has no lock");
        refused(dir.path(), child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        drop(FolderLock::take(dir.path()).unwrap());
    }
}
