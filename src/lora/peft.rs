//! Adapters on disk as Hugging Face PEFT writes and reads them: a folder with
//! `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::persist;

use super::{Adapter, LoraConfig, LoraPair};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT wraps the model twice, and keeps both names in its keys.
const PREFIX: &str = "base_model.model.";

/// Writes `adapter` into the folder `dir` (made if needed).
///
/// # Errors
/// If the folder or its files cannot be written.
pub fn write(adapter: &Adapter, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let config = &adapter.config;
    let alpha = if config.alpha.fract() == 0.0 {
        json!(config.alpha as i64)
    } else {
        json!(config.alpha)
    };
    let description = json!({
        "base_model_name_or_path": adapter.base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_to_transform": config.layers_to_transform,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.r,
        "revision": null,
        "target_modules": config.target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.use_rslora,
    });
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, pair) in &adapter.pairs {
        tensors.insert(
            format!("{PREFIX}{name}.lora_A.weight"),
            pair.a.contiguous()?,
        );
        tensors.insert(
            format!("{PREFIX}{name}.lora_B.weight"),
            pair.b.contiguous()?,
        );
    }
    let header = HashMap::from([("format".to_string(), "pt".to_string())]);
    let path = dir.join(WEIGHTS);
    let bytes = safetensors::serialize(&tensors, Some(header))
        .map_err(|e| Error::malformed(&path, format!("cannot be written: {e}")))?;
    persist::write(&path, &bytes)?;
    let text = serde_json::to_string_pretty(&description).unwrap_or_default();
    persist::write(&dir.join(CONFIG), text.as_bytes())
}

/// Reads a PEFT folder.
///
/// # Errors
/// Missing or malformed files, options that are not implemented here (named), keys that are
/// not a LoRA pair of a linear layer.
pub fn read(dir: &Path) -> Result<Adapter> {
    let path = dir.join(CONFIG);
    let description: Value = crate::regular_file::any_json(&path, "save the adapter again")?;
    let config = read_config(&path, &description)?;
    let weights = dir.join(WEIGHTS);
    crate::model::weights::check_header(&weights)?;
    let bytes = crate::regular_file::bytes(&weights)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| Error::malformed(&weights, format!("is not a safetensors file: {e}")))?;
    let mut halves: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
    for (key, tensor) in tensors {
        let place = [".lora_A.weight", ".lora_B.weight"]
            .iter()
            .enumerate()
            .find_map(|(i, end)| Some((i, key.strip_prefix(PREFIX)?.strip_suffix(end)?)));
        let Some((half, name)) = place else {
            return Err(Error::malformed(
                &weights,
                format!("`{key}` is not a LoRA matrix of a linear layer"),
            ));
        };
        halves.entry(name.to_string()).or_default()[half] = Some(tensor.to_dtype(DType::F32)?);
    }
    let mut pairs = BTreeMap::new();
    for (name, [a, b]) in halves {
        let (Some(a), Some(b)) = (a, b) else {
            return Err(Error::malformed(
                &weights,
                format!("`{name}` has only one of lora_A and lora_B"),
            ));
        };
        let ranks = (a.dims2().map(|d| d.0), b.dims2().map(|d| d.1));
        if !matches!(ranks, (Ok(ra), Ok(rb)) if ra == config.r && rb == config.r) {
            return Err(Error::malformed(
                &weights,
                format!("the matrices of `{name}` do not have rank {}", config.r),
            ));
        }
        pairs.insert(name, LoraPair { a, b });
    }
    if pairs.is_empty() {
        return Err(Error::malformed(&weights, "holds no adapter matrices"));
    }
    Ok(Adapter {
        config,
        base_model: description["base_model_name_or_path"]
            .as_str()
            .unwrap_or_default()
            .to_string(),
        pairs,
    })
}

fn read_config(path: &Path, description: &Value) -> Result<LoraConfig> {
    let wrong = |message: String| Err(Error::malformed(path, message));
    if description["peft_type"] != json!("LORA") {
        return wrong(format!(
            "peft_type is {}, not LORA",
            description["peft_type"]
        ));
    }
    // Null, false and empty are PEFT's ways to say "not used".
    let unused = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    for option in [
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "fan_in_fan_out",
        "lora_bias",
        "use_qalora",
        "target_parameters",
        "trainable_token_indices",
    ] {
        if !unused(&description[option]) {
            return wrong(format!(
                "the option `{option}` is not supported; train without it"
            ));
        }
    }
    if !matches!(description["bias"].as_str(), None | Some("none")) {
        return wrong("`bias` other than \"none\" is not supported; train without it".into());
    }
    let (Some(r), Some(alpha), Some(targets)) = (
        description["r"].as_u64(),
        description["lora_alpha"].as_f64(),
        description["target_modules"].as_array(),
    ) else {
        return wrong("lacks `r`, `lora_alpha` or a list of `target_modules`".into());
    };
    let config = LoraConfig {
        layers: None,
        layers_to_transform: read_layers(&description["layers_to_transform"]).ok_or_else(|| {
            Error::malformed(path, "`layers_to_transform` is not a list of block numbers")
        })?,
        r: r as usize,
        alpha,
        dropout: description["lora_dropout"].as_f64().unwrap_or(0.0),
        target_modules: targets
            .iter()
            .filter_map(|t| t.as_str().map(str::to_string))
            .collect(),
        use_rslora: description["use_rslora"].as_bool().unwrap_or(false),
    };
    config
        .validate()
        .map_err(|e| Error::malformed(path, e.to_string()))?;
    Ok(config)
}

/// PEFT takes a list or one number; none and empty mean all blocks.
fn read_layers(value: &Value) -> Option<Option<Vec<usize>>> {
    let number = |v: &Value| v.as_u64().map(|n| n as usize);
    match value {
        Value::Null => Some(None),
        Value::Array(list) if list.is_empty() => Some(None),
        Value::Array(list) => Some(Some(list.iter().map(number).collect::<Option<_>>()?)),
        one => Some(Some(vec![number(one)?])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn a_written_adapter_reads_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let adapter = Adapter::new(LoraConfig::default(), &ModelConfig::tiny(), "tiny", 3).unwrap();
        write(&adapter, dir.path()).unwrap();
        let back = read(dir.path()).unwrap();
        assert_eq!(back.config, adapter.config);
        assert_eq!(back.base_model, "tiny");
        assert_eq!(back.pairs.len(), 4);
        for (name, pair) in &adapter.pairs {
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&pair.a), values(&back.pairs[name].a));
            assert_eq!(values(&pair.b), values(&back.pairs[name].b));
        }
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let adapter = Adapter::new(LoraConfig::default(), &ModelConfig::tiny(), "tiny", 3).unwrap();
        write(&adapter, dir.path()).unwrap();
        let path = dir.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to, named) in [
            ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
            (
                "\"modules_to_save\": null",
                "\"modules_to_save\": [\"lm_head\"]",
                "modules_to_save",
            ),
            ("\"r\": 8", "\"r\": 4", "rank"),
            ("\"LORA\"", "\"IA3\"", "peft_type"),
        ] {
            std::fs::write(&path, text.replace(from, to)).unwrap();
            let message = read(dir.path()).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn pefts_own_files_are_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/lora");
        let adapter = read(&dir.join("initial")).unwrap();
        assert_eq!(adapter.config.r, 8);
        assert_eq!(adapter.pairs.len(), 60);
    }
}
