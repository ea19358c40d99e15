//! Answers from an OpenAI-compatible server (vLLM, SGLang, llama.cpp's server, TGI and others)
//! over `POST {URL}/chat/completions`.
//!
//! Lengths are the server's own counts, `usage.completion_tokens`, and nothing is added to or
//! taken from them. vLLM and SGLang count the generated ids, TGI its generated tokens, and
//! llama.cpp every token its sampler gave: in all four the end token is among them, as in
//! datasets of this tool's own engine. Of other servers this is not known. What a reasoning
//! model thinks is counted too.
//!
//! Whether one seed gives one answer is the server's affair; most depend on the batch.

mod address;
pub mod build;
mod chat;
mod failure;
mod kept;
mod retry;
mod secret;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Response, header};

use crate::error::{Error, Result};

pub use address::Address;
pub use chat::{Answer, ChatRequest, Message};
pub use secret::{ApiKey, DEFAULT_VARIABLE};

use chat::{BYTES_A_TOKEN, Unusable};
use failure::Failure;

/// How a server is asked.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// Where it is.
    pub address: Address,
    /// Sent with every request, where there is one.
    pub key: Option<ApiKey>,
    /// For one request, from connecting to the last byte.
    pub timeout: Duration,
    /// Tries after the first for what may pass: limits (429), faults of the server (5xx),
    /// time-outs, dropped connections.
    pub retries: u32,
    /// Requests at once.
    pub concurrency: usize,
}

/// A server that may be asked from many threads.
pub struct Endpoint {
    options: EndpointOptions,
    agent: Agent,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The work was stopped while waiting to ask again.
    Stopped,
    /// It failed for good.
    Failed(String),
}

/// No answer is longer. Of one that may have few tokens less is read, see [`longest_answer`].
const LONGEST_ANSWER: u64 = 64 << 20;
/// What an answer has beside its text.
const AROUND: u64 = 1 << 20;
/// A longer list of models is as none.
const LONGEST_LIST: u64 = 4 << 20;
/// Tries after the first for an answer that lacks something.
const RETRIES_OF_MALFORMED: u32 = 2;
/// The list of models is asked for no longer than this.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);
/// A stop is looked for this often.
const NAP: Duration = Duration::from_millis(50);

/// `GET /models`, as far as it is read.
#[derive(Deserialize)]
struct List {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    id: Value,
}

impl Endpoint {
    /// Prepares to ask; nothing is sent yet.
    pub fn new(options: EndpointOptions) -> Endpoint {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would lose the body, and take the key elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(options.concurrency)
            .max_idle_connections_per_host(options.concurrency)
            .timeout_global(Some(options.timeout))
            .user_agent(concat!("lenaware/", env!("CARGO_PKG_VERSION")))
            .build();
        Endpoint {
            options,
            agent: config.new_agent(),
        }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.options.address
    }

    /// Whether there is a key that others could read on its way.
    pub fn sends_key_in_the_clear(&self) -> bool {
        self.options.key.is_some() && self.options.address.is_in_the_clear()
    }

    /// Requests at once.
    pub fn concurrency(&self) -> usize {
        self.options.concurrency.max(1)
    }

    /// The name to ask for: `asked` where the server lists it or lists nothing, else the only
    /// one it lists. `notice` is told of every wait for the server.
    ///
    /// # Errors
    /// A server that cannot be reached or refuses the key, and a name it does not list; the
    /// message has those it does.
    pub fn model(&self, asked: Option<&str>, notice: &dyn Fn(&str)) -> Result<String> {
        let listed = self.models(notice)?;
        let some: Vec<String> = listed
            .iter()
            .take(10)
            .map(|name| format!("`{}`", self.shown(name)))
            .collect();
        let more = if listed.len() > some.len() {
            ", .."
        } else {
            ""
        };
        let choice = format!("{}{more}", some.join(", "));
        let is = |asked: &str, name: &String| {
            // Some list `models/NAME` and take NAME.
            name == asked || name.strip_prefix("models/") == Some(asked)
        };
        match asked {
            Some(asked) if listed.is_empty() || listed.iter().any(|n| is(asked, n)) => {
                Ok(asked.to_string())
            }
            Some(asked) => Err(Error::Endpoint(format!(
                "the server does not have the model `{asked}`: give --model one of {choice}"
            ))),
            None if listed.len() == 1 && self.shown(&listed[0]) == listed[0] => {
                Ok(listed[0].clone())
            }
            // It would be in files and on terminals.
            None if listed.len() == 1 => Err(Error::Endpoint(
                "the server's only model has a name with control characters, of more than 400 \
                 characters, or with the API key: give another --endpoint, or its name with --model"
                    .into(),
            )),
            None if listed.is_empty() => Err(Error::Usage(
                "the server does not list its models: give its name with --model".into(),
            )),
            None => Err(Error::Usage(format!(
                "the server has several models: give --model one of {choice}"
            ))),
        }
    }

    /// Names of the server's models; none where it has no list.
    fn models(&self, notice: &dyn Fn(&str)) -> Result<Vec<String>> {
        let url = self.options.address.of("models");
        let attempt = || -> std::result::Result<Vec<String>, Failure> {
            let mut request = self
                .agent
                .get(&url)
                .config()
                .timeout_global(Some(self.options.timeout.min(LIST_TIMEOUT)))
                .build();
            if let Some(key) = &self.options.key {
                request = request.header(header::AUTHORIZATION, key.header());
            }
            let response = match request.call() {
                Err(ureq::Error::Timeout(_)) => return Ok(Vec::new()),
                other => other.map_err(|e| self.broken(e))?,
            };
            let status = response.status().as_u16();
            if status == 401 || status == 403 {
                return Err(self.refused(response));
            }
            let bytes = read(response, LONGEST_LIST).unwrap_or_default();
            let listed = serde_json::from_slice::<List>(&bytes).ok();
            let entries = listed.filter(|_| status == 200).map(|list| list.data);
            let names = entries.into_iter().flatten().filter_map(|e| match e.id {
                Value::String(name) => Some(name),
                _ => None,
            });
            Ok(names.collect())
        };
        self.persevere(&AtomicBool::new(false), notice, &attempt)
            .map_err(|e| match e {
                NoAnswer::Failed(why) => Error::Endpoint(why),
                NoAnswer::Stopped => Error::Interrupted("stopped".into()),
            })
    }

    /// Asks once, and again as often as it makes sense, until `stop` is set. `notice` is told
    /// of every wait.
    ///
    /// # Errors
    /// What cannot be had.
    pub fn answer(
        &self,
        request: &ChatRequest,
        stop: &AtomicBool,
        notice: &(dyn Fn(&str) + Sync),
    ) -> std::result::Result<Answer, NoAnswer> {
        let url = self.options.address.of("chat/completions");
        let body = serde_json::to_vec(request).unwrap_or_default();
        let attempt = || {
            let mut post = self
                .agent
                .post(&url)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json");
            if let Some(key) = &self.options.key {
                post = post.header(header::AUTHORIZATION, key.header());
            }
            let response = post.send(&body[..]).map_err(|e| self.broken(e))?;
            if response.status().as_u16() != 200 {
                return Err(self.refused(response));
            }
            let longest = longest_answer(request.max_tokens);
            let bytes = read(response, longest).map_err(|e| self.broken(e))?;
            let answer = Answer::parse(&bytes, request.max_tokens).map_err(|e| match e {
                Unusable::Malformed(what) => Failure::Malformed(self.shown(&what)),
                Unusable::Failed(why) => Failure::Passing(self.shown(&why), None),
                Unusable::Final(why) => Failure::Final(self.shown(&why)),
            })?;
            Ok(self.without_key(answer, notice))
        };
        self.persevere(stop, notice, &attempt)
    }

    /// What is kept is published: a key that the server repeats is not among it. A key that is
    /// as short as a word is no secret, and replacing it would spoil texts that have the word.
    fn without_key(&self, mut answer: Answer, notice: &dyn Fn(&str)) -> Answer {
        answer.model = answer.model.map(|name| self.shown(&name));
        if let Some(key) = self.options.key.as_ref().filter(|key| key.is_secret()) {
            let redacted = key.redact(&answer.content);
            if redacted != answer.content {
                notice("the server repeats the API key in an answer, which is kept without it");
                answer.content = redacted;
            }
        }
        answer
    }

    /// Tries until it works, fails for good, or `stop` is set.
    fn persevere<T>(
        &self,
        stop: &AtomicBool,
        notice: &dyn Fn(&str),
        attempt: &dyn Fn() -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, NoAnswer> {
        let (mut failures, mut malformed) = (0, 0);
        loop {
            let (why, asked) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(why)) => return Err(NoAnswer::Failed(why)),
                Err(Failure::Malformed(what)) => {
                    malformed += 1;
                    if malformed > RETRIES_OF_MALFORMED.min(self.options.retries) {
                        return Err(NoAnswer::Failed(format!(
                            "the server's answer {what} ({malformed} tries): use a server whose \
                             /chat/completions answers as OpenAI's does, with `choices` and \
                             `usage`"
                        )));
                    }
                    (format!("the answer {what}"), None)
                }
                Err(Failure::Passing(why, asked)) => {
                    failures += 1;
                    if failures > self.options.retries {
                        return Err(NoAnswer::Failed(format!("{why} ({failures} tries)")));
                    }
                    if asked.is_some_and(|asked| asked > retry::PATIENCE) {
                        return Err(NoAnswer::Failed(format!(
                            "{why}, and the server asks to wait longer than {} minutes",
                            retry::PATIENCE.as_secs() / 60
                        )));
                    }
                    (why, asked)
                }
            };
            let wait = retry::wait(failures + malformed, asked);
            notice(&format!(
                "{why}; trying again in {:.1} s",
                wait.as_secs_f64()
            ));
            let begun = Instant::now();
            while begun.elapsed() < wait {
                if stop.load(Ordering::Relaxed) {
                    return Err(NoAnswer::Stopped);
                }
                std::thread::sleep(NAP.min(wait.saturating_sub(begun.elapsed())));
            }
        }
    }
}

/// Bytes that an answer of so many tokens may have. Letters may be written as `\uXXXX`, which is
/// no more than six bytes for one; tokens are far shorter than the longest.
fn longest_answer(max_tokens: u32) -> u64 {
    LONGEST_ANSWER.min(AROUND + u64::from(max_tokens) * BYTES_A_TOKEN)
}

fn read(response: Response<ureq::Body>, limit: u64) -> std::result::Result<Vec<u8>, ureq::Error> {
    response
        .into_body()
        .into_with_config()
        .limit(limit)
        .read_to_vec()
}
