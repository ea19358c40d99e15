//! Nothing half-written: files appear whole or not at all.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` aside, makes them durable, and moves them to `path`.
///
/// # Errors
/// If the folder cannot be written; `path` is then as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| {
        file.write_all(bytes).map_err(|e| Error::io(path, e))
    })
}

/// As [`write`], for content that is produced piece by piece.
///
/// # Errors
/// What `fill` returns, or if the folder cannot be written.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut std::fs::File) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let mut aside = tempfile::Builder::new()
        .prefix(".lenaware-")
        .tempfile_in(folder)
        .map_err(|e| Error::io(folder, e))?;
    fill(aside.as_file_mut())?;
    aside.as_file().sync_all().map_err(|e| Error::io(path, e))?;
    #[cfg(unix)]
    {
        // Temporary files are private; results are as readable as any file.
        use std::os::unix::fs::PermissionsExt;
        let readable = std::fs::Permissions::from_mode(0o644);
        let _ = aside.as_file().set_permissions(readable);
    }
    aside.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}
