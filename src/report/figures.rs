//! The figures, a function each. Every one writes `<stem>.svg` and `<stem>.png` and says in
//! its subtitle what it was drawn from: data measured on a device, or simulated.

mod arms;
mod lengths;
mod predictors;
mod schedule;
mod temperatures;
mod training;

pub use arms::{effective_tokens_bars, throughput_bars};
pub use lengths::{length_histogram, length_spread};
pub use predictors::{PredictorRow, predicted_vs_true, predictor_bars};
pub use schedule::schedule_diagram;
pub use temperatures::lengths_by_temperature;
pub use training::loss_curve;

use super::canvas::{Anchor, Canvas, shorten, text_width};
use super::style::{BODY, Color, INK, MARGIN};

/// The column of names at the left of horizontal bars: wide enough for the longest, but never
/// more than two fifths of the figure.
pub(crate) struct NameColumn {
    width: f64,
}

impl NameColumn {
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a str>) -> NameColumn {
        let longest = names.map(|n| text_width(n, BODY)).fold(0.0, f64::max);
        NameColumn {
            width: longest.min(super::style::WIDTH * 0.4),
        }
    }

    /// Where the bars begin.
    pub(crate) fn end(&self) -> f64 {
        MARGIN + self.width + 18.0
    }

    pub(crate) fn draw(&self, canvas: &mut Canvas, y: f64, name: &str) {
        let name = shorten(name, BODY, self.width);
        let at = (self.end() - 18.0, y);
        canvas.text_beside(at, name, BODY, INK, Anchor::End);
    }
}

/// An interval across the end of a horizontal bar.
pub(crate) fn whisker(canvas: &mut Canvas, from: f64, to: f64, y: f64, cap: f64, color: Color) {
    canvas.line((from, y), (to, y), color, 3.0);
    for x in [from, to] {
        canvas.line((x, y - cap), (x, y + cap), color, 3.0);
    }
}

/// Every `n`-th of `items`, so that at most `most` are drawn, and that `n`.
pub(crate) fn thinned<T>(items: &[T], most: usize) -> (impl Iterator<Item = &T>, usize) {
    let step = items.len().div_ceil(most).max(1);
    (items.iter().step_by(step), step)
}

#[cfg(test)]
mod tests;
