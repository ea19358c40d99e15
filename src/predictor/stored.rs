//! `predictor.json`: what a trained predictor's folder says of itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::sha256_file;
use crate::error::{Error, Result};
use crate::persist;
use crate::regular_file;

use super::tuning::CHECKPOINTS;

/// Its file: a folder that has it holds a whole predictor.
pub const FILE: &str = "predictor.json";

/// Which file of this module reads the rest of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A PEFT adapter for the perception-only prompt.
    Lora,
    /// A head on the prompt's last state, trained with an adapter under it.
    LoraHead,
    /// A head on the state of a learned token after the prompt.
    LenToken,
    /// Ridge regression on a hidden state of the untuned model.
    Ridge,
    /// Ridge regression on the instruction's words.
    Lexical,
    /// The labels of the trained instructions with the nearest words.
    Neighbour,
    /// Regression on a sentence encoder's embedding.
    Encoder,
    /// Small networks on hidden states of the untuned model.
    Head,
    /// The paper's pooling + MLP: a head on the averaged states of the last layer.
    PoolingMlp,
    /// Other predictors' distributions, mixed.
    Stack,
}

impl Kind {
    /// Whether a word names a kind of trained predictor.
    pub fn is_named(word: &str) -> bool {
        use serde::de::value::{Error, StrDeserializer};
        Kind::deserialize(StrDeserializer::<Error>::new(word)).is_ok()
    }
}

/// A trained predictor, described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// What it is, and so which files lie beside.
    pub kind: Kind,
    /// `max`, `mean` or a quantile.
    pub label: String,
    /// The model that is looked into; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Hash of that model's weights.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model_sha256: String,
    /// The chat template that was chosen instead of the model's own: used again unless another
    /// is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Path or name of the dataset, and how many instructions it was trained on.
    pub dataset: String,
    /// Instructions of the training split that it was fitted on.
    pub training_instructions: usize,
    /// Median training label: predicted where the model's answer holds no number.
    pub training_median: f64,
    /// The version of `lenaware` that trained it.
    pub tool_version: String,
    /// The model whose lengths the dataset holds, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_model: Option<String>,
    /// Wall time of the training; of a resumed one, of its last part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_s: Option<f64>,
    /// Hashes of the files that the predictor is made of, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

impl Description {
    /// Writes `predictor.json` into `dir`, with the hashes of the files that are there: the
    /// last file of a predictor.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut whole = self.clone();
        whole.files = hashes(dir)?;
        let text = serde_json::to_string_pretty(&whole).unwrap_or_default();
        persist::write(&dir.join(FILE), text.as_bytes())
    }

    /// The description in `dir`, or none where there is no `predictor.json`.
    ///
    /// # Errors
    /// A folder that is not there, or a damaged file.
    pub fn read(dir: &Path) -> Result<Option<Description>> {
        if !dir.is_dir() {
            return Err(Error::Usage(format!(
                "{}: there is no such folder: train a predictor with `lenaware finetune --out {}`",
                dir.display(),
                dir.display()
            )));
        }
        let path = dir.join(FILE);
        let Some(text) = regular_file::text_if_there(&path, regular_file::SETTINGS)? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::malformed(&path, format!("is damaged ({e}): train again")))
    }

    /// Adds to the description in `dir`, if there is one, whose lengths were trained on and how
    /// long that took.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn complete(dir: &Path, dataset_model: &str, training_s: f64) -> Result<()> {
        match Description::read(dir)? {
            Some(known) => Description {
                dataset_model: Some(dataset_model.to_string()).filter(|m| !m.is_empty()),
                training_s: Some(training_s),
                ..known
            }
            .write(dir),
            None => Ok(()),
        }
    }

    /// Whether the predictor's files are those that were written.
    ///
    /// # Errors
    /// One that is missing or has changed.
    pub fn check_files(&self, dir: &Path) -> Result<()> {
        for (name, known) in &self.files {
            let path = dir.join(name);
            // A path would have any file of the machine read, and told whether it is known.
            if Path::new(name)
                .file_name()
                .is_none_or(|plain| plain != name.as_str())
            {
                let what = format!("`files` names `{name}`, which is not beside it: train again");
                return Err(Error::malformed(dir.join(FILE), what));
            }
            if sha256_file(&path)? != *known {
                let why = "is not the file that was trained (its hash differs from that in \
                           predictor.json): restore it, or train again";
                return Err(Error::malformed(&path, why));
            }
        }
        Ok(())
    }

    /// Compares the hash of a model's weights with that of the model it was trained on.
    ///
    /// # Errors
    /// If the predictor was trained for other weights.
    pub fn check_model(&self, dir: &Path, sha256: &str) -> Result<()> {
        if self.model_sha256 == sha256 {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "{} was trained for the model {} ({}), not for this one ({}): give --model",
            dir.display(),
            self.model,
            beginning(&self.model_sha256),
            beginning(sha256)
        )))
    }
}

/// Of weights, tables and settings; not of logs, checkpoints and pictures.
fn hashes(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)
        .map_err(|e| Error::io(dir, e))?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        let counts = ["safetensors", "json", "txt", "parquet"].contains(&ending)
            && name != FILE
            && !CHECKPOINTS.contains(&name.as_str())
            && !name.starts_with('.');
        if counts && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.insert(name, sha256_file(&entry.path())?);
        }
    }
    Ok(files)
}

/// As much of a hash as people compare.
fn beginning(sha256: &str) -> String {
    sha256.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_beside_it_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["/etc/hostname", "../weights.json", "a/b", "..", ""] {
            let text = format!(
                r#"{{"kind": "lexical", "label": "max", "dataset": "d", "training_instructions": 1,
                    "training_median": 1.0, "tool_version": "0", "files": {{"{name}": "00"}}}}"#
            );
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let described = Description::read(dir.path()).unwrap().unwrap();
            let refused = described.check_files(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("not beside it"), "{refused}");
        }
    }
}
