//! `evaluate --out`: a folder with everything that was found; seeds; predictions with quantiles.

use std::path::Path;

use serde_json::{Value, json};

use crate::{has_keys, lenaware, read, refusal, succeed, succeed_json};

/// Predictions for all instructions of the embedded dataset, made by a rule.
fn predictions(dir: &Path, name: &str, seed: u64, quantiles: bool) {
    let instructions = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/instructions.jsonl");
    let printed = succeed(
        lenaware(dir)
            .args(["predict", "--predictor", "input-length"])
            .args(["--instructions", instructions]),
    );
    let lines = printed.lines().enumerate().map(|(n, line)| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let tokens = 200.0 + ((n as u64 * 7919 + seed * 104_729) % 200) as f64;
        line["predicted_tokens"] = json!(tokens);
        if quantiles {
            line["quantiles"] = json!({"0.1": tokens / 3.0, "0.5": tokens, "0.9": tokens * 2.0});
        }
        format!("{line}\n")
    });
    std::fs::write(dir.join(name), lines.collect::<String>()).unwrap();
}

#[test]
fn an_evaluation_is_kept_in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    for seed in [1, 2] {
        predictions(dir.path(), &format!("guess-{seed}.jsonl"), seed, true);
    }
    let evaluate = || {
        let mut command = lenaware(dir.path());
        command
            .args(["--json", "evaluate", "--out", "kept"])
            .args(["--predictor", "constant", "--predictor", "input-length"])
            .args(["--predictor", "file:guess-1.jsonl,file:guess-2.jsonl"]);
        command
    };
    let printed = succeed_json(&mut evaluate());
    let kept: Value = serde_json::from_str(&read(dir.path().join("kept/summary.json"))).unwrap();
    assert_eq!(printed, kept);
    let rows = kept["predictors"].as_array().unwrap();
    for row in rows {
        has_keys(
            row,
            &[
                "r2",
                "spearman",
                "ms_alone",
                "by_length",
                "members",
                "trained_on",
            ],
        );
        assert_eq!(row["by_length"].as_array().unwrap().len(), 6);
    }
    assert_eq!(rows[0]["quantiles"], Value::Null);
    let guess = &rows[2];
    assert_eq!(guess["members"].as_array().unwrap().len(), 2);
    let errors = &guess["seeds"]["error"];
    has_keys(errors, &["mean", "ci95", "values"]);
    let values: Vec<f64> = serde_json::from_value(errors["values"].clone()).unwrap();
    let mean = f64::midpoint(values[0], values[1]);
    assert_ne!(values[0], values[1]);
    assert!((guess["error"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
    let coverage = guess["quantiles"]["coverage"].as_array().unwrap();
    assert_eq!(coverage.len(), 21);
    has_keys(&coverage[10], &["level", "mean", "ci95"]);
    has_keys(
        &guess["quantiles"],
        &["pinball", "pinball_50", "pinball_90", "width_80"],
    );

    for name in [
        "summary.csv",
        "summary.md",
        "predictions.parquet",
        "environment.json",
        "report.html",
        "figures/frontier.svg",
        "figures/error-by-length.png",
        "figures/reliability.png",
    ] {
        assert!(dir.path().join("kept").join(name).is_file(), "{name}");
    }
    assert!(read(dir.path().join("kept/summary.md")).contains("guess (2 seeds)"));

    // Results are never overwritten, and the page is drawn again from the data.
    let refused = refusal(&evaluate().output().unwrap(), 2);
    assert!(refused.contains("kept is there already"), "{refused}");
    std::fs::remove_file(dir.path().join("kept/report.html")).unwrap();
    let page = succeed(lenaware(dir.path()).args(["report", "kept"]));
    assert!(read(dir.path().join(page.trim())).contains("<svg"));
}

#[test]
fn what_is_no_group_of_seeds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |spec: &str| {
        let mut command = lenaware(dir.path());
        let output = command.args(["evaluate", "--predictor", spec]).output();
        refusal(&output.unwrap(), 2)
    };
    assert!(refused("constant,input-length").contains("no seed"));
    assert!(refused("constant,constant").contains("twice"));
    assert!(refused("constant,").contains("empty"));
}

#[test]
fn the_floor_is_fitted_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let evaluate = |more: &[&str]| {
        let mut command = lenaware(dir.path());
        command.args(["--json", "evaluate", "--predictor", "constant"]);
        succeed_json(command.args(more))
    };
    // Evaluated on what it is fitted on, which is said.
    let seen = evaluate(&["--split", "train"]);
    assert!(seen["notes"][0].as_str().unwrap().contains("--fit-on"));
    let unseen = evaluate(&["--fit-on", "embedded"]);
    assert_eq!(unseen["notes"], json!([]));
    assert_eq!(unseen["split"], "test");
}
