use super::super::tests::{hub, mock_of};
use super::*;

fn server(files: &'static [(&'static str, &'static str)]) -> String {
    mock_of("/api/datasets/org/name", "/datasets/org/name", files)
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(std::string::ToString::to_string).collect()
}

#[test]
fn the_training_shards_of_the_best_format_are_chosen() {
    let alpaca = [
        ".gitattributes",
        "README.md",
        "data/train-00000-of-00001-a09b74b3.parquet",
    ];
    assert_eq!(choose(&names(&alpaca), None).unwrap(), [alpaca[2]]);
    let several = [
        "main/test-00000-of-00001.parquet",
        "main/train-00001-of-00002.parquet",
        "main/train-00000-of-00002.parquet",
        "train.jsonl",
    ];
    assert_eq!(
        choose(&names(&several), None).unwrap(),
        [several[2], several[1]]
    );
    assert_eq!(
        choose(&names(&["a.json", "dataset_infos.json"]), None).unwrap(),
        ["a.json"]
    );
    assert_eq!(
        choose(&names(&several), Some("train.jsonl")).unwrap(),
        ["train.jsonl"]
    );
    for (there, file, told) in [
        (
            &["a.parquet", "b.parquet"][..],
            None,
            "`:FILE` (a.parquet, b.parquet)",
        ),
        (&["x/train.csv", "y/train.csv"], None, "x/train.csv"),
        (&["README.md"], None, "README.md"),
        (&["../../x.parquet", "/etc/y.parquet"], None, "no Parquet"),
        (&["a.parquet"], Some("b.parquet"), "no file `b.parquet`"),
    ] {
        let message = choose(&names(there), file).unwrap_err();
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn a_dataset_is_downloaded_and_found_again_offline() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = server(&[
        ("README.md", "not wanted"),
        ("data/train-00000-of-00002.jsonl", "{\"text\":\"a\"}"),
        ("data/train-00001-of-00002.jsonl", "{\"text\":\"b\"}"),
        ("data/test.jsonl", "{\"text\":\"t\"}"),
    ]);
    let mut hub = hub(dir.path(), endpoint);
    let files = hub.dataset("org/name").unwrap();
    let texts: Vec<String> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    assert_eq!(texts, ["{\"text\":\"a\"}", "{\"text\":\"b\"}"]);
    let named = hub.dataset("org/name:data/test.jsonl").unwrap();
    assert!(named[0].ends_with("data/test.jsonl"));
    hub.offline = true;
    assert_eq!(hub.dataset("org/name").unwrap(), files);
    assert_eq!(hub.dataset("org/name@c0ffee").unwrap(), files);
    assert_eq!(hub.dataset("org/name@main:data/test.jsonl").unwrap(), named);
    let message = hub.dataset("org/other").unwrap_err().to_string();
    assert!(
        message.contains("offline") && message.contains("hub:org/other"),
        "{message}"
    );
    // Out of reach, what is there is used.
    hub.offline = false;
    hub.endpoint = Some("http://127.0.0.1:9".into());
    assert_eq!(hub.dataset("org/name").unwrap(), files);
}

#[test]
fn names_that_leave_the_cache_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path(), "http://127.0.0.1:9".into());
    for bad in [
        "org",
        "../x",
        "org/name:",
        "org/name:../x",
        "org/name:/etc/passwd",
        "o/n@:x",
    ] {
        let error = hub.dataset(bad).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{bad}: {error}");
    }
}
