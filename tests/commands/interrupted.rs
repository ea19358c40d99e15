//! Ctrl-C in the midst of commands: they end with 1 and a line that says what is kept and how to
//! go on, and leave nothing half written.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{files_under, succeed, text, tiny_model};

fn loud(dir: &Path, flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lenaware"));
    command.current_dir(dir).args(flags.split_whitespace());
    command
}

/// Runs until a line of its progress holds `needle`, and a moment longer; then Ctrl-C. The last
/// line that it says.
fn interrupted(dir: &Path, flags: &str, needle: &str, moment: Duration) -> String {
    let mut child = loud(dir, flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(needle) {
        let read = stderr.read_line(&mut said).unwrap();
        assert!(read > 0, "it ended without `{needle}`: {said}");
    }
    std::thread::sleep(moment);
    assert!(
        child.try_wait().unwrap().is_none(),
        "it ended too soon: {said}"
    );
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let mut rest = Vec::new();
    stderr.read_to_end(&mut rest).unwrap();
    said.push_str(&text(&rest));
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    let last = said.lines().last().unwrap().to_string();
    assert!(last.starts_with("error: stopped"), "{said}");
    last
}

fn none_half_written(dir: &Path) -> Vec<PathBuf> {
    let files: Vec<PathBuf> = files_under(dir).into_iter().map(|(path, _)| path).collect();
    for path in &files {
        assert!(!path.to_string_lossy().contains(".writing-"), "{path:?}");
    }
    files
}

const SOON: Duration = Duration::from_millis(300);

/// A folder with a slow tiny model and a dataset of many short instructions.
fn with_texts() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny_model::write(&dir.path().join("tiny"), 40);
    let rows: String = (0..4000)
        .map(|i| format!("say {i},{}\n", i % 90 + 1))
        .collect();
    std::fs::write(dir.path().join("log.csv"), format!("prompt,tokens\n{rows}")).unwrap();
    succeed(&mut loud(
        dir.path(),
        "-q import --from csv --lengths log.csv --instruction-column prompt \
         --response-tokens-column tokens --out data.parquet",
    ));
    dir
}

#[test]
fn an_evaluation_says_that_nothing_is_kept() {
    let dir = with_texts();
    let before = files_under(dir.path());
    let flags = "evaluate --dataset data.parquet --model ./tiny --predictor perception-only \
                 --out results";
    let last = interrupted(dir.path(), flags, "evaluating perception-only", SOON);
    assert!(
        last.contains("nothing of this evaluation is kept"),
        "{last}"
    );
    assert_eq!(files_under(dir.path()), before);
}

#[test]
fn a_training_without_checkpoints_says_that_it_starts_anew() {
    let dir = with_texts();
    let flags = "finetune --predictor ridge --dataset data.parquet --model ./tiny --out ./ridge";
    let last = interrupted(dir.path(), flags, "instructions to train on", SOON);
    assert!(last.contains("./ridge is no predictor yet"), "{last}");
    none_half_written(dir.path());
    assert!(!dir.path().join("ridge/predictor.json").exists());
}

#[test]
fn an_import_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..2_000_000)
        .map(|i| format!("{}\n", i % 900 + 1))
        .collect();
    std::fs::write(dir.path().join("log.csv"), format!("tokens\n{rows}")).unwrap();
    let flags =
        "import --from csv --lengths log.csv --response-tokens-column tokens --out x.parquet";
    let last = interrupted(
        dir.path(),
        flags,
        "reading log.csv",
        Duration::from_millis(100),
    );
    assert!(last.contains("nothing was written"), "{last}");
    assert_eq!(none_half_written(dir.path()), [dir.path().join("log.csv")]);
}

fn experiment(kind: &str, arrivals: &str, seeds: usize, policy: &str) -> String {
    let seeds: Vec<String> = (1..=seeds).map(|s| s.to_string()).collect();
    format!(
        "[experiment]\nname = \"x\"\nseeds = [{}]\n[workload]\n{arrivals}\n[executor]\n\
         kind = \"{kind}\"\nmodel = \"./tiny\"\nstep_time = \"smollm2-135m-2-cores\"\n\
         [defaults]\nmax_new_tokens = 128\n[[arm]]\nname = \"vanilla\"\npredictor = \"constant\"\n{policy}\n",
        seeds.join(", ")
    )
}

/// Runs an experiment, interrupts it, and looks at what it left.
fn cut(dir: &Path, seeds: usize, needle: &str) {
    let last = interrupted(dir, "ablate --config x.toml", needle, SOON);
    assert!(
        last.contains(&format!("of {seeds} arms kept in results/x/")),
        "{last}"
    );
    assert!(
        last.contains("the same command with --resume continues"),
        "{last}"
    );
    for path in none_half_written(&dir.join("results")) {
        if path.ends_with("arms.jsonl") {
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
        }
    }
}

#[test]
fn replays_keep_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let text = experiment("replay", "", 12000, "");
    std::fs::write(dir.path().join("x.toml"), text).unwrap();
    cut(dir.path(), 12000, "x: 1 arms x 12000 seeds on embedded");
}

#[test]
fn simulations_over_time_keep_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let arrivals = "arrivals = { kind = \"poisson\", rate = 3.0 }";
    let text = experiment("replay", arrivals, 12000, "policy = \"fcfs\"");
    std::fs::write(dir.path().join("x.toml"), text).unwrap();
    cut(dir.path(), 12000, "x: 1 arms x 12000 seeds on embedded");
}

#[test]
fn live_runs_keep_what_is_done() {
    for (arrivals, policy) in [("", ""), ("arrivals = \"at-once\"", "policy = \"fcfs\"")] {
        let dir = with_texts();
        let arrivals = format!("dataset = \"data.parquet\"\nlimit = 400\n{arrivals}");
        let text = experiment("live", &arrivals, 50, policy);
        std::fs::write(dir.path().join("x.toml"), text).unwrap();
        cut(dir.path(), 50, "[1/50] vanilla (seed 1)");
    }
}

#[test]
fn a_reproduction_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let last = interrupted(
        dir.path(),
        "reproduce",
        "reproduce-beyond: ",
        Duration::ZERO,
    );
    assert!(last.contains("--resume continues"), "{last}");
    none_half_written(dir.path());
}
