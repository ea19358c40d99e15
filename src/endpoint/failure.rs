//! Why a try gave no answer, in words: what passes and what does not, what to do, and nothing of
//! the key.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, header};

use super::chat::error_message;
use super::kept::Kept;
use super::{DEFAULT_VARIABLE, Endpoint, retry};

/// What came of one try.
pub(super) enum Failure {
    /// May pass; the server may say how long to wait.
    Passing(String, Option<Duration>),
    /// The answer lacks something: tried again a little.
    Malformed(String),
    Final(String),
}

/// As much of an error's body is read.
const LONGEST_ERROR: u64 = 64 << 10;
/// As much of it is shown.
const SHOWN: usize = 400;

impl Endpoint {
    /// A request that no answer came to.
    pub(super) fn broken(&self, error: ureq::Error) -> Failure {
        let origin = self.options.address.origin();
        match error {
            ureq::Error::Timeout(_) => Failure::Passing(
                format!(
                    "{origin} did not answer within {} s (--timeout)",
                    self.options.timeout.as_secs_f64()
                ),
                None,
            ),
            ureq::Error::BodyExceedsLimit(limit) => {
                Failure::Malformed(format!("is longer than {limit} bytes"))
            }
            // What a server does not prove now it does not prove in a minute.
            ureq::Error::Io(error) if is_of_tls(&error) => Failure::Final(self.shown(&format!(
                "{origin} does not prove that it is this server ({error}): its certificate must \
                 be of an authority that browsers trust; a server of your own can be asked over \
                 http through a tunnel (ssh -L)"
            ))),
            error @ (ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::Pem(_)
            | ureq::Error::TlsRequired
            | ureq::Error::Http(_)
            | ureq::Error::BadUri(_)
            | ureq::Error::InvalidProxyUrl) => {
                Failure::Final(self.shown(&format!("{origin} cannot be asked: {error}")))
            }
            error => Failure::Passing(
                self.shown(&format!("{origin} cannot be reached: {error}")),
                None,
            ),
        }
    }

    /// An answer of another status than 200.
    pub(super) fn refused(&self, response: Response<ureq::Body>) -> Failure {
        let status = response.status();
        let told = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        // By the server's clock, where it tells: ours may be years off.
        let now = told(header::DATE)
            .and_then(retry::date)
            .unwrap_or_else(jiff::Timestamp::now);
        let after = told(header::RETRY_AFTER).and_then(|value| retry::retry_after(value, now));
        let to = (response.headers().get(header::LOCATION)).map(|value| {
            let place = String::from_utf8_lossy(value.as_bytes()).into_owned();
            self.shown(&place)
        });
        let bytes = read_begin(response, LONGEST_ERROR);
        let raw = || String::from_utf8_lossy(&bytes).into_owned();
        let said = match serde_json::from_slice(&bytes) {
            Ok(Kept(body)) => error_message(&body)
                .or_else(|| body["message"].as_str().map(str::to_string))
                .unwrap_or_else(raw),
            Err(_) => raw(),
        };
        let said = self.shown(&said);
        let what = match said.is_empty() {
            true => format!("the server answered {status}"),
            false => format!("the server answered {status}: {said}"),
        };
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => Failure::Passing(what, after),
            401 | 403 => Failure::Final(match &self.options.key {
                Some(_) => format!("{what} (is the API key the right one for this server?)"),
                None => format!(
                    "{what} (no API key was sent: put it into {DEFAULT_VARIABLE}, or name a \
                     variable with --api-key-env)"
                ),
            }),
            300..=399 => Failure::Final(format!(
                "{what} and sends to {}, where no prompt and no key goes: if you trust that \
                 address, give it as --endpoint",
                to.unwrap_or_else(|| "another address, without a word where".into())
            )),
            404 => Failure::Final(format!(
                "{what} (asked for {}: check --endpoint and --model)",
                self.options.address.of("chat/completions")
            )),
            _ => Failure::Final(what),
        }
    }

    /// What a server said, fit for a message: one line, bounded, without the key.
    pub(super) fn shown(&self, text: &str) -> String {
        let text = match &self.options.key {
            Some(key) => key.redact(text),
            None => text.to_string(),
        };
        let plain: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let words: Vec<&str> = plain.split_whitespace().collect();
        let line = words.join(" ");
        match line.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}..", &line[..end]),
            None => line,
        }
    }
}

/// Whether an encrypted connection could not be begun or does not hold. Sockets know no such kind
/// of error, and broken compression is of another.
fn is_of_tls(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData && error.to_string().contains("certificate")
}

/// The begin of a body that is only shown, as far as it can be had.
fn read_begin(response: Response<ureq::Body>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let body = response.into_body().into_reader();
    // What came before the end of a connection is shown as well.
    let _ = body.take(limit).read_to_end(&mut bytes);
    bytes
}
