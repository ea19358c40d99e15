//! `describe`, checked against values computed by a Python script over the same rows.

use crate::{files_under, has_keys, lenaware, read, refusal, succeed, succeed_json};

/// 12 samples of 4 instructions; the limit is 100.
const TABLE: &str = "id,t,n,c,r\n\
    a,0,10,x,Yes.\na,0.7,14,x,Yes I do.\na,0.7,12,x,No.\n\
    b,0,100,x,REPEATED\nb,0.7,80,x,Fine.\nb,0.7,100,x,Fine.\n\
    c,0,40,y,Fine.\nc,0.7,44,y,Fine.\nc,0.7,30,y,REPEATED\n\
    d,0,7,y,Fine.\nd,0.7,9,y,Fine.\nd,0.7,5,y,Fine.\n";

fn imported() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let table = TABLE.replace("REPEATED", &"I see. ".repeat(12));
    std::fs::write(dir.path().join("t.csv"), table).unwrap();
    let mut command = lenaware(dir.path());
    command.args(["import", "--from", "csv", "--lengths", "t.csv"]);
    command.args(["--id-column", "id", "--temperature-column", "t"]);
    command.args(["--response-tokens-column", "n", "--category-column", "c"]);
    command.args(["--response-column", "r", "--max-new-tokens", "100"]);
    succeed(command.args(["--out", "t.parquet"]));
    dir
}

fn near(value: &serde_json::Value, wanted: f64) {
    let value = value.as_f64().unwrap();
    assert!(
        (value - wanted).abs() < 1e-6 * wanted.abs().max(1.0),
        "{value} is not {wanted}"
    );
}

#[test]
fn statistics_are_those_computed_elsewhere() {
    let dir = imported();
    let told = succeed_json(lenaware(dir.path()).args(["--json", "describe", "t.parquet"]));
    assert_eq!(
        (&told["instructions"], &told["max_new_tokens"]),
        (&4.into(), &100.into())
    );
    assert_eq!(told["finish_reasons"], "inferred");
    let all = &told["overall"];
    assert_eq!(
        (&all["samples"], &all["min"], &all["max"]),
        (&12.into(), &5.into(), &100.into())
    );
    near(&all["censored"], 2.0 / 12.0);
    near(&all["mean"], 37.583333333333336);
    near(&all["median"], 22.0);
    near(&all["p90"], 98.0);
    near(&all["p99"], 100.0);
    near(&all["mean_ci95"][0], -25.38625003326154);
    near(&all["mean_ci95"][1], 100.5529166999282);
    let cold = &told["by_temperature"][0];
    assert_eq!((&cold["name"], &cold["samples"]), (&0.0.into(), &4.into()));
    near(&cold["mean"], 39.25);
    assert_eq!(told["by_category"][1]["name"], "y");
    near(&told["by_category"][1]["mean"], 22.5);
    let within = &told["within_instruction"];
    near(&within["mean_range"], 10.5);
    near(&within["mean_deviation"], 5.689526983680124);
    near(&within["intraclass_correlation"], 0.9697585901246155);
    let (floor, ceiling) = (&told["prediction"]["floor"], &told["prediction"]["ceiling"]);
    near(&floor["error"], 30.25);
    near(&floor["acc_50"], 0.75);
    near(&ceiling["error"], 2.5);
    assert_eq!(told["loops"]["looping"], 2);
    assert_eq!(
        (
            &told["loops"]["cut_looping"],
            &told["loops"]["cut_with_text"]
        ),
        (&1.into(), &2.into())
    );
    assert!(told["arrivals"].is_null());

    let table = succeed(lenaware(dir.path()).args(["describe", "t.parquet"]));
    for part in [
        "temperature 0.7",
        "16.7 %",
        "≥ 100",
        "ICC",
        "noise ceiling",
        "looping",
    ] {
        assert!(table.contains(part), "`{part}` is not in {table}");
    }
    let mean = succeed_json(lenaware(dir.path()).args([
        "--json",
        "describe",
        "t.parquet",
        "--label",
        "mean",
    ]));
    assert_eq!(mean["prediction"]["label"], "mean");
    assert_ne!(mean["prediction"]["floor"], *floor);
}

#[test]
fn figures_are_drawn_where_there_is_something_to_draw() {
    let dir = imported();
    let mut command = lenaware(dir.path());
    let told = succeed_json(command.args(["--json", "describe", "t.parquet", "--figures", "f"]));
    assert_eq!(told["figures"].as_array().unwrap().len(), 2);
    for name in ["lengths", "spread"] {
        let stem = dir.path().join("f").join(name);
        assert!(read(stem.with_extension("svg")).starts_with("<svg"));
        assert!(
            std::fs::read(stem.with_extension("png"))
                .unwrap()
                .starts_with(b"\x89PNG")
        );
    }
    std::fs::write(dir.path().join("one.csv"), "n\n5\n9\n").unwrap();
    let mut command = lenaware(dir.path());
    command.args(["import", "--from", "csv", "--lengths", "one.csv"]);
    succeed(command.args(["--response-tokens-column", "n", "--out", "one.parquet"]));
    let mut command = lenaware(dir.path());
    let told = succeed_json(command.args(["--json", "describe", "one.parquet", "--figures", "g"]));
    assert_eq!(told["figures"].as_array().unwrap().len(), 1);
    assert!(told["within_instruction"].is_null() && told["prediction"]["ceiling"].is_null());
}

#[test]
fn the_embedded_dataset_is_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let told = succeed_json(lenaware(dir.path()).args(["--json", "describe"]));
    has_keys(
        &told,
        &[
            "dataset",
            "model",
            "overall",
            "by_temperature",
            "by_category",
            "within_instruction",
            "prediction",
            "loops",
            "prompt_tokens",
            "arrivals",
            "figures",
        ],
    );
    assert_eq!(
        (&told["dataset"], &told["overall"]["samples"]),
        (&"embedded".into(), &2560.into())
    );
    assert_eq!(files_under(dir.path()), []);
}

#[test]
fn what_is_no_dataset_is_refused() {
    let dir = imported();
    let bytes = std::fs::read(dir.path().join("t.parquet")).unwrap();
    std::fs::write(dir.path().join("cut.parquet"), &bytes[..bytes.len() / 2]).unwrap();
    for (file, named) in [
        ("none.parquet", "No such file"),
        ("cut.parquet", "not a readable Parquet file"),
        ("t.csv", "not a readable Parquet file"),
    ] {
        let output = lenaware(dir.path())
            .args(["describe", file])
            .output()
            .unwrap();
        let line = refusal(&output, 1);
        assert!(line.contains(file) && line.contains(named), "{line}");
    }
    let output = lenaware(dir.path())
        .args(["describe", "--label", "most"])
        .output()
        .unwrap();
    refusal(&output, 2);
}

#[test]
fn a_reader_that_goes_away_is_no_error_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = lenaware(dir.path());
    command.args(["describe", "embedded"]);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(crate::text(&output.stderr), "");
}
