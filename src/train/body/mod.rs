//! What runs a trainable model's blocks, forward and back: the engine's kernels on the CPU, or
//! the tensor library on whatever device it has.

mod kernels;
mod tensor_block;
mod tensors;
mod vocabulary;

use std::ops::Range;

use crate::error::Result;
use crate::lora::Adapter;
use crate::model::ModelConfig;

use super::batch::Batch;
use super::block::StepTimes;
use super::buffer::Buffer;
use super::dropout::Dropout;
use super::parameters::Parameters;

pub(super) use kernels::Kernels;
pub(super) use tensors::Tensors;

/// What is trained on a model, whatever runs it.
pub(super) struct Frame {
    pub config: ModelConfig,
    pub adapter: Option<Adapter>,
    /// The learned tokens' embeddings among the parameters.
    pub learned: Option<Range<usize>>,
    /// The first block through which gradients pass.
    pub lowest: usize,
    /// The output head is not differentiated.
    pub without_vocabulary: bool,
    /// Blocks are computed again on the way back.
    pub checkpointing: bool,
}

impl Frame {
    /// Blocks through which gradients pass.
    pub fn trained(&self) -> usize {
        self.config.num_hidden_layers - self.lowest
    }

    /// Tokens there are, learned ones among them.
    pub fn tokens(&self) -> usize {
        let learned = self.learned.as_ref().map_or(0, Range::len);
        self.config.vocab_size + learned / self.config.hidden_size
    }
}

pub(super) trait Body: Send + Sync {
    /// Whether rows that all sequences begin with may be there once.
    fn shares_beginnings(&self) -> bool;

    /// Runs a batch; `states` `[wanted, hidden]` are those after the final norm.
    fn forward(
        &mut self,
        frame: &Frame,
        parameters: &Parameters,
        batch: Batch,
        dropout: Dropout,
        states: &mut Buffer,
    ) -> Result<()>;

    /// Takes the gradients of the states of the last [`Body::forward`] back, and adds to those
    /// of the parameters.
    fn backward(
        &mut self,
        frame: &Frame,
        parameters: &mut Parameters,
        d_states: &[f32],
    ) -> Result<()>;

    /// The cross-entropy (nats) of `targets`, one a state, summed. With `weight`, `d_states`
    /// becomes the gradient of `weight` times the sum.
    fn vocabulary_loss(
        &mut self,
        frame: &Frame,
        states: &[f32],
        targets: &[u32],
        weight: Option<f64>,
        d_states: &mut [f32],
    ) -> Result<f64>;

    /// Bytes of the frozen weights.
    fn weight_bytes(&self) -> usize;

    /// Bytes that a forward and backward pass take over `rows` rows, `wanted` of them wanted, of
    /// sequences of up to `longest`.
    fn pass_bytes(&self, frame: &Frame, rows: usize, wanted: usize, longest: usize) -> usize;

    /// What the memory that passes take can still give, where that is known.
    fn free_memory(&self) -> Option<usize>;

    /// Where the time of all passes went, if that is measured.
    fn times(&self) -> StepTimes;
}
