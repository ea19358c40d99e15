use std::ops::ControlFlow;

use super::batch::Sequence;
use super::llama::Options;
use super::*;
use crate::engine::{Batching, Engine, Request};
use crate::kernel::{Arithmetic, Team, noise};
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
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 5).unwrap();
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

/// An adapter that already does something: `B` is not zero.
fn busy(config: LoraConfig, shape: &ModelConfig) -> Adapter {
    let mut adapter = Adapter::new(config, shape, "tiny", 1).unwrap();
    for (seed, pair) in adapter.pairs.values_mut().enumerate() {
        let values = noise(pair.b.elem_count(), seed as u64 + 9);
        let values: Vec<f32> = values.iter().map(|v| v * 0.3).collect();
        pair.b = candle_core::Tensor::from_vec(values, pair.b.shape(), &candle_core::Device::Cpu)
            .unwrap();
    }
    adapter
}

/// Two query heads on each of two key heads, four blocks.
fn wide() -> ModelConfig {
    ModelConfig {
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..ModelConfig::tiny()
    }
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

/// Loss and gradients of one micro-batch.
fn gradients(
    model: &mut TrainableLlama,
    examples: &Vec<Example>,
    share: bool,
    dropout: Dropout,
) -> (f64, Vec<f32>) {
    let all: Vec<usize> = (0..examples.len()).collect();
    let sequences: Vec<Sequence> = all.iter().map(|&i| examples.sequence(i)).collect();
    let batch = Batch::new(&sequences, share, model.config()).unwrap();
    assert_eq!(batch.shared() > 0, share);
    model.parameters.clear_gradients();
    model.forward(batch, dropout).unwrap();
    let loss = examples
        .loss(
            model,
            &all,
            Some(Learning {
                weight: 0.1,
                key: 0,
            }),
        )
        .unwrap()
        * 0.1;
    model.backward().unwrap();
    (loss, model.parameters.gradients.clone())
}

#[test]
fn gradients_match_finite_differences_in_every_matrix() {
    let top = LoraConfig {
        layers: Some(2),
        ..every_target()
    };
    for (config, shape, learned, share, rate) in [
        (every_target(), ModelConfig::tiny(), 0, false, 0.0),
        (every_target(), wide(), 0, true, 0.0),
        (every_target(), wide(), 0, true, 0.2),
        (top, wide(), 0, true, 0.0),
        (LoraConfig::default(), wide(), 2, true, 0.0),
    ] {
        let checkpoint = Checkpoint::random(&shape, 5).unwrap();
        let adapter = busy(config, &shape);
        let options = Options {
            learned_tokens: learned,
            ..Options::default()
        };
        let mut model =
            TrainableLlama::with_options(&checkpoint, Some(adapter), Team::new(2), options)
                .unwrap();
        let mut examples = alike();
        if learned > 0 {
            examples[1].prompt.push(64);
            examples[2].prompt.push(65);
        }
        let dropout = Dropout::new(rate, 7);
        let (_, found) = gradients(&mut model, &examples, share, dropout);
        for (index, entry) in model.parameters.entries().to_vec().iter().enumerate() {
            // Along a random direction in this matrix.
            let direction = noise(entry.range.len(), index as u64 + 3);
            let expected: f64 = direction
                .iter()
                .zip(&found[entry.range.clone()])
                .map(|(d, g)| f64::from(d * g))
                .sum();
            let size = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
            let mut at = |step: f32| {
                let before = model.parameters.values.clone();
                let values = &mut model.parameters.values[entry.range.clone()];
                let moves = values.iter_mut().zip(&direction);
                moves.for_each(|(v, d)| *v += step / size * d);
                let loss = gradients(&mut model, &examples, share, dropout).0;
                model.parameters.values = before;
                loss
            };
            // Differences of two widths, so that the third derivative falls out.
            let step = 1e-2;
            let near = at(step) - at(-step);
            let far = at(2.0 * step) - at(-2.0 * step);
            let difference = (8.0 * near - far) / f64::from(12.0 * step) * f64::from(size);
            assert!(
                (difference - expected).abs() < 0.01 * difference.abs() + 3e-4 * f64::from(size),
                "{}: {expected} is not {difference}",
                entry.name
            );
        }
    }
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    let size = a.iter().fold(0f32, |s, v| s.max(v.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * size, "{a} {b} of {size}");
    }
}

#[test]
fn sharing_the_beginning_and_computing_twice_change_nothing() {
    let shape = wide();
    let checkpoint = Checkpoint::random(&shape, 5).unwrap();
    let model = |checkpointing, arithmetic| {
        let options = Options {
            checkpointing,
            arithmetic,
            ..Options::default()
        };
        let adapter = busy(every_target(), &shape);
        TrainableLlama::with_options(&checkpoint, Some(adapter), Team::new(2), options).unwrap()
    };
    let mut kept = model(false, Arithmetic::F32);
    let examples = alike();
    let (loss, shared) = gradients(&mut kept, &examples, true, Dropout::off());
    let (plain_loss, plain) = gradients(&mut kept, &examples, false, Dropout::off());
    assert!((loss - plain_loss).abs() < 1e-5);
    close(&plain, &shared, 1e-4);
    // The same operations again: the same bits, dropout included.
    for dropout in [Dropout::off(), Dropout::new(0.1, 3)] {
        let mut twice = model(true, Arithmetic::F32);
        let (loss, found) = gradients(&mut kept, &examples, true, dropout);
        let again = gradients(&mut twice, &examples, true, dropout);
        assert_eq!((loss, found), again);
    }
    // bf16 is near.
    let mut narrow = model(false, Arithmetic::Bf16);
    let (narrow_loss, found) = gradients(&mut narrow, &examples, true, Dropout::off());
    assert!((loss / narrow_loss - 1.0).abs() < 0.02);
    let norm = |g: &[f32]| g.iter().map(|v| v * v).sum::<f32>().sqrt();
    let apart: Vec<f32> = found.iter().zip(&shared).map(|(a, b)| a - b).collect();
    assert!(norm(&apart) < 0.05 * norm(&shared), "{}", norm(&apart));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let shape = wide();
    let checkpoint = Checkpoint::random(&shape, 5).unwrap();
    let run = |threads| {
        let adapter = busy(every_target(), &shape);
        let mut model = TrainableLlama::new(&checkpoint, adapter, Team::new(threads)).unwrap();
        gradients(&mut model, &alike(), true, Dropout::new(0.1, 1))
    };
    assert_eq!(run(1), run(3));
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
    let mut graph = vec![0.0; 64];
    model.head.forward.product(
        &model.team,
        state,
        1,
        crate::kernel::Epilogue::Store,
        &mut graph,
    );
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
