//! Against a hub, and a store that it sends to, with the faults of bad networks and bad hosts.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::super::tests::hub;
use super::*;
use crate::digest::sha256_bytes;

/// A request as it came: its path, its `Range` and its `Authorization`.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    range: Option<String>,
    authorization: Option<String>,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// Answers every request with the bytes that `reply` makes of it; its address, and what came.
fn serve(reply: impl Fn(&Asked) -> Vec<u8> + Send + 'static) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::default();
    let noted = log.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream)
                .lines()
                .map_while(std::result::Result::ok);
            let first = lines.next().unwrap_or_default();
            let headers: Vec<String> = lines.take_while(|l| !l.is_empty()).collect();
            let header = |name: &str| {
                let of = |line: &String| {
                    let (key, value) = line.split_once(": ")?;
                    (key.to_lowercase() == name).then(|| value.to_string())
                };
                headers.iter().find_map(of)
            };
            let asked = Asked {
                path: first.split(' ').nth(1).unwrap_or_default().to_string(),
                range: header("range"),
                authorization: header("authorization"),
            };
            noted.lock().unwrap().push(asked.clone());
            let _ = (&stream).write_all(&reply(&asked));
        }
    });
    (url, log)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

const COMMIT: &str = "c0ffee";
const TOKEN: &str = "hf_hunter2";

fn whole(body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", body.len());
    answer("200 OK", &length, body)
}

/// A hub of one model, whose weights are at `store` and are said to be `told`.
fn hub_of(store: String, told: &[u8], more: &'static str) -> (String, Log) {
    let (etag, size) = (sha256_bytes(told), told.len());
    serve(move |asked| match asked.path.as_str() {
        "/api/models/org/name/revision/main" => whole(
            br#"{"sha": "c0ffee", "siblings": [{"rfilename": "config.json"},
                {"rfilename": "model.safetensors"}]}"#,
        ),
        "/org/name/resolve/c0ffee/config.json" => {
            // Git's name of `{}`.
            let etag = "etag: W/\"9e26dfeeb6e641a33dae4961196235bdb965b21b\"\r\n";
            answer("200 OK", &format!("{etag}content-length: 2\r\n"), b"{}")
        }
        "/org/name/resolve/c0ffee/model.safetensors" => answer(
            "302 Found",
            &format!(
                "x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {size}\r\n\
                 location: {store}/weights\r\ncontent-length: 0\r\n{more}"
            ),
            b"",
        ),
        _ => answer("404 Not Found", "content-length: 0\r\n", b""),
    })
}

fn weights() -> Vec<u8> {
    (0..100_000u32).flat_map(u32::to_le_bytes).collect()
}

/// What of the file is asked for.
fn from(asked: &Asked) -> usize {
    let range = asked.range.as_deref().unwrap_or("bytes=0-");
    range[6..].trim_end_matches('-').parse().unwrap()
}

fn part_of(body: &[u8], begin: usize) -> Vec<u8> {
    let (last, whole) = (body.len() - 1, body.len());
    let rest = whole - begin;
    let headers = format!(
        "content-range: bytes {begin}-{last}/{whole}\r\ncontent-length: {rest}\r\netag: \"x\"\r\n"
    );
    answer("206 Partial Content", &headers, &body[begin..])
}

#[test]
fn a_broken_download_goes_on_and_the_store_gets_no_token() {
    let (store, seen) = serve(|asked| {
        let mut all = part_of(&weights(), from(asked));
        // Each time a third of the file, then nothing.
        all.truncate(150_000);
        all
    });
    let (endpoint, asked) = hub_of(store, &weights(), "");
    let dir = tempfile::tempdir().unwrap();
    let mut hub = hub(dir.path(), endpoint);
    hub.token = Some(TOKEN.into());
    let snapshot = hub.snapshot("org/name").unwrap();
    assert!(std::fs::read(snapshot.join("model.safetensors")).unwrap() == weights());
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.iter().all(|asked| asked.authorization.is_none()));
    let asked = asked.lock().unwrap();
    let key = Some(format!("Bearer {TOKEN}"));
    assert!(asked.iter().all(|asked| asked.authorization == key));
    // Nothing is left beside the two contents.
    let names = |end: &str| {
        let folder = dir.path().join("models--org--name/blobs");
        let names = std::fs::read_dir(folder).unwrap().flatten();
        names
            .filter(|e| e.file_name().to_string_lossy().ends_with(end))
            .count()
    };
    assert_eq!((names(".part"), names("b21b")), (0, 1));
    let name = sha256_bytes(&weights());
    assert_eq!(names(&name), 1);
}

#[test]
fn what_an_earlier_try_left_is_gone_on_from_only_if_it_fits() {
    for (left, ranges) in [
        (1000, true),
        (1000, false),
        (400_000, true),
        (500_000, true),
    ] {
        let (store, _) = serve(move |asked| match from(asked) {
            0 => whole(&weights()),
            _ if !ranges => whole(&weights()),
            begin if begin >= weights().len() => answer("416 X", "content-length: 0\r\n", b""),
            begin => part_of(&weights(), begin),
        });
        let (endpoint, _) = hub_of(store, &weights(), "");
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("models--org--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let part = blobs.join(format!("{}.part", sha256_bytes(&weights())));
        let mut bytes = weights();
        bytes.resize(left, 7);
        std::fs::write(&part, bytes).unwrap();
        let snapshot = hub(dir.path(), endpoint).snapshot("org/name").unwrap();
        let got = std::fs::read(snapshot.join("model.safetensors")).unwrap();
        assert!(got == weights(), "{left} {ranges}: {}", got.len());
    }
}

#[test]
fn what_is_not_what_the_hub_says_is_dropped() {
    let mut other = weights();
    other[77] ^= 1;
    let long = [weights(), vec![0; 10]].concat();
    type Store = Box<dyn Fn(&Asked) -> Vec<u8> + Send>;
    let stores: [(Store, &str); 6] = [
        (Box::new(move |_| whole(&other)), "hash differs"),
        (Box::new(move |_| whole(&long)), "more came"),
        // Without a length: the end of the connection is not the end of the file.
        (
            Box::new(|_| answer("200 OK", "", &weights()[..5000])),
            "broke off at 5000 of 400000",
        ),
        (
            Box::new(|asked| part_of(&weights(), from(asked) + 4)),
            "another part",
        ),
        (
            Box::new(|_| answer("500 X", "content-length: 0\r\n", b"")),
            "500",
        ),
        (Box::new(|_| Vec::new()), "model.safetensors"),
    ];
    for (store, named) in stores {
        let (store, _) = serve(store);
        let (endpoint, _) = hub_of(store, &weights(), "");
        let dir = tempfile::tempdir().unwrap();
        let mut hub = hub(dir.path(), endpoint);
        let message = hub.snapshot("org/name").unwrap_err().to_string();
        assert!(message.contains(named), "`{named}` is not in: {message}");
        assert!(!message.contains('\n'), "{message}");
        hub.offline = true;
        assert!(hub.snapshot("org/name").is_err(), "{named}");
    }
}

#[test]
fn hubs_that_lead_out_of_their_cache_or_in_circles_are_refused() {
    for (headers, named) in [
        ("etag: \"../../../evil\"\r\n", "what the file is"),
        ("etag: \"..\"\r\n", "what the file is"),
        ("", "what the file is"),
        ("etag: \"a\"\r\nx-repo-commit: other\r\n", "another commit"),
        (
            "location: /org/name/resolve/c0ffee/config.json\r\n",
            "5 times",
        ),
        ("etag: \"a\"\r\nnever-", "neither the size"),
        ("location: file:///etc/passwd\r\n", "no URL"),
        ("location: http://127.0.0.1:1@example.com/\r\n", "no URL"),
        ("location: //example.com/x\r\n", "no URL"),
        ("x: y\r\nlocation:\r\n", "no URL"),
    ] {
        let status = match headers.contains("location") {
            true => "302 X",
            false => "200 OK",
        };
        let (endpoint, seen) = serve(move |asked| match asked.path.starts_with("/api") {
            true => whole(
                br#"{"sha": "c0ffee", "siblings": [{"rfilename": "config.json"},
                              {"rfilename": "model.safetensors"}]}"#,
            ),
            false => answer(status, &format!("{headers}content-length: 2\r\n"), b"{}"),
        });
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("a/b/c");
        let message = hub(&cache, endpoint).snapshot("org/name").unwrap_err();
        let message = message.to_string();
        assert!(message.contains(named), "`{named}` is not in: {message}");
        assert!(seen.lock().unwrap().len() < 30);
        assert!(!dir.path().join("evil").exists() && !dir.path().join("a/evil").exists());
    }
    // A commit is a folder's name.
    let (endpoint, _) =
        serve(|_| whole(br#"{"sha": "../../x", "siblings": [{"rfilename": "config.json"}]}"#));
    let dir = tempfile::tempdir().unwrap();
    let message = hub(dir.path(), endpoint).snapshot("org/name").unwrap_err();
    assert!(message.to_string().contains("makes no sense"), "{message}");
}

#[test]
fn only_the_hubs_own_address_is_the_hub() {
    assert_eq!(origin("https://h:1/a?b"), Some("https://h:1"));
    for other in ["ftp://h", "https:///x", "https://h@evil/x", "h/x"] {
        assert_eq!(origin(other), None, "{other}");
    }
    let at = "https://h/a";
    assert_eq!(absolute(at, "/b?c=d").as_deref(), Some("https://h/b?c=d"));
    assert_eq!(absolute(at, "http://i/b").as_deref(), Some("http://i/b"));
    for other in ["b", "//i/b", "", "http://a b/"] {
        assert_eq!(absolute(at, other), None, "{other}");
    }
}
