//! A quantity over time, a strip an arm: all on one scale, so that they are compared by eye.

use std::path::Path;

use super::NameColumn;
use crate::error::Result;
use crate::report::axes::{Axis, BELOW};
use crate::report::canvas::{Anchor, Canvas};
use crate::report::style::{
    AXIS, BLUE, BODY, GRID, INK, MARGIN, MUTED, SMALL, WIDTH, draw, need_data,
};
use crate::report::wording::number;

const ROW: f64 = 54.0;
/// Parts of the time axis within which moments are averaged.
const PARTS: usize = 240;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Strips {
    /// Above the figure.
    pub title: String,
    /// Below its title.
    pub subtitle: String,
    /// What a strip's full height stands for, and what to call it.
    pub full: f64,
    /// As `full` is called.
    pub full_name: String,
    /// An arm's name and its (seconds, quantity), in order of time.
    pub strips: Vec<(String, Vec<(f64, f64)>)>,
}

/// Draws a strip an arm over one time axis.
///
/// # Errors
/// Nothing to draw, or files that cannot be written.
pub fn strips(stem: &Path, figure: &Strips) -> Result<()> {
    let any = figure.strips.iter().any(|(_, moments)| moments.len() > 1);
    need_data(any && figure.full > 0.0, &figure.title)?;
    let height = 190.0 + ROW * figure.strips.len() as f64 + BELOW;
    draw(stem, (WIDTH, height), |canvas| plot(canvas, figure))
}

pub(super) fn plot(canvas: &mut Canvas, figure: &Strips) {
    let top = canvas.header(&figure.title, &figure.subtitle) + 8.0;
    let note = format!("a strip's full height: {}", figure.full_name);
    canvas.text_beside((MARGIN, top + 12.0), note, SMALL, MUTED, Anchor::Start);
    let top = top + 40.0;
    let bottom = top + ROW * figure.strips.len() as f64;
    let names = NameColumn::of(figure.strips.iter().map(|s| s.0.as_str()));
    let (left, right) = (names.end(), WIDTH - MARGIN - 20.0);
    let moments = || figure.strips.iter().flat_map(|s| s.1.iter());
    let end = moments().map(|m| m.0).fold(f64::MIN_POSITIVE, f64::max);
    let axis = Axis::exact(0.0, end, 6, "seconds from the start").thinned(right - left);
    let at = |s: f64| left + (right - left) * (s - axis.low) / (axis.high - axis.low);
    for (place, label) in &axis.ticks {
        canvas.line((at(*place), top), (at(*place), bottom), GRID, 2.0);
        let below = (at(*place), bottom + 24.0);
        canvas.text_beside(below, label.clone(), SMALL, MUTED, Anchor::Middle);
    }
    let below = (f64::midpoint(left, right), bottom + 58.0);
    canvas.text_beside(below, axis.title.clone(), BODY, INK, Anchor::Middle);
    canvas.columns(["arm", "at_s", "value"]);
    for (place, (name, moments)) in figure.strips.iter().enumerate() {
        let foot = top + ROW * (place + 1) as f64;
        names.draw(canvas, foot - ROW / 2.0, name);
        let height = |value: f64| foot - (ROW - 8.0) * (value / figure.full).clamp(0.0, 1.0);
        let parts = averaged(moments, end);
        for (s, value) in &parts {
            canvas.row([name.into(), (*s).into(), (*value).into()]);
        }
        let most = parts.iter().map(|p| p.1).fold(0.0, f64::max);
        let mean = parts.iter().map(|p| p.1).sum::<f64>() / parts.len().max(1) as f64;
        canvas.mark(
            [left, foot - ROW, right, foot],
            format!(
                "{name}\nmean {}, most {} of {}\nends after {} s",
                number(mean),
                number(most),
                number(figure.full),
                number(moments.last().map_or(0.0, |m| m.0))
            ),
        );
        if let (Some(first), Some(last)) = (parts.first(), parts.last()) {
            let mut outline = vec![(at(first.0), foot)];
            outline.extend(parts.iter().map(|(s, value)| (at(*s), height(*value))));
            outline.push((at(last.0), foot));
            canvas.polygon(outline, BLUE, 0.75);
        }
        canvas.line((left, foot), (right, foot), AXIS, 1.5);
    }
}

/// Means of the moments in each part of the time up to `end`; parts without any are left out.
fn averaged(moments: &[(f64, f64)], end: f64) -> Vec<(f64, f64)> {
    let mut sums = vec![(0.0, 0.0, 0usize); PARTS];
    for (seconds, value) in moments {
        let part = ((seconds / end * PARTS as f64) as usize).min(PARTS - 1);
        let (s, v, n) = &mut sums[part];
        *s += seconds;
        *v += value;
        *n += 1;
    }
    (sums.iter().filter(|(_, _, n)| *n > 0))
        .map(|(s, v, n)| (s / *n as f64, v / *n as f64))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_a_part_are_averaged() {
        let parts = averaged(&[(0.0, 2.0), (0.1, 4.0), (240.0, 7.0)], 240.0);
        assert_eq!(parts, [(0.05, 3.0), (240.0, 7.0)]);
    }

    #[test]
    fn every_arm_has_its_strip() {
        let mut canvas = Canvas::new(WIDTH, 500.0);
        let strip = |name: &str| {
            (
                name.to_string(),
                vec![(0.0, 10.0), (5.0, 90.0), (9.0, 40.0)],
            )
        };
        let figure = Strips {
            title: "Keys and values in use".into(),
            subtitle: "simulated".into(),
            full: 100.0,
            full_name: "all of the memory".into(),
            strips: vec![strip("fcfs"), strip("sjf")],
        };
        plot(&mut canvas, &figure);
        let svg = canvas.to_svg().unwrap();
        assert_eq!(svg.matches("<polygon").count(), 2);
        assert!(svg.contains("all of the memory") && svg.contains("sjf"));
    }
}
