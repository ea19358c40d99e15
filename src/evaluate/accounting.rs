//! What a run of an arm was worth: throughput, average length, effective tokens, failures and
//! latency, in the paper's accounting (failed first attempts left out, as its code does) and
//! in full. Pure functions of the records of a run.

use super::statistics::{mean, quantile};
use super::summary::{ArmRun, ArmSummary, Latency, Measure};
use crate::schedule::ScheduleOptions;

/// The figures of one arm under one seed. Ratios are fractions.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Requests that were served.
    pub requests: usize,
    /// Requests a second, the predictor's time included.
    pub throughput_samples_per_s: f64,
    /// Response tokens served a second, the predictor's time included.
    pub throughput_tokens_per_s: f64,
    /// Mean over requests of the steps of the micro-batch that served them (the paper's).
    pub average_length: f64,
    /// Computed rows x steps, failed attempts included, a request.
    pub average_length_full: f64,
    /// Served tokens / computed tokens without the rows that failed (the paper's).
    pub effective_token_ratio: f64,
    /// Served tokens / all computed tokens.
    pub effective_token_ratio_full: f64,
    /// Requests that were cut below `max_new_tokens` and ran again / requests.
    pub failure_ratio: f64,
    /// Seconds from the start of the run to each answer, in the order of the records.
    pub latencies_s: Vec<f64>,
}

/// Accounts for one run. Ratios of an empty run are 0.
pub fn account(run: &ArmRun) -> Account {
    let requests = run.requests.len();
    let sum = |of: fn(&super::summary::RequestRecord) -> usize| {
        run.requests.iter().map(of).sum::<usize>() as f64
    };
    let served = sum(|r| r.response_tokens);
    let batch_steps = sum(|r| r.batch_steps);
    let failures = sum(|r| usize::from(r.failed));
    let computed: usize = run.batches.iter().map(|b| b.computed_tokens).sum();
    // A failed row was computed up to its cap and no further, so what it cost is its tokens.
    // For static batching the rest equals the sum of the requests' batch steps.
    let failed: usize = run.batches.iter().map(|b| b.failed_tokens).sum();
    let count = requests as f64;
    Account {
        requests,
        throughput_samples_per_s: ratio(count, run.total_s),
        throughput_tokens_per_s: ratio(served, run.total_s),
        average_length: ratio(batch_steps, count),
        average_length_full: ratio(computed as f64, count),
        effective_token_ratio: ratio(served, computed.saturating_sub(failed) as f64),
        effective_token_ratio_full: ratio(served, computed as f64),
        failure_ratio: ratio(failures, count),
        latencies_s: run.requests.iter().map(|r| r.latency_s).collect(),
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// One arm over its seeds: an entry of `summary.json`.
///
/// `vanilla` are the runs of the arm it is compared with; the improvement is taken between
/// runs of the same seed, over the seeds that both have. Without a comparison it is 0.
pub fn summarise_arm(
    name: &str,
    predictor: &str,
    options: &ScheduleOptions,
    runs: &[ArmRun],
    vanilla: Option<&[ArmRun]>,
) -> ArmSummary {
    let accounts: Vec<Account> = runs.iter().map(account).collect();
    let figure = |of: &dyn Fn(&Account) -> f64| Measure::over(accounts.iter().map(of).collect());
    let time = |of: fn(&ArmRun) -> f64| Measure::over(runs.iter().map(of).collect());
    let latency = |q: f64| figure(&|a| quantile(&a.latencies_s, q));
    let improvements: Vec<f64> = runs
        .iter()
        .zip(&accounts)
        .filter_map(|(run, own)| {
            let base = vanilla
                .unwrap_or(runs)
                .iter()
                .find(|base| base.seed == run.seed)?;
            let base = account(base).throughput_samples_per_s;
            (base > 0.0).then(|| (own.throughput_samples_per_s / base - 1.0) * 100.0)
        })
        .collect();
    ArmSummary {
        name: name.to_owned(),
        predictor: predictor.to_owned(),
        scheduling: options.scheduling.to_string(),
        binning: options.binning,
        vbs: options.vbs.is_some(),
        fcr: options.fcr.to_string(),
        batching: options.batching.to_string(),
        group_size: options.group_size,
        batch_size: options.batch_size,
        requests: accounts.first().map_or(0, |a| a.requests),
        seeds: runs.iter().map(|run| run.seed).collect(),
        throughput_samples_per_s: figure(&|a| a.throughput_samples_per_s),
        throughput_tokens_per_s: figure(&|a| a.throughput_tokens_per_s),
        improvement_pct: Measure::over(match improvements.is_empty() {
            true => vec![0.0],
            false => improvements,
        }),
        average_length: figure(&|a| a.average_length),
        average_length_full: figure(&|a| a.average_length_full),
        effective_token_ratio: figure(&|a| a.effective_token_ratio),
        effective_token_ratio_full: figure(&|a| a.effective_token_ratio_full),
        failure_ratio: figure(&|a| a.failure_ratio),
        predict_s: time(|run| run.predict_s),
        prefill_s: time(|run| run.prefill_s),
        decode_s: time(|run| run.decode_s),
        total_s: time(|run| run.total_s),
        latency_s: Latency {
            mean: figure(&|a| mean(&a.latencies_s)),
            p50: latency(0.5),
            p90: latency(0.9),
            p99: latency(0.99),
        },
        outputs_equal_vanilla: None,
        replayed_samples_per_s: (runs.iter().zip(&accounts))
            .map(|(run, account)| Some(ratio(account.requests as f64, run.replayed_s?)))
            .collect::<Option<Vec<f64>>>()
            .filter(|values| !values.is_empty())
            .map(Measure::over),
        published: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::{ReplayExecutor, StepTimeModel, run_arm};
    use crate::schedule::{Batching, Fcr, Forecast, Scheduling};

    fn run(options: &ScheduleOptions, seed: u64, predict_s: f64) -> ArmRun {
        let lengths = [10, 60, 20, 100];
        let one_second = StepTimeModel {
            t0: 1.0,
            t1: 0.0,
            t2: 0.0,
            ..StepTimeModel::paper()
        };
        let mut replay = ReplayExecutor::new(&lengths, &[0; 4], 100, one_second);
        let predictions = [10.0, 12.0, 30.0, 40.0];
        run_arm(
            &mut replay,
            "arm",
            seed,
            &[0, 1, 2, 3],
            &Forecast::points(&predictions, 100),
            options,
            predict_s,
        )
        .expect("runs")
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
    fn both_accountings_by_hand() {
        // Batches [10, 60] to 12 (60 fails), [20, 100] to 40 (100 fails), [60, 100] to 100.
        let account = account(&run(&fcr(), 1, 48.0));
        assert_eq!(account.failure_ratio, 0.5);
        assert_eq!(account.average_length, f64::from(12 + 40 + 100 + 100) / 4.0);
        assert_eq!(account.average_length_full, f64::from(24 + 80 + 200) / 4.0);
        assert_eq!(account.effective_token_ratio, 190.0 / 252.0);
        assert_eq!(account.effective_token_ratio_full, 190.0 / 304.0);
        assert_eq!(account.throughput_samples_per_s, 4.0 / 200.0);
        assert_eq!(account.throughput_tokens_per_s, 190.0 / 200.0);
    }

    #[test]
    fn rows_that_leave_are_not_redundant() {
        let compacting = ScheduleOptions {
            batching: Batching::Compacting,
            ..fcr()
        };
        let account = account(&run(&compacting, 1, 0.0));
        assert_eq!(account.effective_token_ratio, 1.0);
        assert!(account.effective_token_ratio_full < 1.0);
    }

    #[test]
    fn improvement_is_paired_by_seed() {
        let vanilla: Vec<_> = [1, 2]
            .map(|seed| {
                run(
                    &ScheduleOptions {
                        max_new_tokens: 100,
                        batch_size: 2,
                        ..Default::default()
                    },
                    seed,
                    0.0,
                )
            })
            .to_vec();
        // The same schedule with 40 s of prediction under seed 2: 160 s become 200 s.
        let arm = vec![
            ArmRun {
                total_s: 200.0,
                ..vanilla[1].clone()
            },
            vanilla[0].clone(),
        ];
        let summary = summarise_arm("a", "none", &fcr(), &arm, Some(&vanilla));
        let values = &summary.improvement_pct.values;
        assert!((values[0] + 20.0).abs() < 1e-9 && values[1].abs() < 1e-9);
        assert_eq!(summary.requests, 4);
        assert_eq!(summary.seeds, [2, 1]);
        assert_eq!(summary.scheduling, "sorted");
        let alone = summarise_arm("v", "none", &fcr(), &vanilla, None);
        assert_eq!(alone.improvement_pct.mean, 0.0);
        let empty = summarise_arm("e", "none", &fcr(), &[], None);
        assert_eq!(empty.requests, 0);
    }
}
