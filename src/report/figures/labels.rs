//! Where a label finds room among points and lines.

use std::f64::consts::TAU;

use crate::report::canvas::{Anchor, Canvas, text_width};
use crate::report::style::{AXIS, Color, SMALL};

/// How far from its point a name may stand, and in how many directions it is tried.
const DISTANCES: [f64; 10] = [
    16.0, 24.0, 40.0, 64.0, 96.0, 140.0, 200.0, 260.0, 330.0, 400.0,
];
const DIRECTIONS: usize = 24;
/// From here on a line leads to it.
const FAR: f64 = 30.0;
/// Parts of a leading line, each taken by itself, and what crossing something costs a part: as
/// much as that many square units of a name covered.
const STEP: f64 = 8.0;
const CROSSED: f64 = 80.0;

/// Writes a name beside its point where it covers least of what is taken, with a line to it where
/// that is far; the place of both is taken then.
pub(super) fn name_point(
    canvas: &mut Canvas,
    point: (f64, f64),
    (name, color): (String, Color),
    inside: [f64; 4],
    taken: &mut Vec<[f64; 4]>,
) {
    let size = (text_width(&name, SMALL) + 4.0, 27.0);
    let (area, leader) = best_place(point, size, inside, taken);
    let middle = (
        f64::midpoint(area[0], area[2]),
        f64::midpoint(area[1], area[3]),
    );
    if let Some(to) = leader {
        canvas.line(point, to, AXIS, 1.5);
        taken.extend(along(point, to));
    }
    canvas.text_beside(middle, name, SMALL, color, Anchor::Middle);
    taken.push(area);
}

/// The place of least cost for a label of a size, and where a line to it would end if it is far.
fn best_place(
    (x, y): (f64, f64),
    (width, height): (f64, f64),
    inside: [f64; 4],
    taken: &[[f64; 4]],
) -> ([f64; 4], Option<(f64, f64)>) {
    let covered = |area: &[f64; 4]| taken.iter().map(|b| shared(area, b)).sum::<f64>();
    let mut best = ([0.0; 4], None);
    let mut least = f64::INFINITY;
    for distance in DISTANCES {
        for direction in 0..DIRECTIONS {
            let (sin, cos) = (TAU * direction as f64 / DIRECTIONS as f64).sin_cos();
            // Its edge, not its middle, stands so far away.
            let (mx, my) = (
                x + cos * (distance + width / 2.0),
                y + sin * (distance + height / 2.0),
            );
            let area = [
                mx - width / 2.0,
                my - height / 2.0,
                mx + width / 2.0,
                my + height / 2.0,
            ];
            let end = (x.clamp(area[0], area[2]), y.clamp(area[1], area[3]));
            let leader = (distance > FAR).then_some(end);
            let crossed: usize = leader.map_or(0, |end| {
                let parts = along((x, y), end);
                parts.filter(|part| covered(part) > 0.0).count()
            });
            let outside = width * height - shared(&area, &inside);
            // Of two that are as good the nearer one.
            let cost =
                covered(&area) + 4.0 * outside.max(0.0) + CROSSED * crossed as f64 + distance;
            if cost < least {
                (best, least) = ((area, leader), cost);
            }
        }
    }
    best
}

/// The area that two rectangles share.
fn shared(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let wide = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let high = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    wide * high
}

/// A line as small areas, but for its first part, which lies on its own point.
fn along(from: (f64, f64), to: (f64, f64)) -> impl Iterator<Item = [f64; 4]> {
    let length = (to.0 - from.0).hypot(to.1 - from.1).max(1e-9);
    let parts = (length / STEP) as usize;
    (2..=parts).map(move |part| {
        let share = part as f64 * STEP / length;
        let (x, y) = (
            from.0 + share * (to.0 - from.0),
            from.1 + share * (to.1 - from.1),
        );
        [x - 2.0, y - 2.0, x + 2.0, y + 2.0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::style::INK;

    #[test]
    fn names_of_a_crowd_stand_apart() {
        let mut canvas = Canvas::new(1200.0, 700.0);
        let inside = [80.0, 40.0, 900.0, 650.0];
        // As predictors of like cost and accuracy stand: within some pixels of each other.
        let points: Vec<(f64, f64)> = (0..12)
            .map(|n| {
                (
                    780.0 + 9.0 * f64::from(n % 4),
                    250.0 + 14.0 * f64::from(n / 4),
                )
            })
            .collect();
        let mut taken: Vec<[f64; 4]> = points
            .iter()
            .map(|(x, y)| [x - 12.0, y - 12.0, x + 12.0, y + 12.0])
            .collect();
        for (n, point) in points.iter().enumerate() {
            let name = format!("predictor number {n}");
            name_point(&mut canvas, *point, (name, INK), inside, &mut taken);
        }
        assert_eq!(canvas.layout_faults(), Vec::<String>::new());
    }
}
