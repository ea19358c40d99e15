//! What an experiment with arrivals looks like to a reader: tables, figures, the page, and its
//! folder, a run's without batches and requests.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::evaluate::summary::Measure;
use crate::online::summary::{ArmFigures, OnlineArmSummary, OnlineSummary};
use crate::persist;

use super::figures::{Cell, HeatMap, Panel};
use super::html::{ReportData, render};
use super::online_origin::{beside, capital, compared, shouted, source, word};
use super::run_dir::{RunDirectory, pretty};
use super::tables::{markdown_table, text_table};
use super::wording::{gain, grouped, number, share, with_interval};
use super::{figures, html};

const SUMMARY: &str = "summary.json";
/// Arms that the figures of latencies show.
const MOST_ROWS: usize = 24;

/// The folder of a run with arrivals.
#[derive(Debug)]
pub struct OnlineDirectory(RunDirectory);

impl OnlineDirectory {
    pub fn new(directory: RunDirectory) -> OnlineDirectory {
        OnlineDirectory(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes the folder away again, if no arm has finished in it.
    pub fn discard(self) {
        self.0.discard();
    }

    /// Appends a finished arm to `arms.jsonl` and waits until it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&self, run: &ArmFigures) -> Result<()> {
        self.0.append_line(run)
    }

    /// The arms that `arms.jsonl` lists.
    ///
    /// # Errors
    /// A damaged file.
    pub fn finished(&self) -> Result<Vec<ArmFigures>> {
        let path = self.path().join("arms.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&path, e)),
        };
        text.lines()
            .map(|line| {
                serde_json::from_str(line).map_err(|e| Error::malformed(&path, e.to_string()))
            })
            .collect()
    }

    /// Writes `summary.json`, `summary.csv` and `summary.md`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_summary(&self, summary: &OnlineSummary) -> Result<()> {
        persist::write(&self.path().join(SUMMARY), &pretty(summary)?)?;
        persist::write(&self.path().join("summary.csv"), csv(summary)?.as_bytes())?;
        let (headers, rows) = table(summary);
        let markdown = format!(
            "{}\n\n{}\n",
            caption(summary),
            markdown_table(&headers, &rows)
        );
        persist::write(&self.path().join("summary.md"), markdown.as_bytes())
    }
}

/// Whether a folder is that of a run with arrivals.
pub fn is_online(folder: &Path) -> bool {
    read(folder).is_ok()
}

fn read(folder: &Path) -> Result<OnlineSummary> {
    let path = folder.join(SUMMARY);
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::malformed(&path, e.to_string()))
}

/// Where the figures come from.
fn caption(summary: &OnlineSummary) -> String {
    let seeds = summary.arms.first().map_or(0, |arm| arm.seeds.len());
    format!(
        "{}: {}; arrivals: {}; mean over {seeds} seeds [95 % interval]",
        summary.experiment,
        shouted(summary),
        summary.arrivals
    )
}

/// The table on the terminal.
pub fn online_text(summary: &OnlineSummary) -> String {
    let (headers, rows) = table(summary);
    let mut text = format!("{}\n\n{}", caption(summary), text_table(&headers, &rows));
    if let Some(note) = shallow(summary) {
        text += &format!("\n{note}\n");
    }
    text
}

/// Says so where no arm ever had a queue.
fn shallow(summary: &OnlineSummary) -> Option<String> {
    let none = summary.arms.iter().all(|arm| !arm.queue_formed);
    none.then(|| {
        "No queue ever formed (fewer than one request waited on average): no policy can matter \
         at this load."
            .to_string()
    })
}

fn table(summary: &OnlineSummary) -> (Vec<String>, Vec<Vec<String>>) {
    let headers = [
        "arm",
        "policy",
        "requests/s",
        "tokens/s",
        "E2E mean s",
        "gain",
        "E2E p99 s",
        "TTFT mean s",
        "TTFT p99 s",
        "TPOT mean ms",
        "longest wait s",
        "goodput/s",
        "waiting",
        "rows",
        "KV use",
        "preemptions",
        "Jain",
    ];
    let several = summary.arms.iter().any(|arm| arm.seeds.len() > 1);
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
            let ahead = match arm.compared_with == arm.name {
                true => String::new(),
                false => with_interval(&arm.e2e_gain_pct, gain),
            };
            vec![
                arm.name.clone(),
                arm.policy.clone(),
                figure("request_throughput"),
                figure("output_throughput"),
                e2e,
                ahead,
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
                figure("jain"),
            ]
        })
        .collect();
    let mut headers = headers.map(String::from).to_vec();
    beside(summary, &mut headers, &mut rows);
    (headers, rows)
}

/// Mean slowdown of every arm by class of answer length.
fn by_length(summary: &OnlineSummary) -> (Vec<String>, Vec<Vec<String>>) {
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
fn csv(summary: &OnlineSummary) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| Error::Numeric(format!("CSV: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let told = [
        "experiment",
        "origin",
        "step_time",
        "name",
        "policy",
        "predictor",
        "arrivals",
        "noise",
        "slots",
        "kv_tokens",
        "requests",
        "queue_formed",
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
            arm.predictor.clone(),
            arm.arrivals.clone(),
            arm.noise.to_string(),
            arm.slots.to_string(),
            arm.kv_tokens.to_string(),
            arm.requests.to_string(),
            arm.queue_formed.to_string(),
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

/// The finding in a sentence: the best policy against the first arm.
fn finding(summary: &OnlineSummary) -> Option<String> {
    if (summary.arms.iter()).any(|arm| arm.outputs_equal_first == Some(false)) {
        return Some(
            "Some arm gave other answers than the first: what it gained is no gain.".into(),
        );
    }
    if let Some(note) = shallow(summary) {
        return Some(note);
    }
    let measured = capital(word(summary));
    let gained = |arm: &&OnlineArmSummary| arm.e2e_gain_pct.mean;
    let best = (summary.arms.iter())
        // What knows the answer is a bound, not a finding.
        .filter(|arm| arm.compared_with != arm.name && arm.predictor != "oracle")
        .max_by(|a, b| gained(a).total_cmp(&gained(b)))?;
    let mut all = summary.arms.iter();
    let first = all.find(|arm| arm.name == best.compared_with)?;
    let sure = match best.e2e_gain_pct.ci95 {
        [low, high] if low <= 0.0 && high >= 0.0 => "; over the seeds that may be chance",
        _ => "",
    };
    Some(format!(
        "{measured}: under “{}” the mean end-to-end latency is {} against “{}” ({} s against {} s), \
         the 99th percentile goes from {} to {} s{sure}.",
        best.name,
        gain(-best.e2e_gain_pct.mean),
        first.name,
        number(best.mean("e2e_s.mean")),
        number(first.mean("e2e_s.mean")),
        number(first.mean("e2e_s.p99")),
        number(best.mean("e2e_s.p99")),
    ))
}

/// The map of loads, engines and policies, where arms vary over several loads.
fn regimes(summary: &OnlineSummary, origin: &str) -> Option<HeatMap> {
    let arms = || {
        let compared = |arm: &&OnlineArmSummary| arm.compared_with != arm.name;
        summary.arms.iter().filter(compared)
    };
    let mut rates: Vec<f64> = arms().filter_map(|arm| arm.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    if rates.len() < 2 {
        return None;
    }
    let mut panels: Vec<Panel> = Vec::new();
    for arm in arms() {
        let memory = match arm.kv_tokens {
            0 => "memory without end".to_string(),
            tokens => format!("{} tokens of memory", grouped(tokens as f64, 0)),
        };
        let title = format!("{} slots, {memory}", arm.slots);
        let name = match arm.noise {
            n if n > 0.0 => format!("{}, {}, noise {n}", arm.policy, arm.predictor),
            _ => format!("{}, {}", arm.policy, arm.predictor),
        };
        let column = rates.iter().position(|rate| Some(*rate) == arm.rate)?;
        let panel = match panels.iter().position(|p| p.title == title) {
            Some(place) => place,
            None => {
                let rows = Vec::new();
                panels.push(Panel { title, rows });
                panels.len() - 1
            }
        };
        let rows = &mut panels[panel].rows;
        let row = match rows.iter().position(|row| row.0 == name) {
            Some(place) => place,
            None => {
                rows.push((name, vec![None; rates.len()]));
                rows.len() - 1
            }
        };
        let [low, high] = arm.e2e_gain_pct.ci95;
        rows[row].1[column] = Some(Cell {
            gain_pct: arm.e2e_gain_pct.mean,
            queue_formed: arm.queue_formed,
            sure: arm.seeds.len() > 1 && (low > 0.0 || high < 0.0),
        });
    }
    Some(HeatMap {
        title: "Where knowing the length pays: latency saved".into(),
        subtitle: origin.to_string(),
        columns: rates
            .iter()
            .map(|rate| format!("{}/s", number(*rate)))
            .collect(),
        panels,
    })
}

/// Draws `figures/*` and `report.html` of the run in `folder` from its data alone; returns the
/// page's path.
///
/// # Errors
/// Data that is missing or damaged, or files that cannot be written.
pub fn draw_online(folder: &Path) -> Result<PathBuf> {
    let summary = read(folder)?;
    let mut drawn = Vec::new();
    let word = word(&summary);
    let source = source(&summary);
    let origin = format!("{source}; {}", summary.arrivals);
    let both = [
        ("e2e", "End-to-end latency", "e2e_s"),
        ("ttft", "Time to first token", "ttft_s"),
    ];
    // More rows than this are a table, not a figure.
    let shown = if summary.arms.len() <= MOST_ROWS {
        &both[..]
    } else {
        &[]
    };
    for &(name, title, key) in shown {
        let rows: Vec<(String, [f64; 4])> = summary
            .arms
            .iter()
            .map(|arm| {
                let at = |which: &str| arm.mean(&format!("{key}.{which}"));
                (arm.name.clone(), ["p50", "mean", "p90", "p99"].map(at))
            })
            .collect();
        let stem = folder.join("figures").join(name);
        figures::latencies(&stem, title, &origin, &rows)?;
        let path = stem.with_extension("svg");
        let svg = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        drawn.push((format!("{title}, {word}: median, mean, 90th and 99th percentile over requests, mean over seeds."), svg));
    }
    let seeds = summary.arms.first().map_or(0, |arm| arm.seeds.len());
    let drawn_from = format!("{source}; mean over {seeds} seeds");
    if let Some(map) = regimes(&summary, &drawn_from) {
        let stem = folder.join("figures").join("regimes");
        figures::heat_map(&stem, &map)?;
        let path = stem.with_extension("svg");
        let svg = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let caption = format!(
            "Mean end-to-end latency saved against the first arm of the same load and engine, \
             {word}. Bold: the 95 % interval over seeds excludes none. Grey: no queue formed, so \
             no policy can matter."
        );
        drawn.push((caption, svg));
    }
    let (headers, rows) = table(&summary);
    let mut tables = vec![("Arms".to_string(), headers, rows)];
    // What a request takes alone is known where the device's step times are.
    if summary.simulated || compared(&summary) {
        let (headers, rows) = by_length(&summary);
        let title = "Slowdown (latency / simulated latency alone), by true length of the answer";
        tables.push((title.into(), headers, rows));
    }
    let config = std::fs::read_to_string(folder.join("config.toml")).unwrap_or_default();
    let environment = std::fs::read_to_string(folder.join("environment.json")).unwrap_or_default();
    let page = render(&ReportData {
        title: summary.experiment.clone(),
        finding: finding(&summary),
        simulated: summary.simulated,
        executor: summary.executor.clone(),
        terms: html::OF_SERVING,
        extra_tables: tables,
        figures: drawn,
        config_toml: config,
        environment_json: environment,
        notes: vec![caption(&summary)],
        ..ReportData::default()
    })?;
    let path = folder.join("report.html");
    persist::write(&path, page.as_bytes())?;
    Ok(path)
}
