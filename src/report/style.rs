//! One visual language for every figure: colours, type sizes, and [`draw`], which renders the
//! same drawing to SVG and PNG.
//!
//! Figures are 1200 units wide with 28-unit text, so that they stay legible printed at half a
//! column's width. The background is always light; a dark page puts a light panel behind it.

use std::path::Path;
use std::sync::Once;

use plotters::style::{FontStyle, RGBColor, register_font};

use super::canvas::Canvas;
use crate::error::{Error, Result};

pub type Color = RGBColor;

/// Width of every figure, in drawing units (one pixel of the PNG each).
pub const WIDTH: f64 = 1200.0;
/// Empty border around the drawing.
pub const MARGIN: f64 = 28.0;

pub const PAPER: Color = RGBColor(255, 255, 255);
pub const INK: Color = RGBColor(26, 26, 26);
/// Secondary text: subtitles, tick labels.
pub const MUTED: Color = RGBColor(89, 89, 89);
pub const GRID: Color = RGBColor(226, 226, 226);
pub const AXIS: Color = RGBColor(140, 140, 140);

// Okabe and Ito's palette, which people with any common colour blindness can tell apart.
pub const GREY: Color = RGBColor(140, 140, 140);
pub const BLUE: Color = RGBColor(0, 114, 178);
pub const ORANGE: Color = RGBColor(230, 159, 0);
pub const GREEN: Color = RGBColor(0, 158, 115);
pub const VERMILLION: Color = RGBColor(213, 94, 0);
pub const SKY: Color = RGBColor(86, 180, 233);
pub const PURPLE: Color = RGBColor(204, 121, 167);
pub const YELLOW: Color = RGBColor(240, 228, 66);

/// What the schedule diagram's areas mean, wherever they are drawn.
pub const USEFUL: Color = GREEN;
pub const REDUNDANT: Color = RGBColor(205, 205, 205);
pub const FAILED: Color = VERMILLION;

/// The colour of the arm at `place` in the experiment: the same in every figure. The first
/// arm, the one the others are compared with, is grey.
pub fn arm_color(place: usize) -> Color {
    const ORDER: [Color; 8] = [GREY, BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, YELLOW];
    match place {
        0 => ORDER[0],
        // Grey is not used twice.
        n => ORDER[1 + (n - 1) % (ORDER.len() - 1)],
    }
}

/// A type size (em, in drawing units) and weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Font {
    pub size: f64,
    pub bold: bool,
}

pub const TITLE: Font = Font {
    size: 34.0,
    bold: true,
};
pub const STRONG: Font = Font {
    size: 28.0,
    bold: true,
};
pub const BODY: Font = Font {
    size: 28.0,
    bold: false,
};
pub const SMALL: Font = Font {
    size: 25.0,
    bold: false,
};

/// The family as SVG names it. Bitmaps use the DejaVu Sans linked into the program; viewers
/// without it fall back to Verdana, which has nearly the same widths, so labels still fit.
pub const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// Hands the embedded fonts to the drawing library, once for the process.
pub(crate) fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (style, bytes) in [
            (FontStyle::Normal, dejavu::sans::regular()),
            (FontStyle::Bold, dejavu::sans::bold()),
        ] {
            if register_font(FAMILY, style, bytes).is_err() {
                // The bytes are compiled in: this cannot fail on one machine only.
                unreachable!("the embedded DejaVu font does not parse");
            }
        }
    });
}

/// Runs `drawing` once and writes what it drew to `<stem>.svg` and `<stem>.png`.
pub fn draw(
    stem: &Path,
    (width, height): (f64, f64),
    drawing: impl FnOnce(&mut Canvas),
) -> Result<()> {
    let mut canvas = Canvas::new(width, height);
    drawing(&mut canvas);
    canvas.save(stem)
}

/// A figure of nothing is a mistake of the caller; it is told rather than drawn empty.
pub(crate) fn need_data(present: bool, figure: &str) -> Result<()> {
    if present {
        Ok(())
    } else {
        Err(Error::Usage(format!("{figure}: there is nothing to draw")))
    }
}
