//! GGUF model files: metadata, configuration, and weights as f32 under the names and in the
//! row order of Hugging Face checkpoints.
//!
//! llama.cpp stores the rows of Llama's q and k projections reordered, because its rotary
//! embedding turns neighbouring pairs where Hugging Face turns the two halves of a head. Rows
//! are put back here, so that the rest of the program knows one form only.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use candle_transformers::models::llama::{LlamaConfig, LlamaEosToks};

use crate::error::{Error, Result};

use super::gguf_header::{check, damaged};
use super::rope::RopeScaling;
use super::source::one_line;
use super::weights::{ModelConfig, Stored};

/// Divisors of the rotary frequencies, of the model as a whole.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// An open GGUF file: header read and checked, tensors still on disk.
#[derive(Debug)]
pub struct GgufModel {
    /// Metadata, and where each tensor lies.
    pub content: Content,
    /// The file.
    pub path: PathBuf,
}

impl GgufModel {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// The file cannot be read, or is not a sound GGUF file.
    pub fn open(path: &Path) -> Result<GgufModel> {
        let length = check(path)?;
        let file = crate::regular_file::open(path)?;
        let mut header = Vec::new();
        file.take(length)
            .read_to_end(&mut header)
            .map_err(|e| Error::io(path, e))?;
        let content =
            Content::read(&mut Cursor::new(header)).map_err(|e| damaged(path, &one_line(e)))?;
        Ok(GgufModel {
            content,
            path: path.to_path_buf(),
        })
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number of the metadata, of whatever width.
    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.content.metadata.get(key)? {
            Value::U8(v) => Some((*v).into()),
            Value::U16(v) => Some((*v).into()),
            Value::U32(v) => Some((*v).into()),
            Value::U64(v) => Some(*v),
            Value::I8(v) => (*v).try_into().ok(),
            Value::I16(v) => (*v).try_into().ok(),
            Value::I32(v) => (*v).try_into().ok(),
            Value::I64(v) => (*v).try_into().ok(),
            _ => None,
        }
    }

    /// A fraction of the metadata.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.content.metadata.get(key)? {
            Value::F32(v) => Some((*v).into()),
            Value::F64(v) => Some(*v),
            _ => None,
        }
    }

    /// An element of an array of texts, such as a token by its id.
    pub fn text_at(&self, key: &str, index: u32) -> Option<&str> {
        match self.array(key)?.get(index as usize)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A yes or no of the metadata.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.content.metadata.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The elements of an array of the metadata.
    pub fn array(&self, key: &str) -> Option<&[Value]> {
        match self.content.metadata.get(key)? {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.integer(key)
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| damaged(&self.path, &format!("no number `{key}` in its metadata")))
    }

    fn token(&self, key: &str) -> Option<u32> {
        self.integer(key).and_then(|v| v.try_into().ok())
    }

    /// The model's dimensions, as the tensor library's Llama states them.
    ///
    /// # Errors
    /// Another architecture than Llama, something about it that is not implemented, or missing
    /// metadata.
    pub fn config(&self) -> Result<LlamaConfig> {
        let refuse = |what: String| Err(Error::malformed(&self.path, what));
        match self.text("general.architecture") {
            Some("llama") => {}
            Some(other) => {
                return refuse(format!(
                    "its architecture is `{other}`, only `llama` is supported: choose another model"
                ));
            }
            None => return Err(damaged(&self.path, "no `general.architecture`")),
        }
        if self.integer("llama.expert_count").is_some_and(|n| n > 0) {
            return refuse("mixtures of experts are not supported: choose another model".into());
        }
        let heads = self.required("llama.attention.head_count")?;
        let rows = self
            .content
            .tensor_infos
            .get("token_embd.weight")
            .and_then(|t| t.shape.dims().first().copied());
        let ends = [
            self.token("tokenizer.ggml.eos_token_id"),
            self.token("tokenizer.ggml.eot_token_id"),
        ];
        Ok(LlamaConfig {
            hidden_size: self.required("llama.embedding_length")?,
            intermediate_size: self.required("llama.feed_forward_length")?,
            vocab_size: match rows {
                Some(rows) => rows,
                None => self.required("llama.vocab_size")?,
            },
            num_hidden_layers: self.required("llama.block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: Some(match self.integer("llama.attention.head_count_kv") {
                Some(_) => self.required("llama.attention.head_count_kv")?,
                None => heads,
            }),
            rms_norm_eps: self
                .float("llama.attention.layer_norm_rms_epsilon")
                .ok_or_else(|| {
                    damaged(&self.path, "no `llama.attention.layer_norm_rms_epsilon`")
                })?,
            rope_theta: self.float("llama.rope.freq_base").unwrap_or(10_000.0) as f32,
            bos_token_id: self.token("tokenizer.ggml.bos_token_id"),
            eos_token_id: Some(LlamaEosToks::Multiple(ends.into_iter().flatten().collect())),
            rope_scaling: None,
            max_position_embeddings: self.required("llama.context_length")?,
            tie_word_embeddings: Some(!self.content.tensor_infos.contains_key("output.weight")),
        })
    }

    /// The same, checked for sense, in the form that the engine takes.
    ///
    /// # Errors
    /// As [`GgufModel::config`], and dimensions that do not fit each other.
    pub fn model_config(&self) -> Result<ModelConfig> {
        let head_dim = match self.integer("llama.attention.key_length") {
            Some(_) => Some(self.required("llama.attention.key_length")?),
            None => None,
        };
        let config = ModelConfig::from_llama(self.config()?, head_dim, self.rope_scaling()?)
            .map_err(|why| damaged(&self.path, &why))?;
        let window = self.integer("llama.attention.sliding_window");
        if window.is_some_and(|w| w > 0 && w < config.max_position_embeddings as u64) {
            return Err(Error::malformed(
                &self.path,
                "has a sliding window, which is not supported: choose another model",
            ));
        }
        let rotated = self.integer("llama.rope.dimension_count");
        if rotated.is_some_and(|n| n != config.head_dim as u64) {
            return Err(Error::malformed(
                &self.path,
                "rotates a part of each head only, which is not supported: choose another model",
            ));
        }
        Ok(config)
    }

    /// What the metadata and `rope_freqs.weight` (Llama 3's scaling, worked out) say of the
    /// rotary embedding.
    fn rope_scaling(&self) -> Result<Option<RopeScaling>> {
        let kind = self.text("llama.rope.scaling.type").unwrap_or("none");
        let divided = self.content.tensor_infos.contains_key(ROPE_FREQS);
        let factor = ["llama.rope.scaling.factor", "llama.rope.scale_linear"]
            .iter()
            .find_map(|key| self.float(key))
            .unwrap_or(1.0) as f32;
        match kind {
            "none" if divided => {
                let file = crate::regular_file::open(&self.path)?.into_inner();
                let divisors = self
                    .dequantize(&mut BufReader::new(file), ROPE_FREQS, None)
                    .and_then(|t| t.flatten_all()?.to_vec1::<f32>())
                    .map_err(|e| damaged(&self.path, &format!("{ROPE_FREQS}: {}", one_line(e))))?;
                Ok(Some(RopeScaling::Divisors(divisors)))
            }
            "linear" if divided => Err(Error::malformed(
                &self.path,
                "scales its rotary embedding twice, which is not supported: choose another model",
            )),
            // Files from before the key `type` have a factor alone.
            "none" | "linear" if factor == 1.0 => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear { factor })),
            "none" if self.text("llama.rope.scaling.type").is_none() => {
                Ok(Some(RopeScaling::Linear { factor }))
            }
            "none" => Ok(None),
            other => Err(Error::malformed(
                &self.path,
                format!(
                    "the scaling `{other}` of its rotary embedding is not supported: choose \
                     another model"
                ),
            )),
        }
    }

    /// The weights, under Hugging Face names; none is read yet.
    ///
    /// # Errors
    /// Tensors missing, misshapen, or not known to this program; the file cannot be read.
    pub(super) fn tensors(self) -> Result<GgufTensors> {
        let config = self.model_config()?;
        let file = crate::regular_file::open(&self.path)?.into_inner();
        let mut known = HashSet::new();
        for (name, shape) in config.tensor_shapes() {
            let stored = gguf_name(&name);
            let info =
                self.content.tensor_infos.get(&stored).ok_or_else(|| {
                    damaged(&self.path, &format!("the tensor `{stored}` is missing"))
                })?;
            if info.shape.dims() != shape {
                let found = info.shape.dims();
                return Err(damaged(
                    &self.path,
                    &format!("the tensor `{stored}` is {found:?}, not {shape:?}"),
                ));
            }
            known.insert(stored);
        }
        let mut others = self.content.tensor_infos.keys();
        if let Some(other) = others.find(|n| !known.contains(*n) && *n != ROPE_FREQS) {
            return Err(Error::malformed(
                &self.path,
                format!("has a tensor `{other}` that a plain Llama has not: choose another model"),
            ));
        }
        Ok(GgufTensors {
            reader: Mutex::new(BufReader::new(file)),
            model: self,
            config,
        })
    }

    fn dequantize(
        &self,
        reader: &mut (impl Read + Seek),
        name: &str,
        heads: Option<usize>,
    ) -> candle_core::Result<Tensor> {
        let tensor = self
            .content
            .tensor(reader, name, &Device::Cpu)?
            .dequantize(&Device::Cpu)?;
        match heads {
            Some(heads) => half_split(&tensor, heads),
            None => Ok(tensor),
        }
    }
}

/// The weights of a GGUF file, dequantized when they are asked for.
pub(super) struct GgufTensors {
    model: GgufModel,
    config: ModelConfig,
    reader: Mutex<BufReader<File>>,
}

impl Stored for GgufTensors {
    fn names(&self) -> Vec<String> {
        self.config.tensor_shapes().map(|(name, _)| name).collect()
    }

    fn describe(&self, name: &str) -> Option<(Vec<usize>, String)> {
        let mut shapes = self.config.tensor_shapes();
        let (_, shape) = shapes.find(|(known, _)| known == name)?;
        Some((shape, "F32".into()))
    }

    fn load(&self, name: &str) -> candle_core::Result<Tensor> {
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") => Some(self.config.num_attention_heads),
            Some("k_proj") => Some(self.config.num_key_value_heads),
            _ => None,
        };
        // Every read begins with a seek, so that a reader left anywhere will do.
        let mut reader = self
            .reader
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.model.dequantize(&mut *reader, &gguf_name(name), heads)
    }
}

/// Rows of each head from `0, d/2, 1, d/2 + 1, ...` back to `0, 1, 2, ...`.
fn half_split(weight: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, inner) = weight.dims2()?;
    weight
        .reshape((heads, rows / heads / 2, 2, inner))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, inner))
}

/// What llama.cpp calls a tensor of a Hugging Face checkpoint.
fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let inner = name.strip_prefix("model.layers.").unwrap_or(name);
    let (layer, part) = inner.split_once('.').unwrap_or((inner, ""));
    let part = match part.strip_suffix(".weight").unwrap_or(part) {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    };
    format!("blk.{layer}.{part}.weight")
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;
