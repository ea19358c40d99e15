//! `build-dataset --endpoint` against a real server with the faults of real servers.

mod identity;
#[cfg(target_os = "linux")]
mod lying;
#[cfg(target_os = "linux")]
mod raw_server;
#[cfg(target_os = "linux")]
mod strangers;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use lenaware::dataset::{FinishReason, LengthDataset, Sample};
use serde_json::{Value, json};

use crate::chat_server::{Reply, Server, expected, good};
use crate::{lenaware, refusal, succeed, succeed_json, text};

const COUNT: usize = 6;
const TOTAL: usize = COUNT * 5;

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let lines: String = (0..COUNT)
            .map(|i| format!("{{\"id\": \"i{i}\", \"text\": \"Say \\\"{i}\\\".\"}}\n"))
            .collect();
        std::fs::write(dir.path().join("in.jsonl"), lines).unwrap();
        Folder { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `flags` say all but the instructions, the limit and the folder.
    fn command(&self, url: &str, out: &str, flags: &str) -> Command {
        let mut command = lenaware(self.dir.path());
        for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.env_remove("OPENAI_API_KEY");
        let fixed = "--json build-dataset --instructions in.jsonl --max-new-tokens 24";
        command.args(fixed.split(' '));
        command.args(["--endpoint", url, "--out", out]);
        if !flags.contains("--model") {
            command.args(["--model", "tiny"]);
        }
        if !flags.contains("--samples") {
            command.args(["--samples", "2", "--temperatures", "0,0.7,1"]);
        }
        command.args(flags.split_whitespace());
        command
    }

    fn dataset(&self, out: &str) -> LengthDataset {
        LengthDataset::read_parquet(&self.path(out).join("dataset.parquet")).unwrap()
    }

    fn rows(&self, out: &str) -> Vec<Sample> {
        self.dataset(out).samples
    }

    fn lines(&self, out: &str) -> usize {
        let bytes = std::fs::read(self.path(out).join("samples.jsonl")).unwrap_or_default();
        bytes.iter().filter(|b| **b == b'\n').count()
    }
}

fn failure(status: u16, message: &str) -> Reply {
    let body = json!({"error": {"message": message, "type": "x"}});
    Reply::Status(status, "", body.to_string())
}

#[test]
fn answers_become_rows_in_the_order_of_the_plan() {
    let folder = Folder::new();
    // The later asked, the sooner answered.
    let begun = AtomicUsize::new(0);
    let server = Server::new(move |_| {
        let turn = begun.fetch_add(1, Ordering::SeqCst) as u64;
        let wait = Duration::from_millis(60u64.saturating_sub(turn % 30 * 2));
        Reply::After(wait, Box::new(Reply::Good))
    });
    let url = server.url();
    let built = succeed_json(&mut folder.command(&url, "many", "--concurrency 12 --top-p 0.9"));
    assert_eq!(built["samples"], TOTAL);
    let asked = server.asked();
    assert_eq!(asked.len(), TOTAL);
    // With /v1 and a slash, one at a time: the same file, byte for byte.
    let one = "--concurrency 1 --top-p 0.9";
    succeed(&mut folder.command(&format!("{url}/v1/"), "one", one));
    let bytes = |out: &str| std::fs::read(folder.path(out).join("dataset.parquet")).unwrap();
    assert!(bytes("many") == bytes("one"));

    let rows = folder.rows("many");
    for (index, row) in rows.iter().enumerate() {
        let (tokens, reason, content) = expected(row.seed);
        assert_eq!(row.instruction_id, format!("i{}", index / 5));
        assert_eq!((row.response_tokens, row.prompt_tokens), (tokens, 7));
        assert_eq!(row.response.as_deref(), Some(content.as_str()));
        let cut = row.finish_reason == FinishReason::Length;
        assert_eq!(cut, reason == "length");
        let sent = asked.iter().find(|a| a.seed() == row.seed).unwrap();
        let temperature = [0.0, 0.7, 0.7, 1.0, 1.0][index % 5];
        let expected = json!({
            "model": "tiny",
            "messages": [{"role": "user", "content": row.instruction}],
            "temperature": temperature,
            "top_p": 0.9, "max_tokens": 24, "seed": row.seed, "n": 1, "stream": false,
        });
        assert_eq!(sent.body, expected);
        assert_eq!(sent.authorization, None);
    }
    let temperatures: Vec<f32> = rows[..5].iter().map(|r| r.temperature).collect();
    assert_eq!(temperatures, [0.0, 0.7, 0.7, 1.0, 1.0]);
    let provenance = folder.dataset("many").provenance;
    assert_eq!(provenance.model, "tiny");
    assert_eq!(provenance.served_model.as_deref(), Some("tiny"));
    assert_eq!(provenance.sampler.as_deref(), Some("endpoint"));
    assert_eq!(provenance.endpoint, Some(url));
    assert_eq!(
        (provenance.top_p, provenance.max_new_tokens),
        (Some(0.9), 24)
    );
    assert_eq!(provenance.model_sha256, None);
}

#[test]
fn every_fault_that_passes_is_survived() {
    let folder = Folder::new();
    let whole = Server::new(|_| Reply::Good);
    succeed(&mut folder.command(&whole.url(), "whole", ""));
    // Each request meets one of these first, by its seed; some meet two.
    let server = Server::new(|asked| match (asked.seed() % 8, asked.before) {
        (0, 0) => Reply::Drop,
        (1, 0 | 1) => failure(500, "out of luck"),
        (2, 0) => Reply::Status(429, "retry-after: 1\r\n", "slow down".into()),
        (3, 0) => Reply::After(Duration::from_millis(1500), Box::new(Reply::Good)),
        (4, 0) => Reply::Status(200, "", "{\"choices\": [".into()),
        (5, 0) => {
            let mut body = good("tiny", asked.seed());
            body.as_object_mut().unwrap().remove("usage");
            Reply::Status(200, "", body.to_string())
        }
        (6, 0) => Reply::Status(503, "", String::new()),
        (7, 0) => Reply::Status(200, "", "{\"error\": {\"message\": \"overloaded\"}}".into()),
        _ => Reply::Good,
    });
    let flags = "--timeout 1 --retries 3 --concurrency 8";
    let built = succeed_json(&mut folder.command(&server.url(), "faults", flags));
    assert_eq!(built["samples"], TOTAL);
    assert_eq!(folder.rows("faults"), folder.rows("whole"));
    let asked = server.asked();
    let met: std::collections::BTreeSet<u64> = asked
        .iter()
        .filter(|a| a.before > 0)
        .map(|a| a.seed() % 8)
        .collect();
    assert_eq!(met.len(), 8, "every fault happened: {met:?}");
    for again in asked.iter().filter(|a| a.before == 1) {
        let first = asked
            .iter()
            .find(|a| a.before == 0 && a.body == again.body)
            .unwrap();
        let waited = again.at.duration_since(first.at);
        let least = if again.seed() % 8 == 2 { 1000 } else { 240 };
        assert!(waited >= Duration::from_millis(least), "{waited:?}");
    }
}

#[test]
fn as_many_requests_as_asked_for_are_in_flight_and_no_more() {
    let folder = Folder::new();
    let gate = Arc::new((Mutex::new(0), Condvar::new()));
    let server = Server::new(move |_| {
        // Nobody is answered before nine are here.
        let (count, all) = &*gate;
        let mut here = count.lock().unwrap();
        *here += 1;
        all.notify_all();
        let long = Duration::from_secs(20);
        let (_here, timeout) = all.wait_timeout_while(here, long, |h| *h < 9).unwrap();
        match timeout.timed_out() {
            true => failure(400, "never nine at once"),
            false => Reply::After(Duration::from_millis(30), Box::new(Reply::Good)),
        }
    });
    succeed(&mut folder.command(&server.url(), "out", "--concurrency 9"));
    assert_eq!(server.most_at_once(), 9);
}

#[test]
fn what_will_not_pass_stops_the_build_with_the_servers_words() {
    let folder = Folder::new();
    for (status, message, named) in [
        (400, "prompt has no soul", "prompt has no soul"),
        (401, "bad key", "--api-key-env"),
        (403, "not you", "not you"),
        (404, "no model tiny", "check --endpoint and --model"),
        (422, "seed is odd", "seed is odd"),
    ] {
        // The third request and all after it.
        let count = AtomicUsize::new(0);
        let server = Server::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0..2 => Reply::Good,
            _ => failure(
                status,
                &format!("{message}\n\u{1b}[31m{}", "long ".repeat(1000)),
            ),
        });
        let out = format!("out{status}");
        let mut command = folder.command(&server.url(), &out, "--concurrency 1");
        let line = refusal(&command.output().unwrap(), 1);
        for part in [named, &status.to_string(), "`i0`", "2 of 30 samples kept"] {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        assert!(line.contains("the same command continues"), "{line}");
        assert!(line.len() < 1000 && !line.contains('\u{1b}'), "{line}");
        assert_eq!(server.asked().len(), 3, "nothing was tried again or begun");
        // Once the server is well, the same command (here at another port) continues.
        let well = Server::new(|_| Reply::Good);
        let resumed = succeed_json(&mut folder.command(&well.url(), &out, ""));
        assert_eq!(resumed["resumed"], 2);
        assert_eq!(folder.dataset(&out).provenance.endpoint, Some(well.url()));
    }
}

#[test]
fn what_is_in_flight_when_one_fails_is_kept() {
    let folder = Folder::new();
    let count = AtomicUsize::new(0);
    let server = Server::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        // Late enough that all six are on their way.
        3 => Reply::After(
            Duration::from_millis(300),
            Box::new(failure(400, "not this one")),
        ),
        _ => Reply::After(Duration::from_millis(700), Box::new(Reply::Good)),
    });
    let mut command = folder.command(&server.url(), "out", "--concurrency 6");
    let line = refusal(&command.output().unwrap(), 1);
    assert!(line.contains("5 of 30 samples kept"), "{line}");
    assert_eq!((server.asked().len(), folder.lines("out")), (6, 5));
}

#[test]
fn answers_that_are_none_are_tried_a_little_and_named() {
    let folder = Folder::new();
    type Spoil = fn(&mut Value);
    let spoils: [(Spoil, &str); 4] = [
        (|v| v["usage"] = Value::Null, "`usage.completion_tokens`"),
        (|v| v["choices"] = json!([]), "`choices[0]`"),
        (
            |v| v["choices"][0]["finish_reason"] = Value::Null,
            "`choices[0].finish_reason`",
        ),
        (|v| *v = json!("<html>"), "`choices[0]`"),
    ];
    for (spoil, named) in spoils {
        let server = Server::new(move |asked| {
            let mut body = good("tiny", asked.seed());
            spoil(&mut body);
            Reply::Status(200, "", body.to_string())
        });
        let mut command = folder.command(&server.url(), "bad", "--concurrency 1");
        let line = refusal(&command.output().unwrap(), 1);
        assert!(line.contains(named) && line.contains("3 tries"), "{line}");
        assert!(line.contains("use a server"), "{line}");
        assert_eq!(server.asked().len(), 3);
    }
    let server = Server::new(|asked| {
        let mut body = good("tiny", asked.seed());
        body["choices"][0]["finish_reason"] = json!("content_filter");
        Reply::Status(200, "", body.to_string())
    });
    let mut command = folder.command(&server.url(), "bad", "--concurrency 1");
    let line = refusal(&command.output().unwrap(), 1);
    assert!(
        line.contains("content_filter") && line.contains("`i0`"),
        "{line}"
    );
    assert_eq!(server.asked().len(), 1);
    assert_eq!(folder.lines("bad"), 0);
}

#[test]
fn tries_end() {
    let folder = Folder::new();
    let server = Server::new(|_| failure(500, "always"));
    let flags = "--concurrency 1 --retries 2";
    let mut command = folder.command(&server.url(), "out", flags);
    let line = refusal(&command.output().unwrap(), 1);
    assert!(
        line.contains("always") && line.contains("3 tries"),
        "{line}"
    );
    assert_eq!(server.asked().len(), 3);
    // A wait beyond patience is not begun.
    let server = Server::new(|_| Reply::Status(429, "retry-after: 86400\r\n", String::new()));
    let mut command = folder.command(&server.url(), "out", flags);
    let line = refusal(&command.output().unwrap(), 1);
    assert!(
        line.contains("429") && line.contains("asks to wait"),
        "{line}"
    );
    // Nobody there at all.
    let url = server.url();
    drop(server);
    std::thread::sleep(Duration::from_millis(100));
    let line = refusal(
        &folder.command(&url, "out", "--retries 1").output().unwrap(),
        1,
    );
    assert!(line.contains(&url) && line.contains("2 tries"), "{line}");
}

#[cfg(unix)]
#[test]
fn killed_or_stopped_it_goes_on_where_it_was() {
    let folder = Folder::new();
    let server = Server::new(|_| Reply::After(Duration::from_millis(40), Box::new(Reply::Good)));
    let url = server.url();
    succeed(&mut folder.command(&url, "whole", ""));
    let start = |lines: usize| {
        let mut command = folder.command(&url, "out", "--concurrency 3");
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        while folder.lines("out") <= lines {
            assert!(child.try_wait().unwrap().is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    };
    for lines in [0, 6, 11] {
        let mut child = start(lines);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // What the last one had sent may still be on its way.
    let mut asked = 0;
    while asked < server.asked().len() {
        asked = server.asked().len();
        std::thread::sleep(Duration::from_millis(300));
    }
    // Ctrl-C: what is in flight is waited for and kept.
    let kept = folder.lines("out");
    let child = start(kept + 3);
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the same command continues"), "{said}");
    assert_eq!(server.asked().len() - asked, folder.lines("out") - kept);
    let kept = folder.lines("out");
    let resumed = succeed_json(&mut folder.command(&url, "out", ""));
    assert_eq!(resumed["resumed"], kept);
    assert_eq!(folder.rows("out"), folder.rows("whole"));
}
