//! Bad files of every kind, and what a command must make of them: one line that names the file
//! or the key, exit code 1 (2 for usage and configuration), no panic, and not a file more than
//! before.

use std::path::Path;

use lenaware::dataset::{LengthDataset, embedded};
use polars::prelude::*;

use crate::{files_under, lenaware, refusal, text};

pub const EXPERIMENT: &str = "[experiment]\nname = 'x'\n[[arm]]\nname = 'vanilla'\n";

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
pub fn check(arguments: &str, code: i32, named: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    check_in(dir.path(), arguments, code, named);
}

pub fn check_in(dir: &Path, arguments: &str, code: i32, named: &[&str]) {
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

/// What is no regular file would be waited for, or read, without end.
#[cfg(unix)]
#[test]
fn pipes_and_devices_are_no_files() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("predictor")).unwrap();
    for name in [
        "pipe",
        "pipe.csv",
        "pipe.txt",
        "pipe.parquet",
        "pipe.toml",
        "pipe.gguf",
        "predictor/predictor.json",
    ] {
        let made = std::process::Command::new("mkfifo").arg(at(name)).status();
        assert!(made.unwrap().success());
    }
    std::os::unix::fs::symlink("/dev/zero", at("zero.jsonl")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("zero.toml")).unwrap();
    let named = |name: &str| [name.to_string(), "write what it gives to a file".into()];
    for (arguments, name) in [
        ("predict --predictor constant --instructions pipe", "pipe"),
        (
            "predict --predictor constant --instructions pipe.csv",
            "pipe.csv",
        ),
        (
            "predict --predictor constant --instructions pipe.txt",
            "pipe.txt",
        ),
        (
            "predict --predictor constant --instructions pipe.parquet",
            "pipe.parquet",
        ),
        (
            "predict --predictor constant --instructions zero.jsonl",
            "zero.jsonl",
        ),
        (
            "predict --predictor ./predictor --instructions good.jsonl",
            "predictor.json",
        ),
        (
            "predict --predictor file:zero.jsonl --instructions good.jsonl",
            "zero.jsonl",
        ),
        ("ablate --config pipe.toml", "pipe.toml"),
        ("ablate --config zero.toml", "zero.toml"),
        ("describe pipe.parquet", "pipe.parquet"),
    ] {
        let named = named(name);
        check_in(dir.path(), arguments, 1, &[&named[0], &named[1]]);
    }
}
