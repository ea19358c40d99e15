//! The folder of an evaluation: `summary.json`, `summary.csv`, `summary.md`,
//! `predictions.parquet`, `environment.json`, `figures/*` and `report.html`. It appears whole or
//! not at all; figures and page can be drawn again from the data in it.

mod predictions;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::evaluate::evaluation::{EvaluationSummary, PredictorRecord};
use crate::evaluate::statistics::Estimate;
use crate::persist;

use super::figures::{self, BinnedErrors, Cost, LearningCurve, PredictorRow, Reference};
use super::page::{Gallery, MOST_DRAWN, Page, PageFigure, PageTable};
use super::wording::{grouped, share};

pub use predictions::Member;
pub use tables::{Table, caption, for_terminal};

const SUMMARY: &str = "summary.json";
const PREDICTIONS: &str = "predictions.parquet";

/// Predictions against labels are drawn of so many predictors, those of least Error.
const MOST_CLOUDS: usize = 6;

/// From so many instructions on, predictions are drawn as a density instead of dots.
const DENSE: usize = 500;

/// Writes the folder `out`, which must not be there yet. `members` holds the predictions of
/// every member of every row, in the order of the rows; `ids` and `labels` are the instructions;
/// `environment` is what the figures hang on.
///
/// # Errors
/// A folder that is there already or cannot be written; nothing is left behind then.
pub fn write_evaluation(
    out: &Path,
    summary: &EvaluationSummary,
    members: &[Member<'_>],
    ids: &[&str],
    labels: &[f64],
    environment: &Value,
) -> Result<PathBuf> {
    if out.exists() {
        return Err(Error::Usage(format!(
            "{} is there already: give another folder or remove it",
            out.display()
        )));
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(persist::ASIDE);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The process's umask still applies.
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    let aside = builder
        .tempdir_in(parent)
        .map_err(|e| Error::io(parent, e))?;
    let folder = aside.path();
    persist::write(&folder.join(SUMMARY), &pretty(&to_json(summary)?))?;
    let csv = tables::csv(summary)?;
    persist::write(&folder.join("summary.csv"), csv.as_bytes())?;
    let markdown = tables::markdown(summary);
    persist::write(&folder.join("summary.md"), markdown.as_bytes())?;
    persist::write(&folder.join("environment.json"), &pretty(environment))?;
    predictions::write(&folder.join(PREDICTIONS), members, ids, labels)?;
    draw_evaluation(folder)?;
    let path = aside.keep();
    std::fs::rename(&path, out).map_err(|e| {
        // Nothing is left behind where the name was taken meanwhile.
        let _ = std::fs::remove_dir_all(&path);
        Error::io(out, e)
    })?;
    Ok(out.to_path_buf())
}

/// Whether a folder is that of an evaluation, rather than of an experiment's run.
pub fn is_evaluation(folder: &Path) -> bool {
    read(folder).is_ok()
}

fn read(folder: &Path) -> Result<EvaluationSummary> {
    let path = folder.join(SUMMARY);
    let bytes = crate::regular_file::bytes_up_to(&path, crate::regular_file::LISTS)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::malformed(&path, e.to_string()))
}

/// Draws `figures/*` and `report.html` of the evaluation in `folder` from its data alone;
/// returns the page's path.
///
/// # Errors
/// Data that is missing or damaged, or files that cannot be written.
pub fn draw_evaluation(folder: &Path) -> Result<PathBuf> {
    let summary = read(folder)?;
    let environment = folder.join("environment.json");
    let environment = crate::regular_file::text_up_to(&environment, crate::regular_file::LISTS)
        .unwrap_or_default();
    let figures = draw_figures(folder, &summary)?;
    let (headers, rows) = tables::whole(&summary);
    let (bin_headers, bin_rows) = tables::by_length(&summary);
    let mut notes = vec![tables::caption(&summary)];
    notes.extend(summary.notes.iter().cloned());
    let page = Page {
        title: format!("Length predictors on {}", summary.dataset),
        finding: finding(&summary),
        tables: vec![
            PageTable::of("Predictors", &headers, &rows),
            PageTable::of(
                "Error (and bias) in tokens, by true length",
                &bin_headers,
                &bin_rows,
            ),
        ],
        figures,
        environment_json: environment,
        notes,
        ..Page::default()
    };
    page.write(folder)
}

/// The rows that foresee, least Error first.
fn contenders(summary: &EvaluationSummary) -> Vec<&PredictorRecord> {
    let foresees = |r: &&PredictorRecord| !r.knows_the_answer();
    let mut rows: Vec<&PredictorRecord> = summary.predictors.iter().filter(foresees).collect();
    rows.sort_by(|a, b| a.metrics.error.value.total_cmp(&b.metrics.error.value));
    rows
}

fn finding(summary: &EvaluationSummary) -> Option<String> {
    let best = contenders(summary).into_iter().next()?;
    let m = &best.metrics;
    let [low, high] = m.error.ci95;
    let mut text = format!(
        "“{}” errs least: {} tokens (95 % interval {} to {}), {} within 100 tokens; always the \
         median errs {}",
        best.short_name,
        grouped(m.error.value, 1),
        grouped(low, 1),
        grouped(high, 1),
        share(m.acc_100.value),
        grouped(summary.floor.error.value, 1),
    );
    if let Some(paper) = summary.published() {
        text.push_str(&format!(
            ", the paper's tuned Vicuna-7B {} (on its own 1,000)",
            grouped(paper.error, 0)
        ));
    }
    text.push('.');
    Some(text)
}

fn draw_figures(folder: &Path, summary: &EvaluationSummary) -> Result<Vec<PageFigure>> {
    let mut gallery = Gallery::new(folder);
    let curves = learning_curves(summary);
    let shown = without_smaller(summary);
    let costs: Vec<Cost> = shown
        .iter()
        .filter(|r| !r.made_elsewhere() && r.metrics.error.value.is_finite())
        .map(|r| Cost {
            name: r.short_name.clone(),
            ms: r.metrics.ms_per_prediction,
            error: r.metrics.error,
            acc_100: r.metrics.acc_100,
        })
        .collect();
    if !costs.is_empty() {
        let caption = "Accuracy against the milliseconds of a prediction.";
        gallery.add("frontier", caption, |stem| {
            figures::frontier(stem, &costs, &references(summary))
        })?;
    }
    let rows: Vec<PredictorRow> = std::iter::once(&summary.floor)
        .map(|floor| PredictorRow::of(&floor.name, floor))
        .chain((shown.iter()).map(|r| PredictorRow::of(&r.short_name, &r.metrics)))
        .chain((summary.ceiling.iter()).map(|ceiling| PredictorRow::of(&ceiling.name, ceiling)))
        .collect();
    // More rows than this are a table, not a figure.
    if rows.len() <= MOST_DRAWN {
        let caption =
            "Mean absolute error, and the shares of predictions within 50 and 100 tokens.";
        gallery.add("accuracy", caption, |stem| {
            figures::predictor_bars(stem, &rows)
        })?;
    }
    let lines: Vec<BinnedErrors> = binned(summary, &shown);
    if lines.iter().any(|l| l.bins.iter().any(|b| b.n > 0)) {
        gallery.add("error-by-length", "Error by true length.", |stem| {
            figures::error_by_length(stem, &lines)
        })?;
    }
    let quantiles: Vec<_> = shown
        .iter()
        .filter_map(|r| Some((r.short_name.clone(), r.metrics.quantiles.as_ref()?)))
        .collect();
    if !quantiles.is_empty() {
        let caption = "Stated levels of the predicted quantiles against the observed shares.";
        gallery.add("reliability", caption, |stem| {
            figures::reliability(stem, &quantiles)
        })?;
    }
    if !curves.is_empty() {
        let caption = "Error and Acc-100 against the number of training instructions.";
        gallery.add("learning-curve", caption, |stem| {
            figures::learning_curves(stem, &curves)
        })?;
    }
    let mut taken = Vec::new();
    // Least Error first: a page of dozens of clouds is not read.
    let more = shown.len() > MOST_CLOUDS;
    for record in shown {
        // A committed run may have come without its predictions.
        if taken.len() == MOST_CLOUDS || !folder.join(PREDICTIONS).is_file() {
            break;
        }
        let Some(member) = record.members.first() else {
            continue;
        };
        let (labels, tokens) = predictions::read(&folder.join(PREDICTIONS), member)?;
        let vary = tokens.windows(2).any(|pair| pair[0] != pair[1]);
        if !vary || !tokens.iter().any(|t| t.is_finite()) {
            continue;
        }
        let name = file_name(&record.short_name, &mut taken);
        let title = match record.members.len() {
            1 => record.short_name.clone(),
            _ => format!("{}, the first", record.short_name),
        };
        let rest = match taken.len() {
            MOST_CLOUDS if more => " Others err more and are not drawn.",
            _ => "",
        };
        let caption = format!("Predicted against true length, {title}.{rest}");
        gallery.add(&name, caption, |stem| match labels.len() >= DENSE {
            true => figures::predicted_density(stem, &title, &tokens, &labels),
            false => figures::predicted_vs_true(stem, &title, &tokens, &labels),
        })?;
    }
    Ok(gallery.into_figures())
}

/// `predicted-vs-true-head`, never twice the same.
fn file_name(short: &str, taken: &mut Vec<String>) -> String {
    let plain = |c: char| if c.is_alphanumeric() { c } else { '-' };
    let name: String = short.chars().map(plain).take(60).collect();
    // A dot or a slash would end the name or lead out of the folder; dashes do not.
    let base = format!("predicted-vs-true-{}", name.trim_matches('-'));
    let mut name = base.clone();
    while taken.contains(&name) {
        name = format!("{base}-{}", taken.len());
    }
    taken.push(name.clone());
    name
}

/// Floor and ceiling in grey, and the predictors, least Error first.
fn binned(summary: &EvaluationSummary, shown: &[&PredictorRecord]) -> Vec<BinnedErrors> {
    let ceiling = summary.ceiling.iter();
    let references = std::iter::once(&summary.floor)
        .chain(ceiling)
        .map(|m| BinnedErrors {
            name: m.name.clone(),
            bins: m.by_length.clone(),
            reference: true,
        });
    let own = shown
        .iter()
        .filter(|r| r.members != ["constant"])
        .map(|r| BinnedErrors {
            name: r.short_name.clone(),
            bins: r.metrics.by_length.clone(),
            reference: false,
        });
    references.chain(own).collect()
}

/// The level lines of the frontier.
fn references(summary: &EvaluationSummary) -> Vec<Reference> {
    let own = |m: &crate::evaluate::predictor_metrics::PredictorMetrics, name: &str| Reference {
        name: name.into(),
        error: m.error.value,
        acc_100: m.acc_100.value,
        published: false,
    };
    let mut lines = vec![own(&summary.floor, "floor")];
    lines.extend(summary.ceiling.iter().map(|m| own(m, "noise ceiling")));
    lines.extend(summary.published().map(|paper| Reference {
        name: format!("paper, {}", paper.cost),
        error: paper.error,
        acc_100: paper.acc_100,
        published: true,
    }));
    lines
}

type Series<'a> = BTreeMap<(String, String, String), Vec<(usize, &'a PredictorRecord)>>;

/// The trained rows by what they share besides the number of training instructions.
fn series(summary: &EvaluationSummary) -> Series<'_> {
    let mut series = Series::new();
    for record in &summary.predictors {
        let Some(trained) = &record.trained_on else {
            continue;
        };
        if let (Some(kind), Some(count)) = (&trained.kind, trained.training_instructions) {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let key = (kind.clone(), text(&trained.dataset), text(&trained.label));
            series.entry(key).or_default().push((count, record));
        }
    }
    series
}

/// A curve a kind that was trained on different numbers of instructions of one dataset. Of
/// several trained on as many, the one of least Error counts.
fn learning_curves(summary: &EvaluationSummary) -> Vec<LearningCurve> {
    let curve = |((kind, _, _), mut rows): (_, Vec<(usize, &PredictorRecord)>)| {
        let error = |r: &PredictorRecord| r.metrics.error.value;
        rows.sort_by(|a, b| a.0.cmp(&b.0).then(error(a.1).total_cmp(&error(b.1))));
        rows.dedup_by_key(|row| row.0);
        let points: Vec<(usize, Estimate, Estimate)> = rows
            .iter()
            .map(|(n, r)| (*n, r.metrics.error, r.metrics.acc_100))
            .collect();
        (points.len() > 1).then_some(LearningCurve { name: kind, points })
    };
    series(summary).into_iter().filter_map(curve).collect()
}

/// The rows worth comparing, least Error first: without those that know the answer and those
/// of a learning curve that were trained on less than the last of it.
fn without_smaller(summary: &EvaluationSummary) -> Vec<&PredictorRecord> {
    let series = series(summary);
    let is_smaller = |record: &PredictorRecord| {
        series.values().any(|rows| {
            let most = rows.iter().map(|row| row.0).max();
            let own = rows.iter().find(|row| std::ptr::eq(row.1, record));
            own.is_some_and(|(count, _)| Some(*count) < most)
        })
    };
    let mut rows = contenders(summary);
    rows.retain(|record| !is_smaller(record));
    rows
}

/// The evaluation as one JSON value: what `--json` prints and `summary.json` holds.
///
/// # Errors
/// Never: every part has a JSON form.
pub fn to_json(summary: &EvaluationSummary) -> Result<Value> {
    serde_json::to_value(summary).map_err(|e| Error::Numeric(format!("JSON: {e}")))
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests;
