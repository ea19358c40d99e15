//! Files that others wrote are opened here, by every reader: only regular files, never beyond
//! the length that they had when they were opened, and read whole only where that fits the
//! memory. A pipe would be waited for without end and a device read without end, so both are
//! refused: `/dev/stdin` and `<(..)` too, since most readers go over a file more than once.

use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, ErrorKind, Read, Take};
use std::path::Path;

use crate::error::{Error, Result};
use crate::memory;

/// Of settings and descriptions that people or programs write in a few kilobytes. A TOML reader
/// takes a hundred times a file.
pub(crate) const SETTINGS: u64 = 1 << 20;
/// Of summaries, vocabularies and the like.
pub(crate) const LISTS: u64 = 64 << 20;
/// A longer line is no row of a table, and is not read into memory.
const LONGEST_LINE: u64 = 64 << 20;
/// Files up to here are read without asking what memory there is.
const UNASKED: u64 = 64 << 20;

/// Opens a file to be read up to its present length, which is its limit.
///
/// # Errors
/// What cannot be opened, or is no regular file.
pub(crate) fn open(path: &Path) -> Result<Take<File>> {
    let failed = |e| Error::io(path, e);
    // Asked before it is opened: to open a pipe is to wait for whoever writes to it.
    refuse_others(path, &std::fs::metadata(path).map_err(failed)?)?;
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    refuse_others(path, &metadata)?;
    Ok(file.take(metadata.len()))
}

fn refuse_others(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(Error::malformed(
        path,
        match metadata.is_dir() {
            true => "is a directory: give a file in it",
            false => "is a pipe or a device: write what it gives to a file, and give that",
        },
    ))
}

/// All of a file.
///
/// # Errors
/// As [`open`]; a file that does not fit the memory there is.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>> {
    bytes_up_to(path, u64::MAX)
}

/// All of a file of at most so many bytes.
///
/// # Errors
/// As [`bytes`]; a longer file.
pub(crate) fn bytes_up_to(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let length = file.limit();
    if length > most {
        return Err(Error::malformed(
            path,
            format!(
                "has {:.1} MB where such a file has {:.0} at most: is it another one?",
                length as f64 / 1e6,
                (most as f64 / 1e6).max(1.0)
            ),
        ));
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length as u64 > UNASKED {
        let what = format!("{}: to read it takes", path.display());
        memory::check(&what, length, memory::available(), "give a smaller file")?;
    }
    let mut bytes = Vec::with_capacity(length);
    file.read_to_end(&mut bytes)
        .map_err(|e| Error::io(path, e))?;
    Ok(bytes)
}

/// All of a text of at most so many bytes.
///
/// # Errors
/// As [`bytes_up_to`]; what is not UTF-8.
pub(crate) fn text_up_to(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(bytes_up_to(path, most)?)
        .map_err(|_| Error::malformed(path, "is not UTF-8: save the file as UTF-8"))
}

/// As [`text_up_to`]; none where there is no file.
///
/// # Errors
/// As there.
pub(crate) fn text_if_there(path: &Path, most: u64) -> Result<Option<String>> {
    match text_up_to(path, most) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// JSON of any shape: what it becomes in memory may be hundreds of times the file, and is
/// reckoned up before it is made.
///
/// # Errors
/// As [`bytes_up_to`] of [`LISTS`]; what is no JSON, or too much of it.
pub(crate) fn any_json(path: &Path, remedy: &str) -> Result<serde_json::Value> {
    let bytes = bytes_up_to(path, LISTS)?;
    if weight(&bytes) > 150 << 20 {
        let what = format!("holds more values than such a file has: {remedy}");
        return Err(Error::malformed(path, what));
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::malformed(path, format!("is not valid JSON ({e}): {remedy}")))
}

/// Bytes at most of the values of a JSON text: a value has 72, an entry of an object 104, and
/// lists grow by doubling.
fn weight(json: &[u8]) -> usize {
    let of = |byte: &u8| match byte {
        b'{' => 500,
        b'[' => 300,
        b',' => 240,
        _ => 0,
    };
    json.iter().map(of).sum()
}

/// Lines of a file, one in memory at a time. A byte order mark is passed over.
pub(crate) struct Lines<'p> {
    path: &'p Path,
    reader: BufReader<Take<File>>,
    line: Vec<u8>,
    number: u64,
}

impl<'p> Lines<'p> {
    /// # Errors
    /// As [`open`].
    pub fn open(path: &'p Path) -> Result<Lines<'p>> {
        Ok(Lines {
            path,
            reader: BufReader::with_capacity(1 << 20, open(path)?),
            line: Vec::new(),
            number: 0,
        })
    }

    /// The next line that is not blank, with its number from 1.
    ///
    /// # Errors
    /// What cannot be read, is not UTF-8 or is longer than any row.
    pub fn following(&mut self) -> Result<Option<(u64, &str)>> {
        loop {
            self.number += 1;
            // What one long line took is not held for all that follow.
            if self.line.capacity() > 1 << 20 {
                self.line = Vec::new();
            }
            self.line.clear();
            let read = (&mut self.reader)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut self.line)
                .map_err(|e| Error::io(self.path, e))?;
            if read == 0 {
                return Ok(None);
            }
            let wrong =
                |what: &str| Error::malformed(self.path, format!("line {}: {what}", self.number));
            if read as u64 == LONGEST_LINE {
                return Err(wrong("is longer than 64 MiB: give one row a line"));
            }
            if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            if std::str::from_utf8(&self.line).is_err() {
                return Err(wrong("is not UTF-8: save the file as UTF-8"));
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        let text = std::str::from_utf8(&self.line).unwrap_or_default();
        Ok(Some((self.number, text.trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| open(path).map(|_| ()).unwrap_err().to_string();
        assert!(said(dir.path()).ends_with("is a directory: give a file in it"));
        assert!(said(&dir.path().join("none")).contains("No such file"));
        #[cfg(unix)]
        {
            let pipe = dir.path().join("pipe");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.unwrap().success());
            let zero = dir.path().join("zero");
            std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
            for path in [
                pipe.as_path(),
                &zero,
                Path::new("/dev/stdin"),
                Path::new("/dev/null"),
            ] {
                // Whoever runs the tests may have redirected a file to it.
                if !path.is_file() {
                    assert!(
                        said(path).contains("write what it gives to a file"),
                        "{path:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn files_are_read_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "\u{feff}one\n\n two \r\nthree").unwrap();
        let mut lines = Lines::open(&path).unwrap();
        assert_eq!(lines.following().unwrap(), Some((1, "one")));
        assert_eq!(lines.following().unwrap(), Some((3, "two")));
        assert_eq!(lines.following().unwrap(), Some((4, "three")));
        assert_eq!(lines.following().unwrap(), None);
        let refused = text_up_to(&path, 5).unwrap_err().to_string();
        assert!(refused.contains("such a file has 1 at most"), "{refused}");
        assert_eq!(text_if_there(&dir.path().join("none"), 5).unwrap(), None);
        // Sparse: its length is a claim.
        File::create(&path).unwrap().set_len(1 << 42).unwrap();
        let refused = bytes(&path).unwrap_err().to_string();
        assert!(refused.contains("give a smaller file"), "{refused}");
    }

    #[test]
    fn json_is_weighed_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        std::fs::write(&path, r#"{"a": [1, 2]}"#).unwrap();
        assert_eq!(any_json(&path, "").unwrap()["a"][1], 2);
        std::fs::write(&path, format!("[{}0]", "0,".repeat(1 << 20))).unwrap();
        let refused = any_json(&path, "download it again")
            .unwrap_err()
            .to_string();
        assert!(refused.contains("more values"), "{refused}");
    }
}
