//! Chat templates: from an instruction to the prompt a model was tuned on.
//!
//! Templates are Jinja as Hugging Face runs it: `trim_blocks`, `lstrip_blocks`, Python's string
//! methods, `raise_exception`, `strftime_now`. The last gives one fixed day, the one Llama 3's
//! own template falls back to: a prompt, and with it a response, must not depend on the date.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

use crate::error::{Error, Result};

use super::gguf::GgufModel;
use super::source::{ModelFiles, WeightFiles, one_line, read_json, sha256_bytes};
use super::tokenizer::TextTokenizer;

/// Steps a template may take; real ones take some hundreds.
const FUEL: u64 = 1_000_000;

const CHATML: &str = "{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful \
AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const VICUNA: &str = "{{ bos_token }}A chat between a curious user and an artificial intelligence \
assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.\
{% for message in messages %}{% if message['role'] == 'user' %}\
{{ ' USER: ' + message['content'] }}{% elif message['role'] == 'assistant' %}\
{{ ' ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}";

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    origin: PathBuf,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template a model came with: of the GGUF metadata, of `chat_template.jinja`, or of
    /// `tokenizer_config.json`. Without one, `vicuna_v1.1` for a model of that name, and
    /// `chatml` for a tokenizer that knows `<|im_start|>`.
    ///
    /// # Errors
    /// There is none, or it is not valid.
    pub fn from_files(files: &ModelFiles) -> Result<ChatTemplate> {
        let (source, bos, eos) = match &files.weights {
            WeightFiles::Gguf(path) => of_gguf(&GgufModel::open(path)?),
            WeightFiles::Safetensors(_) => of_directory(files.path())?,
        };
        if let Some(source) = source {
            return ChatTemplate::new(source, files.path(), bos, eos);
        }
        let vicuna = files.name.to_lowercase().contains("vicuna");
        let source = match vicuna {
            true => VICUNA,
            false
                if TextTokenizer::from_files(files)?
                    .token_id("<|im_start|>")
                    .is_some() =>
            {
                CHATML
            }
            false => {
                return Err(Error::malformed(
                    files.path(),
                    "has no chat template: put one into chat_template.jinja beside the model",
                ));
            }
        };
        ChatTemplate::new(source.into(), files.path(), bos, eos)
    }

    /// A built-in template: `chatml` (SmolLM2's) or `vicuna_v1.1`. No token is put before it.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<ChatTemplate> {
        let source = match name {
            "chatml" => CHATML,
            "vicuna_v1.1" => VICUNA,
            _ => {
                return Err(Error::Usage(format!(
                    "no chat template `{name}`: use `chatml` or `vicuna_v1.1`"
                )));
            }
        };
        ChatTemplate::new(source.into(), Path::new(name), None, None)
    }

    fn new(
        source: String,
        origin: &Path,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Result<ChatTemplate> {
        let bad = |e: minijinja::Error| failed(origin, e);
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(bad)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_fixed);
        environment
            .add_template_owned("chat", source.clone())
            .map_err(bad)?;
        Ok(ChatTemplate {
            environment,
            source,
            origin: origin.to_path_buf(),
            bos_token: bos_token.unwrap_or_default(),
            eos_token: eos_token.unwrap_or_default(),
        })
    }

    /// The prompt for one instruction, up to where the model's answer begins.
    ///
    /// # Errors
    /// The template refuses, or does not end.
    pub fn render(&self, instruction: &str) -> Result<String> {
        let message = context! { role => "user", content => instruction };
        self.environment
            .get_template("chat")
            .and_then(|template| {
                template.render(context! {
                    messages => [message],
                    add_generation_prompt => true,
                    bos_token => &self.bos_token,
                    eos_token => &self.eos_token,
                })
            })
            .map_err(|e| failed(&self.origin, e))
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

fn failed(origin: &Path, error: minijinja::Error) -> Error {
    Error::malformed(
        origin,
        format!("its chat template does not work ({})", one_line(error)),
    )
}

/// Formats the fixed day, 26 July 2024.
fn strftime_fixed(format: String) -> std::result::Result<String, minijinja::Error> {
    let day = jiff::civil::date(2024, 7, 26).at(0, 0, 0, 0);
    jiff::fmt::strtime::format(format, day)
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// Template, first and last token.
type Parts = (Option<String>, Option<String>, Option<String>);

fn of_gguf(gguf: &GgufModel) -> Parts {
    let token = |key: &str| {
        let id = u32::try_from(gguf.integer(key)?).ok()?;
        gguf.text_at("tokenizer.ggml.tokens", id).map(String::from)
    };
    (
        gguf.text("tokenizer.chat_template").map(String::from),
        token("tokenizer.ggml.bos_token_id"),
        token("tokenizer.ggml.eos_token_id"),
    )
}

fn of_directory(dir: &Path) -> Result<Parts> {
    let optional = |name: &str| match dir.join(name) {
        path if path.is_file() => read_json(&path),
        _ => Ok(Value::Null),
    };
    let config = optional("tokenizer_config.json")?;
    let specials = optional("special_tokens_map.json")?;
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
        Some(std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?)
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
    Ok((source, token("bos_token"), token("eos_token")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn directory(name: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, ModelFiles) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(name);
        fs::create_dir(&dir).unwrap();
        for (file, text) in files
            .iter()
            .chain(&[("config.json", "{}"), ("model.safetensors", "")])
        {
            fs::write(dir.join(file), text).unwrap();
        }
        let files = ModelFiles::local(&dir).unwrap();
        (root, files)
    }

    fn rendered(files: &[(&str, &str)]) -> Result<String> {
        let (_root, files) = directory("some-model", files);
        ChatTemplate::from_files(&files)?.render("Hi {{ x }} <b>")
    }

    #[test]
    fn built_in_templates_are_exact() {
        let chatml = ChatTemplate::named("chatml").unwrap();
        assert_eq!(
            chatml.render("Hi").unwrap(),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging \
             Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        let vicuna = ChatTemplate::named("vicuna_v1.1").unwrap();
        let expected = "A chat between a curious user and an artificial intelligence assistant. The \
             assistant gives helpful, detailed, and polite answers to the user's questions. USER: \
             Hi ASSISTANT:";
        assert_eq!(vicuna.render("Hi").unwrap(), expected);
        assert_ne!(vicuna.sha256(), chatml.sha256());
        assert_eq!(ChatTemplate::named("x").unwrap_err().exit_code(), 2);

        let config = [(
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<s>"}}"#,
        )];
        let (_root, files) = directory("Vicuna-7B", &config);
        let vicuna = ChatTemplate::from_files(&files).unwrap();
        assert_eq!(vicuna.render("Hi").unwrap(), format!("<s>{expected}"));
    }

    #[test]
    fn a_directory_brings_its_template_in_three_ways() {
        let plain = r#"{"bos_token": "<s>", "chat_template": "{{ bos_token }}1{{ messages[0]['content'] }}"}"#;
        let named = r#"{"chat_template": [{"name": "tool_use", "template": "no"},
            {"name": "default", "template": "2{{ messages[0].content }}"}]}"#;
        let file = "{%- for m in messages %}\n  {%- if m.content.strip().startswith('Hi') %}\n\
            3{{ m.content }}\n  {% endif %}\n{% endfor %}\n";
        let text = "Hi {{ x }} <b>";
        let config = "tokenizer_config.json";
        assert_eq!(rendered(&[(config, plain)]).unwrap(), format!("<s>1{text}"));
        assert_eq!(rendered(&[(config, named)]).unwrap(), format!("2{text}"));
        let both = [(config, plain), ("chat_template.jinja", file)];
        assert_eq!(rendered(&both).unwrap(), format!("3{text}\n"));
    }

    #[test]
    fn templates_that_fail_are_errors_that_name_the_model() {
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        for (template, part) in [
            ("{{ raise_exception('only pairs') }}", "only pairs"),
            ("{% for %}", "syntax error"),
            (endless, "fuel"),
            ("{{ messages[7].content.text }}", "undefined"),
        ] {
            let message = rendered(&[("chat_template.jinja", template)])
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(part) && message.contains("some-model"),
                "{message}"
            );
            assert!(!message.contains('\n'), "{message}");
        }
        let message = rendered(&[("tokenizer.json", "{}")])
            .unwrap_err()
            .to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
    }

    #[test]
    fn the_day_is_fixed() {
        let day = [("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}")];
        assert_eq!(rendered(&day).unwrap(), "26 Jul 2024");
    }
}
