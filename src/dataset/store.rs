//! A length dataset while it is being built: a folder with `manifest.json` (the plan) and
//! `samples.jsonl`, to which every finished response is appended at once. A killed run loses
//! the responses in flight and nothing else; two processes never write one folder.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::persist;

use super::FinishReason;
use super::plan::{Plan, PlannedSample};

/// The finished dataset's file in the folder.
pub const DATASET: &str = "dataset.parquet";
const MANIFEST: &str = "manifest.json";
const SAMPLES: &str = "samples.jsonl";
const LOCK: &str = ".lock";

/// A finished response as it is appended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSample {
    pub instruction: usize,
    pub temperature: f32,
    pub sample: u32,
    pub prompt_tokens: u32,
    pub response_tokens: u32,
    pub finish_reason: FinishReason,
    pub response: String,
}

/// The folder of one build, locked for this process.
pub struct Store {
    dir: PathBuf,
    file: File,
    _lock: File,
}

/// What [`Store::open`] finds.
pub enum Opened {
    /// The dataset is there, built by the same plan.
    Complete,
    /// Samples are missing; these are there.
    Begun(Store, Vec<StoredSample>),
}

impl Store {
    /// Opens or begins the build of `plan` in `dir`.
    ///
    /// # Errors
    /// A folder that another process writes, one begun by another plan, or damaged files.
    pub fn open(dir: &Path, plan: &Plan) -> Result<Opened> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let lock = lock(dir)?;
        let manifest = dir.join(MANIFEST);
        if manifest.exists() {
            check_plan(&manifest, plan)?;
        } else if dir.join(DATASET).exists() {
            return Err(Error::Usage(format!(
                "{} holds a dataset without its manifest: give another --out",
                dir.display()
            )));
        } else {
            let text = serde_json::to_string_pretty(plan).unwrap_or_default();
            persist::write(&manifest, text.as_bytes())?;
        }
        if dir.join(DATASET).exists() {
            return Ok(Opened::Complete);
        }
        let path = dir.join(SAMPLES);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|e| Error::io(&path, e))?;
        let (done, whole) = read_samples(&path, &mut file)?;
        // A line cut off by a kill is not a sample.
        file.set_len(whole).map_err(|e| Error::io(&path, e))?;
        let store = Store {
            dir: dir.to_path_buf(),
            file,
            _lock: lock,
        };
        Ok(Opened::Begun(store, done))
    }

    /// Appends one sample, in a single write.
    ///
    /// # Errors
    /// If the disk is full or the file cannot be written.
    pub fn append(&mut self, sample: &StoredSample) -> Result<()> {
        let mut line = serde_json::to_string(sample).unwrap_or_default();
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .map_err(|e| Error::io(self.dir.join(SAMPLES), e))
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io(self.dir.join(SAMPLES), e))
    }

    /// Puts the finished dataset beside the manifest and removes what it was built from.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn finish(self, dataset: &super::LengthDataset) -> Result<PathBuf> {
        let path = self.dir.join(DATASET);
        dataset.write_parquet(&path)?;
        let samples = self.dir.join(SAMPLES);
        std::fs::remove_file(&samples).map_err(|e| Error::io(&samples, e))?;
        Ok(path)
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => {
            // The owner's number, for the message of whoever comes second.
            let _ = file.set_len(0);
            let _ = write!(file, "{}", std::process::id());
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let owner = std::fs::read_to_string(&path).unwrap_or_default();
            Err(Error::Usage(format!(
                "{} is being written by process {}: wait for it, or give another --out",
                dir.display(),
                owner.trim()
            )))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(&path, e)),
    }
}

fn check_plan(manifest: &Path, plan: &Plan) -> Result<()> {
    let text = std::fs::read_to_string(manifest).map_err(|e| Error::io(manifest, e))?;
    let begun: Plan = serde_json::from_str(&text)
        .map_err(|e| Error::malformed(manifest, format!("is damaged ({e}): give another --out")))?;
    let differences = plan.differences(&begun);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{} was begun with another plan: {}; give another --out or the same flags",
        manifest.parent().unwrap_or(manifest).display(),
        differences.join(", ")
    )))
}

/// The samples in the file, and how many of its bytes are whole lines.
fn read_samples(path: &Path, file: &mut File) -> Result<(Vec<StoredSample>, u64)> {
    file.seek(SeekFrom::Start(0))
        .map_err(|e| Error::io(path, e))?;
    let mut reader = BufReader::new(&*file);
    let (mut samples, mut whole) = (Vec::new(), 0);
    let mut seen = HashSet::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io(path, e))?;
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let sample: StoredSample = serde_json::from_slice(&line).map_err(|e| {
            let remedy = "delete the file to sample anew";
            Error::malformed(path, format!("line {number} is damaged ({e}): {remedy}"))
        })?;
        whole += read as u64;
        let place = (
            sample.instruction,
            sample.temperature.to_bits(),
            sample.sample,
        );
        if seen.insert(place) {
            samples.push(sample);
        }
    }
    Ok((samples, whole))
}

impl StoredSample {
    pub fn place(&self) -> PlannedSample {
        PlannedSample {
            instruction: self.instruction,
            temperature: self.temperature,
            sample: self.sample,
        }
    }
}
