//! How fast LoRA tuning goes on a device, and in how much memory: steps of the paper's adapter
//! (section 3.2) on made-up examples of one length.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::error::Result;
use crate::kernel::Team;
use crate::lora::{Adapter, LoraConfig};
use crate::model::Checkpoint;

use super::llama::{Options, TrainableLlama};
use super::{Example, MemoryPlan, TrainConfig, Training};

/// Tokens of an example's answer: a number and the end.
const TARGET: usize = 3;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TuningLoad {
    /// Optimizer steps that count; one more goes before.
    pub steps: usize,
    /// Examples of a micro-batch; a step has two.
    pub micro_batch: usize,
    /// Tokens of an example, its answer's among them.
    pub tokens: usize,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct TuningRate {
    /// What was timed.
    pub load: TuningLoad,
    /// Of the median step.
    pub examples_per_s: f64,
    /// Of the slowest step.
    pub least: f64,
    /// Of the fastest step.
    pub most: f64,
    /// The loss before the first step and after the last, nats a token: whether it learns.
    pub losses: (f64, f64),
    /// The memory that was reckoned with.
    pub memory: MemoryPlan,
}

/// Times optimizer steps with AdamW and dropout, as [`Training`] does them.
///
/// # Errors
/// What does not fit the memory or the model.
pub fn tuning_rate(
    checkpoint: Checkpoint,
    options: Options,
    load: TuningLoad,
    team: Arc<Team>,
) -> Result<TuningRate> {
    let config = TrainConfig {
        epochs: 1,
        micro_batch_size: load.micro_batch,
        gradient_accumulation: 2,
        ..TrainConfig::default()
    };
    let shape = checkpoint.config.clone();
    let a_step = config.micro_batch_size * config.gradient_accumulation;
    let token = |i: usize| (i * 104_729 % shape.vocab_size) as u32;
    let examples: Vec<Example> = (0..a_step * (load.steps + 1))
        .map(|example| Example {
            // No two begin alike: nothing is shared.
            prompt: (0..load.tokens.saturating_sub(TARGET).max(1))
                .map(|i| token(example * 7919 + i + 17))
                .collect(),
            target: (0..TARGET).map(|i| token(i + 5)).collect(),
        })
        .collect();
    let adapter = Adapter::new(LoraConfig::default(), &shape, "timing", config.seed)?;
    let model = TrainableLlama::with_options(&checkpoint, Some(adapter), team, options)?;
    drop(checkpoint);
    let mut training = Training::new(model, config)?;
    let memory = training.plan_memory(&examples)?;
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    let mut begun = Instant::now();
    training.run(&examples, &mut |_, record| {
        losses.push(record.loss);
        if record.step > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
        }
        begun = Instant::now();
        Ok(ControlFlow::Continue(()))
    })?;
    seconds.sort_by(f64::total_cmp);
    let rate = |at: usize| seconds.get(at).map_or(f64::NAN, |s| a_step as f64 / s);
    Ok(TuningRate {
        load,
        examples_per_s: rate(seconds.len() / 2),
        least: rate(seconds.len().saturating_sub(1)),
        most: rate(0),
        losses: (losses[0], losses[losses.len() - 1]),
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn what_is_timed_learns() {
        for without_kernels in [false, true] {
            let options = Options {
                without_kernels,
                ..Options::default()
            };
            let load = TuningLoad {
                steps: 12,
                micro_batch: 4,
                tokens: 12,
            };
            let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 3);
            let rate = tuning_rate(checkpoint, options, load, Team::new(2)).unwrap();
            assert!(rate.least > 0.0 && rate.least <= rate.examples_per_s);
            assert!(rate.examples_per_s <= rate.most);
            assert!(rate.losses.1 < rate.losses.0, "{:?}", rate.losses);
        }
    }
}
