//! The predictors of an evaluation as tables: for a terminal, for a page, and as CSV.

use crate::error::{Error, Result};
use crate::evaluate::evaluation::{EvaluationSummary, PredictorRecord, deviation};
use crate::evaluate::predictor_metrics::PredictorMetrics;
use crate::evaluate::statistics::Estimate;
use crate::predictor::LEVELS;
use crate::report::tables::markdown_table;
use crate::report::wording::{grouped, number, share};

/// Headers and rows.
pub type Table = (Vec<String>, Vec<Vec<String>>);

/// A row of the table: a predictor, or the floor or the ceiling, which have no record.
struct Row<'a> {
    metrics: &'a PredictorMetrics,
    record: Option<&'a PredictorRecord>,
}

struct Column {
    header: &'static str,
    /// Text of a cell; empty where there is nothing to say.
    cell: fn(&Row<'_>) -> String,
    /// Whether it is left out where all its cells are empty.
    optional: bool,
}

const fn always(header: &'static str, cell: fn(&Row<'_>) -> String) -> Column {
    Column {
        header,
        cell,
        optional: false,
    }
}

const fn where_known(header: &'static str, cell: fn(&Row<'_>) -> String) -> Column {
    Column {
        header,
        cell,
        optional: true,
    }
}

fn name(row: &Row<'_>) -> String {
    match row.record {
        Some(record) if record.members.len() > 1 => record.short_name.clone(),
        _ => row.metrics.name.clone(),
    }
}

/// `52.1 [50.9, 53.3]`, and the standard deviation over seeds where there are several.
fn error(row: &Row<'_>) -> String {
    let error = row.metrics.error;
    let mut text = interval(error, |v| grouped(v, 1));
    if let Some(seeds) = row.record.and_then(|r| r.seeds.as_ref()) {
        text.push_str(&format!(" ± {}", grouped(deviation(&seeds.error), 1)));
    }
    text
}

fn interval(estimate: Estimate, say: impl Fn(f64) -> String) -> String {
    let [low, high] = estimate.ci95;
    format!("{} [{}, {}]", say(estimate.value), say(low), say(high))
}

/// A share, and its standard deviation over seeds.
fn share_over(row: &Row<'_>, of: fn(&PredictorMetrics) -> Estimate, spread: Option<f64>) -> String {
    let text = share(of(row.metrics).value);
    match spread {
        Some(spread) => format!("{text} ± {}", grouped(100.0 * spread, 1)),
        None => text,
    }
}

fn acc_50(row: &Row<'_>) -> String {
    let seeds = row.record.and_then(|r| r.seeds.as_ref());
    share_over(row, |m| m.acc_50, seeds.map(|s| deviation(&s.acc_50)))
}

fn acc_100(row: &Row<'_>) -> String {
    let seeds = row.record.and_then(|r| r.seeds.as_ref());
    share_over(row, |m| m.acc_100, seeds.map(|s| deviation(&s.acc_100)))
}

fn bias(row: &Row<'_>) -> String {
    let bias = row.metrics.bias.value;
    match bias.is_finite() {
        true => format!("{bias:+.1}"),
        false => "n/a".into(),
    }
}

fn correlation(value: Option<f64>) -> String {
    value.map_or_else(|| "n/a".into(), |value| grouped(value, 2))
}

fn milliseconds(value: f64) -> String {
    let decimals = match value {
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    grouped(value, decimals)
}

fn covered_90(row: &Row<'_>) -> String {
    let quantiles = row.metrics.quantiles.as_ref();
    quantiles
        .and_then(|q| q.covered(0.9))
        .map(share)
        .unwrap_or_default()
}

fn pinball(row: &Row<'_>) -> String {
    let quantiles = row.metrics.quantiles.as_ref();
    quantiles
        .map(|q| grouped(q.pinball.value, 1))
        .unwrap_or_default()
}

fn alone(row: &Row<'_>) -> String {
    row.metrics.ms_alone.map(milliseconds).unwrap_or_default()
}

fn training(row: &Row<'_>) -> String {
    let trained = row.record.and_then(|r| r.trained_on.as_ref());
    trained
        .and_then(|t| t.training_s)
        .map(number)
        .unwrap_or_default()
}

const TERMINAL: &[Column] = &[
    always("predictor", name),
    always("Error (tokens)", error),
    always("Acc-50", acc_50),
    always("Acc-100", acc_100),
    always("bias", bias),
    always("under", |r| share(r.metrics.underestimation.value)),
    always("tau", |r| correlation(r.metrics.kendall_tau)),
    always("unparsable", |r| share(r.metrics.unparsable)),
    where_known("pinball", pinball),
    where_known("90 % holds for", covered_90),
    always("ms each", |r| milliseconds(r.metrics.ms_per_prediction)),
    where_known("ms alone", alone),
    where_known("training s", training),
];

const WHOLE: &[Column] = &[
    always("predictor", name),
    always("Error (tokens)", error),
    always("Acc-50", acc_50),
    always("Acc-100", acc_100),
    always("bias", bias),
    always("RMSE", |r| grouped(r.metrics.rmse.value, 1)),
    always("R²", |r| correlation(r.metrics.r2.map(|r2| r2.value))),
    always("tau", |r| correlation(r.metrics.kendall_tau)),
    always("Spearman", |r| correlation(r.metrics.spearman)),
    always("under-estimated", |r| {
        share(r.metrics.underestimation.value)
    }),
    always("unparsable", |r| share(r.metrics.unparsable)),
    where_known("pinball loss", pinball),
    where_known("10–90 % width", |r| {
        let quantiles = r.metrics.quantiles.as_ref();
        quantiles
            .map(|q| grouped(q.width_80.value, 0))
            .unwrap_or_default()
    }),
    where_known("10 % holds for", |r| holds(r, 0.1)),
    where_known("50 % holds for", |r| holds(r, 0.5)),
    where_known("90 % holds for", covered_90),
    always("ms each", |r| milliseconds(r.metrics.ms_per_prediction)),
    where_known("ms alone", alone),
    where_known("training s", training),
    where_known("trained on", trained_on),
];

fn holds(row: &Row<'_>, level: f64) -> String {
    let quantiles = row.metrics.quantiles.as_ref();
    quantiles
        .and_then(|q| q.covered(level))
        .map(share)
        .unwrap_or_default()
}

fn trained_on(row: &Row<'_>) -> String {
    let Some(trained) = row.record.and_then(|r| r.trained_on.as_ref()) else {
        return String::new();
    };
    let count = trained.training_instructions.map(|n| grouped(n as f64, 0));
    match (&trained.dataset, count) {
        (Some(dataset), Some(n)) => format!("{dataset} ({n})"),
        (Some(dataset), None) => dataset.clone(),
        (None, n) => n.unwrap_or_default(),
    }
}

fn table(columns: &[Column], rows: &[Row<'_>]) -> Table {
    let shown: Vec<&Column> = columns
        .iter()
        .filter(|c| !c.optional || rows.iter().any(|row| !(c.cell)(row).is_empty()))
        .collect();
    let headers = shown.iter().map(|c| c.header.to_string()).collect();
    let cells = |row: &Row<'_>| shown.iter().map(|c| (c.cell)(row)).collect();
    (headers, rows.iter().map(cells).collect())
}

fn rows<'a>(
    predictors: &'a [PredictorRecord],
    floor: &'a PredictorMetrics,
    ceiling: Option<&'a PredictorMetrics>,
) -> Vec<Row<'a>> {
    let plain = |metrics: &'a PredictorMetrics| Row {
        metrics,
        record: None,
    };
    let own = predictors.iter().map(|record| Row {
        metrics: &record.metrics,
        record: Some(record),
    });
    std::iter::once(plain(floor))
        .chain(own)
        .chain(ceiling.map(plain))
        .collect()
}

/// The columns that fit a terminal, floor first and ceiling last.
pub fn for_terminal(
    predictors: &[PredictorRecord],
    floor: &PredictorMetrics,
    ceiling: Option<&PredictorMetrics>,
) -> Table {
    table(TERMINAL, &rows(predictors, floor, ceiling))
}

/// Every column, floor first and ceiling last; the paper's own figures where they are of the
/// same lengths.
pub fn whole(summary: &EvaluationSummary) -> Table {
    let of = rows(
        &summary.predictors,
        &summary.floor,
        summary.ceiling.as_ref(),
    );
    let (headers, mut rows) = table(WHOLE, &of);
    if let Some(paper) = summary.published() {
        let mut row = vec![String::new(); headers.len()];
        let name = format!("{} (first 1,000 of its val)", paper.name);
        let known = [
            name,
            grouped(paper.error, 0),
            format!("{} %", grouped(100.0 * paper.acc_50, 0)),
            format!("{} %", grouped(100.0 * paper.acc_100, 0)),
        ];
        for (cell, text) in row.iter_mut().zip(known) {
            *cell = text;
        }
        if let Some(place) = headers.iter().position(|h| h == "ms each") {
            row[place] = "n/a".into();
        }
        rows.push(row);
    }
    (headers, rows)
}

/// Error by true length: a row a predictor, a column a bin.
pub fn by_length(summary: &EvaluationSummary) -> Table {
    let mut headers = vec!["predictor".to_string()];
    headers.extend(
        summary
            .floor
            .by_length
            .iter()
            .map(|bin| format!("{} ({})", bin.name(), grouped(bin.n as f64, 0))),
    );
    let of = rows(
        &summary.predictors,
        &summary.floor,
        summary.ceiling.as_ref(),
    );
    let cells = |row: &Row<'_>| {
        let figure = |of: Option<Estimate>| of.map_or("n/a".into(), |e| grouped(e.value, 1));
        let bins = row.metrics.by_length.iter();
        std::iter::once(name(row))
            .chain(bins.map(|bin| match bin.bias {
                Some(bias) => format!("{} ({:+.0})", figure(bin.error), bias.value),
                None => figure(bin.error),
            }))
            .collect()
    };
    (headers, of.iter().map(cells).collect())
}

/// What the table is of, in one line.
pub fn caption(summary: &EvaluationSummary) -> String {
    let split = match &summary.split {
        Some(split) => format!(", {split} split"),
        None => String::new(),
    };
    format!(
        "{} instructions of {} ({}{split}), label {} of their samples. Brackets: 95 % bootstrap \
         interval over instructions; ±: standard deviation over seeds.",
        grouped(summary.instructions as f64, 0),
        summary.dataset,
        summary.dataset_model,
        summary.label
    )
}

/// `summary.md`.
pub fn markdown(summary: &EvaluationSummary) -> String {
    let (headers, rows) = whole(summary);
    let mut text = format!(
        "{}\n\n{}",
        caption(summary),
        markdown_table(&headers, &rows)
    );
    for note in &summary.notes {
        text.push_str(&format!("\n* {}", note.replace(['\n', '<'], " ")));
    }
    if !summary.notes.is_empty() {
        text.push('\n');
    }
    let (headers, rows) = by_length(summary);
    text.push_str(
        "\nError (and bias) in tokens by true length; in the head, instructions in each bin.\n\n",
    );
    text.push_str(&markdown_table(&headers, &rows));
    text
}

type EstimateOf = fn(&PredictorMetrics) -> Option<Estimate>;

/// Every figure with an interval by its name in the files.
const ESTIMATES: &[(&str, EstimateOf)] = &[
    ("error", |m| Some(m.error)),
    ("acc_50", |m| Some(m.acc_50)),
    ("acc_100", |m| Some(m.acc_100)),
    ("bias", |m| Some(m.bias)),
    ("rmse", |m| Some(m.rmse)),
    ("underestimation", |m| Some(m.underestimation)),
    ("r2", |m| m.r2),
    ("pinball", |m| m.quantiles.as_ref().map(|q| q.pinball)),
    ("pinball_50", |m| m.quantiles.as_ref().map(|q| q.pinball_50)),
    ("pinball_90", |m| m.quantiles.as_ref().map(|q| q.pinball_90)),
    ("width_80", |m| m.quantiles.as_ref().map(|q| q.width_80)),
];

/// `summary.csv`: a row a predictor, floor and ceiling, every figure with the ends of its
/// interval.
///
/// # Errors
/// Never, unless the memory ends.
pub fn csv(summary: &EvaluationSummary) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| Error::Numeric(format!("CSV: {e}"));
    let mut headers: Vec<String> = [
        "dataset",
        "dataset_model",
        "label",
        "name",
        "short_name",
        "seeds",
        "n",
        "kind",
        "trained_on",
        "trained_on_model",
        "training_instructions",
        "training_s",
        "kendall_tau",
        "spearman",
        "unparsable",
        "ms_per_prediction",
        "ms_alone",
        "error_sd_over_seeds",
        "acc_50_sd_over_seeds",
        "acc_100_sd_over_seeds",
    ]
    .map(String::from)
    .to_vec();
    for (name, _) in ESTIMATES {
        headers.extend([name.to_string(), format!("{name}_lo"), format!("{name}_hi")]);
    }
    headers.extend(LEVELS.iter().map(|level| format!("coverage_{level}")));
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(&headers).map_err(|e| failed(&e))?;
    for row in rows(
        &summary.predictors,
        &summary.floor,
        summary.ceiling.as_ref(),
    ) {
        let m = row.metrics;
        let trained = row.record.and_then(|r| r.trained_on.clone());
        let trained = trained.unwrap_or_default();
        let seeds = row.record.and_then(|r| r.seeds.as_ref());
        let real = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
        let mut cells = vec![
            summary.dataset.clone(),
            summary.dataset_model.clone(),
            summary.label.clone(),
            m.name.clone(),
            row.record
                .map_or_else(|| m.name.clone(), |r| r.short_name.clone()),
            row.record.map_or(1, |r| r.members.len()).to_string(),
            m.n.to_string(),
            trained.kind.unwrap_or_default(),
            trained.dataset.unwrap_or_default(),
            trained.dataset_model.unwrap_or_default(),
            trained
                .training_instructions
                .map(|n| n.to_string())
                .unwrap_or_default(),
            real(trained.training_s),
            real(m.kendall_tau),
            real(m.spearman),
            m.unparsable.to_string(),
            m.ms_per_prediction.to_string(),
            real(m.ms_alone),
            real(seeds.map(|s| deviation(&s.error))),
            real(seeds.map(|s| deviation(&s.acc_50))),
            real(seeds.map(|s| deviation(&s.acc_100))),
        ];
        for (_, of) in ESTIMATES {
            let estimate = of(m);
            cells.extend([
                real(estimate.map(|e| e.value)),
                real(estimate.map(|e| e.ci95[0])),
                real(estimate.map(|e| e.ci95[1])),
            ]);
        }
        for place in 0..LEVELS.len() {
            let coverage = m.quantiles.as_ref().and_then(|q| q.coverage.get(place));
            cells.push(real(coverage.map(|c| c.share.value)));
        }
        writer.write_record(&cells).map_err(|e| failed(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}
