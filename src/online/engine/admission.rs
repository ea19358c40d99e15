//! Who gets in, and who has to give slot and memory back.

use std::cmp::Reverse;

use super::{Engine, Overflow, Prefill, Row};
use crate::online::memory::{Memory, own_share};
use crate::online::policy::Guard;
use crate::online::queue::{Clock, First, Waiter};

/// Why a running request has to leave.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause {
    /// There is no block left for the next step: anybody may be displaced.
    Memory,
    /// One of this rank waits.
    Rank(f64),
}

impl Engine<'_> {
    pub(super) fn clock(&self) -> Clock {
        Clock {
            now_s: self.now,
            step: self.step,
            free: self.blocks.free().saturating_sub(self.kept_free()),
        }
    }

    /// Blocks that an admission leaves free for the rows that grow. An empty engine takes
    /// whoever fits at all.
    fn kept_free(&self) -> u64 {
        let empty = self.decoding == 0 && self.prefills.is_empty();
        match empty || !self.bounded {
            true => 0,
            false => (self.limits.watermark * self.blocks.total() as f64) as u64,
        }
    }

    pub(super) fn enqueue(&mut self, request: u32, since_s: f64) {
        let progress = &mut self.progress[request as usize];
        progress.queued_s = since_s;
        progress.waiting = true;
        let generated = progress.generated;
        self.renew(request, generated);
        let known = self.known(request, generated);
        let waiter = Waiter {
            request,
            rank: self.policy.rank(&known),
            size: f64::from(known.size),
            blocks: self.to_hold(request),
            arrival_s: known.arrival_s,
        };
        let clock = self.clock();
        self.queue.push(&waiter, clock);
    }

    /// Takes in whoever has come by now.
    pub(super) fn arrive(&mut self) {
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

    pub(super) fn first_waiting(&mut self) -> Option<First> {
        let requests = self.requests;
        let clock = self.clock();
        self.queue.first(clock, |r| requests[r as usize].arrival_s)
    }

    /// Tokens of a request's answer that memory is reckoned with.
    fn answer(&self, request: u32) -> u64 {
        let answers = match self.asked.answers {
            [] => self.asked.sizes,
            answers => answers,
        };
        // More than any engine holds, and little enough to be added up.
        (answers[request as usize].max(0.0).ceil() as u64).min(1 << 40)
    }

    /// Blocks that a request is given on admission: of its context with the next token, or of
    /// what is set aside for it.
    fn to_hold(&self, request: u32) -> u64 {
        let generated = self.progress[request as usize].generated;
        let prompt = u64::from(self.requests[request as usize].prompt_tokens);
        let set_aside = match self.asked.memory {
            Memory::SetAside { .. } => self.answer(request),
            _ => 0,
        };
        let next = prompt + u64::from(generated) + 1;
        let held = self.blocks.of(next.max(prompt + set_aside));
        held.min(self.blocks.total())
    }

    /// Whether admitted requests are reckoned with until they end.
    pub(super) fn reckons(&self) -> bool {
        self.bounded
            && matches!(
                self.asked.memory,
                Memory::Peak { .. } | Memory::History { .. }
            )
    }

    /// Steps for which a request that has been given so many tokens is foreseen to go on.
    fn rest(&self, request: u32, generated: u32) -> u64 {
        let length = match self.asked.memory {
            Memory::History { .. } if !self.history.is_empty() => {
                let longer = self.history.longer_than(generated, own_share(request));
                longer.map_or(0, u64::from)
            }
            _ => self.answer(request),
        };
        match length.checked_sub(u64::from(generated)) {
            Some(rest) if rest > 0 => rest,
            // Longer than was thought possible: a quarter as much again.
            _ => u64::from(generated / 4).max(self.blocks.size()),
        }
    }

    /// From now on the request is reckoned with as one of `context` tokens.
    fn reckon(&mut self, request: u32, context: u64, generated: u32) {
        if self.reckons() {
            self.ledger.remove(request);
            let rest = self.rest(request, generated);
            self.ledger.insert(request, context, self.step, rest);
        }
    }

    /// From now on all that run are reckoned with by what is known now.
    fn reckon_all(&mut self) {
        if !self.reckons() {
            return;
        }
        let rows = self.rows.iter().flatten().map(|row| {
            let gained = self.step - row.since;
            let given = self.progress[row.request as usize].generated + gained as u32;
            (row.request, row.context + gained, given)
        });
        let prefills = self.prefills.iter().map(|prefill| {
            let request = prefill.request;
            let given = self.progress[request as usize].generated;
            (request, self.to_prefill(request), given)
        });
        let running: Vec<_> = rows.chain(prefills).collect();
        for (request, context, given) in running {
            self.reckon(request, context, given);
        }
    }

    /// Blocks that a request is given on admission, and whether it may have them.
    pub(super) fn room_for(&mut self, request: u32) -> (u64, bool) {
        let held = self.to_hold(request);
        let kept_free = self.kept_free();
        let mut fits = held + kept_free <= self.blocks.free();
        let empty = self.decoding == 0 && self.prefills.is_empty();
        if fits && !empty && self.reckons() {
            while let Some((late, context)) = self.ledger.overdue(self.step) {
                let prompt = u64::from(self.requests[late as usize].prompt_tokens);
                self.reckon(late, context, context.saturating_sub(prompt) as u32);
            }
            let generated = self.progress[request as usize].generated;
            // Blocks are half full in the mean where a row ends.
            let spare = (self.blocks.size() - 1) as f64 / 2.0;
            let peak = self.ledger.peak_with(
                self.to_prefill(request),
                self.rest(request, generated),
                self.step,
                spare,
            );
            let room = (self.blocks.total() - kept_free) * self.blocks.size();
            fits = peak <= room as f64;
        }
        (held, fits)
    }

    /// Whether an iteration has no tokens left for another prefill.
    pub(super) fn budget_spent(&self) -> bool {
        let pending: u64 = self.prefills.iter().map(|p| p.left).sum();
        pending + self.decoding >= self.limits.token_budget as u64
    }

    /// Tokens that a request's prefill computes: its prompt, and what it had been given.
    pub(super) fn to_prefill(&self, request: u32) -> u64 {
        let prompt = u64::from(self.requests[request as usize].prompt_tokens);
        (prompt + u64::from(self.progress[request as usize].generated)).max(1)
    }

    /// Fills free slots as far as memory and an iteration's tokens go.
    pub(super) fn admit(&mut self) {
        if self.decoding == 0 && self.prefills.is_empty() {
            self.queue.begin_batch(self.limits.slots);
        }
        while self.vacant.len() > self.prefills.len() && !self.budget_spent() {
            let Some(First { request, starved }) = self.first_waiting() else {
                return;
            };
            let (held, fits) = self.room_for(request);
            if !fits {
                return;
            }
            self.queue.take(request);
            self.blocks.take(held);
            let left = self.to_prefill(request);
            self.reckon(request, left, self.progress[request as usize].generated);
            let done = &mut self.progress[request as usize];
            done.waiting = false;
            if let (true, Some(Guard::Steps { .. })) = (starved, self.policy.guard()) {
                // Through its prefill, and for the guard's quantum from then on.
                done.kept_until = u64::MAX;
            }
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
    pub(super) fn copy(&mut self, tokens: u64) {
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
    pub(super) fn join(&mut self, request: u32, held: u64) {
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
        let generated = done.generated;
        if generated == 0 || done.paused {
            self.fresh.push(request);
        }
        if let (u64::MAX, Some(Guard::Steps { quantum, .. })) =
            (done.kept_until, self.policy.guard())
        {
            done.kept_until = self.step + quantum;
        }
        self.reckon(request, context, generated);
    }

    /// A request has its last token.
    pub(super) fn finish(&mut self, request: u32) {
        self.progress[request as usize].times.finish_s = self.now;
        self.last_finish_s = self.now;
        self.ledger.remove(request);
        let length = self.requests[request as usize].response_tokens;
        let first = self.history.is_empty();
        self.history.add(length);
        if first && !self.history.is_empty() {
            self.reckon_all();
        }
        let Some(group) = self.asked.groups.get(request as usize) else {
            return;
        };
        let Some((members, longest)) = self.groups.get_mut(*group as usize) else {
            return;
        };
        if longest.is_some_and(|longest| longest >= length) {
            return;
        }
        *longest = Some(length);
        for member in members.clone() {
            let progress = &self.progress[member as usize];
            if progress.waiting {
                let known = self.known(member, progress.generated);
                self.queue.rerank(member, self.policy.rank(&known));
            }
        }
    }

    /// A row leaves its slot; whose it was.
    pub(super) fn leave(&mut self, slot: u32) -> Option<u32> {
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
        self.ledger.remove(row.request);
        let done = &mut self.progress[row.request as usize];
        done.generated += gained as u32;
        Some(row.request)
    }

    /// Displaces rows until one more step has room.
    pub(super) fn make_room(&mut self) {
        while self.blocks.needed(self.step, 1) > self.blocks.free() {
            if !self.preempt_worst(Cause::Memory) {
                return;
            }
        }
    }

    /// Gives the slots of running requests to waiting ones that rank lower, where the policy
    /// does so.
    pub(super) fn displace(&mut self) {
        if !self.policy.preempts() {
            return;
        }
        while let Some(First { request, starved }) = self.first_waiting() {
            let full = self.vacant.len() <= self.prefills.len();
            let short = !self.room_for(request).1;
            if self.budget_spent() || (!full && !short) {
                return;
            }
            let known = self.known(request, self.progress[request as usize].generated);
            let rank = match starved {
                true => f64::NEG_INFINITY,
                false => self.policy.rank(&known),
            };
            if !self.preempt_worst(Cause::Rank(rank)) {
                return;
            }
            self.admit();
        }
    }

    /// Displaces whoever ranks highest of all that run and may be displaced, the latest among
    /// equals. Whether there was one.
    pub(super) fn preempt_worst(&mut self, cause: Cause) -> bool {
        let rows = self.rows.iter().enumerate().filter_map(|(slot, row)| {
            let row = row.as_ref()?;
            let before = self.progress[row.request as usize].generated;
            let generated = before + (self.step - row.since) as u32;
            Some((row.request, generated, Some(slot as u32)))
        });
        let prefills = self.prefills.iter().map(|prefill| {
            let generated = self.progress[prefill.request as usize].generated;
            (prefill.request, generated, None)
        });
        let mut worst: Option<(f64, u32, Option<u32>)> = None;
        if self.asked.renewal.is_some() {
            let running: Vec<_> = rows.chain(prefills).collect();
            for (request, generated, slot) in running {
                self.renew(request, generated);
                worst = self.worse(worst, cause, request, generated, slot);
            }
        } else {
            for (request, generated, slot) in rows.chain(prefills) {
                worst = self.worse(worst, cause, request, generated, slot);
            }
        }
        let Some((_, request, slot)) = worst else {
            return false;
        };
        self.preemptions += 1;
        self.progress[request as usize].kept_until = 0;
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
                    self.ledger.remove(request);
                    self.blocks.give(prefill.held);
                    lost = self.to_prefill(request) - prefill.left;
                }
            }
        }
        self.fresh.retain(|r| *r != request);
        let (now, last_token_s) = (self.now, self.stepped_s);
        let done = &mut self.progress[request as usize];
        done.times.preemptions += 1;
        if slot.is_some() && done.generated > 0 {
            // One that is displaced before its next token still waits for that.
            if !done.paused {
                done.paused_s = last_token_s;
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

    /// The one of two that is displaced rather: `worst`, or the running request if it may be.
    fn worse(
        &self,
        worst: Option<(f64, u32, Option<u32>)>,
        cause: Cause,
        request: u32,
        generated: u32,
        slot: Option<u32>,
    ) -> Option<(f64, u32, Option<u32>)> {
        let known = self.known(request, generated);
        let mut rank = self.policy.rank(&known);
        let kept = self.progress[request as usize].kept_until > self.step;
        match cause {
            Cause::Rank(waiting) => {
                if rank <= waiting || kept || !self.policy.displaceable(&known) {
                    return worst;
                }
            }
            // Only if there is nobody else.
            Cause::Memory if kept => rank = f64::NEG_INFINITY,
            Cause::Memory => {}
        }
        let rather = worst.is_none_or(|(r, q, _)| rank.total_cmp(&r).then(request.cmp(&q)).is_gt());
        match rather {
            true => Some((rank, request, slot)),
            false => worst,
        }
    }
}
