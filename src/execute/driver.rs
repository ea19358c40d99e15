//! Runs one arm under one seed: asks the schedule for rounds of micro-batches, runs them, tells
//! it what they left unfinished, and writes down what happened in the records of a run.

use super::{BatchRun, Executor};
use crate::error::{Error, Result};
use crate::evaluate::summary::{ArmRun, BatchRecord, RequestRecord};
use crate::schedule::{Batching, Forecast, MicroBatch, Rounds, ScheduleOptions, plan};

/// Runs the requests `order` (arrival order, indices in the workload) as `options` say.
///
/// `forecasts` are by request index. `predict_s`, the seconds the predictor took for all of
/// them, is counted at the start: nothing is scheduled before it is predicted. Requests are
/// recorded in the order of arrival, latencies from the start of the run.
pub fn run_arm(
    executor: &mut dyn Executor,
    arm: &str,
    seed: u64,
    order: &[usize],
    forecasts: &[Forecast],
    options: &ScheduleOptions,
    predict_s: f64,
) -> Result<ArmRun> {
    options.validate()?;
    let mut ledger = Ledger::new(order, forecasts, options, predict_s);
    if options.batching == Batching::Continuous {
        ledger.run_continuous(executor, order, forecasts)?;
    } else {
        let mut rounds = Rounds::new(order, forecasts, options);
        let (mut group, mut number) = (0, 0);
        while let Some(round) = rounds.next_round() {
            if round.group != group {
                (group, number) = (round.group, 0);
            }
            for batch in &round.batches {
                let place = (group, number, round.round);
                number += 1;
                for (request, tokens, attempts) in ledger.run_batch(executor, batch, place)? {
                    if batch.cap >= options.max_new_tokens {
                        return Err(unserved(request));
                    }
                    rounds.unfinished(request, tokens, attempts);
                }
            }
        }
    }
    ledger.close(arm, seed, order)
}

fn unserved(request: usize) -> Error {
    Error::Numeric(format!(
        "the executor left request {request} unfinished at its token limit"
    ))
}

/// What is known of the arm so far; the clock is the end of the last batch.
struct Ledger<'a> {
    options: &'a ScheduleOptions,
    predict_s: f64,
    prefill_s: f64,
    decode_s: f64,
    batches: Vec<BatchRecord>,
    /// By request index; `None` for requests outside this run.
    requests: Vec<Option<RequestRecord>>,
    /// By request index: tokens that it keeps, and how often it was begun.
    kept: Vec<(usize, usize)>,
}

impl<'a> Ledger<'a> {
    fn new(
        order: &[usize],
        forecasts: &[Forecast],
        options: &'a ScheduleOptions,
        predict_s: f64,
    ) -> Self {
        let count = order.iter().max().map_or(0, |last| last + 1);
        let mut requests = vec![None; count];
        for &request in order {
            requests[request] = Some(RequestRecord {
                request,
                predicted: forecasts[request].tokens,
                response_tokens: 0,
                failed: false,
                batch_steps: 0,
                latency_s: 0.0,
            });
        }
        Ledger {
            options,
            predict_s,
            prefill_s: 0.0,
            decode_s: 0.0,
            batches: Vec::new(),
            requests,
            kept: vec![(0, 0); count],
        }
    }

    fn clock(&self) -> f64 {
        self.predict_s + self.prefill_s + self.decode_s
    }

    fn record(&mut self, request: usize) -> Result<&mut RequestRecord> {
        self.requests
            .get_mut(request)
            .and_then(Option::as_mut)
            .ok_or_else(|| {
                Error::Numeric(format!(
                    "the executor served request {request}, which nobody asked for"
                ))
            })
    }

    /// Runs one batch at `(group, batch, attempt)` and returns the requests that it cut, with
    /// the tokens they have and how often they were begun before.
    fn run_batch(
        &mut self,
        executor: &mut dyn Executor,
        batch: &MicroBatch,
        (group, number, attempt): (usize, usize, usize),
    ) -> Result<Vec<(usize, usize, usize)>> {
        let start_s = self.clock();
        let run: BatchRun = executor.run_batch(batch, self.options.batching)?;
        self.prefill_s += run.prefill_s;
        self.decode_s += run.decode_s;
        let end_s = self.clock();

        let mut cut = Vec::new();
        let (mut useful_tokens, mut failed_tokens) = (0, 0);
        for member in &run.members {
            let (had, attempts) = self.kept.get(member.request).copied().unwrap_or_default();
            let gained = member.tokens.saturating_sub(had);
            let record = self.record(member.request)?;
            if member.finished || batch.keeps {
                useful_tokens += gained;
                record.batch_steps += run.steps;
            } else {
                failed_tokens += gained;
            }
            if member.finished {
                record.response_tokens = member.tokens;
                record.latency_s = end_s;
            } else {
                if batch.keeps && gained == 0 {
                    return Err(unserved(member.request));
                }
                record.failed = true;
                cut.push((member.request, member.tokens, attempts));
                self.kept[member.request] = match batch.keeps {
                    true => (member.tokens, attempts + 1),
                    false => (0, attempts + 1),
                };
            }
        }
        self.batches.push(BatchRecord {
            group,
            batch: number,
            attempt,
            rows: batch.members.len(),
            cap: batch.cap,
            steps: run.steps,
            computed_tokens: run.computed_tokens,
            useful_tokens,
            failed_tokens,
            start_s,
            prefill_s: run.prefill_s,
            decode_s: run.decode_s,
        });
        Ok(cut)
    }

    /// Continuous batching has no micro-batches: the run is recorded as one, and a request's
    /// steps are its own tokens. With `scheduling = "sorted"` slots are filled in that order.
    fn run_continuous(
        &mut self,
        executor: &mut dyn Executor,
        order: &[usize],
        forecasts: &[Forecast],
    ) -> Result<()> {
        let start_s = self.clock();
        let queue: Vec<usize> = plan(order, forecasts, self.options)
            .into_iter()
            .flat_map(|group| group.batches)
            .flat_map(|batch| batch.members)
            .collect();
        let run = executor.run_continuous(&queue, self.options.batch_size)?;
        self.prefill_s += run.prefill_s;
        self.decode_s += run.decode_s;
        for member in &run.members {
            let record = self.record(member.request)?;
            record.response_tokens = member.tokens;
            record.batch_steps = member.tokens;
            record.latency_s = start_s + member.finish_s;
        }
        self.batches.push(BatchRecord {
            group: 0,
            batch: 0,
            attempt: 0,
            rows: run.members.len(),
            cap: self.options.max_new_tokens,
            steps: run.steps,
            computed_tokens: run.computed_tokens,
            useful_tokens: run.members.iter().map(|m| m.tokens).sum(),
            failed_tokens: 0,
            start_s,
            prefill_s: run.prefill_s,
            decode_s: run.decode_s,
        });
        Ok(())
    }

    fn close(mut self, arm: &str, seed: u64, order: &[usize]) -> Result<ArmRun> {
        let total_s = self.clock();
        let requests = order
            .iter()
            .map(|&request| match self.requests[request].take() {
                Some(record) if record.response_tokens > 0 => Ok(record),
                _ => Err(unserved(request)),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(ArmRun {
            arm: arm.to_owned(),
            seed,
            predict_s: self.predict_s,
            prefill_s: self.prefill_s,
            decode_s: self.decode_s,
            total_s,
            outputs_sha256: None,
            replayed_s: None,
            batches: self.batches,
            requests,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::{ReplayExecutor, StepTimeModel};
    use crate::schedule::{Fcr, Scheduling};
    use proptest::prelude::*;

    fn replay(lengths: &[usize]) -> ReplayExecutor {
        // One second a step, nothing else.
        let one_second = StepTimeModel {
            name: "one-second".into(),
            source: "test".into(),
            t0: 1.0,
            t1: 0.0,
            t2: 0.0,
            p0: 0.0,
            p1: 0.0,
            off_line: Vec::new(),
        };
        ReplayExecutor::new(lengths, &vec![0; lengths.len()], 100, one_second)
    }

    fn fcr() -> ScheduleOptions {
        ScheduleOptions {
            group_size: 4,
            batch_size: 2,
            max_new_tokens: 100,
            scheduling: Scheduling::Sorted,
            fcr: Fcr::Recompute,
            ..Default::default()
        }
    }

    #[test]
    fn the_cut_request_is_served_at_the_end_of_its_group() {
        let lengths = [10, 60, 20, 100];
        let predictions = [10.0, 12.0, 30.0, 40.0];
        let run = run_arm(
            &mut replay(&lengths),
            "fcr",
            42,
            &[0, 1, 2, 3],
            &Forecast::points(&predictions, 100),
            &fcr(),
            5.0,
        )
        .expect("runs");
        // [0, 1] to 12, [2, 3] to 40, then [1, 3] to 100.
        let steps: Vec<_> = run.batches.iter().map(|b| (b.attempt, b.steps)).collect();
        assert_eq!(steps, [(0, 12), (0, 40), (1, 100)]);
        assert_eq!(run.batches[0].failed_tokens, 12);
        assert_eq!(run.batches[0].useful_tokens, 10);
        let latencies: Vec<_> = run.requests.iter().map(|r| r.latency_s).collect();
        assert_eq!(latencies, [17.0, 157.0, 57.0, 157.0]);
        let failed: Vec<_> = run.requests.iter().map(|r| r.failed).collect();
        assert_eq!(failed, [false, true, false, true]);
        assert_eq!(run.total_s, 157.0);
    }

    #[test]
    fn finishing_exactly_at_the_cap_is_no_failure() {
        let run = run_arm(
            &mut replay(&[10, 20]),
            "exact",
            42,
            &[0, 1],
            &Forecast::points(&[20.0, 20.0], 100),
            &fcr(),
            0.0,
        )
        .expect("runs");
        assert_eq!(run.batches.len(), 1);
        assert!(run.requests.iter().all(|r| !r.failed));
    }

    /// Every schedule there is, over small groups.
    fn schedules(group_size: usize, batch_size: usize) -> Vec<ScheduleOptions> {
        let sorted = ScheduleOptions {
            group_size,
            batch_size,
            ..fcr()
        };
        let plain = ScheduleOptions {
            fcr: Fcr::Off,
            ..sorted.clone()
        };
        let of = |scheduling| ScheduleOptions {
            scheduling,
            ..plain.clone()
        };
        let staged = |scheduling, carry, max_rows| ScheduleOptions {
            carry,
            max_rows,
            stage_steps: 4,
            ..of(scheduling)
        };
        vec![
            of(Scheduling::None),
            plain.clone(),
            sorted.clone(),
            ScheduleOptions {
                carry: true,
                ..sorted.clone()
            },
            ScheduleOptions {
                fcr: Fcr::Resume,
                ..sorted.clone()
            },
            ScheduleOptions {
                fcr: Fcr::Resume,
                carry: true,
                ..sorted.clone()
            },
            ScheduleOptions {
                cap_at: Some(0.8),
                order_at: Some(0.3),
                ..sorted.clone()
            },
            ScheduleOptions {
                batching: Batching::Compacting,
                ..sorted.clone()
            },
            ScheduleOptions {
                batching: Batching::Compacting,
                fcr: Fcr::Resume,
                ..sorted
            },
            ScheduleOptions {
                batching: Batching::Continuous,
                ..plain.clone()
            },
            ScheduleOptions {
                bins: 3,
                ..of(Scheduling::MultiBin)
            },
            ScheduleOptions {
                kv_tokens: 150,
                ..of(Scheduling::Packed)
            },
            staged(Scheduling::Staged, false, 0),
            staged(Scheduling::Staged, true, 7),
            ScheduleOptions {
                kv_tokens: 300,
                ..staged(Scheduling::Staged, false, 9)
            },
            staged(Scheduling::Planned, false, 0),
            staged(Scheduling::Planned, true, 40),
            ScheduleOptions {
                kv_tokens: 300,
                ..staged(Scheduling::Planned, false, 9)
            },
        ]
    }

    proptest! {
        #[test]
        fn every_request_is_served_whole_and_once(
            pairs in prop::collection::vec((1usize..130, 0.0..130.0f64), 1..80),
            group_size in 1usize..40,
            batch_size in 1usize..10,
        ) {
            let (lengths, predictions): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let forecasts = Forecast::points(&predictions, 100);
            let order: Vec<usize> = (0..lengths.len()).rev().collect();
            let served: usize = lengths.iter().map(|l| l.min(&100)).sum();
            let mut computed = Vec::new();
            for options in schedules(group_size, batch_size) {
                let run = run_arm(
                    &mut replay(&lengths), "any", 1, &order, &forecasts, &options, 0.0,
                ).expect("runs");
                prop_assert_eq!(run.requests.len(), lengths.len());
                for (record, &request) in run.requests.iter().zip(&order) {
                    prop_assert_eq!(record.request, request);
                    prop_assert_eq!(record.response_tokens, lengths[request].min(100));
                    prop_assert!(record.batch_steps >= record.response_tokens);
                    prop_assert!(record.latency_s <= run.total_s + 1e-9);
                }
                let sum = |of: fn(&BatchRecord) -> usize| run.batches.iter().map(of).sum::<usize>();
                prop_assert_eq!(sum(|b| b.useful_tokens), served);
                if options.keeps() {
                    prop_assert_eq!(sum(|b| b.failed_tokens), 0);
                }
                for batch in &run.batches {
                    prop_assert!(batch.computed_tokens >= batch.useful_tokens + batch.failed_tokens);
                    if options.batching == Batching::Static {
                        prop_assert_eq!(batch.computed_tokens, batch.rows * batch.steps);
                    }
                    if options.scheduling.is_staged() {
                        prop_assert!(batch.rows <= options.row_limit());
                    }
                }
                // A clairvoyant fills every row of every step.
                let rows = run.batches.iter().map(|b| b.rows).max().unwrap_or(1);
                if options.batching != Batching::Continuous {
                    prop_assert!(sum(|b| b.steps) >= served.div_ceil(rows));
                }
                computed.push((options, sum(|b| b.computed_tokens)));
            }
            for (options, resumed) in &computed {
                let recomputing = ScheduleOptions { fcr: Fcr::Recompute, ..options.clone() };
                for (other, recomputed) in &computed {
                    if options.fcr == Fcr::Resume && *other == recomputing {
                        prop_assert!(resumed <= recomputed);
                    }
                }
            }
        }
    }

    #[test]
    fn what_resumes_goes_on_where_it_was() {
        let run = run_arm(
            &mut replay(&[10, 60, 20, 100]),
            "resume",
            42,
            &[0, 1, 2, 3],
            &Forecast::points(&[10.0, 12.0, 30.0, 40.0], 100),
            &ScheduleOptions {
                fcr: Fcr::Resume,
                ..fcr()
            },
            0.0,
        )
        .expect("runs");
        // [0, 1] to 12, [2, 3] to 40, then what is left of [1, 3]: 48 and 60.
        let steps: Vec<_> = run.batches.iter().map(|b| (b.attempt, b.steps)).collect();
        assert_eq!(steps, [(0, 12), (0, 40), (1, 60)]);
        assert_eq!(run.requests[1].batch_steps, 72);
        assert_eq!(run.total_s, 112.0);
    }
}
