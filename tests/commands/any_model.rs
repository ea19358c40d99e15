//! Models in PyTorch's own files with a SentencePiece vocabulary, as Vicuna is published, and
//! the choice of a chat template. The model is the tiny one of `tests/fixtures`.

use std::path::{Path, PathBuf};

use crate::{lenaware, read, refusal, succeed, succeed_json};

/// A folder with the tiny model under `name`, and two instructions.
fn with_model(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join(name);
    std::fs::create_dir(&model).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-torch");
    for entry in std::fs::read_dir(fixture).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let instructions =
        "{\"id\": \"a\", \"text\": \"Say hi.\"}\n{\"id\": \"b\", \"text\": \"Why?\"}\n";
    std::fs::write(dir.path().join("in.jsonl"), instructions).unwrap();
    std::fs::write(
        dir.path().join("mine.jinja"),
        "Q: {{ messages[0].content }} A:",
    )
    .unwrap();
    dir
}

/// The rendered prompt and its ids.
fn prompt(dir: &Path, flags: &str) -> (String, Vec<u32>) {
    let mut command = lenaware(dir);
    let shown = "--json build-dataset --instructions in.jsonl --out out --show-prompt";
    let out = succeed_json(command.args(shown.split(' ')).args(flags.split(' ')));
    let ids = out["tokens"].as_array().unwrap().iter();
    (
        out["rendered"].as_str().unwrap().to_string(),
        ids.map(|t| t["id"].as_u64().unwrap() as u32).collect(),
    )
}

#[test]
fn a_model_of_bin_shards_and_tokenizer_model_answers() {
    let dir = with_model("vicuna-tiny");
    let (text, ids) = prompt(dir.path(), "--model vicuna-tiny");
    assert!(
        text.starts_with("<s>A chat between a curious user"),
        "{text}"
    );
    assert!(text.ends_with("USER: Say hi. ASSISTANT:"), "{text}");
    assert_eq!(ids[0], 1);
    assert_eq!(ids.iter().filter(|id| **id == 1).count(), 1);

    let mut command = lenaware(dir.path());
    let build = "--json build-dataset --model vicuna-tiny --instructions in.jsonl --out out \
                 --temperatures 0,1 --max-new-tokens 8";
    let built = succeed_json(command.args(build.split_whitespace()));
    assert_eq!(built["samples"], 4);
    let path: PathBuf = dir.path().join("out/dataset.parquet");
    let dataset = lenaware::dataset::LengthDataset::read_parquet(&path).unwrap();
    assert!(
        dataset
            .samples
            .iter()
            .all(|s| s.prompt_tokens == ids.len() as u32 || s.instruction_id == "b")
    );
}

#[test]
fn a_chat_template_may_be_chosen_by_name_or_file() {
    let dir = with_model("tiny");
    for (choice, expected) in [
        ("llama-2", "<s>[INST] Say hi. [/INST]"),
        ("mine.jinja", "Q: Say hi. A:"),
    ] {
        let (text, _) = prompt(
            dir.path(),
            &format!("--model tiny --chat-template {choice}"),
        );
        assert_eq!(text, expected);
    }
    let predict = "predict --predictor perception-only --instructions in.jsonl --model tiny \
                   --chat-template llama-2";
    let out = succeed(lenaware(dir.path()).args(predict.split_whitespace()));
    assert_eq!(out.lines().count(), 2);

    // A trained predictor is asked in the template it was trained with.
    let train = "finetune --predictor ridge --model tiny --chat-template llama-2 --limit 12 \
                 --out ridge";
    succeed(lenaware(dir.path()).args(train.split_whitespace()));
    assert!(read(dir.path().join("ridge/predictor.json")).contains("llama-2"));
    let predict = |flags: &str| {
        let command = "predict --predictor ./ridge --instructions in.jsonl --model tiny";
        let mut process = lenaware(dir.path());
        process
            .args(command.split(' '))
            .args(flags.split_whitespace());
        succeed(&mut process)
    };
    assert_eq!(predict(""), predict("--chat-template llama-2"));
    assert_ne!(predict(""), predict("--chat-template mine.jinja"));
    // Told to say in advance how long it will be, so small a model says anything at all.
    let pia = "predict --predictor pia --instructions in.jsonl --model tiny --chat-template \
               llama-2";
    let out = succeed(lenaware(dir.path()).args(pia.split_whitespace()));
    for line in out.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["predicted_tokens"].as_f64().unwrap() >= 1.0, "{line}");
    }
    assert_eq!(out.lines().count(), 2);

    let none = "--chat-template";
    for (command, code, parts) in [
        (
            "build-dataset --model tiny --instructions in.jsonl --out out",
            1,
            &["tiny: ", none][..],
        ),
        (
            "build-dataset --model tiny --chat-template lama --out out",
            2,
            &["`lama`", "llama-2", "Jinja"],
        ),
        (
            "finetune --predictor lora --model tiny --chat-template lama --out out",
            2,
            &["`lama`"],
        ),
        (
            "evaluate --predictor perception-only --model tiny --chat-template lama",
            2,
            &["`lama`"],
        ),
    ] {
        let output = lenaware(dir.path())
            .args(command.split(' '))
            .output()
            .unwrap();
        let line = refusal(&output, code);
        for part in parts {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
    }

    let experiment = "[experiment]\nname = 'x'\n[executor]\nkind = 'live'\nmodel = 'tiny'\n\
                      chat_template = 'llama-2'\n[[arm]]\nname = 'vanilla'\n";
    std::fs::write(dir.path().join("x.toml"), experiment).unwrap();
    let dry = "ablate --config x.toml --dry-run";
    let resolved = succeed(lenaware(dir.path()).args(dry.split(' ')));
    assert!(
        resolved.contains("chat_template = \"llama-2\""),
        "{resolved}"
    );
}

#[test]
fn a_checkpoint_that_would_run_code_is_refused() {
    let dir = with_model("tiny");
    let model = dir.path().join("tiny");
    // Protocol 0 as an attacker writes it by hand, in a zip archive as torch.load takes it.
    let pickle = b"cos\nsystem\n(X\x09\x00\x00\x00touch rantR.";
    let index = read(model.join("pytorch_model.bin.index.json"));
    assert!(index.contains("pytorch_model-00002-of-00002.bin"));
    let shard = std::fs::File::create(model.join("pytorch_model-00002-of-00002.bin")).unwrap();
    let mut zip = zip::ZipWriter::new(shard);
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    std::io::Write::write_all(&mut zip, pickle).unwrap();
    zip.finish().unwrap();
    for command in ["build-dataset", "finetune --predictor lora"] {
        let flags = format!("{command} --model tiny --chat-template llama-2 --out out");
        let output = lenaware(dir.path())
            .args(flags.split(' '))
            .output()
            .unwrap();
        let line = refusal(&output, 1);
        for part in [
            "pytorch_model-00002-of-00002.bin",
            "`os.system`",
            "nothing was run",
        ] {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
    }
    assert!(!dir.path().join("ran").exists());
}
