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

    let llama_2 = ChatTemplate::named("llama-2").unwrap();
    assert_eq!(llama_2.render(" Hi\n").unwrap(), "[INST] Hi [/INST]");
    let llama_3 = ChatTemplate::named("llama-3").unwrap();
    assert_eq!(
        llama_3.render(" Hi\n").unwrap(),
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant\
         <|end_header_id|>\n\n"
    );
}

/// A tokenizer that knows `tokens` and nothing else.
fn tokenizer(tokens: &[&str]) -> String {
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.to_string(), id.into()))
        .collect();
    serde_json::json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab,
        "unk_token": tokens[0]}, "added_tokens": []})
    .to_string()
}

#[test]
fn a_model_without_template_is_known_by_its_name_or_its_tokens() {
    let bos = r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#;
    let llama_3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>"];
    let begin = r#"{"bos_token": "<|begin_of_text|>"}"#;
    for (name, tokens, config, start) in [
        ("Vicuna-7B", &["a"][..], bos, "<s>A chat between"),
        ("Llama-2-7b-chat-hf", &["a"], bos, "<s>[INST] Hi [/INST]"),
        (
            "llama2-chat",
            &["a"],
            r#"{"bos_token": "<s>", "add_bos_token": false}"#,
            "[INST] Hi",
        ),
        (
            "x",
            &llama_3,
            begin,
            "<|begin_of_text|><|start_header_id|>user<",
        ),
        (
            "x",
            &["<|im_start|>", "<|im_end|>"],
            "{}",
            "<|im_start|>system\n",
        ),
    ] {
        let vocabulary = tokenizer(tokens);
        let files = [
            ("tokenizer_config.json", config),
            ("tokenizer.json", &vocabulary),
        ];
        let (_root, files) = directory(name, &files);
        let text = ChatTemplate::from_files(&files)
            .unwrap()
            .render("Hi")
            .unwrap();
        assert!(text.starts_with(start), "{name}: {text}");
    }
    for name in ["Llama-2-7b-hf", "some-model"] {
        let (_root, files) = directory(name, &[("tokenizer.json", &tokenizer(&["a"]))]);
        let message = ChatTemplate::from_files(&files).unwrap_err().to_string();
        for part in [name, "--chat-template", "llama-2", "vicuna_v1.1"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}

#[test]
fn a_chosen_template_goes_before_the_model_s_own() {
    let own = r#"{"bos_token": "<s>", "chat_template": "own {{ messages[0].content }}"}"#;
    let vocabulary = tokenizer(&["a"]);
    let files = [
        ("tokenizer_config.json", own),
        ("tokenizer.json", &vocabulary),
    ];
    let (root, files) = directory("some-model", &files);
    let mine = root.path().join("mine.jinja");
    fs::write(&mine, "{{ bos_token }}<s><s>mine {{ messages[0].content }}").unwrap();
    let with = |choice: Option<&str>| {
        let files = files.clone().with_chat_template(choice.map(String::from));
        ChatTemplate::from_files(&files)?.render("Hi")
    };
    assert_eq!(with(None).unwrap(), "own Hi");
    assert_eq!(with(Some("llama-2")).unwrap(), "<s>[INST] Hi [/INST]");
    // However often a template writes it, a prompt begins once.
    assert_eq!(with(mine.to_str()).unwrap(), "<s>mine Hi");
    let error = with(Some("lama-2")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    for part in ["`lama-2`", "llama-2, llama-3", "Jinja"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    fs::write(&mine, b"\xff\xfe").unwrap();
    let error = with(mine.to_str()).unwrap_err();
    assert!(
        error.to_string().contains("mine.jinja: is not text"),
        "{error}"
    );
}

#[test]
fn a_directory_brings_its_template_in_three_ways() {
    let plain =
        r#"{"bos_token": "<s>", "chat_template": "{{ bos_token }}1{{ messages[0]['content'] }}"}"#;
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
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
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
