//! A length dataset while it is being built: a folder with `manifest.json` (the plan) and
//! `samples.jsonl`, to which every finished response is appended at once. A killed run loses
//! the responses in flight and nothing else; two processes never write one folder. A finished
//! dataset that more is asked of stays as it is until the larger one takes its place.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::sha256_file;
use crate::error::{Error, Result};
use crate::instruction::Instruction;
use crate::persist::{self, Lock};

use super::plan::{Plan, PlannedSample};
use super::{FinishReason, LengthDataset, Sample};

/// The finished dataset's file in the folder.
pub const DATASET: &str = "dataset.parquet";
const MANIFEST: &str = "manifest.json";
pub(crate) const SAMPLES: &str = "samples.jsonl";

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

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Manifest {
    #[serde(flatten)]
    plan: Plan,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<Served>,
    /// Of the finished dataset; none while more is added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dataset_sha256: Option<String>,
}

/// The server behind a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Scheme, host and port. The same model may move to another.
    pub address: String,
    /// What the server calls the model in its answers, from the first on. Another name is
    /// another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// The folder of one build, locked for this process.
pub struct Store {
    dir: PathBuf,
    manifest: Manifest,
    /// The manifest as it is on the disk.
    written: Option<Manifest>,
    /// Open for appending from the first sample on.
    file: Option<File>,
    _lock: Lock,
}

/// What a folder holds already.
#[derive(Debug, Default)]
pub struct Existing {
    /// The rows of the finished dataset, which the plan may ask more of.
    pub finished: Vec<Sample>,
    /// What was appended since.
    pub appended: Vec<StoredSample>,
}

impl Store {
    /// Opens the folder `dir` for the build of `plan`, for `instructions`. `endpoint` is the
    /// server's address where there is one. Nothing is written before [`Store::begin`].
    ///
    /// # Errors
    /// A folder that another process writes, one begun by a plan that this one does not
    /// continue, or damaged files.
    pub fn open(
        dir: &Path,
        plan: &Plan,
        instructions: &[Instruction],
        endpoint: Option<&str>,
    ) -> Result<(Store, Existing)> {
        let lock = Lock::take(dir)?;
        let path = dir.join(MANIFEST);
        let mut manifest = Manifest {
            plan: plan.clone(),
            endpoint: endpoint.map(|address| Served {
                address: address.to_string(),
                model: None,
            }),
            dataset_sha256: None,
        };
        let mut existing = Existing::default();
        let mut written = None;
        if path.exists() {
            let begun = read_manifest(&path)?;
            refuse_differences(dir, &begun.plan, plan, instructions)?;
            if let (Some(now), Some(then)) = (&mut manifest.endpoint, &begun.endpoint) {
                now.model.clone_from(&then.model);
            }
            let dataset = dir.join(DATASET);
            if dataset.exists() {
                existing.finished = read_finished(dir)?.samples;
                // What asks for no more leaves it as it is.
                manifest.dataset_sha256.clone_from(&begun.dataset_sha256);
            }
            existing.appended = read_samples(&dir.join(SAMPLES))?;
            written = Some(begun);
        } else if dir.join(DATASET).exists() || dir.join(SAMPLES).exists() {
            return Err(Error::Usage(format!(
                "{} holds a dataset without its manifest: give another --out",
                dir.display()
            )));
        }
        let store = Store {
            dir: dir.to_path_buf(),
            manifest,
            written,
            file: None,
            _lock: lock,
        };
        Ok((store, existing))
    }

    /// Writes the manifest unless it is there: from now on the folder is this plan's.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn begin(&mut self) -> Result<()> {
        if self.written.as_ref() == Some(&self.manifest) {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&self.manifest).unwrap_or_default();
        persist::write(&self.dir.join(MANIFEST), text.as_bytes())?;
        self.written = Some(self.manifest.clone());
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server behind the dataset, if one is.
    pub fn served(&self) -> Option<&Served> {
        self.manifest.endpoint.as_ref()
    }

    /// Notes what the server calls the model; to be called before its answer is appended.
    ///
    /// # Errors
    /// A name that differs from the one noted before, or a manifest that cannot be written.
    pub fn note_served_model(&mut self, name: &str) -> Result<()> {
        let Some(served) = &mut self.manifest.endpoint else {
            return Ok(());
        };
        match &served.model {
            Some(noted) if noted == name => Ok(()),
            Some(noted) => Err(Error::Endpoint(format!(
                "the server answers as the model `{name}`, and the samples in {} are of `{noted}`: \
                 give another --out, or have the server serve that model",
                self.dir.display()
            ))),
            None => {
                served.model = Some(name.to_string());
                self.begin()
            }
        }
    }

    /// Notes the finished dataset's hash, if that is not known yet.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn seal(&mut self) -> Result<()> {
        if self.manifest.dataset_sha256.is_none() {
            self.manifest.dataset_sha256 = Some(sha256_file(&self.dir.join(DATASET))?);
        }
        self.begin()
    }

    /// Appends one sample, in a single write.
    ///
    /// # Errors
    /// If the disk is full or the file cannot be written.
    pub fn append(&mut self, sample: &StoredSample) -> Result<()> {
        let path = self.dir.join(SAMPLES);
        let mut line = serde_json::to_string(sample).unwrap_or_default();
        line.push('\n');
        let written = match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => open_whole_lines(&path)
                .and_then(|file| self.file.insert(file).write_all(line.as_bytes())),
        };
        written.map_err(|e| {
            // Whatever comes next must not be put after half a line.
            self.file = None;
            kept(&path, e)
        })
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<()> {
        let path = self.dir.join(SAMPLES);
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        synced.map_err(|e| kept(&path, e))
    }

    /// Puts the finished dataset beside the manifest, in place of a smaller one that may be
    /// there, and removes what it was built from.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn finish(mut self, dataset: &LengthDataset) -> Result<PathBuf> {
        let path = self.dir.join(DATASET);
        // Between the two writes no hash is known: whichever dataset is there is whole.
        self.manifest.dataset_sha256 = None;
        self.begin()?;
        dataset.write_parquet(&path).map_err(|e| match e {
            Error::Io { path, source } => kept(&path, source),
            Error::Malformed { path, message } => {
                let more = "every sample is kept: the same command tries again";
                Error::malformed(path, format!("{message}; {more}"))
            }
            other => other,
        })?;
        self.file = None;
        self.seal()?;
        self.tidy()?;
        Ok(path)
    }

    /// Removes appended samples that the finished dataset holds: those of a run that was
    /// killed just before it would have.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn tidy(&self) -> Result<()> {
        let samples = self.dir.join(SAMPLES);
        match std::fs::remove_file(&samples) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&samples, e)),
            _ => Ok(()),
        }
    }
}

/// An error of a write after which everything before it is still there.
fn kept(path: &Path, error: std::io::Error) -> Error {
    let message = format!(
        "{error}; what was sampled before is kept: make room, and the same command continues"
    );
    Error::io(path, std::io::Error::new(error.kind(), message))
}

/// The plan that began the build in a folder, if one did.
///
/// # Errors
/// A damaged manifest.
pub(crate) fn begun(dir: &Path) -> Result<Option<Plan>> {
    let path = dir.join(MANIFEST);
    match path.exists() {
        true => Ok(Some(read_manifest(&path)?.plan)),
        false => Ok(None),
    }
}

/// The finished dataset in a folder, which must be the one that the manifest knows.
///
/// # Errors
/// One that cannot be read, or another one.
pub(crate) fn read_finished(dir: &Path) -> Result<LengthDataset> {
    let path = dir.join(DATASET);
    let dataset = LengthDataset::read_parquet(&path)?;
    let manifest = dir.join(MANIFEST);
    if !manifest.exists() {
        return Ok(dataset);
    }
    match read_manifest(&manifest)?.dataset_sha256 {
        Some(known) if known != sha256_file(&path)? => Err(Error::malformed(
            &path,
            "is not the file that was written (its hash differs from the manifest's): restore it, \
             or name the file itself to take it as it is",
        )),
        _ => Ok(dataset),
    }
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::malformed(path, format!("is damaged ({e}): give another --out")))
}

/// Refuses a plan that does not continue the one that began the build in `dir`.
pub(crate) fn refuse_differences(
    dir: &Path,
    begun: &Plan,
    plan: &Plan,
    instructions: &[Instruction],
) -> Result<()> {
    let differences = plan.differences(begun, instructions);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{} was begun with another plan: {}; give another --out or the same flags",
        dir.display(),
        differences.join(", ")
    )))
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

/// The samples in the file's whole lines; none where there is no file.
pub(crate) fn read_samples(path: &Path) -> Result<Vec<StoredSample>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(path, e)),
    };
    let mut reader = BufReader::new(file);
    let mut samples = Vec::new();
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
            let remedy = "delete that line, and its sample is drawn again";
            Error::malformed(path, format!("line {number} is damaged ({e}): {remedy}"))
        })?;
        if seen.insert(sample.place().key()) {
            samples.push(sample);
        }
    }
    Ok(samples)
}

impl StoredSample {
    /// Which of the plan's samples this is.
    pub fn place(&self) -> PlannedSample {
        PlannedSample {
            instruction: self.instruction,
            temperature: self.temperature,
            sample: self.sample,
        }
    }
}
