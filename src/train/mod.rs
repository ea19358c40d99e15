//! Tuning an adapter: prompts with target tokens in, cross-entropy on the targets alone,
//! AdamW with warm-up and cosine. Order of the data, dropout and steps follow from one seed,
//! so a run stopped at any step and resumed gives the same adapter.

pub mod adamw;
pub mod checkpoint;
pub mod dropout;
pub mod frozen;
pub mod llama;

use std::ops::ControlFlow;
use std::time::Instant;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use adamw::{AdamW, Gradients, cosine_with_warmup};
use dropout::Dropout;
use llama::TrainableLlama;

/// A prompt and the tokens that should follow it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    pub prompt: Vec<u32>,
    pub target: Vec<u32>,
}

/// How to train. Defaults follow the paper's recipe except for the learning rate, which a
/// 135M model needs far higher than the paper's 2e-5 for 7B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    pub epochs: usize,
    /// Stop after this many optimizer steps, whatever the epochs say.
    pub max_steps: Option<usize>,
    pub micro_batch_size: usize,
    pub gradient_accumulation: usize,
    pub learning_rate: f64,
    /// Share of all steps in which the learning rate rises.
    pub warmup_ratio: f64,
    /// No warm-up and no cosine.
    pub constant_rate: bool,
    pub weight_decay: f64,
    /// Largest gradient norm; none means no clipping.
    pub clip: Option<f64>,
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
            seed: 42,
        }
    }
}

impl TrainConfig {
    /// # Errors
    /// Sizes of 0 or a learning rate that is not positive.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            self.epochs,
            self.micro_batch_size,
            self.gradient_accumulation,
        ];
        if sizes.contains(&0)
            || self.max_steps == Some(0)
            || self.learning_rate.is_nan()
            || self.learning_rate <= 0.0
        {
            return Err(Error::Usage(
                "training needs at least one epoch, one step, batches of at least one example \
                 and a learning rate above 0"
                    .into(),
            ));
        }
        Ok(())
    }

    fn steps_per_epoch(&self, examples: usize) -> usize {
        examples.div_ceil(self.micro_batch_size * self.gradient_accumulation)
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self, examples: usize) -> usize {
        let steps = self.epochs * self.steps_per_epoch(examples);
        self.max_steps.map_or(steps, |most| steps.min(most))
    }

    /// The examples of step `step`, cut into micro-batches of similar lengths.
    fn batches(&self, examples: &[Example], step: usize) -> Vec<Vec<usize>> {
        let per_epoch = self.steps_per_epoch(examples.len());
        let (epoch, within) = (step / per_epoch, step % per_epoch);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.shuffle(&mut rng);
        let size = self.micro_batch_size * self.gradient_accumulation;
        let mut chosen: Vec<usize> = order.into_iter().skip(within * size).take(size).collect();
        chosen.sort_by_key(|&i| examples[i].prompt.len() + examples[i].target.len());
        chosen
            .chunks(self.micro_batch_size)
            .map(<[usize]>::to_vec)
            .collect()
    }
}

/// One optimizer step, as logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counted from 0.
    pub step: usize,
    /// Cross-entropy, nats, mean over the target tokens of the step, before the update.
    pub loss: f64,
    pub learning_rate: f64,
    /// Before clipping and before the update.
    pub grad_norm: f64,
    /// Tokens (prompt and target, no padding) trained on per second.
    pub tokens_per_s: f64,
}

/// A training run between two steps: what a checkpoint holds.
pub struct Training {
    pub config: TrainConfig,
    pub model: TrainableLlama,
    pub optimizer: AdamW,
    /// Steps done.
    pub step: usize,
}

impl Training {
    /// # Errors
    /// An invalid configuration.
    pub fn new(model: TrainableLlama, config: TrainConfig) -> Result<Training> {
        config.validate()?;
        Ok(Training {
            optimizer: AdamW::new(config.weight_decay),
            config,
            model,
            step: 0,
        })
    }

    /// Trains to the end, or until `after_step` breaks (it is told of every step).
    ///
    /// # Errors
    /// No examples, a loss that is not a number, a variable without gradient.
    pub fn run(
        &mut self,
        examples: &[Example],
        after_step: &mut dyn FnMut(&Training, &StepRecord) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if examples.is_empty() {
            return Err(Error::Usage("there are no examples to train on".into()));
        }
        while self.step < self.config.total_steps(examples.len()) {
            let record = self.one_step(examples)?;
            if after_step(self, &record)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn one_step(&mut self, examples: &[Example]) -> Result<StepRecord> {
        let begun = Instant::now();
        let total = self.config.total_steps(examples.len());
        let warmup = (self.config.warmup_ratio * total as f64).ceil() as usize;
        let factor = if self.config.constant_rate {
            1.0
        } else {
            cosine_with_warmup(self.step, warmup, total)
        };
        let rate = factor * self.config.learning_rate;
        let batches = self.config.batches(examples, self.step);
        let targets: usize = batches
            .iter()
            .flatten()
            .map(|&i| examples[i].target.len())
            .sum();
        let mut dropout = Dropout::new(
            self.model.dropout_rate(),
            self.config.seed ^ 0x00d1_0b0e,
            self.step as u64,
        );
        let mut grads = Gradients::default();
        let mut loss = 0.0;
        for batch in &batches {
            let examples: Vec<&Example> = batch.iter().map(|&i| &examples[i]).collect();
            let batch_loss = summed_loss(&self.model, &examples, &mut dropout)?;
            let batch_loss = (batch_loss / targets as f64)?;
            loss += f64::from(batch_loss.to_scalar::<f32>()?);
            if !loss.is_finite() {
                return Err(Error::Numeric(format!(
                    "the loss of step {} is not a number: lower the learning rate ({rate:.1e})",
                    self.step
                )));
            }
            grads.add(self.model.vars(), &batch_loss.backward()?)?;
        }
        let grad_norm = match self.config.clip {
            Some(limit) => grads.clip(limit)?,
            None => grads.norm()?,
        };
        self.optimizer.step(self.model.vars(), &grads, rate)?;
        let tokens: usize = batches
            .iter()
            .flatten()
            .map(|&i| examples[i].prompt.len() + examples[i].target.len())
            .sum();
        let record = StepRecord {
            step: self.step,
            loss,
            learning_rate: rate,
            grad_norm,
            tokens_per_s: tokens as f64 / begun.elapsed().as_secs_f64(),
        };
        self.step += 1;
        Ok(record)
    }
}

/// Cross-entropy summed over the targets of a batch: a scalar tensor.
fn summed_loss(
    model: &TrainableLlama,
    examples: &[&Example],
    dropout: &mut Dropout,
) -> Result<candle_core::Tensor> {
    let mut tokens = Vec::new();
    let mut wanted = Vec::new();
    let mut targets = Vec::new();
    for (row, example) in examples.iter().enumerate() {
        let mut input = example.prompt.clone();
        input.extend_from_slice(&example.target[..example.target.len().saturating_sub(1)]);
        tokens.push(input);
        for (i, target) in example.target.iter().enumerate() {
            wanted.push((row, example.prompt.len() - 1 + i));
            targets.push(*target);
        }
    }
    let logits = model.logits(&tokens, &wanted, dropout)?;
    let count = targets.len();
    let targets = candle_core::Tensor::from_vec(targets, count, &candle_core::Device::Cpu)?;
    let mean = candle_nn::loss::cross_entropy(&logits, &targets)?;
    Ok((mean * count as f64)?)
}

/// Mean cross-entropy over the targets of `examples`, without dropout.
///
/// # Errors
/// Only the tensor library's own.
pub fn mean_loss(model: &TrainableLlama, examples: &[Example], batch: usize) -> Result<f64> {
    let mut loss = 0.0;
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|e| e.prompt.len());
    for batch in order.chunks(batch.max(1)) {
        let sum = summed_loss(model, batch, &mut Dropout::off())?;
        loss += f64::from(sum.to_scalar::<f32>()?);
    }
    let targets: usize = examples.iter().map(|e| e.target.len()).sum();
    Ok(loss / targets.max(1) as f64)
}

#[cfg(test)]
mod tests;
