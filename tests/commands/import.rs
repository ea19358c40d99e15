//! Imports of every kind, of small files in the form of the real ones, and of the real ones
//! where they are at hand.

use std::path::{Path, PathBuf};

use lenaware::dataset::{FinishReason, LengthDataset};
use serde_json::Value;

use crate::{files_under, has_keys, lenaware, refusal, succeed, succeed_json};

fn import(dir: &Path, arguments: &str) -> Value {
    let mut command = lenaware(dir);
    command
        .args(["--json", "import"])
        .args(arguments.split(' '));
    let imported = succeed_json(&mut command);
    let keys = [
        "dataset",
        "instructions",
        "samples",
        "censored",
        "finish_reasons",
        "clipped",
        "without_response",
    ];
    has_keys(&imported, &keys);
    imported
}

fn describe(dir: &Path, dataset: &str) -> Value {
    succeed_json(lenaware(dir).args(["--json", "describe", dataset]))
}

fn put(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

#[test]
fn traces_in_the_form_of_the_real_ones() {
    let dir = tempfile::tempdir().unwrap();
    put(
        dir.path(),
        "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.5000000,374,44\r\n\
         2023-11-16 18:15:47.0000000,396,109\r\n2023-11-16 18:15:48.5000000,91,16",
    );
    let imported = import(
        dir.path(),
        "--from azure --lengths azure.csv --out a.parquet",
    );
    assert_eq!(
        (&imported["samples"], &imported["finish_reasons"]),
        (&3.into(), &"assumed".into())
    );
    let told = describe(dir.path(), "a.parquet");
    assert!(
        told["overall"]["censored"].is_null(),
        "unknown, not 0: {told}"
    );
    assert_eq!(told["arrivals"]["duration_s"], 2.0);
    assert_eq!(told["arrivals"]["rate_per_s"], 1.0);
    assert_eq!(told["arrivals"]["gap_variation"], 0.5);
    assert_eq!(told["prompt_tokens"]["median"], 374.0);
    let table = succeed(lenaware(dir.path()).args(["describe", "a.parquet"]));
    assert!(table.contains("censoring unknown"), "{table}");
    let limited = "--from azure --lengths azure.csv --max-new-tokens 109 --out b.parquet";
    assert_eq!(import(dir.path(), limited)["censored"], 1);

    put(
        dir.path(),
        "mooncake.jsonl",
        "{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1]}\n\
         {\"timestamp\": 1500, \"input_length\": 7322, \"output_length\": 490, \"hash_ids\": [0]}\n",
    );
    import(
        dir.path(),
        "--from mooncake --lengths mooncake.jsonl --out c.parquet",
    );
    let dataset = LengthDataset::read_parquet(&dir.path().join("c.parquet")).unwrap();
    assert_eq!(dataset.samples[1].arrival_s, Some(1.5));

    put(
        dir.path(),
        "ssjf.csv",
        ",output_token_length,predicted_length,latency,model\n0,40,0,0.023,vicuna-13b\n\
         1,511,0,0.009,vicuna-13b\n",
    );
    let imported = import(dir.path(), "--from ssjf --lengths ssjf.csv --out d.parquet");
    assert_eq!(
        (&imported["censored"], &imported["finish_reasons"]),
        (&1.into(), &"inferred".into())
    );
}

#[test]
fn any_table_by_its_columns() {
    let dir = tempfile::tempdir().unwrap();
    let csv = "\u{feff}who,prompt,T,n,why\r\nx,\"say, \"\"hi\"\"\r\nnow\",0,3,stop\r\n\
               x,\"say, \"\"hi\"\"\r\nnow\",0.7,9,length\r\ny,other,0,5,stop\r\n";
    put(dir.path(), "log.csv", csv);
    let columns = "--id-column who --instruction-column prompt --temperature-column T \
                   --response-tokens-column n --finish-reason-column why";
    let columns = columns.split_whitespace().collect::<Vec<_>>().join(" ");
    let arguments = format!("--from csv --lengths log.csv {columns} --model ours --out a.parquet");
    let imported = import(dir.path(), &arguments);
    assert_eq!(
        (&imported["instructions"], &imported["samples"]),
        (&2.into(), &3.into())
    );
    let first = LengthDataset::read_parquet(&dir.path().join("a.parquet")).unwrap();
    assert_eq!(first.samples[0].instruction, "say, \"hi\"\r\nnow");
    assert_eq!(first.samples[1].finish_reason, FinishReason::Length);
    assert_eq!(first.provenance.model, "ours");

    // The same rows as JSON lines, and out of the Parquet file just written.
    let rows = first.samples.iter().map(|s| {
        serde_json::json!({"who": s.instruction_id, "prompt": s.instruction,
            "T": s.temperature, "n": s.response_tokens, "why": s.finish_reason, "more": [1, {}]})
    });
    let lines: Vec<String> = rows.map(|row| row.to_string()).collect();
    put(dir.path(), "log.jsonl", &lines.join("\n"));
    import(
        dir.path(),
        &format!("--from jsonl --lengths log.jsonl {columns} --model ours --out b.parquet"),
    );
    let own = "--id-column instruction_id --instruction-column instruction --temperature-column \
               temperature --response-tokens-column response_tokens --finish-reason-column \
               finish_reason";
    let own = own.split_whitespace().collect::<Vec<_>>().join(" ");
    import(
        dir.path(),
        &format!("--from parquet --lengths a.parquet {own} --model ours --out c.parquet"),
    );
    for other in ["b.parquet", "c.parquet"] {
        let dataset = LengthDataset::read_parquet(&dir.path().join(other)).unwrap();
        assert_eq!(dataset, first, "{other}");
    }
}

#[test]
fn mistakes_are_named_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "t.csv", "a,n\nx,1\ny,-2\n");
    put(dir.path(), "good.csv", "a,n\nx,1\n");
    put(dir.path(), "empty.csv", "");
    put(dir.path(), "torn.jsonl", "{\"n\": 1}\n{\"n\": \n");
    put(dir.path(), "t.json", "[]");
    let before = files_under(dir.path());
    for (arguments, code, named) in [
        (
            "--from csv --lengths t.csv --response-tokens-column n",
            1,
            &["t.csv", "line 3", "negative"][..],
        ),
        (
            "--from csv --lengths t.csv --response-tokens-column m",
            1,
            &["`m` (--response-tokens-column)", "`a`, `n`"],
        ),
        (
            "--from csv --lengths good.csv --response-tokens-column n --id-column b",
            1,
            &["--id-column"],
        ),
        (
            "--from csv --lengths empty.csv --response-tokens-column n",
            1,
            &["empty.csv", "empty"],
        ),
        (
            "--from jsonl --lengths torn.jsonl --response-tokens-column n",
            1,
            &["line 2"],
        ),
        (
            "--from parquet --lengths t.csv --response-tokens-column n",
            1,
            &["not a readable Parquet file"],
        ),
        (
            "--from azure --lengths t.csv",
            1,
            &["GeneratedTokens", "`a`, `n`"],
        ),
        (
            "--from azure --lengths none.csv",
            1,
            &["none.csv", "No such file"],
        ),
        (
            "--from csv --lengths t.csv",
            2,
            &["--response-tokens-column"],
        ),
        (
            "--from azure --lengths t.csv --id-column a",
            2,
            &["--id-column", "azure"],
        ),
        (
            "--from azure --lengths t.csv --instructions t.json",
            2,
            &["--instructions"],
        ),
        (
            "--from sequence-scheduling --lengths t.json",
            2,
            &["--instructions"],
        ),
        (
            "--from csv --lengths t.csv --response-tokens-column n --temperature 99",
            2,
            &["99"],
        ),
        (
            "--from csv --lengths t.csv --response-tokens-column n --arrival-unit ms",
            2,
            &["--arrival-column"],
        ),
    ] {
        let mut command = lenaware(dir.path());
        command.arg("import").args(arguments.split(' '));
        let output = command.args(["--out", "out.parquet"]).output().unwrap();
        let line = refusal(&output, code);
        for part in named {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        assert_eq!(files_under(dir.path()), before, "{arguments}");
    }
}

/// Files that are no part of the project, beside it on machines that have them.
pub fn real(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [root.join("../shared/data"), root.join("../../shared/data")];
    places.iter().map(|p| p.join(name)).find(|p| p.exists())
}

#[test]
fn real_traces_where_they_are_at_hand() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, file, samples, censored, median) in [
        (
            "azure",
            "traces/AzureLLMInferenceTrace_conv_2023.csv",
            19_366,
            0,
            129.0,
        ),
        (
            "mooncake",
            "traces/mooncake_conversation.jsonl",
            12_031,
            0,
            350.0,
        ),
        (
            "ssjf",
            "traces/ssjf_lmsys_lengths_and_bert_predictions.csv",
            85_482,
            257,
            140.0,
        ),
    ] {
        let Some(path) = real(file) else {
            continue;
        };
        let out = format!("{kind}.parquet");
        let imported = import(
            dir.path(),
            &format!("--from {kind} --lengths {} --out {out}", path.display()),
        );
        assert_eq!(
            (&imported["samples"], &imported["censored"]),
            (&samples.into(), &censored.into())
        );
        assert_eq!(describe(dir.path(), &out)["overall"]["median"], median);
        // Other commands take the trace: prompts' tokens stand for the missing texts.
        let mut command = lenaware(dir.path());
        command.args(["--json", "evaluate", "--limit", "500", "--dataset", &out]);
        let result = succeed_json(command.args(["--predictor", "input-length"]));
        assert_eq!(result["predictors"][0]["n"], 500);
        let mut command = lenaware(dir.path());
        command.args([
            "finetune",
            "--predictor",
            "ridge",
            "--dataset",
            &out,
            "--out",
            "./r",
        ]);
        let output = command.output().unwrap();
        assert!(refusal(&output, 2).contains("texts"));
    }
}
