//! Against values from PyTorch (transformers and PEFT), see `tests/fixtures/golden/README.md`.

use std::path::PathBuf;

use lenaware::engine::sampling::Draw;
use lenaware::engine::{Batching, Engine, Request};
use lenaware::kernel::Team;
use lenaware::lora::peft;
use lenaware::model::Checkpoint;
use lenaware::model::llama::{Chunk, Workspace};
use lenaware::tensor::Storage;
use lenaware::train::llama::{Options, TrainableLlama};
use lenaware::train::{Dtype, Example, TrainConfig, Training};
use serde_json::Value;

use crate::{chat, files};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/golden")
        .join(name)
}

fn generations() -> Vec<Value> {
    std::fs::read_to_string(fixture("generations.jsonl"))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn prompts_logits_and_greedy_tokens_match_transformers() {
    let chat = chat();
    let golden = generations();
    for row in &golden {
        let prompt = chat.prompt(row["instruction"].as_str().unwrap()).unwrap();
        assert_eq!(prompt, ids(&row["prompt_ids"]));
        let mut decoder = chat.model().decoder(1, prompt.len()).unwrap();
        let chunk = Chunk {
            slot: 0,
            tokens: &prompt,
            logits: true,
        };
        decoder.step(&[chunk], &[Draw::GREEDY], None).unwrap();
        let logits = decoder.last_logits(1).unwrap();
        let top: Vec<(usize, f32)> = serde_json::from_value(row["top_logits"].clone()).unwrap();
        for (id, expected) in top {
            let found = logits[id];
            assert!(
                (found - expected).abs() < 2e-3,
                "{id}: {found} is not {expected}"
            );
        }
        let n = logits.len() as f64;
        let mean = logits.iter().map(|l| f64::from(*l)).sum::<f64>() / n;
        assert!((mean - row["logit_mean"].as_f64().unwrap()).abs() < 2e-3);
    }
    // All at once, in every kind of batch, with slots to spare and too few.
    for (slots, batching) in [
        (8, Batching::Static),
        (3, Batching::Continuous),
        (8, Batching::Compacting),
    ] {
        let mut engine = Engine::new(chat.model().as_ref(), slots, 256).unwrap();
        let mut queue = golden.iter().enumerate().map(|(id, row)| Request {
            id,
            prompt: ids(&row["prompt_ids"]).into(),
            max_new_tokens: 64,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        });
        let mut responses = Vec::new();
        engine
            .generate(&mut || queue.next(), batching, &mut responses)
            .unwrap();
        assert_eq!(responses.len(), golden.len());
        for response in responses {
            let row = &golden[response.id];
            assert_eq!(response.tokens, ids(&row["response_ids"]));
            let text = chat.tokenizer().decode(&response.tokens).unwrap();
            assert_eq!(text, row["response"].as_str().unwrap());
            let reason = serde_json::to_value(response.finish_reason).unwrap();
            assert_eq!(reason, row["finish_reason"]);
        }
    }
}

/// Ten steps from PEFT's initial adapter; losses and gradient norms may be off by these shares.
fn ten_steps(
    checkpoint: &Checkpoint,
    run: &Value,
    examples: &Vec<Example>,
    (dtype, frozen): (Dtype, Storage),
    (of_loss, of_norm): (f64, f64),
) -> Training {
    let adapter = peft::read(&fixture("lora/initial")).unwrap();
    let options = Options {
        arithmetic: dtype.arithmetic(),
        frozen,
        ..Options::default()
    };
    let team = Team::of_the_machine();
    let model = TrainableLlama::with_options(checkpoint, Some(adapter), team, options).unwrap();
    let config = TrainConfig {
        epochs: 10,
        micro_batch_size: 8,
        gradient_accumulation: 1,
        learning_rate: run["optimizer"]["lr"].as_f64().unwrap(),
        constant_rate: true,
        clip: None,
        dtype,
        ..TrainConfig::default()
    };
    let mut training = Training::new(model, config).unwrap();
    let mut log = Vec::new();
    training
        .run(examples, &mut |_, record| {
            log.push(record.clone());
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
    let steps = run["steps"].as_array().unwrap();
    assert_eq!(log.len(), steps.len());
    for (record, step) in log.iter().zip(steps) {
        let (loss, norm) = (
            step["loss"].as_f64().unwrap(),
            step["grad_norm"].as_f64().unwrap(),
        );
        println!(
            "{dtype:?} {frozen:?} step {}: loss {:.6} (PEFT {loss:.6}), gradient norm {:.5} (PEFT {norm:.5})",
            record.step, record.loss, record.grad_norm
        );
        assert!((record.loss / loss - 1.0).abs() < of_loss);
        assert!((record.grad_norm / norm - 1.0).abs() < of_norm);
    }
    training
}

#[test]
fn ten_lora_steps_match_peft() {
    let run: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("lora/run.json")).unwrap()).unwrap();
    let examples: Vec<Example> = run["examples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| Example {
            prompt: ids(&e["prompt_ids"]),
            target: ids(&e["target_ids"]),
        })
        .collect();
    let checkpoint = Checkpoint::load(files()).unwrap();
    // Of losses and gradient norms; bf16's own rounding moves the latter.
    let narrow = (Dtype::Bf16, Storage::Dense);
    ten_steps(&checkpoint, &run, &examples, narrow, (0.05, 0.10));
    // Weights in blocks of eight bits, by the tensor library.
    let blocks = (Dtype::F32, Storage::Q8_0);
    ten_steps(&checkpoint, &run, &examples, blocks, (0.01, 0.05));
    let exact = (Dtype::F32, Storage::Dense);
    let training = ten_steps(&checkpoint, &run, &examples, exact, (1e-3, 1e-3));
    // PEFT's own tuned adapter, merged: its logits.
    let mut merged = checkpoint;
    peft::read(&fixture("lora/after_10_steps"))
        .unwrap()
        .merge_into(&mut merged)
        .unwrap();
    let ours = training.model.adapter().unwrap();
    let mut own = Checkpoint::load(files()).unwrap();
    ours.merge_into(&mut own).unwrap();
    for (checkpoint, tolerance) in [(merged, 5e-3), (own, 5e-2)] {
        let llama =
            lenaware::model::llama::Llama::new(&checkpoint, Team::of_the_machine()).unwrap();
        for (example, expected) in examples
            .iter()
            .zip(run["top_logits_after_10_steps"].as_array().unwrap())
        {
            let mut cache = llama.new_cache(1, 128).unwrap();
            let mut workspace = Workspace::default();
            let chunk = Chunk {
                slot: 0,
                tokens: &example.prompt,
                logits: true,
            };
            let logits = llama
                .forward(&[chunk], &mut cache, &mut workspace, None)
                .unwrap();
            let top: Vec<(usize, f32)> = serde_json::from_value(expected.clone()).unwrap();
            for (id, expected) in top {
                let found = logits[id];
                assert!(
                    (found - expected).abs() < tolerance,
                    "{found} is not {expected}"
                );
            }
        }
    }
}
