//! The blocks in the tensor library's operations, on its CPU backend or a card, over frozen
//! weights that may be quantized. Only the wanted states and the parameters' gradients come back
//! to the host; a block's activations are computed again on the way back, or kept where there
//! is room.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::kernel::Arithmetic;
use crate::model::Checkpoint;
use crate::model::rope::RopeTable;
use crate::tensor::attention::{Heads, pass_floats};
use crate::tensor::device::free_memory;
use crate::tensor::ops::{rms_norm, rms_norm_backward, softmax};
use crate::tensor::weights::{Form, Tables, check_memory};
use crate::tensor::{Layout, Storage};
use crate::train::batch::Batch;
use crate::train::buffer::Buffer;
use crate::train::dropout::Dropout;
use crate::train::linear::LowRank;
use crate::train::parameters::Parameters;

use super::tensor_block::{Kept, Pairs, Pass, TensorBlock, kept_per_row};
use super::{Body, Frame, StepTimes};

/// Rows whose logits are in memory at once.
const LOGIT_ROWS: usize = 1024;
/// Rows of independent draws that dropout's masks are taken from.
const MASK_ROWS: usize = 1024;

/// Frozen weights on a device, and the memory of the passes.
pub(in crate::train) struct Tensors {
    form: Form,
    tables: Tables,
    blocks: Vec<TensorBlock>,
    rope: RopeTable,
    heads: Heads,
    masks: Masks,
    work: Option<Work>,
}

/// What a forward pass leaves.
struct Work {
    pass: Pass,
    pairs: Vec<Pairs>,
    /// Inputs of the blocks from `lowest` on, and the last one's output.
    inputs: Vec<Tensor>,
    /// Of the blocks from `lowest` on, where it was kept.
    kept: Vec<Option<Kept>>,
    /// Rows whose states are wanted.
    wanted: Tensor,
    tokens: Vec<u32>,
}

impl Tensors {
    /// Takes the weights to the device, one matrix at a time, and makes the adapter's matrices
    /// parameters.
    ///
    /// # Errors
    /// Weights that do not fit the device's memory: the message names what makes them fit.
    pub fn new(
        checkpoint: &Checkpoint,
        (storage, arithmetic, device): (Storage, Arithmetic, Device),
        frame: &Frame,
        parameters: &mut Parameters,
    ) -> Result<Tensors> {
        let config = &frame.config;
        let dtype = match arithmetic {
            Arithmetic::F32 => DType::F32,
            Arithmetic::Bf16 => DType::BF16,
        };
        let form = Form {
            storage,
            dtype,
            device,
        };
        check_memory(config, &form)?;
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let adapter = frame.adapter.as_ref();
            let low_rank = LowRank::of_block(config, index, adapter, parameters)?;
            blocks.push(TensorBlock::new(checkpoint, index, &form, low_rank)?);
        }
        Ok(Tensors {
            tables: Tables::new(checkpoint, &form)?,
            rope: RopeTable::new(config),
            heads: Heads::of(config),
            masks: Masks::default(),
            work: None,
            form,
            blocks,
        })
    }

    fn pass(&self, frame: &Frame, batch: &Batch, dropout: Dropout) -> Result<Pass> {
        let half = self.heads.dim / 2;
        let shape = (batch.rows(), 1, half);
        let table = |side: usize| {
            let rows = batch.positions.iter().flat_map(|position| {
                let (cos, sin) = self.rope.at(*position);
                [cos, sin][side].to_vec()
            });
            Tensor::from_vec(rows.collect(), shape, &self.form.device)
        };
        let lengths: Vec<usize> = batch.segments.iter().map(|s| s.len).collect();
        Ok(Pass {
            heads: self.heads,
            eps: frame.config.rms_norm_eps,
            layout: Layout::new(&lengths, self.heads, self.form.dtype, &self.form.device)?,
            cos: table(0)?,
            sin: table(1)?,
            dropout,
        })
    }

    fn embedded(&self, frame: &Frame, parameters: &Parameters, tokens: &[u32]) -> Result<Tensor> {
        let known = frame.config.vocab_size as u32;
        let numbers: Vec<u32> = tokens.iter().map(|t| (*t).min(known - 1)).collect();
        let numbers = Tensor::from_vec(numbers, tokens.len(), &self.form.device)?;
        let rows = self.tables.embedding.rows(&numbers)?;
        let Some(learned) = &frame.learned else {
            return Ok(rows);
        };
        // Rows of learned tokens are put in the place of those just looked up.
        let hidden = frame.config.hidden_size;
        let shape = (learned.len() / hidden, hidden);
        let table = Tensor::from_slice(
            &parameters.values[learned.clone()],
            shape,
            &self.form.device,
        )?;
        let which: Vec<u32> = tokens.iter().map(|t| t.saturating_sub(known)).collect();
        let which = Tensor::from_vec(which, tokens.len(), &self.form.device)?;
        let other = tokens.iter().map(|t| if *t >= known { 1f32 } else { 0.0 });
        let other = Tensor::from_vec(other.collect(), (tokens.len(), 1), &self.form.device)?;
        let plain = rows.broadcast_mul(&(1.0 - &other)?)?;
        Ok((plain + table.index_select(&which, 0)?.broadcast_mul(&other)?)?)
    }

    fn run(
        &mut self,
        frame: &Frame,
        parameters: &Parameters,
        batch: Batch,
        dropout: Dropout,
    ) -> Result<Vec<f32>> {
        // What the last pass left goes first.
        self.work = None;
        let pass = self.pass(frame, &batch, dropout)?;
        let pairs = self.blocks.iter();
        let pairs = pairs
            .map(|block| block.pairs(parameters, &self.form.device))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mut x = self.embedded(frame, parameters, &batch.tokens)?;
        let mut inputs = Vec::with_capacity(frame.trained() + 1);
        let mut all_kept = Vec::with_capacity(frame.trained());
        for (index, block) in self.blocks.iter().enumerate() {
            let with = (&pairs[index], &mut self.masks);
            let (output, kept) = block.forward(&pass, with, &x)?;
            if index >= frame.lowest {
                inputs.push(x);
                // The last block's is wanted at once.
                let keeps = !frame.checkpointing || index + 1 == self.blocks.len();
                all_kept.push(keeps.then_some(kept));
            }
            x = output;
        }
        let wanted: Vec<u32> = batch.wanted.iter().map(|row| *row as u32).collect();
        let count = wanted.len();
        let wanted = Tensor::from_vec(wanted, count, &self.form.device)?;
        let last = x.index_select(&wanted, 0)?;
        let states = rms_norm(&last, &self.tables.norm, pass.eps)?;
        inputs.push(x);
        self.work = Some(Work {
            pass,
            pairs,
            inputs,
            kept: all_kept,
            wanted,
            tokens: batch.tokens,
        });
        Ok(states.flatten_all()?.to_vec1()?)
    }

    fn back(&mut self, frame: &Frame, parameters: &mut Parameters, d_states: &[f32]) -> Result<()> {
        let Some(mut work) = self.work.take() else {
            return Err(Error::Usage(
                "a backward pass follows a forward pass".into(),
            ));
        };
        let hidden = frame.config.hidden_size;
        let shape = (work.wanted.dim(0)?, hidden);
        let d_states = Tensor::from_slice(d_states, shape, &self.form.device)?;
        let Some(last) = work.inputs.pop() else {
            return Ok(());
        };
        let through = rms_norm_backward(
            &last.index_select(&work.wanted, 0)?,
            &self.tables.norm,
            work.pass.eps,
            &d_states,
        )?;
        let mut d = last.zeros_like()?.index_add(&work.wanted, &through, 0)?;
        drop(last);
        let mut gradients = Vec::new();
        for index in (frame.lowest..self.blocks.len()).rev() {
            let block = &self.blocks[index];
            let (Some(input), Some(kept)) = (work.inputs.pop(), work.kept.pop()) else {
                break;
            };
            let kept = match kept {
                Some(kept) => kept,
                None => {
                    let with = (&work.pairs[index], &mut self.masks);
                    block.forward(&work.pass, with, &input)?.1
                }
            };
            let wanted = index > frame.lowest || frame.learned.is_some();
            let with = (&work.pairs[index], &mut self.masks);
            let (d_input, found) = block.backward(&work.pass, with, &input, kept, &d, wanted)?;
            gradients.extend(found);
            if let Some(d_input) = d_input {
                d = d_input;
            }
        }
        for (range, gradient) in gradients {
            let found: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
            let sums = &mut parameters.gradients[range];
            sums.iter_mut().zip(found).for_each(|(g, f)| *g += f);
        }
        if let Some(learned) = &frame.learned {
            let known = frame.config.vocab_size as u32;
            for (row, token) in work.tokens.iter().enumerate() {
                if let Some(at) = token.checked_sub(known) {
                    let found: Vec<f32> = d.get(row)?.to_vec1()?;
                    let first = learned.start + at as usize * hidden;
                    let sums = &mut parameters.gradients[first..first + hidden];
                    sums.iter_mut().zip(found).for_each(|(g, f)| *g += f);
                }
            }
        }
        Ok(())
    }
}

impl Body for Tensors {
    /// Every sequence attends by itself.
    fn shares_beginnings(&self) -> bool {
        false
    }

    fn forward(
        &mut self,
        frame: &Frame,
        parameters: &Parameters,
        batch: Batch,
        dropout: Dropout,
        states: &mut Buffer,
    ) -> Result<()> {
        let found = self
            .run(frame, parameters, batch, dropout)
            .map_err(out_of_memory)?;
        states.resize(found.len())?;
        states.copy_from_slice(&found);
        Ok(())
    }

    fn backward(
        &mut self,
        frame: &Frame,
        parameters: &mut Parameters,
        d_states: &[f32],
    ) -> Result<()> {
        self.back(frame, parameters, d_states)
            .map_err(out_of_memory)
    }

    fn vocabulary_loss(
        &mut self,
        frame: &Frame,
        states: &[f32],
        targets: &[u32],
        weight: Option<f64>,
        d_states: &mut [f32],
    ) -> Result<f64> {
        let hidden = frame.config.hidden_size;
        let mut loss = 0.0;
        for (part, targets) in targets.chunks(LOGIT_ROWS).enumerate() {
            let n = targets.len();
            let at = part * LOGIT_ROWS * hidden..(part * LOGIT_ROWS + n) * hidden;
            let states = Tensor::from_slice(&states[at.clone()], (n, hidden), &self.form.device)?;
            let logits = self.tables.head().forward(&states)?;
            let chosen = Tensor::from_slice(targets, n, &self.form.device)?;
            let p = softmax(&logits)?;
            let said = logits.gather(&chosen.unsqueeze(1)?, 1)?.flatten_all()?;
            let said: Vec<f32> = said.to_vec1()?;
            let all: Vec<f32> = logits.log_sum_exp(1)?.flatten_all()?.to_vec1()?;
            let terms = all.iter().zip(&said);
            loss += terms
                .map(|(all, said)| f64::from(*all) - f64::from(*said))
                .sum::<f64>();
            if let Some(weight) = weight {
                // (p - one-hot) W, the second part being rows of W.
                let d = (self.tables.head().backward(&p)? - self.tables.head().rows(&chosen)?)?;
                let d: Vec<f32> = (d * weight)?.flatten_all()?.to_vec1()?;
                d_states[at].copy_from_slice(&d);
            }
        }
        Ok(loss)
    }

    fn weight_bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(TensorBlock::bytes).sum();
        blocks + self.tables.bytes()
    }

    fn pass_bytes(&self, frame: &Frame, rows: usize, wanted: usize, longest: usize) -> usize {
        let (config, trained) = (&frame.config, frame.trained());
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let kept = match frame.checkpointing {
            true => trained.min(1) + 1,
            false => trained + 1,
        };
        let a_row =
            kept * kept_per_row(config, self.heads) + (trained + 2) * hidden + 6 * (hidden + inner);
        let logits = match frame.without_vocabulary {
            true => 0,
            false => 3 * wanted.min(LOGIT_ROWS) * config.vocab_size,
        };
        // The largest matrix, widened: rows of the embedding are looked up in all of it.
        let largest = (2 * inner * hidden).max(config.vocab_size * hidden);
        let widened = match self.form.storage {
            Storage::Dense => 0,
            _ => largest * (4 + self.form.dtype.size_in_bytes()),
        };
        let attention = pass_floats(self.heads, rows, longest);
        4 * (rows * a_row + attention + 2 * wanted * hidden + logits) + widened
    }

    fn free_memory(&self) -> Option<usize> {
        free_memory(&self.form.device)
    }

    fn times(&self) -> StepTimes {
        StepTimes::default()
    }
}

fn out_of_memory(error: Error) -> Error {
    let text = error.to_string();
    match text
        .to_lowercase()
        .replace('_', " ")
        .contains("out of memory")
    {
        true => Error::Memory(format!(
            "the device has no memory left for a training step: use a smaller \
             --micro-batch-size, checkpointing = \"on\" or --frozen-weights q4_k ({text})"
        )),
        false => error,
    }
}

/// Dropout's masks on a device. Drawing every element there would need its random numbers to be
/// the same on the way back and in a resumed run; instead every row of every adapted layer gets
/// one of many rows of independent draws, chosen by step, layer and row.
#[derive(Default)]
pub(super) struct Masks {
    /// By width.
    pools: HashMap<usize, Tensor>,
}

impl Masks {
    /// `x` `[rows, width]`, or its gradient, with elements dropped.
    pub fn dropped(
        &mut self,
        dropout: Dropout,
        low_rank: &LowRank,
        x: &Tensor,
    ) -> candle_core::Result<Tensor> {
        if !dropout.is_on() {
            return Ok(x.clone());
        }
        let (rows, width) = x.dims2()?;
        let pool = match self.pools.entry(width) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let draws = dropout.pool(MASK_ROWS, width);
                let shape = (MASK_ROWS, width);
                place.insert(Tensor::from_vec(draws, shape, x.device())?)
            }
        };
        let chosen: Vec<u32> = (0..rows)
            .map(|row| dropout.choice(low_rank.layer, row, MASK_ROWS) as u32)
            .collect();
        let chosen = Tensor::from_vec(chosen, rows, x.device())?;
        x * pool.index_select(&chosen, 0)?
    }
}
