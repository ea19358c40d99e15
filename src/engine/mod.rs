//! Batched generation over token ids: requests in, responses out. Text stays outside.
//!
//! A request's tokens depend on its prompt, temperature, top-p and seed alone: not on its slot, its
//! neighbours, the batching or the number of threads.

mod decoder;
pub(crate) mod place;
mod prefill;
pub mod sampling;
pub mod session;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::dataset::FinishReason;
use crate::error::{Error, Result};
use crate::model::PartTimes;
use crate::model::llama::Chunk;

pub use decoder::{Decoder, Drawn, MemoryFloor, Model};
pub use place::Place;
use sampling::Draw;

/// What happens to the rows of a batch as they finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// Every row is computed until the longest ends: the paper's vanilla, and what `generate`
    /// of Hugging Face transformers does.
    #[default]
    Static,
    /// Finished rows leave; the batch ends with its longest.
    Compacting,
    /// Finished rows leave and the next request takes their slot.
    Continuous,
}

/// One prompt to answer.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's name for it, given back with the response.
    pub id: usize,
    /// Its tokens; at least one.
    pub prompt: Arc<[u32]>,
    /// Tokens at which the response is cut off; at least one.
    pub max_new_tokens: usize,
    /// 0 means greedy.
    pub temperature: f32,
    /// Share of the probability that is drawn from ([`Draw::top_p`]); 1 means all.
    pub top_p: f32,
    /// With a token's position, decides its random number ([`Draw::seed`]).
    pub seed: u64,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The request's.
    pub id: usize,
    /// Generated tokens, the end token included.
    pub tokens: Vec<u32>,
    /// Whether an end token ended it or the limit.
    pub finish_reason: FinishReason,
}

/// What a call of [`Engine::generate`] computed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunStats {
    /// Steps after which some row had a new token, the one after the prompt included.
    pub steps: usize,
    /// Rows x steps computed, finished rows of a static batch among them.
    pub computed_tokens: usize,
    /// Tokens of unfinished rows: what requests received.
    pub generated_tokens: usize,
    /// Prompt tokens run through the model (shared prefixes are copied, not run).
    pub prefill_tokens: usize,
    /// Seconds of running prompts, drawing the first tokens included.
    pub prefill_s: f64,
    /// Seconds of decoding, drawing tokens included.
    pub decode_s: f64,
    /// Seconds of drawing tokens while decoding.
    pub sampling_s: f64,
    /// Seconds of decoding by part of the forward pass.
    pub parts: PartTimes,
}

/// Told of what happens while the engine runs.
pub trait Observer {
    /// A request ended. An error stops the run.
    fn finished(&mut self, response: Response) -> Result<()>;

    /// A request has its next token, the `tokens`th of its answer; told before
    /// [`Observer::finished`].
    fn received(&mut self, _id: usize, _tokens: usize) {}

    /// After each step; `Break` stops the run and drops the requests in flight.
    fn stepped(&mut self, _stats: &RunStats) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Collects every response.
impl Observer for Vec<Response> {
    fn finished(&mut self, response: Response) -> Result<()> {
        self.push(response);
        Ok(())
    }
}

/// Generates with a model and the keys and values of so many slots.
pub struct Engine<'m> {
    decoder: Box<dyn Decoder + 'm>,
    /// Positions that the model knows.
    max_positions: usize,
    end_tokens: Vec<u32>,
    share_prefixes: bool,
}

/// A request in its slot.
struct Sequence {
    request: Request,
    slot: usize,
    tokens: Vec<u32>,
    done: bool,
    /// Tokens after which it rests, to go on in another batch.
    until: usize,
}

impl<'m> Engine<'m> {
    /// `slots` sequences at once, each of up to `capacity` tokens (prompt and response).
    ///
    /// # Errors
    /// If the cache's memory cannot be had.
    pub fn new(model: &'m dyn Model, slots: usize, capacity: usize) -> Result<Engine<'m>> {
        Ok(Engine {
            decoder: model.decoder(slots.max(1), capacity)?,
            max_positions: model.config().max_position_embeddings,
            end_tokens: model.config().eos_token_ids.clone(),
            share_prefixes: true,
        })
    }

    /// Whether a prompt's common prefix with what a slot holds is copied instead of computed
    /// (on by default; the answers are the same).
    pub fn share_prefixes(mut self, share: bool) -> Self {
        self.share_prefixes = share;
        self
    }

    /// Whether a response may end before its `max_new_tokens` (on by default). Off, every
    /// response has exactly that length, whatever is drawn: real compute of replayed lengths.
    pub fn obey_end_tokens(mut self, obey: bool) -> Self {
        if !obey {
            self.end_tokens.clear();
        }
        self
    }

    /// Sequences at once.
    pub fn slots(&self) -> usize {
        self.decoder.slots()
    }

    /// The most memory, in bytes, that keys and values took at once.
    pub fn peak_cache_bytes(&self) -> usize {
        self.decoder.peak_cache_bytes()
    }

    /// Tokens (prompt and response) that a slot can hold.
    pub fn capacity(&self) -> usize {
        self.decoder.capacity()
    }

    /// Takes requests from `next` until it has none left, and tells `observer` of each answer.
    /// Under [`Batching::Continuous`] `next` is asked before every step for which a slot is
    /// free, so what it gives may depend on the time; once nothing runs, `None` ends the call.
    ///
    /// # Errors
    /// A request that does not fit a slot (before anything of it is computed), or whatever
    /// the observer returns.
    pub fn generate(
        &mut self,
        next: &mut dyn FnMut() -> Option<Request>,
        batching: Batching,
        observer: &mut dyn Observer,
    ) -> Result<RunStats> {
        let mut stats = RunStats::default();
        let mut running: Vec<Sequence> = Vec::new();
        let mut free: VecDeque<usize> = (0..self.slots()).collect();
        loop {
            if running.is_empty() || (batching == Batching::Continuous && !free.is_empty()) {
                let unlimited = (&mut running, usize::MAX);
                self.admit(next, &mut free, unlimited, &mut stats, observer)?;
                if running.is_empty() {
                    return Ok(stats);
                }
                self.retire(batching, &mut running, &mut free);
            }
            if !running.is_empty() {
                self.decode(&mut running, &mut stats, observer)?;
                self.retire(batching, &mut running, &mut free);
            }
            if observer.stepped(&stats).is_break() {
                return Ok(stats);
            }
        }
    }

    /// Fills the free slots, runs the new prompts and draws their first tokens. The sequences
    /// join the running ones, to rest after so many tokens.
    fn admit(
        &mut self,
        next: &mut dyn FnMut() -> Option<Request>,
        free: &mut VecDeque<usize>,
        (running, until): (&mut Vec<Sequence>, usize),
        stats: &mut RunStats,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut admitted = Vec::new();
        while let Some(&slot) = free.front() {
            let Some(request) = next() else { break };
            self.check(&request)?;
            free.pop_front();
            admitted.push(Sequence {
                tokens: Vec::with_capacity(request.max_new_tokens.min(4096)),
                request,
                slot,
                done: false,
                until,
            });
        }
        if admitted.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        self.prefill(&mut admitted, stats, observer)?;
        stats.prefill_s += begun.elapsed().as_secs_f64();
        stats.computed_tokens += admitted.len();
        stats.steps += usize::from(running.is_empty());
        running.append(&mut admitted);
        Ok(())
    }

    /// One more token for every row. Rows that are done but still here (static batching) are
    /// computed like the others, and the result is thrown away.
    fn decode(
        &mut self,
        running: &mut [Sequence],
        stats: &mut RunStats,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let begun = Instant::now();
        let chunks: Vec<Chunk<'_>> = running
            .iter()
            .map(|s| Chunk {
                slot: s.slot,
                tokens: &s.tokens[s.tokens.len() - 1..],
                logits: true,
            })
            .collect();
        let draws: Vec<Draw> = running.iter().map(Sequence::next_draw).collect();
        let Drawn {
            tokens,
            sampling_s,
            parts,
        } = self.decoder.step(&chunks, &draws, None)?;
        stats.sampling_s += sampling_s;
        stats.parts += parts;
        stats.decode_s += begun.elapsed().as_secs_f64();
        stats.steps += 1;
        stats.computed_tokens += running.len();
        for (sequence, token) in running.iter_mut().zip(tokens) {
            if !sequence.rests() {
                sequence.receive(token, &self.end_tokens, stats, observer)?;
            }
        }
        Ok(())
    }

    /// Lets finished rows go, as the batching has it. Their prompts stay in the cache for
    /// requests that begin alike; the memory of their answers is free.
    fn retire(
        &mut self,
        batching: Batching,
        running: &mut Vec<Sequence>,
        free: &mut VecDeque<usize>,
    ) {
        if batching == Batching::Static && running.iter().any(|s| !s.done) {
            return;
        }
        running.retain(|s| {
            if s.done {
                self.decoder.truncate(s.slot, s.request.prompt.len());
                free.push_back(s.slot);
            }
            !s.done
        });
    }

    fn check(&self, request: &Request) -> Result<()> {
        let needed = request.prompt.len() + request.max_new_tokens;
        let limit = self.decoder.capacity().min(self.max_positions);
        if request.prompt.is_empty() || request.max_new_tokens == 0 {
            return Err(Error::Usage(
                "a request needs a prompt and at least one new token".into(),
            ));
        }
        if needed > limit {
            return Err(Error::TooLong(format!(
                "a prompt of {} tokens and {} new tokens do not fit the {limit} positions there \
                 are: shorten the prompt or lower --max-new-tokens",
                request.prompt.len(),
                request.max_new_tokens
            )));
        }
        Ok(())
    }
}

impl Sequence {
    /// Whether it receives no more tokens in this batch.
    fn rests(&self) -> bool {
        self.done || self.tokens.len() >= self.until
    }

    fn next_draw(&self) -> Draw {
        Draw {
            temperature: self.request.temperature,
            top_p: self.request.top_p,
            seed: self.request.seed,
            position: self.tokens.len() as u64,
        }
    }

    fn receive(
        &mut self,
        token: u32,
        end_tokens: &[u32],
        stats: &mut RunStats,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.tokens.push(token);
        stats.generated_tokens += 1;
        observer.received(self.request.id, self.tokens.len());
        let ended = end_tokens.contains(&token);
        self.done = ended || self.tokens.len() >= self.request.max_new_tokens;
        if self.done {
            observer.finished(Response {
                id: self.request.id,
                tokens: self.tokens.clone(),
                finish_reason: if ended {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                },
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
