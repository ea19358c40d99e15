//! Text to token ids and back. Everything beyond this edge speaks ids.

use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::error::{Error, Result};

use super::gguf::GgufModel;
use super::source::{ModelFiles, WeightFiles, one_line};

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
}

impl TextTokenizer {
    /// From the directory's `tokenizer.json`, or from a GGUF file's metadata.
    ///
    /// # Errors
    /// There is none, or none of a kind that is known.
    pub fn from_files(files: &ModelFiles) -> Result<TextTokenizer> {
        if let WeightFiles::Gguf(path) = &files.weights {
            return TextTokenizer::from_gguf(&GgufModel::open(path)?);
        }
        let dir = files.path();
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            let why = if dir.join("tokenizer.model").is_file() {
                "has a tokenizer.model but no tokenizer.json: load it with transformers' \
                 AutoTokenizer and save_pretrained here"
            } else {
                "has no tokenizer.json: download it from where the model came from"
            };
            return Err(Error::malformed(dir, why));
        }
        let mut inner = Tokenizer::from_file(&path)
            .map_err(|e| Error::malformed(&path, format!("{}: download it again", one_line(e))))?;
        // Settings of whoever saved the file; a prompt must come through whole.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| Error::malformed(&path, one_line(e)))?;
        Ok(TextTokenizer { inner })
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// A tokenizer of another kind than byte-level BPE, or damaged metadata.
    pub fn from_gguf(gguf: &GgufModel) -> Result<TextTokenizer> {
        let refuse = |what: &str, name: &str| {
            Error::malformed(
                &gguf.path,
                format!(
                    "its {what} `{name}` is not known here: use a directory with the model's \
                     safetensors and tokenizer.json"
                ),
            )
        };
        let kind = gguf.text("tokenizer.ggml.model").unwrap_or("");
        if kind != "gpt2" {
            return Err(refuse("tokenizer", kind));
        }
        let pre = gguf.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
        let splitter = pre_tokenizer(pre).ok_or_else(|| refuse("pre-tokenizer", pre))?;
        let mut inner = Tokenizer::from_gguf(&gguf.content).map_err(|e| {
            let why = one_line(e);
            Error::malformed(
                &gguf.path,
                format!("its tokenizer is damaged ({why}): download it again"),
            )
        })?;
        inner.with_pre_tokenizer(Some(splitter));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        Ok(TextTokenizer { inner })
    }

    /// Ids of a text. Special tokens written in the text are recognised; none are added.
    ///
    /// # Errors
    /// The tokenizer cannot take the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| Error::Usage(format!("the text cannot be tokenized: {}", one_line(e))))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// The tokenizer cannot take the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|e| Error::Usage(format!("tokens cannot be turned to text: {}", one_line(e))))
    }

    /// The id of a token as it is written, special tokens included.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary writes it (byte-level ones with `Ġ` for a space).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// How many tokens there are, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// How a GGUF file's `tokenizer.ggml.pre` splits text before byte-level BPE. The tensor library
/// knows two of these and takes the rest for GPT-2 with a space put before every text.
fn pre_tokenizer(name: &str) -> Option<PreTokenizerWrapper> {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let words = ByteLevel::new(false, true, true);
    let parts: Vec<PreTokenizerWrapper> = match name {
        "smollm" => vec![Digits::new(true).into(), words.into()],
        "gpt-2" | "gpt2" => vec![words.into()],
        "llama-bpe" | "llama3" | "llama-v3" => {
            let pattern = SplitPattern::Regex(LLAMA3.to_string());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).ok()?;
            vec![split.into(), ByteLevel::new(false, true, false).into()]
        }
        _ => return None,
    };
    Some(Sequence::new(parts).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ChatTemplate, resolve};

    /// Needs the real model: fetched where it is not in the cache.
    #[test]
    fn golden_prompts_and_responses() {
        let files = resolve("smollm2-135m", false, false).unwrap();
        assert_eq!(files.name, "smollm2-135m");
        let tokenizer = TextTokenizer::from_files(&files).unwrap();
        let template = ChatTemplate::from_files(&files).unwrap();
        assert_eq!(tokenizer.vocab_size(), 49152);
        let golden = include_str!("../../tests/fixtures/golden/generations.jsonl");
        let mut count = 0;
        for line in golden.lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let ids =
                |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            let rendered = template
                .render(case["instruction"].as_str().unwrap())
                .unwrap();
            assert_eq!(rendered, case["rendered"]);
            assert_eq!(tokenizer.encode(&rendered).unwrap(), ids("prompt_ids"));
            assert_eq!(
                tokenizer.decode(&ids("response_ids")).unwrap(),
                case["response"]
            );
            count += 1;
        }
        assert_eq!(count, 8);
        // The built-in template is the same.
        let named = ChatTemplate::named("chatml").unwrap();
        assert_eq!(named.render("x").unwrap(), template.render("x").unwrap());
    }

    #[test]
    fn a_directory_without_tokenizer_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("model.safetensors"), "").unwrap();
        let files = ModelFiles::local(dir.path()).unwrap();
        let message = || TextTokenizer::from_files(&files).unwrap_err().to_string();
        assert!(message().contains("no tokenizer.json"), "{}", message());
        std::fs::write(dir.path().join("tokenizer.model"), "").unwrap();
        assert!(message().contains("AutoTokenizer"), "{}", message());
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        assert!(message().contains("download it again"), "{}", message());
    }

    #[test]
    fn digits_are_split_one_by_one_and_llama3_in_threes() {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
        let splits = |name: &str| -> Vec<String> {
            let mut text = PreTokenizedString::from("It's 1234 x");
            pre_tokenizer(name)
                .unwrap()
                .pre_tokenize(&mut text)
                .unwrap();
            text.get_splits(OffsetReferential::Original, OffsetType::Byte)
                .into_iter()
                .map(|(s, _, _)| s.replace('\u{120}', "_"))
                .collect()
        };
        assert_eq!(
            splits("smollm"),
            ["It", "'s", "_", "1", "2", "3", "4", "_x"]
        );
        assert_eq!(splits("llama-bpe"), ["It", "'s", "_", "123", "4", "_x"]);
        assert_eq!(splits("gpt-2"), ["It", "'s", "_1234", "_x"]);
        assert!(pre_tokenizer("odd").is_none());
    }
}
