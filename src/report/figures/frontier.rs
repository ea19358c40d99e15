//! Accuracy against cost: which predictor is best for what a prediction may take.

use std::path::Path;

use super::apart;
use super::labels::name_point;
use crate::error::Result;
use crate::evaluate::statistics::Estimate;
use crate::report::axes::{Axis, Frame};
use crate::report::canvas::{Anchor, Canvas, shorten, wrap};
use crate::report::style::{
    BLUE, Color, GREY, INK, MUTED, SKY, SMALL, VERMILLION, WIDTH, draw, need_data,
};
use crate::report::wording::{grouped, number};

/// A predictor with what it costs.
#[derive(Debug, Clone)]
pub struct Cost {
    /// The predictor.
    pub name: String,
    /// Milliseconds a prediction; what is quicker than a microsecond stands at one.
    pub ms: f64,
    /// Tokens.
    pub error: Estimate,
    /// Share.
    pub acc_100: Estimate,
}

/// An accuracy of no known or no meaningful cost: a level line.
#[derive(Debug, Clone)]
pub struct Reference {
    /// As its line is called.
    pub name: String,
    /// Tokens.
    pub error: f64,
    /// Share.
    pub acc_100: f64,
    /// Marked in another colour: somebody else's result.
    pub published: bool,
}

/// Error and Acc-100 against the milliseconds of a prediction, with 95 % intervals; the steps
/// join those that nothing cheaper beats.
///
/// # Errors
/// Nothing to draw, or files that cannot be written.
pub fn frontier(stem: &Path, points: &[Cost], references: &[Reference]) -> Result<()> {
    let drawable = |p: &Cost| p.ms.is_finite() && p.error.value.is_finite();
    need_data(points.iter().any(drawable), "accuracy against cost")?;
    draw(stem, (WIDTH, 1360.0), |canvas| {
        costs(canvas, points, references);
    })
}

/// A panel's figure: its name, whether less is better, and where it is found.
struct Figure {
    title: &'static str,
    less: bool,
    of: fn(&Cost) -> (f64, [f64; 2]),
    reference: fn(&Reference) -> f64,
    unit: &'static str,
}

const FIGURES: [Figure; 2] = [
    Figure {
        title: "error (tokens), lower is better",
        less: true,
        of: |p| (p.error.value, p.error.ci95),
        reference: |r| r.error,
        unit: "",
    },
    Figure {
        title: "Acc-100 (%), higher is better",
        less: false,
        of: |p| (100.0 * p.acc_100.value, p.acc_100.ci95.map(|v| 100.0 * v)),
        reference: |r| 100.0 * r.acc_100,
        unit: " %",
    },
];

/// The least cost that is drawn.
const QUICKEST: f64 = 0.001;
/// What names keep away from lines.
const CLEAR: f64 = 4.0;
/// Room for the names of the level lines.
const ROOM: f64 = 250.0;

pub(super) fn costs(canvas: &mut Canvas, points: &[Cost], references: &[Reference]) {
    let top = canvas.header(
        "Accuracy against what a prediction costs",
        "Milliseconds each, all asked for at once. Steps: the best for its cost. Bars: 95 % \
         interval",
    );
    let drawn: Vec<&Cost> = points.iter().filter(|p| p.ms.is_finite()).collect();
    hand_out(canvas, &drawn, references);
    let cost = |p: &Cost| p.ms.max(QUICKEST);
    let least = drawn.iter().map(|p| cost(p)).fold(f64::INFINITY, f64::min);
    let most = drawn.iter().map(|p| cost(p)).fold(QUICKEST, f64::max);
    let middle = top + (canvas.height() - top) / 2.0;
    let areas = [(top, middle), (middle + 8.0, canvas.height() - 14.0)];
    for (figure, area) in FIGURES.iter().zip(areas) {
        let x = Axis::log10(
            least / 2.5,
            (most * 2.5).max(least * 20.0),
            "milliseconds a prediction (logarithmic)",
        );
        let levels = references.iter().map(|r| (figure.reference)(r));
        let ends = drawn.iter().flat_map(|p| (figure.of)(p).1);
        let values = || {
            let all = levels.clone().chain(ends.clone());
            all.filter(|v| v.is_finite())
        };
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = match low <= high {
            true => (low, high),
            false => (0.0, 1.0),
        };
        let pad = 0.08 * (high - low).max(1.0);
        let y = Axis::exact(low - pad, high + pad, 5, figure.title);
        let frame = Frame::between(canvas, area, (0.0, ROOM), x, y);
        let mut lines = draw_levels(canvas, &frame, figure, references);
        let mut places: Vec<(f64, f64, &Cost)> = drawn
            .iter()
            .filter(|p| (figure.of)(p).0.is_finite())
            .map(|p| (cost(p), (figure.of)(p).0, *p))
            .collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        let best = draw_steps(canvas, &frame, figure.less, &places, &mut lines);
        draw_points(canvas, &frame, figure, &places, &best, lines);
    }
}

/// The figure's data: the points, then the level lines.
fn hand_out(canvas: &mut Canvas, points: &[&Cost], references: &[Reference]) {
    canvas.columns([
        "predictor",
        "ms",
        "error_tokens",
        "error_low",
        "error_high",
        "acc_100",
        "acc_100_low",
        "acc_100_high",
    ]);
    let alone = |value: f64| (value, [f64::NAN; 2]);
    let of = |e: &Estimate| (e.value, e.ci95);
    let points = (points.iter()).map(|p| (&p.name, p.ms, of(&p.error), of(&p.acc_100)));
    let lines = (references.iter()).map(|r| (&r.name, f64::NAN, alone(r.error), alone(r.acc_100)));
    for (name, ms, (error, [low, high]), (acc, [acc_low, acc_high])) in points.chain(lines) {
        canvas.row([
            name.into(),
            ms.into(),
            error.into(),
            low.into(),
            high.into(),
            acc.into(),
            acc_low.into(),
            acc_high.into(),
        ]);
    }
}

/// The level lines, with their names at the right. Returns where the lines are.
fn draw_levels(
    canvas: &mut Canvas,
    frame: &Frame,
    figure: &Figure,
    references: &[Reference],
) -> Vec<[f64; 4]> {
    let mut lines = Vec::new();
    let known: Vec<(&Reference, f64)> = references
        .iter()
        .map(|r| (r, (figure.reference)(r)))
        .filter(|(_, value)| value.is_finite())
        .collect();
    let texts: Vec<Vec<String>> = known
        .iter()
        .map(|(r, value)| {
            let said = grouped(*value, usize::from(!r.published));
            wrap(
                &format!("{said}{} {}", figure.unit, r.name),
                SMALL,
                ROOM - 16.0,
            )
        })
        .collect();
    let wanted: Vec<(f64, f64)> = known
        .iter()
        .zip(&texts)
        .map(|((_, value), lines)| (frame.py(*value), 30.0 * lines.len() as f64 + 8.0))
        .collect();
    let middles = apart(&wanted, frame.top - 20.0, frame.bottom + 20.0);
    for (((reference, value), text), middle) in known.iter().zip(texts).zip(middles) {
        let color = level_color(reference);
        let y = frame.py(*value);
        canvas.dashed((frame.left, y), (frame.right, y), color, 2.5);
        lines.push([frame.left, y - CLEAR, frame.right, y + CLEAR]);
        let first = middle - 15.0 * (text.len() as f64 - 1.0);
        for (row, line) in text.into_iter().enumerate() {
            let at = (frame.right + 16.0, first + 30.0 * row as f64);
            let color = if reference.published { color } else { MUTED };
            canvas.text_beside(at, line, SMALL, color, Anchor::Start);
        }
    }
    lines
}

fn level_color(reference: &Reference) -> Color {
    match reference.published {
        true => VERMILLION,
        false => GREY,
    }
}

/// Joins the points that no cheaper one beats, and says which these are; `lines` get what was
/// drawn.
fn draw_steps(
    canvas: &mut Canvas,
    frame: &Frame,
    less: bool,
    places: &[(f64, f64, &Cost)],
    lines: &mut Vec<[f64; 4]>,
) -> Vec<bool> {
    let mut best: Option<f64> = None;
    let mut on = Vec::new();
    let mut line: Vec<(f64, f64)> = Vec::new();
    for (ms, value, _) in places {
        let better = best.is_none_or(|b| if less { *value < b } else { *value > b });
        on.push(better);
        if better {
            let at = (frame.px(ms.log10()), frame.py(*value));
            if let Some(last) = line.last().copied() {
                line.push((at.0, last.1));
            }
            line.push(at);
            best = Some(*value);
        }
    }
    if let Some(last) = line.last().copied() {
        line.push((frame.right, last.1));
        lines.extend(line.windows(2).map(|pair| {
            let (a, b) = (pair[0], pair[1]);
            [
                a.0.min(b.0) - CLEAR,
                a.1.min(b.1) - CLEAR,
                a.0.max(b.0) + CLEAR,
                a.1.max(b.1) + CLEAR,
            ]
        }));
        canvas.polyline(line, SKY, 1.0, 3.0);
    }
    on
}

/// The points with their intervals, and their names where nothing else is.
fn draw_points(
    canvas: &mut Canvas,
    frame: &Frame,
    figure: &Figure,
    places: &[(f64, f64, &Cost)],
    best: &[bool],
    mut taken: Vec<[f64; 4]>,
) {
    let at = |(ms, value, _): &(f64, f64, &Cost)| (frame.px(ms.log10()), frame.py(*value));
    for (place, best) in places.iter().zip(best) {
        let (x, y) = at(place);
        let color = if *best { BLUE } else { GREY };
        let [low, high] = (figure.of)(place.2).1.map(|v| frame.py(v));
        if low.is_finite() && high.is_finite() {
            canvas.line((x, low), (x, high), color, 3.0);
        }
        canvas.dot((x, y), 9.0, color, 1.0);
        canvas.mark(
            [x - 14.0, y - 14.0, x + 14.0, y + 14.0],
            format!(
                "{}\n{} ms a prediction\n{} {}",
                place.2.name,
                number(place.2.ms),
                figure.title,
                grouped(place.1, 1)
            ),
        );
        taken.push([x - 12.0, y - 12.0, x + 12.0, y + 12.0]);
        taken.push([x - 3.0, high.min(low), x + 3.0, high.max(low)]);
    }
    let inside = [frame.left, frame.top - 20.0, frame.right, frame.bottom];
    for (place, best) in places.iter().zip(best) {
        let point = at(place);
        let name = shorten(&place.2.name, SMALL, 340.0);
        let color = if *best { INK } else { MUTED };
        name_point(canvas, point, (name, color), inside, &mut taken);
    }
}
