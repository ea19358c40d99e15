//! Decoding in the tensor library's operations: for devices that have no kernels of the
//! project's own (Apple's). Keys and values lie in one array a layer, slot after slot.

use std::ops::Deref;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};

use crate::engine::sampling::{self, Draw};
use crate::engine::{Decoder, Drawn, Model};
use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::model::capture::Capture;
use crate::model::llama::{Chunk, check_chunks};
use crate::model::rope::RopeTable;
use crate::model::{Checkpoint, ModelConfig, PartTimes};

use super::Storage;
use super::attention::Heads;
use super::device::free_memory;
use super::ops::{rms_norm, rotate, silu_gate, softmax};
use super::weights::{BlockWeights, Form, Tables, check_memory};

/// Prompt tokens of a pass: scores and activations stay small.
const PASS_TOKENS: usize = 512;

/// A Llama on a device of the tensor library.
pub struct TensorLlama {
    config: ModelConfig,
    form: Form,
    tables: Tables,
    blocks: Vec<BlockWeights>,
    rope: RopeTable,
    team: Arc<Team>,
    name: String,
}

impl TensorLlama {
    /// Takes the weights to the device, dense, with products in `dtype`. `team` draws tokens;
    /// `name` is the device's, for tables.
    ///
    /// # Errors
    /// Weights that do not fit the device's memory.
    pub fn new(
        checkpoint: &Checkpoint,
        dtype: DType,
        (device, name): (Device, &str),
        team: Arc<Team>,
    ) -> Result<TensorLlama> {
        let form = Form {
            storage: Storage::Dense,
            dtype,
            device,
        };
        check_memory(&checkpoint.config, &form)?;
        let layers = 0..checkpoint.config.num_hidden_layers;
        let blocks = layers.map(|index| BlockWeights::new(checkpoint, index, &form));
        Ok(TensorLlama {
            blocks: blocks.collect::<Result<_>>()?,
            tables: Tables::new(checkpoint, &form)?,
            rope: RopeTable::new(&checkpoint.config),
            config: checkpoint.config.clone(),
            name: name.to_string(),
            form,
            team,
        })
    }
}

impl Model for TensorLlama {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn decoder(&self, slots: usize, capacity: usize) -> Result<Box<dyn Decoder + '_>> {
        Ok(Box::new(TensorDecoder::new(self, slots, capacity)?))
    }

    fn keeping_decoder(self: Arc<Self>, slots: usize, capacity: usize) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(TensorDecoder::new(self, slots, capacity)?))
    }

    fn device(&self) -> String {
        format!("{}, {}", self.name, self.form.dtype.as_str())
    }

    fn processor(&self) -> String {
        self.name.clone()
    }

    fn dtype(&self) -> String {
        format!("{} on {}", self.form.dtype.as_str(), self.name)
    }

    fn kv_bytes_per_token(&self) -> usize {
        let c = &self.config;
        let elements = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim;
        elements * self.form.dtype.size_in_bytes()
    }

    fn takes_caches_whole(&self) -> bool {
        true
    }

    fn free_memory(&self) -> Option<usize> {
        free_memory(&self.form.device)
    }
}

/// `M` is a [`TensorLlama`], borrowed or shared.
struct TensorDecoder<M> {
    model: M,
    capacity: usize,
    /// By slot.
    tokens: Vec<Vec<u32>>,
    /// By layer, `[slots * capacity, key heads * dim]`.
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    logits: Vec<f32>,
    most_tokens: usize,
}

/// Where a chunk's rows are.
struct Place {
    slot: usize,
    /// Its first row in the pass.
    row: usize,
    len: usize,
    /// Positions the slot held before.
    held: usize,
}

impl<M: Deref<Target = TensorLlama>> TensorDecoder<M> {
    fn new(model: M, slots: usize, capacity: usize) -> Result<Self> {
        // All of it is taken at once.
        model.check_room(slots, capacity)?;
        let (config, form) = (&model.config, &model.form);
        let shape = (
            slots * capacity,
            config.num_key_value_heads * config.head_dim,
        );
        let arrays = || -> Result<Vec<Tensor>> {
            let layers = 0..config.num_hidden_layers;
            layers
                .map(|_| Ok(Tensor::zeros(shape, form.dtype, &form.device)?))
                .collect()
        };
        Ok(TensorDecoder {
            capacity,
            tokens: vec![Vec::new(); slots],
            keys: arrays()?,
            values: arrays()?,
            logits: Vec::new(),
            most_tokens: 0,
            model,
        })
    }

    /// What the rows attend to, after their own keys and values are put in place: `[rows,
    /// queries * dim]`.
    fn attend(
        &self,
        layer: usize,
        places: &[Place],
        q: &Tensor,
        (k, v): (&Tensor, &Tensor),
    ) -> candle_core::Result<Tensor> {
        let (heads, form) = (Heads::of(&self.model.config), &self.model.form);
        let mut attended = Vec::with_capacity(places.len());
        for place in places {
            let first = place.slot * self.capacity;
            let context = place.held + place.len;
            let all = |cache: &Tensor, new: &Tensor| -> candle_core::Result<Tensor> {
                let new = new.narrow(0, place.row, place.len)?.contiguous()?;
                cache.slice_set(&new.to_dtype(form.dtype)?, 0, first + place.held)?;
                cache
                    .narrow(0, first, context)?
                    .reshape((context, heads.keys, heads.dim))?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let keys = all(&self.keys[layer], k)?;
            let values = all(&self.values[layer], v)?;
            let shared = heads.queries / heads.keys;
            let rows = shared * place.len;
            let q = q
                .narrow(0, place.row, place.len)?
                .to_dtype(form.dtype)?
                .reshape((place.len, heads.queries, heads.dim))?
                .transpose(0, 1)?
                .contiguous()?
                .reshape((heads.keys, rows, heads.dim))?;
            let scores = q.matmul(&keys.t()?.contiguous()?)?.to_dtype(DType::F32)?;
            let mut scores = (scores / (heads.dim as f64).sqrt())?;
            if place.len > 1 {
                let mask = mask(place, context, &form.device)?;
                scores = scores
                    .reshape((heads.queries, place.len, context))?
                    .broadcast_add(&mask)?
                    .reshape((heads.keys, rows, context))?;
            }
            let out = softmax(&scores)?.to_dtype(form.dtype)?.matmul(&values)?;
            let out = out
                .to_dtype(DType::F32)?
                .reshape((heads.queries, place.len, heads.dim))?
                .transpose(0, 1)?
                .contiguous()?
                .reshape((place.len, heads.queries * heads.dim))?;
            attended.push(out);
        }
        Tensor::cat(&attended, 0)
    }

    /// The residual states of the pass, after the deepest block that is run.
    fn forward(
        &self,
        places: &[Place],
        tokens: &[u32],
        mut capture: Option<&mut Capture>,
        whole: bool,
    ) -> Result<Tensor> {
        let model = &*self.model;
        let (config, device) = (&model.config, &model.form.device);
        let (heads, eps) = (Heads::of(config), config.rms_norm_eps);
        let n = tokens.len();
        let numbers = Tensor::from_slice(tokens, n, device)?;
        let mut x = model.tables.embedding.rows(&numbers)?;
        let positions: Vec<usize> = (places.iter())
            .flat_map(|p| p.held..p.held + p.len)
            .collect();
        let table = |side: usize| {
            let rows = positions.iter().flat_map(|position| {
                let (cos, sin) = model.rope.at(*position);
                [cos, sin][side].to_vec()
            });
            Tensor::from_vec(rows.collect(), (n, 1, heads.dim / 2), device)
        };
        let (cos, sin) = (table(0)?, table(1)?);
        let ends: Vec<usize> = places.iter().map(|p| p.row + p.len).collect();
        let mut depth = model.blocks.len();
        if let Some(capture) = capture.as_deref_mut() {
            capture.begin(places.len(), config.hidden_size);
            if capture.stops_early && !whole {
                depth = capture.of.deepest().min(depth);
            }
        }
        for layer in 0..=depth {
            if let Some(capture) = capture.as_deref_mut()
                && (capture.of.last.contains(&layer) || capture.of.mean.contains(&layer))
            {
                let states: Vec<f32> = x.flatten_all()?.to_vec1()?;
                capture.take(layer, &ends, config.hidden_size, &states);
            }
            let Some(block) = model.blocks[..depth].get(layer) else {
                break;
            };
            let normed = rms_norm(&x, &block.input_norm, eps)?;
            let qkv = block.qkv.forward(&normed)?;
            let part = |from: usize, count: usize| {
                let part = qkv.narrow(D::Minus1, from * heads.dim, count * heads.dim)?;
                part.contiguous()?.reshape((n, count, heads.dim))
            };
            let q = rotate(&part(0, heads.queries)?, &cos, &sin)?;
            let k = rotate(&part(heads.queries, heads.keys)?, &cos, &sin)?;
            let k = k.reshape((n, heads.keys * heads.dim))?;
            let v = part(heads.queries + heads.keys, heads.keys)?;
            let v = v.reshape((n, heads.keys * heads.dim))?;
            let attended = self.attend(layer, places, &q, (&k, &v))?;
            x = (x + block.o.forward(&attended)?)?;
            let normed = rms_norm(&x, &block.post_attention_norm, eps)?;
            let gate_up = block.gate_up.forward(&normed)?;
            let inner = config.intermediate_size;
            let gate = gate_up.narrow(D::Minus1, 0, inner)?.contiguous()?;
            let up = gate_up.narrow(D::Minus1, inner, inner)?.contiguous()?;
            x = (x + block.down.forward(&silu_gate(&gate, &up)?)?)?;
        }
        Ok(x)
    }
}

/// 0 where a position may be seen, else negative infinity: `[rows, positions]`.
fn mask(place: &Place, context: usize, device: &Device) -> candle_core::Result<Tensor> {
    let mut mask = vec![0f32; place.len * context];
    for (row, seen) in mask.chunks_exact_mut(context).enumerate() {
        seen[place.held + row + 1..].fill(f32::NEG_INFINITY);
    }
    Tensor::from_vec(mask, (place.len, context), device)
}

impl<M: Deref<Target = TensorLlama> + Send> Decoder for TensorDecoder<M> {
    fn slots(&self) -> usize {
        self.tokens.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn pass_tokens(&self) -> usize {
        PASS_TOKENS
    }

    fn tokens(&self, slot: usize) -> &[u32] {
        &self.tokens[slot]
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.tokens[slot].truncate(len);
    }

    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        if from != to && len > 0 {
            for array in self.keys.iter().chain(&self.values) {
                let rows = array.narrow(0, from * self.capacity, len)?.copy()?;
                array.slice_set(&rows, 0, to * self.capacity)?;
            }
        }
        self.tokens[to] = self.tokens[from][..len].to_vec();
        Ok(())
    }

    fn peak_cache_bytes(&self) -> usize {
        self.most_tokens * self.model.kv_bytes_per_token()
    }

    fn step(
        &mut self,
        chunks: &[Chunk<'_>],
        draws: &[Draw],
        capture: Option<&mut Capture>,
    ) -> Result<Drawn> {
        let config = &self.model.config;
        let most = self.capacity.min(config.max_position_embeddings);
        check_chunks(chunks, self.slots(), most, config.vocab_size, |slot| {
            self.tokens[slot].len()
        })?;
        let (mut places, mut tokens, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in chunks {
            places.push(Place {
                slot: chunk.slot,
                row: tokens.len(),
                len: chunk.tokens.len(),
                held: self.tokens[chunk.slot].len(),
            });
            tokens.extend_from_slice(chunk.tokens);
            if chunk.logits {
                wanted.push(tokens.len() as u32 - 1);
            }
        }
        let states = self.forward(&places, &tokens, capture, !wanted.is_empty())?;
        for chunk in chunks {
            self.tokens[chunk.slot].extend_from_slice(chunk.tokens);
        }
        let held: usize = self.tokens.iter().map(Vec::len).sum();
        self.most_tokens = self.most_tokens.max(held);
        let model = &*self.model;
        if !wanted.is_empty() {
            let count = wanted.len();
            let wanted = Tensor::from_vec(wanted, count, &model.form.device)?;
            let last = states.index_select(&wanted, 0)?;
            let normed = rms_norm(&last, &model.tables.norm, config.rms_norm_eps)?;
            let logits = model.tables.head().forward(&normed)?;
            self.logits = logits.flatten_all()?.to_vec1()?;
        }
        let drawn = draws.len() * config.vocab_size;
        let Some(logits) = self.logits.get_mut(..drawn) else {
            return Err(Error::Usage("more draws than chunks that want them".into()));
        };
        Ok(Drawn {
            tokens: sampling::draw_all(&model.team, logits, draws),
            sampling_s: 0.0,
            parts: PartTimes::default(),
        })
    }

    fn last_logits(&mut self, rows: usize) -> Result<Vec<f32>> {
        Ok(self.logits[..rows * self.model.config.vocab_size].to_vec())
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
