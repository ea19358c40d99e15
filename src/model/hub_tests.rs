use super::*;
use crate::model::WeightFiles;

#[test]
fn names_are_split_and_checked() {
    assert_eq!(parse("a/b").unwrap(), ("a/b", "main"));
    assert_eq!(parse("a/b.c@refs/pr/1").unwrap(), ("a/b.c", "refs/pr/1"));
    for bad in [
        "", "a", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a b/c", "a/b@x y",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_unreachable_hub_fails_at_once_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub {
        cache: Some(dir.path().into()),
        endpoint: Some("http://127.0.0.1:9/".into()),
        token: None,
        offline: false,
        progress: false,
    };
    let start = std::time::Instant::now();
    let message = hub.snapshot("org/name").unwrap_err().to_string();
    assert!(message.starts_with("org/name: "), "{message}");
    assert!(start.elapsed() < ANSWER);
}

#[test]
fn a_complete_snapshot_in_the_cache_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub {
        cache: Some(dir.path().into()),
        endpoint: None,
        token: None,
        offline: true,
        progress: false,
    };
    let snapshot = dir.path().join("models--org--name/snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join("config.json"), "{}").unwrap();
    std::fs::create_dir_all(dir.path().join("models--org--name/refs")).unwrap();
    std::fs::write(dir.path().join("models--org--name/refs/main"), "abc").unwrap();
    let message = hub.snapshot("org/name").unwrap_err().to_string();
    assert!(message.contains("offline"), "{message}");
    std::fs::write(snapshot.join("model.safetensors"), "").unwrap();
    assert_eq!(hub.snapshot("org/name").unwrap(), snapshot);
    assert_eq!(hub.snapshot("org/name@abc").unwrap(), snapshot);
}

/// Answers as the hub does, for a repository of one commit, until the test ends.
fn mock(files: &'static [(&'static str, &'static str)]) -> String {
    mock_of("/api/models/org/name", "/org/name", files)
}

/// As [`mock`], for any kind of repository, by the paths of its listing and its files.
pub(super) fn mock_of(
    listing: &'static str,
    content: &'static str,
    files: &'static [(&'static str, &'static str)],
) -> String {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream)
                .lines()
                .map_while(std::result::Result::ok);
            let request = lines.next().unwrap_or_default();
            let path = request.split(' ').nth(1).unwrap_or("").to_string();
            let first_byte_only = lines
                .take_while(|l| !l.is_empty())
                .any(|l| l.to_lowercase().replace(' ', "") == "range:bytes=0-0");
            let answer = if path == format!("{listing}/revision/main") {
                let names: Vec<_> = files
                    .iter()
                    .map(|(n, _)| serde_json::json!({"rfilename": n}))
                    .collect();
                let body = serde_json::json!({"sha": "c0ffee", "siblings": names}).to_string();
                let length = body.len();
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                )
            } else {
                let resolve = format!("{content}/resolve/c0ffee/");
                let name = path.strip_prefix(&resolve).unwrap_or("");
                match files.iter().find(|(n, _)| *n == name) {
                    None => {
                        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                            .into()
                    }
                    Some((name, body)) => {
                        let whole = body.len();
                        let sent = if first_byte_only { &body[..1] } else { body };
                        let etag = name.replace('/', "-");
                        format!(
                            "HTTP/1.1 206 Partial Content\r\nx-repo-commit: c0ffee\r\n\
                             etag: \"{etag}\"\r\nContent-Range: bytes 0-{}/{whole}\r\n\
                             Content-Length: {}\r\nConnection: close\r\n\r\n{sent}",
                            sent.len() - 1,
                            sent.len()
                        )
                    }
                }
            };
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    endpoint
}

pub(super) fn hub(cache: &std::path::Path, endpoint: String) -> Hub {
    Hub {
        cache: Some(cache.into()),
        endpoint: Some(endpoint),
        token: None,
        offline: false,
        progress: false,
    }
}

#[test]
fn a_sharded_repository_is_downloaded_whole_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = mock(&[
        ("config.json", "{}"),
        ("README.md", "not wanted"),
        ("pytorch_model.bin", "not wanted beside safetensors"),
        ("tokenizer.json", "{ }"),
        (
            "model.safetensors.index.json",
            r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#,
        ),
        ("1.safetensors", "one"),
        ("2.safetensors", "two"),
    ]);
    let mut hub = hub(dir.path(), endpoint);
    let snapshot = hub.snapshot("org/name").unwrap();
    let weights = directory_weights(&snapshot).unwrap();
    assert!(matches!(weights, WeightFiles::Safetensors(files) if files.len() == 2));
    assert!(!snapshot.join("pytorch_model.bin").exists());
    let text = std::fs::read_to_string(snapshot.join("2.safetensors")).unwrap();
    assert_eq!(text, "two");
    assert!(snapshot.join("tokenizer.json").is_file());
    assert!(!snapshot.join("README.md").exists());
    hub.offline = true;
    for name in ["org/name", "org/name@main", "org/name@c0ffee"] {
        assert_eq!(hub.snapshot(name).unwrap(), snapshot);
    }
}

#[test]
fn a_broken_repository_leaves_nothing_that_looks_whole() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = mock(&[
        ("config.json", "{}"),
        (
            "model.safetensors.index.json",
            r#"{"weight_map": {"a": "1.safetensors"}}"#,
        ),
    ]);
    let mut hub = hub(dir.path(), endpoint);
    let message = hub.snapshot("org/name").unwrap_err().to_string();
    assert!(message.contains("1.safetensors: "), "{message}");
    hub.offline = true;
    assert!(hub.snapshot("org/name").is_err());

    let other = tempfile::tempdir().unwrap();
    let endpoint = mock(&[("config.json", "{}"), ("flax_model.msgpack", "x")]);
    let message = self::hub(other.path(), endpoint)
        .snapshot("org/name")
        .unwrap_err()
        .to_string();
    assert!(message.contains("neither model.safetensors"), "{message}");
}

#[test]
fn without_safetensors_pytorch_files_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = mock(&[
        ("config.json", "{}"),
        ("tokenizer.model", "spm"),
        (
            "pytorch_model.bin.index.json",
            r#"{"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}"#,
        ),
        ("pytorch_model-1.bin", "one"),
        ("pytorch_model-2.bin", "two"),
    ]);
    let mut hub = hub(dir.path(), endpoint);
    let snapshot = hub.snapshot("org/name").unwrap();
    let weights = directory_weights(&snapshot).unwrap();
    assert!(matches!(weights, WeightFiles::Torch(files) if files.len() == 2));
    assert!(snapshot.join("tokenizer.model").is_file());
    hub.offline = true;
    assert_eq!(hub.snapshot("org/name").unwrap(), snapshot);
}
