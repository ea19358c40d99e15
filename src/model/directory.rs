//! Which files of a model's directory hold its weights.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::source::{WeightFiles, last_part, read_json};

/// The weights of a directory: safetensors where there are any, else PyTorch's own files. What
/// is missing is an error that says so.
pub(super) fn directory_weights(dir: &Path) -> Result<WeightFiles> {
    let has = |name: &str| dir.join(name).is_file();
    if !has("config.json") {
        let why = if has("adapter_config.json") {
            "is an adapter, not a model: give the base model's directory"
        } else {
            "has no config.json: give a directory with config.json and *.safetensors"
        };
        return Err(Error::malformed(dir, why));
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    names.sort();
    let ends = |p: &PathBuf, end: &str| p.extension().is_some_and(|e| e == end);
    let index = dir.join(SAFETENSORS_INDEX);
    if index.is_file() {
        return Ok(WeightFiles::Safetensors(sharded(dir, &index)?));
    }
    if has("model.safetensors") {
        return Ok(WeightFiles::Safetensors(vec![
            dir.join("model.safetensors"),
        ]));
    }
    let loose = |p: &&PathBuf| {
        ends(p, "safetensors") && !last_part(p).starts_with("adapter_") && p.is_file()
    };
    let weights: Vec<PathBuf> = names.iter().filter(loose).cloned().collect();
    if !weights.is_empty() {
        return Ok(WeightFiles::Safetensors(weights));
    }
    let index = dir.join(TORCH_INDEX);
    if index.is_file() {
        return Ok(WeightFiles::Torch(sharded(dir, &index)?));
    }
    if has(TORCH_FILE) {
        return Ok(WeightFiles::Torch(vec![dir.join(TORCH_FILE)]));
    }
    let why = if names.iter().any(|p| ends(p, "gguf")) {
        "has no *.safetensors: give the path of its .gguf file as the model"
    } else if names.iter().any(|p| ends(p, "pth") || ends(p, "bin")) {
        "has neither *.safetensors nor pytorch_model.bin: convert its weights to the transformers \
         layout first"
    } else {
        "has neither *.safetensors nor pytorch_model.bin: download the weights again"
    };
    Err(Error::malformed(dir, why))
}

pub(super) const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
pub(super) const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
pub(super) const TORCH_FILE: &str = "pytorch_model.bin";

/// The shards that an index names, each checked to be there.
fn sharded(dir: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| Error::malformed(index, "has no `weight_map`: download it again"))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(Error::malformed(
            index,
            "names no shards: download it again",
        ));
    }
    let mut files = Vec::new();
    for name in names {
        let plain = Path::new(name).file_name().is_some_and(|f| f == name);
        if !plain || !dir.join(name).is_file() {
            return Err(Error::malformed(
                index,
                format!("names the shard `{name}`, which is not beside it: download it again"),
            ));
        }
        files.push(dir.join(name));
    }
    Ok(files)
}
