//! Time: iterations one by one while prompts are prefilled, else as many as nothing happens in.

use std::cmp::Reverse;

use super::{Engine, Prefill};
use crate::online::policy::Queueing;
use crate::online::timeline::Moment;

impl Engine<'_> {
    pub(super) fn run(&mut self) {
        loop {
            self.arrive();
            self.displace();
            self.admit();
            if !self.prefills.is_empty() {
                self.mixed_iteration();
            } else if self.decoding > 0 {
                self.decode();
            } else if let Some(request) = self.requests.get(self.next) {
                let until = self.now.max(request.arrival_s);
                for moment in [self.now, until] {
                    self.now = moment;
                    self.keep_moment();
                }
            } else if self.queue.is_empty() {
                return;
            }
        }
    }

    /// One step of all rows with as much prefill as the budget has room for.
    pub(super) fn mixed_iteration(&mut self) {
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
            + (time.at_rows(self.decoding as usize) - time.t0) * f64::from(self.decoding > 0)
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
    pub(super) fn prefill_done(&mut self, prefill: Prefill) {
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
            self.blocks.give(held);
            self.finish(request);
        } else {
            self.join(request, held);
        }
    }

    /// As many steps as nothing happens in.
    pub(super) fn decode(&mut self) {
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
        if !self.queue.is_empty() {
            count = count.min(self.looks_again_in());
        }
        if !self.fresh.is_empty() || self.copied_s > 0.0 {
            // Tokens that are waited for in a way of their own.
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

    /// Steps after which somebody who waits may be next, or let in, though nobody comes or ends.
    fn looks_again_in(&mut self) -> u64 {
        let mut count = u64::MAX;
        if self.policy.preempts() {
            // Ranks of running ones change, and places are kept no longer.
            let every = self.asked.renewal.map(|renewal| renewal.every);
            for row in self.rows.iter().flatten() {
                let progress = &self.progress[row.request as usize];
                let given = progress.generated + (self.step - row.since) as u32;
                let renewed = every.map(|every| (given / every + 1).saturating_mul(every));
                for change in [self.policy.changes_at(given), renewed]
                    .into_iter()
                    .flatten()
                {
                    count = count.min(u64::from(change.saturating_sub(given)));
                }
                if progress.kept_until > self.step {
                    count = count.min(progress.kept_until - self.step);
                }
            }
            if let Some(step) = self.queue.starves_at()
                && step > self.step
            {
                count = count.min(step - self.step);
            }
        }
        if self.bounded && !self.vacant.is_empty() {
            // One who waits does not fit, and another one may be first soon.
            if let Some(moment) = self.queue.guard_up_at_s()
                && moment > self.now
            {
                count = count.min(self.steps_until(moment));
            }
            // Response ratios change all the time; and what the running ones will hold at most
            // together falls as they come nearer to their ends.
            let ratios = self.policy.queueing() == Queueing::ResponseRatio;
            if ratios || self.reckons() {
                count = count.min(self.blocks.size());
            }
        }
        count.max(1)
    }

    /// The fewest steps after which it is `moment`; at least one.
    pub(super) fn steps_until(&self, moment: f64) -> u64 {
        let wait = moment - self.now;
        let rows = self.decoding as f64;
        // count x (t0 + t1 rows + t2 context) + t2 rows count (count - 1) / 2 = wait
        let a = self.time.t2 * rows / 2.0;
        let b = self.time.at_rows(self.decoding as usize) + self.time.t2 * self.context as f64 - a;
        let count = 2.0 * wait / (b + (b * b + 4.0 * a * wait).max(0.0).sqrt()).max(1e-12);
        count.ceil().clamp(1.0, 1e15) as u64
    }

    /// Lets `count` steps of all rows pass in `seconds`, and ends the rows that end with them.
    pub(super) fn advance(&mut self, count: u64, seconds: f64) {
        self.keep_moment();
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
        self.stepped_s = self.now;
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

    /// Keeps what the engine holds at this moment, now and then.
    fn keep_moment(&mut self) {
        if self.timeline.wants(self.now) {
            self.timeline.add(Moment {
                at_s: self.now,
                waiting: self.queue.len(),
                rows: self.decoding,
                kv_use: match self.bounded {
                    true => self.blocks.used() as f64 / self.blocks.total().max(1) as f64,
                    false => 0.0,
                },
            });
        }
    }

    /// A row's event has come: it ends, or has outgrown what was set aside for it.
    pub(super) fn happen(&mut self, slot: u32, step: u64) {
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
            self.finish(request);
        }
    }
}
