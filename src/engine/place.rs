//! Where models are put: `--device` in words, and models on it.

use std::sync::Arc;

use candle_core::DType;

use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::model::llama::Llama;
use crate::model::{Checkpoint, ModelConfig, Precision};

use crate::tensor::decoder::TensorLlama;

use super::Model;

/// What datasets made on NVIDIA cards record as their dtype.
pub(crate) const CARD: &str = "bf16 on an NVIDIA card";
const APPLE: &str = "Apple's graphics processor";

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// The machine's processors.
    #[default]
    Cpu,
    /// The NVIDIA card of this number.
    Cuda(usize),
    /// Apple's graphics processor, by the tensor library.
    Metal,
}

impl Place {
    /// `cpu`, `cuda`, `cuda:1`, `metal`, or `auto`: the first NVIDIA card where this build can use
    /// one and there is one, else the CPU.
    ///
    /// # Errors
    /// Another word, or a device that this build cannot use.
    pub fn parse(text: &str) -> Result<Place> {
        let number = match text {
            "cpu" => return Ok(Place::Cpu),
            "auto" => return Ok(automatic()),
            "metal" if cfg!(feature = "metal") => return Ok(Place::Metal),
            "metal" => return Err(not_built("metal", "metal")),
            "cuda" => Some(0),
            other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        let Some(number) = number else {
            return Err(Error::Usage(format!(
                "there is no device `{text}`: use auto, cpu, cuda, cuda:N or metal"
            )));
        };
        if cfg!(feature = "cuda") {
            return Ok(Place::Cuda(number));
        }
        Err(not_built(text, "cuda"))
    }

    /// As `--device` takes it.
    pub fn name(self) -> String {
        match self {
            Place::Cpu => "cpu".into(),
            Place::Cuda(number) => format!("cuda:{number}"),
            Place::Metal => "metal".into(),
        }
    }

    /// What a model there, in `precision`, records as its dtype ([`Model::dtype`]).
    pub fn dtype(self, precision: Precision) -> String {
        match self {
            Place::Cpu => precision.name().into(),
            Place::Cuda(_) => CARD.into(),
            Place::Metal => format!("bf16 on {APPLE}"),
        }
    }

    /// A model there: in `precision` on the CPU, in bf16 on a card. `team` computes on the CPU,
    /// and draws tokens in both.
    ///
    /// # Errors
    /// A shape that the device's kernels do not take, no memory, no such device.
    pub fn put(
        self,
        checkpoint: &Checkpoint,
        precision: Precision,
        team: Arc<Team>,
    ) -> Result<Arc<dyn Model>> {
        match self {
            Place::Cpu => Ok(Arc::new(Llama::with_precision(
                checkpoint, precision, team,
            )?)),
            #[cfg(feature = "cuda")]
            Place::Cuda(number) => Ok(Arc::new(crate::cuda::CudaLlama::new(
                crate::cuda::Device::open(number)?,
                checkpoint,
                team,
            )?)),
            #[cfg(not(feature = "cuda"))]
            Place::Cuda(number) => Err(not_built(&format!("cuda:{number}"), "cuda")),
            Place::Metal => {
                let device = crate::tensor::device::open(self)?;
                let named = (device, APPLE);
                let model = TensorLlama::new(checkpoint, DType::BF16, named, team)?;
                Ok(Arc::new(model))
            }
        }
    }

    /// Seeded random weights of a published shape ([`ModelConfig::shape`]): for timing alone.
    ///
    /// # Errors
    /// An unknown shape; as [`Place::put`].
    pub fn put_random(
        self,
        shape: &str,
        seed: u64,
        precision: Precision,
        team: Arc<Team>,
    ) -> Result<Arc<dyn Model>> {
        let config = ModelConfig::shape(shape)?;
        match self {
            Place::Cpu | Place::Metal => {
                self.put(&Checkpoint::random(&config, seed), precision, team)
            }
            #[cfg(feature = "cuda")]
            Place::Cuda(number) => Ok(Arc::new(crate::cuda::CudaLlama::random(
                crate::cuda::Device::open(number)?,
                &config,
                seed,
                team,
            )?)),
            #[cfg(not(feature = "cuda"))]
            Place::Cuda(number) => Err(not_built(&format!("cuda:{number}"), "cuda")),
        }
    }
}

#[cfg(feature = "cuda")]
fn automatic() -> Place {
    match crate::cuda::Device::open(0) {
        Ok(_) => Place::Cuda(0),
        Err(_) => Place::Cpu,
    }
}

#[cfg(not(feature = "cuda"))]
fn automatic() -> Place {
    Place::Cpu
}

fn not_built(device: &str, feature: &str) -> Error {
    Error::Usage(format!(
        "the device `{device}` is not in this build: build it with `--features {feature}`, or use \
         --device cpu"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_others_refused() {
        assert_eq!(Place::parse("cpu").unwrap(), Place::Cpu);
        for text in ["gpu", "cuda:x", "cuda:", ""] {
            let error = Place::parse(text).unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
        for (text, feature) in [("cuda", "cuda"), ("cuda:1", "cuda"), ("metal", "metal")] {
            match Place::parse(text) {
                Ok(place) => assert_ne!(place, Place::Cpu),
                Err(error) => {
                    let needed = format!("--features {feature}");
                    assert!(error.to_string().contains(&needed), "{error}");
                }
            }
        }
        let team = Team::new(1);
        let random = Place::Cpu.put_random("tiny", 7, Precision::F32, team.clone());
        assert_eq!(random.unwrap().config().num_hidden_layers, 2);
        let unknown = Place::Cpu.put_random("llama-9b", 7, Precision::F32, team);
        assert!(unknown.err().unwrap().to_string().contains("llama-7b"));
    }
}
