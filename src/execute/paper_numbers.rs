//! Whether a replay of the paper's recorded lengths gives the rows that its reference code
//! reports. The data may not be shipped: without them the test prints a note and passes.

use std::path::PathBuf;

use super::{ReplayExecutor, StepTimeModel, run_arm};
use crate::evaluate::accounting::summarise_arm;
use crate::evaluate::summary::ArmSummary;
use crate::schedule::{Batching, Fcr, ScheduleOptions, Scheduling, VbsTable, arrival_order};

const LIMIT: usize = 512;
const REQUESTS: usize = 4096;

/// (length at temperature 0, max over the four temperatures) of each instruction.
fn lengths() -> Option<(Vec<usize>, Vec<f64>)> {
    let shared = match std::env::var_os("LENAWARE_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
    };
    let path = shared.join("data/paper/alpaca-val-5k-length.json");
    let text = std::fs::read_to_string(path).ok()?;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&text).expect("the lengths are JSON");
    let of = |row: &serde_json::Value, key: &str| row[key].as_u64().expect("a length") as usize;
    let served = rows
        .iter()
        .map(|row| of(row, "L_t0.0").min(LIMIT))
        .collect();
    let longest = rows
        .iter()
        .map(|row| {
            ["L_t0.0", "L_t0.3", "L_t0.5", "L_t0.7"]
                .map(|key| of(row, key).min(LIMIT))
                .into_iter()
                .max()
                .unwrap_or(LIMIT) as f64
        })
        .collect();
    Some((served, longest))
}

#[test]
fn replay_gives_the_reference_codes_rows() {
    let Some((served, ground_truth)) = lengths() else {
        println!("skipped: the paper's lengths are not here (set LENAWARE_SHARED)");
        return;
    };
    let mut replay = ReplayExecutor::new(&served, &[], LIMIT, StepTimeModel::paper());
    let mut runs = |options: &ScheduleOptions, predictions: &[f64]| {
        (42..47)
            .map(|seed| {
                let order = &arrival_order(served.len(), seed)[..REQUESTS];
                run_arm(&mut replay, "", seed, order, predictions, options, 0.0).expect("runs")
            })
            .collect::<Vec<_>>()
    };
    let vanilla_runs = runs(&ScheduleOptions::default(), &ground_truth);
    let oracle: Vec<f64> = served.iter().map(|l| *l as f64).collect();
    let mut arm = |name: &str, options: &ScheduleOptions, predictions: &[f64]| -> ArmSummary {
        let runs = runs(options, predictions);
        let arm = summarise_arm(name, "", options, &runs, Some(&vanilla_runs));
        println!(
            "{name:28} {:6.3} samples/s {:+7.1} %  average length {:6.2} (full {:6.2})  \
             effective {:5.2} % (full {:5.2} %)  failures {:5.2} %",
            arm.throughput_samples_per_s.mean,
            arm.improvement_pct.mean,
            arm.average_length.mean,
            arm.average_length_full.mean,
            arm.effective_token_ratio.mean * 100.0,
            arm.effective_token_ratio_full.mean * 100.0,
            arm.failure_ratio.mean * 100.0,
        );
        arm
    };

    let vanilla = arm("vanilla", &ScheduleOptions::default(), &ground_truth);
    let paper = ScheduleOptions::paper();
    let full = arm("ground truth, full method", &paper, &ground_truth);
    let sorted = ScheduleOptions {
        scheduling: Scheduling::Sorted,
        ..Default::default()
    };
    arm("ground truth, sorted", &sorted, &ground_truth);
    let oracle_sorted = arm("oracle, sorted", &sorted, &oracle);
    let unbinned = ScheduleOptions {
        vbs: Some(VbsTable::default()),
        fcr: Fcr::Recompute,
        ..sorted.clone()
    };
    arm("ground truth, FCR + VBS", &unbinned, &ground_truth);
    let binned = ScheduleOptions {
        binning: 50,
        ..sorted.clone()
    };
    arm("ground truth, binning", &binned, &ground_truth);
    arm("oracle, full method", &paper, &oracle);
    for slots in [16, 64] {
        let continuous = ScheduleOptions {
            batching: Batching::Continuous,
            batch_size: slots,
            ..Default::default()
        };
        arm(&format!("continuous, {slots} slots"), &continuous, &oracle);
    }

    // Reference README: 370.84 and 33.91 %; ground truth 61.57 %, +94 % (paper: +107 %).
    assert!((vanilla.average_length.mean / 370.84 - 1.0).abs() < 0.04);
    assert!((vanilla.effective_token_ratio.mean - 0.3391).abs() < 0.015);
    assert!((full.effective_token_ratio.mean - 0.6157).abs() < 0.02);
    assert!((80.0..120.0).contains(&full.improvement_pct.mean));
    assert_eq!(full.failure_ratio.mean, 0.0, "the max is never too short");
    assert!(oracle_sorted.effective_token_ratio.mean > 0.85);
}
