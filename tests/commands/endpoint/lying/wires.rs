//! What servers do wrong, and what is to become of a request that meets it.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::super::raw_server::{Wire, forever, reset, wait, whole};

/// What becomes of a request that meets it.
#[derive(Clone, Copy, PartialEq)]
pub enum Ends {
    /// It is a good answer all the same.
    Well,
    /// The next try may be better.
    Passing(&'static str),
    Final(&'static str),
}
use Ends::{Final, Passing, Well};

pub struct Fault {
    pub name: &'static str,
    pub ends: Ends,
    pub wire: Arc<Wire>,
}

/// All faults, made once.
pub fn faults() -> &'static [Fault] {
    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
    FAULTS.get_or_init(|| {
        let mut all = Vec::new();
        connections(&mut all);
        floods(&mut all);
        bodies(&mut all);
        all
    })
}

fn add(
    all: &mut Vec<Fault>,
    name: &'static str,
    ends: Ends,
    wire: impl Fn(&mut TcpStream, &str) -> std::io::Result<()> + Send + Sync + 'static,
) {
    let wire = Arc::new(Box::new(wire) as Wire);
    all.push(Fault { name, ends, wire });
}

const SECOND: Duration = Duration::from_secs(1);
const AT_ONCE: Duration = Duration::ZERO;
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

/// HTTP that is broken, slow or odd.
fn connections(all: &mut Vec<Fault>) {
    let reached = Passing("cannot be reached");
    let late = Passing("--timeout");
    let not_json = Passing("is not JSON");
    add(all, "reset", reached, |s, _| reset(s));
    add(all, "reset in the body", reached, |s, good| {
        let length = good.len();
        write!(s, "{HEAD}content-length: {length}\r\n\r\n{}", &good[..40])?;
        std::thread::sleep(Duration::from_millis(50));
        reset(s)
    });
    add(all, "half a header", reached, |s, _| {
        s.write_all(&HEAD.as_bytes()[..30])
    });
    add(all, "silence", late, |s, _| wait(s));
    add(all, "half closed, then silence", late, |s, _| {
        s.write_all(&HEAD.as_bytes()[..30])?;
        wait(s)
    });
    add(all, "shorter than it says", reached, |s, good| {
        let length = good.len() + 1000;
        write!(s, "{HEAD}content-length: {length}\r\n\r\n{good}")
    });
    add(
        all,
        "shorter than it says, then silence",
        late,
        |s, good| {
            let length = good.len() + 1;
            write!(s, "{HEAD}content-length: {length}\r\n\r\n{good}")?;
            wait(s)
        },
    );
    add(all, "a cut body of no length", not_json, |s, good| {
        let half = &good[..good.len() / 2];
        write!(s, "{HEAD}connection: close\r\n\r\n{half}")
    });
    let chunked = "transfer-encoding: chunked\r\n";
    add(all, "a cut chunk", reached, move |s, good| {
        write!(s, "{HEAD}{chunked}\r\nffff\r\n{good}")
    });
    add(all, "no last chunk", reached, move |s, good| {
        let length = good.len();
        write!(s, "{HEAD}{chunked}\r\n{length:x}\r\n{good}\r\n")
    });
    add(all, "chunks of nonsense", reached, move |s, good| {
        write!(s, "{HEAD}{chunked}\r\nzz\r\n{good}\r\n0\r\n\r\n")
    });
    add(all, "a chunk of 2^70", reached, move |s, good| {
        write!(s, "{HEAD}{chunked}\r\n400000000000000000\r\n{good}")
    });
    add(all, "chunks without end", late, move |s, _| {
        let head = format!("{HEAD}{chunked}\r\n");
        forever(s, head.as_bytes(), b"1\r\n \r\n", Duration::from_millis(50))
    });
    add(all, "a byte a second", late, |s, _| {
        let head = format!("{HEAD}content-length: 100000\r\n\r\n{{");
        forever(s, head.as_bytes(), b" ", SECOND / 2)
    });
    add(all, "a header's byte a second", late, |s, _| {
        forever(s, HEAD.as_bytes(), b"x", SECOND / 2)
    });
    for line in ["garbage", "HTTP/9.9 200 OK", "HTTP/1.1 abc", "HTTP/1.1", ""] {
        add(all, "a status line of nonsense", reached, move |s, good| {
            write!(s, "{line}\r\ncontent-length: {}\r\n\r\n{good}", good.len())
        });
    }
    add(all, "encrypted", reached, |s, _| {
        s.write_all(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0, 13, 10, 13, 10])
    });
    add(all, "a negative length", reached, |s, good| {
        write!(s, "{HEAD}content-length: -5\r\n\r\n{good}")
    });
    add(all, "HTTP/1.0 without a length", Well, |s, good| {
        write!(s, "HTTP/1.0 200 OK\r\n\r\n{good}")
    });
    add(all, "early hints", Well, |s, good| {
        write!(s, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")?;
        whole(s, good)
    });
    add(all, "a connection that stays and goes", Well, whole);
    add(all, "cookies", Well, |s, good| {
        let cookies: String = (0..60)
            .map(|i| format!("set-cookie: {i}-{}={}\r\n", good.len(), "x".repeat(900)))
            .collect();
        let length = good.len();
        write!(s, "{HEAD}{cookies}content-length: {length}\r\n\r\n{good}")
    });
    for status in [301, 302, 303, 307, 308] {
        add(all, "a redirect", Final("as --endpoint"), move |s, _| {
            let to = "location: http://192.0.2.1/v1/chat/completions\r\n";
            write!(s, "HTTP/1.1 {status} X\r\n{to}content-length: 0\r\n\r\n")
        });
    }
    add(
        all,
        "a redirect to nowhere",
        Final("as --endpoint"),
        |s, _| write!(s, "HTTP/1.1 302 X\r\ncontent-length: 0\r\n\r\n"),
    );
    add(all, "no content", Final("204"), |s, _| {
        write!(s, "HTTP/1.1 204 No Content\r\n\r\n")
    });
}

/// Gigabytes, as fast as they are taken.
fn floods(all: &mut Vec<Fault>) {
    let longer = Passing("is longer than");
    let reached = Passing("cannot be reached");
    let flood = |head: String, part: Vec<u8>| {
        move |s: &mut TcpStream, _: &str| forever(s, head.as_bytes(), &part, AT_ONCE)
    };
    let spaces = || vec![b' '; 1 << 16];
    let name = "a body without end";
    add(all, name, longer, flood(format!("{HEAD}\r\n"), spaces()));
    let head = format!("{HEAD}content-length: 99999999999\r\n\r\n");
    add(all, "a body of 100 GB", longer, flood(head, spaces()));
    let head = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
    let chunk = [b"10000\r\n", &spaces()[..], b"\r\n"].concat();
    add(all, "fast chunks without end", longer, flood(head, chunk));
    let head = format!("{HEAD}\r\n{{\"choices\": [");
    add(
        all,
        "choices without end",
        longer,
        flood(head, b"0,".to_vec()),
    );
    let head = format!("{HEAD}\r\n{{\"error\": {{\"message\": \"");
    add(all, "an error without end", longer, flood(head, spaces()));
    let head = "HTTP/1.1 500 X\r\n\r\n".to_string();
    let part = b"no ".to_vec();
    add(
        all,
        "a failure without end",
        Passing("500"),
        flood(head, part),
    );
    let part = b"x: y\r\n".to_vec();
    add(
        all,
        "headers without end",
        reached,
        flood(HEAD.into(), part),
    );
    let head = format!("{HEAD}x: ");
    add(all, "a header without end", reached, flood(head, spaces()));
    let part = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    add(
        all,
        "go on without end",
        Passing(""),
        flood("".into(), part),
    );
    // Deflate: spaces, by references of 258 bytes to the one before; 13 bits each.
    let head = format!("{HEAD}content-encoding: gzip\r\n\r\n");
    add(all, "a bomb", longer, move |s, _| {
        let (begin, part) = bomb();
        let begin = [head.as_bytes(), &begin].concat();
        forever(s, &begin, &part, AT_ONCE)
    });
    add(all, "broken compression", reached, |s, good| {
        let length = good.len();
        let head = format!("{HEAD}content-encoding: gzip\r\ncontent-length: {length}\r\n\r\n");
        write!(s, "{head}{good}")
    });
}

/// The begin of a gzip stream of spaces, and 13 bytes that go on with 2,064 of them.
fn bomb() -> (Vec<u8>, Vec<u8>) {
    let mut bits: Vec<u8> = Vec::new();
    let mut put = |code: &str| bits.extend(code.bytes().map(|b| b - b'0'));
    // A block that is not the last, of fixed codes; then a space.
    put("010");
    put("01010000");
    // The longest length, the distance of one: until the begin is whole bytes, and eight more.
    for _ in 0..(1 + 8) {
        put("1100010100000");
    }
    let bytes = |bits: &[u8]| -> Vec<u8> {
        let byte = |bits: &[u8]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit);
        bits.chunks_exact(8).map(byte).collect()
    };
    let begin = 3 + 8 + 13;
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let part = bytes(&bits[begin..]);
    ([&header[..], &bytes(&bits[..begin])].concat(), part)
}

/// JSON that is none, or says what cannot be.
fn bodies(all: &mut Vec<Fault>) {
    fn json(
        all: &mut Vec<Fault>,
        name: &'static str,
        ends: Ends,
        spoil: impl Fn(&str) -> String + Send + Sync + 'static,
    ) {
        add(all, name, ends, move |s, good| whole(s, &spoil(good)));
    }
    let not_json = Passing("is not JSON");
    let count = Passing("usage.completion_tokens");
    fn counted(good: &str, count: &str) -> String {
        let (begin, rest) = good.split_once("\"completion_tokens\":").unwrap();
        let end = rest.find(',').unwrap();
        format!("{begin}\"completion_tokens\":{count}{}", &rest[end..])
    }
    fn said(good: &str, from: &str, to: &str) -> String {
        assert!(good.contains(from), "{from} is not in {good}");
        good.replacen(from, to, 1)
    }
    json(all, "nothing", not_json, |_| String::new());
    json(all, "a page", not_json, |_| "<html>".into());
    json(all, "a stream", not_json, |good| {
        format!("data: {good}\n\n")
    });
    json(all, "two answers", not_json, |good| good.repeat(2));
    let deep = || "[".repeat(100_000) + &"]".repeat(100_000);
    json(all, "depth in what is read", not_json, move |good| {
        said(good, "\"tiny\"", &deep())
    });
    json(all, "depth in what is not", Well, move |good| {
        said(good, "\"chatcmpl-1\"", &deep())
    });
    json(all, "a model twice", not_json, |good| {
        said(good, "{", "{\"model\":\"other\",")
    });
    json(all, "a count twice", not_json, |good| {
        said(
            good,
            "\"prompt_tokens\"",
            "\"completion_tokens\":3,\"prompt_tokens\"",
        )
    });
    json(all, "half a character", not_json, |good| {
        said(good, "answer", "answer \\ud800")
    });
    json(all, "control characters as they are", not_json, |good| {
        said(good, "answer", "answer \u{1b}[2J")
    });
    json(all, "a number beyond numbers", not_json, |good| {
        counted(good, "1e999")
    });
    for number in [
        "-1",
        "0",
        "1.5",
        "41",
        "4294967296",
        "1099511627776",
        "\"7\"",
    ] {
        json(all, "a count that is none", count, move |good| {
            counted(good, number)
        });
    }
    json(all, "a text longer than its count", count, |good| {
        let good = counted(good, "1");
        said(&good, "answer", &"answer".repeat(200))
    });
    json(
        all,
        "a prompt of 2^40",
        Passing("usage.prompt_tokens"),
        |good| {
            said(
                good,
                "\"prompt_tokens\":7",
                "\"prompt_tokens\":1099511627776",
            )
        },
    );
    let reason = Passing("finish_reason");
    for odd in ["null", "7", "[\"stop\"]", "{\"stop\":1}"] {
        json(all, "an odd reason", reason, move |good| {
            let from = ["\"stop\"", "\"length\""];
            let from = from.into_iter().find(|from| good.contains(from)).unwrap();
            said(good, from, odd)
        });
    }
    json(
        all,
        "choices by the thousand",
        Passing("several `choices`"),
        |good| {
            said(
                good,
                "\"choices\":[",
                &format!("\"choices\":[{}", "{},".repeat(200_000)),
            )
            .replace(
                "[{},",
                "[{\"finish_reason\":\"stop\",\"message\":{\"content\":\"\"}},",
            )
        },
    );
    json(all, "an error", Passing("overloaded"), |_| {
        "{\"error\": {\"message\": \"overloaded\"}}".into()
    });
    json(
        all,
        "another model",
        Final("answers as the model `other [2J`"),
        |good| said(good, "\"tiny\"", "\"other\\u001b[2J\""),
    );
    json(
        all,
        "an odd word",
        Final("leave this instruction out"),
        |good| {
            said(
                good,
                "\"finish_reason\":\"",
                "\"finish_reason\":\"x\\u001b\\u0000",
            )
        },
    );
}
