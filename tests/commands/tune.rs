//! Tuning on a model so small that it takes seconds.

use std::path::Path;

use crate::{lenaware, read, refusal, succeed, succeed_json, tiny_model};

const TUNE: &str = "--model model --dataset data --label mean --micro-batch-size 2 \
                    --gradient-accumulation 2";

/// A model and a length dataset of twelve instructions.
pub fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny_model::write(&dir.path().join("model"), 2);
    let instructions: String = (0..12)
        .map(|i| format!("{{\"id\": \"i{i}\", \"text\": \"Count to {}.\"}}\n", i * 7))
        .collect();
    std::fs::write(dir.path().join("in.jsonl"), instructions).unwrap();
    let build = "build-dataset --model model --chat-template chatml --instructions in.jsonl --out \
                 data --temperatures 0,1 --max-new-tokens 9";
    succeed(lenaware(dir.path()).args(build.split_whitespace()));
    dir
}

pub fn finetune(dir: &Path, flags: &str) -> std::process::Command {
    let mut command = lenaware(dir);
    command.args("--json --threads 2 finetune --chat-template chatml".split(' '));
    command.args(TUNE.split_whitespace());
    command.args(flags.split_whitespace());
    command
}

#[test]
fn every_kind_is_tuned_evaluated_and_predicts() {
    let dir = prepared();
    for (kind, flags) in [
        ("lora", "--lora-layers 1 --dtype bf16 --patience 3"),
        ("lora-head", "--lora-r 4 --tuned-head-hidden 8"),
        ("len-token", "--lora-r 0 --head-learning-rate 0.02"),
    ] {
        let out = format!("--predictor {kind} --out {kind} --epochs 3 {flags}");
        let done = succeed_json(&mut finetune(dir.path(), &out));
        assert!(done["loss"].as_f64().unwrap().is_finite(), "{kind}: {done}");
        assert!(done["best"][0].as_u64().unwrap() >= 1, "{kind}: {done}");
        let folder = dir.path().join(kind);
        let log = read(folder.join("loss.csv"));
        assert!(log.starts_with("step,loss,learning_rate,grad_norm,tokens_per_s\n"));
        assert!(!folder.join("checkpoint.safetensors").exists());
        let has_adapter = folder.join("adapter_model.safetensors").exists();
        assert_eq!(has_adapter, kind != "len-token");
        if kind == "lora" {
            let config = read(folder.join("adapter_config.json"));
            let config: serde_json::Value = serde_json::from_str(&config).unwrap();
            assert_eq!(config["layers_to_transform"], serde_json::json!([1]));
        }
        let predict = format!("predict --model model --predictor ./{kind} --instructions in.jsonl");
        let lines = succeed(lenaware(dir.path()).args(predict.split(' ')));
        assert_eq!(lines.lines().count(), 12);
        for line in lines.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let tokens = line["predicted_tokens"].as_f64().unwrap();
            assert!(tokens >= 1.0 && tokens.is_finite(), "{kind}: {line}");
        }
    }
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_its_checkpoint() {
    let dir = prepared();
    let settings = "[train]\ncheckpoint_every = 1\nconstant_rate = true\n";
    std::fs::write(dir.path().join("tune.toml"), settings).unwrap();
    let flags = "--predictor lora --epochs 9 --out out --config tune.toml --learning-rate 3e38";
    let message = refusal(&finetune(dir.path(), flags).output().unwrap(), 1);
    for part in [
        "lower the learning rate",
        "checkpoint of step",
        "is kept in out",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(dir.path().join("out/checkpoint.safetensors").exists());
    assert!(!dir.path().join("out/predictor.json").exists());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = prepared();
    for (flags, part) in [
        ("--predictor lora --lora-r 0", "r >= 1"),
        ("--predictor lora-head --lora-r 0", "r >= 1"),
        (
            "--predictor lora --lora-layers 9",
            "9 blocks, the model has 2",
        ),
        ("--predictor lora --lora-layers 0", "at least one block"),
        (
            "--predictor lora-head --head-learning-rate 0",
            "learning rate",
        ),
        ("--predictor lora --patience 0", "patience"),
    ] {
        let output = finetune(dir.path(), &format!("{flags} --out out"))
            .output()
            .unwrap();
        let message = refusal(&output, 2);
        assert!(message.contains(part), "{message}");
        assert!(!dir.path().join("out").exists());
    }
}
