//! Chat templates of strangers that would take the process down: each is one line that names the
//! model, and nothing of the user's is touched.

use std::path::Path;

use serde_json::json;

use crate::{lenaware, refusal, succeed, text, tiny_model};

/// A model whose own template this is, and an instruction.
fn prepare(dir: &Path, template: &str) {
    let model = dir.join("model");
    tiny_model::write(&model, 1);
    let config = json!({"chat_template": template, "bos_token": "<s>"});
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(
        dir.join("in.jsonl"),
        "{\"id\": \"a\", \"text\": \"Say hi.\"}\n",
    )
    .unwrap();
}

const SHOW: &str = "--offline build-dataset --model model --instructions in.jsonl --out out \
                    --max-new-tokens 2 --temperatures 0 --show-prompt";

#[test]
fn what_would_take_the_process_down_is_an_error() {
    let long = |piece: &str, count: usize| piece.repeat(count);
    let set = "{% set ns = namespace(a=[1]) %}";
    let hostile = [
        // Compiling it goes as deep as it is long.
        format!("{{{{ {} 1 }}}}", long("not ", 100_000)),
        format!("{{{{ 1{} }}}}", long("+1", 200_000)),
        format!("{{{{ a{} }}}}", long(".b", 200_000)),
        format!("{{{{ 'a'{} }}}}", long("|upper", 200_000)),
        format!("{{% if 0 %}}{}{{% endif %}}", long("{% elif 0 %}", 50_000)),
        // Values that hold themselves.
        format!("{set}{{% set ns.a = ns %}}{{{{ ns }}}}"),
        format!("{set}{{% set ns.a = ns %}}{{{{ ns ~ '' }}}}"),
        format!("{set}{{% set ns.a = ns %}}{{{{ ns|tojson }}}}"),
        format!("{set}{{% set ns.a = ns %}}{{{{ ns|pprint }}}}"),
        // Values within values.
        format!(
            "{set}{{% for i in range(100000) %}}{{% set ns.a = [ns.a] %}}{{% endfor %}}{{{{ ns.a }}}}"
        ),
        format!("{}{{{{ a }}}}", long("{% set a=[a] %}", 60_000)),
        // A billion laughs.
        format!(
            "{set}{{% for i in range(40) %}}{{% set ns.a = [ns.a, ns.a] %}}{{% endfor %}}{{{{ ns.a }}}}"
        ),
        format!(
            "{set}{{% for i in range(60) %}}{{% set ns.a = ns.a + ns.a %}}{{% endfor %}}{{{{ ns.a|length }}}}"
        ),
        format!(
            "{set}{{% for i in range(6) %}}{{% set ns.a = [ns.a] * 10000 %}}{{% endfor %}}{{{{ ns.a }}}}"
        ),
        "{{ '{:>10000000000}'.format(1) }}".into(),
        "{{ '{:>1000000000}'.format(1) }}".into(),
        "{{ [[[[1]]]]|tojson(indent=1000000000) }}".into(),
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}".into(),
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}".into(),
        "{% include '/etc/passwd' %}".into(),
        "{% extends '../../secret' %}".into(),
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}".into(),
    ];
    for template in hostile {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), &template);
        let output = lenaware(dir.path())
            .args(SHOW.split_whitespace())
            .output()
            .unwrap();
        let shown: String = template.chars().take(90).collect();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{shown}: {}",
            text(&output.stderr)
        );
        let line = refusal(&output, 1);
        assert!(
            line.contains("model") && line.contains("template"),
            "{shown}: {line}"
        );
        assert!(line.len() < 600, "{shown}: {line}");
        assert!(!dir.path().join("out").exists(), "{shown}");
    }
}

#[test]
fn a_template_of_a_stranger_renders_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}\
                    {{ ns.n }} {{ m['content'] | trim }}\u{e9}\u{1f600}\n{% endfor %}";
    prepare(dir.path(), template);
    let lines = "{\"id\": \"a\", \"text\": \" Say \\\"hi\\\".\\n\\u0001 \"}\n{\"id\": \"b\", \"text\": \"Why?\"}\n";
    std::fs::write(dir.path().join("in.jsonl"), lines).unwrap();
    let shown = succeed(lenaware(dir.path()).args(SHOW.split_whitespace()));
    assert!(shown.contains("1 Say \"hi\"."), "{shown}");
    let build = SHOW.replace(" --show-prompt", "");
    succeed(lenaware(dir.path()).args(build.split_whitespace()));
    // Whoever has the variable that tells the process apart, and nothing to tell it, gets nothing.
    let mut asked = lenaware(dir.path());
    let nothing = asked.env("LENAWARE_RENDERS", "1").output().unwrap();
    assert!(nothing.status.success() && nothing.stdout.is_empty());
}
