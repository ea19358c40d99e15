//! Every figure, on lifelike and on hostile data: files come out, labels stay apart.
//!
//! Set `LENAWARE_FIGURES` to a folder to keep the files and look at them.

use std::path::PathBuf;

use rand::Rng;

use super::*;
use crate::dataset::describe::TemperatureLengths;
use crate::evaluate::summary::{BatchRecord, Measure};
use crate::report::samples::{self, generator};
use crate::report::style::WIDTH;

pub(super) struct Folder {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

pub(super) fn folder() -> Folder {
    match std::env::var_os("LENAWARE_FIGURES") {
        Some(path) => Folder {
            path: path.into(),
            _temporary: None,
        },
        None => {
            let temporary = tempfile::tempdir().unwrap();
            Folder {
                path: temporary.path().into(),
                _temporary: Some(temporary),
            }
        }
    }
}

impl Folder {
    pub(super) fn check(&self, name: &str, write: impl FnOnce(&std::path::Path)) {
        let stem = self.path.join(name);
        write(&stem);
        let svg = std::fs::read_to_string(stem.with_extension("svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        let png = std::fs::read(stem.with_extension("png")).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000);
        // What is drawn can be had as a table.
        let csv = std::fs::read_to_string(stem.with_extension("csv")).unwrap();
        let lines: Vec<&str> = csv.lines().collect();
        assert!(lines.len() > 1 && lines[0].contains(','), "{name}: {csv}");
    }
}

pub(super) fn assert_tidy(height: f64, drawing: impl FnOnce(&mut Canvas)) {
    let mut canvas = Canvas::new(WIDTH, height);
    drawing(&mut canvas);
    let faults = canvas.layout_faults();
    assert!(faults.is_empty(), "{faults:#?}");
}

fn spreads(count: usize) -> Vec<(f64, f64, f64)> {
    let mut rng = generator();
    let mut list: Vec<_> = (0..count)
        .map(|_| {
            let mean = f64::from(samples::length(&mut rng));
            let spread = 0.15 + 0.5 * rng.random::<f64>();
            let max = (mean * (1.0 + spread)).min(512.0);
            (mean, mean * (1.0 - 0.7 * spread), max.max(mean))
        })
        .collect();
    list.sort_by(|a, b| a.0.total_cmp(&b.0));
    list
}

pub(super) fn pairs(count: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rng = generator();
    let labels: Vec<f64> = (0..count)
        .map(|_| f64::from(samples::length(&mut rng)))
        .collect();
    let predictions = labels
        .iter()
        .map(|l| {
            let noise: f64 = (0..6).map(|_| rng.random::<f64>()).sum::<f64>() - 3.0;
            (l * 0.8 + 35.0 + noise * 75.0).clamp(5.0, 512.0)
        })
        .collect();
    (predictions, labels)
}

fn by_temperature(groups: usize) -> Vec<TemperatureLengths> {
    let mut rng = generator();
    (0..groups)
        .map(|group| {
            let lengths = (0..1000).map(|_| samples::length(&mut rng));
            let lengths = lengths.map(|l| (l, l >= 512)).collect();
            (Some(group as f32 / 10.0), lengths)
        })
        .collect()
}

type Curve = Vec<(u64, f64)>;

fn losses(count: u64, every: u64) -> (Curve, Curve) {
    let mut rng = generator();
    let at = |step: u64| 0.9 + 2.6 * (-(step as f64) / 60.0).exp();
    let points = (1..=count)
        .map(|s| (s, at(s) + 0.3 * rng.random::<f64>()))
        .collect();
    let validation = (1..=count / every).map(|n| (n * every, at(n * every) + 0.25));
    (points, validation.collect())
}

fn rows() -> Vec<PredictorRow> {
    [
        ("constant", 103.3, 0.281, 0.501),
        ("input-length", 96.0, 0.33, 0.55),
        ("lexical (TF-IDF + ridge)", 64.3, 0.548, 0.803),
        ("LoRA, smollm2-135m", 88.0, 0.46, 0.65),
        ("noise ceiling", 39.8, 0.738, 0.905),
    ]
    .into_iter()
    .map(|(name, error, acc_50, acc_100)| PredictorRow {
        name: name.into(),
        error,
        low: error - 4.0,
        high: error + 4.5,
        acc_50,
        acc_100,
    })
    .collect()
}

#[test]
fn every_figure_writes_both_files() {
    let out = folder();
    for simulated in [true, false] {
        let summary = samples::summary(simulated);
        let (arms, executor) = (&summary.arms, &summary.executor);
        let word = crate::report::wording::kind(executor);
        out.check(&format!("throughput-{word}"), |stem| {
            throughput_bars(stem, arms, executor).unwrap();
        });
        out.check(&format!("effective-{word}"), |stem| {
            effective_tokens_bars(stem, arms, executor).unwrap();
        });
    }
    let mut rng = generator();
    let lengths: Vec<u32> = (0..10_000).map(|_| samples::length(&mut rng)).collect();
    out.check("lengths", |stem| {
        length_histogram(stem, &lengths, 512).unwrap();
    });
    let cut: Vec<u32> = lengths.iter().map(|&l| l.min(64)).collect();
    out.check("lengths-cut", |stem| {
        length_histogram(stem, &cut, 64).unwrap();
    });
    out.check("lengths-by-temperature", |stem| {
        lengths_by_temperature(stem, &by_temperature(4), Some(512)).unwrap();
    });
    out.check("spread", |stem| {
        length_spread(stem, &spreads(1000)).unwrap();
    });
    out.check("spread-few", |stem| {
        length_spread(stem, &spreads(12)).unwrap();
    });
    let (vanilla, ours) = (
        samples::run("vanilla", 42, false),
        samples::run("ours", 42, true),
    );
    out.check("schedule", |stem| {
        let names = ("vanilla", "tuned + VBS + FCR");
        let origin = "simulated with step-time model paper";
        schedule_diagram(stem, &vanilla.batches, &ours.batches, names, origin).unwrap();
    });
    let (points, validation) = losses(600, 100);
    out.check("loss", |stem| {
        loss_curve(stem, &points, &validation).unwrap();
    });
    let (points, validation) = losses(20, 5);
    out.check("loss-short", |stem| {
        loss_curve(stem, &points, &validation).unwrap();
    });
    let (predictions, labels) = pairs(1000);
    out.check("scatter", |stem| {
        predicted_vs_true(stem, "lexical", &predictions, &labels).unwrap();
    });
    out.check("predictors", |stem| predictor_bars(stem, &rows()).unwrap());
}

#[test]
fn labels_stay_apart_on_ordinary_data() {
    let summary = samples::summary(true);
    let (arms, executor) = (&summary.arms, &summary.executor);
    assert_tidy(700.0, |c| super::arms::throughput(c, arms, executor));
    assert_tidy(800.0, |c| super::arms::effective_tokens(c, arms, executor));
    let (vanilla, ours) = (
        samples::run("vanilla", 42, false),
        samples::run("ours", 42, true),
    );
    assert_tidy(900.0, |c| {
        super::schedule::diagram(
            c,
            &vanilla.batches,
            &ours.batches,
            ("a", "b"),
            "measured on x",
        );
    });
    for groups in 1..=8 {
        let lengths = by_temperature(groups);
        for limit in [Some(512), None] {
            assert_tidy(760.0, |c| {
                super::temperatures::histogram(c, &lengths, limit);
            });
        }
    }
    for count in [12, 1000] {
        assert_tidy(680.0, |c| super::lengths::spread(c, &spreads(count)));
        let (predictions, labels) = pairs(count);
        let both: Vec<_> = labels.into_iter().zip(predictions).collect();
        assert_tidy(1104.0, |c| super::predictors::scatter(c, "lexical", &both));
    }
    assert_tidy(700.0, |c| super::predictors::predictors(c, &rows()));
}

#[test]
fn labels_stay_apart_on_odd_data() {
    let mut summary = samples::summary(false);
    summary.arms[1].name =
        "an arm whose name somebody made far, far too long to print, twice".into();
    summary.arms[2].throughput_samples_per_s = Measure {
        mean: 123_456.7,
        ci95: [100_000.0, 190_000.0],
        values: vec![1.0, 2.0],
    };
    summary.arms[2].improvement_pct = samples::measure(1_234_567.0, 1.0, 1);
    summary.arms[3].throughput_samples_per_s = samples::measure(f64::NAN, 0.0, 1);
    summary.arms[3].effective_token_ratio = samples::measure(f64::NAN, 0.0, 1);
    let (arms, executor) = (&summary.arms, &summary.executor);
    assert_tidy(700.0, |c| super::arms::throughput(c, arms, executor));
    assert_tidy(800.0, |c| super::arms::effective_tokens(c, arms, executor));
    for lengths in [
        vec![1],
        vec![7; 30],
        vec![512; 30],
        vec![3, 511, 512, 512],
        vec![500; 10],
        vec![1, 2, 3, 4_000_000_000],
    ] {
        assert_tidy(720.0, |c| super::lengths::histogram(c, &lengths, 512));
        for at in [512, u32::MAX] {
            let group = lengths.iter().map(|&l| (l, l >= at)).collect();
            let group: [TemperatureLengths; 1] = [(None, group)];
            assert_tidy(760.0, |c| {
                super::temperatures::histogram(c, &group, Some(512));
            });
            assert_tidy(760.0, |c| super::temperatures::histogram(c, &group, None));
        }
    }
    assert_tidy(680.0, |c| super::lengths::spread(c, &[(0.0, 0.0, 0.0)]));
    for (points, validation) in [
        (vec![(1, 2.0)], vec![]),
        (vec![(1, 2.0), (2, f64::NAN)], vec![(2, 2.0)]),
        (vec![(1, 0.0), (9, 0.0)], vec![(9, 0.0)]),
    ] {
        assert_tidy(680.0, |c| super::training::loss(c, &points, &validation));
    }
    let untimed: Vec<BatchRecord> = samples::run("x", 1, false)
        .batches
        .into_iter()
        .map(|b| BatchRecord {
            prefill_s: 0.0,
            decode_s: 0.0,
            ..b
        })
        .collect();
    assert_tidy(900.0, |c| {
        super::schedule::diagram(c, &untimed[..1], &untimed, ("a", "b"), "");
    });
}

#[test]
fn nothing_to_draw_is_an_error() {
    let stem = tempfile::tempdir().unwrap().path().join("none");
    let executor = samples::summary(true).executor;
    assert!(throughput_bars(&stem, &[], &executor).is_err());
    assert!(length_histogram(&stem, &[], 512).is_err());
    assert!(lengths_by_temperature(&stem, &[(None, Vec::new())], None).is_err());
    assert!(loss_curve(&stem, &[(1, f64::NAN)], &[]).is_err());
    assert!(predicted_vs_true(&stem, "x", &[1.0], &[]).is_err());
}
