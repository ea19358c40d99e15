//! Requests that arrive over time: simulated, kept, resumed, drawn.

use crate::{lenaware, read, refusal, succeed, succeed_json};

const EXPERIMENT: &str = r#"
[experiment]
name = "queue"
seeds = [1, 2]
[workload]
arrivals = { kind = "poisson", rate = 4.0 }
slo = { e2e_s = 60.0 }
[executor]
step_time = "smollm2-135m-2-cores"
[defaults]
predictor = "ground-truth"
batch_size = 8
token_budget = 256
kv_tokens = 4096
[[arm]]
name = "fcfs"
[[arm]]
name = "sjf"
policy = "sjf"
[[sweep]]
name = "srpt"
policy = ["srpt"]
noise = [0.0, 1.0]
"#;

#[test]
fn policies_are_simulated_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("queue.toml"), EXPERIMENT).unwrap();
    let ablate = |more: &[&str]| {
        let mut command = lenaware(dir.path());
        command.args(["--json", "ablate", "--config", "queue.toml"]);
        succeed_json(command.args(more))
    };
    let summary = ablate(&[]);
    assert_eq!(summary["simulated"], true);
    let arms = summary["arms"].as_array().unwrap();
    let names: Vec<&str> = arms.iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 4);
    assert_eq!(names[..2], ["fcfs", "sjf"]);
    let mean = |arm: usize, path: &str| arms[arm]["figures"][path]["mean"].as_f64().unwrap();
    for (place, arm) in arms.iter().enumerate() {
        assert_eq!(mean(place, "completed"), 640.0);
        assert!(mean(place, "kv_use_peak") <= 1.0);
        assert!(mean(place, "ttft_s.mean") <= mean(place, "e2e_s.mean"));
        assert_eq!(arm["queue_formed"], true);
    }
    // Under overload the recorded mean of an answer tells enough to order them by.
    assert!(mean(1, "e2e_s.mean") < 0.9 * mean(0, "e2e_s.mean"));

    let runs = dir.path().join("results/queue");
    let folder = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap();
    let folder = folder.path();
    for name in [
        "config.toml",
        "environment.json",
        "arms.jsonl",
        "summary.csv",
        "summary.md",
        "figures/e2e.svg",
        "figures/ttft.png",
    ] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let page = read(folder.join("report.html"));
    assert!(page.contains("Simulated") && page.contains("Time to first token"));
    // Cut short and gone on with, it comes to the same.
    let lines = read(folder.join("arms.jsonl"));
    let some: Vec<&str> = lines.lines().take(3).collect();
    std::fs::write(
        folder.join("arms.jsonl"),
        some.join("\n") + "\n{\"arm\": \"s",
    )
    .unwrap();
    std::fs::remove_file(folder.join("summary.json")).unwrap();
    let again = ablate(&["--resume"]);
    assert_eq!(again["arms"], summary["arms"]);
    assert_eq!(std::fs::read_dir(&runs).unwrap().count(), 1);
    let path = folder.to_str().unwrap();
    succeed(lenaware(dir.path()).args(["report", path]));
}

#[test]
fn traces_bring_their_times_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = EXPERIMENT.replace(
        "{ kind = \"poisson\", rate = 4.0 }",
        "{ kind = \"recorded\", speed = 1.0 }",
    );
    std::fs::write(dir.path().join("queue.toml"), recorded).unwrap();
    let mut command = lenaware(dir.path());
    let output = command
        .args(["ablate", "--config", "queue.toml"])
        .output()
        .unwrap();
    let line = refusal(&output, 2);
    assert!(line.contains("trace"), "{line}");
}
