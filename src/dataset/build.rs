//! Sampling a length dataset: the planned responses that are not there yet go through the
//! engine, and each is stored as it finishes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::chat::ChatModel;
use crate::engine::{Batching, Engine, Observer, Request, Response, RunStats};
use crate::error::{Error, Result};
use crate::instruction::Instruction;
use crate::model::tokenizer::TextTokenizer;

use super::appended::StoredSample;
use super::assemble::{Assembly, Drawn};
use super::plan::{Plan, PlannedSample, Sampler, instructions_sha256};
use super::store::Store;

/// How often what was appended is made durable.
pub(crate) const SYNC_EVERY: Duration = Duration::from_secs(2);

/// Responses that wait to be written: more than a disk that stalls for seconds lets pile up. Were
/// there no limit, one that is slower than the model would fill the memory.
const WAITING: usize = 1024;

/// What to sample, and how much at once.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// From 0 (greedy) to 10, each once.
    pub temperatures: Vec<f32>,
    /// Of each instruction at each temperature above 0; temperature 0 is sampled once.
    pub samples: u32,
    /// Tokens at which a response is cut off.
    pub max_new_tokens: u32,
    /// Share of the probability to draw from; 1 means all.
    pub top_p: f32,
    /// What every sample's own seed is derived from ([`Plan::seed_of`]).
    pub seed: u64,
    /// Sequences (of an endpoint: requests) in flight. More are faster and take more memory; no token depends on it.
    pub slots: usize,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Samples that are stored, those of earlier runs included.
    pub done: usize,
    /// Samples of the whole plan.
    pub total: usize,
    /// Generated in this run.
    pub tokens: usize,
}

/// What a build did.
#[derive(Debug, Clone)]
pub struct Built {
    /// The finished dataset.
    pub path: PathBuf,
    /// Samples that were there before.
    pub resumed: usize,
    /// Samples drawn in this run.
    pub sampled: usize,
    /// What the engine computed; of an endpoint's answers only the tokens are known.
    pub stats: RunStats,
    /// Wall time of the whole call.
    pub elapsed: Duration,
}

impl BuildOptions {
    /// The plan for `instructions` of a model of which only the name is known.
    pub(crate) fn plan(&self, sampler: Sampler, model: &str, instructions: &[Instruction]) -> Plan {
        Plan {
            sampler,
            model: model.to_string(),
            model_sha256: None,
            template_sha256: None,
            dtype: None,
            instructions_sha256: instructions_sha256(instructions),
            // Minus 0 is 0.
            temperatures: self.temperatures.iter().map(|t| t + 0.0).collect(),
            samples: self.samples,
            max_new_tokens: self.max_new_tokens,
            top_p: self.top_p,
            seed: self.seed,
        }
    }
}

/// Builds the dataset in `dir`, goes on with one that was begun, or adds to one that asked for
/// less.
///
/// # Errors
/// A prompt that does not fit the model, a folder begun by a plan that this one does not
/// continue, a full disk, or [`Error::Interrupted`] when `on_progress` breaks; what was sampled
/// is kept then.
pub fn build(
    chat: &ChatModel,
    instructions: &[Instruction],
    options: &BuildOptions,
    dir: &Path,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Built> {
    let begun = Instant::now();
    let plan = Plan {
        model_sha256: Some(chat.sha256().to_string()),
        template_sha256: Some(chat.template_sha256()),
        dtype: Some(chat.model().dtype()),
        ..options.plan(Sampler::Engine, chat.name(), instructions)
    };
    plan.validate()?;
    let prompts = prompts(chat, instructions, options.max_new_tokens as usize)?;
    let mut assembly = Assembly::open(dir, &plan, instructions, None)?;
    let resumed = assembly.done();
    let missing = assembly.missing();
    let mut drawn = Drawn::default();
    if !missing.is_empty() {
        let job = Job {
            plan: &plan,
            instructions,
            prompts: &prompts,
            missing: &missing,
            resumed,
            slots: options.slots,
        };
        drawn = job.run(chat, assembly.store(), on_progress)?;
    }
    Ok(Built {
        resumed,
        sampled: drawn.samples,
        path: assembly.finish()?,
        stats: drawn.stats,
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
        store: &mut Store,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Drawn> {
        let longest = self.prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let capacity = longest + self.plan.max_new_tokens as usize;
        let slots = self.slots.min(self.missing.len()).max(1);
        chat.model().check_room(slots, capacity)?;
        let mut engine = Engine::new(chat.model().as_ref(), slots, capacity)?;
        let mut queue = self.missing.iter().enumerate().map(|(id, sample)| Request {
            id,
            prompt: self.prompts[sample.instruction].clone(),
            max_new_tokens: self.plan.max_new_tokens as usize,
            temperature: sample.temperature,
            top_p: self.plan.top_p,
            seed: self
                .plan
                .seed_of(&self.instructions[sample.instruction].id, *sample),
        });
        let (sender, receiver) = mpsc::sync_channel(WAITING);
        let (outcome, written) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| self.write_all(chat.tokenizer(), store, receiver));
            let mut relay = Relay {
                sender,
                progress: Progress {
                    done: self.resumed,
                    total: self.resumed + self.missing.len(),
                    tokens: 0,
                },
                on_progress,
            };
            let outcome = engine.generate(&mut || queue.next(), Batching::Continuous, &mut relay);
            drop(relay);
            let written = writer
                .join()
                .unwrap_or_else(|_| Err(Error::Numeric("the writing thread failed".into())));
            (outcome, written)
        });
        let samples = written?;
        Ok(Drawn {
            samples,
            stats: outcome?,
        })
    }

    fn write_all(
        &self,
        tokenizer: &TextTokenizer,
        store: &mut Store,
        receiver: mpsc::Receiver<Response>,
    ) -> Result<usize> {
        let mut samples = 0;
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
            samples += 1;
            if synced.elapsed() > SYNC_EVERY {
                store.sync()?;
                synced = Instant::now();
            }
        }
        store.sync()?;
        Ok(samples)
    }
}

/// Between the engine and the writing thread: sending hardly ever waits, so neither turning
/// tokens to text nor a slow disk delays a step.
struct Relay<'a> {
    sender: mpsc::SyncSender<Response>,
    progress: Progress,
    on_progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl Observer for Relay<'_> {
    fn finished(&mut self, response: Response) -> Result<()> {
        self.progress.done += 1;
        // The writer only goes away after an error of its own, which is reported then.
        self.sender
            .send(response)
            .map_err(|_| Error::Interrupted("the samples could not be written".into()))
    }

    fn stepped(&mut self, stats: &RunStats) -> ControlFlow<()> {
        self.progress.tokens = stats.generated_tokens;
        (self.on_progress)(self.progress)
    }
}
