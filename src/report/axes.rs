//! Scales, round tick values, and the framed plotting area that figures share.

use super::canvas::{Anchor, Canvas, text_width};
use super::style::{AXIS, GRID, MARGIN, MUTED, SMALL};
use super::wording::grouped;

/// Round values covering `low..=high` with about `wanted` steps of 1, 2 or 5 times a power
/// of ten, all of them inside the range.
pub fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let step = round_step((high - low) / wanted.max(1) as f64);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// The one of 1, 2, 5 times a power of ten that is nearest to `rough`.
pub fn round_step(rough: f64) -> f64 {
    if !rough.is_finite() || rough <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let factor = match rough / power {
        f if f < 1.5 => 1.0,
        f if f < 3.5 => 2.0,
        f if f < 7.5 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// A tick's text: as many decimals as the step between ticks needs, thousands grouped.
pub fn tick_label(value: f64, step: f64) -> String {
    let decimals = if step >= 1.0 || step <= 0.0 {
        0
    } else {
        (-step.log10()).ceil() as usize
    };
    grouped(value, decimals)
}

/// One axis: its range, its ticks and what it says.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The least value on it.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// Where ticks stand, and what they say.
    pub ticks: Vec<(f64, String)>,
    /// The quantity with its unit.
    pub title: String,
}

impl Axis {
    /// An axis over exactly `low..=high`.
    pub fn exact(low: f64, high: f64, wanted: usize, title: impl Into<String>) -> Axis {
        let high = if high > low { high } else { low + 1.0 };
        let values = ticks(low, high, wanted);
        let step = match values[..] {
            [a, b, ..] => b - a,
            _ => high - low,
        };
        Axis {
            low,
            high,
            ticks: values.iter().map(|&v| (v, tick_label(v, step))).collect(),
            title: title.into(),
        }
    }

    /// An axis from zero that ends at or a little above `high`, on a tick.
    pub fn from_zero(high: f64, wanted: usize, title: impl Into<String>) -> Axis {
        let high = if high > 0.0 && high.is_finite() {
            high
        } else {
            1.0
        };
        let step = round_step(high / wanted.max(1) as f64);
        let end = (high / step - 1e-9).ceil() * step;
        Axis::exact(0.0, end, wanted, title)
    }
}

impl Axis {
    /// A logarithmic axis over about `low..=high`: its places are the log10 of the values, and
    /// its ticks say the values themselves.
    pub fn log10(low: f64, high: f64, title: impl Into<String>) -> Axis {
        let sane = |value: f64| match value.is_finite() {
            true => value.clamp(1e-9, 1e12),
            false => 1.0,
        };
        let low = sane(low).log10();
        let high = sane(high).log10().max(low + 0.1);
        let factors: &[f64] = match high - low > 2.5 {
            true => &[1.0],
            false => &[1.0, 2.0, 5.0],
        };
        let powers = low.floor() as i32..=high.ceil() as i32;
        let values = powers.flat_map(|power| factors.iter().map(move |f| f * 10f64.powi(power)));
        let ticks = values
            .map(|value| (value.log10(), tick_label(value, value)))
            .filter(|(place, _)| (low - 1e-9..=high + 1e-9).contains(place))
            .collect();
        Axis {
            low,
            high,
            ticks,
            title: title.into(),
        }
    }

    /// Drops ticks until the labels of the others fit side by side into `room`.
    pub fn thinned(mut self, room: f64) -> Axis {
        let widest = self.ticks.iter().map(|(_, text)| text_width(text, SMALL));
        let needed = widest.fold(0.0, f64::max) + 14.0;
        let fits = |ticks: &[(f64, String)]| {
            let scale = room / (self.high - self.low);
            let apart = |pair: &[(f64, String)]| (pair[1].0 - pair[0].0) * scale >= needed;
            ticks.windows(2).all(apart)
        };
        while !fits(&self.ticks) {
            let every_second = |(place, tick)| (place % 2 == 0).then_some(tick);
            let ticks = std::mem::take(&mut self.ticks);
            self.ticks = ticks
                .into_iter()
                .enumerate()
                .filter_map(every_second)
                .collect();
        }
        self
    }
}

/// A plotting area with its scales. Made by [`Frame::draw`], which also draws the axes.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Left edge, drawing units.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Lower edge.
    pub bottom: f64,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
}

/// Height that a row of tick labels and an axis title take below a plotting area.
pub const BELOW: f64 = 84.0;

impl Frame {
    /// Draws grid lines, tick labels and titles from `top` down to the canvas' lower margin,
    /// and returns the area inside. `strip` is room kept free below the vertical axis' title,
    /// `right` room kept free at the right.
    pub fn draw(
        canvas: &mut Canvas,
        top: f64,
        (strip, right): (f64, f64),
        x: Axis,
        y: Axis,
    ) -> Frame {
        let bottom = canvas.height() - MARGIN / 2.0;
        Frame::between(canvas, (top, bottom), (strip, right), x, y)
    }

    /// As [`Frame::draw`], down to `bottom` only: one of several above each other. The vertical
    /// axis' title stands level above its axis, where it reads without turning the head.
    pub fn between(
        canvas: &mut Canvas,
        (top, bottom): (f64, f64),
        (strip, right): (f64, f64),
        x: Axis,
        y: Axis,
    ) -> Frame {
        let labels = y.ticks.iter().map(|(_, t)| text_width(t, SMALL));
        let left = MARGIN + labels.fold(0.0, f64::max) + 12.0;
        let right = canvas.width() - MARGIN - right;
        let frame = Frame {
            left,
            top: top + 46.0 + strip,
            right,
            bottom: bottom - BELOW,
            x: x.thinned(right - left),
            y,
        };
        canvas.text(
            (MARGIN, top + 20.0),
            frame.y.title.clone(),
            SMALL,
            MUTED,
            Anchor::Start,
        );
        for (value, label) in &frame.y.ticks {
            let y = frame.py(*value);
            canvas.line((frame.left, y), (frame.right, y), GRID, 1.5);
            canvas.text_beside(
                (frame.left - 12.0, y),
                label.clone(),
                SMALL,
                MUTED,
                Anchor::End,
            );
        }
        frame.draw_x(canvas);
        frame
    }

    fn draw_x(&self, canvas: &mut Canvas) {
        canvas.line(
            (self.left, self.bottom),
            (self.right, self.bottom),
            AXIS,
            2.0,
        );
        for (value, label) in &self.x.ticks {
            let x = self.px(*value);
            canvas.line((x, self.bottom), (x, self.bottom + 8.0), AXIS, 2.0);
            // A label at the very end moves in rather than off the canvas.
            let furthest = canvas.width() - 4.0 - text_width(label, SMALL) / 2.0;
            canvas.text(
                (x.min(furthest), self.bottom + 34.0),
                label.clone(),
                SMALL,
                MUTED,
                Anchor::Middle,
            );
        }
        canvas.text(
            (f64::midpoint(self.left, self.right), self.bottom + 70.0),
            self.x.title.clone(),
            SMALL,
            MUTED,
            Anchor::Middle,
        );
    }

    /// Horizontal place of a value.
    pub fn px(&self, value: f64) -> f64 {
        let share = (value - self.x.low) / (self.x.high - self.x.low);
        self.left + share * (self.right - self.left)
    }

    /// Vertical place of a value.
    pub fn py(&self, value: f64) -> f64 {
        let share = (value - self.y.low) / (self.y.high - self.y.low);
        self.bottom - share * (self.bottom - self.top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 2.3, 5), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(
            ticks(0.0, 350.0, 5),
            [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0]
        );
        assert_eq!(Axis::from_zero(2.3, 5, "").high, 2.5);
        assert_eq!(tick_label(0.25, 0.05), "0.25");
        assert_eq!(tick_label(12000.0, 2000.0), "12,000");
    }

    #[test]
    fn logarithmic_ticks_say_the_values() {
        let texts = |axis: Axis| -> Vec<String> { axis.ticks.into_iter().map(|t| t.1).collect() };
        let wide = Axis::log10(0.001, 100.0, "");
        assert_eq!(wide.ticks[3].0, 0.0);
        assert_eq!(texts(wide), ["0.001", "0.01", "0.1", "1", "10", "100"]);
        let narrow = Axis::log10(900.0, 10_000.0, "");
        assert_eq!(texts(narrow), ["1,000", "2,000", "5,000", "10,000"]);
    }

    #[test]
    fn odd_ranges_do_not_loop_or_panic() {
        for high in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-12] {
            let axis = Axis::from_zero(high, 5, "");
            assert!(axis.ticks.len() < 100);
            let axis = Axis::log10(high, high, "");
            assert!(axis.ticks.len() < 100 && axis.high > axis.low);
            assert!(Axis::log10(high, 10.0, "").ticks.len() < 100);
        }
    }
}
