//! Requests that really arrive over time, on a tiny random model.

use std::path::Path;

use serde_json::Value;

use crate::{lenaware, read, refusal, succeed, succeed_json, tiny_model};

const EXPERIMENT: &str = r#"
[experiment]
name = "arriving"
seeds = [1, 2]
[workload]
dataset = "lengths"
served = 1.0
arrivals = "at-once"
[executor]
kind = "live"
model = "./tiny"
step_time = "smollm2-135m-2-cores"
[defaults]
predictor = "ground-truth"
batch_size = 3
max_new_tokens = 24
[[arm]]
name = "fcfs"
predictor = "constant"
[[arm]]
name = "sjf"
policy = "sjf"
[[arm]]
name = "lpt"
policy = "lpt"
noise = 0.5
"#;

/// A folder with the model, the lengths of its answers to 20 instructions, and the experiment.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny_model::write(&dir.path().join("tiny"), 2);
    let line = |i: usize| {
        let text = "word ".repeat(i % 5 + 1);
        format!("{{\"id\": \"i{i}\", \"text\": \"{text}\"}}\n")
    };
    let lines: String = (0..20).map(line).collect();
    std::fs::write(dir.path().join("in.jsonl"), lines).unwrap();
    let build = "--json build-dataset --model ./tiny --instructions in.jsonl --temperatures 1 \
                 --max-new-tokens 24 --out lengths";
    succeed(lenaware(dir.path()).args(build.split_whitespace()));
    std::fs::write(dir.path().join("arriving.toml"), EXPERIMENT).unwrap();
    dir
}

fn ablate(dir: &Path, more: &[&str]) -> Value {
    let mut command = lenaware(dir);
    command.args(["--json", "ablate", "--config", "arriving.toml"]);
    succeed_json(command.args(more))
}

fn mean(arm: &Value, path: &str) -> f64 {
    let mean = &arm["figures"][path]["mean"];
    mean.as_f64().unwrap_or_else(|| panic!("{path}: {mean}"))
}

fn run_folder(dir: &Path) -> std::path::PathBuf {
    let runs = dir.join("results/arriving");
    let mut entries = std::fs::read_dir(runs).unwrap();
    entries.next().unwrap().unwrap().path()
}

#[test]
fn policies_are_measured_and_simulated_beside() {
    let dir = folder();
    let summary = ablate(dir.path(), &[]);
    assert_eq!(summary["simulated"], false);
    assert_eq!(summary["executor"]["kind"], "live");
    let arms = summary["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 3);
    for arm in arms {
        assert_eq!(arm["outputs_equal_first"], true, "{}", arm["name"]);
        assert_eq!(mean(arm, "completed"), 20.0);
        assert_eq!(mean(arm, "simulated.completed"), 20.0);
        assert!(mean(arm, "makespan_s") > 0.0 && mean(arm, "simulated.e2e_s.mean") > 0.0);
        // The preset is of a model a thousand times as large.
        assert!(mean(arm, "simulated.makespan_difference_pct") > 0.0);
        assert!(mean(arm, "simulated.e2e_mean_difference_pct") > 0.0);
        assert!(mean(arm, "ttft_s.mean") <= mean(arm, "e2e_s.mean"));
    }
    assert_eq!(mean(&arms[0], "predict_s"), 0.0);

    let folder = run_folder(dir.path());
    let markdown = read(folder.join("summary.md"));
    assert!(markdown.contains("measured on CPU"), "{markdown}");
    for column in ["simulated makespan", "simulated E2E mean", "same answers"] {
        assert!(markdown.contains(column), "{markdown}");
    }
    assert!(
        markdown.contains("beside it SIMULATED with step-time model smollm2"),
        "{markdown}"
    );
    let csv = read(folder.join("summary.csv"));
    assert!(csv.contains(",measured,") && csv.contains("simulated.makespan_s"));
    let page = read(folder.join("report.html"));
    assert!(page.contains("class=\"kind measured\""));

    // Every request's own times are kept, and a run that was cut short is gone on with.
    let lines = read(folder.join("arms.jsonl"));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 6);
    let first: Value = serde_json::from_str(lines[0]).unwrap();
    let requests = first["measured"]["requests"].as_array().unwrap();
    let at = |request: &Value, key: &str| request[key].as_f64().unwrap();
    assert!(requests.len() == 20 && at(&requests[0], "arrival_s") == 0.0);
    assert!(
        (requests.iter()).all(|r| at(r, "admitted_s") < at(r, "first_token_s")
            && at(r, "first_token_s") <= at(r, "finish_s"))
    );
    std::fs::write(
        folder.join("arms.jsonl"),
        lines[..4].join("\n") + "\n{\"arm",
    )
    .unwrap();
    std::fs::remove_file(folder.join("summary.json")).unwrap();
    let again = ablate(dir.path(), &["--resume"]);
    let kept = |summary: &Value| summary["arms"][0]["figures"]["makespan_s"]["values"][0].clone();
    assert_eq!(kept(&again), kept(&summary));
    assert_eq!(again["arms"][2]["outputs_equal_first"], true);
    let path = folder.to_str().unwrap();
    succeed(lenaware(dir.path()).args(["report", path]));
}

#[test]
fn requests_come_while_others_are_served() {
    let dir = folder();
    let poisson = EXPERIMENT
        .replace("\"at-once\"", "{ kind = \"poisson\", rate = 400.0 }")
        .replace("step_time = \"smollm2-135m-2-cores\"\n", "");
    std::fs::write(dir.path().join("arriving.toml"), poisson).unwrap();
    let summary = ablate(dir.path(), &[]);
    for arm in summary["arms"].as_array().unwrap() {
        assert_eq!(arm["outputs_equal_first"], true);
        // Requests came for about 20 / 400 s.
        assert!(mean(arm, "makespan_s") > 0.02);
        // The paper's times say nothing of this machine.
        assert!(arm["figures"]["simulated.makespan_s"].is_null());
    }
    let text = read(run_folder(dir.path()).join("summary.md"));
    assert!(!text.to_lowercase().contains("simulated"), "{text}");
}

#[test]
fn what_the_engine_cannot_do_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (key, remedy) in [("policy = \"srpt\"", "hrrn"), ("kv_tokens = 4096", "leave")] {
        let text = EXPERIMENT.replace("batch_size = 3", key);
        std::fs::write(dir.path().join("arriving.toml"), text.as_str()).unwrap();
        let mut command = lenaware(dir.path());
        let output = command.args(["ablate", "--config", "arriving.toml"]);
        let line = refusal(&output.output().unwrap(), 2);
        let name = key.split(' ').next().unwrap();
        assert!(line.contains(&format!("`{name}`")), "{line}");
        assert!(line.contains(remedy) && line.contains("replay"), "{line}");
    }
}
