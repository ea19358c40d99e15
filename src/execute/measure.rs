//! Measuring step times of the real model, to fit the step-time model of replays.

use std::time::Instant;

use crate::engine::sampling::Draw;
use crate::engine::{Batching, Decoder, Engine, Model, Request, Response};
use crate::error::{Error, Result};
use crate::model::llama::Chunk;

use super::StepTimeModel;
use super::step_time::{
    FitError, PrefillObservation, StepObservation, fit, fit_prefill, held_out_error, off_the_line,
};

/// Steps timed at each position. Their mean counts: a run also pays for the steps that the
/// machine was slow at.
const REPEATS: usize = 8;
/// Times that all rows are gone through, so that a drift of the machine hits all alike.
pub const ROUNDS: usize = 2;
/// Tokens of the prompt before the first measured position.
const PROMPT: usize = 16;

/// A fitted step-time model with what it was fitted on.
pub struct Profile {
    /// The fit, in seconds.
    pub model: StepTimeModel,
    /// On every third observation, which the fit did not see.
    pub held_out: Option<FitError>,
    /// Every decode step measured, the held out among them.
    pub steps: Vec<StepObservation>,
    /// Every prefill measured.
    pub prefills: Vec<PrefillObservation>,
}

/// Measures decode steps of each number of rows at positions up to `positions`, and prefills.
/// `name` is the model's.
///
/// # Errors
/// Rows or positions of 0, or more positions than the model has.
pub fn measure(
    model: &dyn Model,
    name: &str,
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
    for &rows in [rows; ROUNDS].into_iter().flatten() {
        measure_rows(model, rows, positions, &mut steps, &mut prefills)?;
        on_rows();
    }
    // Every round observes the same places: the mean of each counts.
    let (places, prompts) = (steps.len() / ROUNDS, prefills.len() / ROUNDS);
    let mean = |of: &dyn Fn(usize) -> f64| (0..ROUNDS).map(of).sum::<f64>() / ROUNDS as f64;
    let steps: Vec<StepObservation> = (0..places)
        .map(|at| StepObservation {
            seconds: mean(&|round| steps[at + round * places].seconds),
            ..steps[at]
        })
        .collect();
    let prefills: Vec<PrefillObservation> = (0..prompts)
        .map(|at| PrefillObservation {
            seconds: mean(&|round| prefills[at + round * prompts].seconds),
            ..prefills[at]
        })
        .collect();
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
        name: format!("{name} on {}", model.processor()),
        source: format!(
            "measured by `lenaware profile` on {}, {}",
            model.device(),
            jiff::Timestamp::now().strftime("%Y-%m-%d")
        ),
        t0,
        t1,
        t2,
        p0,
        p1,
        off_line: Vec::new(),
    };
    let model = StepTimeModel {
        off_line: off_the_line(&model, &fitted),
        ..model
    };
    Ok(Profile {
        held_out: held_out_error(&model, &held),
        model,
        steps,
        prefills,
    })
}

fn measure_rows(
    model: &dyn Model,
    rows: usize,
    positions: usize,
    steps: &mut Vec<StepObservation>,
    prefills: &mut Vec<PrefillObservation>,
) -> Result<()> {
    let vocab = model.config().vocab_size as u32;
    let mut decoder = model.decoder(rows, positions + 1)?;
    let filler = |slot: usize, i: usize| (slot * 7919 + i * 104_729 + 17) as u32 % vocab;
    // Positions are reached by prefills, which are observations themselves; the first pass
    // is not counted, since it touches fresh memory.
    let marks: Vec<usize> = (0..6)
        .map(|i| PROMPT + (positions - PROMPT - REPEATS) * i / 5)
        .collect();
    for (index, &mark) in marks.iter().enumerate() {
        let held = decoder.tokens(0).len();
        let tokens: Vec<Vec<u32>> = (0..rows)
            .map(|slot| (held..mark).map(|i| filler(slot, i)).collect())
            .collect();
        let count = rows * (mark - held);
        let begun = Instant::now();
        prefill(decoder.as_mut(), &tokens)?;
        let seconds = begun.elapsed().as_secs_f64();
        if index > 0 && count > 0 {
            prefills.push(PrefillObservation {
                tokens: count,
                seconds,
            });
        }
        let mut times = Vec::new();
        for repeat in 0..=REPEATS {
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
            decoder.step(&chunks, &vec![Draw::GREEDY; rows], None)?;
            // The first one warms up what is used for the first time.
            if repeat > 0 {
                times.push(begun.elapsed().as_secs_f64());
            }
            for slot in 0..rows {
                decoder.truncate(slot, mark);
            }
        }
        steps.push(StepObservation {
            rows,
            context_sum: rows * mark,
            seconds: times.iter().sum::<f64>() / REPEATS as f64,
        });
    }
    Ok(())
}

/// Runs new tokens into the slots, in passes as the engine makes them.
fn prefill(decoder: &mut dyn Decoder, tokens: &[Vec<u32>]) -> Result<()> {
    let most = decoder.pass_tokens();
    let mut pass: Vec<Chunk<'_>> = Vec::new();
    let mut held = 0;
    for (slot, tokens) in tokens.iter().enumerate().filter(|(_, t)| !t.is_empty()) {
        if held + tokens.len() > most && !pass.is_empty() {
            decoder.step(&pass, &vec![Draw::GREEDY; pass.len()], None)?;
            pass.clear();
            held = 0;
        }
        held += tokens.len();
        pass.push(Chunk {
            slot,
            tokens,
            logits: true,
        });
    }
    if !pass.is_empty() {
        decoder.step(&pass, &vec![Draw::GREEDY; pass.len()], None)?;
    }
    Ok(())
}

/// Whole generations of one batch.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct GenerationTimes {
    /// Prompts in the batch.
    pub rows: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens generated for each.
    pub new_tokens: usize,
    /// Seconds of running all prompts, drawing the first tokens included.
    pub prefill_s: f64,
    /// Of the tokens after each row's first.
    pub decode_s: f64,
}

/// Generates `new_tokens` for `rows` prompts of `prompt_tokens`, in one static batch: the
/// median of three by decode time, after one that is not counted.
///
/// # Errors
/// What does not fit the model or the memory.
pub fn generation(
    model: &dyn Model,
    rows: usize,
    prompt_tokens: usize,
    new_tokens: usize,
) -> Result<GenerationTimes> {
    let vocab = model.config().vocab_size;
    let prompt = |id: usize| -> Vec<u32> {
        (0..prompt_tokens)
            .map(|i| ((id * 7919 + i * 104_729 + 17) % vocab) as u32)
            .collect()
    };
    let mut times = Vec::new();
    for _ in 0..4 {
        let mut engine = Engine::new(model, rows, prompt_tokens + new_tokens)?
            .share_prefixes(false)
            .obey_end_tokens(false);
        let mut queue = (0..rows).map(|id| Request {
            id,
            prompt: prompt(id).into(),
            max_new_tokens: new_tokens,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        });
        let mut responses: Vec<Response> = Vec::new();
        let stats = engine.generate(&mut || queue.next(), Batching::Static, &mut responses)?;
        times.push((stats.decode_s, stats.prefill_s));
    }
    times.remove(0);
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (decode_s, prefill_s) = times[1];
    Ok(GenerationTimes {
        rows,
        prompt_tokens,
        new_tokens,
        prefill_s,
        decode_s,
    })
}
