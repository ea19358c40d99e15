//! One process at a time writes a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Holds the owner's process number while the folder is its own.
pub(crate) const LOCK: &str = ".lock";

/// A folder that is this process's to write, until it is dropped or the process ends, however
/// it ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the folder, which is made where there is none, and clears away what a killed owner
    /// was writing aside.
    ///
    /// # Errors
    /// A folder that another process writes: the message names it.
    pub fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(LOCK);
        let failed = |e| Error::io(&path, e);
        loop {
            std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                // The owner before may have removed it since it was opened.
                Ok(()) if !is_still(&file, &path) => continue,
                Ok(()) => {
                    // The owner's number, for the message of whoever comes second.
                    let _ = file.set_len(0);
                    let _ = write!(file, "{}", std::process::id());
                    super::remove_half_written(dir);
                    return Ok(Lock { path, _file: file });
                }
                Err(TryLockError::WouldBlock) => {
                    let owner = std::fs::read_to_string(&path).unwrap_or_default();
                    return Err(Error::Usage(format!(
                        "{} is being written by process {}: wait for it, or choose another folder",
                        dir.display(),
                        owner.trim()
                    )));
                }
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
    }
}

/// Whether the open file is the one at `path`.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(open), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

#[cfg(not(unix))]
fn is_still(_file: &File, _path: &Path) -> bool {
    true
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: nobody else's is removed.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time_and_nothing_stays() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let held = Lock::take(&dir).unwrap();
        let said = Lock::take(&dir).unwrap_err().to_string();
        let owner = format!("process {}:", std::process::id());
        assert!(said.contains(&owner) && said.contains("a/b"), "{said}");
        std::fs::write(dir.join(".writing-x"), "half").unwrap();
        drop(held);
        assert!(!dir.join(LOCK).exists());
        let again = Lock::take(&dir).unwrap();
        assert!(!dir.join(".writing-x").exists());
        drop(again);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn many_at_once_are_never_two_owners() {
        let root = tempfile::tempdir().unwrap();
        let owners = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        if let Ok(held) = Lock::take(root.path()) {
                            use std::sync::atomic::Ordering::SeqCst;
                            assert_eq!(owners.fetch_add(1, SeqCst), 0);
                            owners.fetch_sub(1, SeqCst);
                            drop(held);
                        }
                    }
                });
            }
        });
    }
}
