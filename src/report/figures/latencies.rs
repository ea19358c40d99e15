//! Latencies of arms: median, mean, 90th and 99th percentile, a row an arm.

use std::path::Path;

use super::NameColumn;
use crate::error::Result;
use crate::report::axes::{Axis, BELOW};
use crate::report::canvas::{Anchor, Canvas};
use crate::report::style::{
    AXIS, BLUE, BODY, Color, GRID, INK, MARGIN, MUTED, ORANGE, SKY, SMALL, VERMILLION, WIDTH, draw,
    need_data,
};
use crate::report::wording::number;

const ROW: f64 = 46.0;
/// What the four numbers of a row are.
const MARKS: [(Color, &str); 4] = [
    (SKY, "median"),
    (BLUE, "mean"),
    (ORANGE, "p90"),
    (VERMILLION, "p99"),
];

/// Draws a row an arm: (name, [median, mean, p90, p99] in seconds), on a logarithmic scale.
///
/// # Errors
/// Nothing to draw, or files that cannot be written.
pub fn latencies(
    stem: &Path,
    title: &str,
    subtitle: &str,
    rows: &[(String, [f64; 4])],
) -> Result<()> {
    need_data(!rows.is_empty(), title)?;
    let height = 200.0 + ROW * rows.len() as f64 + BELOW;
    draw(stem, (WIDTH, height), |canvas| {
        plot(canvas, title, subtitle, rows);
    })
}

pub(super) fn plot(canvas: &mut Canvas, title: &str, subtitle: &str, rows: &[(String, [f64; 4])]) {
    let top = canvas.header(title, subtitle);
    let top = canvas.legend(top, &MARKS) + 8.0;
    let bottom = top + ROW * rows.len() as f64;
    let all = || rows.iter().flat_map(|r| r.1).filter(|s| *s > 0.0);
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(f64::MIN_POSITIVE, f64::max);
    let names = NameColumn::of(rows.iter().map(|r| r.0.as_str()));
    let (left, right) = (names.end(), WIDTH - MARGIN - 20.0);
    let axis = Axis::log10(low / 1.15, high * 1.15, "seconds").thinned(right - left);
    let at = |place: f64| left + (right - left) * (place - axis.low) / (axis.high - axis.low);
    for (place, label) in &axis.ticks {
        canvas.line((at(*place), top), (at(*place), bottom), GRID, 2.0);
        let below = (at(*place), bottom + 24.0);
        canvas.text_beside(below, label.clone(), SMALL, MUTED, Anchor::Middle);
    }
    canvas.line((left, bottom), (right, bottom), AXIS, 2.0);
    let below = (f64::midpoint(left, right), bottom + 58.0);
    canvas.text_beside(below, axis.title.clone(), BODY, INK, Anchor::Middle);
    canvas.columns(["arm", "p50_s", "mean_s", "p90_s", "p99_s"]);
    for (place, (name, values)) in rows.iter().enumerate() {
        let y = top + ROW * (place as f64 + 0.5);
        names.draw(canvas, y, name);
        let [p50, mean, p90, p99] = *values;
        canvas.row([name.into(), p50.into(), mean.into(), p90.into(), p99.into()]);
        let said = MARKS.iter().zip(values);
        let said: Vec<String> = said
            .map(|((_, of), s)| format!("{of} {} s", number(*s)))
            .collect();
        canvas.mark(
            [left, y - ROW / 2.0, right, y + ROW / 2.0],
            format!("{name}\n{}", said.join("\n")),
        );
        let seen = values.iter().filter(|v| **v > 0.0 && v.is_finite());
        let xs: Vec<f64> = seen.map(|v| at(v.log10())).collect();
        if let (Some(from), Some(to)) = (
            xs.iter().copied().reduce(f64::min),
            xs.iter().copied().reduce(f64::max),
        ) {
            canvas.line((from, y), (to, y), GRID, 6.0);
        }
        for ((color, _), value) in MARKS.iter().zip(values) {
            if *value > 0.0 && value.is_finite() {
                canvas.dot((at(value.log10()), y), 9.0, *color, 1.0);
            }
        }
    }
}
