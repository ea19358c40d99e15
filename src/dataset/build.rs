//! Sampling a length dataset: the planned responses that are not there yet go through the
//! engine, and each is stored as it finishes.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::engine::{Batching, Engine, Observer, Request, Response, RunStats};
use crate::error::{Error, Result};
use crate::instruction::Instruction;
use crate::model::chat::ChatModel;
use crate::model::tokenizer::TextTokenizer;

use super::plan::{Plan, PlannedSample, instructions_sha256};
use super::store::{DATASET, Opened, Store, StoredSample};
use super::{Known, LengthDataset, Provenance, Sample};

/// How the file is made durable while sampling.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// What to sample, and how much at once.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    pub temperatures: Vec<f32>,
    pub samples: u32,
    pub max_new_tokens: u32,
    pub seed: u64,
    /// Sequences in flight. More are faster and take more memory; no token depends on it.
    pub slots: usize,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    pub done: usize,
    pub total: usize,
    /// Generated in this run.
    pub tokens: usize,
}

/// What a build did.
#[derive(Debug, Clone)]
pub struct Built {
    pub path: PathBuf,
    /// Samples that were there before.
    pub resumed: usize,
    /// Samples drawn in this run.
    pub sampled: usize,
    pub stats: RunStats,
    pub elapsed: Duration,
}

/// Builds (or continues) the dataset in `dir`.
///
/// # Errors
/// A prompt that does not fit the model, a folder begun by another plan, a full disk, or
/// [`Error::Interrupted`] when `on_progress` breaks; what was sampled is kept then.
pub fn build(
    chat: &ChatModel,
    instructions: &[Instruction],
    options: &BuildOptions,
    dir: &Path,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Built> {
    let begun = Instant::now();
    let plan = Plan {
        model: chat.name().to_string(),
        model_sha256: chat.sha256().to_string(),
        template_sha256: chat.template_sha256(),
        instructions_sha256: instructions_sha256(instructions),
        temperatures: options.temperatures.clone(),
        samples: options.samples,
        max_new_tokens: options.max_new_tokens,
        seed: options.seed,
    };
    plan.validate()?;
    let prompts = prompts(chat, instructions, options.max_new_tokens as usize)?;
    let planned = plan.samples(instructions.len());
    let (store, stored) = match Store::open(dir, &plan)? {
        Opened::Begun(store, stored) => (store, stored),
        Opened::Complete => {
            return Ok(Built {
                path: dir.join(DATASET),
                resumed: planned.len(),
                sampled: 0,
                stats: RunStats::default(),
                elapsed: begun.elapsed(),
            });
        }
    };
    let resumed = stored.len();
    let key = |s: PlannedSample| (s.instruction, s.temperature.to_bits(), s.sample);
    let mut done: HashMap<_, StoredSample> =
        stored.into_iter().map(|s| (key(s.place()), s)).collect();
    let missing: Vec<PlannedSample> = planned
        .iter()
        .copied()
        .filter(|s| !done.contains_key(&key(*s)))
        .collect();
    let job = Job {
        plan: &plan,
        instructions,
        prompts: &prompts,
        missing: &missing,
        resumed,
        slots: options.slots,
    };
    let (store, sampled, stats, stopped) = job.run(chat, store, on_progress)?;
    let count = sampled.len();
    done.extend(sampled.into_iter().map(|s| (key(s.place()), s)));
    if stopped || done.len() < planned.len() {
        return Err(Error::Interrupted(format!(
            "stopped with {} of {} samples kept in {}: the same command continues",
            done.len(),
            planned.len(),
            dir.display()
        )));
    }
    let samples = planned
        .iter()
        .filter_map(|s| {
            let stored = done.remove(&key(*s))?;
            let instruction = &instructions[s.instruction];
            Some(Sample {
                instruction_id: instruction.id.clone(),
                instruction: instruction.text.clone(),
                category: instruction.category.clone(),
                split: instruction.split,
                sample: s.sample,
                temperature: s.temperature,
                seed: plan.seed_of(&instruction.id, *s),
                prompt_tokens: stored.prompt_tokens,
                response_tokens: stored.response_tokens,
                finish_reason: stored.finish_reason,
                response: Some(stored.response),
                arrival_s: None,
            })
        })
        .collect();
    let dataset = LengthDataset {
        provenance: Provenance {
            model: plan.model.clone(),
            model_sha256: Some(plan.model_sha256.clone()),
            template_sha256: Some(plan.template_sha256.clone()),
            max_new_tokens: plan.max_new_tokens,
            finish_reasons: Known::Recorded,
            temperatures: Known::Recorded,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            git_commit: crate::provenance::git_commit(),
        },
        samples,
    };
    Ok(Built {
        path: store.finish(&dataset)?,
        resumed,
        sampled: count,
        stats,
        elapsed: begun.elapsed(),
    })
}

/// Renders and encodes every prompt, and refuses the whole build if one does not fit.
fn prompts(
    chat: &ChatModel,
    instructions: &[Instruction],
    max_new_tokens: usize,
) -> Result<Vec<Arc<[u32]>>> {
    instructions
        .iter()
        .map(|i| Ok(chat.fitting_prompt(&i.id, &i.text, max_new_tokens)?.into()))
        .collect()
}

struct Job<'a> {
    plan: &'a Plan,
    instructions: &'a [Instruction],
    prompts: &'a [Arc<[u32]>],
    missing: &'a [PlannedSample],
    resumed: usize,
    slots: usize,
}

impl Job<'_> {
    /// Samples what is missing. Decoding and writing go on in a thread of their own.
    fn run(
        &self,
        chat: &ChatModel,
        store: Store,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(Store, Vec<StoredSample>, RunStats, bool)> {
        let longest = self.prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let capacity = longest + self.plan.max_new_tokens as usize;
        let slots = self.slots.min(self.missing.len()).max(1);
        let mut engine = Engine::new(chat.llama(), slots, capacity)?;
        let mut queue = self.missing.iter().enumerate().map(|(id, sample)| Request {
            id,
            prompt: self.prompts[sample.instruction].clone(),
            max_new_tokens: self.plan.max_new_tokens as usize,
            temperature: sample.temperature,
            seed: self
                .plan
                .seed_of(&self.instructions[sample.instruction].id, *sample),
        });
        let (sender, receiver) = mpsc::channel();
        let (outcome, written, stopped) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| self.write_all(chat.tokenizer(), store, receiver));
            let mut sampler = Sampler {
                sender,
                progress: Progress {
                    done: self.resumed,
                    total: self.resumed + self.missing.len(),
                    tokens: 0,
                },
                on_progress,
                stopped: false,
            };
            let outcome = engine.generate(&mut || queue.next(), Batching::Continuous, &mut sampler);
            let stopped = sampler.stopped;
            drop(sampler);
            let written = writer
                .join()
                .unwrap_or_else(|_| Err(Error::Numeric("the writing thread failed".into())));
            (outcome, written, stopped)
        });
        let (store, samples) = written?;
        Ok((store, samples, outcome?, stopped))
    }

    fn write_all(
        &self,
        tokenizer: &TextTokenizer,
        mut store: Store,
        receiver: mpsc::Receiver<Response>,
    ) -> Result<(Store, Vec<StoredSample>)> {
        let mut samples = Vec::new();
        let mut synced = Instant::now();
        for response in receiver {
            let planned = self.missing[response.id];
            let sample = StoredSample {
                instruction: planned.instruction,
                temperature: planned.temperature,
                sample: planned.sample,
                prompt_tokens: self.prompts[planned.instruction].len() as u32,
                response_tokens: response.tokens.len() as u32,
                finish_reason: response.finish_reason,
                response: tokenizer.decode(&response.tokens)?,
            };
            store.append(&sample)?;
            samples.push(sample);
            if synced.elapsed() > SYNC_EVERY {
                store.sync()?;
                synced = Instant::now();
            }
        }
        store.sync()?;
        Ok((store, samples))
    }
}

/// Between the engine and the writing thread.
struct Sampler<'a> {
    sender: mpsc::Sender<Response>,
    progress: Progress,
    on_progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    stopped: bool,
}

impl Observer for Sampler<'_> {
    fn finished(&mut self, response: Response) -> Result<()> {
        self.progress.done += 1;
        // The writer only goes away after an error of its own, which is reported then.
        self.sender
            .send(response)
            .map_err(|_| Error::Interrupted("the samples could not be written".into()))
    }

    fn stepped(&mut self, stats: &RunStats) -> ControlFlow<()> {
        self.progress.tokens = stats.generated_tokens;
        let flow = (self.on_progress)(self.progress);
        self.stopped = flow.is_break();
        flow
    }
}
