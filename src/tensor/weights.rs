//! A Llama's weights on a device of the tensor library.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::memory;
use crate::model::{Checkpoint, ModelConfig};

use super::attention::Heads;
use super::device::free_memory;
use super::{Frozen, Storage};

/// How weights are kept, in what products are computed, and where.
#[derive(Clone)]
pub struct Form {
    /// Of the frozen matrices.
    pub storage: Storage,
    /// Of the products.
    pub dtype: DType,
    /// Where they are.
    pub device: Device,
}

/// The weights of a block.
pub struct BlockWeights {
    /// `[hidden]`
    pub input_norm: Tensor,
    /// `q`, `k` and `v` one below the other.
    pub qkv: Frozen,
    /// Of what attention found.
    pub o: Frozen,
    /// `[hidden]`
    pub post_attention_norm: Tensor,
    /// `gate` above `up`.
    pub gate_up: Frozen,
    /// Back to the residual stream.
    pub down: Frozen,
}

impl BlockWeights {
    /// Takes block `index` to the device, a matrix at a time.
    ///
    /// # Errors
    /// No memory there; matrices that cannot be kept so.
    pub fn new(checkpoint: &Checkpoint, index: usize, form: &Form) -> Result<BlockWeights> {
        let tensor = |name: &str| checkpoint.tensor(&format!("model.layers.{index}.{name}.weight"));
        let joined = |names: &[&str]| -> Result<Frozen> {
            let parts = names.iter().map(|name| tensor(name));
            let matrix = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
            Frozen::new(&matrix, form.storage, form.dtype, &form.device)
        };
        let norm = |name: &str| Ok::<_, crate::Error>(tensor(name)?.to_device(&form.device)?);
        Ok(BlockWeights {
            input_norm: norm("input_layernorm")?,
            qkv: joined(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            o: joined(&["self_attn.o_proj"])?,
            post_attention_norm: norm("post_attention_layernorm")?,
            gate_up: joined(&["mlp.gate_proj", "mlp.up_proj"])?,
            down: joined(&["mlp.down_proj"])?,
        })
    }

    /// Bytes of the matrices.
    pub fn bytes(&self) -> usize {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
            .map(Frozen::bytes)
            .iter()
            .sum()
    }
}

/// What a model has beside its blocks.
pub struct Tables {
    /// `[vocab, hidden]`
    pub embedding: Frozen,
    head: Option<Frozen>,
    /// `[hidden]`
    pub norm: Tensor,
}

impl Tables {
    /// Takes embedding, head and last norm to the device.
    ///
    /// # Errors
    /// No memory there; matrices that cannot be kept so.
    pub fn new(checkpoint: &Checkpoint, form: &Form) -> Result<Tables> {
        let table = |name: &str| -> Result<Frozen> {
            let matrix = checkpoint.tensor(name)?;
            Frozen::new(&matrix, of_tables(form.storage), form.dtype, &form.device)
        };
        Ok(Tables {
            embedding: table("model.embed_tokens.weight")?,
            head: match checkpoint.config.tie_word_embeddings {
                true => None,
                false => Some(table("lm_head.weight")?),
            },
            norm: checkpoint
                .tensor("model.norm.weight")?
                .to_device(&form.device)?,
        })
    }

    /// The output head, which may be the embedding.
    pub fn head(&self) -> &Frozen {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of the matrices.
    pub fn bytes(&self) -> usize {
        self.embedding.bytes() + self.head.as_ref().map_or(0, Frozen::bytes)
    }
}

/// Embedding and head are never kept in fewer than eight bits: every token passes through them.
fn of_tables(storage: Storage) -> Storage {
    match storage {
        Storage::Q4K => Storage::Q8_0,
        other => other,
    }
}

impl Heads {
    /// Those of a model.
    pub fn of(config: &ModelConfig) -> Heads {
        Heads {
            queries: config.num_attention_heads,
            keys: config.num_key_value_heads,
            dim: config.head_dim,
        }
    }
}

/// Refuses weights that the device has no room for; the message names what makes them fit.
///
/// # Errors
/// [`crate::Error::Memory`]; matrices that cannot be kept so.
pub fn check_memory(config: &ModelConfig, form: &Form) -> Result<()> {
    let (storage, dtype) = (form.storage, form.dtype);
    let mut needed = 0;
    for (name, shape) in config.tensor_shapes() {
        needed += match shape[..] {
            [out, row] if name.contains(".layers.") => storage.bytes((out, row), dtype)?,
            [out, row] => of_tables(storage).bytes((out, row), dtype)?,
            _ => 4 * shape.iter().product::<usize>(),
        };
    }
    let remedy = match (storage, dtype) {
        (Storage::Dense, DType::F32) => "use --dtype bf16 or --frozen-weights q8_0",
        (Storage::Dense, _) => "use --frozen-weights q8_0 or q4_k",
        (Storage::Q8_0, _) => "use --frozen-weights q4_k",
        (Storage::Q4K, _) => "choose a smaller --model",
    };
    let what = format!("the frozen weights ({}) take", storage.name());
    memory::check(&what, needed, free_memory(&form.device), remedy)
}
