//! The engine: continuous batching by the iteration, with chunked prefill, a limit of rows, a
//! token budget an iteration and paged keys and values, as vLLM does it.
//!
//! An iteration decodes one token of every row and uses what is left of the token budget for
//! the prefill of admitted prompts, in order of admission. Its time is the step-time model's:
//! the weights are read once, rows, positions and prompt tokens are added. Where no prefill is
//! under way, all iterations up to the next event are charged at once.

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
#[derive(Debug, Clone)]
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
    gaps: Gaps,
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

    fn enqueue(&mut self, request: u32, since_s: f64) {
        self.progress[request as usize].queued_s = since_s;
        let generated = self.progress[request as usize].generated;
        let known = self.known(request, generated);
        let rank = self.policy.rank(&known);
        self.queue.push(request, rank, f64::from(known.size));
    }

    fn run(&mut self) {
        loop {
            self.arrive();
            self.displace();
            self.admit();
            if !self.prefills.is_empty() {
                self.mixed_iteration();
            } else if self.decoding > 0 {
                self.decode();
            } else if let Some(request) = self.requests.get(self.next) {
                self.now = self.now.max(request.arrival_s);
            } else if self.queue.is_empty() {
                return;
            }
        }
    }

    /// Takes in whoever has come by now.
    fn arrive(&mut self) {
        while let Some(request) = self.requests.get(self.next) {
            if request.arrival_s > self.now {
                return;
            }
            let index = self.next as u32;
            self.next += 1;
            let most = u64::from(request.prompt_tokens) + u64::from(request.response_tokens);
            if self.blocks.of(most) > self.blocks.total() {
                self.refused[index as usize] = true;
            } else {
                self.enqueue(index, request.arrival_s);
            }
        }
    }

    fn first_waiting(&mut self) -> Option<u32> {
        let requests = self.requests;
        self.queue
            .first(self.now, |r| requests[r as usize].arrival_s)
    }

    /// Blocks that a request is given on admission, and whether there are so many: of its
    /// context with the next token, or of what is set aside for it.
    fn room_for(&self, request: u32) -> (u64, bool) {
        let generated = self.progress[request as usize].generated;
        let prompt = u64::from(self.requests[request as usize].prompt_tokens);
        let set_aside = self.policy.reserves(&self.known(request, generated));
        let next = prompt + u64::from(generated) + 1;
        let held = self.blocks.of(next.max(prompt + u64::from(set_aside)));
        let held = held.min(self.blocks.total());
        // An empty engine takes whoever fits at all.
        let empty = self.decoding == 0 && self.prefills.is_empty();
        let kept_free = match empty || !self.bounded {
            true => 0,
            false => (self.limits.watermark * self.blocks.total() as f64) as u64,
        };
        (held, held + kept_free <= self.blocks.free())
    }

    /// Whether an iteration has no tokens left for another prefill.
    fn budget_spent(&self) -> bool {
        let pending: u64 = self.prefills.iter().map(|p| p.left).sum();
        pending + self.decoding >= self.limits.token_budget as u64
    }

    /// Tokens that a request's prefill computes: its prompt, and what it had been given.
    fn to_prefill(&self, request: u32) -> u64 {
        let prompt = u64::from(self.requests[request as usize].prompt_tokens);
        (prompt + u64::from(self.progress[request as usize].generated)).max(1)
    }

    /// Fills free slots as far as memory and an iteration's tokens go.
    fn admit(&mut self) {
        while self.vacant.len() > self.prefills.len() && !self.budget_spent() {
            let Some(request) = self.first_waiting() else {
                return;
            };
            let (held, fits) = self.room_for(request);
            if !fits {
                return;
            }
            self.queue.take(request);
            self.blocks.take(held);
            let left = self.to_prefill(request);
            let done = &mut self.progress[request as usize];
            self.waited_s += self.now - done.queued_s;
            if !done.admitted {
                done.admitted = true;
                done.times.admitted_s = self.now;
            }
            if done.swapped {
                done.swapped = false;
                self.copy(left);
                self.join(request, held);
            } else if self.time.first_step() == 0 {
                // Where prefill costs nothing there is none.
                self.join(request, held);
            } else {
                self.prefills.push_back(Prefill {
                    request,
                    left,
                    held,
                });
            }
        }
    }

    /// Everybody waits while a request's keys and values are copied.
    fn copy(&mut self, tokens: u64) {
        if let Overflow::Swap { s_per_token } = self.limits.overflow {
            let seconds = s_per_token * tokens as f64;
            self.swapped += tokens;
            self.now += seconds;
            self.busy_s += seconds;
            self.copied_s += seconds;
            self.block_seconds += self.blocks.used() as f64 * seconds;
            self.row_seconds += self.decoding as f64 * seconds;
        }
    }

    /// A request whose keys and values are there decodes from now on, in a free slot.
    fn join(&mut self, request: u32, held: u64) {
        let Some(slot) = self.vacant.pop() else {
            return;
        };
        let done = &self.progress[request as usize];
        let asked = &self.requests[request as usize];
        let context = u64::from(asked.prompt_tokens) + u64::from(done.generated);
        let ends = self.step + u64::from(asked.response_tokens - done.generated);
        let room = (held * self.blocks.size()).saturating_sub(context);
        let growing = room < self.blocks.size();
        let stamp = self.stamps[slot as usize];
        if growing {
            self.blocks.grow(context, self.step);
        } else if self.step + room < ends {
            self.events.push(Reverse((self.step + room, slot, stamp)));
        }
        self.events.push(Reverse((ends, slot, stamp)));
        self.rows[slot as usize] = Some(Row {
            request,
            context,
            since: self.step,
            held,
            growing,
        });
        self.decoding += 1;
        self.context += context;
        let done = &mut self.progress[request as usize];
        if done.generated == 0 || done.paused {
            self.fresh.push(request);
        }
    }

    /// A row leaves its slot; whose it was.
    fn leave(&mut self, slot: u32) -> Option<u32> {
        let row = self.rows[slot as usize].take()?;
        self.stamps[slot as usize] = self.stamps[slot as usize].wrapping_add(1);
        self.vacant.push(slot);
        let gained = self.step - row.since;
        let context = row.context + gained;
        if row.growing {
            self.blocks.stop(context, self.step);
        }
        self.blocks.give(row.held.max(self.blocks.of(context)));
        self.decoding -= 1;
        self.context -= context;
        let done = &mut self.progress[row.request as usize];
        done.generated += gained as u32;
        Some(row.request)
    }

    /// One step of all rows with as much prefill as the budget has room for.
    fn mixed_iteration(&mut self) {
        self.make_room();
        let mut budget = (self.limits.token_budget as u64).saturating_sub(self.decoding);
        let mut chunk = 0;
        let mut ready = 0;
        for prefill in &mut self.prefills {
            let part = prefill.left.min(budget);
            prefill.left -= part;
            budget -= part;
            chunk += part;
            ready += usize::from(prefill.left == 0);
            if budget == 0 {
                break;
            }
        }
        let time = self.time;
        let base = match (self.decoding, chunk) {
            (0, _) => time.p0,
            (_, 0) => time.t0,
            _ => time.p0.max(time.t0),
        };
        let seconds = base
            + time.p1 * chunk as f64
            + time.t1 * self.decoding as f64
            + time.t2 * self.context as f64;
        self.prefilled += chunk;
        self.advance(1, seconds);
        for _ in 0..ready {
            let Some(prefill) = self.prefills.pop_front() else {
                break;
            };
            self.prefill_done(prefill);
        }
    }

    /// The last chunk of a prompt gives the next token of its answer.
    fn prefill_done(&mut self, prefill: Prefill) {
        let Prefill { request, held, .. } = prefill;
        let done = &mut self.progress[request as usize];
        done.generated += 1;
        self.decoded += 1;
        if done.generated == 1 {
            done.times.first_token_s = self.now;
        } else {
            self.gaps.add(self.now - done.paused_s, 1);
        }
        done.paused = false;
        if done.generated == self.requests[request as usize].response_tokens {
            done.times.finish_s = self.now;
            self.last_finish_s = self.now;
            self.blocks.give(held);
        } else {
            self.join(request, held);
        }
    }

    /// As many steps as nothing happens in.
    fn decode(&mut self) {
        self.make_room();
        if self.decoding == 0 {
            return;
        }
        let until = self.events.peek().map_or(1, |Reverse((step, _, _))| *step);
        let mut count = until.saturating_sub(self.step).max(1);
        // Whoever comes may get a free slot, or somebody's.
        let listens = !self.vacant.is_empty() || self.policy.preempts();
        if let (true, Some(request)) = (listens, self.requests.get(self.next)) {
            count = count.min(self.steps_until(request.arrival_s));
        }
        if let (Some(quantum), false) = (self.policy.quantum(), self.queue.is_empty()) {
            count = count.min(u64::from(quantum));
        }
        if !self.fresh.is_empty() {
            count = 1;
        }
        count = self.blocks.lasts(self.step, count).max(1);
        let seconds = self.time.steps(
            self.decoding as usize,
            self.context as usize,
            count as usize,
        );
        self.advance(count, seconds);
    }

    /// The fewest steps after which it is `moment`; at least one.
    fn steps_until(&self, moment: f64) -> u64 {
        let wait = moment - self.now;
        let rows = self.decoding as f64;
        // count x (t0 + t1 rows + t2 context) + t2 rows count (count - 1) / 2 = wait
        let a = self.time.t2 * rows / 2.0;
        let b = self.time.t0 + self.time.t1 * rows + self.time.t2 * self.context as f64 - a;
        let count = 2.0 * wait / (b + (b * b + 4.0 * a * wait).max(0.0).sqrt()).max(1e-12);
        count.ceil().clamp(1.0, 1e15) as u64
    }

    /// Lets `count` steps of all rows pass in `seconds`, and ends the rows that end with them.
    fn advance(&mut self, count: u64, seconds: f64) {
        let before = self.blocks.used();
        self.blocks.take(self.blocks.needed(self.step, count));
        let after = self.blocks.used();
        self.most_blocks = self.most_blocks.max(after);
        self.block_seconds += (before + after) as f64 / 2.0 * seconds;
        self.row_seconds += self.decoding as f64 * seconds;
        self.now += seconds;
        self.busy_s += seconds;
        self.iterations += count;
        self.decoded += count * self.decoding;
        // Where there are fresh rows it is a single step.
        let ordinary = count * self.decoding - self.fresh.len() as u64;
        if ordinary > 0 {
            let gap = (seconds + self.copied_s) / count as f64;
            self.gaps.add(gap, ordinary);
        }
        self.copied_s = 0.0;
        self.context += count * self.decoding;
        self.step += count;
        for request in self.fresh.drain(..) {
            let done = &mut self.progress[request as usize];
            if done.paused {
                done.paused = false;
                self.gaps.add(self.now - done.paused_s, 1);
            } else {
                done.times.first_token_s = self.now;
            }
        }
        while let Some(Reverse((step, slot, stamp))) = self.events.peek().copied() {
            if step > self.step {
                break;
            }
            self.events.pop();
            if self.stamps[slot as usize] == stamp {
                self.happen(slot, step);
            }
        }
    }

    /// A row's event has come: it ends, or has outgrown what was set aside for it.
    fn happen(&mut self, slot: u32, step: u64) {
        let Some(row) = &mut self.rows[slot as usize] else {
            return;
        };
        let request = row.request as usize;
        let left = self.requests[request].response_tokens - self.progress[request].generated;
        if step < row.since + u64::from(left) {
            row.growing = true;
            self.blocks.grow(row.context + (step - row.since), step);
            return;
        }
        if let Some(request) = self.leave(slot) {
            self.progress[request as usize].times.finish_s = self.now;
            self.last_finish_s = self.now;
        }
    }

    /// Displaces rows until one more step has room.
    fn make_room(&mut self) {
        while self.blocks.needed(self.step, 1) > self.blocks.free() {
            if !self.preempt_worst(f64::NEG_INFINITY) {
                return;
            }
        }
    }

    /// Gives the slots of running requests to waiting ones that rank lower, where the policy
    /// does so.
    fn displace(&mut self) {
        if !self.policy.preempts() {
            return;
        }
        while let Some(request) = self.first_waiting() {
            let full = self.vacant.len() <= self.prefills.len();
            let short = !self.room_for(request).1;
            if self.budget_spent() || (!full && !short) {
                return;
            }
            let known = self.known(request, self.progress[request as usize].generated);
            let rank = self.policy.rank(&known);
            if !self.preempt_worst(rank) {
                return;
            }
            self.admit();
        }
    }

    /// Displaces whoever ranks highest of all that run, the latest among equals, if that is
    /// above `rank`. Whether there was one.
    fn preempt_worst(&mut self, rank: f64) -> bool {
        let mut worst: Option<(f64, u32, Option<u32>)> = None;
        let mut consider = |found: f64, request: u32, slot: Option<u32>| {
            let later = |(r, q, _): (f64, u32, Option<u32>)| {
                found.total_cmp(&r).then(request.cmp(&q)).is_gt()
            };
            if found > rank && worst.is_none_or(later) {
                worst = Some((found, request, slot));
            }
        };
        for (slot, row) in self.rows.iter().enumerate() {
            if let Some(row) = row {
                let generated =
                    self.progress[row.request as usize].generated + (self.step - row.since) as u32;
                let known = self.known(row.request, generated);
                consider(self.policy.rank(&known), row.request, Some(slot as u32));
            }
        }
        for prefill in &self.prefills {
            let generated = self.progress[prefill.request as usize].generated;
            let known = self.known(prefill.request, generated);
            consider(self.policy.rank(&known), prefill.request, None);
        }
        let Some((_, request, slot)) = worst else {
            return false;
        };
        self.preemptions += 1;
        // Tokens whose keys and values are lost.
        let mut lost = 0;
        match slot {
            Some(slot) => {
                self.leave(slot);
                lost = self.to_prefill(request);
            }
            None => {
                let at = self.prefills.iter().position(|p| p.request == request);
                if let Some(prefill) = at.and_then(|at| self.prefills.remove(at)) {
                    self.blocks.give(prefill.held);
                    lost = self.to_prefill(request) - prefill.left;
                }
            }
        }
        self.fresh.retain(|r| *r != request);
        let now = self.now;
        let done = &mut self.progress[request as usize];
        done.times.preemptions += 1;
        if slot.is_some() && done.generated > 0 {
            // One that is displaced before its next token still waits for that.
            if !done.paused {
                done.paused_s = now;
            }
            done.paused = true;
        }
        match (self.limits.overflow, slot) {
            (Overflow::Swap { .. }, Some(_)) => {
                done.swapped = true;
                self.copy(lost);
            }
            // Where prefill costs nothing, computing it again does neither.
            _ if self.time.first_step() == 0 => {}
            _ => self.recomputed += lost,
        }
        self.enqueue(request, now);
        true
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
