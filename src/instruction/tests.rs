use super::*;

fn parse(path: &Path, text: &str) -> Result<Vec<Instruction>> {
    parse_with(path, text.as_bytes(), &Columns::default())
}

/// Reads `text` from a file of the same name elsewhere.
fn parse_with(path: &Path, text: &[u8], columns: &Columns) -> Result<Vec<Instruction>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(path);
    std::fs::write(&path, text).unwrap();
    read_with(&path, columns)
}

#[test]
fn the_embedded_set_is_whole_and_varied() {
    let all = embedded();
    assert_eq!(all.len(), 640);
    let categories: HashSet<_> = all.iter().map(|i| i.category.clone()).collect();
    assert_eq!(categories.len(), 16);
    for split in [Split::Train, Split::Validation, Split::Test] {
        assert!(all.iter().filter(|i| i.split == Some(split)).count() >= 96);
    }
}

#[test]
fn reads_every_shape() {
    let path = Path::new("x.json");
    let lines = "{\"text\":\"a\"}\n\n{\"id\":7,\"instruction\":\"b\",\"input\":\"c\"}";
    let read = parse(path, lines).unwrap();
    assert_eq!(read[0].id, "0");
    assert_eq!(
        (read[1].id.as_str(), read[1].text.as_str()),
        ("7", "b\nInput:\nc")
    );
    let chat = r#"[{"id":"5","conversations":[{"from":"human","value":"q"},
        {"from":"gpt","value":"r"}]}]"#;
    assert_eq!(parse(path, chat).unwrap()[0].text, "q");
}

#[test]
fn mistakes_name_their_line() {
    for (text, named) in [
        ("{\"text\":\"a\"}\nnot json", "line 2"),
        ("{\"id\":\"1\"}", "line 1"),
        ("", "no instructions"),
        (
            "{\"id\":1,\"text\":\"a\"}\n{\"id\":1,\"text\":\"b\"}",
            "twice",
        ),
        ("{\"text\":\"a\",\"split\":\"dev\"}", "line 1"),
    ] {
        let message = parse(Path::new("x.jsonl"), text).unwrap_err().to_string();
        assert!(
            message.contains(named) && message.contains("x.jsonl"),
            "{message}"
        );
    }
}

#[test]
fn tables_and_plain_text_are_read() {
    let alpaca = "instruction,input,output,text\n\"Add, please\",1 2,3,whole prompt\nb,,x,y\n";
    let read = parse(Path::new("a.csv"), alpaca).unwrap();
    let texts: Vec<_> = read
        .iter()
        .map(|i| (i.id.as_str(), i.text.as_str()))
        .collect();
    assert_eq!(texts, [("0", "Add, please\nInput:\n1 2"), ("1", "b")]);
    let read = parse(Path::new("a.txt"), "\u{feff}one\r\n\n two \n").unwrap();
    let texts: Vec<_> = read
        .iter()
        .map(|i| (i.id.as_str(), i.text.as_str()))
        .collect();
    assert_eq!(texts, [("0", "one"), ("2", "two")]);

    use polars::prelude::*;
    let mut frame = df!("instruction" => ["a", "b"], "input" => ["", "c"]).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    let path = Path::new("a.parquet");
    let read = parse_with(path, &bytes, &Columns::default()).unwrap();
    assert_eq!(read[1].text, "b\nInput:\nc");
    let prompts = Columns {
        text: Some("prompt".into()),
        ..Columns::default()
    };
    let message = parse_with(path, &bytes, &prompts).unwrap_err().to_string();
    assert!(
        message.contains("no column `prompt` (--text-column)"),
        "{message}"
    );
    assert!(message.contains("`instruction`, `input`"), "{message}");
}

#[test]
fn named_columns_are_taken_and_must_be_there() {
    let columns = Columns {
        text: Some("q".into()),
        id: Some("n".into()),
        category: Some("topic".into()),
        split: Some("part".into()),
        input: Some("more".into()),
    };
    let json = r#"{"q":"a","n":7,"topic":"t","part":"test","more":"m","text":"no","id":1}"#;
    let csv = "n,q,topic,part,more,text\n7,a,t,test,m,no\n";
    for (name, text) in [("a.jsonl", json), ("a.csv", csv)] {
        let read = parse_with(Path::new(name), text.as_bytes(), &columns).unwrap();
        assert_eq!(read[0].id, "7");
        assert_eq!(read[0].text, "a\nInput:\nm");
        assert_eq!(read[0].category.as_deref(), Some("t"));
        assert_eq!(read[0].split, Some(Split::Test));
    }
    for (text, flag) in [
        (
            r#"{"n":1,"topic":"t","part":"test","more":"m"}"#,
            "--text-column",
        ),
        (
            r#"{"q":"a","topic":"t","part":"test","more":"m"}"#,
            "--id-column",
        ),
        (
            r#"{"q":"a","n":1,"part":"test","more":"m"}"#,
            "--category-column",
        ),
    ] {
        let read = parse_with(Path::new("a.jsonl"), text.as_bytes(), &columns);
        let message = read.unwrap_err().to_string();
        assert!(message.contains(flag), "{message}");
    }
}
