//! `build-dataset` on the real model, cut short in every way: whatever happened before, the
//! finished dataset is that of an uninterrupted run.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lenaware::dataset::StoredSample;
use lenaware::dataset::{LengthDataset, Sample};

use crate::{lenaware, model, refusal, succeed, succeed_json, text};

const INSTRUCTIONS: &str = r#"{"id": "a", "text": "What is the capital of France?"}
{"id": "b", "text": "List five fruits."}
{"id": "c", "text": "Is 7 a prime number? Answer yes or no."}
{"id": "d", "text": "Write a story about a lighthouse."}
{"id": "e", "text": "Translate 'good morning' into German."}
{"id": "f", "text": "Explain what a heap is, and what it is good for."}
{"id": "g", "text": "Say « ça va » in English."}
{"id": "h", "text": "Name a colour."}
"#;

/// `build-dataset` in a folder of its own, with `INSTRUCTIONS` and few tokens.
struct Build {
    dir: tempfile::TempDir,
}

impl Build {
    fn new() -> Build {
        model();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("in.jsonl"), INSTRUCTIONS).unwrap();
        Build { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Into `out`, with more flags, separated by blanks.
    fn command(&self, out: &str, flags: &str) -> Command {
        let mut command = lenaware(self.dir.path());
        command.args(["--json", "build-dataset", "--instructions", "in.jsonl"]);
        command.args(["--temperatures", "0,0.7", "--samples", "2"]);
        command.args(["--max-new-tokens", "32", "--out", out]);
        command.args(flags.split_whitespace());
        command
    }

    /// Starts into `out` and waits until more than `lines` samples are stored.
    fn begin(&self, out: &str, flags: &str, lines: usize) -> Child {
        let mut command = self.command(out, flags);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while self.stored(out) <= lines {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before it was cut short");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// Whole lines in `samples.jsonl`.
    fn stored(&self, out: &str) -> usize {
        let bytes = std::fs::read(self.path(out).join("samples.jsonl")).unwrap_or_default();
        bytes.iter().filter(|b| **b == b'\n').count()
    }

    /// The finished dataset's bytes; beside it only the manifest and the lock are left.
    fn finished(&self, out: &str) -> Vec<u8> {
        let mut left: Vec<_> = std::fs::read_dir(self.path(out))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["README.md", "dataset.parquet", "manifest.json"]);
        std::fs::read(self.path(out).join("dataset.parquet")).unwrap()
    }
}

fn samples(path: &Path) -> Vec<Sample> {
    LengthDataset::read_parquet(path).unwrap().samples
}

#[test]
fn killed_three_times_it_ends_as_if_uninterrupted() {
    let build = Build::new();
    for lines in [0, 6, 12] {
        let mut child = build.begin("killed", "--slots 4", lines);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "ended by the kill");
        assert!(!build.path("killed/dataset.parquet").exists());
    }
    let kept = build.stored("killed");
    let resumed = succeed_json(&mut build.command("killed", "--slots 3"));
    assert_eq!(resumed["resumed"], kept);
    assert_eq!(resumed["samples"], 8 * 3);

    succeed(&mut build.command("whole", "--slots 32 --threads 1"));
    assert!(build.finished("killed") == build.finished("whole"));

    let rows = samples(&build.path("whole/dataset.parquet"));
    assert_eq!(rows.len(), 24);
    assert!(rows.iter().all(|r| (1..=32).contains(&r.response_tokens)));
    assert!(rows.iter().any(|r| r.response_tokens < 32));
    // Samples of one temperature differ in their seeds.
    let mut seeds: Vec<u64> = rows.iter().map(|r| r.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 24);
    // Once more: nothing to do.
    let again = succeed_json(&mut build.command("killed", ""));
    assert_eq!(again["generated_tokens"], 0);
}

#[cfg(unix)]
#[test]
fn while_it_runs_no_other_may_and_ctrl_c_leaves_what_is_done() {
    let build = Build::new();
    let child = build.begin("out", "--slots 2", 1);
    let pid = child.id().to_string();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.unwrap().success());
    };

    // Held still meanwhile, so that it cannot be done before the second begins.
    signal("-STOP");
    let second = build.command("out", "").output().unwrap();
    signal("-INT");
    signal("-CONT");
    let line = refusal(&second, 2);
    let owner = format!("process {pid}");
    assert!(line.contains("out") && line.contains(&owner), "{line}");

    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("error: stopped with "), "{stderr}");
    assert!(last.contains("the same command continues"), "{stderr}");
    assert!(!build.path("out/dataset.parquet").exists());

    // Another plan is refused, and by that nothing is lost.
    let kept = build.stored("out");
    for (flags, named) in [
        ("--seed 7", "the seed was 42 and is now 7"),
        ("--limit 3", "the instructions' hash"),
    ] {
        let other = build.command("out", flags).output().unwrap();
        let line = refusal(&other, 2);
        assert!(line.contains("out ") && line.contains(named), "{line}");
    }
    assert_eq!(build.stored("out"), kept);

    let resumed = succeed_json(&mut build.command("out", ""));
    assert_eq!(resumed["resumed"], kept);
    build.finished("out");
}

#[test]
fn another_plan_is_refused_naming_every_difference() {
    let build = Build::new();
    let few = "--limit 2";
    succeed(&mut build.command("out", few));
    let before = build.finished("out");
    let mut command = lenaware(build.dir.path());
    let other = "build-dataset --instructions in.jsonl --limit 2 --temperatures 0.3 --samples 1 \
                 --max-new-tokens 24 --out out";
    let output = command.args(other.split_whitespace()).output().unwrap();
    let line = refusal(&output, 2);
    for named in [
        "out was begun with another plan",
        "temperatures was [0.0, 0.7] and is now [0.3]",
        "samples was 2 and is now 1",
        "max-new-tokens was 32 and is now 24",
    ] {
        assert!(line.contains(named), "`{named}` is not in: {line}");
    }
    assert!(!line.contains("seed"), "{line}");
    assert!(build.finished("out") == before);
}

#[test]
fn a_torn_last_line_is_no_sample_and_a_damaged_one_is_refused() {
    let build = Build::new();
    let few = "--limit 2";
    succeed(&mut build.command("whole", few));
    let whole = build.finished("whole");

    // The same build, stopped by hand: two samples, and the beginning of a third.
    let place = |id: &str| usize::from(id == "b");
    let mut lines = String::new();
    for row in &samples(&build.path("whole/dataset.parquet"))[..2] {
        let stored = StoredSample {
            instruction: place(&row.instruction_id),
            temperature: row.temperature,
            sample: row.sample,
            prompt_tokens: row.prompt_tokens,
            response_tokens: row.response_tokens,
            finish_reason: row.finish_reason,
            response: row.response.clone().unwrap(),
        };
        lines += &format!("{}\n", serde_json::to_string(&stored).unwrap());
    }
    let stop = |out: &str, end: &str| {
        let dir = build.path(out);
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(build.path("whole/manifest.json"), dir.join("manifest.json")).unwrap();
        std::fs::write(dir.join("samples.jsonl"), format!("{lines}{end}")).unwrap();
    };
    stop("torn", "{\"instruction\":1,\"temperature\":0.0,\"sam");
    let resumed = succeed_json(&mut build.command("torn", few));
    assert_eq!(resumed["resumed"], 2);
    assert!(build.finished("torn") == whole);

    stop("damaged", "{\"instruction\":1,\"tempe\n");
    let output = build.command("damaged", few).output().unwrap();
    let line = refusal(&output, 1);
    assert!(line.contains("samples.jsonl: line 3"), "{line}");
    assert!(line.contains("delete that line"), "{line}");
    assert_eq!(build.stored("damaged"), 3);
}
