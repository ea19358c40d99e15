//! What `build-dataset` is to sample, and the identity of that plan: a build is only ever
//! continued by the plan that began it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::instruction::Instruction;

/// Everything that decides the tokens of a length dataset, and nothing else (slots and threads
/// change no token).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub model: String,
    pub model_sha256: String,
    pub template_sha256: String,
    pub instructions_sha256: String,
    pub temperatures: Vec<f32>,
    /// Samples of each instruction at each temperature above 0; greedy answers are all alike,
    /// so temperature 0 is sampled once.
    pub samples: u32,
    pub max_new_tokens: u32,
    pub seed: u64,
}

/// One response to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedSample {
    /// Index of the instruction.
    pub instruction: usize,
    pub temperature: f32,
    pub sample: u32,
}

impl Plan {
    /// # Errors
    /// Temperatures or counts that make no sense.
    pub fn validate(&self) -> Result<()> {
        if self.temperatures.is_empty() || self.samples == 0 || self.max_new_tokens == 0 {
            return Err(Error::Usage(
                "sampling needs at least one temperature, one sample and one new token".into(),
            ));
        }
        for (index, temperature) in self.temperatures.iter().enumerate() {
            if !(0.0..=10.0).contains(temperature) {
                return Err(Error::Usage(format!(
                    "the temperature {temperature} is not between 0 and 10"
                )));
            }
            if self.temperatures[..index].contains(temperature) {
                return Err(Error::Usage(format!(
                    "the temperature {temperature} is given twice: use --samples for more samples"
                )));
            }
        }
        Ok(())
    }

    /// All samples, those of one instruction together, in the order of the finished file.
    pub fn samples(&self, instructions: usize) -> Vec<PlannedSample> {
        let mut all = Vec::new();
        for instruction in 0..instructions {
            for &temperature in &self.temperatures {
                let count = if temperature == 0.0 { 1 } else { self.samples };
                all.extend((0..count).map(|sample| PlannedSample {
                    instruction,
                    temperature,
                    sample,
                }));
            }
        }
        all
    }

    /// The seed of one sample: a hash of the plan's seed, the instruction's id, the
    /// temperature and the sample's index, so that more samples later change none of these.
    pub fn seed_of(&self, instruction_id: &str, sample: PlannedSample) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(sample.temperature.to_bits().to_le_bytes());
        hash.update(sample.sample.to_le_bytes());
        hash.update(instruction_id.as_bytes());
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        // Parquet readers without unsigned 64-bit integers keep 63 bits exactly.
        u64::from_le_bytes(first) >> 1
    }

    /// Says in which way `self` differs from the plan that a build was begun with.
    pub fn differences(&self, begun: &Plan) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, old: String, new: String| {
            if old != new {
                differences.push(format!("{what} was {old} and is now {new}"));
            }
        };
        compare("the model", begun.model.clone(), self.model.clone());
        compare(
            "the model's hash",
            begun.model_sha256.clone(),
            self.model_sha256.clone(),
        );
        compare(
            "the chat template's hash",
            begun.template_sha256.clone(),
            self.template_sha256.clone(),
        );
        compare(
            "the instructions' hash",
            begun.instructions_sha256.clone(),
            self.instructions_sha256.clone(),
        );
        let list = |plan: &Plan| format!("{:?}", plan.temperatures);
        compare("the list of temperatures", list(begun), list(self));
        compare(
            "the number of samples",
            begun.samples.to_string(),
            self.samples.to_string(),
        );
        compare(
            "max-new-tokens",
            begun.max_new_tokens.to_string(),
            self.max_new_tokens.to_string(),
        );
        compare("the seed", begun.seed.to_string(), self.seed.to_string());
        differences
    }
}

/// Hash of ids and texts of an instruction set.
pub fn instructions_sha256(instructions: &[Instruction]) -> String {
    let mut hash = Sha256::new();
    for instruction in instructions {
        for part in [&instruction.id, &instruction.text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
