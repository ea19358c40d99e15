//! Staged scheduling: micro-batches of requests that are expected to end at about the same
//! time are stopped when half of their members are, and all that go on are pooled, sorted by
//! what is left of them, and continued from their keys and values in new micro-batches, again
//! and again. Nothing is computed twice, and few finished rows are carried along.

use super::{Forecast, MicroBatch, ScheduleOptions, rounds::Waiting};

/// Cuts everything that waits into micro-batches.
pub(super) fn round(
    waiting: &[Waiting],
    forecasts: &[Forecast],
    options: &ScheduleOptions,
) -> Vec<MicroBatch> {
    let mut sorted: Vec<(f64, Waiting)> = waiting
        .iter()
        .map(|w| {
            let left = forecasts[w.request].remaining(w.done, options.stage_level);
            (left, *w)
        })
        .collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut batches = Vec::new();
    let mut rest = &sorted[..];
    while !rest.is_empty() {
        let rows =
            options.rows_that_fit(rest.iter().map(|(left, w)| {
                forecasts[w.request].prompt_tokens + w.done + left.ceil() as usize
            }));
        let (batch, others) = rest.split_at(rows);
        rest = others;
        let middle = batch[batch.len() / 2].0.ceil() as usize;
        // What has begun was longer than foreseen: it is looked after more often.
        let begun = batch.iter().all(|(_, w)| w.done > 0);
        let steps = match begun {
            true => middle.min(options.stage_steps),
            false => middle,
        };
        let held = |w: &Waiting| forecasts[w.request].prompt_tokens + w.done;
        let room = options.steps_that_fit(batch.len(), batch.iter().map(|(_, w)| held(w)).sum());
        batches.push(MicroBatch {
            members: batch.iter().map(|(_, w)| w.request).collect(),
            cap: steps.min(room).clamp(1, options.max_new_tokens.max(1)),
            keeps: true,
        });
    }
    batches
}
