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

const ROLLOUTS: &str = r#"
[experiment]
name = "rollouts"
seeds = [1, 2]
[workload]
split = "test"
limit = 20
served = "all"
arrivals = "at-once"
[executor]
step_time = "llama-7b-a100-roofline"
[defaults]
predictor = "ground-truth"
batch_size = 16
kv_tokens = 4096
[[arm]]
name = "fcfs"
[[arm]]
name = "groups"
policy = "groups"
memory = { kind = "history", window = 50 }
[[arm]]
name = "renewed"
policy = { kind = "srpt", limit = 0.8 }
repredict = { every = 32 }
memory = { kind = "peak", at = 0.5 }
[[arm]]
name = "probed"
policy = "srpt"
repredict = { every = 32, probe_noise = 0.2 }
"#;

#[test]
fn rollouts_memory_and_renewed_predictions_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rollouts.toml"), ROLLOUTS).unwrap();
    let mut command = lenaware(dir.path());
    let summary = succeed_json(command.args(["--json", "ablate", "--config", "rollouts.toml"]));
    let arms = summary["arms"].as_array().unwrap();
    let told = |arm: usize, key: &str| arms[arm][key].as_str().unwrap().to_string();
    assert_eq!(told(1, "memory"), "peak of past 50");
    assert_eq!(told(2, "repredict"), "renewed every 32 tokens");
    assert!(told(3, "repredict").starts_with("probed"));
    for arm in arms {
        // 20 prompts with four recorded answers each.
        assert_eq!(arm["figures"]["completed"]["mean"], 80.0);
        assert_eq!(arm["compared_with"], "fcfs");
        let group = arm["figures"]["group_e2e_s.p50"]["mean"].as_f64().unwrap();
        let alone = arm["figures"]["e2e_s.p50"]["mean"].as_f64().unwrap();
        assert!(
            group >= alone,
            "the last of a group is no sooner than its members"
        );
    }
    let runs = dir.path().join("results/rollouts");
    let folder = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap();
    let folder = folder.path();
    let timeline = read(folder.join("timeline.csv"));
    assert!(timeline.starts_with("arm,seed,at_s,waiting,rows,kv_use\n"));
    assert!(timeline.lines().any(|line| line.starts_with("renewed,1,")));
    assert!(!timeline.contains("renewed,2,"));
    for name in ["figures/kv-use.svg", "figures/waiting.png"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    assert!(read(folder.join("report.html")).contains("makespan s"));
    // The run's own config.toml says it all.
    let config = folder.join("config.toml");
    let mut again = lenaware(dir.path());
    let repeated = succeed_json(again.args([
        "--json",
        "ablate",
        "--config",
        config.to_str().unwrap(),
        "--results",
        "again",
    ]));
    assert_eq!(repeated["arms"], summary["arms"]);
}

#[test]
fn mistakes_in_memory_and_predictions_name_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    for (line, expected) in [
        ("memory = { kind = \"peak\", at = 0.5 }", "kv_tokens"),
        (
            "memory = { kind = \"peak\", at = 1.5 }\nkv_tokens = 99",
            "from 0 to 1",
        ),
        ("memory = \"history\"", "window"),
        ("repredict = { every = 0 }", "`every`"),
        (
            "policy = { kind = \"ranking\", starvation_steps = 0, quantum_steps = 1 }",
            "at least 1",
        ),
        ("policy = { kind = \"multi-bin\", bins = 0 }", "bins"),
        ("policy = { kind = \"mlfq\", quantum = 0 }", "quantum"),
    ] {
        let text = format!(
            "[experiment]\nname = \"x\"\n[workload]\narrivals = \"at-once\"\n[[arm]]\nname = \
             \"a\"\n{line}\n"
        );
        std::fs::write(dir.path().join("x.toml"), text).unwrap();
        let output = lenaware(dir.path())
            .args(["ablate", "--config", "x.toml"])
            .output()
            .unwrap();
        let said = refusal(&output, 2);
        assert!(said.contains(expected), "{line}: {said}");
    }
}

#[test]
fn requests_beyond_the_memory_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let small = EXPERIMENT.replace("kv_tokens = 4096", "kv_tokens = 300");
    std::fs::write(dir.path().join("queue.toml"), small).unwrap();
    let mut command = lenaware(dir.path());
    let output = command
        .args(["ablate", "--config", "queue.toml"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("need more than its 300 tokens of keys and values even alone"),
        "{text}"
    );
    let mut json = lenaware(dir.path());
    let summary = succeed_json(json.args(["--json", "ablate", "--config", "queue.toml"]));
    let mean = |path: &str| {
        let figure = &summary["arms"][0]["figures"][path]["mean"];
        figure.as_f64().unwrap()
    };
    assert!(mean("refused") > 0.0 && mean("completed") > 0.0);
    assert_eq!(mean("refused") + mean("completed"), 640.0);
}
