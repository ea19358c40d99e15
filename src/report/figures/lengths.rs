//! How long responses are: the histogram over instructions, and the spread among repeated
//! samples of one instruction.

use std::path::Path;

use crate::error::Result;
use crate::evaluate::statistics::quantile;
use crate::report::axes::{Axis, Frame, round_step};
use crate::report::canvas::{Anchor, Canvas, text_width};
use crate::report::style::{BLUE, BODY, Color, INK, SKY, VERMILLION, WIDTH, draw, need_data};
use crate::report::wording::{grouped, number};

/// Histogram of response lengths. Responses of `limit` tokens or more were cut off there:
/// they stand apart, as a bar of their own, because their true lengths are unknown.
pub fn length_histogram(stem: &Path, lengths: &[u32], limit: u32) -> Result<()> {
    need_data(!lengths.is_empty(), "length histogram")?;
    draw(stem, (WIDTH, 720.0), |canvas| {
        histogram(canvas, lengths, limit);
    })
}

pub(super) fn histogram(canvas: &mut Canvas, lengths: &[u32], limit: u32) {
    let count = lengths.len() as f64;
    let finished: Vec<u32> = lengths.iter().copied().filter(|&l| l < limit).collect();
    let cut = lengths.len() - finished.len();
    let values: Vec<f64> = lengths.iter().map(|&l| f64::from(l)).collect();
    let quantiles = [("median", 0.5), ("p90", 0.9)].map(|(name, q)| (name, quantile(&values, q)));
    let mut subtitle = format!(
        "{} responses, limited to {} tokens",
        grouped(count, 0),
        grouped(f64::from(limit), 0)
    );
    // Among the cut ones no more than a bound is known, which a line would overstate.
    for (name, _) in quantiles.iter().filter(|q| q.1 >= f64::from(limit)) {
        subtitle.push_str(&format!("; {name} at least {limit}"));
    }
    let top = canvas.header("Response lengths", &subtitle);
    let longest = match cut {
        0 => finished.iter().copied().max().unwrap_or(1) + 1,
        _ => limit,
    };
    let width = round_step(f64::from(longest) / 40.0).max(1.0);
    let bins = (f64::from(longest) / width).ceil() as usize;
    let mut heights = vec![0usize; bins];
    for &length in &finished {
        heights[((f64::from(length) / width) as usize).min(bins - 1)] += 1;
    }
    let end = bins as f64 * width;
    // A gap, then the bar of the cut ones, four bins wide.
    let (cut_from, cut_to) = (end + 1.5 * width, end + 4.5 * width);
    let high = if cut > 0 { cut_to + width } else { end };
    let tallest = heights.iter().copied().max().unwrap_or(0);
    // The cut ones may dwarf the rest; their bar is then broken, and its label has the number.
    let shown = if tallest > 0 {
        cut.min(tallest * 5 / 4)
    } else {
        cut
    };
    let percent = |n: f64| 100.0 * n / count;

    let mut x = Axis::exact(0.0, high, 6, "response length (tokens)");
    x.ticks.retain(|(value, _)| *value <= end);
    if cut > 0 {
        let middle = f64::midpoint(cut_from, cut_to);
        x.ticks.retain(|(value, _)| middle - value > 0.1 * high);
        x.ticks
            .push((middle, format!("≥ {}", grouped(f64::from(limit), 0))));
    }
    let top_share = percent(tallest.max(shown) as f64);
    let per_bin = format!("share of responses (%), per {} tokens", number_of(width));
    let y = Axis::from_zero(top_share, 4, per_bin);
    let marks = marks(
        &quantiles,
        f64::from(limit),
        (cut > 0).then_some(f64::midpoint(cut_from, cut_to)),
        percent(cut as f64),
    );
    // The names of the lines stand above the bars, in as many rows as they need; the scale
    // that tells is the same however many these are.
    let scale = Frame::draw(&mut canvas.clone(), top, (0.0, 0.0), x.clone(), y.clone());
    let placed = place_marks(&marks, &scale);
    let rows = placed.iter().map(|p| p.0 + 1).max().unwrap_or(0);
    let frame = Frame::draw(canvas, top, (ROW * rows as f64, 0.0), x, y);
    let bar = |canvas: &mut Canvas, from: f64, to: f64, n: usize, color: Color| {
        canvas.rect(
            (frame.px(from) + 1.0, frame.py(percent(n as f64))),
            (frame.px(to) - 1.0, frame.bottom),
            color,
            1.0,
        );
    };
    canvas.columns(["from_tokens", "below_tokens", "responses", "cut_off"]);
    for (place, &n) in heights.iter().enumerate() {
        let (from, to) = (place as f64 * width, (place + 1) as f64 * width);
        bar(canvas, from, to, n, SKY);
        canvas.row([from.into(), to.into(), n.into(), "no".into()]);
        canvas.mark(
            [frame.px(from), frame.top, frame.px(to), frame.bottom],
            format!(
                "{} to below {} tokens\n{} responses",
                number_of(from),
                number_of(to),
                grouped(n as f64, 0)
            ),
        );
    }
    if cut > 0 {
        let limit = f64::from(limit);
        canvas.row([limit.into(), None.into(), cut.into(), "yes".into()]);
    }
    if cut > 0 {
        bar(canvas, cut_from, cut_to, shown, VERMILLION);
        if shown < cut {
            break_mark(canvas, &frame, (cut_from, cut_to), percent(shown as f64));
        }
    }
    for (mark, (row, side)) in marks.into_iter().zip(placed) {
        let y = frame.top - ROW * (row as f64 + 0.5);
        let low = match mark.color == INK {
            true => frame.bottom,
            // Down to its bar, not through it.
            false => frame.py(percent(shown as f64)) - 2.0,
        };
        let x = frame.px(mark.value);
        canvas.dashed((x, y - 12.0), (x, low), mark.color, 2.5);
        let (at, anchor) = match side {
            Anchor::End => (x - GAP, Anchor::End),
            _ => (x + GAP, Anchor::Start),
        };
        canvas.text_beside((at, y), mark.text, BODY, mark.color, anchor);
    }
}

/// A vertical line with its name.
struct Mark {
    value: f64,
    text: String,
    color: Color,
}

/// Height of a row of names, and their distance from the lines.
const ROW: f64 = 40.0;
const GAP: f64 = 12.0;

impl Mark {
    fn span(&self, x: f64, side: Anchor) -> (f64, f64) {
        let width = text_width(&self.text, BODY);
        match side {
            Anchor::End => (x - GAP - width, x - GAP),
            _ => (x + GAP, x + GAP + width),
        }
    }
}

/// The lines of the quantiles that are known (below the limit), and of the cut ones' bar.
fn marks(quantiles: &[(&str, f64)], limit: f64, cut_at: Option<f64>, cut: f64) -> Vec<Mark> {
    let known = quantiles.iter().filter(|(_, value)| *value < limit);
    let mut marks: Vec<Mark> = known
        .map(|&(name, value)| Mark {
            value,
            text: format!("{name} {}", number_of(value)),
            color: INK,
        })
        .collect();
    marks.extend(cut_at.map(|value| Mark {
        value,
        text: format!("cut off {} %", number(cut)),
        color: VERMILLION,
    }));
    marks
}

/// For each mark a row above the plotting area (0 is the lowest) and a side of its line, so
/// that no name touches another or another's line. There are at most three marks: all ways
/// are tried, the lowest first.
fn place_marks(marks: &[Mark], scale: &Frame) -> Vec<(usize, Anchor)> {
    let lines: Vec<f64> = marks.iter().map(|m| scale.px(m.value)).collect();
    let choices: Vec<(usize, Anchor)> = (0..3)
        .flat_map(|row| [(row, Anchor::Start), (row, Anchor::End)])
        .collect();
    let total = choices.len().pow(marks.len() as u32);
    let way = |code: usize| -> Vec<(usize, Anchor)> {
        let digit = |place: usize| code / choices.len().pow(place as u32) % choices.len();
        (0..marks.len())
            .map(|place| choices[digit(place)])
            .collect()
    };
    let clear = |way: &[(usize, Anchor)]| {
        let span = |n: usize| marks[n].span(lines[n], way[n].1);
        let spans: Vec<_> = (0..marks.len()).map(span).collect();
        (0..marks.len()).all(|a| {
            let (from, to) = spans[a];
            let others = (0..marks.len()).filter(|&b| b != a);
            from >= scale.left
                && to <= scale.right
                && others.into_iter().all(|b| {
                    let apart =
                        way[a].0 != way[b].0 || to + GAP <= spans[b].0 || spans[b].1 + GAP <= from;
                    // A line runs down from its row through the lower ones.
                    let crossed =
                        way[b].0 >= way[a].0 && lines[b] > from - 6.0 && lines[b] < to + 6.0;
                    apart && !crossed
                })
        })
    };
    let height = |way: &[(usize, Anchor)]| way.iter().map(|w| w.0).max().unwrap_or(0);
    let ways = (0..total).map(way).filter(|w| clear(w));
    let spread_out = || (0..marks.len()).map(|row| (row, Anchor::Start)).collect();
    ways.min_by_key(|w| height(w)).unwrap_or_else(spread_out)
}

/// A white slash through a bar that is taller than it is drawn.
fn break_mark(canvas: &mut Canvas, frame: &Frame, (from, to): (f64, f64), shown: f64) {
    let (left, right) = (frame.px(from) - 4.0, frame.px(to) + 4.0);
    let y = frame.py(shown * 0.88);
    let (rise, thick) = (8.0, 8.0);
    let points = vec![
        (left, y + rise),
        (right, y - rise),
        (right, y - rise + thick),
        (left, y + rise + thick),
    ];
    canvas.polygon(points, crate::report::style::PAPER, 1.0);
}

fn number_of(value: f64) -> String {
    grouped(value, usize::from(value.fract().abs() > 1e-9))
}

/// Mean length of the repeated samples of each instruction, in order of the mean, with the
/// shortest and longest sample. `instances` holds (mean, min, max), sorted by mean.
pub fn length_spread(stem: &Path, instances: &[(f64, f64, f64)]) -> Result<()> {
    need_data(!instances.is_empty(), "length spread")?;
    draw(stem, (WIDTH, 680.0), |canvas| spread(canvas, instances))
}

pub(super) fn spread(canvas: &mut Canvas, instances: &[(f64, f64, f64)]) {
    let (drawn, step) = super::thinned(instances, 260);
    let count = grouped(instances.len() as f64, 0);
    let subtitle = match step {
        1 => format!("{count} instructions, ordered by mean"),
        n => format!(
            "{count} instructions, ordered by mean; one in {} is drawn",
            grouped(n as f64, 0)
        ),
    };
    let mut top = canvas.header("Length of repeated samples", &subtitle);
    top = canvas.legend(top, &[(SKY, "shortest to longest sample"), (BLUE, "mean")]);
    let highest = instances.iter().map(|i| i.2).fold(0.0, f64::max);
    let last = instances.len() as f64;
    let frame = Frame::draw(
        canvas,
        top,
        (0.0, 0.0),
        Axis::exact(0.0, last, 6, "instruction (rank of its mean length)"),
        Axis::from_zero(highest, 5, "response length (tokens)"),
    );
    let per_bar = (frame.right - frame.left) * step as f64 / last;
    let half = (per_bar * 0.36).clamp(0.8, 14.0);
    let drawn: Vec<_> = drawn.enumerate().collect();
    canvas.columns(["rank", "mean_tokens", "shortest_tokens", "longest_tokens"]);
    for (rank, (mean, min, max)) in instances.iter().enumerate() {
        canvas.row([rank.into(), (*mean).into(), (*min).into(), (*max).into()]);
    }
    for (place, (_, min, max)) in &drawn {
        let x = frame
            .px((*place as f64 + 0.5) * step as f64)
            .min(frame.right);
        let (top, bottom) = (frame.py(*max), frame.py(*min));
        // A spread of nothing is still seen as a tick.
        let bottom = bottom.max(top + 2.0);
        canvas.rect((x - half, top), (x + half, bottom), SKY, 0.75);
    }
    for (place, (mean, ..)) in &drawn {
        let x = frame
            .px((*place as f64 + 0.5) * step as f64)
            .min(frame.right);
        canvas.dot((x, frame.py(*mean)), half.clamp(2.2, 7.0), BLUE, 1.0);
    }
}
