//! A model's dimensions and weights in one form, whatever file they come from: f32 on the CPU,
//! under the names of Hugging Face checkpoints.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::llama::{Llama3RopeConfig, LlamaConfig, LlamaEosToks};
use safetensors::Dtype;
use serde_json::Value;

use crate::error::{Error, Result};

use super::gguf::GgufModel;
use super::source::{ModelFiles, WeightFiles, one_line, read_json};

/// The dimensions of a Llama, checked to fit each other.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f32,
    pub rope_scaling: Option<Llama3RopeConfig>,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    /// Every token that ends a response.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Takes over the tensor library's configuration; `head_dim` where a model states it.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn from_llama(
        llama: LlamaConfig,
        head_dim: Option<usize>,
    ) -> std::result::Result<ModelConfig, String> {
        let kv_heads = llama.num_key_value_heads();
        let heads = llama.num_attention_heads;
        for (what, value, most) in [
            ("hidden size", llama.hidden_size, 1 << 20),
            ("feed-forward size", llama.intermediate_size, 1 << 22),
            ("vocabulary", llama.vocab_size, 1 << 24),
            ("number of layers", llama.num_hidden_layers, 1 << 12),
            ("number of heads", heads, 1 << 12),
            ("number of key heads", kv_heads, heads),
            ("context length", llama.max_position_embeddings, 1 << 22),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{what} {value} makes no sense"));
            }
        }
        let head_dim = match head_dim {
            Some(dim) => dim,
            None if llama.hidden_size.is_multiple_of(heads) => llama.hidden_size / heads,
            None => {
                let hidden = llama.hidden_size;
                return Err(format!("{heads} heads do not divide {hidden}"));
            }
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!("{heads} heads cannot share {kv_heads} key heads"));
        }
        if head_dim == 0 || head_dim % 2 == 1 || head_dim > 1 << 14 {
            return Err(format!("heads of size {head_dim} make no sense"));
        }
        let eps = llama.rms_norm_eps as f32;
        if !(eps > 0.0 && eps < 1.0) {
            return Err(format!("rms_norm_eps {eps} makes no sense"));
        }
        if !(llama.rope_theta.is_finite() && llama.rope_theta > 1.0) {
            return Err(format!("rope_theta {} makes no sense", llama.rope_theta));
        }
        if let Some(s) = &llama.rope_scaling {
            let sane = s.factor >= 1.0
                && s.low_freq_factor > 0.0
                && s.high_freq_factor > s.low_freq_factor
                && s.high_freq_factor.is_finite()
                && s.factor.is_finite()
                && s.original_max_position_embeddings > 0;
            if !sane {
                return Err(format!("rope_scaling {s:?} makes no sense"));
            }
        }
        let mut eos_token_ids = match llama.eos_token_id {
            None => vec![],
            Some(LlamaEosToks::Single(id)) => vec![id],
            Some(LlamaEosToks::Multiple(ids)) => ids,
        };
        eos_token_ids.sort_unstable();
        eos_token_ids.dedup();
        let mut specials = eos_token_ids.iter().chain(&llama.bos_token_id);
        if let Some(id) = specials.find(|id| **id as usize >= llama.vocab_size) {
            return Err(format!("special token {id} is beyond the vocabulary"));
        }
        Ok(ModelConfig {
            hidden_size: llama.hidden_size,
            intermediate_size: llama.intermediate_size,
            vocab_size: llama.vocab_size,
            num_hidden_layers: llama.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: eps,
            rope_theta: llama.rope_theta,
            rope_scaling: llama.rope_scaling,
            max_position_embeddings: llama.max_position_embeddings,
            tie_word_embeddings: llama.tie_word_embeddings.unwrap_or(false),
            bos_token_id: llama.bos_token_id,
            eos_token_ids,
        })
    }

    /// Reads `config.json` of a directory, and the end tokens of `generation_config.json`.
    ///
    /// # Errors
    /// No Llama, something not implemented, or a file that makes no sense.
    pub fn from_dir(dir: &Path) -> Result<ModelConfig> {
        let path = dir.join("config.json");
        let mut json = read_json(&path)?;
        let bad = |why: String| Error::malformed(&path, why);
        supported(&json).map_err(bad)?;
        plain_rope(&mut json).map_err(bad)?;
        let head_dim = json.get("head_dim").and_then(Value::as_u64);
        let llama: LlamaConfig = serde_json::from_value(json)
            .map_err(|e| bad(format!("{}: download it again", one_line(e))))?;
        let mut config =
            ModelConfig::from_llama(llama, head_dim.and_then(|d| usize::try_from(d).ok()))
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

    /// Every tensor of the model with its shape.
    pub fn tensor_shapes(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let embedding = vec![self.vocab_size, hidden];
        let mut whole = vec![
            ("model.embed_tokens.weight".to_string(), embedding.clone()),
            ("model.norm.weight".to_string(), vec![hidden]),
        ];
        if !self.tie_word_embeddings {
            whole.push(("lm_head.weight".to_string(), embedding));
        }
        let layers = (0..self.num_hidden_layers).flat_map(move |i| {
            [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ]
            .map(|(name, shape)| (format!("model.layers.{i}.{name}.weight"), shape))
        });
        whole.into_iter().chain(layers)
    }
}

/// Refuses, by name, what is not a plain Llama.
fn supported(json: &Value) -> std::result::Result<(), String> {
    let kind = json.get("model_type").and_then(Value::as_str);
    if kind != Some("llama") {
        let kind = kind.unwrap_or("unknown");
        return Err(format!(
            "its model_type is `{kind}`, only `llama` is supported: choose another model"
        ));
    }
    for flag in ["attention_bias", "mlp_bias"] {
        if json.get(flag) == Some(&Value::Bool(true)) {
            return Err(format!("`{flag}` is not supported: choose another model"));
        }
    }
    match json.get("hidden_act").and_then(Value::as_str) {
        None | Some("silu") => Ok(()),
        Some(other) => Err(format!(
            "hidden_act `{other}` is not supported: choose another model"
        )),
    }
}

/// Brings the rotary parameters of old and new files into the form that serde expects.
fn plain_rope(json: &mut Value) -> std::result::Result<(), String> {
    let Some(object) = json.as_object_mut() else {
        return Err("is not a JSON object: download it again".into());
    };
    if let Some(Value::Object(rope)) = object.remove("rope_parameters") {
        if let Some(theta) = rope.get("rope_theta") {
            object.insert("rope_theta".into(), theta.clone());
        }
        object.insert("rope_scaling".into(), Value::Object(rope));
    }
    let Some(Value::Object(scaling)) = object.get_mut("rope_scaling") else {
        return Ok(());
    };
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
    match kind.and_then(Value::as_str).unwrap_or("default") {
        "default" => object.insert("rope_scaling".into(), Value::Null),
        "llama3" => scaling.insert("rope_type".into(), "llama3".into()),
        other => {
            return Err(format!(
                "rope_scaling `{other}` is not supported: choose another model"
            ));
        }
    };
    Ok(())
}

/// A model in memory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub config: ModelConfig,
    /// f32, on the CPU, under Hugging Face names; all of [`ModelConfig::tensor_shapes`] and no
    /// others.
    pub tensors: HashMap<String, Tensor>,
}

impl Checkpoint {
    /// Reads configuration and weights, widening all weights to f32.
    ///
    /// # Errors
    /// Files that cannot be read or make no sense; a model that is not a plain Llama.
    pub fn load(files: &ModelFiles) -> Result<Checkpoint> {
        match (&files.weights, &files.dir) {
            (WeightFiles::Gguf(path), _) => {
                let model = GgufModel::open(path)?;
                Ok(Checkpoint {
                    config: model.model_config()?,
                    tensors: model.load_tensors()?,
                })
            }
            (WeightFiles::Safetensors(paths), Some(dir)) => {
                let config = ModelConfig::from_dir(dir)?;
                let tensors = safetensors(paths, dir, &config)?;
                Ok(Checkpoint { config, tensors })
            }
            (WeightFiles::Safetensors(_), None) => Err(Error::malformed(
                files.path(),
                "has no config.json: give the model's directory",
            )),
        }
    }

    /// A tensor's values, row after row.
    ///
    /// # Errors
    /// There is no tensor of that name.
    pub fn f32_values(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::Usage(format!("the model has no tensor `{name}`")))?;
        Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
    }
}

fn safetensors(
    paths: &[PathBuf],
    dir: &Path,
    config: &ModelConfig,
) -> Result<HashMap<String, Tensor>> {
    // SAFETY: the mapping is gone when this function returns; as with every mapped file, other
    // programs must not cut it meanwhile.
    let stored = unsafe { MmapedSafetensors::multi(paths) }
        .map_err(|e| Error::malformed(dir, format!("{}: download it again", one_line(e))))?;
    let bad = |why: String| Error::malformed(dir, why);
    let mut tensors = HashMap::new();
    for (name, shape) in config.tensor_shapes() {
        let view = stored.get(&name).map_err(|_| {
            bad(format!(
                "the tensor `{name}` is missing: download the weights again"
            ))
        })?;
        if view.shape() != shape {
            let found = view.shape();
            return Err(bad(format!(
                "the tensor `{name}` is {found:?}, not {shape:?}: config.json is another model's"
            )));
        }
        if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let dtype = view.dtype();
            return Err(bad(format!(
                "the tensor `{name}` is stored as {dtype:?}: use f32, f16 or bf16 weights"
            )));
        }
        let tensor = view.load(&Device::Cpu)?.to_dtype(DType::F32)?;
        tensors.insert(name, tensor);
    }
    // Heads for other tasks are no loss; more inside a block would make another model.
    for (name, _) in stored.tensors() {
        let inside = name.starts_with("model.layers.") && !name.ends_with(".inv_freq");
        if inside && !tensors.contains_key(&name) {
            return Err(bad(format!(
                "has a tensor `{name}` that config.json does not account for: choose another model"
            )));
        }
    }
    Ok(tensors)
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
