//! Real compute of replayed lengths, on random weights: no model is needed.

use serde_json::Value;

use crate::{lenaware, read, refusal, succeed, succeed_json};

const EXPERIMENT: &str = r#"
[experiment]
name = "forced"
seeds = [1, 2]
[workload]
dataset = "log.parquet"
limit = 40
[executor]
kind = "live-forced"
random_weights = "tiny"
device = "cpu"
[defaults]
predictor = "file:predictions.jsonl"
group_size = 20
batch_size = 4
max_new_tokens = 24
scheduling = "sorted"
[[arm]]
name = "vanilla"
scheduling = "none"
[[arm]]
name = "sorted"
[[arm]]
name = "FCR"
fcr = "recompute"
[[arm]]
name = "continuous"
scheduling = "none"
batching = "continuous"
"#;

/// Recorded response lengths, some beyond the experiment's limit.
fn recorded(index: usize) -> usize {
    index * 17 % 29 + 1
}

fn mean(arm: &Value, key: &str) -> f64 {
    arm[key]["mean"].as_f64().unwrap()
}

#[test]
fn every_arm_computes_the_recorded_lengths_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, mut predictions) = ("id,prompt,in,out\n".to_string(), String::new());
    for index in 0..50 {
        log += &format!(
            "q{index},question {index},{},{}\n",
            3 + index % 9,
            recorded(index)
        );
        let predicted = (recorded(index) / if index % 4 == 0 { 2 } else { 1 }).max(1);
        let line = serde_json::json!({
            "instruction_id": format!("q{index}"),
            "predicted_tokens": predicted,
        });
        predictions += &format!("{line}\n");
    }
    std::fs::write(dir.path().join("log.csv"), log).unwrap();
    std::fs::write(dir.path().join("forced.toml"), EXPERIMENT).unwrap();
    let columns = "import --from csv --lengths log.csv --id-column id --instruction-column prompt \
                   --prompt-tokens-column in --response-tokens-column out --temperature 0 \
                   --max-new-tokens 64 --out log.parquet";
    succeed(lenaware(dir.path()).args(columns.split_whitespace()));
    std::fs::write(dir.path().join("predictions.jsonl"), predictions).unwrap();

    let mut command = lenaware(dir.path());
    let summary = succeed_json(command.args(["--json", "ablate", "--config", "forced.toml"]));
    let executor = &summary["executor"];
    assert_eq!(executor["kind"], "live-forced");
    assert_eq!(executor["what"], "real compute, replayed lengths");
    assert!(executor["device"].as_str().unwrap().starts_with("CPU"));
    assert!(executor["model"].as_str().unwrap().contains("tiny"));
    let served: usize = (0..40).map(|i| recorded(i).min(24)).sum();
    let arms = summary["arms"].as_array().unwrap();
    for arm in arms {
        assert_eq!(arm["requests"], 40);
        // Nothing is compared: what is drawn means nothing.
        assert!(arm["outputs_equal_vanilla"].is_null());
        for seed in 0..2 {
            let value = |key: &str| arm[key]["values"][seed].as_f64().unwrap();
            let tokens = value("throughput_tokens_per_s") * value("total_s");
            assert!((tokens - served as f64).abs() < 0.5, "{tokens} {served}");
        }
        assert!(mean(arm, "decode_s") > 0.0);
    }
    let arm = |name: &str| arms.iter().find(|a| a["name"] == name).unwrap();
    assert!(mean(arm("FCR"), "failure_ratio") > 0.0);
    let useful = |name: &str| mean(arm(name), "effective_token_ratio_full");
    assert!(useful("sorted") > useful("vanilla") && useful("continuous") > 0.99);

    let runs = dir.path().join("results/forced");
    let run = std::fs::read_dir(runs).unwrap().next().unwrap().unwrap();
    for file in ["summary.md", "report.html"] {
        let text = read(run.path().join(file));
        assert!(text.contains("real compute, replayed lengths"), "{file}");
    }
    assert!(read(run.path().join("config.toml")).contains("random_weights = \"tiny\""));
}

#[test]
fn random_weights_that_answer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let text = EXPERIMENT.replace("live-forced", "live");
    std::fs::write(dir.path().join("forced.toml"), text).unwrap();
    let mut command = lenaware(dir.path());
    let output = command.args(["ablate", "--config", "forced.toml"]).output();
    let message = refusal(&output.unwrap(), 2);
    assert!(
        message.contains("live-forced") && message.contains("forced.toml:8"),
        "{message}"
    );
}

#[test]
fn a_shape_is_profiled_without_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = "--json profile --random-weights tiny --rows 1,3 --positions 40 --generate 5 \
                     --prompt 8 --out tiny.toml";
    let profile = succeed_json(lenaware(dir.path()).args(arguments.split_whitespace()));
    assert_eq!(profile["steps"].as_array().unwrap().len(), 12);
    let generations = profile["generations"].as_array().unwrap();
    assert_eq!(generations[1]["rows"], 3);
    assert!(generations[1]["decode_s"].as_f64().unwrap() > 0.0);
    assert!(read(dir.path().join("tiny.toml")).contains("random weights of tiny"));
    let unknown = "profile --random-weights llama-9b --out b.toml";
    let output = lenaware(dir.path())
        .args(unknown.split_whitespace())
        .output();
    assert!(refusal(&output.unwrap(), 2).contains("llama-7b"));
}
