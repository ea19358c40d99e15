//! What a run will take, said and checked before its first step.

use serde::Serialize;

use crate::error::{Error, Result};

use super::Training;
use super::config::Checkpointing;
use super::objective::Objective;

/// Bytes that a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// Packed weights; in memory already.
    pub weights: usize,
    /// Activations and buffers of the largest micro-batch.
    pub activations: usize,
    /// Trained values, gradients, moments, and the best values so far.
    pub optimizer: usize,
    /// What the system says is free; none where it does not say.
    pub available: Option<usize>,
    /// Whether blocks are computed twice, so that their activations need not be kept.
    pub checkpointing: bool,
}

impl MemoryPlan {
    /// For a log: `weights 640 MB, activations 700 MB, optimizer 9 MB (17000 MB free)`.
    pub fn summary(&self) -> String {
        let mb = |bytes: usize| bytes.div_ceil(1_000_000);
        let free = self
            .available
            .map_or(String::new(), |a| format!(" ({} MB free)", mb(a)));
        let again = match self.checkpointing {
            true => ", blocks computed twice",
            false => "",
        };
        format!(
            "memory: weights {} MB, activations {} MB{again}, optimizer {} MB{free}",
            mb(self.weights),
            mb(self.activations),
            mb(self.optimizer)
        )
    }
}

impl Training {
    /// Estimates the run's memory, and turns checkpointing on where it is needed and allowed.
    ///
    /// # Errors
    /// If the run does not fit; the message names a remedy.
    pub fn plan_memory<O: Objective + ?Sized>(&mut self, objective: &O) -> Result<MemoryPlan> {
        let available = self.model.free_memory();
        self.plan_within(objective, available)
    }

    pub(super) fn plan_within<O: Objective + ?Sized>(
        &mut self,
        objective: &O,
        available: Option<usize>,
    ) -> Result<MemoryPlan> {
        let batch = largest_batch(objective, self.config.micro_batch_size);
        let optimizer = self.model.parameters.values.len() * 4 * 5;
        let (rows, wanted, longest) = match self.model.shares_beginnings() {
            true => batch.shared,
            false => batch.apart,
        };
        let [kept, again] =
            [false, true].map(|again| self.model.pass_bytes(rows, wanted, longest, again));
        let activations = |checkpointing| if checkpointing { again } else { kept };
        // A tenth is left to everything else.
        let fits = |checkpointing| {
            available.is_none_or(|a| activations(checkpointing) + optimizer <= a - a / 10)
        };
        let checkpointing = match self.config.checkpointing {
            Checkpointing::On => true,
            Checkpointing::Off => false,
            Checkpointing::Auto => !fits(false),
        };
        let plan = MemoryPlan {
            weights: self.model.weight_bytes(),
            activations: activations(checkpointing),
            optimizer,
            available,
            checkpointing,
        };
        if !fits(checkpointing) {
            let remedy = match checkpointing {
                false => "use a smaller --micro-batch-size or checkpointing = \"on\"",
                true if self.config.micro_batch_size > 1 => "use a smaller --micro-batch-size",
                true => "leave out the longest instructions",
            };
            return Err(Error::Memory(format!(
                "a micro-batch of {} examples needs more memory than there is: {remedy} ({})",
                self.config.micro_batch_size,
                plan.summary()
            )));
        }
        self.model.set_checkpointing(checkpointing);
        Ok(plan)
    }
}

/// What no micro-batch exceeds: rows, wanted rows, and the rows of a sequence.
struct Largest {
    /// With what all sequences begin with once.
    shared: (usize, usize, usize),
    /// With every sequence by itself.
    apart: (usize, usize, usize),
}

fn largest_batch<O: Objective + ?Sized>(objective: &O, micro_batch: usize) -> Largest {
    let mut sizes: Vec<(usize, usize)> = Vec::with_capacity(objective.len());
    let mut shared: Option<Vec<u32>> = None;
    for example in 0..objective.len() {
        let sequence = objective.sequence(example);
        sizes.push((sequence.tokens.len(), sequence.wanted.len()));
        match &mut shared {
            None => shared = Some(sequence.tokens),
            Some(shared) => {
                let same = shared.iter().zip(&sequence.tokens);
                shared.truncate(same.take_while(|(a, b)| a == b).count());
            }
        }
    }
    let shared = match sizes.len() {
        0 | 1 => 0,
        _ => shared.map_or(0, |s| s.len()),
    };
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.truncate(micro_batch);
    let longest = sizes.first().map_or(0, |(len, _)| *len);
    let wanted = sizes.iter().map(|(_, wanted)| wanted).sum();
    let all: usize = sizes.iter().map(|(len, _)| len).sum();
    let own: usize = sizes.iter().map(|(len, _)| len - shared.min(len - 1)).sum();
    Largest {
        shared: (shared + own, wanted, longest),
        apart: (all, wanted, longest),
    }
}
