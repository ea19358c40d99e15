//! How fast serving over time is simulated.
//!
//!     cargo bench --bench online [-- AzureLLMInferenceTrace_conv_2023.csv]
//!
//! Prints seconds on one core, requests a second and the process's peak memory for 10,000 to
//! 10,000,000 requests under first come, first served, then for every policy at 1,000,000: 256
//! slots, 120,000 tokens of keys and values (7B in bf16 on 80 GB), Poisson arrivals and all at
//! once, the roofline of a 7B on an A100. Lengths are drawn from the trace, or from log-normal
//! ones with about its medians and spreads.

use std::path::Path;
use std::time::Instant;

use lenaware::execute::StepTimeModel;
use lenaware::online::Request;
use lenaware::online::arrivals::Arrivals;
use lenaware::online::engine::{Limits, Simulation};
use lenaware::online::memory::Memory;
use lenaware::online::policy::PolicyConfig;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use statrs::distribution::{ContinuousCDF, LogNormal};

const REQUESTS: usize = 1_000_000;
const REPETITIONS: usize = 3;
/// Requests a second: near what the engine can do.
const RATE: f64 = 8.0;

/// (prompt, answer) tokens to draw from.
fn lengths(trace: Option<&Path>) -> Vec<(u32, u32)> {
    match trace {
        Some(path) => {
            let mut reader = csv::Reader::from_path(path).expect("a trace");
            let rows = reader.records().map(|row| row.expect("a row"));
            rows.map(|row| {
                let at = |i: usize| row[i].parse::<u32>().expect("a number");
                (at(1), at(2).max(1))
            })
            .collect()
        }
        None => {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let prompts = LogNormal::new(6.9, 0.9).expect("a distribution");
            let answers = LogNormal::new(4.9, 0.8).expect("a distribution");
            let mut draw = |of: &LogNormal| {
                let x = of.inverse_cdf(rng.random_range(0.001..0.999));
                (x as u32).max(1)
            };
            (0..20_000)
                .map(|_| (draw(&prompts), draw(&answers)))
                .collect()
        }
    }
}

/// Requests and what is foreseen of them, half an order of magnitude wrong at most.
fn requests(n: usize, lengths: &[(u32, u32)], arrivals: &Arrivals) -> (Vec<Request>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let times = arrivals.times(&vec![None; n], 3).expect("arrivals");
    times
        .into_iter()
        .map(|arrival_s| {
            let (prompt_tokens, response_tokens) = lengths[rng.random_range(0..lengths.len())];
            let request = Request {
                arrival_s,
                prompt_tokens,
                response_tokens,
            };
            let wrong = 10f64.powf(rng.random_range(-0.5..0.5));
            (request, (f64::from(response_tokens) * wrong) as f32)
        })
        .unzip()
}

/// Megabytes.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1024.0
}

fn report(
    name: &str,
    requests: &[Request],
    sizes: &[f32],
    (policy, memory): (PolicyConfig, Memory),
    times: usize,
) {
    let limits = Limits {
        kv_tokens: 120_000,
        ..Limits::default()
    };
    let step_time = StepTimeModel::load("llama-7b-a100-roofline").expect("a preset");
    let policy = policy.build().expect("a policy");
    let mut seconds = Vec::new();
    let mut told = String::new();
    for _ in 0..times {
        let begun = Instant::now();
        let outcome = Simulation {
            memory,
            ..Simulation::new(requests, sizes, policy.as_ref(), &limits, &step_time)
        }
        .run()
        .expect("requests in order");
        seconds.push(begun.elapsed().as_secs_f64());
        told = format!(
            "{:.0} % busy, {:.0} rows, {:.0} waiting, {} preemptions",
            100.0 * outcome.busy_s / outcome.makespan_s,
            outcome.rows_mean,
            outcome.waiting_mean,
            outcome.preemptions
        );
    }
    seconds.sort_by(f64::total_cmp);
    let took = seconds[seconds.len() / 2];
    println!(
        "{:>10} {name}: {took:.2} s, {:.0} requests/s, peak {:.0} MB ({told})",
        requests.len(),
        requests.len() as f64 / took,
        peak_memory()
    );
}

fn main() {
    let trace = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let lengths = lengths(trace.as_deref().map(Path::new));
    let poisson = Arrivals::Poisson { rate: RATE };
    let plain = (PolicyConfig::Fcfs, Memory::AsItComes);
    for n in [10_000, 100_000, REQUESTS] {
        let (requests, sizes) = requests(n, &lengths, &poisson);
        report("fcfs", &requests, &sizes, plain, REPETITIONS);
    }
    let sjf = PolicyConfig::Sjf {
        at: None,
        beta: None,
        guard_s: Some(300.0),
    };
    let others = [
        sjf,
        PolicyConfig::Srpt { limit: None },
        PolicyConfig::Lpt,
        PolicyConfig::Hrrn,
        PolicyConfig::Aging { tokens_per_s: 1.0 },
        PolicyConfig::Ranking {
            starvation_steps: 2_000,
            quantum_steps: 200,
        },
        PolicyConfig::MultiBin { bins: 4 },
        PolicyConfig::Packing {
            guard_s: Some(300.0),
        },
        PolicyConfig::Mlfq { quantum: 32 },
        PolicyConfig::Las { quantum: 32 },
    ];
    for (when, arrivals) in [("poisson", poisson), ("all at once", Arrivals::AtOnce)] {
        let (requests, sizes) = requests(REQUESTS, &lengths, &arrivals);
        for policy in others.iter().chain(&[PolicyConfig::Fcfs]) {
            let name = format!("{}, {when}", policy.name());
            report(&name, &requests, &sizes, (*policy, Memory::AsItComes), 1);
        }
        for memory in [
            Memory::SetAside { at: 0.9 },
            Memory::Peak { at: 0.5 },
            Memory::History { window: 1000 },
        ] {
            let name = format!("fcfs, {}, {when}", memory.name());
            report(&name, &requests, &sizes, (PolicyConfig::Fcfs, memory), 1);
        }
    }
    let (requests, sizes) = requests(10 * REQUESTS, &lengths, &poisson);
    report("fcfs", &requests, &sizes, plain, 1);
}
