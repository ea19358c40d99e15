//! The blocks on the engine's kernels: the forward pass over a batch, what it leaves behind, and
//! the way back.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernel::elementwise::rms_norm;
use crate::kernel::{Arithmetic, Epilogue, Team};
use crate::memory;
use crate::model::Checkpoint;
use crate::model::part_times::Stopwatch;
use crate::model::rope::RopeTable;
use crate::train::batch::Batch;
use crate::train::block::{Block, Kept, Pass, Scratch, kept_per_row, scratch_per_row};
use crate::train::buffer::Buffer;
use crate::train::dropout::Dropout;
use crate::train::linear::Frozen;
use crate::train::parameters::Parameters;
use crate::train::rows::norm_backward_rows;

use super::vocabulary::{ROWS, cross_entropy};
use super::{Body, Frame, StepTimes};

/// Packed weights, and the memory of the passes.
pub(in crate::train) struct Kernels {
    team: Arc<Team>,
    head: Frozen,
    /// Where it is not the head.
    embedding: Option<Vec<f32>>,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    rope: RopeTable,
    work: Work,
}

/// Memory of the passes.
#[derive(Default)]
struct Work {
    batch: Batch,
    dropout: Option<Dropout>,
    /// Inputs of the blocks from `lowest` on, and the last one's output.
    inputs: Vec<Buffer>,
    /// One a block from `lowest` on, or one for all.
    kept: Vec<Kept>,
    scratch: Scratch,
    d: Buffer,
    logits: Buffer,
}

impl Kernels {
    /// Packs the weights, for gradients from the frame's lowest block on, and makes the
    /// adapter's matrices parameters.
    pub fn new(
        checkpoint: &Checkpoint,
        arithmetic: Arithmetic,
        frame: &Frame,
        parameters: &mut Parameters,
        team: Arc<Team>,
    ) -> Result<Kernels> {
        let config = &frame.config;
        let adapter = frame.adapter.as_ref();
        // Packed forward, and backward from the lowest trained block on.
        let directions = 1.0 + frame.trained() as f64 / config.num_hidden_layers as f64;
        let mut needed = config.packed_bytes(arithmetic, directions);
        if !frame.without_vocabulary {
            let bytes = match arithmetic {
                Arithmetic::F32 => 4,
                Arithmetic::Bf16 => 2,
            };
            needed += bytes * config.vocab_size * config.hidden_size;
        }
        let remedy = match arithmetic {
            Arithmetic::F32 => "use --dtype bf16 or --frozen-weights q8_0",
            Arithmetic::Bf16 => "use --frozen-weights q8_0 or q4_k",
        };
        let what = "the frozen weights, packed in both directions, take";
        memory::check(what, needed, memory::available(), remedy)?;
        let blocks = (0..config.num_hidden_layers).map(|index| {
            let backward = index >= frame.lowest;
            Block::new(checkpoint, index, arithmetic, backward, adapter, parameters)
        });
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let tied = config.tie_word_embeddings;
        let embedding = "model.embed_tokens.weight";
        let name = match tied {
            true => embedding,
            false => "lm_head.weight",
        };
        Ok(Kernels {
            head: Frozen::new(
                checkpoint,
                &[name.to_string()],
                config.hidden_size,
                arithmetic,
                !frame.without_vocabulary,
            )?,
            embedding: match tied {
                true => None,
                false => Some(checkpoint.f32_values(embedding)?),
            },
            norm: checkpoint.f32_values("model.norm.weight")?,
            rope: RopeTable::new(config),
            work: Work::default(),
            team,
            blocks,
        })
    }
}

impl Body for Kernels {
    fn shares_beginnings(&self) -> bool {
        true
    }

    fn forward(
        &mut self,
        frame: &Frame,
        parameters: &Parameters,
        batch: Batch,
        dropout: Dropout,
        states: &mut Buffer,
    ) -> Result<()> {
        let work = &mut self.work;
        let (n, hidden) = (batch.rows(), frame.config.hidden_size);
        let trained = frame.trained();
        // Below the lowest adapter two buffers take turns; the last of them is the first kept.
        work.inputs.resize_with(trained + 2, Buffer::default);
        let slots = match frame.checkpointing {
            true => 1,
            false => trained.max(1),
        };
        work.kept.resize_with(slots, Kept::default);
        for input in &mut work.inputs {
            input.resize(n * hidden)?;
        }
        work.batch = batch;
        work.dropout = Some(dropout);
        let pass = Pass {
            config: &frame.config,
            team: &self.team,
            rope: &self.rope,
            batch: &work.batch,
            dropout,
        };
        let mut watch = Stopwatch::start();
        // So that the input of block `lowest` ends up in `inputs[1]`.
        let mut at = (frame.lowest + 1) % 2;
        let rows = work.inputs[at].chunks_exact_mut(hidden);
        for (token, to) in work.batch.tokens.iter().zip(rows) {
            let token = *token as usize;
            match (&frame.learned, &self.embedding) {
                (Some(learned), _) if token >= frame.config.vocab_size => {
                    let row = learned.start + (token - frame.config.vocab_size) * hidden;
                    to.copy_from_slice(&parameters.values[row..row + hidden]);
                }
                (_, Some(table)) => to.copy_from_slice(&table[token * hidden..][..hidden]),
                (_, None) => self.head.forward.unpack_row(token, to),
            }
        }
        watch.lap(&mut work.scratch.times.rest_s);
        for (index, block) in self.blocks.iter().enumerate() {
            let to = if index < frame.lowest { 1 - at } else { at + 1 };
            let slot = index.saturating_sub(frame.lowest).min(slots - 1);
            let kept = &mut work.kept[slot];
            let [input, output] = work
                .inputs
                .get_disjoint_mut([at, to])
                .expect("two different buffers");
            let values = &parameters.values;
            block.forward(&pass, values, input, kept, &mut work.scratch, output)?;
            at = to;
        }
        let mut watch = Stopwatch::start();
        states.resize(work.batch.wanted() * hidden)?;
        let last = &work.inputs[at];
        for (row, to) in work
            .batch
            .wanted
            .iter()
            .zip(states.chunks_exact_mut(hidden))
        {
            let x = &last[row * hidden..][..hidden];
            rms_norm(x, &self.norm, frame.config.rms_norm_eps, to);
        }
        watch.lap(&mut work.scratch.times.rest_s);
        Ok(())
    }

    fn backward(
        &mut self,
        frame: &Frame,
        parameters: &mut Parameters,
        d_states: &[f32],
    ) -> Result<()> {
        let work = &mut self.work;
        let hidden = frame.config.hidden_size;
        let dropout = match work.dropout.take() {
            Some(dropout) if d_states.len() == work.batch.wanted() * hidden => dropout,
            _ => {
                return Err(Error::Usage(
                    "a backward pass follows a forward pass".into(),
                ));
            }
        };
        if frame.lowest == self.blocks.len() {
            return Ok(());
        }
        let pass = Pass {
            config: &frame.config,
            team: &self.team,
            rope: &self.rope,
            batch: &work.batch,
            dropout,
        };
        let mut watch = Stopwatch::start();
        work.d.resize(work.batch.rows() * hidden)?;
        work.d.fill(0.0);
        let trained = frame.trained();
        let last = &work.inputs[trained + 1];
        for (row, d) in work.batch.wanted.iter().zip(d_states.chunks_exact(hidden)) {
            let at = row * hidden..(row + 1) * hidden;
            let (x, dx) = (&last[at.clone()], &mut work.d[at]);
            norm_backward_rows(pass.team, x, &self.norm, frame.config.rms_norm_eps, d, dx);
        }
        watch.lap(&mut work.scratch.times.rest_s);
        for index in (frame.lowest..self.blocks.len()).rev() {
            let block = &self.blocks[index];
            let place = index - frame.lowest;
            let slot = place.min(work.kept.len() - 1);
            let (scratch, kept) = (&mut work.scratch, &mut work.kept[slot]);
            let (values, gradients) = (&parameters.values, &mut parameters.gradients);
            let [input, output] = work
                .inputs
                .get_disjoint_mut([place + 1, place + 2])
                .expect("two different buffers");
            // The last block's are still there.
            if frame.checkpointing && index + 1 < self.blocks.len() {
                block.forward(&pass, values, input, kept, scratch, output)?;
            }
            let wanted = place > 0 || frame.learned.is_some();
            block.backward(
                &pass,
                values,
                gradients,
                input,
                kept,
                scratch,
                &mut work.d,
                wanted,
            )?;
        }
        if let Some(learned) = &frame.learned {
            let gradients = &mut parameters.gradients[learned.clone()];
            for (token, d) in work.batch.tokens.iter().zip(work.d.chunks_exact(hidden)) {
                if let Some(at) = (*token as usize).checked_sub(frame.config.vocab_size) {
                    let gradient = &mut gradients[at * hidden..(at + 1) * hidden];
                    gradient.iter_mut().zip(d).for_each(|(g, d)| *g += d);
                }
            }
        }
        Ok(())
    }

    fn vocabulary_loss(
        &mut self,
        frame: &Frame,
        states: &[f32],
        targets: &[u32],
        weight: Option<f64>,
        d_states: &mut [f32],
    ) -> Result<f64> {
        let mut watch = Stopwatch::start();
        let hidden = frame.config.hidden_size;
        let vocabulary = frame.config.vocab_size;
        let (team, work) = (&self.team, &mut self.work);
        work.logits.resize(targets.len().min(ROWS) * vocabulary)?;
        let mut loss = 0.0;
        for (part, targets) in targets.chunks(ROWS).enumerate() {
            let n = targets.len();
            let at = part * ROWS * hidden..(part * ROWS + n) * hidden;
            let logits = &mut work.logits[..n * vocabulary];
            let forward = &self.head.forward;
            forward.product(team, &states[at.clone()], n, Epilogue::Store, logits);
            loss += cross_entropy(team, logits, targets, weight);
            if weight.is_some() {
                let back = self.head.backward();
                back.product(team, logits, n, Epilogue::Store, &mut d_states[at]);
            }
        }
        watch.lap(&mut work.scratch.times.head_s);
        Ok(loss)
    }

    fn weight_bytes(&self) -> usize {
        let embedding = self.embedding.as_ref().map_or(0, |e| size_of_val(&e[..]));
        self.blocks.iter().map(Block::bytes).sum::<usize>() + self.head.bytes() + embedding
    }

    fn pass_bytes(&self, frame: &Frame, rows: usize, wanted: usize, _longest: usize) -> usize {
        let trained = frame.trained();
        let kept = match frame.checkpointing {
            true => trained.min(1),
            false => trained.max(1),
        };
        let hidden = frame.config.hidden_size;
        let a_row = kept * kept_per_row(&frame.config, frame.adapter.as_ref())
            + scratch_per_row(&frame.config)
            + (trained + 2) * hidden;
        let logits = match frame.without_vocabulary {
            true => 0,
            false => wanted.min(ROWS) * frame.config.vocab_size,
        };
        4 * (rows * a_row + 2 * wanted * hidden + logits)
    }

    fn free_memory(&self) -> Option<usize> {
        memory::available()
    }

    fn times(&self) -> StepTimes {
        self.work.scratch.times
    }
}
