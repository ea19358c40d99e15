//! Bars of an experiment's arms: throughput, and the share of computed tokens that was useful.

use std::path::Path;

use super::{NameColumn, whisker};
use crate::error::Result;
use crate::evaluate::summary::{ArmSummary, ExecutorSummary, Measure};
use crate::report::axes::{Axis, BELOW};
use crate::report::canvas::{Anchor, Canvas, text_width};
use crate::report::style::{
    AXIS, BLUE, BODY, Color, GRID, INK, MARGIN, MUTED, SKY, SMALL, STRONG, WIDTH, arm_color, draw,
    need_data,
};
use crate::report::wording::{self, baseline, gain, has_interval, number, origin, with_interval};

const ROW: f64 = 62.0;
const BAR: f64 = 38.0;

/// Samples per second of every arm, with 95 % intervals over seeds and the gain over vanilla.
pub fn throughput_bars(stem: &Path, arms: &[ArmSummary], executor: &ExecutorSummary) -> Result<()> {
    need_data(!arms.is_empty(), "throughput")?;
    let height = 190.0 + ROW * arms.len() as f64 + BELOW;
    draw(stem, (WIDTH, height), |canvas| {
        throughput(canvas, arms, executor);
    })
}

pub(super) fn throughput(canvas: &mut Canvas, arms: &[ArmSummary], executor: &ExecutorSummary) {
    let measures: Vec<&Measure> = arms.iter().map(|a| &a.throughput_samples_per_s).collect();
    let title = format!("Throughput ({})", wording::kind(executor));
    let top = canvas.header(&title, &subtitle(executor, &measures));
    let base = baseline(arms);
    let labels: Vec<(String, String)> = arms
        .iter()
        .enumerate()
        .map(|(place, arm)| {
            let gained = match Some(place) == base {
                true => String::new(),
                false => gain(arm.improvement_pct.mean).replace('-', "−"),
            };
            let speed = format!("{}/s", number(arm.throughput_samples_per_s.mean));
            (speed, gained)
        })
        .collect();
    let label_width = labels
        .iter()
        .map(|(speed, gained)| text_width(speed, STRONG) + 16.0 + text_width(gained, BODY))
        .fold(0.0, f64::max);
    let names = NameColumn::of(arms.iter().map(|a| a.name.as_str()));
    let highest = measures.iter().map(|m| reach(m)).fold(0.0, f64::max);
    let (left, right) = (names.end(), WIDTH - MARGIN - label_width - 16.0);
    let bars = Bars {
        left,
        right,
        top,
        bottom: top + ROW * arms.len() as f64,
        axis: Axis::exact(0.0, highest, 5, "samples per second").thinned(right - left),
    };
    bars.axis(canvas);
    canvas.columns(["arm", "samples_per_s", "low", "high", "gain_pct"]);
    for (place, arm) in arms.iter().enumerate() {
        let y = top + ROW * (place as f64 + 0.5);
        let measure = &arm.throughput_samples_per_s;
        names.draw(canvas, y, &arm.name);
        let look = (arm_color(place), is_simulated(executor));
        let end = bars.bar(canvas, y, BAR, measure, 1.0, look);
        let (speed, gained) = &labels[place];
        let [low, high] = interval(measure);
        let gained_pct = (Some(place) != base).then_some(arm.improvement_pct.mean);
        canvas.row([
            (&arm.name).into(),
            measure.mean.into(),
            low.into(),
            high.into(),
            gained_pct.into(),
        ]);
        let says = format!(
            "{}\n{} samples/s\n{} {gained}",
            arm.name,
            with_interval(measure, number),
            wording::kind(executor)
        );
        canvas.mark([left, y - ROW / 2.0, WIDTH - MARGIN, y + ROW / 2.0], says);
        canvas.text_beside((end + 14.0, y), speed, STRONG, INK, Anchor::Start);
        let x = end + 30.0 + text_width(speed, STRONG);
        if !gained.is_empty() {
            canvas.text_beside((x, y), gained, BODY, MUTED, Anchor::Start);
        }
    }
}

/// Useful share of the computed tokens of every arm, by both accountings.
pub fn effective_tokens_bars(
    stem: &Path,
    arms: &[ArmSummary],
    executor: &ExecutorSummary,
) -> Result<()> {
    need_data(!arms.is_empty(), "effective tokens")?;
    let height = 236.0 + 86.0 * arms.len() as f64 + BELOW;
    draw(stem, (WIDTH, height), |canvas| {
        effective_tokens(canvas, arms, executor);
    })
}

pub(super) fn effective_tokens(
    canvas: &mut Canvas,
    arms: &[ArmSummary],
    executor: &ExecutorSummary,
) {
    const ROW: f64 = 86.0;
    const BAR: f64 = 32.0;
    let measures: Vec<&Measure> = arms
        .iter()
        .flat_map(|a| [&a.effective_token_ratio, &a.effective_token_ratio_full])
        .collect();
    let title = format!("Effective tokens ({})", wording::kind(executor));
    let below = canvas.header(&title, &subtitle(executor, &measures));
    let top = canvas.legend(
        below,
        &[
            (BLUE, "full: everything computed"),
            (SKY, "paper: failed first attempts left out"),
        ],
    );
    let names = NameColumn::of(arms.iter().map(|a| a.name.as_str()));
    let highest = measures.iter().map(|m| reach(m)).fold(0.0, f64::max);
    // Ratios can pass 1 in neither accounting; the axis is the whole unless all bars are short.
    let end = if highest > 0.5 { 100.0 } else { 50.0 };
    let bars = Bars {
        left: names.end(),
        right: WIDTH - MARGIN - text_width("100.0 %", BODY) - 16.0,
        top,
        bottom: top + ROW * arms.len() as f64,
        axis: Axis::exact(0.0, end, 5, "useful share of the computed tokens (%)"),
    };
    bars.axis(canvas);
    canvas.columns(["arm", "accounting", "useful_share", "low", "high"]);
    for (place, arm) in arms.iter().enumerate() {
        let middle = top + ROW * (place as f64 + 0.5);
        names.draw(canvas, middle, &arm.name);
        for (offset, accounting, measure, color) in [
            (-0.53, "full", &arm.effective_token_ratio_full, BLUE),
            (0.53, "paper", &arm.effective_token_ratio, SKY),
        ] {
            let y = middle + offset * BAR;
            let look = (color, is_simulated(executor));
            let reached = bars.bar(canvas, y, BAR, measure, 100.0, look);
            let label = wording::share(measure.mean);
            let [low, high] = interval(measure);
            canvas.row([
                (&arm.name).into(),
                accounting.into(),
                measure.mean.into(),
                low.into(),
                high.into(),
            ]);
            let said = with_interval(measure, wording::share);
            canvas.mark(
                [bars.left, y - BAR / 2.0, WIDTH - MARGIN, y + BAR / 2.0],
                format!("{}\n{said} useful, {accounting} accounting", arm.name),
            );
            canvas.text_beside((reached + 14.0, y), label, BODY, INK, Anchor::Start);
        }
    }
}

/// Whether bars are drawn as simulated ones: outlined, with less colour inside.
fn is_simulated(executor: &ExecutorSummary) -> bool {
    matches!(executor, ExecutorSummary::Replay { .. })
}

/// The interval as data: empty cells where there is none.
fn interval(measure: &Measure) -> [Option<f64>; 2] {
    measure.ci95.map(|end| has_interval(measure).then_some(end))
}

/// How far right a measure is drawn: its bar or its interval.
fn reach(measure: &Measure) -> f64 {
    let high = match has_interval(measure) {
        true => measure.ci95[1].max(measure.mean),
        false => measure.mean,
    };
    if high.is_finite() { high } else { 0.0 }
}

fn subtitle(executor: &ExecutorSummary, measures: &[&Measure]) -> String {
    let mut text = origin(executor);
    if let Some(first) = text.get(..1) {
        text = first.to_uppercase() + &text[1..];
    }
    let seeds = measures.iter().map(|m| m.values.len()).max().unwrap_or(0);
    if measures.iter().any(|m| has_interval(m)) {
        text.push_str(&format!(". Whiskers: 95 % interval over {seeds} seeds"));
    }
    text
}

/// The area of horizontal bars, with its one axis.
struct Bars {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    axis: Axis,
}

impl Bars {
    fn px(&self, value: f64) -> f64 {
        let share = (value / self.axis.high).clamp(0.0, 1.0);
        self.left + share * (self.right - self.left)
    }

    fn axis(&self, canvas: &mut Canvas) {
        for (value, label) in &self.axis.ticks {
            let x = self.px(*value);
            canvas.line((x, self.top), (x, self.bottom), GRID, 1.5);
            let at = (x, self.bottom + 32.0);
            canvas.text(at, label.clone(), SMALL, MUTED, Anchor::Middle);
        }
        canvas.line((self.left, self.top), (self.left, self.bottom), AXIS, 2.0);
        let at = (f64::midpoint(self.left, self.right), self.bottom + 68.0);
        canvas.text(at, self.axis.title.clone(), SMALL, MUTED, Anchor::Middle);
        canvas.end_at(self.bottom + BELOW);
    }

    /// Draws a bar with its interval and returns where a label may begin. Simulated bars are
    /// outlines with less colour inside.
    fn bar(
        &self,
        canvas: &mut Canvas,
        y: f64,
        thick: f64,
        measure: &Measure,
        unit: f64,
        (color, simulated): (Color, bool),
    ) -> f64 {
        let end = self.px(measure.mean * unit);
        let (from, to) = ((self.left, y - thick / 2.0), (end, y + thick / 2.0));
        canvas.rect(from, to, color, if simulated { 0.45 } else { 1.0 });
        if simulated {
            let corners = [from, (to.0, from.1), to, (from.0, to.1), from];
            canvas.polyline(corners.to_vec(), color, 1.0, 2.5);
        }
        if !has_interval(measure) {
            return end;
        }
        let [low, high] = measure.ci95.map(|v| self.px(v * unit));
        whisker(canvas, low, high, y, 8.0, INK);
        end.max(high)
    }
}
