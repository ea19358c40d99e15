//! Predictors that look at words and not into the model: trained, evaluated and asked without
//! a model and without a network; and how good they are on the paper's own data.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::import::real;
use crate::{files_under, has_keys, lenaware, read, refusal, succeed, succeed_json};

/// `lenaware --offline` with an empty cache, all its words in one string.
fn without_model(dir: &Path, words: &str) -> Command {
    let mut command = lenaware(dir);
    command
        .arg("--offline")
        .args(words.split_whitespace())
        .env("LENAWARE_CACHE", dir.join("no-cache"))
        .env("HF_HOME", dir.join("no-cache"))
        .env_remove("HF_HUB_CACHE");
    command
}

#[test]
fn words_are_trained_evaluated_and_asked_without_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &str| succeed(&mut without_model(dir.path(), words));
    let told: Value =
        serde_json::from_str(&run("--json finetune --predictor lexical --out ./lexical")).unwrap();
    let keys = [
        "predictor",
        "choice",
        "seconds",
        "validation_error",
        "training_instructions",
    ];
    has_keys(&told, &keys);
    // Train and validation of the embedded dataset: never its test split.
    assert_eq!(told["training_instructions"], 384 + 96);
    let config = "predictor = 'neighbour'\nout = './near'\nrefit = false\nlabel = 'mean'\n\
                  [terms]\nngrams = 1\n";
    std::fs::write(dir.path().join("near.toml"), config).unwrap();
    let told = run("finetune --config near.toml");
    assert!(
        told.contains("neighbours") && told.contains("384"),
        "{told}"
    );
    for folder in ["lexical", "near"] {
        for file in ["config.toml", "trials.csv"] {
            assert!(!read(dir.path().join(folder).join(file)).is_empty());
        }
        let described: Value =
            serde_json::from_str(&read(dir.path().join(folder).join("predictor.json"))).unwrap();
        assert!(described.get("model").is_none(), "{described}");
    }

    let words = "--json evaluate --predictor constant --predictor ./lexical --predictor ./near";
    let result = succeed_json(&mut without_model(dir.path(), words));
    let error = |at: usize| result["predictors"][at]["error"]["mean"].as_f64().unwrap();
    assert!(error(1) < 0.95 * error(0), "{result}");
    assert!(error(2) < error(0), "{result}");

    std::fs::write(
        dir.path().join("in.jsonl"),
        "{\"id\": \"a\", \"text\": \"Say hi.\"}\n",
    )
    .unwrap();
    for folder in ["lexical", "near"] {
        let out = run(&format!(
            "predict --predictor ./{folder} --instructions in.jsonl"
        ));
        let line: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&line["instruction_id"], &line["unparsable"]),
            (&"a".into(), &false.into())
        );
        assert!(line["predicted_tokens"].as_f64().unwrap() >= 1.0);
        let quantile = |p: &str| line["quantiles"][p].as_f64().unwrap();
        assert!(quantile("0.1") <= quantile("0.5") && quantile("0.5") <= quantile("0.9"));
    }

    // An experiment takes it by its folder.
    let experiment = "[experiment]\nname = 'x'\n[workload]\nsplit = 'test'\n\
                      [[arm]]\nname = 'vanilla'\n\
                      [[arm]]\nname = 'sorted'\npredictor = './lexical'\nscheduling = 'sorted'\n";
    std::fs::write(dir.path().join("x.toml"), experiment).unwrap();
    let summary: Value = serde_json::from_str(&run("--json ablate --config x.toml")).unwrap();
    assert_eq!(summary["arms"][1]["predictor"], "./lexical");
}

#[test]
fn mistakes_are_told_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&mut without_model(
        dir.path(),
        "finetune --predictor lexical --out ./good",
    ));
    let copy = |name: &str| {
        let to = dir.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for file in ["predictor.json", "lexical.safetensors"] {
            std::fs::copy(dir.path().join("good").join(file), to.join(file)).unwrap();
        }
        to
    };
    let cut = copy("cut").join("lexical.safetensors");
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 3]).unwrap();
    std::fs::remove_file(copy("bare").join("lexical.safetensors")).unwrap();
    let strange = copy("strange").join("predictor.json");
    let described = read(strange.clone()).replace("\"lexical\"", "\"psychic\"");
    std::fs::write(&strange, described).unwrap();
    std::fs::write(dir.path().join("typo.toml"), "[terms]\nngram = 2\n").unwrap();

    let before = files_under(dir.path());
    for (words, code, parts) in [
        (
            "finetune --predictor lexical --ngrams 0 --out r",
            2,
            &["ngrams", "between 1 and 5"][..],
        ),
        (
            "finetune --predictor lexical --min-documents 0 --out r",
            2,
            &["min_documents"],
        ),
        (
            "finetune --predictor lexical --config typo.toml --out r",
            2,
            &["typo.toml", "ngram"],
        ),
        (
            "finetune --predictor encoder --encoder . --out r",
            1,
            &["config.json"],
        ),
        (
            "finetune --predictor encoder --encoder nowhere --out r",
            2,
            &["`nowhere`", "`minilm`"],
        ),
        (
            "finetune --predictor encoder --out r",
            1,
            &["`minilm`", "Cache: ", "pip: ", "Hub: ", "Remedy: "],
        ),
        (
            "evaluate --predictor ./cut",
            1,
            &["lexical.safetensors", "train again"],
        ),
        ("evaluate --predictor ./bare", 1, &["lexical.safetensors"]),
        (
            "evaluate --predictor ./strange",
            1,
            &["predictor.json", "psychic"],
        ),
    ] {
        let output = without_model(dir.path(), words).output().unwrap();
        let line = refusal(&output, code);
        for part in parts {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        assert_eq!(files_under(dir.path()), before, "{words}");
    }
}

/// Accuracy on the paper's validation instructions after training on its training
/// instructions, where they are at hand.
#[test]
fn words_nearly_reach_the_papers_predictor_on_its_own_data() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["train-10k", "val-5k"] {
        let file = |end: &str| real(&format!("paper/alpaca-{part}{end}.json"));
        let (Some(talks), Some(lengths)) = (file(""), file("-length")) else {
            return;
        };
        let mut command = lenaware(dir.path());
        command.args(["import", "--from", "sequence-scheduling"]);
        command.arg("--instructions").arg(talks);
        command.arg("--lengths").arg(lengths);
        succeed(command.args(["--out", &format!("{part}.parquet")]));
    }
    for predictor in ["lexical", "neighbour"] {
        let words = format!(
            "finetune --predictor {predictor} --dataset train-10k.parquet --out ./{predictor}"
        );
        succeed(&mut without_model(dir.path(), &words));
    }
    let words = "--json evaluate --dataset val-5k.parquet --predictor ./lexical --predictor \
                 ./neighbour";
    let result = succeed_json(&mut without_model(dir.path(), words));
    // Bounds on Error, Acc-50, Acc-100 and milliseconds each.
    for (at, bounds) in [(0, [68.5, 0.53, 0.78, 0.1]), (1, [68.5, 0.53, 0.77, 1.0])] {
        let row = &result["predictors"][at];
        let mean = |figure: &str| row[figure]["mean"].as_f64().unwrap();
        assert_eq!(row["n"], 5000);
        assert!(mean("error") <= bounds[0], "{row}");
        assert!(
            mean("acc_50") >= bounds[1] && mean("acc_100") >= bounds[2],
            "{row}"
        );
        assert!(
            row["ms_per_prediction"].as_f64().unwrap() <= bounds[3],
            "{row}"
        );
    }
}
