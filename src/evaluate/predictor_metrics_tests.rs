use super::*;
use crate::dataset::{FinishReason, Sample};
use proptest::prelude::*;

fn said(tokens: &[f64]) -> Said<'_> {
    Said {
        tokens,
        ..Said::default()
    }
}

#[test]
fn figures_by_hand() {
    let metrics = predictor_metrics(
        "p",
        Said {
            unparsable: &[false, false, true, false],
            ..said(&[100.0, 150.0, 10.0, 300.0])
        },
        &[150.0, 150.0, 110.0, 199.0],
        1.5,
        42,
    );
    // sklearn.metrics.r2_score 1.9.1; every resample has a variance or is left out.
    let r2 = metrics.r2.expect("the labels vary");
    assert!((r2.value + 4.702_694_215_914_087).abs() < 1e-12);
    assert!(r2.ci95[0] < r2.value && r2.ci95[1].is_finite());
    assert_eq!(metrics.by_length[2].n, 4);
    assert_eq!(metrics.quantiles, None);
    assert_eq!(metrics.n, 4);
    assert_eq!(metrics.error.value, (50.0 + 0.0 + 100.0 + 101.0) / 4.0);
    assert_eq!(metrics.acc_50.value, 0.5);
    assert_eq!(metrics.acc_100.value, 0.75);
    assert_eq!(metrics.bias.value, (-50.0 - 100.0 + 101.0) / 4.0);
    assert_eq!(metrics.underestimation.value, 0.5);
    assert_eq!(metrics.unparsable, 0.25);
    let squares = 50.0f64.powi(2) + 100.0f64.powi(2) + 101.0f64.powi(2);
    assert!((metrics.rmse.value - (squares / 4.0).sqrt()).abs() < 1e-9);
    assert!(metrics.error.ci95[0] < metrics.error.value);
}

#[test]
fn what_is_not_a_number_is_a_miss() {
    let metrics = predictor_metrics("p", said(&[f64::NAN, 5.0]), &[5.0, 5.0], 0.0, 1);
    assert_eq!(metrics.unparsable, 0.5);
    assert_eq!(metrics.r2, None);
    assert_eq!(metrics.acc_50.value, 0.5);
    assert_eq!(metrics.error.value, 0.0);
    let empty = predictor_metrics("p", said(&[]), &[], 0.0, 1);
    assert_eq!((empty.n, empty.r2, empty.spearman), (0, None, None));
    assert_eq!(predictor_metrics_over("p", &[], &[1.0], 0.0, 1).n, 0);
    let one = predictor_metrics("p", said(&[3.0]), &[5.0], 0.0, 1);
    assert_eq!(
        (one.error.value, one.r2, one.kendall_tau),
        (2.0, None, None)
    );
    let none = predictor_metrics("p", said(&[f64::INFINITY; 2]), &[1.0, 2.0], 0.0, 1);
    assert_eq!((none.unparsable, none.acc_100.value), (1.0, 0.0));
    assert!(none.by_length.iter().all(|bin| bin.n == 0));
}

#[test]
fn seeds_of_one_predictor_are_averaged() {
    let labels = [10.0, 200.0, 300.0, 40.0];
    let (a, b) = ([20.0, 260.0, 200.0, 40.0], [10.0, 140.0, 500.0, 80.0]);
    let alone = [&a, &b].map(|tokens| predictor_metrics("p", said(tokens), &labels, 0.0, 3));
    let both = predictor_metrics_over("p", &[said(&a), said(&b)], &labels, 0.0, 3);
    let mean_of = |of: fn(&PredictorMetrics) -> f64| f64::midpoint(of(&alone[0]), of(&alone[1]));
    let figures: [fn(&PredictorMetrics) -> f64; 9] = [
        |m| m.error.value,
        |m| m.acc_50.value,
        |m| m.acc_100.value,
        |m| m.bias.value,
        |m| m.underestimation.value,
        |m| m.r2.unwrap().value,
        |m| m.kendall_tau.unwrap(),
        |m| m.spearman.unwrap(),
        |m| m.by_length[0].error.unwrap().value,
    ];
    for of in figures {
        assert!((of(&both) - mean_of(of)).abs() < 1e-9);
    }
    let squares = mean_of(|m| m.rmse.value.powi(2));
    assert!((both.rmse.value.powi(2) - squares).abs() < 1e-6);
    assert_eq!(both.n, 4);
}

#[test]
fn figures_serialise_as_mean_and_interval() {
    let metrics = predictor_metrics("p", said(&[1.0, 1.0]), &[1.0, 2.0], 0.0, 1);
    let json = serde_json::to_value(&metrics).expect("serialises");
    assert_eq!(json["error"]["mean"], 0.5);
    assert_eq!(json["error"]["ci95"].as_array().map(Vec::len), Some(2));
    assert!(json["kendall_tau"].is_null());
}

fn sample(id: usize, temperature: f32, tokens: u32) -> Sample {
    Sample {
        instruction_id: id.to_string(),
        instruction: String::new(),
        category: None,
        split: None,
        sample: 0,
        temperature,
        seed: 0,
        prompt_tokens: 0,
        response_tokens: tokens,
        finish_reason: FinishReason::Stop,
        response: None,
        arrival_s: None,
    }
}

#[test]
fn the_ceiling_finds_the_factor_and_the_floor_the_median() {
    let samples: Vec<Sample> = (1..=9u32)
        .flat_map(|i| {
            let id = i as usize;
            [sample(id, 0.7, i * 125), sample(id, 0.0, i * 100)]
        })
        .collect();
    let instances: Vec<Instance<'_>> = samples
        .chunks(2)
        .map(|pair| Instance {
            instruction_id: &pair[0].instruction_id,
            instruction: "",
            category: None,
            split: None,
            samples: pair.iter().collect(),
        })
        .collect();
    let (floor, ceiling) = floor_and_ceiling(&instances, Label::Max, None, 42);
    let ceiling = ceiling.expect("two samples each");
    assert!(ceiling.error.value < 1e-9);
    assert_eq!(ceiling.name, "ceiling");
    // Labels are 125, 250 .. 1125; their median is 625.
    assert_eq!(floor.error.value, 125.0 * 20.0 / 9.0);
    assert_eq!(floor.kendall_tau, None);
    // The figures without intervals are the same.
    let labels: Vec<f64> = (1..=9).map(|i| f64::from(i) * 125.0).collect();
    let plain = Accuracy::of([625.0; 9], &labels);
    assert_eq!((plain.n, plain.error), (floor.n, floor.error.value));
    assert_eq!(plain.acc_100, floor.acc_100.value);
    let (trained, _) = floor_and_ceiling(&instances, Label::Max, Some(&[0.0]), 42);
    assert_eq!(trained.bias.value, -625.0);
    let single: Vec<Instance<'_>> = instances
        .iter()
        .map(|i| Instance {
            samples: vec![i.samples[0]],
            ..i.clone()
        })
        .collect();
    assert!(floor_and_ceiling(&single, Label::Max, None, 42).1.is_none());
}

proptest! {
    #[test]
    fn shares_are_fractions_and_nested(
        pairs in prop::collection::vec((0.0..600.0f64, 1.0..512.0f64), 1..40),
    ) {
        let (predictions, labels): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let m = predictor_metrics("p", said(&predictions), &labels, 0.0, 7);
        prop_assert!((0.0..=1.0).contains(&m.acc_50.value));
        prop_assert!(m.acc_50.value <= m.acc_100.value && m.acc_100.value <= 1.0);
        prop_assert!(m.bias.value.abs() <= m.error.value + 1e-9);
        prop_assert!(m.error.value <= m.rmse.value + 1e-9);
    }
}
