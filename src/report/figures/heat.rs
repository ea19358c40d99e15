//! What policies gain over regimes: a panel an engine, a row a policy and predictor, a column a
//! load.

use std::path::Path;

use super::NameColumn;
use crate::error::Result;
use crate::report::canvas::{Anchor, Canvas};
use crate::report::style::{
    BLUE, BODY, GREY, INK, MARGIN, MUTED, PAPER, SMALL, STRONG, VERMILLION, WIDTH, draw, need_data,
};

const ROW: f64 = 46.0;
const GAP: f64 = 56.0;

/// A cell: what was gained, percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// What was gained, percent; negative for a loss.
    pub gain_pct: f64,
    /// Whether requests had to wait at all, and whether the interval excludes no gain.
    pub queue_formed: bool,
    /// See `queue_formed`.
    pub sure: bool,
}

/// A panel: rows of cells, one a column; none where nothing was run.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above its rows.
    pub title: String,
    /// Names, and a cell a column.
    pub rows: Vec<(String, Vec<Option<Cell>>)>,
}

/// Panels over the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    /// Above the figure.
    pub title: String,
    /// Below its title.
    pub subtitle: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// From the top down.
    pub panels: Vec<Panel>,
}

/// Draws the panels below each other. Blue is a gain, vermillion a loss; full colour from 50 %
/// on; grey where no queue formed.
///
/// # Errors
/// Nothing to draw, or files that cannot be written.
pub fn heat_map(stem: &Path, map: &HeatMap) -> Result<()> {
    let rows: usize = map.panels.iter().map(|p| p.rows.len()).sum();
    need_data(rows > 0 && !map.columns.is_empty(), &map.title)?;
    let height = 210.0 + GAP * map.panels.len() as f64 + ROW * rows as f64;
    draw(stem, (WIDTH, height), |canvas| plot(canvas, map))
}

pub(super) fn plot(canvas: &mut Canvas, map: &HeatMap) {
    canvas.keep_light();
    canvas.columns(["panel", "row", "column", "gain_pct", "queue_formed", "sure"]);
    let mut y = canvas.header(&map.title, &map.subtitle) + 12.0;
    let names = map.panels.iter().flat_map(|p| p.rows.iter());
    let names = NameColumn::of(names.map(|row| row.0.as_str()));
    let width = (WIDTH - MARGIN - names.end()) / map.columns.len().max(1) as f64;
    let left = |column: usize| names.end() + width * column as f64;
    for (place, column) in map.columns.iter().enumerate() {
        let at = (left(place) + width / 2.0, y);
        canvas.text_beside(at, column.clone(), SMALL, MUTED, Anchor::Middle);
    }
    for panel in &map.panels {
        y += GAP;
        let at = (MARGIN, y - 22.0);
        canvas.text_beside(at, panel.title.clone(), STRONG, INK, Anchor::Start);
        for (name, cells) in &panel.rows {
            names.draw(canvas, y + ROW / 2.0, name);
            for (place, cell) in cells.iter().enumerate() {
                let Some(cell) = cell else { continue };
                let column = &map.columns[place];
                let yes = |is: bool| if is { "yes" } else { "no" };
                canvas.row([
                    (&panel.title).into(),
                    name.into(),
                    column.into(),
                    cell.gain_pct.into(),
                    yes(cell.queue_formed).into(),
                    yes(cell.sure).into(),
                ]);
                let (from, to) = (
                    (left(place) + 2.0, y + 2.0),
                    (left(place) + width - 2.0, y + ROW - 2.0),
                );
                let strength = (cell.gain_pct.abs() / 50.0).clamp(0.0, 1.0);
                let (color, alpha) = match (cell.queue_formed, cell.gain_pct >= 0.0) {
                    (false, _) => (GREY, 0.15),
                    (true, true) => (BLUE, 0.08 + 0.92 * strength),
                    (true, false) => (VERMILLION, 0.08 + 0.92 * strength),
                };
                canvas.rect(from, to, color, alpha);
                let doubt = match (cell.queue_formed, cell.sure) {
                    (false, _) => "no queue formed",
                    (true, true) => "the interval excludes none",
                    (true, false) => "the interval includes none",
                };
                canvas.mark(
                    [from.0, from.1, to.0, to.1],
                    format!(
                        "{name}\n{}, {column}\n{} %, {doubt}",
                        panel.title,
                        percent(cell.gain_pct)
                    ),
                );
                let ink = match cell.queue_formed && strength > 0.55 {
                    true => PAPER,
                    false => INK,
                };
                let font = if cell.sure { STRONG } else { BODY };
                let middle = (f64::midpoint(from.0, to.0), f64::midpoint(from.1, to.1));
                let said = percent(cell.gain_pct);
                canvas.text_beside(middle, said, font, ink, Anchor::Middle);
            }
            y += ROW;
        }
    }
}

/// A gain as cells say it: signed, without its unit, with a decimal where it is small.
fn percent(gain_pct: f64) -> String {
    // Without a sign of its own where it is nought.
    let gain_pct = if gain_pct.abs() < 0.05 { 0.0 } else { gain_pct };
    let said = match gain_pct.abs() < 9.95 {
        true => format!("{gain_pct:+.1}"),
        false => format!("{gain_pct:+.0}"),
    };
    said.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn cells_are_signed_and_short() {
        let said = [-0.04, -2.44, 9.96, 49.4, -732.4].map(percent);
        assert_eq!(said, ["+0.0", "−2.4", "+10", "+49", "−732"]);
    }
}
