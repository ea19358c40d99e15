//! `report.html`: one self-contained page of a run. No network, no dependencies; readable on
//! a phone, in the dark and on paper.

use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::error::{Error, Result};
use crate::evaluate::summary::{ExecutorSummary, Summary};

use super::tables::{arms_cells, arms_headers, is_numeric};
use super::wording::{finding, headline, origin};

/// The metrics of serving over time.
pub(super) const OF_SERVING: &[(&str, &str)] = &[
    (
        "E2E, TTFT, TPOT, ITL",
        "From a request's arrival to its last token; to its first token; the time from first to \
         last token divided by the tokens after the first; and every single gap between two \
         tokens. As `vllm bench serve` names them.",
    ),
    (
        "Gain",
        "By how much the mean end-to-end latency is below that of the first arm with the same \
         arrivals and the same engine, paired by seed. A policy is called better only where more \
         requests waited there than rows ran.",
    ),
    (
        "Goodput",
        "Requests a second that met every limit of `slo`; all of them where there is none.",
    ),
    (
        "Waiting, rows, KV use",
        "Requests that wait, mean over the run; rows at work and blocks of keys and values in \
         use, mean over the time in which the engine computed. Where nobody waits there is hardly \
         anything to gain, though what displaces running requests can lose.",
    ),
    (
        "Preemptions",
        "How often a request had to give its memory or its slot back. What it had computed is \
         computed again, or copied out and in, as `overflow` says.",
    ),
    (
        "Jain, slowdown",
        "Jain's index of latency per token, 1 where all requests fare alike. Slowdown: latency \
         divided by what the same request would take alone.",
    ),
    (
        "Simulated",
        "Recorded lengths in an engine with continuous batching, chunked prefill and paged keys \
         and values; times are those of a step-time model. Brackets are 95 % intervals over the \
         seeds (Student's t), which draw arrivals and order.",
    ),
];

/// What the page is made of. Empty parts are left out.
#[derive(Debug, Clone, Default)]
pub struct ReportData {
    pub title: String,
    /// The finding in a sentence; taken from the summary where it is `None`.
    pub finding: Option<String>,
    pub summary: Option<Summary>,
    /// Further tables: title, headers, rows.
    pub extra_tables: Vec<(String, Vec<String>, Vec<Vec<String>>)>,
    /// Caption and SVG document.
    pub figures: Vec<(String, String)>,
    pub config_toml: String,
    pub environment_json: String,
    pub notes: Vec<String>,
    /// Without a summary: whether nothing of it was measured.
    pub simulated: bool,
    /// Without a summary: what measured it.
    pub executor: Option<ExecutorSummary>,
    /// Without a summary: what the page explains, instead of the metrics of predictors.
    pub terms: &'static [(&'static str, &'static str)],
}

/// The metrics of an experiment's run as the page explains them.
const OF_RUNS: &[(&str, &str)] = &[
    (
        "Samples per second (throughput)",
        "Requests answered, divided by the whole time of the run. The time that the length \
         predictor takes is part of it; the column “predict s” shows it alone.",
    ),
    (
        "Gain",
        "Throughput against the arm named vanilla (the first arm where none has that name), \
         in percent.",
    ),
    (
        "Average length, paper",
        "For each request the decode steps of the micro-batch that answered it, averaged. A \
         first attempt that was cut off and repeated is not counted, as in the paper.",
    ),
    (
        "Average length, full",
        "All rows computed at all steps, failed attempts included, divided by the number of \
         requests. The honest one of the two.",
    ),
    (
        "Effective tokens, paper and full",
        "Tokens that were part of an answer, divided by tokens computed. A batch computes a \
         token for each of its rows at each step, also for rows that have ended; “full” \
         counts failed first attempts as computed, “paper” does not.",
    ),
    (
        "Failures",
        "Share of requests that reached the cap of their micro-batch below the general limit \
         and had to go on a second time.",
    ),
    (
        "Latency",
        "From the start of the run to the end of the micro-batch that answered a request; \
         half of the requests (p50) or 99 of 100 (p99) were answered by then.",
    ),
    (
        "Same answers",
        "Whether every request got the very text that it gets in the vanilla arm, under \
         greedy decoding. A schedule may change when an answer comes, never the answer.",
    ),
    (
        "Intervals",
        "Numbers in brackets are 95 % intervals over the seeds (Student's t). A single seed \
         has none.",
    ),
    (
        "Measured and simulated",
        "Measured: a model generated every token on the named device. Simulated: recorded \
         lengths were replayed, and the times are those of a step-time model.",
    ),
];

/// The metrics of predictors.
const OF_PREDICTORS: &[(&str, &str)] = &[
    (
        "Error, Acc-50, Acc-100",
        "Of a length predictor: the mean distance in tokens between prediction and label, \
         and the share of predictions at most 50 or 100 tokens off.",
    ),
    (
        "Floor and noise ceiling",
        "A predictor is worth something above the floor, always predicting the median; none \
         can be expected to pass the ceiling, which is how well other samples of the same \
         instruction foretell a sample.",
    ),
];

/// What only the page of an evaluation has.
const OF_EVALUATIONS: &[(&str, &str)] = &[
    (
        "Bias, under-estimated",
        "Mean of prediction minus label in tokens, and the share predicted too short.",
    ),
    (
        "Tau, Spearman",
        "Rank correlations (Kendall's tau-b, Spearman's rho) of predictions and labels: whether \
         the longer answer is foreseen as the longer. They alone judge a predictor on lengths of \
         another model than it was trained on, whose scale differs.",
    ),
    (
        "Pinball loss",
        "Of quantiles: tokens too low times the level, too high times one minus the level; mean \
         over 21 levels. Lower is better: true quantiles that are also narrow.",
    ),
    (
        "90 % holds for",
        "The share of labels at or below the predicted 0.9-quantile: 90 % where it is true.",
    ),
    (
        "Ms each, ms alone",
        "Wall time of all predictions asked for at once, divided by their number; and the median \
         of one asked for alone.",
    ),
    (
        "Brackets and ±",
        "Brackets: 95 % bootstrap intervals over instructions. ±: standard deviation over \
         predictors that differ only in the seed of their training.",
    ),
];

/// Renders the page.
pub fn render(data: &ReportData) -> Result<String> {
    let failed = |e: minijinja::Error| Error::Numeric(format!("report.html: {e:#}"));
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The name ends as an HTML template's, which turns escaping on.
    environment
        .add_template("report.html.j2", include_str!("report.html.j2"))
        .map_err(failed)?;
    let template = environment.get_template("report.html.j2").map_err(failed)?;
    let found = data
        .finding
        .clone()
        .or_else(|| data.summary.as_ref().and_then(finding))
        // A number and its percent sign stay on one line.
        .map(|text| text.replace(" %", "\u{a0}%"));
    let mut tables = Vec::new();
    if let Some(summary) = &data.summary {
        tables.push(arms_table(summary));
    }
    for (title, headers, rows) in &data.extra_tables {
        tables.push(plain_table(title, headers, rows));
    }
    let figures = data
        .figures
        .iter()
        .map(|(caption, svg)| {
            let svg = Value::from_safe_string(inline_svg(svg)?);
            Ok(context! { caption => caption, svg => svg })
        })
        .collect::<Result<Vec<_>>>()?;
    let definitions = match data.summary {
        Some(_) => [OF_RUNS, OF_PREDICTORS].concat(),
        None if !data.terms.is_empty() => data.terms.to_vec(),
        None => [OF_PREDICTORS, OF_EVALUATIONS].concat(),
    };
    let created = data.summary.as_ref().map(|s| s.created.clone());
    let simulated = data
        .summary
        .as_ref()
        .map(|s| &s.executor)
        .or(data.executor.as_ref())
        .map(super::wording::kind)
        .or(data.simulated.then_some("simulated"));
    template
        .render(context! {
            title => data.title.clone(),
            finding => found,
            created => created,
            kind => simulated,
            origin => data.summary.as_ref().map(|s| &s.executor).or(data.executor.as_ref())
                .map(origin)
                .or(data.simulated.then(|| "simulated".to_string())),
            tables => tables,
            figures => figures,
            notes => data.notes.clone(),
            config => data.config_toml.trim(),
            environment => environment_rows(&data.environment_json),
            definitions => definitions,
            version => env!("CARGO_PKG_VERSION"),
        })
        .map_err(failed)
}

fn arms_table(summary: &Summary) -> Value {
    let headers = arms_headers(summary);
    let cells = arms_cells(summary);
    let numeric: Vec<bool> = (0..headers.len())
        .map(|place| cells.iter().any(|row| row[place].value.is_some()))
        .collect();
    let rows: Vec<Vec<Value>> = cells
        .into_iter()
        .map(|row| {
            let cell = |cell: super::tables::Cell| {
                // The interval is smaller than the mean it belongs to.
                let (main, interval) = match cell.text.split_once(" [") {
                    Some((main, rest)) if cell.value.is_some() => {
                        (main.to_string(), format!("[{rest}"))
                    }
                    _ => (cell.text.clone(), String::new()),
                };
                let order = cell.value.filter(|v| v.is_finite());
                context! { main, interval, order }
            };
            row.into_iter().map(cell).collect()
        })
        .collect();
    context! { title => "Arms", caption => headline(&summary.executor), headers, numeric, rows }
}

fn plain_table(title: &str, headers: &[String], rows: &[Vec<String>]) -> Value {
    let numeric: Vec<bool> = (0..headers.len())
        .map(|place| {
            is_numeric(
                rows.iter()
                    .map(|r| r.get(place).cloned().unwrap_or_default()),
            )
        })
        .collect();
    let rows: Vec<Vec<Value>> = rows
        .iter()
        .map(|row| {
            let cell = |text: &String| {
                let order = leading_number(text);
                context! { main => text, interval => "", order }
            };
            row.iter().map(cell).collect()
        })
        .collect();
    context! { title, caption => "", headers => headers.to_vec(), numeric, rows }
}

/// The number a cell begins with, to sort by.
fn leading_number(text: &str) -> Option<f64> {
    let number: String = text
        .trim_start_matches('+')
        .replace('−', "-")
        .chars()
        .filter(|&c| c != ',')
        .take_while(|&c| c.is_ascii_digit() || c == '.' || c == '-')
        .collect();
    number.parse().ok()
}

/// The SVG element alone, without the XML header; refused where it could run something, since
/// it is put into the page as it is.
fn inline_svg(document: &str) -> Result<String> {
    let refuse = |why: &str| Err(Error::Usage(format!("a figure is not usable: {why}")));
    let Some(start) = document.find("<svg") else {
        return refuse("there is no <svg> element in it");
    };
    let svg = &document[start..];
    let lower = svg.to_lowercase();
    for part in ["<script", "<foreignobject", "javascript:", "<iframe"] {
        if lower.contains(part) {
            return refuse(&format!("it contains `{part}`"));
        }
    }
    Ok(svg.trim_end().to_string())
}

/// `environment.json` as rows of key and value; other text as one row.
fn environment_rows(json: &str) -> Vec<(String, String)> {
    match serde_json::from_str(json) {
        Ok(serde_json::Value::Object(map)) => map
            .into_iter()
            .map(|(key, value)| {
                let value = match value {
                    serde_json::Value::String(text) => text,
                    serde_json::Value::Null => "unknown".into(),
                    other => other.to_string(),
                };
                (key.replace('_', " "), value)
            })
            .collect(),
        _ if json.trim().is_empty() => Vec::new(),
        _ => vec![("environment".into(), json.into())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    const SVG: &str = "<?xml version=\"1.0\"?>\n<svg><text>x</text></svg>\n";

    #[test]
    fn hostile_names_are_shown_not_run() {
        let hostile = "<script>alert('x')</script>";
        let mut summary = samples::summary(true);
        summary.arms[4].name = hostile.into();
        summary.arms[1].predictor = format!("\"><img src=x onerror={hostile}>");
        let page = render(&ReportData {
            title: hostile.into(),
            summary: Some(summary),
            extra_tables: vec![(
                hostile.into(),
                vec![hostile.into()],
                vec![vec![hostile.into()]],
            )],
            figures: vec![(hostile.into(), SVG.into())],
            config_toml: hostile.into(),
            environment_json: format!("{{\"cpu\": \"{hostile}\"}}"),
            notes: vec![hostile.into()],
            finding: None,
            ..ReportData::default()
        })
        .unwrap();
        assert!(!page.contains("<script>alert"));
        assert!(!page.contains("<img"));
        assert!(page.matches("&lt;script&gt;alert").count() >= 8);
        assert!(page.contains("<svg><text>x</text></svg>"));
        assert!(!page.contains("<?xml"));
    }

    #[test]
    fn figures_that_could_run_something_are_refused() {
        let data = ReportData {
            figures: vec![("x".into(), "<svg><SCRIPT>1</SCRIPT></svg>".into())],
            ..ReportData::default()
        };
        assert!(render(&data).is_err());
    }

    #[test]
    fn the_finding_comes_first_and_parts_may_be_missing() {
        let page = render(&ReportData {
            title: "t".into(),
            summary: Some(samples::summary(false)),
            ..ReportData::default()
        })
        .unwrap();
        let finding = page.find("The best arm").unwrap();
        assert!(finding < page.find("<table").unwrap());
        assert!(page.contains("measured on AMD EPYC"));
        assert!(!page.contains("http://") && !page.contains("https://"));
        assert!(render(&ReportData::default()).unwrap().contains("<html"));
    }

    #[test]
    fn cells_sort_by_their_numbers() {
        assert_eq!(leading_number("+1,234.5 % [1, 2]"), Some(1234.5));
        assert_eq!(leading_number("−5 %"), Some(-5.0));
        assert_eq!(leading_number("word"), None);
    }
}
