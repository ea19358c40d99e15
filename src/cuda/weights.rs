//! A model's weights on a card: bf16 matrices, joined where they share their input; f32 norms.

use cudarc::driver::{CudaSlice, DeviceRepr};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::Result;
use crate::model::{Checkpoint, ModelConfig};

use super::device::Device;
use super::kernels::Kernels;

pub(super) struct Weights {
    /// `[vocab, hidden]`.
    pub embedding: CudaSlice<u16>,
    /// Where it is not the embedding.
    pub head: Option<CudaSlice<u16>>,
    pub norm: CudaSlice<f32>,
    pub layers: Vec<Layer>,
}

pub(super) struct Layer {
    pub input_norm: CudaSlice<f32>,
    /// `q`, `k` and `v` one below the other.
    pub qkv: CudaSlice<u16>,
    pub o: CudaSlice<u16>,
    pub post_attention_norm: CudaSlice<f32>,
    /// `gate` above `up`.
    pub gate_up: CudaSlice<u16>,
    pub down: CudaSlice<u16>,
}

impl Weights {
    /// Rounds a checkpoint to bf16 and copies it to the card.
    pub fn upload(device: &Device, checkpoint: &Checkpoint) -> Result<Weights> {
        let norm = |name: &str| device.upload(&checkpoint.f32_values(name)?, "the weights");
        let joined = |names: &[String]| -> Result<CudaSlice<u16>> {
            let mut values = Vec::new();
            for name in names {
                let part = checkpoint.f32_values(name)?;
                values.extend(part.iter().map(|v| half::bf16::from_f32(*v).to_bits()));
            }
            device.upload(&values, "the weights")
        };
        let config = &checkpoint.config;
        let layers = (0..config.num_hidden_layers).map(|i| {
            let at = |name: &str| format!("model.layers.{i}.{name}.weight");
            Ok(Layer {
                input_norm: norm(&at("input_layernorm"))?,
                qkv: joined(&["q", "k", "v"].map(|n| at(&format!("self_attn.{n}_proj"))))?,
                o: joined(&[at("self_attn.o_proj")])?,
                post_attention_norm: norm(&at("post_attention_layernorm"))?,
                gate_up: joined(&[at("mlp.gate_proj"), at("mlp.up_proj")])?,
                down: joined(&[at("mlp.down_proj")])?,
            })
        });
        Ok(Weights {
            layers: layers.collect::<Result<_>>()?,
            embedding: joined(&["model.embed_tokens.weight".into()])?,
            head: match config.tie_word_embeddings {
                true => None,
                false => Some(joined(&["lm_head.weight".into()])?),
            },
            norm: norm("model.norm.weight")?,
        })
    }

    /// Random weights made on the card, distributed as [`Checkpoint::random`]'s (other values).
    pub fn random(
        device: &Device,
        kernels: &Kernels,
        config: &ModelConfig,
        seed: u64,
    ) -> Result<Weights> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (hidden, inner, d) = (
            config.hidden_size,
            config.intermediate_size,
            config.head_dim,
        );
        let q = config.num_attention_heads * d;
        let kv = config.num_key_value_heads * d;
        let mut matrix = |out: usize, inn: usize| -> Result<CudaSlice<u16>> {
            let bound = (3.0 / inn as f32).sqrt();
            kernels.random(device, out * inn, bound, rng.random())
        };
        let mut norms = ChaCha8Rng::seed_from_u64(seed ^ 1);
        let mut norm = || {
            let values: Vec<f32> = (0..hidden).map(|_| norms.random_range(0.8..1.2)).collect();
            device.upload(&values, "the weights")
        };
        let embedding = matrix(config.vocab_size, hidden)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(matrix(config.vocab_size, hidden)?),
        };
        let layers = (0..config.num_hidden_layers).map(|_| {
            Ok(Layer {
                input_norm: norm()?,
                qkv: matrix(q + 2 * kv, hidden)?,
                o: matrix(hidden, q)?,
                post_attention_norm: norm()?,
                gate_up: matrix(2 * inner, hidden)?,
                down: matrix(hidden, inner)?,
            })
        });
        Ok(Weights {
            layers: layers.collect::<Result<_>>()?,
            embedding,
            head,
            norm: norm()?,
        })
    }

    /// Bytes that every decode step reads: all but an embedding that is not the head as well.
    pub fn bytes_a_step(&self) -> usize {
        let layers: usize = self.layers.iter().map(Layer::bytes).sum();
        layers + bytes(self.head.as_ref().unwrap_or(&self.embedding)) + bytes(&self.norm)
    }
}

impl Layer {
    fn bytes(&self) -> usize {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
            .into_iter()
            .map(bytes)
            .sum::<usize>()
            + bytes(&self.input_norm)
            + bytes(&self.post_attention_norm)
    }
}

fn bytes<T: DeviceRepr>(slice: &CudaSlice<T>) -> usize {
    slice.len() * size_of::<T>()
}
