//! Lengths in and out: imports, evaluation, predictions; and the doctor.

use serde_json::Value;

use crate::{has_keys, lenaware, read, succeed, succeed_json};

#[test]
fn imported_lengths_are_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let talk = |id: u32| {
        let words = "word ".repeat(id as usize);
        serde_json::json!({"id": id.to_string(), "conversations": [
            {"from": "human", "value": format!("Say it: {words}")},
            {"from": "gpt", "value": "yes"},
        ]})
    };
    let length = |id: u32| {
        serde_json::json!({"id": id.to_string(), "L_gt": 1, "L_t0.0": 10 * id,
        "L_t0.3": 10 * id + 5, "L_t0.5": 10 * id, "L_t0.7": 600})
    };
    let talks: Vec<Value> = (1..=12).map(talk).collect();
    let lengths: Vec<Value> = (1..=12).map(length).collect();
    let put = |name: &str, rows: Vec<Value>| {
        std::fs::write(dir.path().join(name), Value::from(rows).to_string()).unwrap();
    };
    put("a.json", talks);
    put("b.json", lengths);
    let mut command = lenaware(dir.path());
    command.args(["--json", "import", "--from", "sequence-scheduling"]);
    command.args([
        "--instructions",
        "a.json",
        "--lengths",
        "b.json",
        "--out",
        "c.parquet",
    ]);
    let imported = succeed_json(&mut command);
    assert_eq!(imported["instructions"], 12);
    assert_eq!(imported["samples"], 48);
    assert_eq!(imported["censored"], 12);

    let mut command = lenaware(dir.path());
    command.args([
        "--json",
        "evaluate",
        "--dataset",
        "c.parquet",
        "--label",
        "mean",
    ]);
    let result =
        succeed_json(command.args(["--predictor", "constant", "--predictor", "input-length"]));
    let error = |at: usize| result["predictors"][at]["error"]["mean"].as_f64().unwrap();
    assert!(error(1) < error(0) / 2.0, "{result}");
}

#[test]
fn evaluation_prints_the_documented_figures() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = lenaware(dir.path());
    command.args(["--json", "evaluate", "--predictor", "constant"]);
    let result =
        succeed_json(command.args(["--predictor", "input-length", "--predictor", "ground-truth"]));
    has_keys(
        &result,
        &["dataset", "label", "predictors", "floor", "ceiling"],
    );
    assert_eq!(
        (&result["dataset"], &result["label"]),
        (&"embedded".into(), &"max".into())
    );
    let predictors = result["predictors"].as_array().unwrap();
    let names: Vec<_> = predictors
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["constant", "input-length", "ground-truth"]);
    for row in predictors
        .iter()
        .chain([&result["floor"], &result["ceiling"]])
    {
        let figures = [
            "error",
            "acc_50",
            "acc_100",
            "bias",
            "rmse",
            "underestimation",
        ];
        has_keys(
            row,
            &[
                "name",
                "n",
                "kendall_tau",
                "unparsable",
                "ms_per_prediction",
            ],
        );
        has_keys(row, &figures);
        for figure in figures {
            has_keys(&row[figure], &["mean", "ci95"]);
        }
    }
    assert_eq!(predictors[2]["error"]["mean"], 0.0);
    assert_eq!(predictors[0]["error"], result["floor"]["error"]);
    // Without --json, a table.
    let mut command = lenaware(dir.path());
    let table = succeed(command.args(["evaluate", "--predictor", "constant"]));
    assert!(table.contains("Acc-50") && table.contains("floor") && table.contains("ceiling"));
}

#[test]
fn predictions_made_elsewhere_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let instructions = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/instructions.jsonl");
    let predict = |predictor: &str| {
        let mut command = lenaware(dir.path());
        command.args([
            "predict",
            "--predictor",
            predictor,
            "--instructions",
            instructions,
        ]);
        command
    };
    let printed = succeed(&mut predict("input-length"));
    assert_eq!(printed.lines().count(), 640);
    for line in printed.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        has_keys(&line, &["instruction_id", "predicted_tokens", "unparsable"]);
    }
    let out = succeed(predict("input-length").args(["--out", "lengths.jsonl"]));
    assert_eq!(out, "");
    assert_eq!(read(dir.path().join("lengths.jsonl")), printed);

    // Read back they are as good as the predictor that made them.
    let mut command = lenaware(dir.path());
    command.args(["--json", "evaluate", "--predictor", "input-length"]);
    let result = succeed_json(command.args(["--predictor", "file:lengths.jsonl"]));
    let [own, read_back] = [0, 1].map(|at| result["predictors"][at]["error"].clone());
    assert_eq!(own, read_back);
}

#[test]
fn the_doctor_tells_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let facts = succeed_json(lenaware(dir.path()).args(["--json", "doctor"]));
    has_keys(
        &facts,
        &["environment", "threads", "kernels", "cache", "smollm2-135m"],
    );
    assert!(facts["threads"].as_u64().unwrap() > 0);
    let told = succeed(lenaware(dir.path()).arg("doctor"));
    for part in ["threads", "kernels", "device", "cache", "smollm2-135m"] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn reproduction_sets_the_papers_numbers_beside_ours() {
    let dir = tempfile::tempdir().unwrap();
    let found = succeed_json(lenaware(dir.path()).args(["--json", "reproduce"]));
    for table in ["table5", "readme"] {
        let arms = found[table]["summary"]["arms"].as_array().unwrap();
        for row in found[table]["paper"].as_array().unwrap() {
            assert!(arms.iter().any(|arm| arm["name"] == row["arm"]), "{row}");
        }
        assert_eq!(found[table]["summary"]["executor"]["kind"], "replay");
    }
    // Nothing is trained here, and the page says what is missing.
    assert_eq!(
        found["table4"]["summary"]["arms"].as_array().unwrap().len(),
        2
    );
    let page = read(dir.path().join(found["report"].as_str().unwrap()));
    assert!(page.contains("is not trained") && page.contains("[LEN]-token"));
    assert!(
        page.matches("<svg").count() >= 9,
        "{}",
        page.matches("<svg").count()
    );
    // What is planned serves more than the paper's method does.
    let rate = |name: &str| {
        let arms = found["beyond"]["summary"]["arms"].as_array().unwrap();
        let arm = arms.iter().find(|arm| arm["name"] == name).unwrap();
        arm["throughput_samples_per_s"]["mean"].as_f64().unwrap()
    };
    assert!(rate("planned, 16 rows") > rate("the paper's method"));
}
