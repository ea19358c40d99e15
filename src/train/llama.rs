//! The Llama of `model::llama`, differentiable in an adapter's matrices: forward and reverse
//! pass written by hand, on the engine's kernels or in the tensor library's operations.
//! Sequences are packed one below the other. The kernels compute what all of them begin with
//! once a micro-batch; its keys and values then receive gradients from every sequence. (Under
//! dropout that beginning has one mask a micro-batch.)

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::engine::Place;
use crate::error::{Error, Result};
use crate::kernel::{Arithmetic, Team};
use crate::lora::{Adapter, LoraPair};
use crate::model::llama::check_shape;
use crate::model::{Checkpoint, ModelConfig};
use crate::tensor::Storage;

use super::batch::{Batch, Sequence};
use super::block::StepTimes;
use super::body::{Body, Frame, Kernels, Tensors};
use super::buffer::Buffer;
use super::dropout::Dropout;
use super::parameters::Parameters;

/// How a model is made trainable.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// Of the products with frozen weights, forward and backward.
    pub arithmetic: Arithmetic,
    /// The output head is not differentiated: for objectives with a head of their own.
    pub without_vocabulary: bool,
    /// Tokens beyond the vocabulary (`vocab_size`, `vocab_size + 1`..) with embeddings that are
    /// trained; they begin as the mean of the vocabulary's.
    pub learned_tokens: usize,
    /// Keep only each block's input and compute the block again on the way back: a third more
    /// time, a tenth of the memory.
    pub checkpointing: bool,
    /// How frozen weights are kept. Quantized ones are for the tensor library, on the CPU too.
    pub frozen: Storage,
    /// Where blocks are run.
    pub place: Place,
    /// The tensor library runs the blocks where the kernels could, too: to compare both.
    pub without_kernels: bool,
}

impl Options {
    /// The kernels are the CPU's, over dense weights.
    fn runs_on_kernels(&self) -> bool {
        self.place == Place::Cpu && self.frozen == Storage::Dense && !self.without_kernels
    }
}

/// Name of the learned embeddings among the parameters.
pub const LEARNED_TOKENS: &str = "learned_tokens";

/// A frozen model with trainable adapter matrices.
pub struct TrainableLlama {
    /// What is trained, and its gradients.
    pub parameters: Parameters,
    frame: Frame,
    body: Box<dyn Body>,
    /// Of the wanted rows, after the final norm.
    states: Buffer,
    d_states: Buffer,
}

impl TrainableLlama {
    /// Packs the frozen weights in both directions and makes the adapter's matrices parameters.
    ///
    /// # Errors
    /// An adapter for another model, missing tensors, no memory.
    pub fn new(
        checkpoint: &Checkpoint,
        adapter: Adapter,
        team: Arc<Team>,
    ) -> Result<TrainableLlama> {
        Self::with_options(checkpoint, Some(adapter), team, Options::default())
    }

    /// As [`TrainableLlama::new`], perhaps without an adapter.
    ///
    /// # Errors
    /// As [`TrainableLlama::new`].
    pub fn with_options(
        checkpoint: &Checkpoint,
        adapter: Option<Adapter>,
        team: Arc<Team>,
        options: Options,
    ) -> Result<TrainableLlama> {
        let config = checkpoint.config.clone();
        let count = config.num_hidden_layers;
        let mut lowest = count;
        if let Some(adapter) = &adapter {
            let places = adapter.config.places(&config);
            let known = places.iter().all(|(name, out, from)| {
                let pair = adapter.pairs.get(name);
                pair.is_some_and(|p| {
                    p.a.dims().get(1) == Some(from) && p.b.dims().first() == Some(out)
                })
            });
            if places.len() != adapter.pairs.len() || !known {
                return Err(Error::Usage(format!(
                    "the adapter (made for `{}`) does not fit this model's {count} blocks",
                    adapter.base_model
                )));
            }
            lowest = adapter.config.lowest_layer(count);
        }
        if options.learned_tokens > 0 {
            lowest = 0;
        }
        let mut parameters = Parameters::default();
        let learned = match options.learned_tokens {
            0 => None,
            tokens => {
                let hidden = config.hidden_size;
                let embedding = checkpoint.f32_values("model.embed_tokens.weight")?;
                let rows = column_means(&embedding, hidden).repeat(tokens);
                Some(parameters.add(LEARNED_TOKENS.into(), [tokens, hidden], &rows, 1.0))
            }
        };
        let frame = Frame {
            config,
            adapter,
            learned,
            lowest,
            without_vocabulary: options.without_vocabulary,
            checkpointing: options.checkpointing,
        };
        let arithmetic = options.arithmetic;
        let body: Box<dyn Body> = if options.runs_on_kernels() {
            check_shape("training", &frame.config, arithmetic)?;
            let parameters = &mut parameters;
            Box::new(Kernels::new(
                checkpoint, arithmetic, &frame, parameters, team,
            )?)
        } else {
            let device = crate::tensor::device::open(options.place)?;
            let how = (options.frozen, arithmetic, device);
            Box::new(Tensors::new(checkpoint, how, &frame, &mut parameters)?)
        };
        Ok(TrainableLlama {
            parameters,
            frame,
            body,
            states: Buffer::default(),
            d_states: Buffer::default(),
        })
    }

    /// The model's dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.frame.config
    }

    /// The adapter's dropout rate while training.
    pub fn dropout_rate(&self) -> f64 {
        self.frame
            .adapter
            .as_ref()
            .map_or(0.0, |a| a.config.dropout)
    }

    /// Whether blocks are computed again on the way back from now on.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.frame.checkpointing = on;
    }

    /// Whether blocks are computed again on the way back.
    pub fn checkpointing(&self) -> bool {
        self.frame.checkpointing
    }

    /// Where the time of all passes went, on the kernels.
    pub fn times(&self) -> StepTimes {
        self.body.times()
    }

    /// Bytes of the frozen weights.
    pub fn weight_bytes(&self) -> usize {
        self.body.weight_bytes()
    }

    /// Bytes that a forward and backward pass take over `rows` rows, `wanted` of them wanted, of
    /// sequences of up to `longest`, keeping or computing blocks again.
    pub fn pass_bytes(
        &mut self,
        rows: usize,
        wanted: usize,
        longest: usize,
        checkpointing: bool,
    ) -> usize {
        let now = std::mem::replace(&mut self.frame.checkpointing, checkpointing);
        let bytes = self.body.pass_bytes(&self.frame, rows, wanted, longest);
        self.frame.checkpointing = now;
        bytes
    }

    /// What the memory that passes take can still give, where that is known.
    pub fn free_memory(&self) -> Option<usize> {
        self.body.free_memory()
    }

    /// Whether rows that all sequences begin with are there once.
    pub(super) fn shares_beginnings(&self) -> bool {
        self.body.shares_beginnings()
    }

    /// Packs sequences as the model takes them.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn batch(&self, sequences: &[Sequence]) -> Result<Batch> {
        Batch::new(sequences, self.shares_beginnings(), self.config())
    }

    /// Runs a batch; the states `[wanted, hidden]` after the final norm are then in
    /// [`TrainableLlama::states`].
    ///
    /// # Errors
    /// A token outside the vocabulary, no memory.
    pub fn forward(&mut self, batch: Batch, dropout: Dropout) -> Result<()> {
        let known = self.frame.tokens();
        if let Some(token) = batch.tokens.iter().find(|t| **t as usize >= known) {
            return Err(Error::Usage(format!(
                "token id {token} is outside the model's vocabulary of {known}"
            )));
        }
        let (frame, parameters) = (&self.frame, &self.parameters);
        self.body
            .forward(frame, parameters, batch, dropout, &mut self.states)
    }

    /// States of the batch's wanted rows, `[wanted, hidden]`.
    pub fn states(&self) -> &[f32] {
        &self.states
    }

    /// The states, room for their gradients, and what is trained.
    ///
    /// # Errors
    /// No memory.
    pub fn states_and_gradients(&mut self) -> Result<(&[f32], &mut [f32], &mut Parameters)> {
        self.d_states.resize(self.states.len())?;
        Ok((&self.states, &mut self.d_states, &mut self.parameters))
    }

    /// The cross-entropy (nats) of `targets`, one a wanted row of the last forward pass, summed.
    /// With `weight`, the gradient of the states is that of `weight` times the sum.
    ///
    /// # Errors
    /// No memory.
    ///
    /// # Panics
    /// If there is not one target a state, or one is outside the vocabulary.
    pub fn vocabulary_loss(&mut self, targets: &[u32], weight: Option<f64>) -> Result<f64> {
        assert_eq!(self.states.len(), targets.len() * self.config().hidden_size);
        self.d_states.resize(self.states.len())?;
        let (states, d_states) = (&self.states, &mut self.d_states);
        self.body
            .vocabulary_loss(&self.frame, states, targets, weight, d_states)
    }

    /// Takes the gradients of the states (see [`TrainableLlama::states_and_gradients`]) back
    /// through the model and adds to the gradients of the parameters. Once after each
    /// [`TrainableLlama::forward`].
    ///
    /// # Errors
    /// No memory; no forward pass before.
    pub fn backward(&mut self) -> Result<()> {
        if self.d_states.len() != self.states.len() {
            return Err(Error::Usage("a backward pass follows a loss".into()));
        }
        self.body
            .backward(&self.frame, &mut self.parameters, &self.d_states)
    }

    /// The adapter with the matrices as they are now.
    ///
    /// # Errors
    /// If there is none.
    pub fn adapter(&self) -> Result<Adapter> {
        self.adapter_of(&self.parameters.values)
    }

    /// The adapter with matrices from `values`, an array like that of the parameters.
    ///
    /// # Errors
    /// If there is none.
    pub fn adapter_of(&self, values: &[f32]) -> Result<Adapter> {
        let mut adapter = self
            .frame
            .adapter
            .clone()
            .ok_or_else(|| Error::Usage("this model is trained without an adapter".into()))?;
        let matrix = |name: String| -> Result<Tensor> {
            let mut entries = self.parameters.entries().iter();
            let entry = entries
                .find(|e| e.name == name)
                .ok_or_else(|| Error::Usage(format!("the adapter has no `{name}`")))?;
            let values = values[entry.range.clone()].to_vec();
            Ok(Tensor::from_vec(values, &entry.shape, &Device::Cpu)?)
        };
        for (name, pair) in &mut adapter.pairs {
            *pair = LoraPair {
                a: matrix(format!("{name}.lora_A"))?,
                b: matrix(format!("{name}.lora_B^T"))?.t()?.contiguous()?,
            };
        }
        Ok(adapter)
    }
}

fn column_means(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0f64; width];
    for row in rows.chunks_exact(width) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(s, v)| *s += f64::from(*v));
    }
    let count = (rows.len() / width).max(1) as f64;
    sums.into_iter().map(|s| (s / count) as f32).collect()
}
