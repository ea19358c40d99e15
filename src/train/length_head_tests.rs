use super::*;
use crate::kernel::{Team, noise};
use crate::lora::{Adapter, LoraConfig};
use crate::model::{Checkpoint, ModelConfig};
use crate::train::llama::Options;
use crate::train::{TrainConfig, Training, mean_loss};

fn shape(loss: HeadLoss, hidden: usize) -> HeadShape {
    HeadShape {
        loss,
        states: 48,
        hidden,
        bins: 12,
        longest: 400.0,
        smoothing: 0.5,
        scale: 1.0,
    }
}

#[test]
fn a_distribution_over_bins_reads_as_it_was_spread() {
    let shape = HeadShape {
        bins: 40,
        ..shape(HeadLoss::Distribution, 0)
    };
    let one = shape.spread(&[100.0]);
    assert!((one.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    assert!((shape.quantile(&one, 0.5) - 100.0).abs() < 2.0);
    let two = shape.spread(&[25.0, 225.0]);
    assert!((shape.quantile(&two, 0.25) - 25.0).abs() < 2.0);
    assert!(shape.quantile(&two, 0.9) > shape.quantile(&two, 0.6));
    // Beyond the last bin, and odd numbers.
    assert!(shape.quantile(&shape.spread(&[1e9]), 0.5) <= 400.0);
    assert!(shape.quantile(&shape.spread(&[0.0]), 0.0) >= 0.0);
    assert_eq!(shape.quantile(&[0.0; 40], 0.5), 400.0);
}

#[test]
fn a_ranked_score_counts_how_far_off() {
    let shape = HeadShape {
        bins: 40,
        ..shape(HeadLoss::Ranked, 0)
    };
    let score = |said: f64| {
        let (said, target) = (shape.spread(&[said]), shape.spread(&[100.0]));
        shape.ranked_score(&said, &target).0
    };
    assert!(score(100.0) < 1e-12);
    // Of two points it is their distance, in hundreds of tokens; of two bells a little less.
    assert!((1.7..2.0).contains(&score(300.0)), "{}", score(300.0));
    assert!(score(110.0) < score(150.0) && score(60.0) > score(90.0));
}

/// A model with or without an adapter and a learned token, examples whose length is told by
/// one token of their prompt.
fn run(loss: HeadLoss, hidden: usize, r: usize, learned: usize) -> (Training, LengthExamples) {
    let config = ModelConfig::tiny();
    let checkpoint = Checkpoint::random(&config, 5);
    let lora = LoraConfig {
        r: r.max(1),
        dropout: 0.0,
        ..LoraConfig::default()
    };
    let adapter = (r > 0).then(|| Adapter::new(lora, &config, "tiny", 1).unwrap());
    let options = Options {
        without_vocabulary: true,
        learned_tokens: learned,
        ..Options::default()
    };
    let mut model =
        TrainableLlama::with_options(&checkpoint, adapter, Team::new(2), options).unwrap();
    let shape = shape(loss, hidden);
    let lengths: Vec<f64> = (0..24).map(|i| [20.0, 300.0][i % 2]).collect();
    let targets: Vec<Vec<f32>> = lengths
        .iter()
        .map(|l| match loss {
            HeadLoss::Distribution | HeadLoss::Ranked => shape.spread(&[*l, *l]),
            HeadLoss::LogRegression => vec![l.ln() as f32],
        })
        .collect();
    let prompts = (0..24u32)
        .map(|i| {
            let mut prompt = vec![1, 4, 5, [20, 40][i as usize % 2], 6 + i % 7];
            prompt.extend((learned > 0).then_some(64));
            prompt
        })
        .collect();
    let weights = add_head(&mut model.parameters, &shape, &targets, 1.0, 3);
    let examples = LengthExamples {
        shape,
        weights,
        dropout: 0.0,
        prompts,
        targets,
    };
    let config = TrainConfig {
        epochs: 40,
        micro_batch_size: 8,
        gradient_accumulation: 1,
        learning_rate: 1e-2,
        ..TrainConfig::default()
    };
    (Training::new(model, config).unwrap(), examples)
}

#[test]
fn heads_learn_with_an_adapter_under_them_or_only_a_token() {
    for (loss, hidden, r, learned) in [
        (HeadLoss::Distribution, 0, 4, 0),
        (HeadLoss::Distribution, 16, 0, 0),
        (HeadLoss::Ranked, 0, 4, 0),
        (HeadLoss::LogRegression, 0, 0, 1),
        (HeadLoss::LogRegression, 16, 4, 1),
    ] {
        let (mut training, examples) = run(loss, hidden, r, learned);
        let before = mean_loss(&mut training.model, &examples, 8).unwrap();
        let start = training.model.parameters.values.clone();
        training
            .run(&examples, &mut |_, _| {
                Ok(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
        let after = mean_loss(&mut training.model, &examples, 8).unwrap();
        // What remains of a spread distribution is its own entropy.
        let least: f64 = match loss {
            HeadLoss::LogRegression | HeadLoss::Ranked => 0.0,
            HeadLoss::Distribution => examples
                .targets
                .iter()
                .flatten()
                .filter(|t| **t > 0.0)
                .map(|t| -f64::from(*t) * f64::from(*t).ln() / 24.0)
                .sum(),
        };
        assert!(
            after - least < 0.2 * (before - least),
            "{before} {after} {least}"
        );
        for entry in training.model.parameters.entries() {
            let at = entry.range.clone();
            let now = &training.model.parameters.values[at.clone()];
            assert_ne!(now, &start[at], "{}", entry.name);
        }
    }
}

#[test]
fn gradients_of_the_head_and_its_state_match_finite_differences() {
    for (loss, hidden, dropout) in [
        (HeadLoss::Distribution, 8, 0.0),
        (HeadLoss::Distribution, 8, 0.3),
        (HeadLoss::Ranked, 8, 0.0),
        (HeadLoss::LogRegression, 0, 0.0),
    ] {
        let (mut training, mut examples) = run(loss, hidden, 2, 1);
        examples.dropout = dropout;
        let learning = Learning {
            weight: 1.0,
            key: 3,
        };
        let model = &mut training.model;
        let busy = noise(model.parameters.values.len(), 4);
        let values = model.parameters.values.iter_mut().zip(&busy);
        values.for_each(|(v, n)| *v += 0.2 * n);
        let all: Vec<usize> = (0..8).collect();
        let mut loss_and_gradients = |step: f32, direction: &[f32]| {
            let before = model.parameters.values.clone();
            let values = model.parameters.values.iter_mut().zip(direction);
            values.for_each(|(v, d)| *v += step * d);
            model.parameters.clear_gradients();
            crate::train::run_batch(model, &examples, &all, crate::train::Dropout::off()).unwrap();
            let loss = examples.loss(model, &all, Some(learning)).unwrap();
            model.backward().unwrap();
            model.parameters.values = before;
            (loss, model.parameters.gradients.clone())
        };
        let mut direction = noise(busy.len(), 8);
        let size = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
        direction.iter_mut().for_each(|d| *d /= size);
        let (_, found) = loss_and_gradients(0.0, &direction);
        let expected: f64 = direction
            .iter()
            .zip(&found)
            .map(|(d, g)| f64::from(d * g))
            .sum();
        let step = 1e-2;
        let plus = loss_and_gradients(step, &direction).0;
        let minus = loss_and_gradients(-step, &direction).0;
        let difference = (plus - minus) / f64::from(2.0 * step);
        assert!(
            (difference - expected).abs() < 0.02 * difference.abs() + 2e-3,
            "{difference} {expected}"
        );
    }
}
