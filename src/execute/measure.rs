//! Measuring step times of the real model, to fit the step-time model of replays.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::model::ChatModel;
use crate::model::llama::{Chunk, Workspace};

use super::StepTimeModel;
use super::step_time::{
    FitError, PrefillObservation, StepObservation, fit, fit_prefill, held_out_error,
};

/// Steps timed at each position; the median counts.
const REPEATS: usize = 5;
/// Tokens of the prompt before the first measured position.
const PROMPT: usize = 16;

/// A fitted step-time model with what it was fitted on.
pub struct Profile {
    pub model: StepTimeModel,
    /// On every third observation, which the fit did not see.
    pub held_out: Option<FitError>,
    pub steps: Vec<StepObservation>,
}

/// Measures decode steps of each number of rows at positions up to `positions`, and prefills.
///
/// # Errors
/// Rows or positions of 0, or more positions than the model has.
pub fn measure(
    chat: &ChatModel,
    rows: &[usize],
    positions: usize,
    mut on_rows: impl FnMut(),
) -> Result<Profile> {
    if rows.is_empty() || rows.contains(&0) || positions <= PROMPT + REPEATS {
        return Err(Error::Usage(format!(
            "profiling needs rows of at least 1 and more than {} positions",
            PROMPT + REPEATS
        )));
    }
    let (mut steps, mut prefills) = (Vec::new(), Vec::new());
    for &rows in rows {
        measure_rows(chat, rows, positions, &mut steps, &mut prefills)?;
        on_rows();
    }
    let (fitted, held): (Vec<_>, Vec<_>) = steps
        .iter()
        .enumerate()
        .partition(|(index, _)| index % 3 != 2);
    let values = |of: Vec<(usize, &StepObservation)>| of.into_iter().map(|(_, s)| *s).collect();
    let (fitted, held): (Vec<StepObservation>, Vec<StepObservation>) =
        (values(fitted), values(held));
    let (t0, t1, t2) = fit(&fitted)?;
    let (p0, p1) = fit_prefill(&prefills)?;
    let model = StepTimeModel {
        name: format!("{} on {}", chat.name(), crate::provenance::processor()),
        source: format!(
            "measured by `lenaware profile` with {} threads, {}",
            chat.llama().team().threads(),
            jiff::Timestamp::now().strftime("%Y-%m-%d")
        ),
        t0,
        t1,
        t2,
        p0,
        p1,
    };
    Ok(Profile {
        held_out: held_out_error(&model, &held),
        model,
        steps,
    })
}

fn measure_rows(
    chat: &ChatModel,
    rows: usize,
    positions: usize,
    steps: &mut Vec<StepObservation>,
    prefills: &mut Vec<PrefillObservation>,
) -> Result<()> {
    let llama = chat.llama();
    let vocab = chat.config().vocab_size as u32;
    let mut cache = chat.llama().new_cache(rows, positions + 1)?;
    let mut workspace = Workspace::default();
    let filler = |slot: usize, i: usize| (slot * 7919 + i * 104_729 + 17) as u32 % vocab;
    // Positions are reached by prefills, which are observations themselves; the first pass
    // is not counted, since it touches fresh memory.
    let marks: Vec<usize> = (0..6)
        .map(|i| PROMPT + (positions - PROMPT - REPEATS) * i / 5)
        .collect();
    for (index, &mark) in marks.iter().enumerate() {
        let held = cache.tokens(0).len();
        let tokens: Vec<Vec<u32>> = (0..rows)
            .map(|slot| (held..mark).map(|i| filler(slot, i)).collect())
            .collect();
        let chunks: Vec<Chunk<'_>> = (0..rows)
            .filter(|slot| !tokens[*slot].is_empty())
            .map(|slot| Chunk {
                slot,
                tokens: &tokens[slot],
                logits: true,
            })
            .collect();
        let count: usize = chunks.iter().map(|c| c.tokens.len()).sum();
        let begun = Instant::now();
        if !chunks.is_empty() {
            llama.forward(&chunks, &mut cache, &mut workspace, None)?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        if index > 0 && count > 0 {
            prefills.push(PrefillObservation {
                tokens: count,
                seconds,
            });
        }
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let next: Vec<[u32; 1]> = (0..rows).map(|slot| [filler(slot, mark)]).collect();
            let chunks: Vec<Chunk<'_>> = next
                .iter()
                .enumerate()
                .map(|(slot, tokens)| Chunk {
                    slot,
                    tokens,
                    logits: true,
                })
                .collect();
            let begun = Instant::now();
            llama.forward(&chunks, &mut cache, &mut workspace, None)?;
            times.push(begun.elapsed().as_secs_f64());
            for slot in 0..rows {
                cache.truncate(slot, mark);
            }
        }
        times.sort_by(f64::total_cmp);
        steps.push(StepObservation {
            rows,
            context_sum: rows * mark,
            seconds: times[REPEATS / 2],
        });
    }
    Ok(())
}
