mod gradients;

use std::ops::ControlFlow;

use super::batch::{Batch, Sequence};
use super::*;
use crate::engine::{Batching, Engine, Request};
use crate::kernel::Team;
use crate::lora::{Adapter, LoraConfig};
use crate::model::llama::Llama;
use crate::model::{Checkpoint, ModelConfig};

fn every_target() -> LoraConfig {
    LoraConfig {
        r: 4,
        dropout: 0.1,
        target_modules: [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ]
        .map(String::from)
        .to_vec(),
        ..LoraConfig::default()
    }
}

fn model(config: LoraConfig) -> (Checkpoint, TrainableLlama) {
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 5);
    let adapter = Adapter::new(config, &checkpoint.config, "tiny", 1).unwrap();
    let model = TrainableLlama::new(&checkpoint, adapter, Team::new(2)).unwrap();
    (checkpoint, model)
}

fn examples() -> Vec<Example> {
    (0..11u32)
        .map(|i| Example {
            prompt: (0..4 + i % 5).map(|k| 3 + (i * 7 + k * 3) % 60).collect(),
            target: vec![10 + i % 3, 2],
        })
        .collect()
}

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 12,
        micro_batch_size: 3,
        gradient_accumulation: 2,
        learning_rate: 2e-2,
        ..TrainConfig::default()
    }
}

fn train(mut training: Training, until: usize) -> (Training, Vec<StepRecord>) {
    let mut log = Vec::new();
    training
        .run(&examples(), &mut |training, record| {
            log.push(record.clone());
            Ok(if training.step >= until {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .unwrap();
    (training, log)
}

/// Examples that begin alike, one of them longer than a block of queries.
fn alike() -> Vec<Example> {
    (0..5u32)
        .map(|i| Example {
            prompt: (0..8)
                .chain((0..[3, 1, 40, 7, 12][i as usize]).map(|k| 3 + (i * 7 + k * 3) % 60))
                .collect(),
            target: vec![10 + i, 2],
        })
        .collect()
}

#[test]
fn the_best_on_validation_is_kept_and_patience_ends() {
    let (_, model) = model(every_target());
    let mut training = Training::new(
        model,
        TrainConfig {
            patience: Some(2),
            ..config()
        },
    )
    .unwrap();
    let validation = alike();
    let mut losses = Vec::new();
    training
        .run(&examples(), &mut |training, _| {
            losses.push(training.evaluate(&validation)?);
            Ok(match training.out_of_patience() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })
        .unwrap();
    let best = training.best.as_ref().unwrap();
    let (step, loss) = (best.step, best.loss);
    assert_eq!(loss, losses.iter().copied().fold(f64::INFINITY, f64::min));
    if training.out_of_patience() {
        assert_eq!(training.step, step + 2);
    }
    training.take_best();
    let again = mean_loss(&mut training.model, &validation, 3).unwrap();
    assert!((again - loss).abs() < 1e-9);
}

#[test]
fn a_run_that_does_not_fit_says_what_would() {
    let (_, model) = model(every_target());
    let mut training = Training::new(model, config()).unwrap();
    let all = examples();
    let whole = training.plan_within(&all, None).unwrap();
    assert!(!whole.checkpointing);
    let need = (whole.activations + whole.optimizer) * 10 / 9;
    let tight = training.plan_within(&all, Some(need * 9 / 10)).unwrap();
    assert!(tight.checkpointing && tight.activations < whole.activations);
    assert!(training.model.checkpointing());
    let message = training.plan_within(&all, Some(10_000)).unwrap_err();
    assert!(message.to_string().contains("--micro-batch-size"));
}

#[test]
fn a_loss_that_is_not_a_number_stops_before_the_update() {
    let (_, model) = model(every_target());
    let mut training = Training::new(model, config()).unwrap();
    training.model.parameters.values[3] = f32::NAN;
    let before = training.model.parameters.values[4..].to_vec();
    let error = training
        .run(&examples(), &mut |_, _| Ok(ControlFlow::Continue(())))
        .unwrap_err();
    assert!(error.to_string().contains("lower the learning rate"));
    assert_eq!(training.model.parameters.values[4..], before);
}

#[test]
fn every_adapter_matrix_receives_gradient_and_the_loss_falls() {
    let (_, model) = model(every_target());
    let before = model.adapter().unwrap();
    let (training, log) = train(Training::new(model, config()).unwrap(), usize::MAX);
    let (first, last) = (log.first().unwrap().loss, log.last().unwrap().loss);
    assert!(last < first / 2.0, "{first} -> {last}");
    let after = training.model.adapter().unwrap();
    for (name, pair) in &before.pairs {
        let changed = |x: &candle_core::Tensor, y: &candle_core::Tensor| {
            let change = (x - y).unwrap().abs().unwrap().sum_all().unwrap();
            change.to_scalar::<f32>().unwrap() > 0.0
        };
        assert!(changed(&pair.a, &after.pairs[name].a), "{name} A");
        assert!(changed(&pair.b, &after.pairs[name].b), "{name} B");
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    let fresh = || Training::new(model(every_target()).1, config()).unwrap();
    let (_, whole) = train(fresh(), 9);
    let (half, _) = train(fresh(), 4);
    half.save(&path).unwrap();
    let mut resumed = fresh();
    resumed.restore(&path).unwrap();
    let (_, rest) = train(resumed, 9);
    let losses = |log: &[StepRecord]| log.iter().map(|r| (r.step, r.loss)).collect::<Vec<_>>();
    assert_eq!(losses(&whole[4..]), losses(&rest));
    let mut other = Training::new(model(LoraConfig::default()).1, config()).unwrap();
    assert!(other.restore(&path).is_err());
    std::fs::write(&path, b"not a checkpoint").unwrap();
    assert!(fresh().restore(&path).is_err());
}

#[test]
fn the_trained_graph_and_the_merged_engine_agree() {
    let (mut checkpoint, model) = model(every_target());
    let (mut training, _) = train(Training::new(model, config()).unwrap(), 6);
    let prompt = examples()[3].prompt.clone();
    // The graph's next token for the prompt, among longer rows.
    let sequences = [prompt.clone(), (3..20).collect()].map(|tokens: Vec<u32>| Sequence {
        wanted: vec![tokens.len() - 1],
        tokens,
    });
    let model = &mut training.model;
    let batch = Batch::new(&sequences, false, model.config()).unwrap();
    model.forward(batch, Dropout::off()).unwrap();
    let state = &model.states()[..48];
    // The head is the embedding.
    let table = checkpoint.f32_values("model.embed_tokens.weight").unwrap();
    let graph: Vec<f32> = (table.chunks(48))
        .map(|row| row.iter().zip(state).map(|(w, s)| w * s).sum())
        .collect();
    let adapter = training.model.adapter().unwrap();
    adapter.merge_into(&mut checkpoint).unwrap();
    let merged = Llama::new(&checkpoint, Team::new(1)).unwrap();
    let mut cache = merged.new_cache(1, 32).unwrap();
    let mut workspace = crate::model::llama::Workspace::default();
    let chunk = crate::model::llama::Chunk {
        slot: 0,
        tokens: &prompt,
        logits: true,
    };
    let engine = merged
        .forward(&[chunk], &mut cache, &mut workspace, None)
        .unwrap();
    for (a, b) in graph.iter().zip(engine.iter()) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    let mut responses = Vec::new();
    let mut request = Some(Request {
        id: 0,
        prompt: prompt.into(),
        max_new_tokens: 1,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
    });
    Engine::new(&merged, 1, 32)
        .unwrap()
        .generate(&mut || request.take(), Batching::Static, &mut responses)
        .unwrap();
    let best = graph
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .unwrap()
        .0;
    assert_eq!(responses[0].tokens[0] as usize, best);
}

#[test]
fn an_adapter_for_another_model_is_refused() {
    let (checkpoint, _) = model(every_target());
    let mut other = ModelConfig::tiny();
    other.num_hidden_layers = 3;
    let adapter = Adapter::new(LoraConfig::default(), &other, "other", 1).unwrap();
    assert!(TrainableLlama::new(&checkpoint, adapter.clone(), Team::new(1)).is_err());
    assert!(adapter.merge_into(&mut { checkpoint }).is_err());
}
