//! A length dataset while it is being built: a folder with `manifest.json` (the plan) and
//! `samples.jsonl`, to which every finished response is appended at once. A killed run loses
//! the responses in flight and nothing else; two processes never write one folder. A finished
//! dataset that more is asked of stays as it is until the larger one takes its place.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::sha256_file;
use crate::error::{Error, Result};
use crate::instruction::Instruction;
use crate::persist::{self, Lock};

use super::appended::{Appending, StoredSample, each_appended};
use super::plan::Plan;
use super::{DatasetWriter, LengthDataset, Provenance, Sample};

/// The finished dataset's file in the folder.
pub const DATASET: &str = "dataset.parquet";
const MANIFEST: &str = "manifest.json";
pub(crate) const SAMPLES: &str = "samples.jsonl";

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
    appending: Appending,
    _lock: Lock,
}

impl Store {
    /// Opens the folder `dir` for the build of `plan`, for `instructions`. `endpoint` is the
    /// server's address where there is one. Nothing is written before [`Store::begin`]. Also
    /// gives the rows of the finished dataset, if one is there, of which the plan may ask more.
    ///
    /// # Errors
    /// A folder that another process writes, one begun by a plan that this one does not
    /// continue, or damaged files.
    pub fn open(
        dir: &Path,
        plan: &Plan,
        instructions: &[Instruction],
        endpoint: Option<&str>,
    ) -> Result<(Store, Vec<Sample>)> {
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
        let mut finished = Vec::new();
        let mut written = None;
        if path.exists() {
            let begun = read_manifest(&path)?;
            refuse_differences(dir, &begun.plan, plan, instructions)?;
            if let (Some(now), Some(then)) = (&mut manifest.endpoint, &begun.endpoint) {
                now.model.clone_from(&then.model);
            }
            let dataset = dir.join(DATASET);
            if dataset.exists() {
                finished = read_finished(dir)?.samples;
                // What asks for no more leaves it as it is.
                manifest.dataset_sha256.clone_from(&begun.dataset_sha256);
            }
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
            appending: Appending::to(dir.join(SAMPLES)),
            _lock: lock,
        };
        Ok((store, finished))
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

    /// Where samples are appended.
    pub fn samples(&self) -> PathBuf {
        self.appending.path().to_path_buf()
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
        self.appending.append(sample)
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<()> {
        self.appending.sync()
    }

    /// Reads what was appended since the dataset was finished, one by one; `each` is told where
    /// its line is.
    ///
    /// # Errors
    /// A damaged line, and what `each` returns.
    pub fn appended(&self, each: impl FnMut(u64, StoredSample) -> Result<()>) -> Result<()> {
        each_appended(self.appending.path(), each)
    }

    /// Puts the finished dataset, whose rows `fill` writes, beside the manifest, in place of a
    /// smaller one that may be there, and removes what it was built from.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn finish(
        mut self,
        provenance: &Provenance,
        fill: impl FnOnce(&mut DatasetWriter) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.dir.join(DATASET);
        // Between the two writes no hash is known: whichever dataset is there is whole.
        self.manifest.dataset_sha256 = None;
        self.begin()?;
        let written = DatasetWriter::create(&path, provenance).and_then(|mut writer| {
            fill(&mut writer)?;
            writer.finish()
        });
        written.map_err(|e| match e {
            Error::Io { path, source } => kept(&path, source),
            Error::Malformed { path, message } if path == self.dir.join(DATASET) => {
                let more = "every sample is kept: the same command tries again";
                Error::malformed(path, format!("{message}; {more}"))
            }
            other => other,
        })?;
        self.appending.close();
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
        let samples = self.appending.path();
        match std::fs::remove_file(samples) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(samples, e)),
            _ => Ok(()),
        }
    }
}

/// An error of a write after which everything before it is still there.
pub(super) fn kept(path: &Path, error: std::io::Error) -> Error {
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
    let text = crate::regular_file::text_up_to(path, crate::regular_file::SETTINGS)?;
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
