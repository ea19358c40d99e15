//! Requests and answers of `POST /chat/completions`.

use serde::Serialize;
use serde_json::Value;

use crate::dataset::FinishReason;

use super::kept::Kept;

/// What is asked. Numbers are written as short as they were given.
#[derive(Debug, Clone, Serialize)]
pub struct ChatRequest {
    /// As the server calls it.
    pub model: String,
    /// The conversation; a dataset's instruction is one turn of the user.
    pub messages: Vec<Message>,
    /// 0 means greedy.
    pub temperature: f32,
    /// Share of the probability to draw from; 1 means all.
    pub top_p: f32,
    /// Tokens at which the answer is cut off.
    pub max_tokens: u32,
    /// Of the server's random numbers; below 2^31, which every server takes.
    pub seed: u64,
    /// Answers to draw: 1, as a seed is one answer's.
    pub n: u32,
    /// Whether tokens come one by one: `false`, since only the whole answer has its count.
    pub stream: bool,
}

/// One turn.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// `user`, or whoever speaks.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

/// What a dataset keeps of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What the server calls the model; not all tell.
    pub model: Option<String>,
    /// 0 where the server does not tell.
    pub prompt_tokens: u32,
    /// The server's count.
    pub completion_tokens: u32,
    /// Whether it ended or was cut off.
    pub finish_reason: FinishReason,
    /// Empty where nothing but reasoning was said.
    pub content: String,
}

/// Why a well-delivered answer is not taken.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Unusable {
    /// It lacks what is needed; another try may show whether it always does.
    Malformed(String),
    /// The server says that something went wrong on its side.
    Failed(String),
    /// It would be the same again.
    Final(String),
}

/// Model names longer than this are cut.
const NAME: usize = 200;
/// No vocabulary has a token of more bytes (the longest that are known have 256).
pub(super) const BYTES_A_TOKEN: u64 = 1024;
/// So many tokens more than were asked for are believed: llama.cpp's server gives one or so more,
/// or all that it drafted at once.
const BEYOND: u32 = 16;
/// No prompt is longer: the longest contexts there are take 10 million tokens.
const LONGEST_PROMPT: u64 = 1 << 24;

impl Answer {
    /// Reads the answer to a request for at most `max_tokens` tokens. What contradicts the
    /// request or itself is not believed: far more tokens than were asked for, more than one choice
    /// (whose tokens the count adds up), more text than so many tokens can be.
    pub(super) fn parse(bytes: &[u8], max_tokens: u32) -> Result<Answer, Unusable> {
        let malformed = |what: &str| Unusable::Malformed(what.to_string());
        let Kept(body) = serde_json::from_slice(bytes)
            .map_err(|e| Unusable::Malformed(format!("is not JSON ({e})")))?;
        if let Some(message) = error_message(&body) {
            return Err(Unusable::Failed(message));
        }
        let choice = &body["choices"][0];
        if !choice.is_object() {
            return Err(malformed("has no `choices[0]`"));
        }
        if !body["choices"][1].is_null() {
            return Err(malformed(
                "has several `choices` where one was asked for, and one count for all",
            ));
        }
        let finish_reason = match choice["finish_reason"].as_str() {
            // The second is what some versions of TGI say.
            Some("stop" | "eos_token") => FinishReason::Stop,
            Some("length") => FinishReason::Length,
            Some("abort") => return Err(Unusable::Failed("the server aborted the answer".into())),
            Some(other) => {
                let other: String = other.chars().take(NAME).collect();
                return Err(Unusable::Final(format!(
                    "the answer ended by `{other}`, which says nothing of its length: leave this \
                     instruction out"
                )));
            }
            None => return Err(malformed("has no `choices[0].finish_reason`")),
        };
        let content = match &choice["message"]["content"] {
            Value::String(text) => text.clone(),
            Value::Null if choice["message"].is_object() => String::new(),
            _ => return Err(malformed("has no text in `choices[0].message.content`")),
        };
        let completion_tokens = body["usage"]["completion_tokens"]
            .as_u64()
            .and_then(|count| u32::try_from(count).ok())
            .ok_or_else(|| malformed("has no count in `usage.completion_tokens`"))?;
        if completion_tokens == 0 {
            // Proxies that do not count say so; even an empty answer has its end token.
            return Err(malformed("has a count of 0 in `usage.completion_tokens`"));
        }
        if completion_tokens > max_tokens.saturating_add(BEYOND) {
            return Err(Unusable::Malformed(format!(
                "has a count of {completion_tokens} in `usage.completion_tokens` where at most \
                 {max_tokens} were asked for (--max-new-tokens)"
            )));
        }
        if content.len() as u64 > u64::from(completion_tokens) * BYTES_A_TOKEN {
            return Err(Unusable::Malformed(format!(
                "has a text of {} bytes, which the count of {completion_tokens} in \
                 `usage.completion_tokens` cannot be of",
                content.len()
            )));
        }
        let prompt_tokens = match &body["usage"]["prompt_tokens"] {
            Value::Null => 0,
            told => told
                .as_u64()
                .filter(|count| *count <= LONGEST_PROMPT)
                .and_then(|count| u32::try_from(count).ok())
                .ok_or_else(|| malformed("has no count of a prompt in `usage.prompt_tokens`"))?,
        };
        Ok(Answer {
            model: body["model"]
                .as_str()
                .map(|m| m.chars().take(NAME).collect()),
            prompt_tokens,
            completion_tokens,
            finish_reason,
            content,
        })
    }
}

/// The message of an error, in the shapes that servers give it.
pub(super) fn error_message(body: &Value) -> Option<String> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    match &body["error"] {
        Value::Null => match body["object"].as_str() {
            Some("error") => text(&body["message"]),
            _ => None,
        },
        Value::Object(error) => text(error.get("message").unwrap_or(&body["error"])),
        other => text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({"model": "m", "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "hi"}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
    }

    fn parse(value: &Value) -> Result<Answer, Unusable> {
        Answer::parse(value.to_string().as_bytes(), 24)
    }

    #[test]
    fn answers_are_taken_with_all_that_may_lack() {
        let expected = Answer {
            model: Some("m".into()),
            prompt_tokens: 3,
            completion_tokens: 2,
            finish_reason: FinishReason::Stop,
            content: "hi".into(),
        };
        assert_eq!(parse(&good()), Ok(expected.clone()));
        let mut sparse = good();
        sparse.as_object_mut().unwrap().remove("model");
        sparse["usage"] = json!({"completion_tokens": 9});
        sparse["choices"][0]["message"] = json!({"content": null, "reasoning_content": "hm"});
        sparse["choices"][0]["finish_reason"] = json!("length");
        let answer = parse(&sparse).unwrap();
        assert_eq!((answer.model, answer.prompt_tokens), (None, 0));
        assert_eq!(answer.finish_reason, FinishReason::Length);
        assert_eq!((answer.completion_tokens, answer.content.as_str()), (9, ""));
    }

    #[test]
    fn what_lacks_is_named() {
        type Spoil = fn(&mut Value);
        let cases: [(Spoil, &str); 17] = [
            (|v| v["usage"]["completion_tokens"] = json!(0), "count of 0"),
            (|v| v["usage"] = Value::Null, "usage.completion_tokens"),
            (
                |v| v["usage"]["completion_tokens"] = json!(-1),
                "usage.completion_tokens",
            ),
            (
                |v| v["usage"]["completion_tokens"] = json!(5e12),
                "usage.completion_tokens",
            ),
            (|v| v["choices"] = json!([]), "choices[0]"),
            (|v| v["choices"] = json!("x"), "choices[0]"),
            (
                |v| v["choices"][0]["finish_reason"] = Value::Null,
                "finish_reason",
            ),
            (|v| v["choices"][0]["message"] = Value::Null, "content"),
            (|v| *v = json!([1, 2]), "choices[0]"),
            (
                |v| v["usage"]["completion_tokens"] = json!(41),
                "at most 24",
            ),
            (
                |v| v["choices"][0]["message"]["content"] = json!("a".repeat(2049)),
                "2049 bytes",
            ),
            (
                |v| v["usage"]["prompt_tokens"] = json!(1u64 << 40),
                "usage.prompt_tokens",
            ),
            (
                |v| v["usage"]["prompt_tokens"] = json!(u32::MAX),
                "usage.prompt_tokens",
            ),
            (
                |v| v["usage"]["prompt_tokens"] = json!(-3),
                "usage.prompt_tokens",
            ),
            (
                |v| {
                    let again = v["choices"][0].clone();
                    v["choices"] = json!([again, again]);
                },
                "several `choices`",
            ),
            (
                |v| v["choices"][0]["finish_reason"] = json!(["stop"]),
                "finish_reason",
            ),
            (
                |v| v["choices"][0]["message"]["content"] = json!([{"type": "text"}]),
                "content",
            ),
        ];
        for (spoil, named) in cases {
            let mut value = good();
            spoil(&mut value);
            match parse(&value) {
                Err(Unusable::Malformed(what)) => assert!(what.contains(named), "{what}"),
                other => panic!("{named}: {other:?}"),
            }
        }
        let cut = &good().to_string().into_bytes()[..40];
        for bytes in [cut, b"\xff", b"{} {}", b""] {
            let parsed = Answer::parse(bytes, 24);
            assert!(matches!(parsed, Err(Unusable::Malformed(_))));
        }
        let mut filtered = good();
        filtered["choices"][0]["finish_reason"] = json!("content_filter");
        match parse(&filtered) {
            Err(Unusable::Final(why)) => assert!(why.contains("content_filter"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_are_read_in_every_shape() {
        for (body, expected) in [
            (json!({"error": {"message": "no"}}), Some("no")),
            (json!({"error": "no"}), Some("no")),
            (json!({"object": "error", "message": "no"}), Some("no")),
            (json!({"error": null, "message": "x"}), None),
            (json!(3), None),
        ] {
            assert_eq!(error_message(&body).as_deref(), expected);
        }
        let failed = parse(&json!({"error": {"message": "overloaded"}}));
        assert_eq!(failed, Err(Unusable::Failed("overloaded".into())));
    }

    #[test]
    fn numbers_are_sent_as_they_were_given() {
        let request = ChatRequest {
            model: "m".into(),
            messages: vec![],
            temperature: 0.7,
            top_p: 0.95,
            max_tokens: 5,
            seed: 2_147_483_647,
            n: 1,
            stream: false,
        };
        let text = serde_json::to_string(&request).unwrap();
        assert!(
            text.contains("\"temperature\":0.7,\"top_p\":0.95,"),
            "{text}"
        );
    }
}
