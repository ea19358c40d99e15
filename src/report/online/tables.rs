//! Tables of an experiment with arrivals, for the terminal, Markdown and CSV.

use crate::error::{Error, Result};
use crate::evaluate::summary::Measure;
use crate::online::arrivals::AT_ONCE;
use crate::online::summary::{ArmFigures, OnlineArmSummary, OnlineSummary};
use crate::report::wording::{gain, number, share, with_interval};

use super::origin::{beside, word};

pub(super) fn table(summary: &OnlineSummary) -> (Vec<String>, Vec<Vec<String>>) {
    let any = |of: &dyn Fn(&OnlineArmSummary) -> bool| summary.arms.iter().any(of);
    let at_once = any(&|arm| arm.arrivals == AT_ONCE);
    let live = summary.executor.is_some();
    let grouped = any(&|arm| arm.figures.contains_key("group_e2e_s.mean"));
    let mut headers = vec!["arm", "policy", "predictor"];
    headers.extend(["requests/s", "tokens/s", "E2E mean s", "gain"]);
    headers.extend(["E2E p99 s", "TTFT mean s", "TTFT p99 s", "TPOT mean ms"]);
    headers.extend(["longest wait s", "goodput/s", "waiting", "rows", "KV use"]);
    headers.extend(["preemptions", "recomputed", "Jain"]);
    if at_once || live {
        headers.push("makespan s");
    }
    if at_once {
        headers.push("throughput gain");
    }
    if grouped {
        headers.extend(["group E2E mean s", "group E2E p99 s"]);
    }
    let refused = any(&|arm| arm.mean("refused") > 0.0);
    if refused {
        headers.push("refused");
    }
    let several = any(&|arm| arm.seeds.len() > 1);
    let mut rows: Vec<Vec<String>> = summary
        .arms
        .iter()
        .map(|arm| {
            let figure = |path: &str| -> String {
                match arm.figures.get(path) {
                    Some(measure) => number(measure.mean),
                    None => "n/a".into(),
                }
            };
            let e2e = arm
                .figures
                .get("e2e_s.mean")
                .map_or("n/a".into(), |m| match several {
                    true => with_interval(m, number),
                    false => number(m.mean),
                });
            let ahead = |measure: &Measure| match arm.compared_with == arm.name {
                true => String::new(),
                false => with_interval(measure, gain),
            };
            let mut row = vec![
                arm.name.clone(),
                arm.rules(),
                arm.predictor.clone(),
                figure("request_throughput"),
                figure("output_throughput"),
                e2e,
                ahead(&arm.e2e_gain_pct),
                figure("e2e_s.p99"),
                figure("ttft_s.mean"),
                figure("ttft_s.p99"),
                number(arm.mean("tpot_s.mean") * 1000.0),
                figure("longest_wait_s"),
                figure("request_goodput"),
                figure("waiting_mean"),
                figure("rows_mean"),
                match arm.kv_tokens {
                    0 => String::new(),
                    _ => share(arm.mean("kv_use_mean")),
                },
                figure("preemptions"),
                figure("recomputed_tokens"),
                figure("jain"),
            ];
            if at_once || live {
                row.push(figure("makespan_s"));
            }
            if at_once {
                row.push(ahead(&arm.throughput_gain_pct));
            }
            if grouped {
                row.extend([figure("group_e2e_s.mean"), figure("group_e2e_s.p99")]);
            }
            if refused {
                row.push(figure("refused"));
            }
            row
        })
        .collect();
    let mut headers: Vec<String> = headers.into_iter().map(String::from).collect();
    beside(summary, &mut headers, &mut rows);
    (headers, rows)
}

/// Mean slowdown of every arm by class of answer length.
pub(super) fn by_length(summary: &OnlineSummary) -> (Vec<String>, Vec<Vec<String>>) {
    let classes = crate::online::metrics::CLASSES;
    let mut headers = vec!["arm".to_string()];
    let mut from = 1;
    for end in classes {
        headers.push(format!("{from} to {end} tokens"));
        from = end + 1;
    }
    headers.push(format!("{from} and more"));
    let rows = summary
        .arms
        .iter()
        .map(|arm| {
            let of = |class| number(arm.mean(&format!("slowdown_by_length.{class}")));
            let mut row = vec![arm.name.clone()];
            row.extend((0..=classes.len()).map(of));
            row
        })
        .collect();
    (headers, rows)
}

/// Every figure of every arm: mean and the ends of its interval.
pub(super) fn csv(summary: &OnlineSummary) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| Error::Numeric(format!("CSV: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let told = [
        "experiment",
        "origin",
        "step_time",
        "name",
        "policy",
        "memory",
        "repredict",
        "predictor",
        "arrivals",
        "noise",
        "slots",
        "kv_tokens",
        "requests",
        "compared_with",
        "queue_formed",
        "queue_exceeds_batch",
    ];
    let mut headers: Vec<String> = told.map(String::from).to_vec();
    let paths: Vec<&String> = summary
        .arms
        .first()
        .map(|arm| arm.figures.keys().collect())
        .unwrap_or_default();
    let gains = ["e2e_gain_pct".to_string(), "throughput_gain_pct".into()];
    for path in paths.iter().copied().chain(&gains) {
        headers.extend([path.clone(), format!("{path}_lo"), format!("{path}_hi")]);
    }
    writer.write_record(&headers).map_err(|e| failed(&e))?;
    for arm in &summary.arms {
        let mut row = vec![
            summary.experiment.clone(),
            word(summary).into(),
            summary.step_time.clone(),
            arm.name.clone(),
            arm.policy.clone(),
            arm.memory.clone(),
            arm.repredict.clone(),
            arm.predictor.clone(),
            arm.arrivals.clone(),
            arm.noise.to_string(),
            arm.slots.to_string(),
            arm.kv_tokens.to_string(),
            arm.requests.to_string(),
            arm.compared_with.clone(),
            arm.queue_formed.to_string(),
            arm.queue_exceeds_batch.to_string(),
        ];
        let measures = paths.iter().map(|path| arm.figures.get(*path));
        for measure in measures.chain([Some(&arm.e2e_gain_pct), Some(&arm.throughput_gain_pct)]) {
            match measure {
                Some(Measure { mean, ci95, .. }) => {
                    row.extend([mean, &ci95[0], &ci95[1]].map(f64::to_string));
                }
                None => row.extend([const { String::new() }; 3]),
            }
        }
        writer.write_record(&row).map_err(|e| failed(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

/// The engines over time, where they were kept: a row an arm and moment.
///
/// # Errors
/// If it cannot be written.
pub(super) fn timeline_csv(runs: &[ArmFigures]) -> Result<Option<Vec<u8>>> {
    if runs.iter().all(|run| run.timeline.is_empty()) {
        return Ok(None);
    }
    let failed = |e: &dyn std::fmt::Display| Error::Numeric(format!("CSV: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    for run in runs {
        for moment in &run.timeline {
            let line = MomentLine {
                arm: run.arm.clone(),
                seed: run.seed,
                at_s: moment.at_s,
                waiting: moment.waiting,
                rows: moment.rows,
                kv_use: moment.kv_use,
            };
            writer.serialize(line).map_err(|e| failed(&e))?;
        }
    }
    writer.into_inner().map(Some).map_err(|e| failed(&e))
}

/// A line of `timeline.csv`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct MomentLine {
    pub arm: String,
    pub seed: u64,
    pub at_s: f64,
    pub waiting: usize,
    pub rows: u64,
    pub kv_use: f64,
}
