//! Whether a card computes what the CPU computes.

use std::sync::Arc;

use candle_core::DType;

use crate::engine::sampling::Draw;
use crate::engine::{Decoder, Model};
use crate::error::Result;
use crate::kernel::Team;
use crate::model::capture::{Capture, StatesOf};
use crate::model::llama::{Chunk, Llama};
use crate::model::{Checkpoint, ModelConfig};

use super::{CudaLlama, Device};

/// How far a card's logits are from the CPU's f32 with the same weights (rounded to bf16):
/// |card - cpu| / |cpu| in the Euclidean norm of a row.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Agreement {
    /// Rows that were compared.
    pub rows: usize,
    /// Over all rows: prompts of many lengths, then decode steps.
    pub mean_error: f64,
    /// Of the row that is furthest off.
    pub max_error: f64,
    /// Share of rows whose largest logit is the same token.
    pub same_token: f64,
    /// The largest distance of a row computed in a batch from the same row computed alone and in
    /// batches of other sizes, all on the card.
    pub batch_error: f64,
    /// The largest distance of a prompt's hidden states, as predictors read them.
    pub state_error: f64,
}

/// More than bf16's rounding explains, from a few dozen layers.
const TOLERANCE: f64 = 0.05;

impl Agreement {
    /// Whether rounding to bf16 explains the differences.
    pub fn holds(&self) -> bool {
        // A NaN is no agreement.
        [self.max_error, self.batch_error, self.state_error]
            .iter()
            .all(|error| *error < TOLERANCE)
    }
}

/// Prompt lengths: around a page, a split of attention, and far beyond both.
const PROMPTS: [usize; 9] = [1, 2, 17, 63, 64, 65, 130, 300, 200];
/// Decode steps after the prompts, with the CPU's greedy tokens.
const STEPS: usize = 6;

/// Compares a model of `config`'s shape with random weights on both devices.
///
/// # Errors
/// What fails on either.
pub fn agreement(
    device: Device,
    config: &ModelConfig,
    seed: u64,
    team: Arc<Team>,
) -> Result<Agreement> {
    let mut checkpoint = Checkpoint::random(config, seed);
    checkpoint.map_matrices(|matrix| Ok(matrix.to_dtype(DType::BF16)?.to_dtype(DType::F32)?))?;
    let cpu = Llama::new(&checkpoint, team.clone())?;
    let card = CudaLlama::new(device, &checkpoint, team)?;
    drop(checkpoint);
    let vocab = config.vocab_size;
    let most = config.max_position_embeddings - STEPS;
    let mut sequences: Vec<Vec<u32>> = (PROMPTS.iter().enumerate())
        .map(|(row, len)| {
            (0..(*len).min(most))
                .map(|i| ((row * 7919 + i * 104_729 + 17) % vocab) as u32)
                .collect()
        })
        .collect();
    let rows = sequences.len();
    let capacity = sequences.iter().map(Vec::len).max().unwrap_or(0) + STEPS;
    let state_error = states_apart(&cpu, &card, &sequences, capacity)?;
    let mut on_cpu = Run::new(&cpu, rows, capacity)?;
    let mut on_card = Run::new(&card, rows, capacity)?;
    let mut alone = Vec::new();
    let (mut errors, mut same) = (Vec::new(), 0);
    let mut batched = Vec::new();
    let mut held = vec![0; rows];
    for _ in 0..=STEPS {
        let new: Vec<&[u32]> = (0..rows).map(|r| &sequences[r][held[r]..]).collect();
        let expected = on_cpu.step(&new)?;
        let found = on_card.step(&new)?;
        let mut next = Vec::new();
        for (a, b) in expected.chunks(vocab).zip(found.chunks(vocab)) {
            errors.push(distance(a, b));
            same += usize::from(largest(a) == largest(b));
            next.push(largest(a) as u32);
        }
        batched.push(found);
        for (row, token) in next.into_iter().enumerate() {
            held[row] = sequences[row].len();
            sequences[row].push(token);
        }
    }
    drop(on_card);
    // Rows alone, and in batches of every size that products have a way of their own for.
    let together = [6, 27, 40].map(|count| (0..count).map(|i| i % rows).collect::<Vec<usize>>());
    for members in (0..rows).map(|row| vec![row]).chain(together) {
        let mut run = Run::new(&card, members.len(), capacity)?;
        for (step, logits) in batched.iter().enumerate() {
            let new: Vec<&[u32]> = members
                .iter()
                .map(|&row| {
                    let prompt = sequences[row].len() - STEPS - 1;
                    let from = if step == 0 { 0 } else { prompt + step - 1 };
                    &sequences[row][from..prompt + step]
                })
                .collect();
            let found = run.step(&new)?;
            for (found, row) in found.chunks(vocab).zip(&members) {
                alone.push(distance(found, &logits[row * vocab..(row + 1) * vocab]));
            }
        }
    }
    Ok(Agreement {
        rows: errors.len(),
        mean_error: errors.iter().sum::<f64>() / errors.len() as f64,
        max_error: worst(&errors),
        same_token: same as f64 / errors.len() as f64,
        batch_error: worst(&alone),
        state_error,
    })
}

/// How far apart the states are that both take out of the prompts, after the first block and in
/// the end, of the last token and on average.
fn states_apart(
    cpu: &dyn Model,
    card: &dyn Model,
    prompts: &[Vec<u32>],
    capacity: usize,
) -> Result<f64> {
    let layers = vec![1, cpu.config().num_hidden_layers];
    let states = |model: &dyn Model| -> Result<Vec<f32>> {
        let mut decoder = model.decoder(prompts.len(), capacity)?;
        let mut states = Vec::new();
        for (slot, tokens) in prompts.iter().enumerate() {
            let chunk = Chunk {
                slot,
                tokens,
                logits: false,
            };
            let mut capture = Capture {
                of: StatesOf {
                    last: layers.clone(),
                    mean: layers.clone(),
                },
                mean_from: vec![tokens.len() / 3],
                stops_early: slot % 2 == 0,
                states: Vec::new(),
            };
            decoder.step(&[chunk], &[], Some(&mut capture))?;
            states.append(&mut capture.states);
        }
        Ok(states)
    };
    let (expected, found) = (states(cpu)?, states(card)?);
    let hidden = cpu.config().hidden_size;
    let apart: Vec<f64> = (expected.chunks(hidden).zip(found.chunks(hidden)))
        .map(|(a, b)| distance(a, b))
        .collect();
    Ok(worst(&apart))
}

/// The largest, a NaN above all.
fn worst(errors: &[f64]) -> f64 {
    errors
        .iter()
        .copied()
        .max_by(f64::total_cmp)
        .unwrap_or(f64::NAN)
}

fn distance(from: &[f32], to: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut from.iter().zip(to).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut from.iter().map(|a| f64::from(*a)))
}

fn largest(logits: &[f32]) -> usize {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
    best.unwrap_or(0)
}

struct Run<'m>(Box<dyn Decoder + 'm>);

impl<'m> Run<'m> {
    fn new(model: &'m dyn Model, rows: usize, capacity: usize) -> Result<Run<'m>> {
        Ok(Run(model.decoder(rows, capacity)?))
    }

    /// Logits `[rows, vocab]` after each row's new tokens.
    fn step(&mut self, new: &[&[u32]]) -> Result<Vec<f32>> {
        let chunks: Vec<Chunk<'_>> = new
            .iter()
            .enumerate()
            .map(|(slot, tokens)| Chunk {
                slot,
                tokens,
                logits: true,
            })
            .collect();
        self.0
            .step(&chunks, &vec![Draw::GREEDY; chunks.len()], None)?;
        self.0.last_logits(chunks.len())
    }
}
