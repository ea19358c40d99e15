//! The commands as a user runs them: the real binary, each test in a folder of its own. Tests
//! that need SmolLM2-135M fail, not skip, where it cannot be had.

mod any_model;
mod arrivals;
mod bad_files;
mod bad_input;
mod bad_model;
mod bad_template;
mod build_dataset;
mod card;
mod chat_server;
mod describe;
mod dry_run;
mod endpoint;
mod evaluation;
mod experiment;
mod faults;
mod heads;
mod hints;
mod import;
mod injected;
mod interrupted;
mod json;
mod lengths;
mod listing;
mod live;
mod live_arrivals;
mod live_forced;
mod manual;
mod no_model;
mod pandas;
mod provenance;
mod readme;
mod threads;
mod tiny_model;
mod tune;
mod words;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use lenaware::model::{ModelFiles, resolve};
use serde_json::Value;

/// The binary, quiet, run in `dir`.
fn lenaware(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lenaware"));
    command.current_dir(dir).arg("-q");
    command
}

/// The model's files, fetched once where they are not on this machine yet.
fn model() -> &'static ModelFiles {
    static FILES: OnceLock<ModelFiles> = OnceLock::new();
    FILES.get_or_init(|| resolve("smollm2-135m", false, false).expect("the model can be had"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs to success; standard output.
fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs to success; standard output as JSON.
fn succeed_json(command: &mut Command) -> Value {
    let out = succeed(command);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// The one line that a failed command left on standard error.
fn refusal(output: &Output, code: i32) -> String {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr.trim_end().to_string()
}

/// Every file under `dir` with its size, in order.
fn files_under(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => files.push((entry.path(), entry.metadata().unwrap().len())),
            }
        }
    }
    files.sort();
    files
}

/// Asserts that `value` is an object with at least these keys.
fn has_keys(value: &Value, keys: &[&str]) {
    let object = value.as_object().expect("an object");
    for key in keys {
        assert!(object.contains_key(*key), "`{key}` is not in {object:?}");
    }
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
