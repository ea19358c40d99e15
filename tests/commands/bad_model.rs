//! Models that are none, and prompts that do not fit one.

use std::io::Read;

use lenaware::dataset::embedded;

use crate::bad_files::{EXPERIMENT, check, check_in};
use crate::model;

#[test]
fn models_that_are_none() {
    for (model, code, named) in [
        ("smollm3", 2, "`smollm3`"),
        ("missing.gguf", 2, "missing.gguf"),
        ("notes.txt", 2, "notes.txt"),
        ("noise.gguf", 1, "noise.gguf"),
        ("empty.gguf", 1, "empty.gguf"),
        (".", 1, "config.json"),
    ] {
        for command in [
            "build-dataset --out out",
            "finetune --predictor ridge --out out",
            "finetune --predictor lora --out out",
            "evaluate --predictor perception-only",
            "profile --out out.toml",
        ] {
            check(&format!("{command} --model {model}"), code, &[named]);
        }
    }
}

#[test]
fn a_model_file_that_is_cut_off() {
    let mut whole = std::fs::File::open(model().path()).unwrap();
    let mut bytes = vec![0; 4 << 20];
    whole.read_exact(&mut bytes).unwrap();
    // In the magic, in the metadata, in the vocabulary, in the tensors.
    for length in [3, 100, 300_000, bytes.len()] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cut.gguf"), &bytes[..length]).unwrap();
        for command in [
            "build-dataset --out out",
            "finetune --predictor lora --out out",
        ] {
            let named = ["cut.gguf", "download it again"];
            check_in(
                dir.path(),
                &format!("{command} --model cut.gguf"),
                1,
                &named,
            );
        }
    }
}

#[test]
fn prompts_longer_than_the_context() {
    model();
    let named = [
        "huge.jsonl",
        "instruction `0`",
        "context of 8192",
        "shorten it",
    ];
    check(
        "build-dataset --instructions huge.jsonl --out out",
        1,
        &named,
    );
    let predict = "predict --predictor perception-only --instructions huge.jsonl --out p.jsonl";
    check(predict, 1, &named);

    // The same in a dataset: training, evaluation and live batches refuse it.
    let dir = tempfile::tempdir().unwrap();
    let mut dataset = embedded::embedded().unwrap();
    dataset.samples.truncate(40);
    let id = dataset.samples[0].instruction_id.clone();
    for sample in &mut dataset.samples {
        if sample.instruction_id == id {
            sample.instruction = "word ".repeat(9000);
        }
    }
    dataset
        .write_parquet(&dir.path().join("huge.parquet"))
        .unwrap();
    let live = format!(
        "{EXPERIMENT}max_new_tokens = 8\n[workload]\ndataset = 'huge.parquet'\n\
         [executor]\nkind = 'live'\n"
    );
    std::fs::write(dir.path().join("live.toml"), live).unwrap();
    for command in [
        "finetune --predictor ridge --dataset huge.parquet --out r",
        "finetune --predictor lora --dataset huge.parquet --out r",
        "evaluate --predictor perception-only --split all --dataset huge.parquet",
        "ablate --config live.toml",
    ] {
        check_in(
            dir.path(),
            command,
            1,
            &["huge.parquet", &id, "context of 8192"],
        );
    }
}
