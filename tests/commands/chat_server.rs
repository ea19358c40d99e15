//! An OpenAI-compatible server for tests: real HTTP over a real socket, with the faults that a
//! test asks for. Answers follow from the seed in the request alone.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Instant,
    /// How often the same (seed, prompt, temperature) was asked before.
    pub before: usize,
    pub authorization: Option<String>,
    pub body: Value,
}

impl Asked {
    pub fn seed(&self) -> u64 {
        self.body["seed"].as_u64().unwrap()
    }
}

/// What the server does with a request.
pub enum Reply {
    /// The answer as it should be.
    Good,
    /// The connection ends without a byte.
    Drop,
    /// This status, with headers, and this body.
    Status(u16, &'static str, String),
    After(Duration, Box<Reply>),
}

type Behaviour = dyn Fn(&Asked) -> Reply + Send + Sync;

pub struct Server {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    behaviour: Box<Behaviour>,
    /// Names under `/v1/models`; none for a server without that.
    models: Option<Vec<&'static str>>,
    /// What answers call the model.
    answers_as: &'static str,
    asked: Mutex<Vec<Asked>>,
    times: Mutex<HashMap<String, usize>>,
    now: AtomicUsize,
    most: AtomicUsize,
    stop: AtomicBool,
}

impl Server {
    pub fn new(behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        Server::with_models(Some(vec!["tiny", "other"]), "tiny", behaviour)
    }

    pub fn with_models(
        models: Option<Vec<&'static str>>,
        answers_as: &'static str,
        behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            behaviour: Box::new(behaviour),
            models,
            answers_as,
            asked: Mutex::default(),
            times: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A client that was killed is no concern of the server's.
                    let _ = shared.serve(stream.unwrap());
                });
            }
        });
        Server { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Every chat request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// The most requests that were open at once.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// The lengths and texts that the good answer to a seed has.
pub fn expected(seed: u64) -> (u32, &'static str, String) {
    let tokens = (seed % 31 + 1) as u32;
    let reason = if tokens > 24 { "length" } else { "stop" };
    (tokens.min(24), reason, format!("answer {seed} «ça»"))
}

pub fn good(model: &str, seed: u64) -> Value {
    let (tokens, reason, content) = expected(seed);
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "finish_reason": reason,
            "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens},
    })
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_string();
        let (mut length, mut authorization) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else {
                break;
            };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => authorization = Some(value.trim().to_string()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        match (path.as_str(), &self.models) {
            ("/v1/models", Some(names)) => {
                let entries: Vec<Value> = names.iter().map(|n| json!({"id": n})).collect();
                let list = json!({"object": "list", "data": entries});
                write(stream, 200, "", &list.to_string())
            }
            ("/v1/chat/completions", _) => {
                let asked = self.note(serde_json::from_slice(&body).unwrap(), authorization);
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
                let mut reply = (self.behaviour)(&asked);
                while let Reply::After(wait, then) = reply {
                    std::thread::sleep(wait);
                    reply = *then;
                }
                // Before the answer is out: who has it may ask the next at once.
                self.now.fetch_sub(1, Ordering::SeqCst);
                self.reply(stream, &asked, reply)
            }
            _ => write(stream, 404, "", "{\"detail\":\"Not Found\"}"),
        }
    }

    fn note(&self, body: Value, authorization: Option<String>) -> Asked {
        let key = format!(
            "{} {} {}",
            body["seed"], body["messages"], body["temperature"]
        );
        let mut times = self.times.lock().unwrap();
        let times = times.entry(key).or_default();
        let asked = Asked {
            at: Instant::now(),
            before: *times,
            authorization,
            body,
        };
        *times += 1;
        self.asked.lock().unwrap().push(asked.clone());
        asked
    }

    fn reply(&self, stream: TcpStream, asked: &Asked, reply: Reply) -> std::io::Result<()> {
        match reply {
            Reply::Good => {
                let body = good(self.answers_as, asked.seed());
                write(stream, 200, "", &body.to_string())
            }
            Reply::Drop | Reply::After(..) => Ok(()),
            Reply::Status(status, headers, body) => write(stream, status, headers, &body),
        }
    }
}

fn write(mut stream: TcpStream, status: u16, headers: &str, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
