//! How to train.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernel::Arithmetic;
use crate::tensor::Storage;

use super::adamw::cosine_with_warmup;
use super::objective::Objective;

/// In what the products with frozen weights are computed, forward and backward. Sums, norms,
/// attention, the adapter and its moments are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Single precision.
    #[default]
    F32,
    /// Nearly twice the speed where the processor has a dot product for it.
    Bf16,
}

impl Dtype {
    /// What the kernels call it.
    pub fn arithmetic(self) -> Arithmetic {
        match self {
            Dtype::F32 => Arithmetic::F32,
            Dtype::Bf16 => Arithmetic::Bf16,
        }
    }
}

/// Whether activations are computed again on the way back instead of kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    /// Where keeping them would not fit the memory there is.
    #[default]
    Auto,
    /// Always: a third more computing, for the memory of one block.
    On,
    /// Never.
    Off,
}

/// How to train. Defaults follow the paper's recipe except for the learning rate, which a
/// 135M model needs far higher than the paper's 2e-5 for 7B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Times that every example is seen.
    pub epochs: usize,
    /// Stop after this many optimizer steps, whatever the epochs say.
    pub max_steps: Option<usize>,
    /// Examples whose activations are in memory together.
    pub micro_batch_size: usize,
    /// Micro-batches a step.
    pub gradient_accumulation: usize,
    /// The highest, after the warm-up.
    pub learning_rate: f64,
    /// Share of all steps in which the learning rate rises.
    pub warmup_ratio: f64,
    /// No warm-up and no cosine.
    pub constant_rate: bool,
    /// Of AdamW ([`super::adamw::AdamW::weight_decay`]).
    pub weight_decay: f64,
    /// Largest gradient norm; none means no clipping.
    pub clip: Option<f64>,
    /// Of the products with frozen weights.
    pub dtype: Dtype,
    /// How frozen weights are kept in memory.
    pub frozen: Storage,
    /// Whether activations are kept.
    pub checkpointing: Checkpointing,
    /// Steps between two looks at the validation loss; by default a sixth of the run.
    pub evaluate_every: Option<usize>,
    /// Stop after so many looks without a new best validation loss.
    pub patience: Option<usize>,
    /// Steps between two checkpoints.
    pub checkpoint_every: usize,
    /// Of the order of examples, the adapter's beginning and its dropout.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            epochs: 3,
            max_steps: None,
            micro_batch_size: 16,
            gradient_accumulation: 2,
            learning_rate: 1e-3,
            warmup_ratio: 0.03,
            constant_rate: false,
            weight_decay: 0.0,
            clip: Some(1.0),
            dtype: Dtype::F32,
            frozen: Storage::Dense,
            checkpointing: Checkpointing::Auto,
            evaluate_every: None,
            patience: None,
            checkpoint_every: 20,
            seed: 42,
        }
    }
}

impl TrainConfig {
    /// Whether a run can go by these.
    ///
    /// # Errors
    /// Sizes of 0, or numbers that make no sense.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("epochs", Some(self.epochs)),
            ("micro_batch_size", Some(self.micro_batch_size)),
            ("gradient_accumulation", Some(self.gradient_accumulation)),
            ("checkpoint_every", Some(self.checkpoint_every)),
            ("max_steps", self.max_steps),
            ("evaluate_every", self.evaluate_every),
            ("patience", self.patience),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == Some(0)) {
            return Err(Error::Usage(format!("{name} must be at least 1")));
        }
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let wrong = if !positive(self.learning_rate) {
            "learning_rate must be above 0"
        } else if !(0.0..=1.0).contains(&self.warmup_ratio) {
            "warmup_ratio must be from 0 to 1"
        } else if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            "weight_decay must be 0 or more"
        } else if self.clip.is_some_and(|clip| !positive(clip)) {
            "clip must be above 0"
        } else {
            return Ok(());
        };
        Err(Error::Usage(wrong.into()))
    }

    fn steps_per_epoch(&self, examples: usize) -> usize {
        let size = self
            .micro_batch_size
            .saturating_mul(self.gradient_accumulation);
        examples.div_ceil(size)
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self, examples: usize) -> usize {
        let steps = self.epochs.saturating_mul(self.steps_per_epoch(examples));
        self.max_steps.map_or(steps, |most| steps.min(most))
    }

    /// Steps between two looks at the validation loss.
    pub fn evaluation_interval(&self, examples: usize) -> usize {
        let sixth = self.total_steps(examples).div_ceil(6).max(1);
        self.evaluate_every.unwrap_or(sixth)
    }

    /// The learning rate of `step` (counted from 0) of `total`.
    pub(super) fn rate(&self, step: usize, total: usize) -> f64 {
        let warmup = (self.warmup_ratio * total as f64).ceil() as usize;
        match self.constant_rate {
            true => self.learning_rate,
            false => self.learning_rate * cosine_with_warmup(step, warmup, total),
        }
    }

    /// The examples of step `step`, cut into micro-batches of similar lengths.
    pub(super) fn batches<O: Objective + ?Sized>(
        &self,
        objective: &O,
        step: usize,
    ) -> Vec<Vec<usize>> {
        let per_epoch = self.steps_per_epoch(objective.len());
        let (epoch, within) = (step / per_epoch, step % per_epoch);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..objective.len()).collect();
        order.shuffle(&mut rng);
        let size = self
            .micro_batch_size
            .saturating_mul(self.gradient_accumulation);
        let mut chosen: Vec<usize> = order.into_iter().skip(within * size).take(size).collect();
        chosen.sort_by_key(|&i| objective.tokens(i));
        chosen
            .chunks(self.micro_batch_size)
            .map(<[usize]>::to_vec)
            .collect()
    }
}
