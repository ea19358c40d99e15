//! The same arms in several runs: a group of bars an arm, a bar a run.

use std::path::Path;

use super::{LINES, NameColumn, whisker};
use crate::error::Result;
use crate::report::axes::{Axis, BELOW};
use crate::report::canvas::{Anchor, Canvas, text_width};
use crate::report::style::{
    AXIS, BODY, Color, GRID, INK, MARGIN, MUTED, SMALL, WIDTH, draw, need_data,
};

const BAR: f64 = 30.0;
const GAP: f64 = 22.0;

/// A mean with its 95 % interval, where there is one.
type Bar = Option<(f64, Option<[f64; 2]>)>;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct SideBySide {
    /// Above the figure.
    pub title: String,
    /// Below its title.
    pub subtitle: String,
    /// The quantity with its unit.
    pub axis: String,
    /// The first six.
    pub runs: Vec<String>,
    /// An arm, and what it is in each run.
    pub rows: Vec<(String, Vec<Bar>)>,
    /// How values are written.
    pub say: fn(f64) -> String,
}

/// Draws the bars, from zero.
///
/// # Errors
/// Nothing to draw, or files that cannot be written.
pub fn side_by_side(stem: &Path, figure: &SideBySide) -> Result<()> {
    let any = figure
        .rows
        .iter()
        .any(|(_, bars)| bars.iter().any(Option::is_some));
    need_data(any, &figure.title)?;
    let runs = figure.runs.len().min(LINES.len());
    let group = BAR * runs as f64 + GAP;
    let height = 260.0 + 44.0 * runs as f64 + group * figure.rows.len() as f64 + BELOW;
    draw(stem, (WIDTH, height), |canvas| plot(canvas, figure))
}

pub(super) fn plot(canvas: &mut Canvas, figure: &SideBySide) {
    let runs = &figure.runs[..figure.runs.len().min(LINES.len())];
    let group = BAR * runs.len() as f64 + GAP;
    let top = canvas.header(&figure.title, &figure.subtitle);
    let entries: Vec<(Color, &str)> = LINES
        .into_iter()
        .zip(runs.iter().map(String::as_str))
        .collect();
    let top = canvas.legend(top, &entries) + 8.0;
    let bars = || {
        figure
            .rows
            .iter()
            .flat_map(|(_, bars)| bars.iter().take(runs.len()).flatten())
    };
    let reach =
        |(mean, interval): &(f64, Option<[f64; 2]>)| interval.map_or(*mean, |i| i[1].max(*mean));
    let highest = bars()
        .map(reach)
        .filter(|v| v.is_finite())
        .fold(0.0, f64::max);
    let said = bars().map(|(mean, _)| text_width(&(figure.say)(*mean), BODY));
    let room = said.fold(0.0, f64::max) + 20.0;
    let names = NameColumn::of(figure.rows.iter().map(|row| row.0.as_str()));
    let (left, right) = (names.end(), WIDTH - MARGIN - room);
    let axis = Axis::exact(0.0, highest, 5, &*figure.axis).thinned(right - left);
    let px = |value: f64| left + (value / axis.high).clamp(0.0, 1.0) * (right - left);
    let bottom = top + group * figure.rows.len() as f64;
    for (value, label) in &axis.ticks {
        canvas.line((px(*value), top), (px(*value), bottom), GRID, 1.5);
        let below = (px(*value), bottom + 32.0);
        canvas.text(below, label.clone(), SMALL, MUTED, Anchor::Middle);
    }
    canvas.line((left, top), (left, bottom), AXIS, 2.0);
    let below = (f64::midpoint(left, right), bottom + 68.0);
    canvas.text(below, axis.title.clone(), SMALL, MUTED, Anchor::Middle);
    canvas.end_at(bottom + BELOW);
    canvas.columns(["arm", "run", "mean", "low", "high"]);
    for (place, (name, bars)) in figure.rows.iter().enumerate() {
        let from = top + group * place as f64 + GAP / 2.0;
        names.draw(canvas, from + (group - GAP) / 2.0, name);
        for (at, (run, bar)) in runs.iter().zip(bars).enumerate() {
            let Some((mean, interval)) = bar else {
                continue;
            };
            let y = from + BAR * (at as f64 + 0.5);
            canvas.rect(
                (left, y - BAR / 2.0 + 1.0),
                (px(*mean), y + BAR / 2.0 - 1.0),
                LINES[at],
                1.0,
            );
            let mut end = px(*mean);
            let ends = interval.map(|i| i.map(Some)).unwrap_or_default();
            canvas.row([
                name.into(),
                run.into(),
                (*mean).into(),
                ends[0].into(),
                ends[1].into(),
            ]);
            let mut says = format!("{name}\n{run}\n{}", (figure.say)(*mean));
            if let Some([low, high]) = interval {
                whisker(canvas, px(*low), px(*high), y, 7.0, INK);
                end = end.max(px(*high));
                says += &format!(" [{}, {}]", (figure.say)(*low), (figure.say)(*high));
            }
            canvas.mark([left, y - BAR / 2.0, WIDTH - MARGIN, y + BAR / 2.0], says);
            let text = (figure.say)(*mean);
            canvas.text_beside((end + 12.0, y), text, BODY, INK, Anchor::Start);
        }
    }
}
