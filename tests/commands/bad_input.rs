//! Mistakes in files, names and flags.

use crate::bad_files::{check, check_in};
use crate::{files_under, lenaware, model, refusal, text};

#[test]
fn instruction_files() {
    for (file, named) in [
        ("missing.jsonl", "No such file"),
        ("torn.jsonl", "line 2 is not JSON"),
        ("untexted.jsonl", "line 3"),
        ("twice.jsonl", "`1` occurs twice"),
        ("empty.jsonl", "no instructions"),
        ("blank.jsonl", "no instructions"),
        ("latin.jsonl", "UTF-8"),
        ("torn.json", "not a JSON list"),
        (".", "directory"),
    ] {
        check(
            &format!("build-dataset --instructions {file} --out out"),
            1,
            &[file, named],
        );
        let predict = "predict --predictor constant --out p.jsonl --instructions";
        check(&format!("{predict} {file}"), 1, &[file, named]);
    }
    let import = "import --from sequence-scheduling --out out.parquet --instructions good.json";
    for (lengths, named) in [
        ("missing.json", "No such file"),
        ("torn.json", "not a JSON list"),
        ("good.json", "L_t0.0"),
        ("others.json", "`5`"),
    ] {
        check(
            &format!("{import} --lengths {lengths}"),
            1,
            &[lengths, named],
        );
    }
}

#[test]
fn length_datasets() {
    for (file, named) in [
        ("missing.parquet", "No such file"),
        ("noise.parquet", "not a readable Parquet file"),
        ("cut.parquet", "not a readable Parquet file"),
        ("damaged.parquet", "not a readable Parquet file"),
        ("good.jsonl", "not a readable Parquet file"),
        ("empty.jsonl", "not a readable Parquet file"),
        ("empty.parquet", "no samples"),
        ("other.parquet", "no column `instruction_id`"),
        (".", "dataset.parquet"),
    ] {
        check(
            &format!("evaluate --predictor constant --dataset {file}"),
            1,
            &[file, named],
        );
    }
    check(
        "finetune --predictor ridge --dataset cut.parquet --out r",
        1,
        &["cut.parquet"],
    );
    check(
        "finetune --predictor lora --dataset empty.parquet --out r",
        1,
        &["empty.parquet"],
    );
}

#[test]
fn experiment_files() {
    for (file, code, named) in [
        ("missing.toml", 1, "No such file"),
        ("syntax.toml", 2, "syntax.toml:1"),
        (
            "unknown-key.toml",
            2,
            "toml:5: unknown key 'groupsize' in [[arm]]; did you mean 'group_size'?",
        ),
        (
            "contradiction.toml",
            2,
            "toml:3: arm 'vanilla': `vbs = true` contradicts",
        ),
        (
            "split.toml",
            2,
            "toml:6: unknown value 'tests' of `split`; did you mean 'test'?",
        ),
        ("good.jsonl", 2, "good.jsonl:1"),
    ] {
        check(&format!("ablate --config {file}"), code, &[file, named]);
        check(
            &format!("ablate --dry-run --config {file}"),
            code,
            &[file, named],
        );
    }
    for (file, code, named) in [
        ("unknown-predictor.toml", 2, "`psychic`"),
        ("no-folder.toml", 2, "./runs/none"),
        ("few.toml", 2, "file:few.jsonl"),
        ("served.toml", 2, "`served`"),
        ("step-time.toml", 2, "`fast`"),
    ] {
        check(&format!("ablate --config {file}"), code, &[named]);
    }
    check(
        "finetune --config tune.toml --out r",
        2,
        &["tune.toml:3", "'epochs'"],
    );
    check("report missing", 1, &["missing"]);
    check("report .", 1, &["summary.json"]);
}

#[test]
fn names_and_flags() {
    check(
        "evaluate --predictor psychic",
        2,
        &["`psychic`", "ground-truth"],
    );
    check(
        "evaluate --predictor ./runs/none",
        2,
        &["./runs/none", "finetune"],
    );
    check("evaluate --predictor file:none.jsonl", 1, &["none.jsonl"]);
    check(
        "evaluate --predictor file:predictions.jsonl",
        1,
        &["predictions.jsonl", "line 1"],
    );
    check(
        "evaluate --predictor file:few.jsonl",
        2,
        &["file:few.jsonl"],
    );
    check("evaluate --predictor oracle", 2, &["`oracle`"]);
    check(
        "evaluate --predictor constant --split tests",
        2,
        &["`tests`"],
    );
    check("evaluate --predictor constant --label most", 2, &["`most`"]);
    check("evaluate --predictor constant --limit 0", 2, &["embedded"]);
    check(
        "predict --predictor ground-truth --instructions good.jsonl",
        2,
        &["`ground-truth`"],
    );
    check("build-dataset --split tests --out out", 2, &["`tests`"]);
    check("build-dataset --limit 0 --out out", 2, &["--limit"]);
    check("--device cuda:99 doctor", 2, &["--device cpu"]);
    check("--device gpu doctor", 2, &["`gpu`", "cuda:N"]);
    check("finetune --out r", 2, &["--predictor"]);
    check("finetune --predictor lora --lora-r 0 --out r", 2, &["r"]);
}

#[test]
fn what_is_there_already_is_not_overwritten() {
    let import = "import --from sequence-scheduling --instructions good.json --lengths others.json";
    check(
        &format!("{import} --out good.parquet"),
        2,
        &["good.parquet"],
    );
    let predict = "predict --predictor constant --instructions good.jsonl --out good.json";
    check(predict, 2, &["good.json"]);
    check("profile --out good.jsonl", 2, &["good.jsonl"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("predictor.json"), "{}").unwrap();
    check_in(
        dir.path(),
        "finetune --predictor ridge --out .",
        2,
        &["already"],
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dataset.parquet"), "x").unwrap();
    model();
    let before = files_under(dir.path());
    let mut command = lenaware(dir.path());
    let output = command
        .args(["build-dataset", "--out", "."])
        .output()
        .unwrap();
    refusal(&output, 2);
    let mut after = files_under(dir.path());
    after.retain(|(path, _)| !path.ends_with(".lock"));
    assert_eq!(after, before);
}

#[test]
fn wrong_usage_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        "evaluate",
        "ablate --confg x",
        "build-datset",
        "evaluate --limit many",
    ] {
        let mut command = lenaware(dir.path());
        let output = command.args(arguments.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(text(&output.stderr).starts_with("error: "), "{arguments}");
    }
}
