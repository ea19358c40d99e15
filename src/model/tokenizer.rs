//! Text to token ids and back. Everything beyond this edge speaks ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::error::{Error, Result};
use crate::foreign::quietly;

use super::gguf::GgufModel;
use super::sentencepiece::{Addition, Kind, Piece, Vocabulary};
use super::source::{ModelFiles, WeightFiles, one_line, optional_json};
use super::tokenizer_file;

/// Said where the tokenizer library panics.
pub(super) const TRIPPED: &str = "the tokenizer is damaged";

/// A text that is split for longer than this, and a second for so many bytes of it, is split by a
/// pattern that is made to hurt: a long prompt takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const BYTES_A_SECOND: usize = 100_000;

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Arc<Tokenizer>,
    /// Where it is from, for messages.
    path: PathBuf,
    /// Whether it has patterns that the file itself made up.
    has_patterns: bool,
    /// SentencePiece's token that begins a text.
    bos: Option<(String, u32)>,
    /// Whether a space is put before a text here, and not by the tokenizer itself.
    prefixed: bool,
}

impl TextTokenizer {
    /// From the directory's `tokenizer.json`, else from its SentencePiece `tokenizer.model`; or
    /// from a GGUF file's metadata.
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
            if dir.join(SENTENCEPIECE).is_file() {
                return TextTokenizer::from_sentencepiece(dir);
            }
            return Err(Error::malformed(
                dir,
                "has neither tokenizer.json nor tokenizer.model: download one from where the \
                 model came from",
            ));
        }
        let (inner, has_patterns) = tokenizer_file::read(&path)?;
        Ok(TextTokenizer {
            has_patterns,
            ..TextTokenizer::of(inner, &path)
        })
    }

    fn of(inner: Tokenizer, path: &Path) -> TextTokenizer {
        TextTokenizer {
            inner: Arc::new(inner),
            path: path.to_path_buf(),
            has_patterns: false,
            bos: None,
            prefixed: false,
        }
    }

    /// From `tokenizer.model`, `added_tokens.json` and `tokenizer_config.json`, as transformers'
    /// `LlamaTokenizer` reads them. Its setting `legacy` (on where the file does not say) puts
    /// a space behind every special token in a text, as before transformers 4.31.
    fn from_sentencepiece(dir: &Path) -> Result<TextTokenizer> {
        let path = dir.join(SENTENCEPIECE);
        let vocabulary = Vocabulary::read(&path)?;
        let config = optional_json(&dir.join("tokenizer_config.json"))?;
        let added = additions(dir, &config, vocabulary.pieces.len())?;
        let legacy = config["legacy"].as_bool().unwrap_or(true);
        TextTokenizer::of_vocabulary(&vocabulary, legacy, &added, &path)
            .map_err(|why| Error::malformed(&path, why))
    }

    pub(super) fn of_vocabulary(
        vocabulary: &Vocabulary,
        legacy: bool,
        added: &[Addition],
        path: &Path,
    ) -> std::result::Result<TextTokenizer, String> {
        let inner = vocabulary.tokenizer(legacy, added)?;
        let bos = vocabulary.bos_text().zip(vocabulary.bos);
        Ok(TextTokenizer {
            bos: bos.map(|(text, id)| (text.to_string(), id)),
            prefixed: vocabulary.add_dummy_prefix && !legacy,
            ..TextTokenizer::of(inner, path)
        })
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// A tokenizer of another kind than byte-level or SentencePiece BPE, or damaged metadata.
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
        match gguf.text("tokenizer.ggml.model").unwrap_or("") {
            "gpt2" => {}
            "llama" => {
                // As llama.cpp does, and transformers' `legacy`.
                return gguf_vocabulary(gguf)
                    .and_then(|v| TextTokenizer::of_vocabulary(&v, true, &[], &gguf.path))
                    .map_err(|why| Error::malformed(&gguf.path, why));
            }
            other => return Err(refuse("tokenizer", other)),
        }
        let pre = gguf.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
        let splitter = pre_tokenizer(pre).ok_or_else(|| refuse("pre-tokenizer", pre))?;
        let read = quietly(TRIPPED, || Tokenizer::from_gguf(&gguf.content));
        let mut inner = read.map_err(|e| {
            let why = one_line(e);
            Error::malformed(
                &gguf.path,
                format!("its tokenizer is damaged ({why}): download it again"),
            )
        })?;
        inner.with_pre_tokenizer(Some(splitter));
        // Llama 3 takes a word that is a token whole, whatever its merges; no key says so.
        if let (true, ModelWrapper::BPE(bpe)) = (is_llama3(pre), inner.get_model()) {
            let mut bpe = bpe.clone();
            bpe.ignore_merges = true;
            inner.with_model(bpe);
        }
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        Ok(TextTokenizer::of(inner, &gguf.path))
    }

    /// Ids of a text. Special tokens written in the text are recognised; none are added.
    ///
    /// # Errors
    /// The tokenizer cannot take the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if !self.prefixed {
            return self.ids(text);
        }
        // The space belongs to the text, so it comes behind the token that begins one.
        let (bos, text) = match &self.bos {
            Some((bos, id)) if text.starts_with(bos) => (Some(*id), &text[bos.len()..]),
            _ => (None, text),
        };
        let mut ids: Vec<u32> = bos.into_iter().collect();
        if text.is_empty() {
            return Ok(ids);
        }
        let rest = self.ids(&format!(" {text}"))?;
        // A special token first has no space before it.
        let added = self.inner.get_added_tokens_decoder();
        let alone = !text.starts_with(' ')
            && rest.get(1).is_some_and(|id| added.contains_key(id))
            && self.inner.id_to_token(rest[0]).as_deref() == Some("\u{2581}");
        ids.extend_from_slice(&rest[usize::from(alone)..]);
        Ok(ids)
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let text = text.to_string();
        self.within_patience(text.len(), move |inner| {
            let encoding = inner.encode_fast(text, false)?;
            Ok(encoding.get_ids().to_vec())
        })
        .map_err(|e| self.damaged(&format!("a text cannot be tokenized by it ({e})")))
    }

    /// An error of the file that it is from.
    pub(crate) fn damaged(&self, why: &str) -> Error {
        Error::malformed(&self.path, format!("{why}: download it again"))
    }

    /// Has the library work; where a file has patterns of its own, on a thread that is not waited
    /// for without end, since there are patterns that take years on a text of a page.
    fn within_patience<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Tokenizer) -> tokenizers::Result<T> + Send + 'static,
    ) -> std::result::Result<T, String> {
        let inner = self.inner.clone();
        let work = move || quietly(TRIPPED, || work(&inner)).map_err(one_line);
        if !self.has_patterns {
            return work();
        }
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        let begun = std::thread::Builder::new().spawn(move || done.send(work()));
        begun.map_err(|e| format!("no thread: {e}"))?;
        let patience = PATIENCE + Duration::from_secs((bytes / BYTES_A_SECOND) as u64);
        outcome
            .recv_timeout(patience)
            .map_err(|_| format!("its patterns take more than {} s", patience.as_secs()))?
    }

    /// SentencePiece's token that begins a text, as it is written; other tokenizers leave it to
    /// the files beside them.
    pub fn bos_text(&self) -> Option<&str> {
        self.bos.as_ref().map(|(text, _)| text.as_str())
    }

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// The tokenizer cannot take the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let ids = ids.to_vec();
        self.within_patience(ids.len(), move |inner| inner.decode(&ids, true))
            .map_err(|e| self.damaged(&format!("tokens cannot be turned to text by it ({e})")))
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

const SENTENCEPIECE: &str = "tokenizer.model";

/// The SentencePiece vocabulary in a GGUF file's metadata.
fn gguf_vocabulary(gguf: &GgufModel) -> std::result::Result<Vocabulary, String> {
    let damaged = || "its tokenizer is damaged: download it again".to_string();
    let array = |key: &str| gguf.array(key).ok_or_else(damaged);
    let tokens = array("tokenizer.ggml.tokens")?;
    let scores = array("tokenizer.ggml.scores")?;
    let kinds = array("tokenizer.ggml.token_type")?;
    if tokens.len() != scores.len() || tokens.len() != kinds.len() {
        return Err(damaged());
    }
    let piece = |((token, score), kind): ((&Value, &Value), &Value)| match (token, score, kind) {
        (Value::String(text), Value::F32(score), Value::I32(kind)) => Some(Piece {
            text: text.clone(),
            score: *score,
            kind: Kind::numbered((*kind).into())?,
        }),
        _ => None,
    };
    let pieces = tokens.iter().zip(scores).zip(kinds).map(piece);
    let bos = gguf.integer("tokenizer.ggml.bos_token_id").unwrap_or(1);
    Ok(Vocabulary {
        pieces: pieces.collect::<Option<_>>().ok_or_else(damaged)?,
        add_dummy_prefix: gguf.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true),
        bos: u32::try_from(bos).ok(),
    })
}

/// Tokens that `added_tokens.json` (text to id) and `added_tokens_decoder` (id to properties)
/// put behind a vocabulary of `known`.
fn additions(dir: &Path, config: &serde_json::Value, known: usize) -> Result<Vec<Addition>> {
    let mut added: BTreeMap<u64, (String, bool)> = BTreeMap::new();
    let plain = optional_json(&dir.join("added_tokens.json"))?;
    for (text, id) in plain.as_object().into_iter().flatten() {
        if let Some(id) = id.as_u64() {
            // Without more being said, a token in brackets is one of control.
            let special = text.starts_with('<') && text.ends_with('>') || text.starts_with('[');
            added.insert(id, (text.clone(), special));
        }
    }
    let listed = config["added_tokens_decoder"].as_object();
    for (id, token) in listed.into_iter().flatten() {
        if let (Ok(id), Some(text)) = (id.parse(), token["content"].as_str()) {
            let special = token["special"].as_bool().unwrap_or(false);
            added.insert(id, (text.to_string(), special));
        }
    }
    let later = added.into_iter().filter(|(id, _)| *id >= known as u64);
    later
        .map(|(id, (text, special))| match u32::try_from(id) {
            Ok(id) => Ok(Addition { id, text, special }),
            Err(_) => Err(Error::malformed(
                dir,
                format!("an added token has the id {id}: download the tokenizer again"),
            )),
        })
        .collect()
}

fn is_llama3(pre: &str) -> bool {
    ["llama-bpe", "llama3", "llama-v3"].contains(&pre)
}

/// How a GGUF file's `tokenizer.ggml.pre` splits text before byte-level BPE. The tensor library
/// knows two of these and takes the rest for GPT-2 with a space put before every text.
fn pre_tokenizer(name: &str) -> Option<PreTokenizerWrapper> {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let words = ByteLevel::new(false, true, true);
    let parts: Vec<PreTokenizerWrapper> = match name {
        "smollm" => vec![Digits::new(true).into(), words.into()],
        "gpt-2" | "gpt2" => vec![words.into()],
        name if is_llama3(name) => {
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
        assert!(
            message().contains("neither tokenizer.json"),
            "{}",
            message()
        );
        std::fs::write(dir.path().join("tokenizer.model"), "").unwrap();
        assert!(message().contains("tokenizer.model: "), "{}", message());
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
