//! A `tokenizer.json` is looked through before the tokenizer library reads it: a step of it may
//! make a text millions of times as long, or claim tables of gigabytes, and the library believes
//! both. What real files have passes.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;

use crate::error::{Error, Result};
use crate::foreign::quietly;
use crate::regular_file;

use super::source::one_line;
use super::tokenizer::TRIPPED;

/// The largest published ones (Gemma's) have 33 MB.
const MOST: u64 = 48 << 20;
/// Times that all steps together may lengthen a text. SentencePiece's `▁` for a space has 3
/// bytes.
const LONGER: f64 = 256.0;
/// Bytes of a token that is looked for before all others, and of a piece of a Unigram model.
const LONGEST_TOKEN: usize = 1024;
const MOST_ADDED: usize = 1 << 16;
/// Characters of a word that WordPiece tries to take apart; 100 is usual. Its time grows with
/// their square.
const LONGEST_WORD: u64 = 1000;

#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Step>,
    pre_tokenizer: Option<Step>,
    decoder: Option<Step>,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

#[derive(Deserialize)]
struct Model {
    max_input_chars_per_word: Option<u64>,
}

/// A step that changes or splits texts, or several.
#[derive(Deserialize)]
struct Step {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    normalizers: Vec<Step>,
    #[serde(default)]
    pretokenizers: Vec<Step>,
    #[serde(default)]
    decoders: Vec<Step>,
    pattern: Option<Pattern>,
    content: Option<String>,
    prepend: Option<String>,
    precompiled_charsmap: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pattern {
    Text {
        #[serde(rename = "String")]
        text: String,
    },
    Other(IgnoredAny),
}

/// Reads the file; also says whether it has patterns, which may take any time on a text.
///
/// # Errors
/// A file that is damaged, or asks for more than any real one does.
pub(super) fn read(path: &Path) -> Result<(Tokenizer, bool)> {
    let wrong = |why: String| Error::malformed(path, format!("{why}: download it again"));
    let damaged = |e: &dyn std::fmt::Display| wrong(format!("is no tokenizer ({})", one_line(e)));
    let bytes = regular_file::bytes_up_to(path, MOST)?;
    let parts: Parts = serde_json::from_slice(&bytes).map_err(|e| damaged(&e))?;
    parts.check().map_err(wrong)?;
    let read = quietly(TRIPPED, || Tokenizer::from_bytes(&bytes));
    let mut inner = read.map_err(|e| damaged(&e))?;
    if let ModelWrapper::Unigram(_) = inner.get_model()
        && let Some(piece) = inner
            .get_vocab(false)
            .keys()
            .find(|k| k.len() > LONGEST_TOKEN)
    {
        let length = piece.len();
        return Err(wrong(format!("a token of {length} bytes makes no sense")));
    }
    // Settings of whoever saved the file; a prompt must come through whole.
    inner.with_padding(None);
    inner
        .with_truncation(None)
        .map_err(|e| wrong(one_line(e)))?;
    Ok((inner, parts.has_patterns()))
}

impl Parts {
    fn steps(&self) -> impl Iterator<Item = &Step> {
        [&self.normalizer, &self.pre_tokenizer, &self.decoder]
            .into_iter()
            .flatten()
    }

    fn check(&self) -> Result<(), String> {
        let longest = self.added_tokens.iter().map(|a| a.content.len()).max();
        if let Some(length) = longest.filter(|&length| length > LONGEST_TOKEN) {
            return Err(format!("an added token of {length} bytes makes no sense"));
        }
        if self.added_tokens.len() > MOST_ADDED {
            let count = self.added_tokens.len();
            return Err(format!("{count} added tokens make no sense"));
        }
        let word = self.model.as_ref().and_then(|m| m.max_input_chars_per_word);
        if let Some(length) = word.filter(|&length| length > LONGEST_WORD) {
            return Err(format!(
                "`max_input_chars_per_word` = {length} makes no sense"
            ));
        }
        for step in self.steps() {
            step.check()?;
            let times = step.lengthens();
            if times > LONGER {
                return Err(format!(
                    "its steps may make a text {times:.0} times as long, which makes no sense"
                ));
            }
        }
        Ok(())
    }

    fn has_patterns(&self) -> bool {
        self.steps().any(Step::has_patterns)
    }
}

impl Step {
    fn within(&self) -> impl Iterator<Item = &Step> {
        let lists = [&self.normalizers, &self.pretokenizers, &self.decoders];
        lists.into_iter().flatten()
    }

    /// How many times as long it may make a text, at worst.
    fn lengthens(&self) -> f64 {
        let within: f64 = self.within().map(Step::lengthens).product();
        let bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len) as f64;
        let own = match (self.kind.as_deref(), &self.pattern) {
            (Some("ByteLevel"), _) => 2.0,
            (_, None) => 1.0,
            (_, Some(Pattern::Text { text })) if !text.is_empty() => {
                bytes(&self.content) / text.len() as f64
            }
            // A pattern may be found between any two letters.
            (_, Some(_)) => bytes(&self.content) + 1.0,
        };
        // What is put before a text counts by itself: texts may be short.
        own.max(1.0) * (1.0 + bytes(&self.prepend) / 16.0) * within
    }

    fn has_patterns(&self) -> bool {
        matches!(self.pattern, Some(Pattern::Other(_))) || self.within().any(Step::has_patterns)
    }

    /// The library reserves as much as a table of characters says that it has.
    fn check(&self) -> Result<(), String> {
        if let Some(table) = &self.precompiled_charsmap {
            let claimed = first_number(table).ok_or("its table of characters is cut off")?;
            if claimed as usize > table.len() / 4 * 3 {
                return Err("its table of characters is cut off".into());
            }
        }
        self.within().try_for_each(Step::check)
    }
}

/// The number in the first four bytes of what a text says in base 64.
fn first_number(base64: &str) -> Option<u32> {
    let digit = |byte: &u8| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    let digits = base64.as_bytes().get(..6)?;
    let mut bits: u64 = 0;
    for byte in digits {
        bits = bits << 6 | u64::from(digit(byte)?);
    }
    // 36 bits, of which the first 32 are the number.
    Some(((bits >> 4) as u32).swap_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<(), String> {
        serde_json::from_str::<Parts>(text)
            .map_err(|e| e.to_string())?
            .check()
    }

    #[test]
    fn what_real_files_have_passes() {
        let llama = r#"{"model": {"type": "BPE", "vocab": {}}, "normalizer": {"type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern":
            {"String": " "}, "content": "▁"}]}, "decoder": {"type": "Sequence", "decoders":
            [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Strip",
            "content": " ", "start": 1, "stop": 0}]}, "pre_tokenizer": null}"#;
        assert_eq!(said(llama), Ok(()));
        // 8 bytes of a table after its length.
        let table = r#"{"normalizer": {"precompiled_charsmap": "CAAAAAAAAAAAAAAA"}}"#;
        assert_eq!(said(table), Ok(()));
    }

    #[test]
    fn what_no_file_needs_is_refused() {
        let replace = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"}"#;
        let nine = [replace; 9].join(",");
        let empty = r#"{"pattern": {"Regex": ""}, "content": "CONTENT"}"#;
        for (text, why) in [
            (
                format!(r#"{{"normalizer": {{"normalizers": [{nine}]}}}}"#),
                "times as long",
            ),
            (
                format!(
                    r#"{{"decoder": {}}}"#,
                    empty.replace("CONTENT", &"a".repeat(1000))
                ),
                "times as long",
            ),
            (
                format!(r#"{{"normalizer": {{"prepend": "{}"}}}}"#, "a".repeat(9000)),
                "times as long",
            ),
            (
                r#"{"normalizer": {"precompiled_charsmap": "/////////////////////w=="}}"#.into(),
                "cut off",
            ),
            (
                format!(
                    r#"{{"added_tokens": [{{"content": "{}"}}]}}"#,
                    "a".repeat(9000)
                ),
                "added token",
            ),
            (
                r#"{"model": {"max_input_chars_per_word": 1152921504606846976}}"#.into(),
                "max_input_chars_per_word",
            ),
        ] {
            let refused = said(&text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn numbers_in_base_64() {
        assert_eq!(first_number("CAAAAAAA"), Some(8));
        assert_eq!(first_number("/////w=="), Some(u32::MAX));
        assert_eq!(first_number("AAA"), None);
    }
}
