//! Predictions written as requests to serving engines.

use std::path::Path;

use serde_json::{Value, json};

use crate::bad_files::check_in;
use crate::{lenaware, read, succeed, text};

/// Three instructions, one with an input, and lengths foreseen for them: 40, 310.4 and 90.
fn write_files(dir: &Path) {
    let instructions = [
        json!({"id": "a", "text": "Say hi."}),
        json!({"id": "b", "instruction": "Translate:", "input": "\"Ça va ?\"\nOui."}),
        json!({"id": "c", "text": "Tell me a story."}),
    ];
    let lengths = [("c", 90.0), ("b", 310.4), ("a", 40.0)]
        .map(|(id, tokens)| json!({"instruction_id": id, "predicted_tokens": tokens}));
    let lines = |rows: &[Value]| rows.iter().map(|r| format!("{r}\n")).collect::<String>();
    std::fs::write(dir.join("in.jsonl"), lines(&instructions)).unwrap();
    std::fs::write(dir.join("lengths.jsonl"), lines(&lengths)).unwrap();
}

const PREDICT: &str = "predict --predictor file:lengths.jsonl --instructions in.jsonl";

/// The lines written with these flags; each as the engine gets it.
fn requests(flags: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let words = format!("{PREDICT} --served-model m {flags}");
    let out = succeed(lenaware(dir.path()).args(words.split(' ')));
    let lines: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    // As in the file of instructions, whatever the order of service.
    let ids: Vec<_> = lines
        .iter()
        .map(|l| l["custom_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["a", "b", "c"]);
    lines
}

#[test]
fn vllm_gets_a_batch_file_with_priorities() {
    let lines = requests("--for vllm --max-tokens 256");
    assert_eq!(
        lines[1],
        json!({
            "custom_id": "b",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "messages": [
                    {"role": "user", "content": "Translate:\nInput:\n\"Ça va ?\"\nOui."}
                ],
                "max_completion_tokens": 256,
                "priority": 310,
            },
        })
    );
    let priorities = |lines: &[Value]| -> Vec<i64> {
        let of = |l: &Value| l["body"]["priority"].as_i64().unwrap();
        lines.iter().map(of).collect()
    };
    assert_eq!(priorities(&lines), [40, 310, 90]);
    let shortest = requests("--for vllm --order shortest-first");
    assert_eq!(priorities(&shortest), [40, 310, 90]);
    assert!(shortest[0]["body"].get("max_completion_tokens").is_none());
    let longest = requests("--for vllm --order longest-first");
    assert_eq!(priorities(&longest), [-40, -310, -90]);
}

#[test]
fn llm_d_gets_an_objective_for_each_half() {
    let objectives = |flags: &str| -> Vec<String> {
        let of = |l: &Value| l["headers"]["x-llm-d-inference-objective"].clone();
        let lines = requests(flags);
        let names = lines.iter().map(of);
        names.map(|n| n.as_str().unwrap().to_string()).collect()
    };
    assert_eq!(objectives("--for llm-d"), ["short", "long", "short"]);
    assert_eq!(
        objectives("--for llm-d --long-above 89"),
        ["short", "long", "long"]
    );
    assert_eq!(
        requests("--for llm-d")[0],
        json!({
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/chat/completions",
            "headers": {"x-llm-d-inference-objective": "short"},
            "body": {"model": "m", "messages": [{"role": "user", "content": "Say hi."}]},
        })
    );
}

#[test]
fn where_halves_meet_is_said() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    // The helper's -q would hide it.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lenaware"))
        .current_dir(dir.path())
        .args(PREDICT.split(' '))
        .args(["--for", "llm-d", "--served-model", "m", "--out", "r.jsonl"])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("90.0 tokens") && said.contains("--long-above"),
        "{said}"
    );
    assert_eq!(text(&output.stdout), "");
    assert_eq!(read(dir.path().join("r.jsonl")).lines().count(), 3);
}

#[test]
fn dynamo_gets_expected_lengths_within_the_limit() {
    let lines = requests("--for dynamo --max-tokens 256");
    assert_eq!(
        lines[1]["body"]["nvext"],
        json!({"agent_hints": {"osl": 256}})
    );
    assert_eq!(lines[1]["body"]["max_completion_tokens"], 256);
    assert_eq!(
        requests("--for dynamo")[1]["body"]["nvext"],
        json!({"agent_hints": {"osl": 310}})
    );
}

#[test]
fn flags_of_another_engine_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    for (flags, named) in [
        ("--for vllm", ["--served-model", "as the engine calls it"]),
        (
            "--for dynamo --served-model m --order longest-first",
            ["--order", "--for vllm"],
        ),
        (
            "--for llm-d --served-model m --order shortest-first",
            ["--order", "--for vllm"],
        ),
        (
            "--for vllm --served-model m --long-above 90",
            ["--long-above", "--for llm-d"],
        ),
    ] {
        let words = format!("{PREDICT} --out r.jsonl {flags}");
        check_in(dir.path(), &words, 2, &named);
    }
    // What clap refuses takes several lines.
    for (flags, named) in [
        ("--served-model m", "--for"),
        ("--max-tokens 9", "--for"),
        ("--long-above 9", "--for"),
        ("--order longest-first", "--for"),
        ("--for sglang --served-model m", "vllm, llm-d, dynamo"),
        ("--for vllm --served-model m --max-tokens 0", "--max-tokens"),
    ] {
        let words = format!("{PREDICT} {flags}");
        let output = lenaware(dir.path())
            .args(words.split(' '))
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags}: {said}");
        assert!(said.contains(named), "{flags}: {said}");
    }
}
