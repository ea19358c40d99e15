//! In f32 on a CPU the number of threads changes no bit of what is sampled, learnt, predicted,
//! scored or simulated.

use std::path::Path;

use crate::tune::{finetune_with, prepared};
use crate::{lenaware, read, succeed};

fn run(dir: &Path, threads: usize, flags: &str) -> String {
    let mut command = lenaware(dir);
    command.args(["--json", "--threads", &threads.to_string()]);
    succeed(command.args(flags.split_whitespace()))
}

/// The lines of a JSON document but those of wall time.
fn timeless(text: &str) -> String {
    let whole: serde_json::Value = serde_json::from_str(text).unwrap();
    let lines = serde_json::to_string_pretty(&whole).unwrap();
    let kept = lines.lines().filter(|line| {
        let timed = ["ms_per_prediction", "ms_alone", "_s\":", "created"];
        !timed.iter().any(|key| line.contains(key))
    });
    kept.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let dir = prepared();
    let dir = dir.path();
    let experiment = "[experiment]\nname = 'x'\nseeds = [1, 2]\n[workload]\ndataset = 'data'\n\
                      split = 'all'\n[executor]\nkind = 'replay'\n[defaults]\ngroup_size = 8\n\
                      batch_size = 2\n[[arm]]\nname = 'none'\n[[arm]]\nname = 'planned'\npredictor \
                      = './lexical-1'\nscheduling = 'planned'\n";
    std::fs::write(dir.join("x.toml"), experiment).unwrap();
    let kinds = [
        ("lora", "adapter_model.safetensors", "--epochs 2"),
        ("len-token", "length_head.safetensors", "--epochs 2"),
        (
            "lora-head",
            "adapter_model.safetensors",
            "--epochs 1 --tuned-head-hidden 8",
        ),
        ("ridge", "ridge.safetensors", "--layers 1"),
        ("head", "head.safetensors", "--heads 2"),
        ("lexical", "lexical.safetensors", ""),
    ];
    let mut seen: Vec<(String, String, Vec<u8>)> = Vec::new();
    for threads in [1, 2, 3] {
        let build = format!(
            "build-dataset --model model --chat-template chatml --instructions in.jsonl --out \
             sampled-{threads} --temperatures 0,1 --max-new-tokens 9"
        );
        run(dir, threads, &build);
        let mut keep = |what: &str, bytes: Vec<u8>| {
            match seen.iter().find(|(name, ..)| name == what) {
                Some((_, first, expected)) => {
                    assert!(
                        *expected == bytes,
                        "{what}: {threads} threads differ from {first}"
                    );
                }
                None => seen.push((what.into(), threads.to_string(), bytes)),
            };
        };
        let sampled = dir.join(format!("sampled-{threads}/dataset.parquet"));
        keep("the dataset", std::fs::read(sampled).unwrap());
        for (kind, file, flags) in kinds {
            let out = format!("{kind}-{threads}");
            let flags = format!("--predictor {kind} --out {out} {flags}");
            succeed(&mut finetune_with(dir, threads, &flags));
            let file = dir.join(&out).join(file);
            keep(
                kind,
                std::fs::read(&file).unwrap_or_else(|e| panic!("{file:?}: {e}")),
            );
            let predict =
                format!("predict --model model --predictor ./{out} --instructions in.jsonl");
            let said = succeed(
                lenaware(dir)
                    .args(["--threads", &threads.to_string()])
                    .args(predict.split(' ')),
            );
            keep(&format!("predictions of {kind}"), said.into_bytes());
        }
        let evaluate = "evaluate --dataset data --split all --label mean --model model --predictor \
                        ./ridge-1 --predictor ./lora-1 --predictor ./lexical-1";
        keep(
            "an evaluation",
            timeless(&run(dir, threads, evaluate)).into_bytes(),
        );
        run(dir, threads, "ablate --config x.toml");
        let runs = std::fs::read_dir(dir.join("results/x")).unwrap();
        let latest = runs.map(|run| run.unwrap().path()).max().unwrap();
        keep("a replay", read(latest.join("arms.jsonl")).into_bytes());
    }
    assert_eq!(seen.len(), 3 + 2 * kinds.len());
}
