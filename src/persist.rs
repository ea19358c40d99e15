//! Writing files so that a reader never sees half of one: write aside, then rename.

mod lock;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

pub use lock::Lock;

/// How the names of files being written begin.
pub(crate) const ASIDE: &str = ".writing-";

/// A temporary file beside `path`, with the permissions an ordinary new file would get
/// (temporary files are private by default, which is wrong for what they become).
pub(crate) fn aside(path: &Path, suffix: &str) -> Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(ASIDE).suffix(suffix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The process's umask still applies.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder
        .tempfile_in(folder)
        .map_err(|e| Error::io(folder, e))?;
    unfinished().push(file.path().to_path_buf());
    Ok(file)
}

/// Files that are being written aside.
fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut all = UNFINISHED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // Those that were finished, or given up, are no longer there.
    all.retain(|path| path.exists());
    all
}

/// Removes what is being written aside: for a process that ends at once.
pub fn remove_unfinished() {
    for path in unfinished().iter() {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes what a killed process was writing aside in a folder and the folders in it; only its
/// owner may.
fn remove_half_written(dir: &Path) {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let within = entries(dir).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let folders = std::iter::once(dir.to_path_buf()).chain(within.map(|entry| entry.path()));
    for entry in folders.flat_map(|folder| entries(&folder)) {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(ASIDE) {
            // Should this fail, the file is only in the way of a tidy folder.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Makes the finished temporary file the one at `path`, replacing what was there.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(|e| Error::io(path, e))?;
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

/// Replaces the file at `path` by `bytes` in one step; makes its folder where needed.
///
/// # Errors
/// If the folder cannot be written; `path` is then as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| {
        file.write_all(bytes).map_err(|e| Error::io(path, e))
    })
}

/// As [`write()`], for content that is produced piece by piece.
///
/// # Errors
/// What `fill` returns, or if the folder cannot be written.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut file = aside(path, "")?;
    fill(file.as_file_mut())?;
    persist(file, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_and_leaves_nothing_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/file.txt");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let entries = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(entries, 1);
    }
}
