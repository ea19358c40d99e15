//! Seeded random checkpoints of any shape: for tests, and for timing shapes whose weights
//! cannot be had.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::{Error, Result};

use super::weights::{Checkpoint, ModelConfig, Stored};

impl ModelConfig {
    /// A Llama so small that tests build it in milliseconds: 2 blocks of 48, 3 query heads on
    /// 1 key head, 64 tokens.
    pub fn tiny() -> ModelConfig {
        ModelConfig {
            hidden_size: 48,
            intermediate_size: 64,
            vocab_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            num_key_value_heads: 1,
            head_dim: 16,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            max_position_embeddings: 256,
            tie_word_embeddings: true,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        }
    }
}

impl ModelConfig {
    /// The shape of SmolLM2-135M.
    pub fn smollm2_135m() -> ModelConfig {
        ModelConfig {
            hidden_size: 576,
            intermediate_size: 1536,
            vocab_size: 49_152,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 100_000.0,
            rope_scaling: None,
            max_position_embeddings: 8_192,
            tie_word_embeddings: true,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        }
    }
}

impl ModelConfig {
    /// The shape of Llama-2-7B, and so of Vicuna-7B v1.5.
    pub fn llama_7b() -> ModelConfig {
        ModelConfig {
            hidden_size: 4096,
            intermediate_size: 11_008,
            vocab_size: 32_000,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            max_position_embeddings: 4_096,
            tie_word_embeddings: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        }
    }

    /// A shape by the name that `--random-weights` and `random_weights` take.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub fn shape(name: &str) -> Result<ModelConfig> {
        Ok(match name {
            "tiny" => ModelConfig::tiny(),
            "smollm2-135m" => ModelConfig::smollm2_135m(),
            "llama-7b" => ModelConfig::llama_7b(),
            other => {
                return Err(Error::Usage(format!(
                    "no shape is called `{other}`: use tiny, smollm2-135m or llama-7b"
                )));
            }
        })
    }

    /// Weights of the model, all together.
    pub fn weight_count(&self) -> usize {
        self.tensor_shapes()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }
}

impl Checkpoint {
    /// Uniform weights with variance 1/in, norms near 1: activations keep their size through
    /// the blocks. A tensor's values are a function of the seed and its place in the model, made
    /// whenever it is asked for.
    pub fn random(config: &ModelConfig, seed: u64) -> Checkpoint {
        let tensors = RandomTensors {
            config: config.clone(),
            seed,
        };
        Checkpoint::of(
            config.clone(),
            Arc::new(tensors),
            Path::new("random weights"),
        )
    }
}

struct RandomTensors {
    config: ModelConfig,
    seed: u64,
}

impl Stored for RandomTensors {
    fn names(&self) -> Vec<String> {
        self.config.tensor_shapes().map(|(name, _)| name).collect()
    }

    fn describe(&self, name: &str) -> Option<(Vec<usize>, String)> {
        let mut shapes = self.config.tensor_shapes();
        let (_, shape) = shapes.find(|(known, _)| known == name)?;
        Some((shape, "F32".into()))
    }

    fn load(&self, name: &str) -> candle_core::Result<Tensor> {
        let mut shapes = self.config.tensor_shapes().enumerate();
        let Some((place, (_, shape))) = shapes.find(|(_, (known, _))| known == name) else {
            candle_core::bail!("no tensor `{name}`")
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(place as u64);
        let range = match shape[..] {
            [_, inputs] => {
                let bound = (3.0 / inputs as f32).sqrt();
                -bound..bound
            }
            _ => 0.8..1.2,
        };
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| rng.random_range(range.clone()))
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}
