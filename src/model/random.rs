//! Seeded random checkpoints of any shape: for tests, and for timing shapes whose weights
//! cannot be had.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::{Error, Result};

use super::weights::{Checkpoint, ModelConfig};

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
    /// the blocks. The same seed gives the same weights.
    ///
    /// # Errors
    /// If the tensors cannot be made (no memory).
    pub fn random(config: &ModelConfig, seed: u64) -> Result<Checkpoint> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = HashMap::new();
        let (hidden, inner, d) = (
            config.hidden_size,
            config.intermediate_size,
            config.head_dim,
        );
        let (q, kv) = (
            config.num_attention_heads * d,
            config.num_key_value_heads * d,
        );
        let mut matrix = |name: String, out: usize, inn: usize| -> Result<()> {
            let bound = (3.0 / inn as f32).sqrt();
            let values: Vec<f32> = (0..out * inn)
                .map(|_| rng.random_range(-bound..bound))
                .collect();
            let tensor = Tensor::from_vec(values, (out, inn), &Device::Cpu)?;
            tensors.insert(format!("{name}.weight"), tensor);
            Ok(())
        };
        matrix("model.embed_tokens".into(), config.vocab_size, hidden)?;
        if !config.tie_word_embeddings {
            matrix("lm_head".into(), config.vocab_size, hidden)?;
        }
        for i in 0..config.num_hidden_layers {
            let at = |name: &str| format!("model.layers.{i}.{name}");
            matrix(at("self_attn.q_proj"), q, hidden)?;
            matrix(at("self_attn.k_proj"), kv, hidden)?;
            matrix(at("self_attn.v_proj"), kv, hidden)?;
            matrix(at("self_attn.o_proj"), hidden, q)?;
            matrix(at("mlp.gate_proj"), inner, hidden)?;
            matrix(at("mlp.up_proj"), inner, hidden)?;
            matrix(at("mlp.down_proj"), hidden, inner)?;
        }
        let mut norms = vec!["model.norm".to_string()];
        for i in 0..config.num_hidden_layers {
            norms.push(format!("model.layers.{i}.input_layernorm"));
            norms.push(format!("model.layers.{i}.post_attention_layernorm"));
        }
        for name in norms {
            let values: Vec<f32> = (0..hidden).map(|_| rng.random_range(0.8..1.2)).collect();
            let tensor = Tensor::from_vec(values, hidden, &Device::Cpu)?;
            tensors.insert(format!("{name}.weight"), tensor);
        }
        Ok(Checkpoint {
            config: config.clone(),
            tensors,
        })
    }
}
