//! How far the step-time model agrees with what was measured.

use std::path::Path;

use crate::error::Result;
use crate::evaluate::summary::{ArmSummary, ExecutorSummary};
use crate::report::axes::{Axis, Frame};
use crate::report::canvas::{Anchor, Canvas, shorten};
use crate::report::style::{BLUE, BODY, INK, WIDTH, draw, need_data};
use crate::report::wording::{headline, share};

/// Replayed throughput against measured throughput, a dot an arm.
///
/// # Errors
/// No arm that was replayed, or files that cannot be written.
pub fn agreement(stem: &Path, arms: &[ArmSummary], executor: &ExecutorSummary) -> Result<()> {
    need_data(mean_difference(arms).is_some(), "agreement")?;
    draw(stem, (WIDTH, 900.0), |canvas| plot(canvas, arms, executor))
}

/// Mean over the replayed arms of |replayed - measured| / measured throughput.
pub fn mean_difference(arms: &[ArmSummary]) -> Option<f64> {
    let both: Vec<f64> = pairs(arms)
        .map(|(_, live, replayed)| (replayed - live).abs() / live)
        .filter(|d| d.is_finite())
        .collect();
    (!both.is_empty()).then(|| both.iter().sum::<f64>() / both.len() as f64)
}

fn pairs(arms: &[ArmSummary]) -> impl Iterator<Item = (&str, f64, f64)> {
    arms.iter().filter_map(|arm| {
        let replayed = arm.replayed_samples_per_s.as_ref()?.mean;
        Some((&*arm.name, arm.throughput_samples_per_s.mean, replayed))
    })
}

pub(super) fn plot(canvas: &mut Canvas, arms: &[ArmSummary], executor: &ExecutorSummary) {
    let difference = mean_difference(arms).unwrap_or(f64::NAN);
    let top = canvas.header(
        "Measured, and as the step-time model has it",
        &format!(
            "{}; mean difference {} of the measured throughput",
            headline(executor),
            share(difference)
        ),
    );
    let most = pairs(arms).map(|p| p.1.max(p.2)).fold(0.0, f64::max) * 1.04;
    let x = Axis::from_zero(most, 5, "measured samples/s");
    let y = Axis::from_zero(most, 5, "replayed samples/s");
    let end = x.high.min(y.high);
    let area = (top, canvas.height() - 14.0);
    let frame = Frame::between(canvas, area, (0.0, 40.0), x, y);
    let at = |x: f64, y: f64| (frame.px(x), frame.py(y));
    canvas.dashed(at(0.0, 0.0), at(end, end), INK, 2.0);
    for (name, live, replayed) in pairs(arms) {
        let place = at(live, replayed);
        canvas.dot(place, 8.0, BLUE, 1.0);
        let name = shorten(name, BODY, canvas.width() * 0.4);
        // Names of the faster half stand to the left, where there is room.
        let (side, anchor) = match live > most / 2.0 {
            true => (-16.0, Anchor::End),
            false => (16.0, Anchor::Start),
        };
        canvas.text_beside((place.0 + side, place.1), name, BODY, INK, anchor);
    }
}
