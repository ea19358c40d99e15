//! The replay executor: responses of recorded length under a step-time model, in simulated
//! time. It knows every response's length, the scheduler does not. Costs are summed in closed
//! form, so that thousands of requests replay in milliseconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::{BatchRun, ContinuousMember, ContinuousRun, Executor, MemberRun, StepTimeModel};
use crate::error::{Error, Result};
use crate::schedule::{Batching, MicroBatch};

/// Replays recorded responses.
#[derive(Debug, Clone)]
pub struct ReplayExecutor {
    /// Response tokens by request, `1..=max_new_tokens`.
    lengths: Vec<usize>,
    /// Prompt tokens by request; 0 where unknown.
    prompt_tokens: Vec<usize>,
    max_new_tokens: usize,
    step_time: StepTimeModel,
    /// Tokens of requests that were begun and kept.
    kept: HashMap<usize, usize>,
}

impl ReplayExecutor {
    /// Responses longer than `max_new_tokens` are cut there; missing prompts count as 0 tokens.
    pub fn new(
        lengths: &[usize],
        prompt_tokens: &[usize],
        max_new_tokens: usize,
        step_time: StepTimeModel,
    ) -> Self {
        let max_new_tokens = max_new_tokens.max(1);
        let mut prompt_tokens = prompt_tokens.to_vec();
        prompt_tokens.resize(lengths.len(), 0);
        ReplayExecutor {
            lengths: lengths
                .iter()
                .map(|l| (*l).clamp(1, max_new_tokens))
                .collect(),
            prompt_tokens,
            max_new_tokens,
            step_time,
            kept: HashMap::new(),
        }
    }

    fn length(&self, request: usize) -> Result<usize> {
        self.lengths.get(request).copied().ok_or_else(|| {
            Error::Usage(format!(
                "request {request} is outside the workload of {} recorded responses",
                self.lengths.len()
            ))
        })
    }
}

impl Executor for ReplayExecutor {
    fn run_batch(&mut self, batch: &MicroBatch, batching: Batching) -> Result<BatchRun> {
        let cap = batch.cap.clamp(1, self.max_new_tokens);
        let first = self.step_time.first_step();
        // By member: the tokens it had, and the decode steps it gets.
        let mut rows = Vec::with_capacity(batch.members.len());
        let mut members = Vec::with_capacity(batch.members.len());
        let (mut prompts, mut started, mut steps) = (0, 0, 0);
        for &request in &batch.members {
            let length = self.length(request)?;
            let had = self.kept.remove(&request).unwrap_or(0);
            let gained = (length - had).min(cap);
            let tokens = had + gained;
            // What starts gets its first token from its prefill.
            let prefilled = if had == 0 { first } else { 0 };
            if had == 0 {
                prompts += self.prompt_tokens[request];
                started += 1;
            }
            if tokens < length && batch.keeps {
                self.kept.insert(request, tokens);
            }
            members.push(MemberRun {
                request,
                tokens,
                finished: tokens == length,
            });
            steps = steps.max(gained);
            rows.push((had + prefilled, gained - prefilled));
        }

        // A step's cost is a sum over its rows plus a part for the step itself, so each row
        // can be charged alone for as long as it is computed.
        let decoded = rows.iter().map(|(_, gained)| *gained).max().unwrap_or(0);
        let mut decode_s = self.step_time.t0 * decoded as f64;
        let mut computed_tokens = 0;
        let mut lasting = Vec::with_capacity(batch.members.len());
        for (member, (position, gained)) in batch.members.iter().zip(rows) {
            let computed = match batching {
                Batching::Compacting => gained,
                Batching::Static | Batching::Continuous => decoded,
            };
            computed_tokens += computed;
            lasting.push(computed);
            let position = self.prompt_tokens[*member] + position;
            decode_s += self.step_time.row(position, computed);
        }
        // How far off the line steps are hangs on how many rows they have.
        lasting.sort_unstable_by(|a, b| b.cmp(a));
        for (rows, computed) in lasting.iter().enumerate() {
            let longer = computed - lasting.get(rows + 1).unwrap_or(&0);
            decode_s += longer as f64 * self.step_time.off(rows + 1);
        }
        let prefill_s = match started {
            0 => 0.0,
            _ => self.step_time.prefill(prompts),
        };
        Ok(BatchRun {
            members,
            steps,
            computed_tokens: computed_tokens + first * started,
            prefill_s,
            decode_s,
        })
    }

    fn run_continuous(&mut self, order: &[usize], slots: usize) -> Result<ContinuousRun> {
        let slots = slots.max(1);
        let first = self.step_time.first_step();
        let mut run = ContinuousRun {
            members: Vec::with_capacity(order.len()),
            steps: 0,
            computed_tokens: 0,
            prefill_s: 0.0,
            decode_s: 0.0,
        };
        // Rows at work by the step after which they finish; time moves from finish to finish.
        let mut rows: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
        let mut context_sum = 0usize;
        let mut waiting = order.iter().copied().peekable();

        while waiting.peek().is_some() || !rows.is_empty() {
            // Freed slots are filled together, with one prefill that all rows wait for.
            let arrivals: Vec<usize> = waiting.by_ref().take(slots - rows.len()).collect();
            if !arrivals.is_empty() {
                let prompts = arrivals.iter().try_fold(0, |sum, &request| {
                    self.length(request)
                        .map(|_| sum + self.prompt_tokens[request])
                })?;
                run.prefill_s += self.step_time.prefill(prompts);
            }
            for request in arrivals {
                let tokens = self.length(request)?;
                run.computed_tokens += tokens;
                if tokens <= first {
                    run.finish(request, tokens);
                } else {
                    rows.push(Reverse((run.steps + tokens - first, request)));
                    context_sum += self.prompt_tokens[request] + first;
                }
            }

            // Responses of one token end with their prefill and free their slots at once.
            if rows.len() < slots && waiting.peek().is_some() {
                continue;
            }
            let Some(Reverse((until, _))) = rows.peek().copied() else {
                continue;
            };
            let steps = until - run.steps;
            run.decode_s += self.step_time.steps(rows.len(), context_sum, steps);
            context_sum += rows.len() * steps;
            run.steps = until;
            while let Some(Reverse((finish, request))) = rows.peek().copied() {
                if finish > until {
                    break;
                }
                rows.pop();
                let tokens = self.length(request)?;
                context_sum -= self.prompt_tokens[request] + tokens;
                run.finish(request, tokens);
            }
        }
        Ok(run)
    }
}

impl ContinuousRun {
    fn finish(&mut self, request: usize, tokens: usize) {
        self.members.push(ContinuousMember {
            request,
            tokens,
            finish_s: self.prefill_s + self.decode_s,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model(prefill: bool) -> StepTimeModel {
        StepTimeModel {
            name: "test".into(),
            source: "test".into(),
            t0: 0.5,
            t1: 0.25,
            t2: 0.001,
            p0: if prefill { 0.125 } else { 0.0 },
            p1: if prefill { 0.01 } else { 0.0 },
            off_line: Vec::new(),
        }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs())
    }

    /// Token by token, as an engine would do it: (steps, computed tokens, decode seconds).
    fn naive_batch(
        lengths: &[usize],
        prompts: &[usize],
        cap: usize,
        compacting: bool,
        model: &StepTimeModel,
    ) -> (usize, usize, f64) {
        let (mut step, mut computed, mut seconds) = (0, 0, 0.0);
        while lengths.iter().any(|l| step < (*l).min(cap)) {
            let rows: Vec<usize> = (0..lengths.len())
                .filter(|r| !compacting || step < lengths[*r])
                .collect();
            computed += rows.len();
            if step >= model.first_step() {
                let context: usize = rows.iter().map(|r| prompts[*r] + step).sum();
                seconds += model.steps(rows.len(), context, 1);
            }
            step += 1;
        }
        (step, computed, seconds)
    }

    fn naive_continuous(
        lengths: &[usize],
        prompts: &[usize],
        slots: usize,
        model: &StepTimeModel,
    ) -> f64 {
        let mut next = 0;
        let mut rows: Vec<(usize, usize)> = Vec::new();
        let mut seconds = 0.0;
        while next < lengths.len() || !rows.is_empty() {
            let mut tokens = 0;
            let before = next;
            while rows.len() < slots && next < lengths.len() {
                rows.push((next, model.first_step()));
                tokens += prompts[next];
                next += 1;
            }
            if next > before {
                seconds += model.prefill(tokens);
                rows.retain(|(r, done)| *done < lengths[*r]);
                if rows.len() < slots && next < lengths.len() {
                    continue;
                }
            }
            if rows.is_empty() {
                continue;
            }
            let context = rows.iter().map(|(r, done)| prompts[*r] + done).sum();
            seconds += model.steps(rows.len(), context, 1);
            rows.iter_mut().for_each(|(_, done)| *done += 1);
            rows.retain(|(r, done)| *done < lengths[*r]);
        }
        seconds
    }

    #[test]
    fn a_request_outside_the_workload_is_an_error() {
        let mut replay = ReplayExecutor::new(&[3], &[0], 10, model(false));
        let batch = MicroBatch {
            members: vec![1],
            cap: 10,
            keeps: false,
        };
        assert!(replay.run_batch(&batch, Batching::Static).is_err());
        assert!(replay.run_continuous(&[1], 2).is_err());
    }

    #[test]
    fn the_limit_serves_and_a_lower_cap_fails() {
        let mut replay = ReplayExecutor::new(&[30, 5], &[0, 0], 20, model(false));
        let run = |replay: &mut ReplayExecutor, cap| {
            let batch = MicroBatch {
                members: vec![0, 1],
                cap,
                keeps: false,
            };
            replay.run_batch(&batch, Batching::Static).expect("runs")
        };
        let whole = run(&mut replay, 20);
        assert!(whole.members.iter().all(|m| m.finished));
        assert_eq!((whole.steps, whole.computed_tokens), (20, 40));
        let cut = run(&mut replay, 10);
        assert_eq!(cut.members[0].tokens, 10);
        assert!(!cut.members[0].finished && cut.members[1].finished);
    }

    proptest! {
        #[test]
        fn batches_equal_a_simulation_step_by_step(
            rows in prop::collection::vec((1usize..60, 0usize..40), 1..20),
            cap in 1usize..60,
            prefill in any::<bool>(),
        ) {
            let (lengths, prompts): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let model = model(prefill);
            let mut replay = ReplayExecutor::new(&lengths, &prompts, 60, model.clone());
            let batch = MicroBatch { members: (0..lengths.len()).collect(), cap, keeps: false };
            let mut computed = Vec::new();
            for batching in [Batching::Static, Batching::Compacting] {
                let run = replay.run_batch(&batch, batching).expect("runs");
                let (steps, tokens, seconds) = naive_batch(
                    &lengths, &prompts, cap, batching == Batching::Compacting, &model,
                );
                prop_assert_eq!(run.steps, steps);
                prop_assert_eq!(run.computed_tokens, tokens);
                prop_assert!(close(run.decode_s, seconds));
                let served: usize = run.members.iter().map(|m| m.tokens).sum();
                prop_assert!(run.computed_tokens >= served);
                computed.push((run.computed_tokens, run.decode_s));
            }
            prop_assert!(computed[1].0 <= computed[0].0);
            prop_assert!(computed[1].1 <= computed[0].1 + 1e-9);
        }

        #[test]
        fn continuous_serves_all_and_equals_a_simulation(
            rows in prop::collection::vec((1usize..40, 0usize..40), 0..60),
            slots in 1usize..9,
            prefill in any::<bool>(),
        ) {
            let (lengths, prompts): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let model = model(prefill);
            let mut replay = ReplayExecutor::new(&lengths, &prompts, 40, model.clone());
            let order: Vec<usize> = (0..lengths.len()).collect();
            let run = replay.run_continuous(&order, slots).expect("runs");
            let mut served: Vec<usize> = run.members.iter().map(|m| m.request).collect();
            served.sort_unstable();
            prop_assert_eq!(served, order);
            prop_assert_eq!(run.computed_tokens, lengths.iter().sum::<usize>());
            let seconds = naive_continuous(&lengths, &prompts, slots, &model);
            prop_assert!(close(run.prefill_s + run.decode_s, seconds));
            prop_assert!(run.members.windows(2).all(|w| w[0].finish_s <= w[1].finish_s));
        }
    }
}
