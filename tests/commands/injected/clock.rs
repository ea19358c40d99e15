//! Clocks that jump, the time of day by years and the steady one by hours as when a machine
//! sleeps: results are the same, runs keep apart, and the latest is the one that was begun last.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Case, dataset_case, fault, fresh, import_case, lexical_case, made, run, tuned_case};
use crate::chat_server::{Reply, Server};
use crate::{files_under, lenaware, succeed, text};

const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;
const SIX_HOURS: i64 = 6 * 3600;

/// Which clock, by how many seconds, at which look at it.
type Jump = (&'static str, i64, u32);

fn jumping(dir: &Path, flags: &str, (clock, by, at): Jump) -> std::process::Command {
    let mut command = lenaware(dir);
    command.args(flags.split_whitespace());
    command.env("LD_PRELOAD", fault());
    command.env(format!("FAULT_{clock}"), by.to_string());
    command.env(format!("FAULT_{clock}_AT"), at.to_string());
    command
}

/// No time that took less than none, in any JSON of a folder.
fn nothing_took_less_than_nothing(dir: &Path, stdout: &str) {
    fn look(value: &Value, key: &str, place: &str) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| look(value, key, place)),
            Value::Array(list) => list.iter().for_each(|value| look(value, key, place)),
            Value::Number(number) if key.ends_with("_s") || key.contains("seconds") => {
                let number = number.as_f64().unwrap();
                assert!(number >= 0.0, "{place}: {key} is {number}");
            }
            _ => {}
        }
    }
    let texts = files_under(dir).into_iter().filter_map(|(path, _)| {
        let ending = path.extension()?.to_str()?.to_string();
        ["json", "jsonl"].contains(&ending.as_str()).then(|| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.display().to_string(), text)
        })
    });
    for (place, text) in texts.chain([("stdout".to_string(), stdout.to_string())]) {
        let whole = serde_json::from_str::<Value>(&text).map(|value| vec![value]);
        let values = whole.unwrap_or_else(|_| {
            let lines = text.lines();
            lines
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect()
        });
        values.iter().for_each(|value| look(value, "", &place));
    }
}

const JUMPS: [Jump; 6] = [
    ("CLOCK", -TEN_YEARS, 2),
    ("CLOCK", TEN_YEARS, 2),
    ("CLOCK", -60 * TEN_YEARS / 10, 1),
    ("UPTIME", SIX_HOURS, 2),
    ("UPTIME", SIX_HOURS, 30),
    ("UPTIME", 40 * SIX_HOURS, 300),
];

#[test]
fn results_do_not_depend_on_the_time() {
    let cases: [(Case, bool); 4] = [
        (dataset_case(), false),
        (import_case(), false),
        (tuned_case(), true),
        (lexical_case(), true),
    ];
    for (case, with_data) in cases {
        let flags = format!("--json {}", case.flags);
        let whole = fresh(with_data);
        let (output, _) = run(whole.path(), &flags, None);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let expected = (case.result)(whole.path());
        for jump in JUMPS {
            let dir = fresh(with_data);
            let output = jumping(dir.path(), &flags, jump).output().unwrap();
            let said = text(&output.stderr);
            assert!(output.status.success(), "{flags} {jump:?}: {said}");
            assert!(!said.contains("panicked"), "{flags} {jump:?}: {said}");
            let same = (case.result)(dir.path()) == expected;
            assert!(same, "{flags} {jump:?}: another result");
            nothing_took_less_than_nothing(dir.path(), &text(&output.stdout));
        }
    }
}

#[test]
fn a_server_is_asked_through_jumps() {
    let server = Server::new(|asked| match (asked.seed() % 3, asked.before) {
        // Dates of a server whose clock is right.
        (0, 0) => Reply::Status(
            429,
            "date: Tue, 01 Dec 2026 04:00:00 GMT\r\nretry-after: Tue, 01 Dec 2026 04:00:01 GMT\r\n",
            String::new(),
        ),
        (1, 0) => Reply::Drop,
        _ => Reply::Good,
    });
    let url = server.url();
    let flags = |out: &str| {
        format!(
            "--json build-dataset --endpoint {url} --model tiny --instructions in.jsonl --out \
             {out} --temperatures 0 --max-new-tokens 24 --timeout 60"
        )
    };
    let dir = fresh(false);
    succeed(lenaware(dir.path()).args(flags("whole").split_whitespace()));
    let bytes = |out: &str| std::fs::read(dir.path().join(out).join("dataset.parquet")).unwrap();
    for (index, jump) in JUMPS.into_iter().enumerate() {
        let out = format!("out{index}");
        // Other seeds meet the faults anew, so that the rows are others, too.
        let output = jumping(dir.path(), &flags(&out), jump).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success(), "{jump:?}: {said}");
        assert!(bytes(&out) == bytes("whole"), "{jump:?}");
        let seeded = format!(
            "{} --seed {}",
            flags(&format!("seeded{index}")),
            100 + index
        );
        let output = jumping(dir.path(), &seeded, jump).output().unwrap();
        assert!(
            output.status.success(),
            "{jump:?}: {}",
            text(&output.stderr)
        );
        nothing_took_less_than_nothing(dir.path(), &text(&output.stdout));
    }
}

fn runs(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("results/x")).unwrap();
    let mut runs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    runs.sort();
    runs
}

#[test]
fn runs_keep_apart_and_the_latest_is_gone_on_with() {
    let dir = fresh(true);
    let clocks: [Jump; 6] = [
        ("CLOCK", 0, 1),
        ("CLOCK", 0, 1),
        ("CLOCK", -TEN_YEARS, 1),
        ("CLOCK", TEN_YEARS, 1),
        ("CLOCK", -TEN_YEARS, 3),
        ("UPTIME", SIX_HOURS, 10),
    ];
    let tables = |run: &Path| std::fs::read(run.join("summary.csv")).unwrap();
    let mut known: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for (index, clock) in clocks.into_iter().enumerate() {
        let output = jumping(dir.path(), "ablate --config x.toml", clock)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{clock:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(
            runs(dir.path()).len(),
            index + 1,
            "{clock:?}: a folder of its own"
        );
        for (path, bytes) in &known {
            assert!(
                std::fs::read(path).unwrap() == *bytes,
                "{clock:?}: {path:?} changed"
            );
        }
        let files = files_under(&dir.path().join("results/x")).into_iter();
        known = files
            .map(|(path, _)| (path.clone(), std::fs::read(&path).unwrap()))
            .collect();
    }
    let all = runs(dir.path());
    assert!(all.iter().all(|run| tables(run) == tables(&all[0])));
    nothing_took_less_than_nothing(&dir.path().join("results"), "");
    // One more, ten years ago and killed before its summary: the one to go on with.
    let mut command = jumping(dir.path(), "ablate --config x.toml", clocks[2]);
    let root = dir.path().canonicalize().unwrap();
    command.env("FAULT_ROOT", root).env("FAULT_KIND", "kill");
    // Between the first arm's line and the summary: the last such call.
    let elsewhere = fresh(true);
    let (_, calls) = run(
        elsewhere.path(),
        "ablate --config x.toml",
        Some(("kill", 0)),
    );
    let killed = (1..=calls).rev().find_map(|at| {
        let before = runs(dir.path());
        let output = command.env("FAULT_AT", at.to_string()).output().unwrap();
        let new = runs(dir.path())
            .into_iter()
            .find(|run| !before.contains(run));
        let new = new.filter(|run| run.join("arms.jsonl").is_file());
        let is_killed = output.status.code().is_none();
        match new.filter(|run| is_killed && !run.join("summary.json").is_file()) {
            Some(run) => Some(run),
            None => {
                // Not the place that is looked for.
                let left = runs(dir.path())
                    .into_iter()
                    .filter(|run| !before.contains(run));
                left.for_each(|run| std::fs::remove_dir_all(run).unwrap());
                None
            }
        }
    });
    let killed = killed.expect("a run that was killed after its first arm");
    let count = runs(dir.path()).len();
    succeed(lenaware(dir.path()).args(["ablate", "--config", "x.toml", "--resume"]));
    assert_eq!(runs(dir.path()).len(), count, "no further run was begun");
    assert!(
        tables(&killed) == tables(&all[0]),
        "the killed run is the one that was finished"
    );
    assert!(made().is_dir());
}
