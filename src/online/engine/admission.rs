//! Who gets in, and who has to give slot and memory back.

use std::cmp::Reverse;

use super::{Engine, Overflow, Prefill, Row};

impl Engine<'_> {
    pub(super) fn enqueue(&mut self, request: u32, since_s: f64) {
        self.progress[request as usize].queued_s = since_s;
        let generated = self.progress[request as usize].generated;
        let known = self.known(request, generated);
        let rank = self.policy.rank(&known);
        self.queue.push(request, rank, f64::from(known.size));
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

    pub(super) fn first_waiting(&mut self) -> Option<u32> {
        let requests = self.requests;
        self.queue
            .first(self.now, |r| requests[r as usize].arrival_s)
    }

    /// Blocks that a request is given on admission, and whether there are so many: of its
    /// context with the next token, or of what is set aside for it.
    pub(super) fn room_for(&self, request: u32) -> (u64, bool) {
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
        if done.generated == 0 || done.paused {
            self.fresh.push(request);
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
        let done = &mut self.progress[row.request as usize];
        done.generated += gained as u32;
        Some(row.request)
    }

    /// Displaces rows until one more step has room.
    pub(super) fn make_room(&mut self) {
        while self.blocks.needed(self.step, 1) > self.blocks.free() {
            if !self.preempt_worst(f64::NEG_INFINITY) {
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
    pub(super) fn preempt_worst(&mut self, rank: f64) -> bool {
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
}
