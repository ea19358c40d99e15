use super::*;

fn wanted(names: &[&str]) -> Vec<Wanted> {
    names
        .iter()
        .map(|name| Wanted {
            name: name.to_string(),
            flag: "--flag",
            required: true,
        })
        .collect()
}

fn rows(name: &str, bytes: &[u8], names: &[&str]) -> Result<Vec<(String, Vec<Option<String>>)>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut rows = Vec::new();
    let format = Format::of(&path).unwrap();
    read(&path, format, &wanted(names), &mut |place, cells| {
        let texts = cells
            .iter()
            .map(|c| c.text().map(std::borrow::Cow::into_owned));
        rows.push((place.name(&path), texts.collect()));
        Ok(())
    })?;
    Ok(rows)
}

fn texts(row: &[Option<String>]) -> Vec<&str> {
    row.iter()
        .map(|cell| cell.as_deref().unwrap_or("-"))
        .collect()
}

#[test]
fn csv_with_everything_that_csv_may_have() {
    let bytes = b"\xef\xbb\xbfa,b,c\r\n1,\"x, \"\"y\"\"\r\nz\",3\r\n\r\n,2,\r\n";
    let rows = rows("t.csv", bytes, &["c", "b", "a"]).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(texts(&rows[0].1), ["3", "x, \"y\"\r\nz", "1"]);
    assert_eq!(texts(&rows[1].1), ["-", "2", "-"]);
    // The second record begins on the fifth line: a field spans two, and one is empty.
    assert_eq!(
        (rows[0].0.as_str(), rows[1].0.as_str()),
        ("line 2", "line 5")
    );
}

#[test]
fn json_lines_keep_only_what_is_wanted() {
    let bytes =
        "\u{feff}{\"a\": 1, \"x\": [1, {\"b\": 2}], \"b\": \"t\\n\"}\r\n\n{\"b\":null,\"a\":2.5}";
    let rows = rows("t.jsonl", bytes.as_bytes(), &["a", "b"]).unwrap();
    assert_eq!(texts(&rows[0].1), ["1", "t\n"]);
    assert_eq!(
        (rows[1].0.as_str(), texts(&rows[1].1)),
        ("line 3", vec!["2.5", "-"])
    );
}

#[test]
fn mistakes_name_their_line_and_what_there_is() {
    for (name, bytes, named) in [
        ("t.csv", &b""[..], &["empty"][..]),
        (
            "t.csv",
            b"b,c\n1,2\n",
            &["no column `a` (--flag)", "`b`, `c`"],
        ),
        ("t.csv", b"a,a\n1,2\n", &["`a` twice"]),
        ("t.csv", b"a,b\n1,2\n1\n", &["line 3", "1 fields", "2"]),
        ("t.csv", b"a\nx\n\xff\n", &["line 3", "UTF-8"]),
        (
            "t.csv",
            b"a,b\n1,2\n3,\"4\n5,6\n",
            &["line 3", "never closed"],
        ),
        ("t.csv", b"a\n\"", &["line 2", "never closed"]),
        ("t.csv", b"\"a", &["line 1", "never closed"]),
        ("t.csv", b"a\xff\nx\n", &["line 1", "UTF-8"]),
        ("t.jsonl", b"", &["empty"]),
        (
            "t.jsonl",
            b"{\"b\": 1}\n",
            &["no column `a` (--flag)", "`b`"],
        ),
        ("t.jsonl", b"{\"a\": 1}\n{\"a\": \n", &["line 2"]),
        ("t.jsonl", b"{\"a\": 1}\n[1]\n", &["line 2", "object"]),
        ("t.jsonl", b"{\"a\": [1]}\n", &["line 1", "`a`"]),
        ("t.jsonl", b"{\"a\": 1} x\n", &["line 1"]),
        ("t.jsonl", b"{\"a\": \"\xff\"}\n", &["line 1", "UTF-8"]),
        ("t.parquet", b"no", &["not a readable Parquet file"]),
    ] {
        let message = rows(name, bytes, &["a"]).unwrap_err().to_string();
        for part in named.iter().chain(&[name]) {
            assert!(message.contains(part), "`{part}` is not in {message}");
        }
    }
}

#[test]
fn parquet_of_other_tools_is_read_by_type() {
    use polars::prelude::*;
    let mut frame = df!(
        "n" => [Some(1i64), None, Some(3)],
        "x" => [0.5f32, 1.5, 2.5],
        "t" => ["a", "", "c"],
    )
    .unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_row_group_size(Some(2))
        .finish(&mut frame)
        .unwrap();
    let rows = rows("t.parquet", &bytes, &["t", "n", "x"]).unwrap();
    assert_eq!(texts(&rows[0].1), ["a", "1", "0.5"]);
    assert_eq!(texts(&rows[1].1), ["-", "-", "1.5"]);
    assert_eq!(
        (rows[2].0.as_str(), texts(&rows[2].1)),
        ("row 3", vec!["c", "3", "2.5"])
    );
    let message = self::rows("t.parquet", &bytes, &["y"])
        .unwrap_err()
        .to_string();
    assert!(message.contains("`n`, `x`, `t`"), "{message}");
}

#[test]
fn the_last_row_of_a_csv_may_end_as_it_likes() {
    for (bytes, last) in [
        (&b"a\n1\n2"[..], "2"),
        (b"a\n1\n2\n", "2"),
        (b"a\n1\n\"2\"", "2"),
        (b"a\r\n1\r\n\"2\n\"\r\n\r\n", "2\n"),
        (b"a\n1\n\0", "\0"),
        (b"a\n1\n\0\n", "\0"),
    ] {
        let rows = rows("t.csv", bytes, &["a"]).unwrap();
        assert_eq!((rows.len(), texts(&rows[1].1)), (2, vec![last]));
    }
}

#[test]
fn row_groups_of_few_rows_are_read_together() {
    use polars::prelude::*;
    let numbers: Vec<i64> = (0..1000).collect();
    let mut frame = df!("a" => numbers).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_row_group_size(Some(1))
        .finish(&mut frame)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    std::fs::write(&path, bytes).unwrap();
    let table = parquet::Table::open(&path).unwrap();
    let mut seen = Vec::new();
    table
        .batches(&["a"], |begin, frame| {
            seen.push((begin, frame.height()));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [(0, 1000)]);
}
