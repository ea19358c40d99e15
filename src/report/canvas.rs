//! The display list that figures are drawn on, and its two renderings.
//!
//! A figure is drawn once, in floating point units, and rendered twice. Keeping the list has
//! three uses: both files show the same thing, text can be measured before it is placed, and
//! tests can check that no label overlaps another or leaves the canvas.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontDesc, FontFamily, FontStyle, RGBAColor};

use super::style::{self, Color, FAMILY, Font, INK, MARGIN, MUTED, PAPER, SMALL, TITLE};
use crate::error::{Error, Result};
use crate::persist::{self, aside, persist};

/// Backends take whole pixels only: both draw this many to a unit. The bitmap is averaged
/// down again, which smooths its edges; the SVG scales by its view box.
const SCALE: f64 = 2.0;

/// DejaVu Sans: ascender to descender in em. The bitmap text renderer takes sizes as this
/// height, the SVG one as 1.24 em.
const BITMAP_HEIGHT_PER_EM: f64 = 1.164;
const SVG_HEIGHT_PER_EM: f64 = 1.24;

/// Which end of a text its position names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Debug, Clone)]
struct Text {
    x: f64,
    baseline: f64,
    text: String,
    font: Font,
    color: Color,
    anchor: Anchor,
}

#[derive(Debug, Clone)]
enum Shape {
    Rect([f64; 4], RGBAColor),
    Polygon(Vec<(f64, f64)>, RGBAColor),
    Polyline(Vec<(f64, f64)>, RGBAColor, f64),
    Dot((f64, f64), f64, RGBAColor),
    Text(Text),
}

/// What a figure is drawn on. Units run right and down from the upper left corner.
#[derive(Debug, Clone)]
pub struct Canvas {
    width: f64,
    height: f64,
    title: String,
    shapes: Vec<Shape>,
}

impl Canvas {
    pub fn new(width: f64, height: f64) -> Self {
        style::register_fonts();
        Canvas {
            width,
            height,
            title: String::new(),
            shapes: Vec::new(),
        }
    }

    pub fn width(&self) -> f64 {
        self.width
    }

    pub fn height(&self) -> f64 {
        self.height
    }

    /// Ends the canvas at this height, where what was drawn turned out shorter than planned.
    pub fn end_at(&mut self, height: f64) {
        self.height = height.ceil();
    }

    /// A filled rectangle between two corners.
    pub fn rect(&mut self, from: (f64, f64), to: (f64, f64), color: Color, alpha: f64) {
        let sides = [
            from.0.min(to.0),
            from.1.min(to.1),
            from.0.max(to.0),
            from.1.max(to.1),
        ];
        self.shapes.push(Shape::Rect(sides, color.mix(alpha)));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), color: Color, width: f64) {
        self.polyline(vec![from, to], color, 1.0, width);
    }

    pub fn polyline(&mut self, points: Vec<(f64, f64)>, color: Color, alpha: f64, width: f64) {
        self.shapes
            .push(Shape::Polyline(points, color.mix(alpha), width));
    }

    pub fn dashed(&mut self, from: (f64, f64), to: (f64, f64), color: Color, width: f64) {
        let (dash, gap) = (10.0, 7.0);
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let at = |d: f64| {
            let share = (d / length).min(1.0);
            (
                from.0 + (to.0 - from.0) * share,
                from.1 + (to.1 - from.1) * share,
            )
        };
        let mut done = 0.0;
        while done < length {
            self.line(at(done), at(done + dash), color, width);
            done += dash + gap;
        }
    }

    pub fn polygon(&mut self, points: Vec<(f64, f64)>, color: Color, alpha: f64) {
        self.shapes.push(Shape::Polygon(points, color.mix(alpha)));
    }

    pub fn dot(&mut self, center: (f64, f64), radius: f64, color: Color, alpha: f64) {
        self.shapes
            .push(Shape::Dot(center, radius, color.mix(alpha)));
    }

    /// One line of text; `baseline` is where its letters stand.
    pub fn text(
        &mut self,
        (x, baseline): (f64, f64),
        text: impl Into<String>,
        font: Font,
        color: Color,
        anchor: Anchor,
    ) {
        self.shapes.push(Shape::Text(Text {
            x,
            baseline,
            text: text.into(),
            font,
            color,
            anchor,
        }));
    }

    /// Text whose capitals are centred on the height `y`.
    pub fn text_beside(
        &mut self,
        (x, y): (f64, f64),
        text: impl Into<String>,
        font: Font,
        color: Color,
        anchor: Anchor,
    ) {
        // DejaVu's capitals and digits are 0.73 em high.
        self.text((x, y + 0.365 * font.size), text, font, color, anchor);
    }

    /// The figure's title and, below it, what the title does not say; both wrap. Returns the
    /// height at which the rest may begin.
    pub fn header(&mut self, title: &str, subtitle: &str) -> f64 {
        self.title = title.to_string();
        let room = self.width - 2.0 * MARGIN;
        let mut y = MARGIN;
        for (text, font, color) in [(title, TITLE, INK), (subtitle, SMALL, MUTED)] {
            for line in wrap(text, font, room) {
                y += font.size * 1.25;
                self.text(
                    (MARGIN, y - 0.2 * font.size),
                    line,
                    font,
                    color,
                    Anchor::Start,
                );
            }
            y += 4.0;
        }
        y + 14.0
    }

    /// A row of coloured squares with their meanings. Returns the height below it.
    pub fn legend(&mut self, top: f64, entries: &[(Color, &str)]) -> f64 {
        let (mut x, mut y) = (MARGIN, top);
        for (color, meaning) in entries {
            let needed = 34.0 + text_width(meaning, SMALL);
            if x > MARGIN && x + needed > self.width - MARGIN {
                x = MARGIN;
                y += 36.0;
            }
            self.rect((x, y + 2.0), (x + 24.0, y + 26.0), *color, 1.0);
            self.text_beside((x + 34.0, y + 14.0), *meaning, SMALL, INK, Anchor::Start);
            x += needed + 36.0;
        }
        y + 44.0
    }

    /// Writes `<stem>.svg` and `<stem>.png`.
    pub fn save(&self, stem: &Path) -> Result<()> {
        persist::write(&stem.with_extension("svg"), self.to_svg()?.as_bytes())?;
        let path = stem.with_extension("png");
        let file = aside(&path, ".png")?;
        let (width, height) = (self.width.round() as u32, self.height.round() as u32);
        let pixels = self.to_pixels(width, height)?;
        let mut backend = BitMapBackend::new(file.path(), (width, height));
        backend
            .blit_bitmap((0, 0), (width, height), &pixels)
            .and_then(|()| backend.present())
            .map_err(|e| Error::io(&path, std::io::Error::other(e.to_string())))?;
        drop(backend);
        persist(file, &path)
    }

    /// The drawing as an SVG document.
    pub fn to_svg(&self) -> Result<String> {
        let mut document = String::new();
        let (width, height) = (self.width.round() as u32, self.height.round() as u32);
        let fine = (width * SCALE as u32, height * SCALE as u32);
        let mut backend = SVGBackend::with_string(&mut document, fine);
        self.render(&mut backend, Medium::Svg)?;
        drawn(backend.present())?;
        drop(backend);
        // The backend writes its pixels as the size; ours is the size in units.
        let Some(end) = document.find('>') else {
            return Err(Error::Numeric("the figure came out empty".into()));
        };
        let label = self
            .title
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('"', "&quot;");
        document.replace_range(
            ..=end,
            &format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
                 viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{label}\" \
                 stroke-linejoin=\"round\">",
                fine.0, fine.1
            ),
        );
        Ok(document)
    }

    /// The drawing as RGB bytes, row by row: drawn `SCALE` times as large, then averaged.
    fn to_pixels(&self, width: u32, height: u32) -> Result<Vec<u8>> {
        let factor = SCALE as usize;
        let (width, height) = (width as usize, height as usize);
        let stride = width * factor * 3;
        let mut fine = vec![255u8; stride * height * factor];
        {
            let size = ((width * factor) as u32, (height * factor) as u32);
            let mut backend = BitMapBackend::with_buffer(&mut fine, size);
            self.render(&mut backend, Medium::Bitmap)?;
            drawn(backend.present())?;
        }
        let mut pixels = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                for channel in 0..3 {
                    let mut sum = 0u32;
                    for dy in 0..factor {
                        let row = (y * factor + dy) * stride + x * factor * 3 + channel;
                        sum += (0..factor)
                            .map(|dx| u32::from(fine[row + dx * 3]))
                            .sum::<u32>();
                    }
                    let count = (factor * factor) as u32;
                    pixels.push(((sum + count / 2) / count) as u8);
                }
            }
        }
        Ok(pixels)
    }

    fn render<DB: DrawingBackend>(&self, backend: &mut DB, medium: Medium) -> Result<()> {
        drawn(backend.ensure_prepared())?;
        let whole = |v: f64| (v * SCALE).round() as i32;
        let point = |(x, y): (f64, f64)| (whole(x), whole(y));
        let far = point((self.width, self.height));
        drawn(backend.draw_rect((0, 0), far, &PAPER.to_rgba().filled(), true))?;
        for shape in &self.shapes {
            match shape {
                Shape::Rect([x0, y0, x1, y1], color) => {
                    let (from, mut to) = (point((*x0, *y0)), point((*x1, *y1)));
                    if let Medium::Bitmap = medium {
                        // The bitmap fills both end pixels; SVG fills between the edges.
                        to = ((to.0 - 1).max(from.0), (to.1 - 1).max(from.1));
                    }
                    drawn(backend.draw_rect(from, to, &color.filled(), true))?;
                }
                Shape::Polygon(points, color) => {
                    let points: Vec<_> = points.iter().map(|&p| point(p)).collect();
                    drawn(backend.fill_polygon(points, &color.filled()))?;
                }
                Shape::Polyline(points, color, width) => {
                    let points: Vec<_> = points.iter().map(|&p| point(p)).collect();
                    let stroke = color.stroke_width((width * SCALE).round().max(1.0) as u32);
                    match points[..] {
                        [from, to] => drawn(backend.draw_line(from, to, &stroke))?,
                        _ => drawn(backend.draw_path(points, &stroke))?,
                    }
                }
                Shape::Dot(center, radius, color) => {
                    let radius = (radius * SCALE).round().max(1.0) as u32;
                    drawn(backend.draw_circle(point(*center), radius, &color.filled(), true))?;
                }
                Shape::Text(text) => render_text(backend, medium, text)?,
            }
        }
        Ok(())
    }
}

/// A backend's answer as the library's.
fn drawn<E: std::fmt::Display>(answer: std::result::Result<(), E>) -> Result<()> {
    answer.map_err(|e| Error::Numeric(format!("the figure could not be drawn: {e}")))
}

#[derive(Clone, Copy)]
enum Medium {
    Svg,
    Bitmap,
}

/// The two text renderers place the same request differently; this makes the letters of both
/// stand on `baseline`, equally large.
fn render_text<DB: DrawingBackend>(backend: &mut DB, medium: Medium, text: &Text) -> Result<()> {
    let whole = |v: f64| (v * SCALE).round() as i32;
    let (height, top, x, anchor) = match medium {
        Medium::Svg => {
            let anchor = match text.anchor {
                Anchor::Start => HPos::Left,
                Anchor::Middle => HPos::Center,
                Anchor::End => HPos::Right,
            };
            // Its `dy` is 0.76 em below the top.
            (SVG_HEIGHT_PER_EM, 0.76 * text.font.size, text.x, anchor)
        }
        Medium::Bitmap => {
            let width = text_width(&text.text, text.font);
            let x = match text.anchor {
                Anchor::Start => text.x,
                Anchor::Middle => text.x - width / 2.0,
                Anchor::End => text.x - width,
            };
            // It puts the baseline at half the font's height below the top.
            let height = BITMAP_HEIGHT_PER_EM;
            (height, height * text.font.size / 2.0, x, HPos::Left)
        }
    };
    let style = font_desc(text.font, text.font.size * SCALE * height)
        .color(&text.color)
        .pos(Pos::new(anchor, VPos::Top));
    let at = (whole(x), whole(text.baseline - top));
    drawn(backend.draw_text(&text.text, &style, at))
}

fn font_desc(font: Font, size: f64) -> FontDesc<'static> {
    let weight = if font.bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    FontDesc::new(FontFamily::Name(FAMILY), size, weight)
}

/// Width of a line of text in drawing units.
pub fn text_width(text: &str, font: Font) -> f64 {
    style::register_fonts();
    // Measured large, since the library rounds to whole pixels.
    const EM: f64 = 1000.0;
    let measured = font_desc(font, EM * BITMAP_HEIGHT_PER_EM).layout_box(text);
    match measured {
        Ok(((x0, _), (x1, _))) => f64::from(x1 - x0) / EM * font.size,
        // Cannot happen with registered fonts; a wide guess keeps labels apart all the same.
        Err(_) => text.chars().count() as f64 * 0.7 * font.size,
    }
}

/// `text`, or as much of its two ends as fits into `room` with an ellipsis between them: arm
/// names tend to differ at the end.
pub fn shorten(text: &str, font: Font, room: f64) -> String {
    if text_width(text, font) <= room {
        return text.to_string();
    }
    let letters: Vec<char> = text.chars().collect();
    for kept in (1..letters.len()).rev() {
        let tail = kept / 2;
        let shortened: String = letters[..kept - tail]
            .iter()
            .chain(&['…'])
            .chain(&letters[letters.len() - tail..])
            .collect();
        if text_width(&shortened, font) <= room {
            return shortened;
        }
    }
    "…".into()
}

/// Breaks a text at spaces into lines that fit into `room`; a word too long is shortened.
pub fn wrap(text: &str, font: Font, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        if let Some(line) = lines.last_mut() {
            let longer = format!("{line} {word}");
            if text_width(&longer, font) <= room {
                *line = longer;
                continue;
            }
        }
        lines.push(shorten(word, font, room));
    }
    lines
}

#[cfg(test)]
impl Canvas {
    /// What is wrong with the placing of the texts: overlaps, and texts off the canvas.
    pub(crate) fn layout_faults(&self) -> Vec<String> {
        let boxes: Vec<(&str, [f64; 4])> = self
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Text(t) => {
                    let width = text_width(&t.text, t.font);
                    let left = match t.anchor {
                        Anchor::Start => t.x,
                        Anchor::Middle => t.x - width / 2.0,
                        Anchor::End => t.x - width,
                    };
                    let (up, down) = (0.73 * t.font.size, 0.2 * t.font.size);
                    let sides = [left, t.baseline - up, left + width, t.baseline + down];
                    Some((t.text.as_str(), sides))
                }
                _ => None,
            })
            .collect();
        let mut faults = Vec::new();
        for (place, (text, a)) in boxes.iter().enumerate() {
            if a[0] < 0.0 || a[1] < 0.0 || a[2] > self.width || a[3] > self.height {
                faults.push(format!("`{text}` leaves the canvas: {a:?}"));
            }
            for (other, b) in &boxes[..place] {
                if a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3] {
                    faults.push(format!("`{text}` overlaps `{other}`"));
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_measured_shortened_and_wrapped() {
        let font = style::BODY;
        assert!(text_width("mm", font) > text_width("ll", font));
        let short = shorten(
            "a very long name of an arm that goes on, resumed",
            font,
            300.0,
        );
        assert!(short.contains('…') && short.ends_with("resumed"), "{short}");
        assert!(text_width(&short, font) <= 300.0);
        let lines = wrap("one two three four five six", font, 160.0);
        assert!(lines.len() > 1);
        assert_eq!(lines.join(" "), "one two three four five six");
    }

    #[test]
    fn svg_escapes_text_and_carries_its_title() {
        let mut canvas = Canvas::new(400.0, 200.0);
        canvas.header("<script>alert(1)</script> & \"more\"", "");
        let svg = canvas.to_svg().unwrap();
        assert!(svg.starts_with("<svg xmlns"));
        assert!(!svg.contains("<script"));
        assert!(svg.contains("viewBox=\"0 0 800 400\""));
    }
}
