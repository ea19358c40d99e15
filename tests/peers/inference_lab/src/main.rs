//! inference-lab's engine, through its library, on requests that lenaware reads too.
//!
//!     driver MODEL-CONFIG REQUESTS.csv [POLICY]
//!
//! REQUESTS has the columns of Azure's trace: exact arrivals and lengths, no contents of prompts,
//! so no prefix cache. Every arrival is an event from the start, so that a step sees whoever came
//! while the one before it ran. Prints one line; the time is the engine's alone.

use std::time::Instant;

use inference_lab::config::ModelConfig;
use inference_lab::request::Request;
use inference_lab::simulation::{Engine, Topology};

fn seconds(stamp: &str) -> f64 {
    let (day, time) = stamp.split_once(' ').expect("a day and a time");
    let number = |text: &str| text.parse::<f64>().expect("a number");
    let parts: Vec<f64> = time.split(':').map(number).collect();
    number(&day[8..10]) * 86_400.0 + parts[0] * 3_600.0 + parts[1] * 60.0 + parts[2]
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut text = std::fs::read_to_string(&args[1]).expect("a configuration");
    if let Some(policy) = args.get(3) {
        text = text.replace("policy = \"fcfs\"", &format!("policy = \"{policy}\""));
    }
    let file = std::env::temp_dir().join(format!("inference-lab-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("a folder for temporary files");
    let config = ModelConfig::from_file(&file).expect("a configuration");
    let config = config.deployment(Some("a100")).expect("a100");
    let text = std::fs::read_to_string(&args[2]).expect("requests");
    let mut start = None;
    let requests: Vec<Request> = (text.lines().skip(1).enumerate())
        .map(|(place, line)| {
            let columns: Vec<&str> = line.split(',').collect();
            let at = seconds(columns[0]);
            let at = at - *start.get_or_insert(at);
            let tokens = |i: usize| columns[i].parse().expect("tokens");
            Request::new(place.to_string(), 0, at, tokens(1), tokens(2))
        })
        .collect();
    let n = requests.len() as f64;
    let began = Instant::now();
    let topology = Topology::aggregated(
        config.cluster(),
        config.model.clone(),
        config.scheduler.clone(),
    );
    let mut engine = Engine::new(topology.expect("a cluster"));
    requests.into_iter().for_each(|request| engine.submit(request));
    let mut done = Vec::new();
    while !engine.is_idle() {
        done.extend(engine.step().expect("a step").completions);
    }
    let wall_s = began.elapsed().as_secs_f64();
    let ttft: f64 = done.iter().map(|r| r.ttft()).sum();
    let e2e: f64 = done.iter().map(|r| r.e2e()).sum();
    let makespan = done.iter().map(|r| r.completion_time).fold(0.0, f64::max);
    println!(
        "completed {} makespan_s {makespan:.3} ttft_mean_s {:.6} e2e_mean_s {:.6} preemptions {} \
         engine_wall_s {wall_s:.2}",
        done.len(),
        ttft / n,
        e2e / n,
        engine.aggregate_preemptions()
    );
}
