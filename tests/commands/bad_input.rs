//! Mistakes in files and flags: one line that names the file or the key, exit code 1 (2 for
//! usage and configuration), no panic, and not a file more than before.

use std::io::Read;
use std::path::Path;

use lenaware::dataset::{LengthDataset, embedded};
use polars::prelude::*;

use crate::{files_under, lenaware, model, refusal, text};

const EXPERIMENT: &str = "[experiment]\nname = 'x'\n[[arm]]\nname = 'vanilla'\n";

/// Writes good files and every kind of bad one into `dir`.
fn write_files(dir: &Path) {
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    put("good.jsonl", b"{\"text\": \"Say hello.\"}\n");
    put("torn.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b\"\n");
    put("untexted.jsonl", b"{\"text\": \"a\"}\n\n{\"id\": 7}\n");
    put(
        "twice.jsonl",
        b"{\"id\":1,\"text\":\"a\"}\n{\"id\":1,\"text\":\"b\"}\n",
    );
    put("empty.jsonl", b"");
    put("blank.jsonl", b"\n  \n");
    put("latin.jsonl", b"{\"text\": \"caf\xe9\"}\n");
    let huge = format!("{{\"text\": \"{}\"}}\n", "word ".repeat(9000));
    put("huge.jsonl", huge.as_bytes());
    put("torn.json", b"[{\"id\": \"5\", \"conversations\": [");
    put(
        "good.json",
        br#"[{"id":"5","conversations":[{"from":"human","value":"q"}]}]"#,
    );
    put("others.json", br#"[{"id":"6","L_t0.0":1}]"#);
    put("predictions.jsonl", b"{\"instruction_id\": \"a\"}\n");
    put(
        "few.jsonl",
        b"{\"instruction_id\": \"a\", \"predicted_tokens\": 7}\n",
    );
    put("noise.parquet", &noise(4096));
    put("noise.gguf", &noise(4096));
    put("empty.gguf", b"");
    put("notes.txt", b"not a model");
    parquets(dir);

    put("exp.toml", EXPERIMENT.as_bytes());
    put("syntax.toml", b"[experiment\n");
    put(
        "unknown-key.toml",
        format!("{EXPERIMENT}groupsize = 4\n").as_bytes(),
    );
    put(
        "unknown-predictor.toml",
        format!("{EXPERIMENT}predictor = 'psychic'\n").as_bytes(),
    );
    put(
        "no-folder.toml",
        format!("{EXPERIMENT}predictor = './runs/none'\n").as_bytes(),
    );
    put(
        "few.toml",
        format!("{EXPERIMENT}predictor = 'file:few.jsonl'\n").as_bytes(),
    );
    put(
        "contradiction.toml",
        format!("{EXPERIMENT}vbs = true\n").as_bytes(),
    );
    put(
        "split.toml",
        format!("{EXPERIMENT}[workload]\nsplit = 'tests'\n").as_bytes(),
    );
    put(
        "served.toml",
        format!("{EXPERIMENT}[workload]\nserved = 0.9\n").as_bytes(),
    );
    put(
        "step-time.toml",
        format!("{EXPERIMENT}[executor]\nstep_time = 'fast'\n").as_bytes(),
    );
    put("tune.toml", b"predictor = 'lora'\n[train]\nepoch = 3\n");
}

fn noise(bytes: u32) -> Vec<u8> {
    (0..bytes)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// Parquet files that are cut off, damaged inside, empty, or about something else.
fn parquets(dir: &Path) {
    let whole = embedded::embedded().unwrap();
    let few = LengthDataset {
        samples: whole.samples[..40].to_vec(),
        ..whole.clone()
    };
    few.write_parquet(&dir.join("good.parquet")).unwrap();
    let mut bytes = std::fs::read(dir.join("good.parquet")).unwrap();
    std::fs::write(dir.join("cut.parquet"), &bytes[..bytes.len() / 2]).unwrap();
    for at in 4..bytes.len() / 2 {
        bytes[at] ^= 0x5a;
    }
    std::fs::write(dir.join("damaged.parquet"), &bytes).unwrap();
    let none = LengthDataset {
        samples: Vec::new(),
        ..whole
    };
    none.write_parquet(&dir.join("empty.parquet")).unwrap();
    let mut other = df!("prompt" => ["a", "b"], "tokens" => [1, 2]).unwrap();
    let file = std::fs::File::create(dir.join("other.parquet")).unwrap();
    ParquetWriter::new(file).finish(&mut other).unwrap();
}

/// Runs `arguments` among the bad files, expects exit `code` and one line with all of `named`.
fn check(arguments: &str, code: i32, named: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    check_in(dir.path(), arguments, code, named);
}

fn check_in(dir: &Path, arguments: &str, code: i32, named: &[&str]) {
    let before = files_under(dir);
    let mut command = lenaware(dir);
    let output = command.args(arguments.split(' ')).output().unwrap();
    assert!(!output.status.success(), "`{arguments}` succeeded");
    let line = refusal(&output, code);
    for part in named {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
    assert_eq!(
        output.stdout,
        b"",
        "`{arguments}`: {}",
        text(&output.stdout)
    );
    let mut new = files_under(dir);
    new.retain(|file| !before.contains(file));
    assert_eq!(new, [], "`{arguments}` left something");
}

#[test]
fn instruction_files() {
    for (file, named) in [
        ("missing.jsonl", "No such file"),
        ("torn.jsonl", "line 2 is not JSON"),
        ("untexted.jsonl", "line 3"),
        ("twice.jsonl", "`1` occurs twice"),
        ("empty.jsonl", "no instructions"),
        ("blank.jsonl", "no instructions"),
        ("latin.jsonl", "UTF-8"),
        ("torn.json", "not a JSON list"),
        (".", "directory"),
    ] {
        check(
            &format!("build-dataset --instructions {file} --out out"),
            1,
            &[file, named],
        );
        let predict = "predict --predictor constant --out p.jsonl --instructions";
        check(&format!("{predict} {file}"), 1, &[file, named]);
    }
    let import = "import --from sequence-scheduling --out out.parquet --instructions good.json";
    for (lengths, named) in [
        ("missing.json", "No such file"),
        ("torn.json", "not a JSON list"),
        ("good.json", "L_t0.0"),
        ("others.json", "`5`"),
    ] {
        check(
            &format!("{import} --lengths {lengths}"),
            1,
            &[lengths, named],
        );
    }
}

#[test]
fn length_datasets() {
    for (file, named) in [
        ("missing.parquet", "No such file"),
        ("noise.parquet", "not a readable Parquet file"),
        ("cut.parquet", "not a readable Parquet file"),
        ("damaged.parquet", "not a readable Parquet file"),
        ("good.jsonl", "not a readable Parquet file"),
        ("empty.jsonl", "not a readable Parquet file"),
        ("empty.parquet", "no samples"),
        ("other.parquet", "no column `instruction_id`"),
        (".", "dataset.parquet"),
    ] {
        check(
            &format!("evaluate --predictor constant --dataset {file}"),
            1,
            &[file, named],
        );
    }
    check(
        "finetune --predictor ridge --dataset cut.parquet --out r",
        1,
        &["cut.parquet"],
    );
    check(
        "finetune --predictor lora --dataset empty.parquet --out r",
        1,
        &["empty.parquet"],
    );
}

#[test]
fn experiment_files() {
    for (file, code, named) in [
        ("missing.toml", 1, "No such file"),
        ("syntax.toml", 2, "syntax.toml:1"),
        (
            "unknown-key.toml",
            2,
            "toml:5: unknown key 'groupsize' in [[arm]]; did you mean 'group_size'?",
        ),
        (
            "contradiction.toml",
            2,
            "toml:3: arm 'vanilla': `vbs = true` contradicts",
        ),
        (
            "split.toml",
            2,
            "toml:6: unknown value 'tests' of `split`; did you mean 'test'?",
        ),
        ("good.jsonl", 2, "good.jsonl:1"),
    ] {
        check(&format!("ablate --config {file}"), code, &[file, named]);
        check(
            &format!("ablate --dry-run --config {file}"),
            code,
            &[file, named],
        );
    }
    for (file, code, named) in [
        ("unknown-predictor.toml", 2, "`psychic`"),
        ("no-folder.toml", 2, "./runs/none"),
        ("few.toml", 2, "file:few.jsonl"),
        ("served.toml", 2, "`served`"),
        ("step-time.toml", 2, "`fast`"),
    ] {
        check(&format!("ablate --config {file}"), code, &[named]);
    }
    check(
        "finetune --config tune.toml --out r",
        2,
        &["tune.toml:3", "'epochs'"],
    );
    check("report missing", 1, &["missing"]);
    check("report .", 1, &["summary.json"]);
}

#[test]
fn names_and_flags() {
    check(
        "evaluate --predictor psychic",
        2,
        &["`psychic`", "ground-truth"],
    );
    check(
        "evaluate --predictor ./runs/none",
        2,
        &["./runs/none", "finetune"],
    );
    check("evaluate --predictor file:none.jsonl", 1, &["none.jsonl"]);
    check(
        "evaluate --predictor file:predictions.jsonl",
        1,
        &["predictions.jsonl", "line 1"],
    );
    check(
        "evaluate --predictor file:few.jsonl",
        2,
        &["file:few.jsonl"],
    );
    check("evaluate --predictor oracle", 2, &["`oracle`"]);
    check(
        "evaluate --predictor constant --split tests",
        2,
        &["`tests`"],
    );
    check("evaluate --predictor constant --label most", 2, &["`most`"]);
    check("evaluate --predictor constant --limit 0", 2, &["embedded"]);
    check(
        "predict --predictor ground-truth --instructions good.jsonl",
        2,
        &["`ground-truth`"],
    );
    check("build-dataset --split tests --out out", 2, &["`tests`"]);
    check("build-dataset --limit 0 --out out", 2, &["--limit"]);
    check("--device cuda doctor", 2, &["`cuda`"]);
    check("finetune --out r", 2, &["--predictor"]);
    check("finetune --predictor lora --lora-r 0 --out r", 2, &["r"]);
}

#[test]
fn what_is_there_already_is_not_overwritten() {
    let import = "import --from sequence-scheduling --instructions good.json --lengths others.json";
    check(
        &format!("{import} --out good.parquet"),
        2,
        &["good.parquet"],
    );
    let predict = "predict --predictor constant --instructions good.jsonl --out good.json";
    check(predict, 2, &["good.json"]);
    check("profile --out good.jsonl", 2, &["good.jsonl"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("predictor.json"), "{}").unwrap();
    check_in(
        dir.path(),
        "finetune --predictor ridge --out .",
        2,
        &["already"],
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dataset.parquet"), "x").unwrap();
    model();
    let before = files_under(dir.path());
    let mut command = lenaware(dir.path());
    let output = command
        .args(["build-dataset", "--out", "."])
        .output()
        .unwrap();
    refusal(&output, 2);
    let mut after = files_under(dir.path());
    after.retain(|(path, _)| !path.ends_with(".lock"));
    assert_eq!(after, before);
}

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
            "quickstart --results out",
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

#[test]
fn wrong_usage_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        "evaluate",
        "ablate --confg x",
        "build-datset",
        "evaluate --limit many",
    ] {
        let mut command = lenaware(dir.path());
        let output = command.args(arguments.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(text(&output.stderr).starts_with("error: "), "{arguments}");
    }
}
