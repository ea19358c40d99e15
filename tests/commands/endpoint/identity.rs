//! Which server, which model, which key: what is checked, recorded and kept secret.

use std::process::Command;

use serde_json::{Value, json};

use super::{COUNT, Folder, TOTAL, failure};
use crate::chat_server::{Reply, Server};
use crate::{files_under, lenaware, refusal, succeed, succeed_json, text};

const KEY: &str = "sk-hunter2-hunter2";

#[test]
fn the_key_reaches_the_server_and_nothing_else() {
    let folder = Folder::new();
    let server = Server::new(|asked| match &asked.authorization {
        Some(key) if *key == format!("Bearer {KEY}") && asked.before > 0 => Reply::Good,
        key => failure(500, &format!("got {key:?}, that is {KEY}")),
    });
    let keyed = |flags: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lenaware"));
        let inner = folder.command(&server.url(), "out", flags);
        command.current_dir(folder.dir.path()).env("MY_KEY", KEY);
        // Everything but `-q`, so that all is said.
        command.args(inner.get_args().filter(|a| *a != "-q"));
        command.args(["-v", "--api-key-env", "MY_KEY"]);
        command
    };
    let output = keyed("").output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("trying again") && said.contains("[key]"),
        "{said}"
    );
    let mut all = vec![text(&output.stdout), said];
    for (path, _) in files_under(folder.dir.path()) {
        all.push(String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned());
    }
    let refused = Server::new(|_| failure(401, &format!("Incorrect API key: {KEY}")));
    let mut command = keyed("--seed 9");
    command.args(["--show-prompt"]);
    all.push(text(&command.output().unwrap().stdout));
    let mut command = folder.command(&refused.url(), "refused", "--api-key-env MY_KEY");
    let line = refusal(&command.env("MY_KEY", KEY).output().unwrap(), 1);
    assert!(line.contains("401") && line.contains("[key]"), "{line}");
    all.push(line);
    assert!(all.iter().all(|text| !text.contains("hunter2")));
    // The default variable, and one that is named but not there.
    let default = Server::new(|_| Reply::Good);
    let mut command = folder.command(&default.url(), "default", "");
    succeed(command.env("OPENAI_API_KEY", KEY));
    let sent = default.asked()[0].authorization.clone();
    assert_eq!(sent, Some(format!("Bearer {KEY}")));
    let mut command = folder.command(&default.url(), "x", "--api-key-env NO_SUCH_KEY");
    let line = refusal(&command.output().unwrap(), 2);
    assert!(line.contains("NO_SUCH_KEY"), "{line}");
}

#[test]
fn names_of_models_are_checked_before_anything_is_asked() {
    let folder = Folder::new();
    let server = Server::new(|_| Reply::Good);
    let url = server.url();
    let line = refusal(
        &folder.command(&url, "x", "--model big").output().unwrap(),
        1,
    );
    for named in ["`big`", "`tiny`", "`other`"] {
        assert!(line.contains(named), "{line}");
    }
    let without = |url: &str, out: &str| {
        let mut command = lenaware(folder.dir.path());
        let fixed = "build-dataset --instructions in.jsonl --temperatures 0 --out";
        command
            .args(fixed.split(' '))
            .args([out, "--endpoint", url]);
        command
    };
    let line = refusal(&without(&url, "x").output().unwrap(), 2);
    assert!(
        line.contains("--model") && line.contains("`other`"),
        "{line}"
    );
    assert!(server.asked().is_empty() && !folder.path("x").exists());
    // A server with one model is asked for that; one without a list for whatever is named.
    let one = Server::with_models(Some(vec!["only"]), "only", |_| Reply::Good);
    succeed(&mut without(&one.url(), "one"));
    assert_eq!(one.asked()[0].body["model"], "only");
    let none = Server::with_models(None, "tiny", |_| Reply::Good);
    succeed(&mut folder.command(&none.url(), "none", ""));
    let line = refusal(&without(&none.url(), "x").output().unwrap(), 2);
    assert!(line.contains("give its name with --model"), "{line}");
}

#[test]
fn a_folder_stays_with_its_model_wherever_that_is_served() {
    let folder = Folder::new();
    let few = "--samples 1 --temperatures 0.7";
    let first = Server::new(|_| Reply::Good);
    succeed(&mut folder.command(&first.url(), "out", few));
    let before = folder.rows("out");
    // Another name, another plan; the same name answered by another model.
    let other = format!("--model other {few}");
    let line = refusal(
        &folder
            .command(&first.url(), "out", &other)
            .output()
            .unwrap(),
        2,
    );
    assert!(
        line.contains("the model was tiny and is now other"),
        "{line}"
    );
    let impostor = Server::with_models(Some(vec!["tiny"]), "tiny-v2", |_| Reply::Good);
    let line = refusal(
        &folder.command(&impostor.url(), "out", "").output().unwrap(),
        1,
    );
    assert!(
        line.contains("`tiny-v2`") && line.contains("`tiny`"),
        "{line}"
    );
    assert_eq!(folder.rows("out"), before);
    assert_eq!(folder.lines("out"), 0);
    // The same model at another port: the larger plan's rows, none asked for twice.
    let moved = Server::new(|_| Reply::Good);
    let built = succeed_json(&mut folder.command(&moved.url(), "out", ""));
    assert_eq!(built["resumed"], COUNT);
    assert_eq!(moved.asked().len(), TOTAL - COUNT);
    let whole = Server::new(|_| Reply::Good);
    succeed(&mut folder.command(&whole.url(), "whole", ""));
    assert_eq!(folder.rows("out"), folder.rows("whole"));
    assert!(before.iter().all(|row| folder.rows("out").contains(row)));
}

#[test]
fn urls_and_flags_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    for (url, flags, named) in [
        ("http://me:hunter2@127.0.0.1:1/v1", "", "user name"),
        ("http://127.0.0.1:1/v1?key=hunter2", "", "query"),
        ("ftp://127.0.0.1", "", "--endpoint"),
        ("http://127.0.0.1:1", "--offline", "--offline"),
        ("http://127.0.0.1:1", "--show-prompt --top-p 0", "--top-p"),
    ] {
        let line = refusal(&folder.command(url, "x", flags).output().unwrap(), 2);
        assert!(line.contains(named) && !line.contains("hunter2"), "{line}");
    }
    for flags in ["--concurrency 0", "--timeout 0", "--slots 3"] {
        let output = folder
            .command("http://127.0.0.1:1", "x", flags)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags}");
    }
    // Nobody is asked to show what would be asked.
    let shown = succeed(&mut folder.command("http://127.0.0.1:1", "x", "--show-prompt"));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        shown["messages"],
        json!([{"role": "user", "content": "Say \"0\"."}])
    );
    assert_eq!(shown["temperature"], 0.0);
    assert!(!folder.path("x").exists());
}
