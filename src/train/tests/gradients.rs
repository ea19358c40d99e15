//! Gradients: against finite differences, and the same however they are computed.

use super::*;
use crate::kernel::{Arithmetic, noise};
use crate::tensor::Storage;
use crate::train::llama::{LEARNED_TOKENS, Options};

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

/// Loss and gradients of one micro-batch.
fn gradients(
    model: &mut TrainableLlama,
    examples: &Vec<Example>,
    share: bool,
    dropout: Dropout,
) -> (f64, Vec<f32>) {
    let all: Vec<usize> = (0..examples.len()).collect();
    let sequences: Vec<Sequence> = all.iter().map(|&i| examples.sequence(i)).collect();
    let batch = match share {
        true => model.batch(&sequences).unwrap(),
        false => Batch::new(&sequences, false, model.config()).unwrap(),
    };
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
    for (config, shape, learned, share, rate, without_kernels) in [
        (every_target(), ModelConfig::tiny(), 0, false, 0.0, false),
        (every_target(), wide(), 0, true, 0.0, false),
        (every_target(), wide(), 0, true, 0.2, false),
        (top.clone(), wide(), 0, true, 0.0, false),
        (LoraConfig::default(), wide(), 2, true, 0.0, false),
        (every_target(), wide(), 0, false, 0.2, true),
        (top, wide(), 0, false, 0.0, true),
        (LoraConfig::default(), wide(), 2, false, 0.0, true),
    ] {
        let checkpoint = Checkpoint::random(&shape, 5);
        let adapter = busy(config, &shape);
        let options = Options {
            learned_tokens: learned,
            without_kernels,
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
            // The learned tokens are short: a step must be small beside them.
            let step = match entry.name == LEARNED_TOKENS {
                true => 2e-3,
                false => 1e-2,
            };
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
    let checkpoint = Checkpoint::random(&shape, 5);
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
fn the_tensor_library_computes_what_the_kernels_compute() {
    // Rows that blocks of 32 divide.
    let shape = ModelConfig {
        hidden_size: 64,
        ..wide()
    };
    let checkpoint = Checkpoint::random(&shape, 5);
    let model = |options: Options| {
        let adapter = busy(every_target(), &shape);
        TrainableLlama::with_options(&checkpoint, Some(adapter), Team::new(2), options).unwrap()
    };
    let examples = alike();
    let plain = Options {
        without_kernels: true,
        ..Options::default()
    };
    let (loss, expected) = gradients(
        &mut model(Options::default()),
        &examples,
        false,
        Dropout::off(),
    );
    let (found_loss, found) = gradients(&mut model(plain), &examples, false, Dropout::off());
    assert!((loss - found_loss).abs() < 1e-5, "{loss} {found_loss}");
    close(&found, &expected, 1e-4);
    for dropout in [Dropout::off(), Dropout::new(0.2, 3)] {
        let again = |checkpointing| {
            let options = Options {
                checkpointing,
                ..plain
            };
            gradients(&mut model(options), &examples, false, dropout)
        };
        assert_eq!(again(false), again(true));
    }
    // Narrower weights are near, the more the wider.
    let norm = |g: &[f32]| g.iter().map(|v| v * v).sum::<f32>().sqrt();
    for (frozen, arithmetic, most) in [
        (Storage::Dense, Arithmetic::Bf16, 0.05),
        (Storage::Q8_0, Arithmetic::F32, 0.08),
    ] {
        let mut narrow = model(Options {
            frozen,
            arithmetic,
            ..plain
        });
        let (_, found) = gradients(&mut narrow, &examples, false, Dropout::off());
        let apart: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let apart = norm(&apart) / norm(&expected);
        assert!(apart > 1e-5 && apart < most, "{frozen:?}: {apart}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let shape = wide();
    let checkpoint = Checkpoint::random(&shape, 5);
    let run = |threads| {
        let adapter = busy(every_target(), &shape);
        let mut model = TrainableLlama::new(&checkpoint, adapter, Team::new(threads)).unwrap();
        gradients(&mut model, &alike(), true, Dropout::new(0.1, 1))
    };
    assert_eq!(run(1), run(3));
}
