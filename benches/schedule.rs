//! How long planning and replaying take.
//!
//!     cargo bench --bench schedule
//!
//! Prints the seconds (median of 5) to plan 100,000 requests with predicted distributions, in
//! groups of 256 and in one group, and to replay a sweep of 200 arms x 5 seeds x 5,000 requests
//! through the command, records, tables and figures included.

use std::process::Command;
use std::time::Instant;

use lenaware::predictor::{LEVELS, Prediction, Quantiles};
use lenaware::schedule::{Forecast, Rounds, ScheduleOptions, Scheduling, VbsTable, arrival_order};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const REQUESTS: usize = 100_000;
const REPETITIONS: usize = 5;

/// Log-normal lengths about 100 tokens, each foreseen with a spread of its own.
fn forecasts() -> Vec<Forecast> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    (0..REQUESTS)
        .map(|_| {
            let center = 100.0 * rng.random_range(-1.5f64..1.5).exp();
            let spread = rng.random_range(0.2..0.8);
            let at = |p: f64| center * (spread * 4.0 * (p - 0.5)).exp();
            let said = Prediction::distributed(Quantiles::new(LEVELS.map(at)));
            Forecast::new(&said, 60, 512)
        })
        .collect()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Seconds until every group's first round is planned.
fn plan(forecasts: &[Forecast], order: &[usize], options: &ScheduleOptions) -> f64 {
    let once = || {
        let begun = Instant::now();
        let mut rounds = Rounds::new(order, forecasts, options);
        let mut planned = 0;
        while let Some(round) = rounds.next_round() {
            planned += round.batches.iter().map(|b| b.members.len()).sum::<usize>();
        }
        assert_eq!(planned, REQUESTS);
        begun.elapsed().as_secs_f64()
    };
    median((0..REPETITIONS).map(|_| once()).collect())
}

fn main() {
    let forecasts = forecasts();
    let order = arrival_order(REQUESTS, 1);
    let base = ScheduleOptions {
        scheduling: Scheduling::Sorted,
        ..ScheduleOptions::default()
    };
    let vbs = Some(VbsTable::default());
    for (name, options) in [
        (
            "sorted, binning, VBS",
            ScheduleOptions {
                binning: 50,
                vbs,
                ..base.clone()
            },
        ),
        (
            "staged",
            ScheduleOptions {
                scheduling: Scheduling::Staged,
                ..base.clone()
            },
        ),
        (
            "planned, 16 rows",
            ScheduleOptions {
                scheduling: Scheduling::Planned,
                ..base.clone()
            },
        ),
        (
            "planned, up to 256 rows",
            ScheduleOptions {
                scheduling: Scheduling::Planned,
                max_rows: 256,
                ..base
            },
        ),
    ] {
        for group_size in [256, REQUESTS] {
            let options = ScheduleOptions {
                group_size,
                ..options.clone()
            };
            let seconds = plan(&forecasts, &order, &options);
            println!("plan {REQUESTS} requests, {name}, groups of {group_size}: {seconds:.3} s");
        }
    }
    sweep();
}

/// 200 arms x 5 seeds x 5,000 requests, as a user runs them.
fn sweep() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut rows = String::from("instruction_id,response_tokens\n");
    for id in 0..5000 {
        let tokens = (100.0 * rng.random_range(-1.5f64..1.6).exp()) as usize;
        rows.push_str(&format!("{id},{}\n", tokens.max(1)));
    }
    std::fs::write(dir.path().join("lengths.csv"), rows).expect("writes");
    let experiment = r#"
[experiment]
name = "sweep"
seeds = [1, 2, 3, 4, 5]
[workload]
dataset = "lengths.parquet"
served = "random"
[defaults]
predictor = "ground-truth"
scheduling = "sorted"
[[arm]]
name = "vanilla"
scheduling = "none"
[[sweep]]
name = "sorted"
group_size = [32, 64, 128, 256, 512]
batch_size = [8, 16, 32, 64, 128]
fcr = ["off", "recompute", "resume"]
binning = [0, 50]
[[sweep]]
name = "planned"
scheduling = "planned"
group_size = [64, 128, 256, 512, 1024]
max_rows = [16, 32, 64, 128, 256]
stage_steps = [8, 16]
"#;
    std::fs::write(dir.path().join("sweep.toml"), experiment).expect("writes");
    let run = |arguments: &str| {
        let begun = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_lenaware"))
            .current_dir(dir.path())
            .args(arguments.split_whitespace())
            .output()
            .expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        begun.elapsed().as_secs_f64()
    };
    run(
        "-q import --from csv --lengths lengths.csv --response-tokens-column response_tokens --out lengths.parquet",
    );
    let seconds = run("-q ablate --config sweep.toml");
    println!("replay 201 arms x 5 seeds x 5,000 requests: {seconds:.1} s");
}
