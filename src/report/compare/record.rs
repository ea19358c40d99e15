//! Any run as rows of the same few measures: an arm of batches, an arm of serving over time, or
//! a predictor of an evaluation.

use std::path::Path;

use crate::error::{Error, Result};
use crate::evaluate::evaluation::EvaluationSummary;
use crate::evaluate::summary::{Measure, Summary};
use crate::online::summary::OnlineSummary;
use crate::regular_file;
use crate::report::online::origin_of;
use crate::report::wording::{grouped, has_interval, kind, number, origin, share};

/// A quantity that runs are compared by.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name with its unit.
    pub name: &'static str,
    /// Whether more of it is better.
    pub more_is_better: bool,
    /// How it is written.
    pub say: fn(f64) -> String,
}

const fn metric(name: &'static str, more_is_better: bool, say: fn(f64) -> String) -> Metric {
    Metric {
        name,
        more_is_better,
        say,
    }
}

fn tenth(value: f64) -> String {
    grouped(value, 1)
}

fn hundredth(value: f64) -> String {
    grouped(value, 2)
}

const OF_BATCHES: &[Metric] = &[
    metric("samples/s", true, number),
    metric("avg length (full)", false, number),
    metric("effective (full)", true, share),
    metric("failures", false, share),
    metric("latency p50 s", false, number),
    metric("latency p99 s", false, number),
    metric("predict s", false, number),
];

const OF_SERVING: &[Metric] = &[
    metric("E2E mean s", false, number),
    metric("E2E p99 s", false, number),
    metric("TTFT mean s", false, number),
    metric("TPOT mean s", false, number),
    metric("requests/s", true, number),
    metric("goodput requests/s", true, number),
    metric("longest wait s", false, number),
];

/// Where [`OF_SERVING`] are found.
const PATHS: [&str; 7] = [
    "e2e_s.mean",
    "e2e_s.p99",
    "ttft_s.mean",
    "tpot_s.mean",
    "request_throughput",
    "request_goodput",
    "longest_wait_s",
];

const OF_EVALUATION: &[Metric] = &[
    metric("error (tokens)", false, tenth),
    metric("Acc-50", true, share),
    metric("Acc-100", true, share),
    metric("tau-b", true, hundredth),
    metric("ms each", false, number),
];

/// What a row says of a metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Value {
    /// The mean.
    pub mean: f64,
    /// Its 95 % interval, where there is one.
    pub interval: Option<[f64; 2]>,
    /// A value a seed, in the order of [`Row::seeds`]; empty where it does not vary by seed.
    pub by_seed: Vec<f64>,
}

impl Value {
    fn of(measure: &Measure) -> Value {
        Value {
            mean: measure.mean,
            interval: has_interval(measure).then_some(measure.ci95),
            by_seed: measure.values.clone(),
        }
    }

    fn alone(mean: f64) -> Value {
        Value {
            mean,
            ..Value::default()
        }
    }
}

/// An arm or a predictor.
#[derive(Debug, Clone)]
pub struct Row {
    /// As the run names it.
    pub name: String,
    /// The seeds behind it.
    pub seeds: Vec<u64>,
    /// What was asked of it: the same in two runs only where the same requests came alike.
    pub asked: String,
    /// One a metric of its run.
    pub values: Vec<Value>,
}

/// A run as it is compared.
#[derive(Debug, Clone)]
pub struct Record {
    /// The experiment's name, or the evaluated dataset.
    pub title: String,
    /// `measured`, `simulated` or what else the numbers are; empty for evaluations.
    pub kind: &'static str,
    /// `measured on …` or `simulated with …`.
    pub origin: String,
    /// What an evaluation was of, as keys and values; runs have it in their configuration.
    pub settings: Vec<(String, String)>,
    /// UTC, RFC 3339.
    pub created: String,
    /// What its rows hold.
    pub metrics: &'static [Metric],
    /// Its arms or predictors.
    pub rows: Vec<Row>,
    /// `config.toml`; empty where there is none.
    pub config: String,
    /// `environment.json`; null where there is none.
    pub environment: serde_json::Value,
}

impl Record {
    /// Reads the folder of a run or of an evaluation.
    ///
    /// # Errors
    /// A folder without a `summary.json` that is one of theirs.
    pub fn read(folder: &Path) -> Result<Record> {
        let path = folder.join("summary.json");
        let bytes = crate::regular_file::bytes_up_to(&path, crate::regular_file::LISTS)?;
        let mut record = if let Ok(summary) = serde_json::from_slice::<Summary>(&bytes) {
            of_batches(summary)
        } else if let Ok(summary) = serde_json::from_slice::<EvaluationSummary>(&bytes) {
            of_evaluation(summary)
        } else {
            let summary = serde_json::from_slice::<OnlineSummary>(&bytes).map_err(|_| {
                Error::malformed(
                    &path,
                    "neither of a run nor of an evaluation that this version knows",
                )
            })?;
            of_serving(summary)
        };
        let text = |name: &str| {
            let path = folder.join(name);
            regular_file::text_up_to(&path, regular_file::LISTS).unwrap_or_default()
        };
        record.config = text("config.toml");
        record.environment = serde_json::from_str(&text("environment.json")).unwrap_or_default();
        let workload = record.workload();
        for row in &mut record.rows {
            row.asked.push_str(&workload);
        }
        Ok(record)
    }

    /// Which requests were served, and of which file, as far as the folder says.
    fn workload(&self) -> String {
        let config = self.config.parse::<toml::Table>().unwrap_or_default();
        let workload = config.get("workload").map(ToString::to_string);
        // An evaluation's file is told by its hash, or else by its name.
        let file = match (&self.environment["dataset"]["sha256"], &workload) {
            (serde_json::Value::String(hash), _) => hash.clone(),
            (_, None) => self.title.clone(),
            _ => String::new(),
        };
        format!("{} {file}", workload.unwrap_or_default())
    }
}

fn record(
    title: String,
    (kind, origin): (&'static str, String),
    created: String,
    metrics: &'static [Metric],
) -> Record {
    Record {
        title,
        kind,
        settings: Vec::new(),
        origin,
        created,
        metrics,
        rows: Vec::new(),
        config: String::new(),
        environment: serde_json::Value::Null,
    }
}

fn of_batches(summary: Summary) -> Record {
    let rows = summary.arms.iter().map(|arm| Row {
        name: arm.name.clone(),
        seeds: arm.seeds.clone(),
        asked: arm.requests.to_string(),
        values: [
            &arm.throughput_samples_per_s,
            &arm.average_length_full,
            &arm.effective_token_ratio_full,
            &arm.failure_ratio,
            &arm.latency_s.p50,
            &arm.latency_s.p99,
            &arm.predict_s,
        ]
        .map(Value::of)
        .to_vec(),
    });
    Record {
        rows: rows.collect(),
        ..record(
            summary.experiment.clone(),
            (kind(&summary.executor), origin(&summary.executor)),
            summary.created.clone(),
            OF_BATCHES,
        )
    }
}

fn of_serving(summary: OnlineSummary) -> Record {
    let rows = summary.arms.iter().map(|arm| Row {
        name: arm.name.clone(),
        seeds: arm.seeds.clone(),
        asked: format!("{} {}", arm.requests, arm.arrivals),
        values: PATHS
            .map(|path| match arm.figures.get(path) {
                Some(measure) => Value::of(measure),
                None => Value::alone(f64::NAN),
            })
            .to_vec(),
    });
    Record {
        rows: rows.collect(),
        ..record(
            summary.experiment.clone(),
            (
                summary.executor.as_ref().map_or("simulated", kind),
                origin_of(&summary),
            ),
            summary.created.clone(),
            OF_SERVING,
        )
    }
}

fn of_evaluation(summary: EvaluationSummary) -> Record {
    let estimate = |e: &crate::evaluate::statistics::Estimate| Value {
        mean: e.value,
        interval: Some(e.ci95).filter(|[low, high]| low < high),
        by_seed: Vec::new(),
    };
    let settings = [
        ("dataset", summary.dataset.clone()),
        ("model of the dataset", summary.dataset_model.clone()),
        (
            "split",
            summary.split.clone().unwrap_or_else(|| "all".into()),
        ),
        ("label", summary.label.clone()),
        ("instructions", summary.instructions.to_string()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .to_vec();
    let asked = format!("{:?}", &settings[1..]);
    let rows = summary.predictors.iter().map(|predictor| {
        let m = &predictor.metrics;
        Row {
            name: predictor.short_name.clone(),
            seeds: Vec::new(),
            asked: asked.clone(),
            values: vec![
                estimate(&m.error),
                estimate(&m.acc_50),
                estimate(&m.acc_100),
                Value::alone(m.kendall_tau.unwrap_or(f64::NAN)),
                Value::alone(m.ms_per_prediction),
            ],
        }
    });
    Record {
        rows: rows.collect(),
        settings,
        ..record(
            format!("Length predictors on {}", summary.dataset),
            ("", format!("{} instructions", summary.instructions)),
            summary.created.clone(),
            OF_EVALUATION,
        )
    }
}
