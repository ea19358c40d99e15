//! `samples.jsonl`: finished responses, a line each, appended as they come. What was appended is
//! read line by line, so that a build of millions needs no more memory than one of thousands.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::FinishReason;
use super::plan::PlannedSample;
use super::store::kept;

/// A finished response as it is appended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSample {
    /// Index of the instruction in the plan's set.
    pub instruction: usize,
    /// 0 means greedy.
    pub temperature: f32,
    /// Index among those of one instruction and temperature.
    pub sample: u32,
    /// Length of the rendered prompt in tokens; 0 where a server does not tell.
    pub prompt_tokens: u32,
    /// Generated tokens, the end token included.
    pub response_tokens: u32,
    /// Whether it ended or was cut off.
    pub finish_reason: FinishReason,
    /// Its text.
    pub response: String,
}

impl StoredSample {
    /// Which of the plan's samples this is.
    pub fn planned(&self) -> PlannedSample {
        PlannedSample {
            instruction: self.instruction,
            temperature: self.temperature,
            sample: self.sample,
        }
    }
}

/// The file, open for appending from the first sample on.
pub(super) struct Appending {
    path: PathBuf,
    file: Option<File>,
}

impl Appending {
    pub fn to(path: PathBuf) -> Appending {
        Appending { path, file: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one sample, in a single write.
    ///
    /// # Errors
    /// If the disk is full or the file cannot be written.
    pub fn append(&mut self, sample: &StoredSample) -> Result<()> {
        let mut line = serde_json::to_string(sample).unwrap_or_default();
        line.push('\n');
        let written = match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => open_whole_lines(&self.path)
                .and_then(|file| self.file.insert(file).write_all(line.as_bytes())),
        };
        written.map_err(|e| {
            // Whatever comes next must not be put after half a line.
            self.file = None;
            kept(&self.path, e)
        })
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<()> {
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        synced.map_err(|e| kept(&self.path, e))
    }

    pub fn close(&mut self) {
        self.file = None;
    }
}

/// Opens for appending. A line cut off by a kill or a full disk is no sample and goes.
fn open_whole_lines(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let mut reader = BufReader::new(&file);
    let (mut whole, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        whole += read as u64;
    }
    file.set_len(whole)?;
    Ok(file)
}

/// Reads the samples in the file's whole lines, each with the place of its line; none where
/// there is no file.
///
/// # Errors
/// A damaged line, and what `each` returns.
pub(crate) fn each_appended(
    path: &Path,
    mut each: impl FnMut(u64, StoredSample) -> Result<()>,
) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let file = crate::regular_file::open(path)?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut begin = 0;
    for number in 1.. {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io(path, e))?;
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        each(begin, parse(path, &format_args!("line {number}"), &line)?)?;
        begin += read as u64;
    }
    Ok(())
}

fn parse(path: &Path, which: &dyn std::fmt::Display, line: &[u8]) -> Result<StoredSample> {
    serde_json::from_slice(line).map_err(|e| {
        let remedy = "delete that line, and its sample is drawn again";
        Error::malformed(path, format!("{which} is damaged ({e}): {remedy}"))
    })
}

/// Lines of the file by their places, which [`each_appended`] gave.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    place: u64,
    line: Vec<u8>,
}

impl Lines {
    /// # Errors
    /// If the file cannot be read.
    pub fn open(path: &Path) -> Result<Lines> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        Ok(Lines {
            path: path.to_path_buf(),
            reader: BufReader::with_capacity(1 << 16, file),
            place: 0,
            line: Vec::new(),
        })
    }

    /// The sample in the line that begins at `place`. Those that follow one another are read
    /// once.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn at(&mut self, place: u64) -> Result<StoredSample> {
        let failed = |e| Error::io(&self.path, e);
        // Places within a file fit 63 bits.
        let distance = place.wrapping_sub(self.place) as i64;
        self.reader.seek_relative(distance).map_err(failed)?;
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line);
        self.place = place + read.map_err(failed)? as u64;
        parse(
            &self.path,
            &format_args!("the line at byte {place}"),
            &self.line,
        )
    }
}
