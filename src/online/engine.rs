//! The engine: continuous batching by the iteration, with chunked prefill, a limit of rows, a
//! token budget an iteration and paged keys and values, as vLLM does it.
//!
//! An iteration decodes one token of every row and uses what is left of the token budget for
//! the prefill of admitted prompts, in order of admission. Its time is the step-time model's:
//! the weights are read once, rows, positions and prompt tokens are added. Where no prefill is
//! under way, all iterations up to the next event are charged at once.

mod admission;
mod iteration;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use serde::{Deserialize, Serialize};

use super::itl::Gaps;
use super::kv::Blocks;
use super::policy::{Known, Policy};
use super::queue::Queue;
use super::{Fate, Request, Served};
use crate::error::{Error, Result};
use crate::execute::StepTimeModel;

/// What happens to a request whose memory is taken.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Overflow {
    /// Its keys and values are computed anew when it goes on.
    #[default]
    Recompute,
    /// They are copied out and back; everybody waits for the copy.
    Swap { s_per_token: f64 },
}

/// Limits of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Rows at most.
    pub slots: usize,
    /// Tokens an iteration computes at most, decoded and prefilled.
    pub token_budget: usize,
    /// Tokens that the keys and values of all rows have room for; 0: without end.
    pub kv_tokens: u64,
    /// Tokens of a block of keys and values.
    pub block: u64,
    /// Share of the blocks that is kept free on admission, for the rows that grow.
    pub watermark: f64,
    pub overflow: Overflow,
}

impl Default for Limits {
    /// vLLM's, and memory without end.
    fn default() -> Limits {
        Limits {
            slots: 256,
            token_budget: 2048,
            kv_tokens: 0,
            block: 16,
            watermark: 0.01,
            overflow: Overflow::Recompute,
        }
    }
}

impl Limits {
    /// Memory without end and prompts that are prefilled whole, all those that are admitted
    /// together: the built-in engine. Here their prefill and a step of the rows are one
    /// iteration, there they are two; over whole answers that is a fraction of a percent.
    pub fn whole_prompts(slots: usize) -> Limits {
        Limits {
            slots,
            token_budget: 1 << 30,
            ..Limits::default()
        }
    }

    /// # Errors
    /// Limits under which nothing could run.
    pub fn validate(&self) -> Result<()> {
        let swap = match self.overflow {
            Overflow::Recompute => 0.0,
            Overflow::Swap { s_per_token } => s_per_token,
        };
        if self.slots == 0
            || self.token_budget <= self.slots
            || self.block == 0
            || self.block > 1 << 20
            || !(0.0..1.0).contains(&self.watermark)
            || !(swap >= 0.0 && swap.is_finite())
        {
            return Err(Error::Usage(
                "an engine needs at least one of `slots`, a `token_budget` above them, a `block` \
                 of 1 to 1048576 tokens, a `watermark` from 0 to below 1 and an `s_per_token` of \
                 at least 0"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// In the order of the requests.
    pub fates: Vec<Fate>,
    /// From the start to the last answer, seconds.
    pub makespan_s: f64,
    /// Seconds in which the engine computed.
    pub busy_s: f64,
    pub iterations: u64,
    pub decoded_tokens: u64,
    pub prefilled_tokens: u64,
    /// Prompt and answer tokens that were computed again after a preemption.
    pub recomputed_tokens: u64,
    pub swapped_tokens: u64,
    pub preemptions: u64,
    /// Blocks in use, as a share of all: mean over busy time, and the most. 0 without a limit.
    pub kv_use_mean: f64,
    pub kv_use_peak: f64,
    /// Rows at work, mean over busy time.
    pub rows_mean: f64,
    /// Waiting requests, mean over the makespan.
    pub waiting_mean: f64,
    pub(crate) gaps: Gaps,
}

impl Outcome {
    /// Mean time between two tokens of an answer, seconds.
    pub fn itl_mean_s(&self) -> f64 {
        self.gaps.mean()
    }

    /// The time that a share `q` of all times between two tokens does not exceed, seconds.
    pub fn itl_s(&self, q: f64) -> f64 {
        self.gaps.quantile(q)
    }
}

/// Serves the requests, which are in order of arrival, under a policy. `sizes` are what
/// [`Policy::size`] made of each one's forecast, tokens.
///
/// # Errors
/// Limits under which nothing could run, requests out of order or without a token.
pub fn simulate(
    requests: &[Request],
    sizes: &[f32],
    policy: &dyn Policy,
    limits: &Limits,
    step_time: &StepTimeModel,
) -> Result<Outcome> {
    limits.validate()?;
    let ordered = requests
        .windows(2)
        .all(|pair| pair[0].arrival_s <= pair[1].arrival_s);
    let finite = sizes.iter().all(|s| s.is_finite());
    let sane = requests
        .iter()
        .all(|r| r.arrival_s >= 0.0 && r.arrival_s.is_finite() && r.response_tokens > 0);
    if !ordered || !sane || !finite || sizes.len() != requests.len() || requests.len() >= 1 << 31 {
        return Err(Error::Usage(
            "requests must be in order of arrival, each with a finite size and an answer of at \
             least one token"
                .into(),
        ));
    }
    let mut engine = Engine::new(requests, sizes, policy, limits, step_time);
    engine.run();
    Ok(engine.outcome())
}

/// A decoding row.
#[derive(Debug, Clone, Copy)]
struct Row {
    request: u32,
    /// Prompt and generated tokens when it joined.
    context: u64,
    /// The step at which it joined.
    since: u64,
    /// Blocks set aside for it; it takes more only beyond them.
    held: u64,
    growing: bool,
}

/// A prompt on its way through prefill.
#[derive(Debug, Clone, Copy)]
struct Prefill {
    request: u32,
    left: u64,
    held: u64,
}

/// What a request carries along.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    size: f32,
    generated: u32,
    admitted: bool,
    swapped: bool,
    /// No token has come since it was displaced.
    paused: bool,
    times: Served,
    /// When its last token before a preemption came.
    paused_s: f64,
    /// Since when it waits.
    queued_s: f64,
}

struct Engine<'a> {
    requests: &'a [Request],
    policy: &'a dyn Policy,
    limits: &'a Limits,
    time: &'a StepTimeModel,
    progress: Vec<Progress>,
    refused: Vec<bool>,
    queue: Queue,
    next: usize,
    now: f64,
    step: u64,
    rows: Vec<Option<Row>>,
    /// By slot: changes whenever its row does, so that events of former rows are known.
    stamps: Vec<u32>,
    vacant: Vec<u32>,
    decoding: u64,
    /// Positions of all decoding rows, added up.
    context: u64,
    prefills: VecDeque<Prefill>,
    /// Rows whose next token is the first one, or the first one after a pause, and comes by a
    /// step rather than by a prefill.
    fresh: Vec<u32>,
    /// Steps at which a row ends or outgrows what was set aside: (step, slot, stamp).
    events: BinaryHeap<Reverse<(u64, u32, u32)>>,
    blocks: Blocks,
    bounded: bool,
    busy_s: f64,
    iterations: u64,
    decoded: u64,
    prefilled: u64,
    recomputed: u64,
    swapped: u64,
    preemptions: u64,
    block_seconds: f64,
    row_seconds: f64,
    most_blocks: u64,
    /// Copying that the next token of every row waits for.
    copied_s: f64,
    /// Of all requests, every time they waited.
    waited_s: f64,
    last_finish_s: f64,
    gaps: Gaps,
}

impl<'a> Engine<'a> {
    fn new(
        requests: &'a [Request],
        sizes: &[f32],
        policy: &'a dyn Policy,
        limits: &'a Limits,
        time: &'a StepTimeModel,
    ) -> Engine<'a> {
        let progress = sizes
            .iter()
            .map(|size| Progress {
                size: *size,
                ..Progress::default()
            })
            .collect();
        let bounded = limits.kv_tokens > 0;
        let total = match bounded {
            true => limits.kv_tokens / limits.block,
            // More than any requests could ask for.
            false => u64::MAX / 4,
        };
        Engine {
            requests,
            policy,
            limits,
            time,
            progress,
            refused: vec![false; requests.len()],
            queue: Queue::new(requests.len(), policy.queueing(), policy.guard_s()),
            next: 0,
            now: 0.0,
            step: 0,
            rows: vec![None; limits.slots],
            stamps: vec![0; limits.slots],
            vacant: (0..limits.slots as u32).rev().collect(),
            decoding: 0,
            context: 0,
            prefills: VecDeque::new(),
            fresh: Vec::new(),
            events: BinaryHeap::new(),
            blocks: Blocks::new(total, limits.block),
            bounded,
            busy_s: 0.0,
            iterations: 0,
            decoded: 0,
            prefilled: 0,
            recomputed: 0,
            swapped: 0,
            preemptions: 0,
            block_seconds: 0.0,
            row_seconds: 0.0,
            most_blocks: 0,
            copied_s: 0.0,
            waited_s: 0.0,
            last_finish_s: 0.0,
            gaps: Gaps::default(),
        }
    }

    fn known(&self, request: u32, generated: u32) -> Known {
        let asked = &self.requests[request as usize];
        Known {
            arrival_s: asked.arrival_s,
            prompt_tokens: asked.prompt_tokens,
            size: self.progress[request as usize].size,
            generated,
        }
    }

    fn outcome(self) -> Outcome {
        let share = |blocks: f64| match self.bounded {
            true => blocks / self.blocks.total().max(1) as f64,
            false => 0.0,
        };
        let busy = self.busy_s.max(f64::MIN_POSITIVE);
        let fates: Vec<Fate> = self
            .progress
            .iter()
            .zip(&self.refused)
            .map(|(done, refused)| match refused {
                true => Fate::Refused,
                false => Fate::Served(done.times),
            })
            .collect();
        Outcome {
            fates,
            makespan_s: self.last_finish_s,
            busy_s: self.busy_s,
            iterations: self.iterations,
            decoded_tokens: self.decoded,
            prefilled_tokens: self.prefilled,
            recomputed_tokens: self.recomputed,
            swapped_tokens: self.swapped,
            preemptions: self.preemptions,
            kv_use_mean: share(self.block_seconds / busy),
            kv_use_peak: share(self.most_blocks as f64),
            rows_mean: self.row_seconds / busy,
            waiting_mean: self.waited_s / self.last_finish_s.max(f64::MIN_POSITIVE),
            gaps: self.gaps,
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
