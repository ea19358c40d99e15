//! Tuning an adapter: sequences in, a loss on the states of some of their positions, gradients
//! by a reverse pass written by hand on the engine's kernels, AdamW with warm-up and cosine.
//! Order of the data, dropout and steps follow from one seed, so a run stopped at any step and
//! resumed gives the same adapter, bit for bit.

pub mod adamw;
mod attention;
pub mod batch;
mod block;
mod body;
mod buffer;
pub mod checkpoint;
pub mod config;
pub mod dropout;
pub mod length_head;
mod linear;
pub mod llama;
pub mod memory;
pub mod objective;
pub mod parameters;
pub mod rate;
mod rows;
pub mod tensorboard;

use std::ops::ControlFlow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use block::StepTimes;
pub use config::{Checkpointing, Dtype, TrainConfig};
pub use memory::MemoryPlan;
pub use objective::{Example, Learning, Objective};

use adamw::AdamW;
use dropout::{Dropout, mix};
use llama::TrainableLlama;

/// One optimizer step, as logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counted from 0.
    pub step: usize,
    /// Mean over the loss terms of the step (for text: cross-entropy, nats, a target token),
    /// before the update.
    pub loss: f64,
    /// The rate of this step.
    pub learning_rate: f64,
    /// Before clipping and before the update.
    pub grad_norm: f64,
    /// Tokens (prompt and target, shared beginnings counted for each) trained on per second.
    pub tokens_per_s: f64,
}

/// What did best on validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Steps done then.
    pub step: usize,
    /// Mean over the loss terms of the validation examples.
    pub loss: f64,
    pub(crate) values: Vec<f32>,
}

/// A training run between two steps: what a checkpoint holds.
pub struct Training {
    /// How it is trained.
    pub config: TrainConfig,
    /// The frozen model and what is trained on it.
    pub model: TrainableLlama,
    /// The moments, and how many steps made them.
    pub optimizer: AdamW,
    /// Steps done.
    pub step: usize,
    /// The best of all [`Training::evaluate`].
    pub best: Option<Best>,
    /// Evaluations since the best.
    pub(crate) stale: usize,
}

impl Training {
    /// A run before its first step.
    ///
    /// # Errors
    /// An invalid configuration.
    pub fn new(model: TrainableLlama, config: TrainConfig) -> Result<Training> {
        config.validate()?;
        Ok(Training {
            optimizer: AdamW::new(config.weight_decay),
            config,
            model,
            step: 0,
            best: None,
            stale: 0,
        })
    }

    /// Trains to the end, or until `after_step` breaks (it is told of every step).
    ///
    /// # Errors
    /// No examples, a loss or a gradient that is not a number (nothing is updated then).
    pub fn run<O: Objective + ?Sized>(
        &mut self,
        objective: &O,
        after_step: &mut dyn FnMut(&mut Training, &StepRecord) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if objective.is_empty() {
            return Err(Error::Usage("there are no examples to train on".into()));
        }
        while self.step < self.config.total_steps(objective.len()) {
            let record = self.one_step(objective)?;
            if after_step(self, &record)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn one_step<O: Objective + ?Sized>(&mut self, objective: &O) -> Result<StepRecord> {
        let begun = Instant::now();
        let total = self.config.total_steps(objective.len());
        let rate = self.config.rate(self.step, total);
        let batches = self.config.batches(objective, self.step);
        let sum = |of: &dyn Fn(usize) -> usize| batches.iter().flatten().map(|&i| of(i)).sum();
        let terms: usize = sum(&|i| objective.terms(i));
        let tokens: usize = sum(&|i| objective.tokens(i));
        self.model.parameters.clear_gradients();
        let mut loss = 0.0;
        for (index, examples) in batches.iter().enumerate() {
            let place = mix(self.step as u64) ^ index as u64;
            let key = mix(self.config.seed ^ place);
            let dropout = Dropout::new(self.model.dropout_rate(), key);
            run_batch(&mut self.model, objective, examples, dropout)?;
            let weight = 1.0 / terms as f64;
            let learning = Some(Learning { weight, key });
            loss += weight * objective.loss(&mut self.model, examples, learning)?;
            self.model.backward()?;
        }
        let grad_norm = match self.config.clip {
            Some(limit) => self.model.parameters.clip(limit),
            None => self.model.parameters.gradient_norm(),
        };
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss of step {} is {loss}, its gradient {grad_norm}: lower the learning rate \
                 ({:.1e})",
                self.step, self.config.learning_rate
            )));
        }
        self.optimizer.step(&mut self.model.parameters, rate);
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

    /// The mean loss on validation examples, and whether it is the best so far: then the values
    /// are kept.
    ///
    /// # Errors
    /// No memory.
    pub fn evaluate<O: Objective + ?Sized>(&mut self, validation: &O) -> Result<f64> {
        let loss = mean_loss(&mut self.model, validation, self.config.micro_batch_size)?;
        if self.best.as_ref().is_none_or(|best| loss < best.loss) && loss.is_finite() {
            self.best = Some(Best {
                step: self.step,
                loss,
                values: self.model.parameters.values.clone(),
            });
            self.stale = 0;
        } else {
            self.stale += 1;
        }
        Ok(loss)
    }

    /// Whether the validation loss has not become better for as many evaluations as the
    /// configuration allows.
    pub fn out_of_patience(&self) -> bool {
        self.config.patience.is_some_and(|most| self.stale >= most)
    }

    /// Goes back to the values that did best on validation, if any were looked at.
    pub fn take_best(&mut self) {
        if let Some(best) = &self.best {
            self.model.parameters.values.clone_from(&best.values);
        }
    }
}

fn run_batch<O: Objective + ?Sized>(
    model: &mut TrainableLlama,
    objective: &O,
    examples: &[usize],
    dropout: Dropout,
) -> Result<()> {
    let sequences: Vec<_> = examples.iter().map(|&i| objective.sequence(i)).collect();
    let batch = model.batch(&sequences)?;
    model.forward(batch, dropout)
}

/// Mean loss over the terms of all examples, without dropout, `micro_batch` examples at once.
///
/// # Errors
/// No memory, or an example the model cannot take.
pub fn mean_loss<O: Objective + ?Sized>(
    model: &mut TrainableLlama,
    objective: &O,
    micro_batch: usize,
) -> Result<f64> {
    let mut order: Vec<usize> = (0..objective.len()).collect();
    order.sort_by_key(|&i| objective.tokens(i));
    let (mut loss, mut terms) = (0.0, 0);
    for examples in order.chunks(micro_batch.max(1)) {
        run_batch(model, objective, examples, Dropout::off())?;
        loss += objective.loss(model, examples, None)?;
        terms += examples.iter().map(|&i| objective.terms(i)).sum::<usize>();
    }
    Ok(loss / terms.max(1) as f64)
}

#[cfg(test)]
mod tests;
