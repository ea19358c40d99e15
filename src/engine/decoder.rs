//! What the engine decodes with. A [`Model`] makes [`Decoder`]s: the model together with the
//! keys and values of so many sequences, wherever they live.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::error::Result;
use crate::memory;
use crate::model::capture::Capture;
use crate::model::kv_cache::KvCache;
use crate::model::llama::{Chunk, Llama, Workspace};
use crate::model::{ModelConfig, PartTimes};

use super::sampling::{self, Draw};

/// A loaded model, on whatever device.
pub trait Model: Send + Sync {
    /// Shape and end tokens of the model.
    fn config(&self) -> &ModelConfig;

    /// Room for `slots` sequences of up to `capacity` tokens (prompt and response).
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn decoder(&self, slots: usize, capacity: usize) -> Result<Box<dyn Decoder + '_>>;

    /// As [`Model::decoder`], one that keeps the model.
    ///
    /// # Errors
    /// As [`Model::decoder`].
    fn keeping_decoder(self: Arc<Self>, slots: usize, capacity: usize) -> Result<Box<dyn Decoder>>;

    /// Where and in what it computes, as tables call it.
    fn device(&self) -> String;

    /// The processor's own name.
    fn processor(&self) -> String;

    /// In what answers are computed, as datasets record it: answers of one kind can differ
    /// from those of another.
    fn dtype(&self) -> String;

    /// Bytes of keys and values that a token takes.
    fn kv_bytes_per_token(&self) -> usize;

    /// Refuses so many sequences of so many tokens where their keys and values could outgrow
    /// the memory there is.
    ///
    /// # Errors
    /// [`crate::Error::Memory`], which names the flags that would make them fit.
    fn check_room(&self, slots: usize, capacity: usize) -> Result<()> {
        let needed = slots
            .saturating_mul(capacity)
            .saturating_mul(self.kv_bytes_per_token());
        memory::check(
            &format!("keys and values of {slots} sequences of {capacity} tokens can take"),
            needed,
            self.free_memory(),
            "use fewer --slots or fewer --max-new-tokens",
        )
    }

    /// Whether a decoder takes the memory of its keys and values at once, and not as they come.
    fn takes_caches_whole(&self) -> bool {
        false
    }

    /// Bytes that the device can still give to keys and values, where it says so.
    fn free_memory(&self) -> Option<usize>;

    /// What bounds a decode step from below, measured on the device now; none where that is
    /// not known.
    ///
    /// # Errors
    /// If the device fails.
    fn memory_floor(&self) -> Result<Option<MemoryFloor>> {
        Ok(None)
    }
}

/// A decode step reads all weights, and the keys and values of all rows, from memory once.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct MemoryFloor {
    /// Of weights.
    pub bytes_a_step: usize,
    /// Of keys and values.
    pub bytes_a_position: usize,
    /// Bytes per second, read plus written, of a large copy.
    pub bandwidth: f64,
}

impl MemoryFloor {
    /// Seconds that a step cannot be faster than, with rows at positions that add up to
    /// `context_sum`.
    pub fn step_s(&self, context_sum: usize) -> f64 {
        (self.bytes_a_step + self.bytes_a_position * context_sum) as f64 / self.bandwidth
    }
}

/// A model with the keys and values of so many sequences, each in its slot.
pub trait Decoder: Send {
    /// Sequences it holds at once; slots are numbered from 0.
    fn slots(&self) -> usize;

    /// Tokens that a slot can hold.
    fn capacity(&self) -> usize;

    /// Prompt tokens worth running in one pass.
    fn pass_tokens(&self) -> usize;

    /// The tokens whose keys and values the slot holds.
    fn tokens(&self, slot: usize) -> &[u32];

    /// Forgets all but the first `len` positions of a slot.
    fn truncate(&mut self, slot: usize, len: usize);

    /// Gives slot `to` the first `len` positions of slot `from`, which it then holds exactly.
    ///
    /// # Errors
    /// If the device fails.
    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()>;

    /// The most memory, in bytes, that keys and values took at once.
    fn peak_cache_bytes(&self) -> usize;

    /// Runs the chunks' tokens into their slots, and draws the next token of each chunk that
    /// wants logits, in their order; `draws` has one entry for each of those. Hidden states
    /// are taken out by the way, if `capture` asks for them.
    ///
    /// # Errors
    /// As [`Llama::forward`].
    fn step(
        &mut self,
        chunks: &[Chunk<'_>],
        draws: &[Draw],
        capture: Option<&mut Capture>,
    ) -> Result<Drawn>;

    /// The logits `[rows, vocab]` that the last step left, of the first `rows` chunks that
    /// wanted them; only of use before the next step, and where greedy rows were drawn (others
    /// may be overwritten). For checks.
    ///
    /// # Errors
    /// If the device fails.
    fn last_logits(&mut self, rows: usize) -> Result<Vec<f32>>;
}

/// What a step brought.
pub struct Drawn {
    /// The next token of each chunk that wanted logits, in their order.
    pub tokens: Vec<u32>,
    /// Seconds of drawing, where it can be told from computing.
    pub sampling_s: f64,
    /// Seconds by part of the pass, where they are measured.
    pub parts: PartTimes,
}

impl Model for Llama {
    fn config(&self) -> &ModelConfig {
        Llama::config(self)
    }

    fn decoder(&self, slots: usize, capacity: usize) -> Result<Box<dyn Decoder + '_>> {
        Ok(Box::new(CpuDecoder::new(self, slots, capacity)?))
    }

    fn keeping_decoder(self: Arc<Self>, slots: usize, capacity: usize) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(CpuDecoder::new(self, slots, capacity)?))
    }

    fn device(&self) -> String {
        format!(
            "CPU, {} threads, {}",
            self.team().threads(),
            self.precision().name()
        )
    }

    fn processor(&self) -> String {
        crate::provenance::processor()
    }

    fn dtype(&self) -> String {
        self.precision().name().into()
    }

    fn kv_bytes_per_token(&self) -> usize {
        Llama::kv_bytes_per_token(self)
    }

    fn free_memory(&self) -> Option<usize> {
        memory::available()
    }
}

/// `M` is a [`Llama`], borrowed or shared.
struct CpuDecoder<M> {
    model: M,
    cache: KvCache,
    workspace: Workspace,
}

impl<M: Deref<Target = Llama>> CpuDecoder<M> {
    fn new(model: M, slots: usize, capacity: usize) -> Result<Self> {
        Ok(CpuDecoder {
            cache: model.new_cache(slots, capacity)?,
            workspace: Workspace::default(),
            model,
        })
    }
}

impl<M: Deref<Target = Llama> + Send> Decoder for CpuDecoder<M> {
    fn slots(&self) -> usize {
        self.cache.slots()
    }

    fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// Enough to keep the kernels busy, few enough to bound the buffers.
    fn pass_tokens(&self) -> usize {
        512
    }

    fn tokens(&self, slot: usize) -> &[u32] {
        self.cache.tokens(slot)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.cache.truncate(slot, len);
    }

    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        self.cache.copy_prefix(from, to, len);
        Ok(())
    }

    fn peak_cache_bytes(&self) -> usize {
        self.cache.peak_bytes()
    }

    fn step(
        &mut self,
        chunks: &[Chunk<'_>],
        draws: &[Draw],
        capture: Option<&mut Capture>,
    ) -> Result<Drawn> {
        self.workspace.times = PartTimes::default();
        let logits = self
            .model
            .forward(chunks, &mut self.cache, &mut self.workspace, capture)?;
        let drawing = Instant::now();
        let tokens = sampling::draw_all(self.model.team(), logits, draws);
        Ok(Drawn {
            tokens,
            sampling_s: drawing.elapsed().as_secs_f64(),
            parts: self.workspace.times,
        })
    }

    fn last_logits(&mut self, rows: usize) -> Result<Vec<f32>> {
        Ok(self.workspace.logits()[..rows * self.model.config().vocab_size].to_vec())
    }
}
