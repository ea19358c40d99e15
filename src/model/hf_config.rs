//! `config.json` as Hugging Face's transformers write it. What this program does not compute
//! is refused by name: a parameter that is passed over would give wrong answers in silence.

use std::path::Path;

use candle_transformers::models::llama::LlamaConfig;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

use super::rope::RopeScaling;
use super::source::{one_line, read_json};
use super::weights::ModelConfig;

type Outcome<T> = std::result::Result<T, String>;

impl ModelConfig {
    /// Reads `config.json` of a directory, and the end tokens of `generation_config.json`.
    ///
    /// # Errors
    /// No Llama (nor a Mistral without a sliding window, which is one), something not
    /// implemented, or a file that makes no sense.
    pub fn from_dir(dir: &Path) -> Result<ModelConfig> {
        let path = dir.join("config.json");
        let bad = |why: String| Error::malformed(&path, why);
        let Value::Object(mut json) = read_json(&path)? else {
            return Err(bad("is not a JSON object: download it again".into()));
        };
        supported(&json).map_err(bad)?;
        let scaling = rope(&mut json).map_err(bad)?;
        let head_dim = json.get("head_dim").and_then(Value::as_u64);
        let llama: LlamaConfig = serde_json::from_value(Value::Object(json))
            .map_err(|e| bad(format!("{}: download it again", one_line(e))))?;
        let head_dim = head_dim.and_then(|d| usize::try_from(d).ok());
        let mut config = ModelConfig::from_llama(llama, head_dim, scaling)
            .map_err(|why| bad(format!("{why}: download it again")))?;
        let generation = dir.join("generation_config.json");
        if generation.is_file() {
            let ids = match read_json(&generation)?.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.clone(),
                Some(id) => vec![id.clone()],
                None => vec![],
            };
            let ids = ids.iter().filter_map(Value::as_u64);
            let known = ids.filter(|id| *id < config.vocab_size as u64);
            config.eos_token_ids.extend(known.map(|id| id as u32));
            config.eos_token_ids.sort_unstable();
            config.eos_token_ids.dedup();
        }
        Ok(config)
    }
}

fn supported(json: &Map<String, Value>) -> Outcome<()> {
    let number = |key: &str| json.get(key).and_then(Value::as_f64);
    match json.get("model_type").and_then(Value::as_str) {
        Some("llama") => {}
        Some("mistral") => {
            // transformers' own default, where the file says nothing.
            let window = match json.get("sliding_window") {
                Some(Value::Null) => f64::INFINITY,
                _ => number("sliding_window").unwrap_or(4096.0),
            };
            if window < number("max_position_embeddings").unwrap_or(f64::INFINITY) {
                return Err(format!(
                    "its sliding_window of {window} is not supported: choose a model without one, \
                     such as Mistral v0.2 or later"
                ));
            }
        }
        other => {
            return Err(format!(
                "its model_type is `{}`, only `llama` and `mistral` are supported: choose another \
                 model",
                other.unwrap_or("unknown")
            ));
        }
    }
    for flag in ["attention_bias", "mlp_bias"] {
        if json.get(flag) == Some(&Value::Bool(true)) {
            return Err(format!("`{flag}` is not supported: choose another model"));
        }
    }
    if number("partial_rotary_factor").is_some_and(|share| share != 1.0) {
        return Err("`partial_rotary_factor` is not supported: choose another model".into());
    }
    if let Some(quantized) = json.get("quantization_config").filter(|v| !v.is_null()) {
        let method = quantized["quant_method"].as_str().unwrap_or("unknown");
        return Err(format!(
            "its weights are quantized (`{method}`), which is not supported: use the original \
             weights, or a GGUF file"
        ));
    }
    match json.get("hidden_act").and_then(Value::as_str) {
        None | Some("silu") => Ok(()),
        Some(other) => Err(format!(
            "hidden_act `{other}` is not supported: choose another model"
        )),
    }
}

/// Takes the scaling out of the rotary parameters of old (`rope_scaling`) and new files
/// (`rope_parameters`, with the base in it).
fn rope(json: &mut Map<String, Value>) -> Outcome<Option<RopeScaling>> {
    let old = json.remove("rope_scaling");
    let new = json.remove("rope_parameters").filter(|v| !v.is_null());
    if let Some(theta) = new.as_ref().and_then(|rope| rope.get("rope_theta")) {
        json.insert("rope_theta".into(), theta.clone());
    }
    let scaling = match new.or(old) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(scaling)) => scaling,
        Some(other) => {
            return Err(format!(
                "rope_scaling {other} is not supported: choose another model"
            ));
        }
    };
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
    let number = |key: &str| -> Outcome<f32> {
        let value = scaling.get(key).and_then(Value::as_f64);
        let value = value.ok_or_else(|| format!("its rope_scaling has no `{key}`"))?;
        Ok(value as f32)
    };
    let lacks = |why: String| format!("{why}: download it again");
    match kind.and_then(Value::as_str) {
        Some("default") => Ok(None),
        None if scaling.keys().all(|key| key == "rope_theta") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear {
            factor: number("factor").map_err(lacks)?,
        })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: number("factor").map_err(lacks)?,
            low_freq_factor: number("low_freq_factor").map_err(lacks)?,
            high_freq_factor: number("high_freq_factor").map_err(lacks)?,
            original_max_position_embeddings: number("original_max_position_embeddings")
                .map_err(lacks)? as usize,
        })),
        other => Err(format!(
            "rope_scaling `{}` is not supported, only `linear` and `llama3`: choose another model",
            other.unwrap_or("of an unnamed type")
        )),
    }
}
