//! A model's dimensions and weights in one form, whatever file they come from: f32 on the CPU,
//! under the names of Hugging Face checkpoints, one tensor at a time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::llama::{LlamaConfig, LlamaEosToks};

use crate::error::{Error, Result};
use crate::kernel::Arithmetic;

use super::gguf::GgufModel;
use super::rope::RopeScaling;
use super::source::{ModelFiles, WeightFiles, one_line};
use super::torch_file::TorchShards;

/// The dimensions of a Llama, checked to fit each other.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Elements of the residual stream.
    pub hidden_size: usize,
    /// Elements between the two products of the feed-forward part.
    pub intermediate_size: usize,
    /// Tokens there are, and rows of the embedding.
    pub vocab_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Added to the mean square before RMS norms take its root.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How they are stretched, where they are.
    pub rope_scaling: Option<RopeScaling>,
    /// Tokens of the longest context.
    pub max_position_embeddings: usize,
    /// Whether the embedding is the output head too.
    pub tie_word_embeddings: bool,
    /// The token that begins a text, where the model has one.
    pub bos_token_id: Option<u32>,
    /// Every token that ends a response.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Takes over the tensor library's configuration, but for its `rope_scaling`, which knows
    /// fewer kinds; `head_dim` where a model states it.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn from_llama(
        llama: LlamaConfig,
        head_dim: Option<usize>,
        rope_scaling: Option<RopeScaling>,
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
        if let Some(scaling) = &rope_scaling {
            scaling.check(head_dim)?;
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
            rope_scaling,
            max_position_embeddings: llama.max_position_embeddings,
            tie_word_embeddings: llama.tie_word_embeddings.unwrap_or(false),
            bos_token_id: llama.bos_token_id,
            eos_token_ids,
        })
    }

    /// Bytes of the matrices packed for the kernels, and of an embedding beside them; those of
    /// the blocks in so many directions, of which training needs more than one.
    pub fn packed_bytes(&self, arithmetic: Arithmetic, directions: f64) -> usize {
        let bytes = match arithmetic {
            Arithmetic::F32 => 4,
            Arithmetic::Bf16 => 2,
        };
        let heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads;
        let block = self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size);
        let blocks = (block * self.num_hidden_layers) as f64 * directions;
        let table = self.vocab_size * self.hidden_size;
        let embedding = match self.tie_word_embeddings {
            true => 0,
            false => 4 * table,
        };
        bytes * (blocks as usize + table) + embedding
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

/// A model's dimensions, and its weights where they lie: a tensor is read, widened and changed
/// when it is asked for, so that what is built from a checkpoint is in memory and the
/// checkpoint is not.
#[derive(Clone)]
pub struct Checkpoint {
    /// Its dimensions.
    pub config: ModelConfig,
    stored: Arc<dyn Stored>,
    /// Where it is stored, for messages.
    place: PathBuf,
    /// Tensors that stand in for stored ones.
    replaced: HashMap<String, Tensor>,
    /// Low-rank products that are added to stored ones.
    updates: HashMap<String, Vec<Update>>,
}

/// `scaling * b a`, to be added to a matrix.
#[derive(Debug, Clone)]
struct Update {
    scaling: f64,
    a: Tensor,
    b: Tensor,
}

impl Checkpoint {
    /// Opens a model's files and checks what they say of their tensors: all that the
    /// configuration asks for, and no others inside a block. Files are mapped (GGUF: read a
    /// tensor at a time), so that there is never more of them in memory than the largest tensor.
    ///
    /// # Errors
    /// Files that cannot be read or make no sense; a model that is not a plain Llama.
    pub fn load(files: &ModelFiles) -> Result<Checkpoint> {
        let (stored, dir): (Arc<dyn Stored>, _) = match (&files.weights, &files.dir) {
            (WeightFiles::Gguf(path), _) => {
                let model = GgufModel::open(path)?;
                let config = model.model_config()?;
                return Ok(Checkpoint::of(config, Arc::new(model.tensors()?), path));
            }
            (_, None) => {
                return Err(Error::malformed(
                    files.path(),
                    "has no config.json: give the model's directory",
                ));
            }
            (WeightFiles::Safetensors(paths), Some(dir)) => {
                for path in paths {
                    check_header(path)?;
                }
                // SAFETY: the mapping is only read; as with every mapped file, other programs
                // must not cut it while the model is loaded.
                let mapped = unsafe { MmapedSafetensors::multi(paths) }.map_err(|e| {
                    Error::malformed(dir, format!("{}: download it again", one_line(e)))
                })?;
                (Arc::new(mapped), dir)
            }
            (WeightFiles::Torch(paths), Some(dir)) => (Arc::new(TorchShards::open(paths)?), dir),
        };
        let config = ModelConfig::from_dir(dir)?;
        check_tensors(stored.as_ref(), dir, &config)?;
        Ok(Checkpoint::of(config, stored, dir))
    }

    /// Tensors that hold what the configuration asks for.
    pub(super) fn of(config: ModelConfig, stored: Arc<dyn Stored>, place: &Path) -> Checkpoint {
        Checkpoint {
            config,
            stored,
            place: place.to_path_buf(),
            replaced: HashMap::new(),
            updates: HashMap::new(),
        }
    }

    /// Keeps the first `blocks` blocks only, for a head on their state.
    ///
    /// # Errors
    /// If the model has fewer.
    pub fn truncate(&mut self, blocks: usize) -> Result<()> {
        if blocks == 0 || blocks > self.config.num_hidden_layers {
            return Err(Error::Usage(format!(
                "{blocks} blocks cannot be kept of a model that has {}",
                self.config.num_hidden_layers
            )));
        }
        self.config.num_hidden_layers = blocks;
        Ok(())
    }

    /// Whether the model has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.config.tensor_shapes().any(|(known, _)| known == name)
    }

    /// A tensor, f32 on the CPU.
    ///
    /// # Errors
    /// There is no tensor of that name, or it cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        if let Some(tensor) = self.replaced.get(name) {
            return Ok(tensor.clone());
        }
        if !self.has(name) {
            return Err(Error::Usage(format!("the model has no tensor `{name}`")));
        }
        let stored = self.stored.load(name).map_err(|e| {
            let why = format!("tensor `{name}`: {}: download it again", one_line(e));
            Error::malformed(&self.place, why)
        })?;
        let mut tensor = stored.to_dtype(DType::F32)?;
        for update in self.updates.get(name).into_iter().flatten() {
            let product = (update.b.matmul(&update.a)? * update.scaling)?;
            tensor = (tensor + product)?;
        }
        Ok(tensor)
    }

    /// A tensor's values, row after row.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn f32_values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(name)?.flatten_all()?.to_vec1::<f32>()?)
    }

    /// Every tensor, in memory.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let shapes = self.config.tensor_shapes();
        shapes
            .map(|(name, _)| Ok((name.clone(), self.tensor(&name)?)))
            .collect()
    }

    /// Puts a tensor (f32, on the CPU) in the place of a stored one.
    pub fn replace(&mut self, name: &str, tensor: Tensor) {
        self.updates.remove(name);
        self.replaced.insert(name.to_string(), tensor);
    }

    /// Replaces every matrix, which is in memory then.
    ///
    /// # Errors
    /// One that cannot be read or changed.
    pub fn map_matrices(&mut self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
        let names: Vec<String> = (self.config.tensor_shapes())
            .filter(|(_, shape)| shape.len() == 2)
            .map(|(name, _)| name)
            .collect();
        for name in names {
            let changed = change(&self.tensor(&name)?)?;
            self.replace(&name, changed);
        }
        Ok(())
    }

    /// Adds `scaling * b a` (`a` `[r, in]`, `b` `[out, r]`) to a matrix.
    ///
    /// # Errors
    /// There is no such matrix, or it has another shape.
    pub fn add_product(&mut self, name: &str, scaling: f64, a: &Tensor, b: &Tensor) -> Result<()> {
        let expected = vec![b.dim(0)?, a.dim(1)?];
        let mut shapes = self.config.tensor_shapes();
        if !shapes.any(|(known, shape)| known == name && shape == expected) {
            return Err(Error::Usage(format!(
                "`{name}` should be {} x {}",
                expected[0], expected[1]
            )));
        }
        if let Some(tensor) = self.replaced.get_mut(name) {
            *tensor = (&*tensor + (b.matmul(a)? * scaling)?)?;
            return Ok(());
        }
        let (a, b) = (a.clone(), b.clone());
        let updates = self.updates.entry(name.to_string()).or_default();
        updates.push(Update { scaling, a, b });
        Ok(())
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("place", &self.place)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The tensors of a model's files, whatever the files.
pub(super) trait Stored: Send + Sync {
    fn names(&self) -> Vec<String>;

    /// Shape and type of a tensor, the type by its safetensors name (`F32`, `F16`, `BF16`...).
    fn describe(&self, name: &str) -> Option<(Vec<usize>, String)>;

    /// A copy in the type it is stored in, rows one after the other.
    fn load(&self, name: &str) -> candle_core::Result<Tensor>;
}

impl Stored for MmapedSafetensors {
    fn names(&self) -> Vec<String> {
        self.tensors().into_iter().map(|(name, _)| name).collect()
    }

    fn describe(&self, name: &str) -> Option<(Vec<usize>, String)> {
        let view = self.get(name).ok()?;
        Some((view.shape().to_vec(), format!("{:?}", view.dtype())))
    }

    fn load(&self, name: &str) -> candle_core::Result<Tensor> {
        self.get(name)?.load(&Device::Cpu)
    }
}

/// Bytes of a safetensors file's header: some hundred a tensor, which become fifteen times as
/// many in memory.
const MOST_HEADER: u64 = 8 << 20;

/// Refuses what is no regular file, or has a header such as no model's.
///
/// # Errors
/// As said.
pub(crate) fn check_header(path: &Path) -> Result<()> {
    let mut file = crate::regular_file::open(path)?;
    let mut length = [0; 8];
    // A shorter file is told by whoever reads it.
    let read = std::io::Read::read_exact(&mut file, &mut length);
    match u64::from_le_bytes(length) {
        length if read.is_ok() && length > MOST_HEADER => Err(Error::malformed(
            path,
            format!("a header of {length} bytes makes no sense: download it again"),
        )),
        _ => Ok(()),
    }
}

/// What is missing, misshapen or too much is named.
fn check_tensors(stored: &dyn Stored, dir: &Path, config: &ModelConfig) -> Result<()> {
    let bad = |why: String| Error::malformed(dir, why);
    let mut known = HashSet::new();
    for (name, shape) in config.tensor_shapes() {
        let (found, dtype) = stored.describe(&name).ok_or_else(|| {
            bad(format!(
                "the tensor `{name}` is missing: download the weights again"
            ))
        })?;
        if found != shape {
            return Err(bad(format!(
                "the tensor `{name}` is {found:?}, not {shape:?}: config.json is another model's"
            )));
        }
        if !["F32", "F16", "BF16"].contains(&dtype.as_str()) {
            return Err(bad(format!(
                "the tensor `{name}` is stored as {dtype}: use f32, f16 or bf16 weights"
            )));
        }
        known.insert(name);
    }
    // Heads for other tasks are no loss; more inside a block would make another model.
    for name in stored.names() {
        let inside = name.starts_with("model.layers.") && !name.ends_with(".inv_freq");
        if inside && !known.contains(&name) {
            return Err(bad(format!(
                "has a tensor `{name}` that config.json does not account for: choose another model"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
