//! Runs one arm under one seed: plans, runs group after group, collects the requests that
//! were cut and runs them again, and writes down what happened in the records of a run.

use super::{BatchRun, Executor};
use crate::error::{Error, Result};
use crate::evaluate::summary::{ArmRun, BatchRecord, RequestRecord};
use crate::schedule::{
    Batching, MicroBatch, ScheduleOptions, effective_length, plan, recovery_batches,
};

/// Runs the requests `order` (arrival order, indices in the workload) as `options` say.
///
/// `predictions` are tokens by request index. `predict_s`, the seconds the predictor took for
/// all of them, is counted at the start: nothing is scheduled before it is predicted.
/// Requests are recorded in the order of arrival, latencies from the start of the run.
pub fn run_arm(
    executor: &mut dyn Executor,
    arm: &str,
    seed: u64,
    order: &[usize],
    predictions: &[f64],
    options: &ScheduleOptions,
    predict_s: f64,
) -> Result<ArmRun> {
    options.validate()?;
    let mut ledger = Ledger::new(order, predictions, options, predict_s);
    if options.batching == Batching::Continuous {
        ledger.run_continuous(executor, order, predictions)?;
    } else {
        for (group, planned) in plan(order, predictions, options).iter().enumerate() {
            let mut failed = Vec::new();
            for (number, batch) in planned.batches.iter().enumerate() {
                failed.extend(ledger.run_batch(executor, batch, (group, number, 0))?);
            }
            let again = recovery_batches(&failed, options.batch_size, options.max_new_tokens);
            for (number, batch) in again.iter().enumerate() {
                let place = (group, planned.batches.len() + number, 1);
                if let Some(request) = ledger.run_batch(executor, batch, place)?.first() {
                    return Err(unserved(*request));
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
}

impl<'a> Ledger<'a> {
    fn new(
        order: &[usize],
        predictions: &[f64],
        options: &'a ScheduleOptions,
        predict_s: f64,
    ) -> Self {
        let mut requests = vec![None; order.iter().max().map_or(0, |last| last + 1)];
        for &request in order {
            requests[request] = Some(RequestRecord {
                request,
                predicted: effective_length(predictions, request, options.max_new_tokens),
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

    /// Runs one batch at `(group, batch, attempt)` and returns the requests it cut.
    fn run_batch(
        &mut self,
        executor: &mut dyn Executor,
        batch: &MicroBatch,
        (group, number, attempt): (usize, usize, usize),
    ) -> Result<Vec<usize>> {
        let start_s = self.clock();
        let run: BatchRun = executor.run_batch(batch, self.options.batching)?;
        self.prefill_s += run.prefill_s;
        self.decode_s += run.decode_s;
        let end_s = self.clock();

        let mut failed = Vec::new();
        let (mut useful_tokens, mut failed_tokens) = (0, 0);
        for member in &run.members {
            let record = self.record(member.request)?;
            if member.finished {
                record.response_tokens = member.tokens;
                record.batch_steps = run.steps;
                record.latency_s = end_s;
                useful_tokens += member.tokens;
            } else {
                record.failed = true;
                failed.push(member.request);
                failed_tokens += member.tokens;
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
        Ok(failed)
    }

    /// Continuous batching has no micro-batches: the run is recorded as one, and a request's
    /// steps are its own tokens. With `scheduling = "sorted"` slots are filled in that order.
    fn run_continuous(
        &mut self,
        executor: &mut dyn Executor,
        order: &[usize],
        predictions: &[f64],
    ) -> Result<()> {
        let start_s = self.clock();
        let queue: Vec<usize> = plan(order, predictions, self.options)
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
            &predictions,
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
            &[20.0, 20.0],
            &fcr(),
            0.0,
        )
        .expect("runs");
        assert_eq!(run.batches.len(), 1);
        assert!(run.requests.iter().all(|r| !r.failed));
    }

    proptest! {
        #[test]
        fn every_request_is_served_whole(
            pairs in prop::collection::vec((1usize..130, 0.0..130.0f64), 1..80),
            group_size in 1usize..40,
            batch_size in 1usize..10,
            mode in 0usize..4,
        ) {
            let (lengths, predictions): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let order: Vec<usize> = (0..lengths.len()).rev().collect();
            let base = ScheduleOptions { group_size, batch_size, ..fcr() };
            let options = match mode {
                0 => base,
                1 => ScheduleOptions { fcr: Fcr::Off, ..base },
                2 => ScheduleOptions { batching: Batching::Compacting, ..base },
                _ => ScheduleOptions {
                    fcr: Fcr::Off,
                    batching: Batching::Continuous,
                    ..base
                },
            };
            let run = run_arm(
                &mut replay(&lengths), "any", 1, &order, &predictions, &options, 0.0,
            ).expect("runs");
            prop_assert_eq!(run.requests.len(), lengths.len());
            for (record, &request) in run.requests.iter().zip(&order) {
                prop_assert_eq!(record.request, request);
                prop_assert_eq!(record.response_tokens, lengths[request].min(100));
                prop_assert!(record.batch_steps >= record.response_tokens);
                prop_assert!(record.latency_s <= run.total_s + 1e-9);
            }
            for batch in &run.batches {
                prop_assert!(batch.computed_tokens >= batch.useful_tokens + batch.failed_tokens);
                if options.batching == Batching::Static {
                    prop_assert_eq!(batch.computed_tokens, batch.rows * batch.steps);
                }
            }
        }
    }
}
