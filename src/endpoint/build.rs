//! Building a length dataset from a server's answers: many requests in flight, each answer
//! stored as it comes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::dataset::appended::StoredSample;
use crate::dataset::assemble::{Assembly, Drawn};
use crate::dataset::build::{BuildOptions, Built, Progress, SYNC_EVERY};
use crate::dataset::plan::{Plan, PlannedSample, Sampler};
use crate::error::{Error, Result};
use crate::instruction::Instruction;

use super::{Answer, ChatRequest, Endpoint, Message, NoAnswer};

/// Progress is told at least this often.
const TICK: Duration = Duration::from_millis(100);

/// So many instructions in a row with one answer are told of.
const SAME: usize = 8;
/// Shorter answers may well be the same (yes, no, a number).
const TELLING: usize = 64;

/// Instructions in a row whose answers are the same.
#[derive(Default)]
struct Repeats {
    hash: u64,
    last: usize,
    instructions: usize,
}

impl Repeats {
    /// How many there are with this one.
    fn note(&mut self, instruction: usize, text: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if text.len() < TELLING || hash != self.hash {
            self.instructions = usize::from(text.len() >= TELLING);
        } else if instruction != self.last {
            self.instructions += 1;
        }
        (self.hash, self.last) = (hash, instruction);
        self.instructions
    }
}

/// The answer to `missing[index]`, or why there is none.
type Delivery = (usize, std::result::Result<Answer, NoAnswer>);

/// As [`crate::dataset::build::build`], with `model` of `endpoint` in place of the engine.
/// `notice` is told of everything that is tried again.
///
/// # Errors
/// As there, and a request that failed for good. What is in flight is finished then, and
/// everything sampled is kept.
pub fn build(
    endpoint: &Endpoint,
    model: &str,
    instructions: &[Instruction],
    options: &BuildOptions,
    dir: &Path,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    notice: &(dyn Fn(&str) + Sync),
) -> Result<Built> {
    let begun = Instant::now();
    let plan = options.plan(Sampler::Endpoint, model, instructions);
    let origin = endpoint.address().origin();
    let mut assembly = Assembly::open(dir, &plan, instructions, Some(origin))?;
    let missing = assembly.missing();
    let resumed = assembly.done();
    let run = Run {
        endpoint,
        plan: &plan,
        instructions,
        missing: &missing,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        notice,
    };
    let mut drawn = Drawn::default();
    let mut repeats = Repeats::default();
    let progress = Progress {
        done: resumed,
        total: resumed + missing.len(),
        tokens: 0,
    };
    if let Err(error) = run.all(
        &mut assembly,
        (&mut drawn, &mut repeats),
        progress,
        on_progress,
    ) {
        return Err(match error {
            Error::Endpoint(why) => {
                let kept = assembly.kept(drawn.samples);
                Error::Endpoint(format!("{why}; {kept}"))
            }
            other => other,
        });
    }
    Ok(Built {
        resumed,
        sampled: drawn.samples,
        path: assembly.finish()?,
        stats: drawn.stats,
        elapsed: begun.elapsed(),
    })
}

/// The request for one planned sample.
pub fn request(plan: &Plan, instruction: &Instruction, sample: PlannedSample) -> ChatRequest {
    ChatRequest {
        model: plan.model.clone(),
        messages: vec![Message {
            role: "user",
            content: instruction.text.clone(),
        }],
        temperature: sample.temperature,
        top_p: plan.top_p,
        max_tokens: plan.max_new_tokens,
        seed: plan.seed_of(&instruction.id, sample),
        n: 1,
        stream: false,
    }
}

/// The very first request that a build would send.
///
/// # Errors
/// A plan that makes no sense.
pub fn first_request(
    model: &str,
    instructions: &[Instruction],
    options: &BuildOptions,
) -> Result<ChatRequest> {
    let plan = options.plan(Sampler::Endpoint, model, instructions);
    plan.validate()?;
    match (
        plan.samples(instructions.len().min(1)).first(),
        instructions.first(),
    ) {
        (Some(sample), Some(instruction)) => Ok(request(&plan, instruction, *sample)),
        _ => Err(Error::Usage("there are no instructions".into())),
    }
}

struct Run<'a> {
    endpoint: &'a Endpoint,
    plan: &'a Plan,
    instructions: &'a [Instruction],
    missing: &'a [PlannedSample],
    /// Index of the next to ask for.
    next: AtomicUsize,
    stop: AtomicBool,
    notice: &'a (dyn Fn(&str) + Sync),
}

impl Run<'_> {
    /// Asks for everything, on threads, and stores what comes on this one.
    fn all(
        &self,
        assembly: &mut Assembly<'_>,
        drawn: (&mut Drawn, &mut Repeats),
        progress: Progress,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let threads = self.endpoint.concurrency().min(self.missing.len());
        // An answer a thread may wait to be stored; what asks waits then.
        let (sender, receiver) = mpsc::sync_channel(threads.max(1));
        std::thread::scope(|scope| {
            for id in 0..threads {
                let sender = sender.clone();
                let spawned = std::thread::Builder::new()
                    .name(format!("request-{id}"))
                    .spawn_scoped(scope, move || self.ask(&sender));
                // Fewer do the work as well.
                if let (Err(e), 0) = (spawned, id) {
                    return Err(Error::Memory(format!("the system gives no thread: {e}")));
                }
            }
            drop(sender);
            self.receive(&receiver, assembly, drawn, progress, on_progress)
        })
    }

    fn ask(&self, sender: &mpsc::SyncSender<Delivery>) {
        while !self.stop.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(sample) = self.missing.get(index) else {
                return;
            };
            let request = request(self.plan, &self.instructions[sample.instruction], *sample);
            let answer = self.endpoint.answer(&request, &self.stop, self.notice);
            if matches!(answer, Err(NoAnswer::Failed(_))) {
                // Here, before this very thread begins another.
                self.stop.store(true, Ordering::Relaxed);
            }
            if sender.send((index, answer)).is_err() {
                return;
            }
        }
    }

    /// Stores answers until no thread is left. The first error, or a wish to stop, lets no
    /// further request begin; answers that still come are stored all the same.
    fn receive(
        &self,
        receiver: &Receiver<Delivery>,
        assembly: &mut Assembly<'_>,
        (drawn, repeats): (&mut Drawn, &mut Repeats),
        mut progress: Progress,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut first_error = None;
        let mut synced = Instant::now();
        loop {
            let mut kept = match receiver.recv_timeout(TICK) {
                Ok((index, answer)) => {
                    if let Ok(answer) = &answer {
                        self.compare(index, answer, repeats);
                    }
                    self.keep(index, answer, assembly, drawn)
                }
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if kept.is_ok() && synced.elapsed() > SYNC_EVERY {
                kept = assembly.store().sync();
                synced = Instant::now();
            }
            if let Err(error) = kept {
                self.stop.store(true, Ordering::Relaxed);
                first_error.get_or_insert(error);
            }
            progress.done = progress.total - self.missing.len() + drawn.samples;
            progress.tokens = drawn.stats.generated_tokens;
            if on_progress(progress).is_break() {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        first_error.map_or_else(|| assembly.store().sync(), Err)
    }

    /// Says so where many instructions in a row have one answer. It may be true, as of a model
    /// that refuses them all, so that nothing is refused here.
    fn compare(&self, index: usize, answer: &Answer, repeats: &mut Repeats) {
        let instruction = self.missing[index].instruction;
        if repeats.note(instruction, &answer.content) >= SAME {
            (self.notice)(
                "the server gives many instructions in a row the same answer: is something in \
                 between that keeps answers, or is the prompt not looked at?",
            );
        }
    }

    fn keep(
        &self,
        index: usize,
        answer: std::result::Result<Answer, NoAnswer>,
        assembly: &mut Assembly<'_>,
        drawn: &mut Drawn,
    ) -> Result<()> {
        let planned = self.missing[index];
        let answer = match answer {
            Ok(answer) => answer,
            Err(NoAnswer::Stopped) => return Ok(()),
            Err(NoAnswer::Failed(why)) => {
                let id = &self.instructions[planned.instruction].id;
                return Err(Error::Endpoint(format!("instruction `{id}`: {why}")));
            }
        };
        if let Some(model) = &answer.model {
            assembly.store().note_served_model(model)?;
        }
        let sample = StoredSample {
            instruction: planned.instruction,
            temperature: planned.temperature,
            sample: planned.sample,
            prompt_tokens: answer.prompt_tokens,
            response_tokens: answer.completion_tokens,
            finish_reason: answer.finish_reason,
            response: answer.content,
        };
        assembly.store().append(&sample)?;
        drawn.stats.generated_tokens += answer.completion_tokens as usize;
        drawn.samples += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_long_answer_to_many_instructions_counts() {
        let long = "the same ".repeat(20);
        let mut repeats = Repeats::default();
        let counts: Vec<usize> = (0..5).map(|i| repeats.note(i, &long)).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5]);
        // Samples of one instruction may agree, and so may short answers.
        assert_eq!(repeats.note(4, &long), 5);
        assert_eq!(repeats.note(5, "yes"), 0);
        assert_eq!(repeats.note(6, "yes"), 0);
        assert_eq!(repeats.note(7, &long), 1);
    }
}
