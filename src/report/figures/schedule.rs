//! The schedule diagram, after the paper's first figure: micro-batches as boxes, one arm above
//! another on the same axis of time, coloured by what became of the computed tokens.

use std::path::Path;

use crate::error::Result;
use crate::evaluate::summary::BatchRecord;
use crate::report::axes::{Axis, BELOW};
use crate::report::canvas::{Anchor, Canvas, shorten};
use crate::report::style::{
    AXIS, FAILED, GRID, INK, MARGIN, MUTED, REDUNDANT, SMALL, STRONG, USEFUL, WIDTH, draw,
    need_data,
};
use crate::report::wording::{grouped, number};

/// More micro-batches than this in one panel would be slivers; then only the first groups of
/// both arms are drawn.
const MOST_BOXES: usize = 72;
const PANEL: f64 = 220.0;

/// Two arms' micro-batches over time: `left` (usually vanilla) above, `right` below. Width is
/// time, height the number of rows; within a box the areas are shares of its tokens. `origin`
/// says whether the times are measured or simulated.
pub fn schedule_diagram(
    stem: &Path,
    left: &[BatchRecord],
    right: &[BatchRecord],
    names: (&str, &str),
    origin: &str,
) -> Result<()> {
    need_data(!left.is_empty() && !right.is_empty(), "schedule diagram")?;
    let height = 180.0 + 2.0 * (PANEL + 110.0) + BELOW;
    draw(stem, (WIDTH, height), |canvas| {
        diagram(canvas, left, right, names, origin);
    })
}

/// A micro-batch with its place on the horizontal axis.
struct Box<'a> {
    from: f64,
    to: f64,
    batch: &'a BatchRecord,
}

pub(super) fn diagram(
    canvas: &mut Canvas,
    left: &[BatchRecord],
    right: &[BatchRecord],
    names: (&str, &str),
    origin: &str,
) {
    let timed = [left, right]
        .iter()
        .all(|list| list.iter().any(|b| b.prefill_s + b.decode_s > 0.0));
    let (groups, whole) = groups_to_draw(left, right);
    let panels = [left, right].map(|list| boxes(list, groups, timed));
    let heights = Heights::new(&panels);
    let mut subtitle = match origin.is_empty() {
        true => String::new(),
        false => format!("Times {origin}. "),
    };
    subtitle.push_str("A box is a micro-batch: width is time, height is rows");
    if heights.root {
        subtitle.push_str(" (square-root scale)");
    }
    if !whole {
        let first = match groups {
            1 => "the first group".to_string(),
            n => format!("the first {n} groups"),
        };
        subtitle.push_str(&format!("; {first} of requests drawn"));
    }
    let top = canvas.header("What the computed tokens were for", &subtitle);
    let top = canvas.legend(
        top,
        &[
            (USEFUL, "useful"),
            (REDUNDANT, "redundant: after a row's end"),
            (FAILED, "thrown away: failed attempts"),
        ],
    );
    let end = panels.iter().flatten().map(|b| b.to).fold(0.0, f64::max);
    let unit = if timed { "time (s)" } else { "decode steps" };
    let axis = Axis::exact(0.0, end, 6, unit);
    let (from, to) = (MARGIN + 62.0, WIDTH - MARGIN);
    let px = |value: f64| from + value / axis.high * (to - from);
    let mut y = top;
    canvas.columns([
        "arm",
        "group",
        "batch",
        "attempt",
        "rows",
        "cap",
        "steps",
        "start_s",
        "prefill_s",
        "decode_s",
        "computed_tokens",
        "useful_tokens",
        "failed_tokens",
    ]);
    for (name, boxes) in [names.0, names.1].into_iter().zip(&panels) {
        panel_title(canvas, y, name, boxes, timed);
        let most = most_rows(boxes);
        let base = y + 84.0 + heights.of(most);
        for (rows, text) in heights.ticks(most) {
            let level = base - heights.of(rows);
            canvas.line((from, level), (to, level), GRID, 1.5);
            canvas.text_beside((from - 10.0, level), text, SMALL, MUTED, Anchor::End);
        }
        for (value, _) in &axis.ticks {
            canvas.line((px(*value), base), (px(*value), base + 8.0), AXIS, 2.0);
        }
        for item in boxes {
            let high = heights.of(item.batch.rows);
            let (left, right) = (px(item.from), px(item.to));
            draw_box(canvas, item, (left, right), base, high);
            hand_out(canvas, name, item.batch);
            canvas.mark([left, base - high, right, base], item.says(name, timed));
        }
        canvas.line((from, base), (to, base), AXIS, 2.0);
        y = base + 26.0;
    }
    let base = y - 26.0;
    for (value, label) in &axis.ticks {
        let anchor = match px(*value) > to - 20.0 {
            true => Anchor::End,
            false => Anchor::Middle,
        };
        canvas.text(
            (px(*value), base + 36.0),
            label.clone(),
            SMALL,
            MUTED,
            anchor,
        );
    }
    let title = axis.title.clone();
    canvas.text(
        (f64::midpoint(from, to), base + 72.0),
        title,
        SMALL,
        MUTED,
        Anchor::Middle,
    );
    canvas.end_at(base + BELOW);
}

/// The first line of a panel: the arm, and what its tokens were for.
fn panel_title(canvas: &mut Canvas, y: f64, name: &str, boxes: &[Box<'_>], timed: bool) {
    let sum =
        |of: fn(&BatchRecord) -> usize| boxes.iter().map(|b| of(b.batch)).sum::<usize>() as f64;
    let computed = sum(|b| b.computed_tokens).max(1.0);
    let (useful, failed) = (sum(|b| b.useful_tokens), sum(|b| b.failed_tokens));
    let redundant = (computed - useful - failed).max(0.0);
    let percent = |n: f64| format!("{} %", grouped(100.0 * n / computed, 0));
    let requests: usize = boxes
        .iter()
        .filter(|b| b.batch.attempt == 0)
        .map(|b| b.batch.rows)
        .sum();
    let end = boxes.iter().map(|b| b.to).fold(0.0, f64::max);
    let took = match timed {
        true => format!("{} s", number(end)),
        false => format!("{} steps", grouped(end, 0)),
    };
    let mut text = format!(
        "{} useful, {} redundant",
        percent(useful),
        percent(redundant)
    );
    if failed > 0.0 {
        text.push_str(&format!(", {} thrown away", percent(failed)));
    }
    text.push_str(&format!(
        "; {} requests in {took}",
        grouped(requests as f64, 0)
    ));
    let name = shorten(name, STRONG, WIDTH - 2.0 * MARGIN);
    canvas.text((MARGIN, y + 26.0), name, STRONG, INK, Anchor::Start);
    canvas.text((MARGIN, y + 58.0), text, SMALL, MUTED, Anchor::Start);
}

/// One micro-batch: useful tokens at the bottom, failed ones on them, the rest above.
fn draw_box(canvas: &mut Canvas, item: &Box<'_>, (left, right): (f64, f64), base: f64, high: f64) {
    let batch = item.batch;
    // Whatever the accounting left out, the parts stay inside the box.
    let parts = (batch.useful_tokens + batch.failed_tokens) as f64;
    let computed = (batch.computed_tokens as f64).max(parts).max(1.0);
    let useful = high * batch.useful_tokens as f64 / computed;
    let failed = high * batch.failed_tokens as f64 / computed;
    // A thin white edge tells neighbours apart while boxes are wide enough to have one.
    let edge = if right - left > 5.0 { 1.0 } else { 0.0 };
    let (left, right) = (left + edge / 2.0, (right - edge / 2.0).max(left + 0.5));
    canvas.rect((left, base - high), (right, base), REDUNDANT, 1.0);
    canvas.rect((left, base - useful), (right, base), USEFUL, 1.0);
    if failed > 0.0 {
        let from = base - useful;
        canvas.rect((left, from - failed), (right, from), FAILED, 1.0);
    }
}

/// A micro-batch as a row of the figure's data.
fn hand_out(canvas: &mut Canvas, arm: &str, batch: &BatchRecord) {
    canvas.row([
        arm.into(),
        batch.group.into(),
        batch.batch.into(),
        batch.attempt.into(),
        batch.rows.into(),
        batch.cap.into(),
        batch.steps.into(),
        batch.start_s.into(),
        batch.prefill_s.into(),
        batch.decode_s.into(),
        batch.computed_tokens.into(),
        batch.useful_tokens.into(),
        batch.failed_tokens.into(),
    ]);
}

impl Box<'_> {
    /// What it says when it is pointed at.
    fn says(&self, arm: &str, timed: bool) -> String {
        let batch = self.batch;
        let count = |n: usize| grouped(n as f64, 0);
        let computed = batch.computed_tokens.max(1) as f64;
        let of_all = |n: usize| {
            format!(
                "{} ({} %)",
                count(n),
                grouped(100.0 * n as f64 / computed, 0)
            )
        };
        let redundant =
            (batch.computed_tokens).saturating_sub(batch.useful_tokens + batch.failed_tokens);
        let attempt = match batch.attempt {
            0 => "",
            _ => ", of failed requests",
        };
        let took = match timed {
            true => format!(
                "{} s from {} s on",
                number(self.to - self.from),
                number(self.from)
            ),
            false => format!("from step {}", grouped(self.from, 0)),
        };
        format!(
            "{arm}: group {}, micro-batch {}{attempt}\n{} rows × {} steps, stopped at {} at the \
             latest\n{took}\nuseful tokens {}\nredundant {}\nthrown away {}",
            batch.group,
            batch.batch,
            count(batch.rows),
            count(batch.steps),
            count(batch.cap),
            of_all(batch.useful_tokens),
            of_all(redundant),
            of_all(batch.failed_tokens)
        )
    }
}

/// How many of the first groups both panels show so that neither has too many boxes, and
/// whether that is all of them.
fn groups_to_draw(left: &[BatchRecord], right: &[BatchRecord]) -> (usize, bool) {
    let all = left
        .iter()
        .chain(right)
        .map(|b| b.group + 1)
        .max()
        .unwrap_or(1);
    let crowded = |groups: usize| {
        [left, right]
            .iter()
            .any(|list| list.iter().filter(|b| b.group < groups).count() > MOST_BOXES)
    };
    let mut groups = all;
    while groups > 1 && crowded(groups) {
        groups -= 1;
    }
    (groups, groups == all)
}

fn boxes(batches: &[BatchRecord], groups: usize, timed: bool) -> Vec<Box<'_>> {
    let mut drawn: Vec<&BatchRecord> = batches.iter().filter(|b| b.group < groups).collect();
    if !timed {
        let mut at = 0.0;
        return drawn
            .into_iter()
            .map(|batch| {
                let from = at;
                at += batch.steps as f64;
                Box {
                    from,
                    to: at,
                    batch,
                }
            })
            .collect();
    }
    drawn.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    let start = drawn.first().map_or(0.0, |b| b.start_s);
    drawn
        .into_iter()
        .map(|batch| {
            let from = batch.start_s - start;
            let to = from + batch.prefill_s + batch.decode_s;
            Box { from, to, batch }
        })
        .collect()
}

fn most_rows(boxes: &[Box<'_>]) -> usize {
    boxes.iter().map(|b| b.batch.rows).max().unwrap_or(1).max(1)
}

/// Rows to height. In proportion while batches are of like size; where the largest is many
/// times the smallest (variable batch sizes), by square root, or the small would vanish. One
/// scale for both panels, which share the room as their largest batches need it.
struct Heights {
    least: usize,
    unit: f64,
    root: bool,
}

impl Heights {
    fn new(panels: &[Vec<Box<'_>>; 2]) -> Heights {
        let rows = panels.iter().flatten().map(|b| b.batch.rows.max(1));
        let least = rows.clone().min().unwrap_or(1);
        let most = rows.max().unwrap_or(1);
        let mut heights = Heights {
            least,
            unit: 1.0,
            root: most > 6 * least,
        };
        let needed: f64 = panels.iter().map(|p| heights.of(most_rows(p))).sum();
        heights.unit = 2.0 * PANEL / needed;
        heights
    }

    fn of(&self, rows: usize) -> f64 {
        let rows = rows as f64;
        self.unit * if self.root { rows.sqrt() } else { rows }
    }

    /// Row counts worth a line: the largest and its halves or quarters, as long as their
    /// numbers have room between each other and above the time axis.
    fn ticks(&self, most: usize) -> Vec<(usize, String)> {
        let mut ticks = vec![most];
        let divisor = if self.root { 4 } else { 2 };
        let mut rows = most / divisor;
        while rows >= self.least && self.of(rows) > 24.0 {
            if ticks
                .last()
                .is_some_and(|&last| self.of(last) - self.of(rows) > 34.0)
            {
                ticks.push(rows);
            }
            rows /= divisor;
        }
        ticks
            .into_iter()
            .map(|rows| (rows, rows.to_string()))
            .collect()
    }
}
