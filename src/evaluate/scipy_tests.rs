//! Our statistics against those of SciPy, scikit-learn and statsmodels, written by
//! `tests/peers/scipy_statistics.py`.

use serde::Deserialize;

use super::predictor_metrics::{PredictorMetrics, Said, predictor_metrics};
use super::quantile_metrics::pinball;
use super::spread::{clustered_interval, spread};
use super::statistics::{Estimate, quantile};
use super::summary::Measure;
use crate::predictor::{LEVELS, Quantiles};

#[derive(Deserialize)]
struct Fixture {
    levels: Vec<f64>,
    cases: Vec<Case>,
    groups: Groups,
    seeds: Vec<Seeds>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    labels: Vec<f64>,
    said: Vec<f64>,
    quantiles: Vec<[f64; LEVELS.len()]>,
    kendall_tau_b: f64,
    spearman: f64,
    pinball: Vec<f64>,
    error: Interval,
    bias: Interval,
    rmse: Interval,
    acc_50: Interval,
    underestimation: Interval,
    r2: Interval,
    label_quantiles: [f64; 4],
}

/// A figure, its percentile bootstrap interval, and the standard error that the resamples show.
#[derive(Deserialize)]
struct Interval {
    value: f64,
    low: f64,
    high: f64,
    error: f64,
}

#[derive(Deserialize)]
struct Groups {
    lengths: Vec<Vec<u32>>,
    low: f64,
    high: f64,
    intraclass_correlation: f64,
}

#[derive(Deserialize)]
struct Seeds {
    values: Vec<f64>,
    mean: f64,
    low: f64,
    high: f64,
}

fn fixture() -> Fixture {
    let text = include_str!("../../tests/fixtures/statistics.json");
    serde_json::from_str(text).expect("is what the script wrote")
}

fn near(found: f64, expected: f64, what: &str) {
    let scale = expected.abs().max(1.0);
    let close = (found - expected).abs() < 1e-9 * scale;
    assert!(close, "{what}: {found} instead of {expected}");
}

fn scored(case: &Case) -> PredictorMetrics {
    let quantiles: Vec<Option<Quantiles>> = (case.quantiles.iter())
        .map(|q| Some(Quantiles::new(*q)))
        .collect();
    let said = Said {
        tokens: &case.said,
        quantiles: &quantiles,
        ..Said::default()
    };
    predictor_metrics(&case.name, said, &case.labels, 0.0, 7)
}

/// Figures with intervals, ours beside theirs.
fn figures<'c>(
    found: &PredictorMetrics,
    case: &'c Case,
) -> [(Estimate, &'c Interval, &'static str); 6] {
    [
        (found.error, &case.error, "error"),
        (found.bias, &case.bias, "bias"),
        (found.rmse, &case.rmse, "rmse"),
        (found.acc_50, &case.acc_50, "acc-50"),
        (found.underestimation, &case.underestimation, "under"),
        (found.r2.expect("labels vary"), &case.r2, "r2"),
    ]
}

#[test]
fn figures_are_scipys_and_scikit_learns() {
    let fixture = fixture();
    assert_eq!(fixture.levels, LEVELS);
    for case in &fixture.cases {
        let found = scored(case);
        let name = &case.name;
        let tau = found.kendall_tau.expect("is defined");
        near(tau, case.kendall_tau_b, &format!("{name}: tau-b"));
        let rho = found.spearman.expect("is defined");
        near(rho, case.spearman, &format!("{name}: Spearman"));
        for (ours, theirs, what) in figures(&found, case) {
            near(ours.value, theirs.value, &format!("{name}: {what}"));
        }
        for (level, expected) in [0.1, 0.5, 0.9, 0.99].iter().zip(case.label_quantiles) {
            near(quantile(&case.labels, *level), expected, "quantile");
        }
    }
}

#[test]
fn pinball_losses_are_scikit_learns() {
    for case in &fixture().cases {
        let count = case.labels.len() as f64;
        for (place, level) in LEVELS.iter().enumerate() {
            let losses = (case.labels.iter().zip(&case.quantiles))
                .map(|(label, said)| pinball(said[place], *label, *level));
            let mean = losses.sum::<f64>() / count;
            near(
                mean,
                case.pinball[place],
                &format!("{}: {level}", case.name),
            );
        }
        let found = scored(case).quantiles.expect("has quantiles");
        let mean = case.pinball.iter().sum::<f64>() / LEVELS.len() as f64;
        near(found.pinball.value, mean, &case.name);
        near(found.pinball_90.value, case.pinball[18], &case.name);
    }
}

/// The ends of 2,000 resamples differ by their own noise: the standard deviation of a 2.5 %
/// quantile of 2,000 normal values is 0.06 of theirs. Few items make steps of it.
#[test]
fn bootstrap_intervals_are_scipys_within_their_noise() {
    let within = |ours: &Estimate, theirs: &Interval, what: &str| {
        for (found, expected) in ours.ci95.iter().zip([theirs.low, theirs.high]) {
            let gap = (found - expected).abs();
            assert!(gap <= 0.3 * theirs.error + 1e-9, "{what}: {ours:?}");
        }
    };
    for case in &fixture().cases {
        let found = scored(case);
        for (ours, theirs, what) in figures(&found, case) {
            within(&ours, theirs, &format!("{}: {what}", case.name));
        }
    }
}

#[test]
fn intervals_over_seeds_are_students() {
    for seeds in fixture().seeds {
        let found = Measure::over(seeds.values);
        near(found.mean, seeds.mean, "mean");
        near(found.ci95[0], seeds.low, "lower end");
        near(found.ci95[1], seeds.high, "upper end");
    }
}

#[test]
fn samples_of_instructions_are_clusters() {
    let groups = fixture().groups;
    let lengths = || groups.lengths.iter().map(Vec::as_slice);
    let [low, high] = clustered_interval(lengths()).expect("several groups");
    near(low, groups.low, "statsmodels' lower end");
    near(high, groups.high, "its upper end");
    let correlation = spread(lengths()).and_then(|s| s.intraclass_correlation);
    near(
        correlation.expect("lengths vary"),
        groups.intraclass_correlation,
        "by the F statistic",
    );
}
