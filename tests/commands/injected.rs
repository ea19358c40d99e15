//! Faults at every write, sync and read of the commands that write: a disk that is full from then
//! on, an input/output error, a kill in the midst of a write, a kill before one. After each the
//! same command ends as if nothing had happened. Needs a C compiler, on Linux.
//!
//! Every so many calls are tried; all with `LENAWARE_FAULTS=all`.
#![cfg(target_os = "linux")]

mod clock;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::{files_under, lenaware, succeed, text, tiny_model};

/// What is preloaded into the program (`fault.c`).
fn fault() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("fault.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/injected/fault.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
        compiler.arg(&library).arg(source).arg("-ldl");
        assert!(compiler.status().unwrap().success());
        (dir, library)
    });
    &built.1
}

/// A command that writes, and what of its result counts.
struct Case {
    flags: &'static str,
    /// Flags of the second try.
    again: &'static str,
    result: fn(&Path) -> Vec<Vec<u8>>,
    /// Whether the folder it writes is its own, and cleared of what a kill left.
    tidies: bool,
}

fn prepare(dir: &Path) {
    let instructions: String = (0..24)
        .map(|i| format!("{{\"id\": \"i{i}\", \"text\": \"Count to {}.\"}}\n", i * 7))
        .collect();
    std::fs::write(dir.join("in.jsonl"), instructions).unwrap();
    let rows: String = (1..60).map(|i| format!("do {i},{i}\n")).collect();
    std::fs::write(dir.join("log.csv"), format!("what,tokens\n{rows}")).unwrap();
    std::fs::write(dir.join("tune.toml"), "[train]\ncheckpoint_every = 1\n").unwrap();
    let experiment = "[experiment]\nname = 'x'\nseeds = [1, 2]\n[workload]\ndataset = \
                      'data/dataset.parquet'\nsplit = 'all'\nserved = 0.0\n[executor]\nkind = \
                      'replay'\n[[arm]]\nname = 'a'\n[[arm]]\nname = 'b'\npredictor = \
                      'ground-truth'\nscheduling = 'sorted'\n";
    std::fs::write(dir.join("x.toml"), experiment).unwrap();
}

/// The model and a dataset, made once.
fn made() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        tiny_model::write(&dir.path().join("model"), 2);
        prepare(dir.path());
        let build = "build-dataset --model model --instructions in.jsonl --out data --temperatures \
                     0,1 --max-new-tokens 9";
        succeed(lenaware(dir.path()).args(build.split_whitespace()));
        dir
    });
    dir.path()
}

fn fresh(with_data: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    std::os::unix::fs::symlink(made().join("model"), dir.path().join("model")).unwrap();
    if with_data {
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let file = "data/dataset.parquet";
        std::fs::copy(made().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn run(dir: &Path, flags: &str, fault_at: Option<(&str, usize)>) -> (Output, usize) {
    let count = tempfile::NamedTempFile::new().unwrap();
    let mut command = lenaware(dir);
    command.args(flags.split_whitespace());
    command.env("LD_PRELOAD", fault()).env("FAULT_ROOT", dir);
    command.env("FAULT_COUNT", count.path());
    if let Some((kind, at)) = fault_at {
        command.env("FAULT_KIND", kind);
        command.env("FAULT_AT", at.to_string());
    }
    let output = command.output().unwrap();
    let calls = std::fs::read_to_string(count.path()).unwrap();
    (output, calls.parse().unwrap_or(0))
}

fn every(case: &Case, with_data: bool) {
    let whole = fresh(with_data);
    let (output, _) = run(whole.path(), case.flags, None);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = (case.result)(whole.path());
    assert!(!expected.is_empty());
    for kind in ["full", "error", "torn", "kill"] {
        let dir = fresh(with_data);
        let (_, calls) = run(dir.path(), case.flags, Some((kind, 0)));
        assert!(calls > 3, "{kind}: {calls} calls");
        let tried = match std::env::var("LENAWARE_FAULTS").as_deref() {
            Ok("all") => calls,
            _ => calls.min(14),
        };
        for index in 0..tried {
            // The first and the last among them: ends are where faults are.
            let at = 1 + index * (calls - 1) / (tried - 1).max(1);
            let what = format!("{} with `{kind}` at call {at} of {calls}", case.flags);
            let dir = fresh(with_data);
            let (output, _) = run(dir.path(), case.flags, Some((kind, at)));
            let said = text(&output.stderr);
            let killed = output.status.code().is_none();
            match output.status.code() {
                // What is of no consequence may fail.
                Some(0) => {}
                Some(code) => {
                    let last = said.lines().last().unwrap_or_default();
                    assert!(code == 1 || code == 2, "{what}: {code}");
                    assert!(last.starts_with("error: "), "{what}: {said}");
                    assert!(!said.contains("panicked"), "{what}: {said}");
                }
                None => assert!(["torn", "kill"].contains(&kind), "{what}"),
            }
            let again = format!("{} {}", case.flags, case.again);
            let (output, _) = run(dir.path(), &again, None);
            let said = text(&output.stderr);
            // Where it was whole already, that is said.
            let there = said.contains("there already") || said.contains("predictor already");
            assert!(output.status.success() || there, "{what}, then: {said}");
            assert!(
                (case.result)(dir.path()) == expected,
                "{what}: another result"
            );
            for (path, _) in files_under(dir.path()) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                // A killed owner's is nobody's.
                assert!(killed || name != ".lock", "{what}: {path:?}");
                assert!(
                    !(case.tidies && !there && name.starts_with(".writing-")),
                    "{what}: {path:?}"
                );
            }
        }
    }
}

fn file(dir: &Path, name: &str) -> Vec<Vec<u8>> {
    std::fs::read(dir.join(name)).into_iter().collect()
}

fn dataset_case() -> Case {
    Case {
        flags: "build-dataset --model model --instructions in.jsonl --out data --temperatures 0,1 \
                --max-new-tokens 9",
        again: "",
        result: |dir| file(dir, "data/dataset.parquet"),
        tidies: true,
    }
}

#[test]
fn a_dataset_that_is_built() {
    every(&dataset_case(), false);
}

fn import_case() -> Case {
    Case {
        flags: "import --from csv --lengths log.csv --instruction-column what \
                --response-tokens-column tokens --out log.parquet",
        again: "",
        result: |dir| file(dir, "log.parquet"),
        tidies: false,
    }
}

#[test]
fn a_log_that_is_imported() {
    every(&import_case(), false);
}

fn tuned_case() -> Case {
    Case {
        flags: "--threads 2 finetune --config tune.toml --predictor lora --model model --dataset \
                data/dataset.parquet --label mean --micro-batch-size 4 --gradient-accumulation 2 \
                --epochs 2 --out lora",
        again: "--resume",
        result: |dir| file(dir, "lora/adapter_model.safetensors"),
        tidies: true,
    }
}

#[test]
fn an_adapter_that_is_tuned() {
    every(&tuned_case(), true);
}

fn lexical_case() -> Case {
    Case {
        flags: "finetune --predictor lexical --dataset data/dataset.parquet --out lexical",
        again: "",
        result: |dir| file(dir, "lexical/lexical.safetensors"),
        tidies: true,
    }
}

#[test]
fn a_predictor_from_words() {
    every(&lexical_case(), true);
}

#[test]
fn an_experiment_that_is_resumed() {
    let case = Case {
        flags: "ablate --config x.toml",
        again: "--resume",
        result: |dir| {
            // The latest run; what was done is in it, whichever try did it.
            let runs = files_under(&dir.join("results"));
            let tables = runs
                .into_iter()
                .filter(|(path, _)| path.ends_with("summary.csv"));
            let latest = tables.map(|(path, _)| path).max();
            latest
                .iter()
                .map(|path| std::fs::read(path).unwrap())
                .collect()
        },
        tidies: false,
    };
    every(&case, true);
}

#[test]
fn offline_nothing_is_asked_of_a_network() {
    let asked = |dir: &Path, flags: &str, home: &Path| -> usize {
        let log = dir.join("connections");
        let _ = std::fs::remove_file(&log);
        let mut command = lenaware(dir);
        command.args(flags.split_whitespace());
        command
            .env("LD_PRELOAD", fault())
            .env("FAULT_CONNECTIONS", &log);
        // Nothing is in this cache.
        command.env("XDG_CACHE_HOME", home).env("HF_HOME", home);
        command.env_remove("HTTPS_PROXY").env_remove("https_proxy");
        command.output().unwrap();
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let (dir, home) = (fresh(true), tempfile::tempdir().unwrap());
    // The harness sees what is asked where it may be: a host of the user's, and the hub.
    for flags in [
        "build-dataset --endpoint http://127.0.0.1:9 --retries 0 --instructions in.jsonl --out new",
        "build-dataset --model hub:org/none --instructions in.jsonl --out new",
    ] {
        assert!(asked(dir.path(), flags, home.path()) > 0, "{flags}");
    }
    for flags in [
        "build-dataset --model hub:org/none --instructions in.jsonl --out new",
        "build-dataset --instructions in.jsonl --out new",
        "build-dataset --instructions hub:org/none --out new",
        "build-dataset --endpoint http://127.0.0.1:9 --instructions in.jsonl --out new",
        "finetune --predictor ridge --dataset data/dataset.parquet --out new",
        "finetune --predictor encoder --dataset data/dataset.parquet --out new",
        "evaluate --predictor constant --dataset data/dataset.parquet",
        "predict --predictor perception-only --instructions in.jsonl",
        "ablate --config x.toml",
        "doctor",
    ] {
        let flags = format!("--offline {flags}");
        assert_eq!(asked(dir.path(), &flags, home.path()), 0, "{flags}");
    }
}
