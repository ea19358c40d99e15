//! A server that writes to the socket itself, so that it can break HTTP, too: answers as
//! [`crate::chat_server`] does, except where a test says which fault a request meets.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::chat_server::good;

/// Writes an answer in place of the good one, whose body it is given.
pub type Wire = Box<dyn Fn(&mut TcpStream, &str) -> Result<()> + Send + Sync>;

/// Of a chat request: how many other ones came before it, and whether it was asked before.
type Choose = dyn Fn(usize, bool) -> Option<Arc<Wire>> + Send + Sync;

pub struct RawServer {
    pub port: u16,
    asked: Arc<AtomicUsize>,
}

struct Shared {
    choose: Box<Choose>,
    list: Wire,
    seen: Mutex<HashSet<String>>,
    asked: Arc<AtomicUsize>,
}

impl RawServer {
    pub fn new(
        choose: impl Fn(usize, bool) -> Option<Arc<Wire>> + Send + Sync + 'static,
    ) -> RawServer {
        let list = r#"{"data": [{"id": "tiny"}]}"#;
        RawServer::with_list(Box::new(|stream, _| whole(stream, list)), choose)
    }

    /// `list` answers `GET /v1/models`.
    pub fn with_list(
        list: Wire,
        choose: impl Fn(usize, bool) -> Option<Arc<Wire>> + Send + Sync + 'static,
    ) -> RawServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let shared = Arc::new(Shared {
            choose: Box::new(choose),
            list,
            seen: Mutex::default(),
            asked: asked.clone(),
        });
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        RawServer { port, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Chat requests so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Requests of one connection, until one meets a fault or the client has enough.
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                match header.trim_end().to_lowercase().split_once(": ") {
                    Some(("content-length", value)) => length = value.parse().unwrap(),
                    Some(_) => {}
                    None => break,
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            if first.starts_with("GET") {
                (self.list)(&mut stream, "")?;
                continue;
            }
            let body: Value = serde_json::from_slice(&body).unwrap();
            self.asked.fetch_add(1, Ordering::SeqCst);
            let (before, again) = {
                let mut seen = self.seen.lock().unwrap();
                let before = seen.len();
                (before, !seen.insert(body.to_string()))
            };
            let answer = good("tiny", body["seed"].as_u64().unwrap()).to_string();
            match (self.choose)(before, again) {
                None => whole(&mut stream, &answer)?,
                Some(wire) => {
                    wire(&mut stream, &answer)?;
                    return Ok(());
                }
            }
        }
    }
}

/// A good answer on a connection that stays.
pub fn whole(stream: &mut TcpStream, body: &str) -> Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let text = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes())
}

/// Writes for as long as the other side takes it.
pub fn forever(stream: &mut TcpStream, begin: &[u8], part: &[u8], pause: Duration) -> Result<()> {
    stream.write_all(begin)?;
    let many = match pause.is_zero() {
        true => part.repeat((1 << 16) / part.len().max(1) + 1),
        false => part.to_vec(),
    };
    loop {
        stream.write_all(&many)?;
        std::thread::sleep(pause);
    }
}

/// Waits until the other side has gone.
pub fn wait(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    stream.read(&mut [0]).map(|_| ())
}

/// Ends the connection so that the other side finds it reset, not ended.
pub fn reset(stream: &mut TcpStream) -> Result<()> {
    use std::os::fd::AsRawFd;
    unsafe extern "C" {
        fn setsockopt(fd: i32, level: i32, name: i32, value: *const i32, length: u32) -> i32;
    }
    const SOL_SOCKET: i32 = 1;
    const SO_LINGER: i32 = 13;
    let on_without_waiting = [1, 0];
    // SAFETY: the descriptor is open, and the value is a `struct linger` of two ints.
    let set = unsafe {
        let value = on_without_waiting.as_ptr();
        setsockopt(stream.as_raw_fd(), SOL_SOCKET, SO_LINGER, value, 8)
    };
    match set {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
