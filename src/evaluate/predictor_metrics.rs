//! How well a predictor foresees lengths, and what to hold it against: the floor (a constant)
//! and the noise ceiling (what another sample of the same instruction tells).

use serde::{Deserialize, Serialize};

use super::statistics::{Estimate, bootstrap, bootstrap_mean, kendall_tau_b, median};
use crate::dataset::{Instance, Label};

/// The accuracy of one predictor on a set of labelled instructions. Lengths are in tokens,
/// shares are fractions, intervals are 95 % bootstrap intervals over instructions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictorMetrics {
    pub name: String,
    /// Instructions.
    pub n: usize,
    /// Mean |prediction - label| (the paper's Error).
    pub error: Estimate,
    /// Share within 50 tokens, inclusive (the paper's Acc-50).
    pub acc_50: Estimate,
    /// Share within 100 tokens, inclusive (the paper's Acc-100).
    pub acc_100: Estimate,
    /// Mean prediction - label.
    pub bias: Estimate,
    pub rmse: Estimate,
    /// Share predicted below the label: those that fail under FCR.
    pub underestimation: Estimate,
    /// Tau-b; `None` where it is undefined, as for a constant predictor.
    pub kendall_tau: Option<f64>,
    /// Share of answers from which no number could be read.
    pub unparsable: f64,
    /// Wall time.
    pub ms_per_prediction: f64,
}

/// Scores predictions against labels, item by item.
///
/// `unparsable` marks items whose prediction is a stand-in (empty = none). A prediction that
/// is not finite counts as unparsable and as a miss in Acc-k; it has no distance, so the other
/// figures leave it out. With one seed, all predictors of a dataset are resampled alike.
pub fn predictor_metrics(
    name: &str,
    predictions: &[f64],
    labels: &[f64],
    unparsable: &[bool],
    ms_per_prediction: f64,
    seed: u64,
) -> PredictorMetrics {
    let n = predictions.len().min(labels.len());
    let pairs: Vec<(f64, f64)> = predictions
        .iter()
        .copied()
        .zip(labels.iter().copied())
        .collect();
    let within = |tokens: f64| {
        let hits: Vec<f64> = pairs
            .iter()
            .map(|(p, l)| f64::from((p - l).abs() <= tokens))
            .collect();
        bootstrap_mean(&hits, seed)
    };
    let unread = (0..n)
        .filter(|at| unparsable.get(*at) == Some(&true) || !predictions[*at].is_finite())
        .count();
    let (read, truth): (Vec<f64>, Vec<f64>) =
        pairs.iter().filter(|(p, _)| p.is_finite()).copied().unzip();
    let over = |of: fn(f64, f64) -> f64| -> Vec<f64> {
        read.iter().zip(&truth).map(|(p, l)| of(*p, *l)).collect()
    };
    PredictorMetrics {
        name: name.to_owned(),
        n,
        error: bootstrap_mean(&over(|p, l| (p - l).abs()), seed),
        acc_50: within(50.0),
        acc_100: within(100.0),
        bias: bootstrap_mean(&over(|p, l| p - l), seed),
        rmse: bootstrap(&over(|p, l| (p - l).powi(2)), seed, f64::sqrt),
        underestimation: bootstrap_mean(&over(|p, l| f64::from(p < l)), seed),
        kendall_tau: kendall_tau_b(&read, &truth),
        unparsable: if n > 0 { unread as f64 / n as f64 } else { 0.0 },
        ms_per_prediction,
    }
}

/// The two ends between which a predictor can lie on these instructions.
///
/// The **floor** predicts the median of `training_labels` for everything, or of these labels
/// themselves where no training set is given. The **ceiling** knows one real answer: the
/// length of the instruction's sample at the lowest temperature, times the one factor
/// (0.80..=2.00 in steps of 0.01) with the least mean absolute error over the set, against
/// the label over all samples, itself included. It is `None` where no instruction has two
/// samples; instructions with one sample are left out of it.
pub fn floor_and_ceiling(
    instances: &[Instance<'_>],
    label: Label,
    training_labels: Option<&[f64]>,
    seed: u64,
) -> (PredictorMetrics, Option<PredictorMetrics>) {
    let labels: Vec<f64> = instances.iter().map(|i| i.label(label)).collect();
    let constant = match training_labels {
        Some(training) if !training.is_empty() => median(training),
        _ => median(&labels),
    };
    let floor = predictor_metrics(
        "floor",
        &vec![constant; labels.len()],
        &labels,
        &[],
        0.0,
        seed,
    );

    let (known, truth): (Vec<f64>, Vec<f64>) = instances
        .iter()
        .zip(&labels)
        .filter(|(instance, _)| instance.samples.len() >= 2)
        .filter_map(|(instance, label)| {
            let coldest = instance
                .samples
                .iter()
                .min_by(|a, b| a.temperature.total_cmp(&b.temperature))?;
            Some((f64::from(coldest.response_tokens), *label))
        })
        .unzip();
    if known.is_empty() {
        return (floor, None);
    }
    let scaled = scaled_to(&known, &truth);
    let ceiling = predictor_metrics("ceiling", &scaled, &truth, &[], 0.0, seed);
    (floor, Some(ceiling))
}

/// `known` times the one factor (0.80..=2.00 in steps of 0.01) whose mean absolute distance to
/// `truth` is least: what the noise ceiling predicts.
pub fn scaled_to(known: &[f64], truth: &[f64]) -> Vec<f64> {
    let error = |factor: f64| -> f64 {
        known
            .iter()
            .zip(truth)
            .map(|(k, l)| (k * factor - l).abs())
            .sum()
    };
    let factor = (80..=200)
        .map(|percent| f64::from(percent) / 100.0)
        .min_by(|a, b| error(*a).total_cmp(&error(*b)))
        .unwrap_or(1.0);
    known.iter().map(|k| k * factor).collect()
}

/// Error, Acc-50 and Acc-100 as in [`PredictorMetrics`], without the intervals, whose
/// bootstrap takes too long for a million instructions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// Instructions.
    pub n: usize,
    pub error: f64,
    pub acc_50: f64,
    pub acc_100: f64,
}

impl Accuracy {
    /// Of predictions for labels, item by item; NaN where there are none.
    pub fn of(predictions: impl IntoIterator<Item = f64>, labels: &[f64]) -> Accuracy {
        let (mut n, mut error, mut near, mut nearer) = (0, 0.0, 0, 0);
        for (prediction, label) in predictions.into_iter().zip(labels) {
            let distance = (prediction - label).abs();
            n += 1;
            error += distance;
            near += usize::from(distance <= 100.0);
            nearer += usize::from(distance <= 50.0);
        }
        let count = n as f64;
        Accuracy {
            n,
            error: error / count,
            acc_50: nearer as f64 / count,
            acc_100: near as f64 / count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{FinishReason, Sample};
    use proptest::prelude::*;

    #[test]
    fn figures_by_hand() {
        let metrics = predictor_metrics(
            "p",
            &[100.0, 150.0, 10.0, 300.0],
            &[150.0, 150.0, 110.0, 199.0],
            &[false, false, true, false],
            1.5,
            42,
        );
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
        let metrics = predictor_metrics("p", &[f64::NAN, 5.0], &[5.0, 5.0], &[], 0.0, 1);
        assert_eq!(metrics.unparsable, 0.5);
        assert_eq!(metrics.acc_50.value, 0.5);
        assert_eq!(metrics.error.value, 0.0);
        let empty = predictor_metrics("p", &[], &[], &[], 0.0, 1);
        assert_eq!(empty.n, 0);
    }

    #[test]
    fn figures_serialise_as_mean_and_interval() {
        let metrics = predictor_metrics("p", &[1.0, 1.0], &[1.0, 2.0], &[], 0.0, 1);
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
            let m = predictor_metrics("p", &predictions, &labels, &[], 0.0, 7);
            prop_assert!((0.0..=1.0).contains(&m.acc_50.value));
            prop_assert!(m.acc_50.value <= m.acc_100.value && m.acc_100.value <= 1.0);
            prop_assert!(m.bias.value.abs() <= m.error.value + 1e-9);
            prop_assert!(m.error.value <= m.rmse.value + 1e-9);
        }
    }
}
