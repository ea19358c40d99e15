//! Low-rank adapters (LoRA, Hu et al. 2021): `W x + scaling * B (A x)` with `A` `[r, in]` and
//! `B` `[out, r]`, kept apart from the frozen weights and mergeable into them.

pub mod peft;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Checkpoint, ModelConfig};

/// The linear layers of a block that an adapter may sit on, with the part of the block.
const TARGETS: [(&str, &str); 7] = [
    ("q_proj", "self_attn"),
    ("k_proj", "self_attn"),
    ("v_proj", "self_attn"),
    ("o_proj", "self_attn"),
    ("gate_proj", "mlp"),
    ("up_proj", "mlp"),
    ("down_proj", "mlp"),
];

/// Shape and place of an adapter. The defaults are the paper's (section 3.2 and its code).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of [`LoraConfig::scaling`].
    pub alpha: f64,
    /// Share of the adapter's inputs dropped while training.
    pub dropout: f64,
    /// The linear layers of a block that are adapted, by the last part of their names (`q_proj`).
    pub target_modules: Vec<String>,
    /// Scale by alpha / sqrt(r) instead of alpha / r.
    pub use_rslora: bool,
    /// Only the top so many blocks; becomes `layers_to_transform` once the model is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Only these blocks, counted from 0 (PEFT's name); all where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            alpha: 16.0,
            dropout: 0.05,
            target_modules: vec!["q_proj".into(), "v_proj".into()],
            use_rslora: false,
            layers: None,
            layers_to_transform: None,
        }
    }
}

impl LoraConfig {
    /// What `B (A x)` is multiplied by: alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023).
    pub fn scaling(&self) -> f64 {
        if self.use_rslora {
            self.alpha / (self.r as f64).sqrt()
        } else {
            self.alpha / self.r as f64
        }
    }

    /// Whether such an adapter can be.
    ///
    /// # Errors
    /// A rank of 0, a dropout outside [0, 1), an unknown target.
    pub fn validate(&self) -> Result<()> {
        if self.r == 0 || !(0.0..1.0).contains(&self.dropout) || self.target_modules.is_empty() {
            return Err(Error::Usage(
                "LoRA needs r >= 1, 0 <= dropout < 1 and at least one target module".into(),
            ));
        }
        for target in &self.target_modules {
            if !TARGETS.iter().any(|(name, _)| name == target) {
                return Err(Error::Usage(format!(
                    "`{target}` is not a linear layer of a Llama block; choose from {}",
                    TARGETS.map(|(name, _)| name).join(", ")
                )));
            }
        }
        let none = self.layers_to_transform.as_ref().is_some_and(Vec::is_empty);
        if self.layers == Some(0) || none {
            return Err(Error::Usage(
                "LoRA needs at least one block: leave `layers` out to adapt all".into(),
            ));
        }
        if self.layers.is_some() && self.layers_to_transform.is_some() {
            return Err(Error::Usage(
                "`layers` and `layers_to_transform` name the same thing: give one".into(),
            ));
        }
        Ok(())
    }

    /// Turns `layers` into the blocks of a model of `count` blocks.
    ///
    /// # Errors
    /// Blocks that the model does not have.
    pub fn resolved(mut self, count: usize) -> Result<LoraConfig> {
        let most = self
            .layers
            .or_else(|| Some(self.layers_to_transform.as_ref()?.iter().max()? + 1));
        if let Some(most) = most.filter(|most| *most > count) {
            return Err(Error::Usage(format!(
                "the adapter asks for {most} blocks, the model has {count}"
            )));
        }
        if let Some(top) = self.layers.take() {
            self.layers_to_transform = Some((count - top..count).collect());
        }
        Ok(self)
    }

    fn adapts(&self, block: usize) -> bool {
        let chosen = self.layers_to_transform.as_ref();
        chosen.is_none_or(|chosen| chosen.contains(&block))
    }

    /// The first adapted block of `count`; `count` if there is none.
    pub fn lowest_layer(&self, count: usize) -> usize {
        (0..count).find(|i| self.adapts(*i)).unwrap_or(count)
    }

    /// Full names (`model.layers.0.self_attn.q_proj`) and shapes (out, in) of all targets.
    pub fn places(&self, model: &ModelConfig) -> Vec<(String, usize, usize)> {
        let hidden = model.hidden_size;
        let q = model.num_attention_heads * model.head_dim;
        let kv = model.num_key_value_heads * model.head_dim;
        let shape = |name: &str| match name {
            "q_proj" => (q, hidden),
            "k_proj" | "v_proj" => (kv, hidden),
            "o_proj" => (hidden, q),
            "down_proj" => (hidden, model.intermediate_size),
            _ => (model.intermediate_size, hidden),
        };
        (0..model.num_hidden_layers)
            .filter(|i| self.adapts(*i))
            .flat_map(|i| {
                TARGETS
                    .iter()
                    .filter(|(name, _)| self.target_modules.iter().any(|t| t == name))
                    .map(move |(name, part)| (format!("model.layers.{i}.{part}.{name}"), *name))
            })
            .map(|(full, name)| (full, shape(name).0, shape(name).1))
            .collect()
    }
}

/// The two matrices of one adapted layer, f32.
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// `[r, in]`
    pub a: Tensor,
    /// `[out, r]`
    pub b: Tensor,
}

/// A whole adapter: pairs by the full name of their layer.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Its shape and place.
    pub config: LoraConfig,
    /// Name of the model it was made for.
    pub base_model: String,
    /// By name without `.weight`, e.g. `model.layers.0.self_attn.q_proj`.
    pub pairs: BTreeMap<String, LoraPair>,
}

impl Adapter {
    /// A fresh adapter that changes nothing yet: `A` Kaiming-uniform (a = sqrt 5, as PEFT
    /// does: bound 1/sqrt(in)), `B` zero.
    ///
    /// # Errors
    /// An invalid configuration.
    pub fn new(
        config: LoraConfig,
        model: &ModelConfig,
        base_model: &str,
        seed: u64,
    ) -> Result<Adapter> {
        config.validate()?;
        let config = config.resolved(model.num_hidden_layers)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut pairs = BTreeMap::new();
        for (name, out, inn) in config.places(model) {
            let bound = 1.0 / (inn as f32).sqrt();
            let values: Vec<f32> = (0..config.r * inn)
                .map(|_| rng.random_range(-bound..bound))
                .collect();
            let pair = LoraPair {
                a: Tensor::from_vec(values, (config.r, inn), &Device::Cpu)?,
                b: Tensor::zeros((out, config.r), candle_core::DType::F32, &Device::Cpu)?,
            };
            pairs.insert(name, pair);
        }
        Ok(Adapter {
            config,
            base_model: base_model.to_string(),
            pairs,
        })
    }

    /// Adds `scaling * B A` to the weights it sits on.
    ///
    /// # Errors
    /// If the checkpoint lacks a layer or has another shape there: the adapter was made for
    /// another model.
    pub fn merge_into(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        for (name, pair) in &self.pairs {
            let key = format!("{name}.weight");
            let added = checkpoint.add_product(&key, self.config.scaling(), &pair.a, &pair.b);
            added.map_err(|why| {
                Error::Usage(format!(
                    "the adapter does not fit this model: {why}; it was made for `{}`",
                    self.base_model
                ))
            })?;
        }
        Ok(())
    }
}
