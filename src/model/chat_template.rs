//! Chat templates: from an instruction to the prompt a model was tuned on.
//!
//! Templates are Jinja as Hugging Face runs it: `trim_blocks`, `lstrip_blocks`, Python's string
//! methods, `raise_exception`, `strftime_now`. The last gives one fixed day, the one Llama 3's
//! own template falls back to: a prompt, and with it a response, must not depend on the date.

mod apart;
mod rendering;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::digest::sha256_bytes;
use crate::error::{Error, Result};

use super::built_in_templates as built_in;
use super::gguf::GgufModel;
use super::source::{ModelFiles, WeightFiles, optional_json};
use super::tokenizer::TextTokenizer;

pub use apart::{render_by, serve_if_asked};

use apart::Apart;
use rendering::Rendering;

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    renderer: Renderer,
    source: String,
    origin: PathBuf,
    bos_token: String,
    /// Whether a prompt must begin with `bos_token` even where the template writes none.
    ensures_bos: bool,
}

/// Where it is rendered.
#[derive(Debug, Clone)]
enum Renderer {
    Here(Box<Rendering>),
    Apart(Arc<Apart>),
}

impl ChatTemplate {
    /// The template that was chosen for these files ([`ModelFiles::with_chat_template`]), else
    /// the one the model came with: of the GGUF metadata, of `chat_template.jinja`, or of
    /// `tokenizer_config.json`. Without either, a built-in one that the model's name or the
    /// special tokens of its vocabulary tell of.
    ///
    /// # Errors
    /// There is none, or it is not valid.
    pub fn from_files(files: &ModelFiles) -> Result<ChatTemplate> {
        let mut parts = match &files.weights {
            WeightFiles::Gguf(path) => of_gguf(&GgufModel::open(path)?),
            WeightFiles::Safetensors(_) | WeightFiles::Torch(_) => of_directory(files.path())?,
        };
        let mut origin = files.path();
        if let Some(choice) = &files.chat_template {
            parts.source = None;
            if !built_in::NAMES.contains(&choice.as_str()) {
                origin = Path::new(choice);
                parts.source = Some(read(origin)?);
            }
        }
        if let Some(source) = parts.source.take() {
            return ChatTemplate::new(source, origin, parts);
        }
        let tokenizer = TextTokenizer::from_files(files)?;
        let chosen = files.chat_template.as_deref();
        let names = format!("{} {}", files.name, parts.name.as_deref().unwrap_or(""));
        let name = chosen.or_else(|| built_in::detected(&names, &tokenizer));
        let Some(source) = name.and_then(built_in::source) else {
            return Err(Error::malformed(
                origin,
                format!(
                    "has no chat template, and which one it was tuned on is not known: give one \
                     with --chat-template, {} or the path of a Jinja file",
                    built_in::NAMES.join(", ")
                ),
            ));
        };
        // What a built-in template begins with is the tokenizer's to say.
        parts.bos_token = match parts.adds_bos {
            Some(false) => None,
            _ => parts.bos_token.or(tokenizer.bos_text().map(String::from)),
        };
        ChatTemplate::new(source.into(), origin, parts)
    }

    /// A built-in template: `chatml` (SmolLM2's), `llama-2`, `llama-3` or `vicuna_v1.1`. No
    /// token is put before it.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<ChatTemplate> {
        let Some(source) = built_in::source(name) else {
            return Err(Error::Usage(format!(
                "no chat template `{name}`: use {}",
                built_in::NAMES.join(", ")
            )));
        };
        ChatTemplate::new(source.into(), Path::new(name), Parts::default())
    }

    fn new(source: String, origin: &Path, parts: Parts) -> Result<ChatTemplate> {
        let bos_token = parts.bos_token.unwrap_or_default();
        let eos_token = parts.eos_token.unwrap_or_default();
        // Those that come with this program hurt nobody.
        let known = built_in::NAMES
            .iter()
            .any(|name| built_in::source(name) == Some(&source));
        let renderer = match apart::is_possible() && !known {
            true => Apart::new(&source, &bos_token, &eos_token)
                .map(|apart| Renderer::Apart(Arc::new(apart))),
            false => Rendering::new(&source, &bos_token, &eos_token)
                .map(|rendering| Renderer::Here(Box::new(rendering))),
        };
        Ok(ChatTemplate {
            renderer: renderer.map_err(|why| failed(origin, &why))?,
            source,
            origin: origin.to_path_buf(),
            bos_token,
            ensures_bos: parts.ensures_bos,
        })
    }

    /// The prompt for one instruction, up to where the model's answer begins. It begins with
    /// one token of beginning where the template writes any. What the template writes is what
    /// there is, as with transformers' `apply_chat_template`; only for a GGUF file that asks for
    /// the token, or is silent and has a SentencePiece vocabulary, is it added, as llama.cpp does.
    ///
    /// # Errors
    /// The template refuses, or does not end.
    pub fn render(&self, instruction: &str) -> Result<String> {
        let text = match &self.renderer {
            Renderer::Here(rendering) => rendering.render(instruction),
            Renderer::Apart(apart) => apart.render(instruction),
        };
        let text = text.map_err(|why| failed(&self.origin, &why))?;
        let bos = self.bos_token.as_str();
        if bos.is_empty() {
            return Ok(text);
        }
        let rest = text.trim_start_matches(bos);
        match rest.len() < text.len() || self.ensures_bos {
            true => Ok(format!("{bos}{rest}")),
            false => Ok(text),
        }
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The sha256 of the template's text, as datasets record it.
    pub fn sha256(&self) -> String {
        sha256_bytes(self.source.as_bytes())
    }
}

fn failed(origin: &Path, why: &str) -> Error {
    Error::malformed(origin, format!("its chat template does not work ({why})"))
}

/// A Jinja file of the user's choice.
fn read(path: &Path) -> Result<String> {
    const LIMIT: u64 = 1 << 20;
    let Some(size) = path.metadata().ok().filter(std::fs::Metadata::is_file) else {
        return Err(Error::Usage(format!(
            "there is no chat template `{}`: use {} or the path of a Jinja file",
            path.display(),
            built_in::NAMES.join(", ")
        )));
    };
    if size.len() > LIMIT {
        return Err(Error::malformed(
            path,
            "is too large for a chat template: give a Jinja file",
        ));
    }
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => {
            Error::malformed(path, "is not text: give a Jinja file as the chat template")
        }
        _ => Error::io(path, e),
    })
}

/// What a model's files say of its prompts.
#[derive(Default)]
struct Parts {
    source: Option<String>,
    bos_token: Option<String>,
    eos_token: Option<String>,
    /// Whether the tokenizer is said to begin texts with `bos_token`.
    adds_bos: Option<bool>,
    ensures_bos: bool,
    /// What the model calls itself.
    name: Option<String>,
}

fn of_gguf(gguf: &GgufModel) -> Parts {
    let token = |key: &str| {
        let id = u32::try_from(gguf.integer(key)?).ok()?;
        gguf.text_at("tokenizer.ggml.tokens", id).map(String::from)
    };
    let adds_bos = gguf.flag("tokenizer.ggml.add_bos_token");
    let sentencepiece = gguf.text("tokenizer.ggml.model") == Some("llama");
    Parts {
        source: gguf.text("tokenizer.chat_template").map(String::from),
        bos_token: token("tokenizer.ggml.bos_token_id"),
        eos_token: token("tokenizer.ggml.eos_token_id"),
        adds_bos,
        ensures_bos: adds_bos.unwrap_or(sentencepiece),
        name: gguf.text("general.name").map(String::from),
    }
}

fn of_directory(dir: &Path) -> Result<Parts> {
    let config = optional_json(&dir.join("tokenizer_config.json"))?;
    let specials = optional_json(&dir.join("special_tokens_map.json"))?;
    let token = |key: &str| {
        let value = match &config[key] {
            Value::Null => &specials[key],
            value => value,
        };
        let text = value.as_str().or_else(|| value["content"].as_str());
        text.map(String::from)
    };
    let path = dir.join("chat_template.jinja");
    let source = if path.is_file() {
        Some(read(&path)?)
    } else {
        match &config["chat_template"] {
            Value::String(text) => Some(text.clone()),
            Value::Array(named) => named
                .iter()
                .find(|t| t["name"] == "default")
                .or(named.first())
                .and_then(|t| t["template"].as_str())
                .map(String::from),
            _ => None,
        }
    };
    Ok(Parts {
        source,
        bos_token: token("bos_token"),
        eos_token: token("eos_token"),
        adds_bos: config["add_bos_token"].as_bool(),
        ensures_bos: false,
        name: None,
    })
}

#[cfg(test)]
#[path = "chat_template_tests.rs"]
mod tests;
