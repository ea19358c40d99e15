//! How well lengths are foreseen: predictions against labels, and predictors side by side.

use std::path::Path;

use super::{NameColumn, thinned, whisker};
use crate::error::{Error, Result};
use crate::evaluate::predictor_metrics::PredictorMetrics;
use crate::report::axes::{Axis, BELOW, Frame};
use crate::report::canvas::{Anchor, Canvas, text_width};
use crate::report::style::{
    AXIS, BLUE, BODY, GREY, GRID, INK, MARGIN, MUTED, SMALL, STRONG, WIDTH, draw, need_data,
};
use crate::report::wording::{grouped, number};

/// One predictor's accuracy, for [`predictor_bars`].
#[derive(Debug, Clone, PartialEq)]
pub struct PredictorRow {
    /// The predictor.
    pub name: String,
    /// Mean absolute error in tokens, with its 95 % interval.
    pub error: f64,
    /// Lower end of the interval, tokens.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Shares (0 to 1) of predictions within 50 and 100 tokens.
    pub acc_50: f64,
    /// See `acc_50`.
    pub acc_100: f64,
}

impl PredictorRow {
    /// A row under a name of its own.
    pub fn of(name: &str, metrics: &PredictorMetrics) -> PredictorRow {
        PredictorRow {
            name: name.to_string(),
            error: metrics.error.value,
            low: metrics.error.ci95[0],
            high: metrics.error.ci95[1],
            acc_50: metrics.acc_50.value,
            acc_100: metrics.acc_100.value,
        }
    }
}

/// Scatter of predictions over labels with the diagonal and the bands of 50 and 100 tokens.
pub fn predicted_vs_true(
    stem: &Path,
    name: &str,
    predictions: &[f64],
    labels: &[f64],
) -> Result<()> {
    if predictions.len() != labels.len() {
        return Err(Error::Usage(format!(
            "{} predictions for {} labels",
            predictions.len(),
            labels.len()
        )));
    }
    let pairs: Vec<(f64, f64)> = labels
        .iter()
        .zip(predictions)
        .map(|(&label, &prediction)| (label, prediction))
        .filter(|p| p.0.is_finite() && p.1.is_finite())
        .collect();
    need_data(!pairs.is_empty(), "predicted against true")?;
    draw(stem, (SCATTER.0, SCATTER.1), |canvas| {
        scatter(canvas, name, &pairs);
    })
}

/// Wide and high so that the plotting area comes out square.
pub(super) const SCATTER: (f64, f64) = (1040.0, 1104.0);

pub(super) fn scatter(canvas: &mut Canvas, name: &str, pairs: &[(f64, f64)]) {
    let count = pairs.len() as f64;
    let (drawn, step) = thinned(pairs, 2000);
    let mut subtitle = accuracy(pairs);
    if step > 1 {
        subtitle.push_str(&format!("; every {step}th is drawn"));
    }
    let top = canvas.header(&format!("Predicted against true length: {name}"), &subtitle);
    let highest = pairs.iter().map(|p| p.0.max(p.1)).fold(1.0, f64::max);
    let axis = |title: &str| Axis::exact(0.0, highest * 1.03, 5, title);
    let frame = Frame::draw(
        canvas,
        top,
        (0.0, 84.0),
        axis("true length (tokens)"),
        axis("predicted length (tokens)"),
    );
    for (k, color) in [(100.0, 0.10), (50.0, 0.16)] {
        canvas.polygon(band(&frame, k), GREY, color);
    }
    let far = frame.x.high;
    canvas.line(
        (frame.px(0.0), frame.py(0.0)),
        (frame.px(far), frame.py(far)),
        INK,
        2.0,
    );
    canvas.columns(["true_tokens", "predicted_tokens"]);
    for (label, prediction) in pairs {
        canvas.row([(*label).into(), (*prediction).into()]);
    }
    // Many points on top of each other should show as darker, few points as points.
    let alpha = (60.0 / count.sqrt() / 1.5).clamp(0.22, 0.85);
    for (label, prediction) in drawn {
        let at = (frame.px(label.max(0.0)), frame.py(prediction.max(0.0)));
        canvas.dot(at, 4.5, BLUE, alpha);
    }
    // The bands are named where they leave the frame at the right.
    for k in [50.0, 100.0] {
        if far > 3.0 * k {
            let at = (frame.right + 10.0, frame.py(far - k));
            canvas.text_beside(at, format!("±{k}"), SMALL, MUTED, Anchor::Start);
        }
    }
}

/// The accuracy of pairs of label and prediction, as a subtitle.
pub(super) fn accuracy(pairs: &[(f64, f64)]) -> String {
    let count = pairs.len() as f64;
    let within = |k: f64| {
        let hits = pairs.iter().filter(|p| (p.0 - p.1).abs() <= k).count();
        grouped(100.0 * hits as f64 / count, 1)
    };
    let error = pairs.iter().map(|p| (p.0 - p.1).abs()).sum::<f64>() / count;
    format!(
        "{} instructions. Error {} tokens, Acc-50 {} %, Acc-100 {} %",
        grouped(count, 0),
        number(error),
        within(50.0),
        within(100.0)
    )
}

/// The corners of the band of `k` tokens around the diagonal, inside the frame.
fn band(frame: &Frame, k: f64) -> Vec<(f64, f64)> {
    let far = frame.x.high;
    let k = k.min(far);
    [
        (0.0, 0.0),
        (0.0, k),
        (far - k, far),
        (far, far),
        (far, far - k),
        (k, 0.0),
    ]
    .into_iter()
    .map(|(x, y)| (frame.px(x), frame.py(y)))
    .collect()
}

/// Error of each predictor as bars with intervals; Acc-50 and Acc-100 as columns beside them.
pub fn predictor_bars(stem: &Path, rows: &[PredictorRow]) -> Result<()> {
    need_data(!rows.is_empty(), "predictors")?;
    let height = 216.0 + 60.0 * rows.len() as f64 + BELOW;
    draw(stem, (WIDTH, height), |canvas| predictors(canvas, rows))
}

pub(super) fn predictors(canvas: &mut Canvas, rows: &[PredictorRow]) {
    const ROW: f64 = 60.0;
    let below = canvas.header(
        "Accuracy of the length predictors",
        "Bars: mean absolute error, lower is better; whiskers: 95 % interval",
    );
    let top = below + 40.0;
    let bottom = top + ROW * rows.len() as f64;
    let names = NameColumn::of(rows.iter().map(|r| r.name.as_str()));
    let column = text_width("Acc-100", SMALL).max(text_width("100.0 %", BODY)) + 34.0;
    let errors: Vec<String> = rows.iter().map(|r| grouped(r.error, 1)).collect();
    let widest = errors
        .iter()
        .map(|e| text_width(e, STRONG))
        .fold(0.0, f64::max);
    let left = names.end();
    let right = WIDTH - MARGIN - 2.0 * column - widest - 20.0;
    let highest = rows.iter().map(|r| r.error.max(r.high)).fold(0.0, f64::max);
    let axis = Axis::exact(0.0, highest, 5, "error (tokens)").thinned(right - left);
    let px = |value: f64| left + (value / axis.high).clamp(0.0, 1.0) * (right - left);
    for (value, label) in &axis.ticks {
        let x = px(*value);
        canvas.line((x, top), (x, bottom), GRID, 1.5);
        canvas.text(
            (x, bottom + 32.0),
            label.clone(),
            SMALL,
            MUTED,
            Anchor::Middle,
        );
    }
    canvas.line((left, top), (left, bottom), AXIS, 2.0);
    let middle = f64::midpoint(left, right);
    canvas.text(
        (middle, bottom + 68.0),
        axis.title.clone(),
        SMALL,
        MUTED,
        Anchor::Middle,
    );
    canvas.end_at(bottom + BELOW);
    for (place, name) in ["Acc-50", "Acc-100"].into_iter().enumerate() {
        let x = WIDTH - MARGIN - column * (1.0 - place as f64);
        canvas.text((x, top - 12.0), name, SMALL, MUTED, Anchor::End);
    }
    canvas.columns([
        "predictor",
        "error_tokens",
        "low",
        "high",
        "acc_50",
        "acc_100",
    ]);
    for (place, (row, error)) in rows.iter().zip(errors).enumerate() {
        let y = top + ROW * (place as f64 + 0.5);
        names.draw(canvas, y, &row.name);
        canvas.row([
            (&row.name).into(),
            row.error.into(),
            row.low.into(),
            row.high.into(),
            row.acc_50.into(),
            row.acc_100.into(),
        ]);
        canvas.mark(
            [left, y - ROW / 2.0, WIDTH - MARGIN, y + ROW / 2.0],
            format!(
                "{}\nerror {error} [{}, {}] tokens",
                row.name,
                grouped(row.low, 1),
                grouped(row.high, 1)
            ),
        );
        let end = px(row.error);
        canvas.rect((left, y - 18.0), (end, y + 18.0), BLUE, 1.0);
        let mut reached = end;
        if row.high > row.low && row.low.is_finite() {
            whisker(canvas, px(row.low), px(row.high), y, 8.0, INK);
            reached = reached.max(px(row.high));
        }
        canvas.text_beside((reached + 14.0, y), error, STRONG, INK, Anchor::Start);
        for (place, share) in [row.acc_50, row.acc_100].into_iter().enumerate() {
            let x = WIDTH - MARGIN - column * (1.0 - place as f64);
            let text = format!("{} %", grouped(share * 100.0, 1));
            canvas.text_beside((x, y), text, BODY, INK, Anchor::End);
        }
    }
}
