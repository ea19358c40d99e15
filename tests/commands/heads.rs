//! Heads on the states of a model so small that it takes seconds, stacks of them, and the rules
//! by which a distribution becomes a number.

use crate::tune::{finetune, prepared};
use crate::{lenaware, read, refusal, succeed, succeed_json};

#[test]
fn heads_are_trained_mixed_evaluated_and_asked_by_rule() {
    let dir = prepared();
    for (out, flags) in [
        ("head", "--predictor head --states-cache states --heads 2"),
        ("again", "--predictor head --states-cache states --heads 2"),
        ("ranks", "--predictor head --objective ranking --layers 1,2"),
        ("samples", "--predictor head --target samples --hidden 0"),
        ("pooled", "--predictor pooling-mlp"),
        ("words", "--predictor lexical"),
        (
            "mixed",
            "--predictor stack --members ./head,./pooled,./words",
        ),
    ] {
        // Heads take none of the flags of tuning, but do not mind them.
        let done = succeed_json(&mut finetune(dir.path(), &format!("{flags} --out {out}")));
        assert!(
            done["validation_error"].as_f64().unwrap().is_finite(),
            "{out}: {done}"
        );
        let held = read(dir.path().join(out).join("held_out.jsonl"));
        assert_eq!(held.lines().count(), 1, "{out}");
        let description = read(dir.path().join(out).join("predictor.json"));
        assert!(description.contains("\"training_s\""), "{description}");
    }
    // The second run read the states of the first, and one seed gives one head.
    let states = std::fs::read_dir(dir.path().join("states")).unwrap();
    assert_eq!(states.count(), 1);
    let bytes = |name: &str| std::fs::read(dir.path().join(name).join("head.safetensors"));
    assert_eq!(bytes("head").unwrap(), bytes("again").unwrap());

    let all = "--json evaluate --dataset data --split all --label mean --model model \
               --predictor ./head --predictor ./head@within-50 --predictor ./head@q0.9 \
               --predictor ./ranks --predictor ./samples --predictor ./pooled --predictor \
               ./mixed";
    let table = succeed_json(lenaware(dir.path()).args(all.split_whitespace()));
    let rows = table["predictors"].as_array().unwrap();
    assert_eq!(rows.len(), 7);
    assert_eq!(rows[1]["name"], "./head@within-50");
    // A high quantile errs on the long side.
    let bias = |at: usize| rows[at]["bias"]["mean"].as_f64().unwrap();
    assert!(bias(2) >= bias(0));
    for row in rows {
        assert!(row["quantiles"]["coverage"].is_array(), "{row}");
    }

    let predict = "predict --model model --predictor ./mixed --instructions in.jsonl";
    let lines = succeed(lenaware(dir.path()).args(predict.split_whitespace()));
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(line["predicted_tokens"], line["quantiles"]["0.5"]);
}

#[test]
fn what_makes_no_head_or_stack_is_told() {
    let dir = prepared();
    succeed(&mut finetune(dir.path(), "--predictor lexical --out words"));
    for (flags, parts) in [
        ("--predictor head --layers 3 --out a", &["0..=2"][..]),
        ("--predictor head --heads 0 --out a", &["[head]"]),
        ("--predictor stack --members ./words --out a", &["two"]),
        (
            "--predictor stack --members ./words,./none --out a",
            &["none", "no such folder"],
        ),
    ] {
        let output = finetune(dir.path(), flags).output().unwrap();
        let message = refusal(&output, 2);
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
        assert!(!dir.path().join("a").exists(), "{flags}");
    }
    for (predictor, parts) in [
        ("./words@most", &["within-50", "q0.9"][..]),
        ("./words@q1.5", &["between 0 and 1"]),
    ] {
        let evaluate = format!("evaluate --dataset data --label mean --predictor {predictor}");
        let output = lenaware(dir.path())
            .args(evaluate.split(' '))
            .output()
            .unwrap();
        let message = refusal(&output, 2);
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    }
}
