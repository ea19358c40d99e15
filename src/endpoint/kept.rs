//! What is kept of a server's JSON: the few keys that are read, and of a list its first two
//! entries. A body of 64 MB can be millions of values, which as a tree take 40 times the memory;
//! what nobody reads is only walked over, whatever its depth.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Keys that are read, at whatever depth they are.
const KEYS: [&str; 14] = [
    "choices",
    "code",
    "completion_tokens",
    "content",
    "detail",
    "error",
    "finish_reason",
    "message",
    "model",
    "msg",
    "object",
    "prompt_tokens",
    "type",
    "usage",
];
/// Entries of a list: one more than what is asked for, so that too many are seen.
const ENTRIES: usize = 2;

/// A JSON value without what is not read. A key that is read and is there twice is an error,
/// since nobody knows which of the two was meant.
pub(super) struct Kept(pub Value);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Kept, D::Error> {
        from.deserialize_any(Keep).map(Kept)
    }
}

struct Keep;

impl<'de> Visitor<'de> for Keep {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < ENTRIES {
            match list.next_element::<Kept>()? {
                Some(Kept(value)) => kept.push(value),
                None => return Ok(kept.into()),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if !KEYS.contains(&key.as_str()) {
                object.next_value::<IgnoredAny>()?;
                continue;
            }
            let Kept(value) = object.next_value()?;
            if kept.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` is there twice")));
            }
            kept.insert(key, value);
        }
        Ok(kept.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(text: &str) -> serde_json::Result<Value> {
        serde_json::from_str::<Kept>(text).map(|kept| kept.0)
    }

    #[test]
    fn what_is_read_stays_and_the_rest_is_walked_over() {
        let text = r#"{"id": [1, {"model": 1}], "choices": [{"logprobs": {}, "content": "a\u0000"}, 2, 3],
                      "usage": {"prompt_tokens": 3, "x": 1e999}, "model": null}"#;
        let expected = json!({"choices": [{"content": "a\0"}, 2], "usage": {"prompt_tokens": 3},
                              "model": null});
        assert_eq!(kept(text).unwrap(), expected);
        // Deep, where nobody looks; and as deep where somebody does.
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let unread = format!("{{\"id\": {deep}, \"model\": \"m\"}}");
        assert_eq!(kept(&unread).unwrap(), json!({"model": "m"}));
        assert!(kept(&format!("{{\"model\": {deep}}}")).is_err());
    }

    #[test]
    fn a_key_that_is_there_twice_is_no_answer() {
        let twice = kept(r#"{"model": "a", "usage": {}, "model": "b"}"#).unwrap_err();
        assert!(twice.to_string().contains("`model` is there twice"));
        assert!(kept(r#"{"id": 1, "id": 2}"#).is_ok());
        assert!(kept(r#"{"model": 1e999}"#).is_err());
        assert!(kept(r#"{"model": "\ud800"}"#).is_err());
    }
}
