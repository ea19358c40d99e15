//! Servers that repeat the key, name models oddly or do not prove who they are.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::raw_server::{RawServer, forever, whole};
use super::{Folder, TOTAL, failure};
use crate::chat_server::{Reply, Server, good};
use crate::{files_under, refusal, succeed, text};

const KEY: &str = "sk-hunter2-hunter2";

/// All that is written below a folder.
fn written(dir: &Path) -> String {
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    files_under(dir)
        .into_iter()
        .map(|(path, _)| read(path))
        .collect()
}

/// Loud, with the key.
fn loud(folder: &Folder, url: &str, out: &str, flags: &str) -> Command {
    let quiet = folder.command(url, out, flags);
    let mut command = Command::new(env!("CARGO_BIN_EXE_lenaware"));
    command.current_dir(folder.dir.path()).env("MY_KEY", KEY);
    command.args(quiet.get_args().filter(|a| *a != "-q"));
    command.args(["-v", "--api-key-env", "MY_KEY"]);
    command
}

#[test]
fn a_key_that_is_said_back_is_kept_nowhere() {
    let folder = Folder::new();
    let echo = |asked: &crate::chat_server::Asked| {
        let mut body = good(&format!("tiny {KEY}"), asked.seed());
        body["choices"][0]["message"]["content"] = json!(format!("you said {KEY}, {KEY}!\u{0}"));
        body["id"] = json!(KEY);
        Reply::Status(200, "x-key: sk-hunter2-hunter2\r\n", body.to_string())
    };
    let server = Server::new(echo);
    let output = loud(&folder, &server.url(), "out", "").output().unwrap();
    let mut said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("repeats the API key"), "{said}");
    let rows = folder.rows("out");
    assert_eq!(rows.len(), TOTAL);
    let answer = "you said [key], [key]!\u{0}";
    assert!(
        rows.iter()
            .all(|row| row.response.as_deref() == Some(answer))
    );
    let served = folder.dataset("out").provenance.served_model;
    assert_eq!(served.as_deref(), Some("tiny [key]"));
    // A build that fails midway, in every place that a server has.
    for (name, reply) in [
        ("name", None),
        ("words", Some(failure(400, KEY))),
        (
            "page",
            Some(Reply::Status(400, "", format!("<p>{KEY}</p>"))),
        ),
        (
            "odd",
            Some(Reply::Status(418, "", json!({"detail": KEY}).to_string())),
        ),
    ] {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let reply = std::sync::Mutex::new(reply);
        let server = Server::new(move |asked| {
            match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0..4 => echo(asked),
                _ => reply.lock().unwrap().take().unwrap_or_else(|| {
                    let body = good(&format!("{KEY} other"), asked.seed());
                    Reply::Status(200, "", body.to_string())
                }),
            }
        });
        let mut command = loud(&folder, &server.url(), name, "--concurrency 1");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(folder.lines(name), 4, "{name}");
        assert!(text(&output.stderr).contains("[key]"), "{name}");
        said += &(text(&output.stdout) + &text(&output.stderr));
    }
    assert!(!said.contains("hunter2"), "{said}");
    assert!(!written(folder.dir.path()).contains("hunter2"));
    // What is no secret is a word like another.
    let short = Server::new(|asked| {
        let mut body = good("tiny", asked.seed());
        body["choices"][0]["message"]["content"] = json!("an EMPTY room");
        Reply::Status(200, "", body.to_string())
    });
    let mut command = folder.command(&short.url(), "short", "");
    succeed(command.env("OPENAI_API_KEY", "EMPTY"));
    assert_eq!(
        folder.rows("short")[0].response.as_deref(),
        Some("an EMPTY room")
    );
}

#[test]
fn lists_of_models_are_taken_for_no_more_than_they_are() {
    let folder = Folder::new();
    let asked = |list: &'static str, model: &str| {
        let server = RawServer::with_list(Box::new(move |s, _| whole(s, list)), |_, _| None);
        let mut command = loud(&folder, &server.url(), "out", "--model tiny --timeout 2");
        let given: Vec<_> = command
            .get_args()
            .map(std::borrow::ToOwned::to_owned)
            .collect();
        let at = given.iter().position(|a| a == "--model").unwrap();
        command = Command::new(env!("CARGO_BIN_EXE_lenaware"));
        command
            .current_dir(folder.dir.path())
            .env("MY_KEY", KEY)
            .arg("-q");
        command.args(
            given
                .iter()
                .enumerate()
                .filter(|(i, a)| *i != at && *i != at + 1 && *a != "-v")
                .map(|(_, a)| a),
        );
        if !model.is_empty() {
            command.args(["--model", model]);
        }
        command.output().unwrap()
    };
    let odd =
        r#"{"data": [{"id": "a\u001b[2J\u0000"}, {"id": "sk-hunter2-hunter2"}, {"id": 3}, {}]}"#;
    for (list, model, code, named) in [
        (odd, "", 2, "`a [2J`, `[key]`"),
        (odd, "big", 1, "`a [2J`, `[key]`"),
        (
            r#"{"data": [{"id": "a\u001b[2J"}]}"#,
            "",
            1,
            "control characters",
        ),
        (
            r#"{"data": [{"id": "sk-hunter2-hunter2"}]}"#,
            "",
            1,
            "control characters",
        ),
        (r#"{"data": [[[[[[]]]]]]}"#, "", 2, "--model"),
        (r#"{"data": 1e999}"#, "", 2, "--model"),
        ("{", "", 2, "--model"),
    ] {
        let line = refusal(&asked(list, model), code);
        assert!(line.contains(named), "{list}: {line}");
        assert!(
            !line.contains("hunter2") && !line.contains(char::is_control),
            "{line:?}"
        );
    }
    // Millions of names, and of headers: as a server without a list.
    for begin in [
        "HTTP/1.1 200 OK\r\n\r\n{\"data\": [{\"id\": \"x\"}",
        "HTTP/1.1 200 OK\r\nx: y",
    ] {
        let part = match begin.contains("data") {
            true => ",{\"id\": \"x\"}",
            false => "\r\nx: y",
        };
        let list = move |s: &mut std::net::TcpStream, _: &str| {
            forever(s, begin.as_bytes(), part.as_bytes(), Duration::ZERO)
        };
        let server = RawServer::with_list(Box::new(list), |_, _| None);
        let mut command = folder.command(&server.url(), "none", "--retries 0 --timeout 5");
        let output = command.output().unwrap();
        match output.status.code() {
            Some(0) => assert_eq!(folder.rows("none").len(), TOTAL),
            _ => assert!(refusal(&output, 1).contains("cannot be reached")),
        }
    }
}

#[test]
fn a_key_without_encryption_is_told_of_and_proxies_are_the_users_word() {
    let folder = Folder::new();
    // Reserved for documentation: nobody is there, and a proxy in between is.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let through = format!("http://{}", proxy.local_addr().unwrap());
    let seen = std::thread::spawn(move || {
        let (stream, _) = proxy.accept().unwrap();
        let mut first = String::new();
        BufReader::new(&stream).read_line(&mut first).unwrap();
        first
    });
    let flags = "--retries 0 --timeout 5";
    let mut command = loud(&folder, "http://model.example:8000", "out", flags);
    command
        .env("ALL_PROXY", &through)
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sent unencrypted"), "{said}");
    let first = seen.join().unwrap();
    assert!(first.contains("model.example:8000"), "{first}");
    // Not for hosts that NO_PROXY names; and nothing is said of this machine's own.
    let server = Server::new(|_| Reply::Good);
    let mut command = loud(&folder, &server.url(), "own", "");
    command
        .env("ALL_PROXY", "http://127.0.0.1:9")
        .env("NO_PROXY", "127.0.0.1");
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(
        output.status.success() && !said.contains("unencrypted"),
        "{said}"
    );
}

/// A server whose certificate it signed itself, by Python's ssl: prints its port, then every
/// byte that a client sends it once a connection stands.
const SELF_SIGNED: &str = "
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    plain, _ = listener.accept()
    print('connected', flush=True)
    try:
        stream = context.wrap_socket(plain, server_side=True)
        print('received', stream.recv(1000), flush=True)
    except OSError as e:
        print('refused', e, flush=True)
";

#[test]
fn a_server_that_does_not_prove_who_it_is_gets_nothing() {
    let folder = Folder::new();
    let dir = folder.dir.path();
    let made = Command::new("openssl")
        .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split(' '))
        .args("-addext subjectAltName=DNS:localhost,IP:127.0.0.1".split(' '))
        .args("-keyout key.pem -out cert.pem".split(' '))
        .current_dir(dir)
        .output();
    let python = Command::new("python3").args(["-c", "import ssl"]).output();
    if !made.is_ok_and(|o| o.status.success()) || !python.is_ok_and(|o| o.status.success()) {
        println!("skipped: there is no openssl or no python3 with ssl");
        return;
    }
    let mut server = Command::new("python3")
        .args(["-c", SELF_SIGNED])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(server.stdout.take().unwrap());
    let mut port = String::new();
    told.read_line(&mut port).unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}", port.trim());
        let mut command = folder.command(&url, "out", "--api-key-env MY_KEY");
        for proxy in ["HTTPS_PROXY", "https_proxy"] {
            command.env_remove(proxy);
        }
        let line = refusal(&command.env("MY_KEY", KEY).output().unwrap(), 1);
        for named in ["does not prove", "certificate", &url] {
            assert!(line.contains(named), "`{named}` is not in: {line}");
        }
        assert!(!line.contains("hunter2"), "{line}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert_eq!(
        rest.matches("connected").count(),
        2,
        "asked once each: {rest}"
    );
    assert!(!rest.contains("received"), "{rest}");
    assert!(!folder.path("out").exists());
}
