//! A Llama on a card.

use std::sync::{Arc, Mutex};

use cudarc::driver::CudaSlice;

use crate::engine::{Decoder, MemoryFloor, Model};
use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::kernel::pages::Element;
use crate::model::rope::RopeTable;
use crate::model::{Checkpoint, ModelConfig};

use super::decoder::{CudaDecoder, Room};
use super::device::Device;
use super::kernels::{self, Kernels};
use super::weights::Weights;

/// A Llama-family model on an NVIDIA card, in bf16.
pub struct CudaLlama {
    pub(super) device: Device,
    pub(super) config: ModelConfig,
    pub(super) kernels: Kernels,
    pub(super) weights: Weights,
    /// `[position][head_dim / 2]`.
    pub(super) cosines: CudaSlice<f32>,
    pub(super) sines: CudaSlice<f32>,
    /// Draws what is not greedy.
    pub(super) team: Arc<Team>,
    /// Buffers of the last decoder, for the next: taking gigabytes takes time.
    pub(super) spare: Mutex<Option<Room>>,
}

impl CudaLlama {
    /// Copies a checkpoint to the card, rounded to bf16. `team` draws tokens where the
    /// temperature is not 0.
    ///
    /// # Errors
    /// A shape that the kernels do not take, no memory, a card that fails.
    pub fn new(device: Device, checkpoint: &Checkpoint, team: Arc<Team>) -> Result<CudaLlama> {
        Self::with_weights(device, &checkpoint.config, team, |device, _| {
            Weights::upload(device, checkpoint)
        })
    }

    /// Seeded random weights of a shape, made on the card: for timing.
    ///
    /// # Errors
    /// As [`CudaLlama::new`].
    pub fn random(
        device: Device,
        config: &ModelConfig,
        seed: u64,
        team: Arc<Team>,
    ) -> Result<CudaLlama> {
        Self::with_weights(device, config, team, |device, kernels| {
            Weights::random(device, kernels, config, seed)
        })
    }

    fn with_weights(
        device: Device,
        config: &ModelConfig,
        team: Arc<Team>,
        weights: impl FnOnce(&Device, &Kernels) -> Result<Weights>,
    ) -> Result<CudaLlama> {
        kernels::check(config)?;
        let needed = 2 * config.weight_count();
        let (free, total) = device.memory()?;
        if needed > free {
            return Err(Error::Memory(format!(
                "the weights take {:.1} GB, {} has {:.1} of {:.1} GB free: choose a smaller \
                 --model",
                needed as f64 / 1e9,
                device.name(),
                free as f64 / 1e9,
                total as f64 / 1e9
            )));
        }
        let kernels = Kernels::load(&device, config)?;
        let rope = RopeTable::new(config);
        let positions = 0..config.max_position_embeddings;
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for (cos, sin) in positions.map(|position| rope.at(position)) {
            cosines.extend_from_slice(cos);
            sines.extend_from_slice(sin);
        }
        Ok(CudaLlama {
            weights: weights(&device, &kernels)?,
            cosines: device.upload(&cosines, "rotary tables")?,
            sines: device.upload(&sines, "rotary tables")?,
            kernels,
            config: config.clone(),
            team,
            spare: Mutex::new(None),
            device,
        })
    }
}

impl Model for CudaLlama {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn decoder(&self, slots: usize, capacity: usize) -> Result<Box<dyn Decoder + '_>> {
        Ok(Box::new(CudaDecoder::new(self, slots, capacity)?))
    }

    fn keeping_decoder(self: Arc<Self>, slots: usize, capacity: usize) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(CudaDecoder::new(self, slots, capacity)?))
    }

    fn device(&self) -> String {
        format!("{}, bf16", self.device.name())
    }

    fn processor(&self) -> String {
        self.device.name().to_string()
    }

    fn dtype(&self) -> String {
        crate::engine::place::CARD.into()
    }

    fn takes_caches_whole(&self) -> bool {
        true
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.config.kv_bytes_per_token(Element::F16)
    }

    /// What the last decoder's buffers hold can be had again.
    fn free_memory(&self) -> Option<usize> {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = spare.as_ref().map_or(0, super::decoder::Room::cache_bytes);
        self.device.memory().ok().map(|(free, _)| free + held)
    }

    fn memory_floor(&self) -> Result<Option<MemoryFloor>> {
        Ok(Some(MemoryFloor {
            bytes_a_step: self.weights.bytes_a_step(),
            bytes_a_position: self.kv_bytes_per_token(),
            bandwidth: self.device.copy_bandwidth(&self.kernels)?,
        }))
    }
}
