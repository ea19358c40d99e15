//! Tuning on a model so small that it takes seconds.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{lenaware, read, refusal, succeed, succeed_json, text, tiny_model};

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
    finetune_with(dir, 2, flags)
}

pub fn finetune_with(dir: &Path, threads: usize, flags: &str) -> std::process::Command {
    let mut command = lenaware(dir);
    command.args(["--json", "--threads", &threads.to_string()]);
    command.args("finetune --chat-template chatml".split(' '));
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
        assert!(folder.join("figures/loss.svg").exists());
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

#[cfg(unix)]
#[test]
fn interrupted_and_killed_in_either_part_it_ends_as_if_it_had_not_been() {
    let dir = prepared();
    std::fs::write(
        dir.path().join("tune.toml"),
        "[train]\ncheckpoint_every = 1\n",
    )
    .unwrap();
    let flags = |out: &str| {
        format!(
            "--predictor lora-head --lora-r 4 --lora-dropout 0.1 --tuned-head-hidden 8 \
             --tuned-head-dropout 0.2 --epochs 150 --config tune.toml --out {out}"
        )
    };
    succeed(&mut finetune(dir.path(), &flags("whole")));
    let out = dir.path().join("cut");
    // Runs until the file is written, then sends the signal.
    let cut = |resume: &str, file: &str, signal: &str| {
        let written = || out.join(file).metadata().and_then(|m| m.modified()).ok();
        let before = written();
        let mut command = finetune(dir.path(), &format!("{}{resume}", flags("cut")));
        let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap();
        while written().is_none() || written() == before {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before {file}"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        let pid = child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success());
        assert!(!out.join("predictor.json").exists());
        text(&output.stderr)
    };
    let said = cut("", "checkpoint.safetensors", "-INT");
    assert!(said.contains("with --resume continues"), "{said}");
    let refused = refusal(&finetune(dir.path(), &flags("cut")).output().unwrap(), 2);
    assert!(refused.contains("add --resume"), "{refused}");
    cut(" --resume", "refit-checkpoint.safetensors", "-KILL");
    let said = cut(" --resume", "refit-checkpoint.safetensors", "-INT");
    assert!(said.contains("with --resume continues"), "{said}");
    succeed(&mut finetune(
        dir.path(),
        &format!("{} --resume", flags("cut")),
    ));

    let file = |folder: &str, name: &str| std::fs::read(dir.path().join(folder).join(name));
    for name in [
        "adapter_model.safetensors",
        "length_head.safetensors",
        "held_out.jsonl",
        "validation.csv",
    ] {
        assert!(
            file("cut", name).unwrap() == file("whole", name).unwrap(),
            "{name}"
        );
    }
    // All but the last column, which is the speed.
    let losses = |folder: &str, name: &str| -> Vec<String> {
        let log = read(dir.path().join(folder).join(name));
        let rows = log
            .lines()
            .filter_map(|l| Some(l.rsplit_once(',')?.0.to_string()));
        rows.collect()
    };
    for name in ["loss.csv", "refit-loss.csv"] {
        assert_eq!(losses("cut", name), losses("whole", name));
        assert!(losses("whole", name).len() > 100);
    }
    for name in ["checkpoint.safetensors", "refit-checkpoint.safetensors"] {
        assert!(!out.join(name).exists(), "{name}");
    }
    // TensorBoard gets every step once, whatever happened meanwhile: a record a value, after the
    // one that says what the file is.
    for (part, ending) in [("", ".lenaware"), ("refit-", ".lenaware-refit")] {
        let rows = |name: &str| read(out.join(format!("{part}{name}"))).lines().count() - 1;
        let expected = 1 + 4 * rows("loss.csv") + rows("validation.csv");
        assert_eq!(event_records(&out, ending), expected, "{ending}");
    }
}

/// How many records the one event file of that ending holds.
fn event_records(folder: &Path, ending: &str) -> usize {
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
    let events: Vec<String> = names
        .filter(|name| name.starts_with("events.out.tfevents.") && name.ends_with(ending))
        .collect();
    assert_eq!(events.len(), 1, "{events:?}");
    let bytes = std::fs::read(folder.join(&events[0])).unwrap();
    let (mut at, mut records) = (0, 0);
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        // Length and message, each with its checksum.
        at += 8 + 4 + length as usize + 4;
        records += 1;
    }
    assert_eq!(at, bytes.len());
    records
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
