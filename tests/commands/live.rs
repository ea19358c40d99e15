//! Scheduling must not change an answer: every arm on the real model, on 96 real requests.

use lenaware::dataset::embedded;
use serde_json::Value;

use crate::{lenaware, model, succeed_json};

const MAX_NEW_TOKENS: u32 = 32;

const EXPERIMENT: &str = r#"
[experiment]
name = "live"
seeds = [1]
[workload]
dataset = "requests.parquet"
[executor]
kind = "live"
[defaults]
predictor = "file:predictions.jsonl"
group_size = 48
batch_size = 16
max_new_tokens = 32
scheduling = "sorted"
[[arm]]
name = "vanilla"
scheduling = "none"
[[arm]]
name = "sorted"
[[arm]]
name = "binning"
binning = 8
[[arm]]
name = "FCR"
fcr = "recompute"
[[arm]]
name = "VBS"
vbs = { 8 = 48, 24 = 32 }
[[arm]]
name = "binning + FCR + VBS"
binning = 8
fcr = "recompute"
vbs = { 8 = 48, 24 = 32 }
[[arm]]
name = "continuous"
scheduling = "none"
batching = "continuous"
"#;

#[test]
fn every_arm_answers_as_vanilla_does() {
    model();
    let dir = tempfile::tempdir().unwrap();
    // The shortest prompts and greedy answers, so that most end within the limit, and a
    // predictor that is too low for every third of them.
    let mut dataset = embedded::embedded().unwrap();
    dataset.samples.retain(|s| s.temperature == 0.0);
    dataset
        .samples
        .sort_by_key(|s| s.prompt_tokens + s.response_tokens);
    dataset.samples.truncate(96);
    dataset
        .samples
        .sort_by(|a, b| a.instruction_id.cmp(&b.instruction_id));
    assert_eq!(dataset.samples.len(), 96);
    let mut predictions = String::new();
    for (index, sample) in dataset.samples.iter().enumerate() {
        let length = f64::from(sample.response_tokens.min(MAX_NEW_TOKENS));
        let predicted = if index % 3 == 0 { length / 3.0 } else { length };
        let line = serde_json::json!({
            "instruction_id": sample.instruction_id,
            "predicted_tokens": predicted,
        });
        predictions += &format!("{line}\n");
    }
    dataset
        .write_parquet(&dir.path().join("requests.parquet"))
        .unwrap();
    std::fs::write(dir.path().join("predictions.jsonl"), predictions).unwrap();
    std::fs::write(dir.path().join("live.toml"), EXPERIMENT).unwrap();

    let mut command = lenaware(dir.path());
    let summary = succeed_json(command.args(["--json", "ablate", "--config", "live.toml"]));
    assert_eq!(summary["executor"]["kind"], "live");
    assert_eq!(summary["executor"]["model"], "smollm2-135m");
    let arms = summary["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 7);
    for arm in arms {
        assert_eq!(arm["outputs_equal_vanilla"], true, "{}", arm["name"]);
        assert_eq!(arm["requests"], 96);
        assert!(mean(arm, "decode_s") > 0.0 && mean(arm, "prefill_s") > 0.0);
    }
    let arm = |name: &str| arms.iter().find(|a| a["name"] == name).unwrap();
    for name in ["FCR", "binning + FCR + VBS"] {
        let failed = mean(arm(name), "failure_ratio");
        assert!(failed > 0.0 && failed < 0.5, "{name}: {failed}");
    }
    for name in ["vanilla", "sorted", "binning", "VBS", "continuous"] {
        assert_eq!(mean(arm(name), "failure_ratio"), 0.0, "{name}");
    }
    // Counted, not timed: sorted batches compute fewer tokens, the engine that refills none.
    let useful = |name: &str| mean(arm(name), "effective_token_ratio_full");
    assert!(useful("sorted") > useful("vanilla"));
    assert!(useful("continuous") > 0.99);
}

fn mean(arm: &Value, key: &str) -> f64 {
    arm[key]["mean"].as_f64().unwrap()
}
