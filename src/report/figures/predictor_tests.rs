//! The figures of an evaluation, on lifelike and on hostile data.

use rand::Rng;

use super::tests::{assert_tidy, folder, pairs};
use super::*;
use crate::evaluate::predictor_metrics::{PredictorMetrics, Said, predictor_metrics};
use crate::evaluate::quantile_metrics::QuantileMetrics;
use crate::evaluate::statistics::Estimate;
use crate::predictor::{LEVELS, Quantiles};
use crate::report::samples::{self, generator};

fn estimate(value: f64, half: f64) -> Estimate {
    Estimate {
        value,
        ci95: [value - half, value + half],
    }
}

fn cost(name: &str, ms: f64, error: f64, acc_100: f64) -> Cost {
    Cost {
        name: name.into(),
        ms,
        error: estimate(error, 1.6),
        acc_100: estimate(acc_100, 0.01),
    }
}

fn costs() -> Vec<Cost> {
    vec![
        cost("constant", 0.000_01, 99.7, 0.545),
        cost("input-length", 0.000_02, 101.7, 0.527),
        cost("lexical", 0.04, 67.2, 0.786),
        cost("neighbour", 0.6, 78.4, 0.72),
        cost("encoder", 9.0, 66.0, 0.79),
        cost("ridge", 21.0, 55.8, 0.848),
        cost("pooling-mlp", 22.0, 60.1, 0.823),
        cost("head (3 seeds)", 24.0, 48.9, 0.868),
        cost("stack", 26.0, 47.6, 0.873),
        cost("lora", 95.0, 74.0, 0.74),
        cost("perception-only", 240.0, 160.0, 0.31),
    ]
}

fn levels() -> Vec<Reference> {
    let level = |name: &str, error, acc_100, published| Reference {
        name: name.into(),
        error,
        acc_100,
        published,
    };
    vec![
        level("floor", 99.7, 0.545, false),
        level("noise ceiling", 37.6, 0.906, false),
        level(
            "paper, a 7B prefill (its cost was not published)",
            62.0,
            0.81,
            true,
        ),
    ]
}

fn metrics(name: &str, noise: f64, count: usize) -> PredictorMetrics {
    let mut rng = generator();
    let labels: Vec<f64> = (0..count)
        .map(|_| f64::from(samples::length(&mut rng)))
        .collect();
    let tokens: Vec<f64> = labels
        .iter()
        .map(|l| (l * 0.8 + 25.0 + noise * (rng.random::<f64>() - 0.5)).max(1.0))
        .collect();
    let quantiles: Vec<Option<Quantiles>> = tokens
        .iter()
        .map(|t| Some(Quantiles::new(LEVELS.map(|p| t + noise * (p - 0.45)))))
        .collect();
    let said = Said {
        tokens: &tokens,
        quantiles: &quantiles,
        ..Said::default()
    };
    predictor_metrics(name, said, &labels, 1.0, 1)
}

fn lines(count: usize) -> Vec<BinnedErrors> {
    let line = |name: &str, noise, reference| BinnedErrors {
        name: name.into(),
        bins: metrics(name, noise, count).by_length,
        reference,
    };
    vec![
        line("floor", 700.0, true),
        line("ceiling", 100.0, true),
        line("stack", 180.0, false),
        line("head (3 seeds)", 200.0, false),
        line("ridge", 240.0, false),
        line("lexical", 320.0, false),
    ]
}

fn curves() -> Vec<LearningCurve> {
    let curve = |name: &str, start: f64| LearningCurve {
        name: name.into(),
        points: [1000usize, 2000, 5000, 9000]
            .into_iter()
            .enumerate()
            .map(|(at, n)| {
                let error = start - 6.0 * at as f64;
                (n, estimate(error, 1.5), estimate(1.1 - error / 210.0, 0.01))
            })
            .collect(),
    };
    vec![curve("head", 68.0), curve("lexical", 88.0)]
}

fn quantiles() -> Vec<(String, QuantileMetrics)> {
    [("head (3 seeds)", 200.0), ("lexical", 420.0)]
        .into_iter()
        .filter_map(|(name, noise)| Some((name.into(), metrics(name, noise, 2000).quantiles?)))
        .collect()
}

fn borrowed(rows: &[(String, QuantileMetrics)]) -> Vec<(String, &QuantileMetrics)> {
    rows.iter().map(|(name, q)| (name.clone(), q)).collect()
}

#[test]
fn every_figure_of_an_evaluation_writes_both_files() {
    let out = folder();
    out.check("frontier", |stem| {
        frontier(stem, &costs(), &levels()).unwrap();
    });
    out.check("error-by-length", |stem| {
        error_by_length(stem, &lines(2000)).unwrap();
    });
    out.check("learning-curve", |stem| {
        learning_curves(stem, &curves()).unwrap();
    });
    let rows = quantiles();
    out.check("reliability", |stem| {
        reliability(stem, &borrowed(&rows)).unwrap();
    });
    let (predictions, labels) = pairs(5000);
    out.check("density", |stem| {
        predicted_density(stem, "head (3 seeds), the first", &predictions, &labels).unwrap();
    });
}

#[test]
fn labels_of_an_evaluation_stay_apart() {
    assert_tidy(1360.0, |c| super::frontier::costs(c, &costs(), &levels()));
    assert_tidy(800.0, |c| super::length_bins::bins(c, &lines(2000)));
    assert_tidy(1180.0, |c| super::learning::learning(c, &curves()));
    let rows = quantiles();
    assert_tidy(1200.0, |c| {
        super::reliability::levels(c, &borrowed(&rows));
    });
    for count in [1, 12, 5000] {
        let (predictions, labels) = pairs(count);
        let both: Vec<_> = labels.into_iter().zip(predictions).collect();
        assert_tidy(1104.0, |c| super::density::density(c, "lexical", &both));
    }
}

#[test]
fn odd_data_is_drawn_all_the_same() {
    // Many at one place, an absurd cost, names too long, figures that are not numbers.
    let mut crowd: Vec<Cost> = (0..9)
        .map(|n| cost(&format!("head-{n}"), 24.0 + 0.1 * f64::from(n), 50.0, 0.85))
        .collect();
    crowd.push(cost("far", 1e9, 51.0, 0.2));
    crowd.push(cost(&"long name ".repeat(9), 1.0, f64::NAN, f64::NAN));
    crowd.push(cost("never", f64::INFINITY, 1.0, 1.0));
    assert_tidy(1360.0, |c| super::frontier::costs(c, &crowd, &[]));
    let one = [cost("one", 0.0, 3.0, 1.0)];
    assert_tidy(1360.0, |c| super::frontier::costs(c, &one, &levels()));
    let nothing = predictor_metrics("p", Said::default(), &[], 0.0, 1);
    let empty = [BinnedErrors {
        name: "p".into(),
        bins: nothing.by_length,
        reference: false,
    }];
    assert_tidy(800.0, |c| super::length_bins::bins(c, &empty));
    let mut many = lines(40);
    for _ in 0..5 {
        many.extend(lines(40).into_iter().filter(|line| !line.reference));
    }
    assert_tidy(800.0, |c| super::length_bins::bins(c, &many));
    let odd = [LearningCurve {
        name: "odd".into(),
        points: vec![
            (0, estimate(1.0, 0.0), estimate(0.5, 0.0)),
            (7, estimate(f64::NAN, 0.0), estimate(0.5, 0.0)),
            (9, estimate(4.0, f64::NAN), estimate(0.5, 0.0)),
        ],
    }];
    assert_tidy(1180.0, |c| super::learning::learning(c, &odd));
    for both in [
        vec![(5.0, 1e12), (6.0, 7.0), (8.0, 3.0)],
        vec![(0.0, 0.0)],
        vec![(3.0, -4.0)],
        vec![(512.0, 1.0); 700],
    ] {
        assert_tidy(1104.0, |c| super::density::density(c, "odd", &both));
    }
    let stem = tempfile::tempdir().unwrap().path().join("none");
    assert!(frontier(&stem, &[], &levels()).is_err());
    assert!(error_by_length(&stem, &empty).is_err());
    assert!(learning_curves(&stem, &[]).is_err());
    assert!(reliability(&stem, &[]).is_err());
    assert!(predicted_density(&stem, "x", &[f64::NAN], &[1.0]).is_err());
    assert!(predicted_density(&stem, "x", &[1.0], &[]).is_err());
}

#[test]
fn heights_are_moved_apart_and_kept_inside() {
    let moved = apart(&[(50.0, 10.0), (50.0, 10.0), (98.0, 10.0)], 0.0, 100.0);
    let mut sorted = moved.clone();
    sorted.sort_by(f64::total_cmp);
    assert!(
        sorted
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= 10.0 - 1e-9)
    );
    assert!(sorted[2] <= 95.0 && sorted[0] >= 5.0, "{moved:?}");
    assert_eq!(apart(&[], 0.0, 1.0), Vec::<f64>::new());
}
