//! The histogram of response lengths, temperature by temperature (Figure 2a of the paper).

use std::path::Path;

use crate::dataset::describe::TemperatureLengths;
use crate::error::Result;
use crate::evaluate::statistics::quantile_of_sorted;
use crate::report::axes::{Axis, Frame, round_step};
use crate::report::canvas::{Anchor, Canvas};
use crate::report::style::{
    BLUE, Color, GREEN, MUTED, ORANGE, PAPER, PURPLE, SKY, SMALL, VERMILLION, WIDTH, draw,
    need_data,
};
use crate::report::wording::{grouped, share};

/// More lines than this cannot be told apart: the temperatures are then drawn as one.
const MOST_LINES: usize = 6;

/// Histogram of response lengths, an outline a temperature. Responses that were cut off stand
/// apart, as bars of their own, because their true lengths are unknown. A long tail (beyond
/// half as much again as the 99.5 % quantile) is left off the scale, and the figure says so.
pub fn lengths_by_temperature(
    stem: &Path,
    groups: &[TemperatureLengths],
    limit: Option<u32>,
) -> Result<()> {
    let present = groups.iter().any(|group| !group.1.is_empty());
    need_data(present, "length histogram")?;
    draw(stem, (WIDTH, 760.0), |canvas| {
        histogram(canvas, groups, limit);
    })
}

/// One outline: what the bins hold, as shares in percent.
struct Outline {
    color: Color,
    meaning: String,
    shares: Vec<f64>,
    cut: f64,
}

pub(super) fn histogram(canvas: &mut Canvas, groups: &[TemperatureLengths], limit: Option<u32>) {
    let pooled: Vec<TemperatureLengths>;
    let many = groups.len() > MOST_LINES;
    let groups = if many {
        let all = groups.iter().flat_map(|g| g.1.iter().copied()).collect();
        pooled = vec![(None, all)];
        &pooled
    } else {
        groups
    };
    let mut finished: Vec<f64> = groups
        .iter()
        .flat_map(|g| &g.1)
        .filter(|(_, cut)| !cut)
        .map(|&(length, _)| f64::from(length))
        .collect();
    finished.sort_unstable_by(f64::total_cmp);
    let count: usize = groups.iter().map(|g| g.1.len()).sum();
    let any_cut = finished.len() < count;
    let none = f64::from(limit.unwrap_or(1));
    let longest = finished.last().copied().unwrap_or(none);
    let bulk = quantile_of_sorted(&finished, 0.995);
    let reach = match bulk * 1.5 < longest {
        true => bulk,
        false => longest,
    };
    // Where many were cut off the scale ends at the limit, so that the gap before it is seen.
    let reach = match limit {
        Some(limit) if any_cut && f64::from(limit) < 1.2 * reach => f64::from(limit),
        _ => reach + 1.0,
    };
    let wanted = if groups.len() == 1 { 40.0 } else { 26.0 };
    let width = round_step(reach / wanted).max(1.0);
    let bins = (reach / width).ceil().max(1.0) as usize;
    let end = bins as f64 * width;
    let outlines = outlines(groups, width, bins);

    let beyond = finished.iter().rev().take_while(|&&l| l >= end).count();
    let mut subtitle = format!("{} responses", grouped(count as f64, 0));
    match limit {
        Some(limit) => subtitle.push_str(&format!(
            ", limited to {} tokens",
            grouped(f64::from(limit), 0)
        )),
        None if !any_cut => subtitle.push_str("; whether some were cut off is not recorded"),
        None => {}
    }
    if many {
        subtitle.push_str("; all temperatures together");
    }
    if beyond > 0 {
        subtitle.push_str(&format!(
            "; the longest {} (up to {} tokens) are off the scale",
            grouped(beyond as f64, 0),
            grouped(longest, 0)
        ));
    }
    let title = match groups.len() {
        1 => "Response lengths",
        _ => "Response lengths by temperature",
    };
    let mut top = canvas.header(title, &subtitle);
    let entries: Vec<(Color, &str)> = outlines
        .iter()
        .map(|o| (o.color, o.meaning.as_str()))
        .collect();
    top = canvas.legend(top, &entries);

    let tallest = outlines
        .iter()
        .flat_map(|o| &o.shares)
        .copied()
        .fold(0.0, f64::max);
    let most_cut = outlines.iter().map(|o| o.cut).fold(0.0, f64::max);
    // The cut ones may dwarf the rest; their bars are then broken, and the legend has the
    // numbers.
    let highest = match tallest > 0.0 {
        true => tallest.max(most_cut.min(tallest * 1.25)),
        false => most_cut,
    };
    // A gap, then the bars of the cut ones, each as wide as its number above it needs.
    const ROOM: f64 = 1060.0;
    let each = 56.0;
    let cut_room = if any_cut {
        (each * outlines.len() as f64).max(150.0)
    } else {
        0.0
    };
    let gap = if any_cut { 30.0 } else { 0.0 };
    let unit = end / (ROOM - cut_room - 2.0 * gap);
    let high = end + (cut_room + 2.0 * gap) * unit;
    let middle = end + (gap + cut_room / 2.0) * unit;
    let cut_from = middle - each * unit * outlines.len() as f64 / 2.0;
    let mut x = Axis::exact(0.0, high, 8, "response length (tokens)");
    // The last tick's label must not reach the one of the cut ones.
    let last = if any_cut { end - 0.02 * high } else { end };
    x.ticks.retain(|(value, _)| *value <= last);
    let per_bin = format!(
        "share of responses (%), per {} tokens",
        grouped(width, usize::from(width.fract() != 0.0))
    );
    let strip = if any_cut { 24.0 } else { 0.0 };
    let frame = Frame::draw(
        canvas,
        top,
        (strip, 0.0),
        x,
        Axis::from_zero(highest, 4, per_bin),
    );
    canvas.columns([
        "series",
        "from_tokens",
        "below_tokens",
        "share_pct",
        "cut_off",
    ]);
    for outline in &outlines {
        outline.hand_out(canvas, width, limit);
        match outlines.len() {
            1 => bars(canvas, &frame, outline, width),
            _ => steps(canvas, &frame, outline, width),
        }
    }
    if any_cut {
        let below = (frame.px(middle), frame.bottom + 34.0);
        canvas.text(below, "cut off (%)", SMALL, MUTED, Anchor::Middle);
    }
    let bars = outlines.iter().enumerate().filter(|(_, o)| o.cut > 0.0);
    for (place, outline) in bars {
        let at = |bars: f64| frame.px(cut_from + bars * each * unit);
        let (from, to) = (at(place as f64) + 2.0, at(place as f64 + 1.0) - 2.0);
        let shown = outline.cut.min(highest);
        let color = match outlines.len() {
            1 => VERMILLION,
            _ => outline.color,
        };
        let top = frame.py(shown);
        canvas.rect((from, top), (to, frame.bottom), color, 1.0);
        if shown < outline.cut {
            let y = top + 0.12 * (frame.bottom - top);
            let slash = vec![
                (from - 3.0, y + 6.0),
                (to + 3.0, y - 6.0),
                (to + 3.0, y + 2.0),
                (from - 3.0, y + 14.0),
            ];
            canvas.polygon(slash, PAPER, 1.0);
        }
        let number = grouped(outline.cut, usize::from(outline.cut < 9.95));
        let above = (f64::midpoint(from, to), top - 10.0);
        canvas.text(above, number, SMALL, MUTED, Anchor::Middle);
    }
}

impl Outline {
    /// Its bins as the figure's data.
    fn hand_out(&self, canvas: &mut Canvas, width: f64, limit: Option<u32>) {
        let bins = self.shares.iter().enumerate().map(|(bin, &share)| {
            let from = bin as f64 * width;
            (Some(from), Some(from + width), share, "no")
        });
        let cut = (self.cut > 0.0).then_some((limit.map(f64::from), None, self.cut, "yes"));
        for (from, to, share, cut_off) in bins.chain(cut) {
            canvas.row([
                (&self.meaning).into(),
                from.into(),
                to.into(),
                share.into(),
                cut_off.into(),
            ]);
        }
    }
}

fn outlines(groups: &[TemperatureLengths], width: f64, bins: usize) -> Vec<Outline> {
    const COLORS: [Color; MOST_LINES] = [BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY];
    let outline = |(place, (temperature, lengths)): (usize, &TemperatureLengths)| {
        let count = lengths.len() as f64;
        let mut held = vec![0usize; bins];
        let mut cut = 0;
        let mut sorted: Vec<f64> = Vec::with_capacity(lengths.len());
        let mut cut_from = f64::INFINITY;
        for &(length, is_cut) in lengths {
            let length = f64::from(length);
            sorted.push(length);
            if is_cut {
                cut += 1;
                cut_from = cut_from.min(length);
            } else if let Some(bin) = held.get_mut((length / width) as usize) {
                *bin += 1;
            }
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let percent = |n: usize| 100.0 * n as f64 / count;
        let median = quantile_of_sorted(&sorted, 0.5);
        let least = if median >= cut_from { "≥ " } else { "" };
        let mut meaning = format!(
            "median {least}{}",
            grouped(median, usize::from(median.fract() != 0.0))
        );
        if cut > 0 {
            meaning.push_str(&format!(", {} cut off", share(cut as f64 / count)));
        }
        if let (Some(temperature), true) = (temperature, groups.len() > 1) {
            meaning = format!("temperature {temperature}: {meaning}");
        }
        Outline {
            color: if groups.len() == 1 {
                SKY
            } else {
                COLORS[place]
            },
            meaning,
            shares: held.into_iter().map(percent).collect(),
            cut: percent(cut),
        }
    };
    let there = groups.iter().filter(|group| !group.1.is_empty());
    there.enumerate().map(outline).collect()
}

fn bars(canvas: &mut Canvas, frame: &Frame, outline: &Outline, width: f64) {
    for (bin, &share) in outline.shares.iter().enumerate() {
        let from = frame.px(bin as f64 * width) + 1.0;
        let to = frame.px((bin + 1) as f64 * width) - 1.0;
        canvas.rect(
            (from, frame.py(share)),
            (to, frame.bottom),
            outline.color,
            1.0,
        );
    }
}

fn steps(canvas: &mut Canvas, frame: &Frame, outline: &Outline, width: f64) {
    let mut points = vec![(frame.left, frame.bottom)];
    for (bin, &share) in outline.shares.iter().enumerate() {
        let y = frame.py(share);
        points.push((frame.px(bin as f64 * width), y));
        points.push((frame.px((bin + 1) as f64 * width), y));
    }
    let end = frame.px(outline.shares.len() as f64 * width);
    points.push((end, frame.bottom));
    canvas.polyline(points, outline.color, 1.0, 4.0);
}
