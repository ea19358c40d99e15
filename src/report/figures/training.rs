//! The course of a training run.

use std::path::Path;

use crate::error::Result;
use crate::report::axes::{Axis, Frame};
use crate::report::canvas::{Anchor, Canvas, text_width};
use crate::report::style::{BLUE, BODY, ORANGE, SKY, WIDTH, draw, need_data};
use crate::report::wording::number;

/// Training loss by optimizer step, and validation loss where it was measured.
pub fn loss_curve(stem: &Path, points: &[(u64, f64)], validation: &[(u64, f64)]) -> Result<()> {
    let finite = |list: &[(u64, f64)]| list.iter().any(|p| p.1.is_finite());
    need_data(finite(points) || finite(validation), "loss curve")?;
    draw(stem, (WIDTH, 680.0), |canvas| {
        loss(canvas, points, validation);
    })
}

pub(super) fn loss(canvas: &mut Canvas, points: &[(u64, f64)], validation: &[(u64, f64)]) {
    let smooth = smoothed(points);
    let subtitle = match smooth.is_some() {
        true => "Thin: each step. Thick: moving average over a twentieth of the run",
        false => "",
    };
    let top = canvas.header("Training and validation loss", subtitle);
    let all = || points.iter().chain(validation).filter(|p| p.1.is_finite());
    let last = all().map(|p| p.0).max().unwrap_or(1) as f64;
    let low = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = high_of(points, validation, low);
    let label = |name: &str, list: &[(u64, f64)]| {
        let last = list.iter().rev().find(|p| p.1.is_finite())?;
        Some((last.1, format!("{name} {}", number(last.1))))
    };
    let training = smooth.as_deref().unwrap_or(points);
    let mut labels: Vec<_> = [
        (label("training", training), BLUE),
        (label("validation", validation), ORANGE),
    ]
    .into_iter()
    .filter_map(|(label, color)| label.map(|(value, text)| (value, text, color)))
    .collect();
    let room = labels
        .iter()
        .map(|l| text_width(&l.1, BODY))
        .fold(0.0, f64::max)
        + 20.0;
    // Losses near zero get an axis from zero; others are cut to their own range.
    let y = match low < 0.35 * high {
        true => Axis::from_zero(high, 5, "loss"),
        false => {
            let pad = 0.06 * (high - low).max(1e-9);
            Axis::exact(low - pad, high + pad, 5, "loss")
        }
    };
    let frame = Frame::draw(
        canvas,
        top,
        (0.0, room),
        Axis::exact(0.0, last, 6, "optimizer step"),
        y,
    );
    let place = |list: &[(u64, f64)]| -> Vec<(f64, f64)> {
        list.iter()
            .filter(|p| p.1.is_finite())
            .map(|p| (frame.px(p.0 as f64), frame.py(p.1).max(frame.top)))
            .collect()
    };
    if smooth.is_some() {
        canvas.polyline(place(points), SKY, 0.7, 1.5);
    }
    canvas.polyline(place(training), BLUE, 1.0, 4.0);
    let measured = place(validation);
    canvas.polyline(measured.clone(), ORANGE, 1.0, 4.0);
    for at in measured {
        canvas.dot(at, 6.0, ORANGE, 1.0);
    }
    canvas.columns(["step", "series", "loss"]);
    for (series, list) in [("training", points), ("validation", validation)] {
        for (step, loss) in list {
            canvas.row([(*step).into(), series.into(), (*loss).into()]);
        }
    }
    for (step, loss) in validation.iter().filter(|p| p.1.is_finite()) {
        let (x, y) = (frame.px(*step as f64), frame.py(*loss).max(frame.top));
        canvas.mark(
            [x - 12.0, y - 12.0, x + 12.0, y + 12.0],
            format!("step {step}\nvalidation loss {}", number(*loss)),
        );
    }
    // Labels at the ends of their lines, pushed apart where the lines end together.
    labels.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut free = frame.top;
    let mut left = labels.len() as f64;
    for (value, text, color) in labels {
        left -= 1.0;
        let lowest = frame.bottom - 36.0 * left - 14.0;
        let y = frame.py(value).max(free + 14.0).min(lowest);
        free = y + 20.0;
        canvas.text_beside((frame.right + 16.0, y), text, BODY, color, Anchor::Start);
    }
}

/// The top of the axis: the first steps of a run may tower over all others, and an axis made
/// for them would flatten the rest.
fn high_of(points: &[(u64, f64)], validation: &[(u64, f64)], low: f64) -> f64 {
    let mut values: Vec<f64> = points
        .iter()
        .map(|p| p.1)
        .filter(|v| v.is_finite())
        .collect();
    values.sort_by(f64::total_cmp);
    let most = match values.len() {
        0 => low,
        n if n < 50 => values[n - 1],
        n => {
            let usual = values[(n - 1) * 98 / 100];
            values[n - 1].min(usual + 0.5 * (usual - values[0]))
        }
    };
    let measured = validation.iter().map(|p| p.1).filter(|v| v.is_finite());
    measured.fold(most, f64::max).max(low + 1e-6)
}

/// The moving average of a noisy curve, `None` for one too short to need it.
fn smoothed(points: &[(u64, f64)]) -> Option<Vec<(u64, f64)>> {
    if points.len() < 50 {
        return None;
    }
    let window = points.len() / 20;
    let averaged = (0..points.len()).map(|at| {
        let from = at.saturating_sub(window / 2);
        let to = (at + window / 2 + 1).min(points.len());
        let kept: Vec<f64> = points[from..to]
            .iter()
            .map(|p| p.1)
            .filter(|v| v.is_finite())
            .collect();
        let mean = kept.iter().sum::<f64>() / kept.len() as f64;
        (points[at].0, mean)
    });
    Some(averaged.collect())
}
