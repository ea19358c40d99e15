//! What `build-dataset` is to sample, and the identity of that plan: a build is only ever
//! continued by the plan that began it.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{Error, Result};
use crate::instruction::Instruction;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// This tool's own engine.
    #[default]
    Engine,
    /// A server, asked over HTTP.
    Endpoint,
}

impl Sampler {
    /// As in a dataset's metadata: `engine`, `endpoint`.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Engine => "engine",
            Sampler::Endpoint => "endpoint",
        }
    }
}

/// Everything that decides the tokens of a length dataset, and nothing else (slots and threads
/// change no token).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// This tool's engine, also in manifests of before there was a choice.
    #[serde(default)]
    pub sampler: Sampler,
    /// By name, as on the command line or as a server calls it.
    pub model: String,
    /// Hash of the weights; unknown of an endpoint's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// Hash of the chat template; unknown of an endpoint's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_sha256: Option<String>,
    /// With how many bits the engine computes: `f32`, also in manifests of before there was a
    /// choice, or `bf16`; unknown of an endpoint's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Of ids and texts, by [`instructions_sha256`].
    pub instructions_sha256: String,
    /// From 0 (greedy) to 10, each once.
    pub temperatures: Vec<f32>,
    /// Samples of each instruction at each temperature above 0; greedy answers are all alike,
    /// so temperature 0 is sampled once.
    pub samples: u32,
    /// Tokens at which a response is cut off.
    pub max_new_tokens: u32,
    /// 1, all tokens, in manifests of before there was a choice.
    #[serde(default = "all_tokens")]
    pub top_p: f32,
    /// What every sample's own seed is derived from ([`Plan::seed_of`]).
    pub seed: u64,
}

fn all_tokens() -> f32 {
    1.0
}

/// One response to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedSample {
    /// Index of the instruction.
    pub instruction: usize,
    /// 0 means greedy.
    pub temperature: f32,
    /// Index among those of one instruction and temperature.
    pub sample: u32,
}

impl Plan {
    /// Whether the plan can be sampled at all.
    ///
    /// # Errors
    /// Temperatures or counts that make no sense.
    pub fn validate(&self) -> Result<()> {
        if self.temperatures.is_empty() || self.samples == 0 || self.max_new_tokens == 0 {
            return Err(Error::Usage(
                "sampling needs at least one temperature, one sample and one new token".into(),
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Usage(format!(
                "--top-p {} is not above 0 and at most 1",
                self.top_p
            )));
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

    /// The place of a sample in [`Plan::samples`]; none where the plan has no such sample.
    pub fn place(&self, sample: PlannedSample) -> Option<usize> {
        let count = |temperature: f32| match temperature {
            0.0 => 1,
            _ => self.samples as usize,
        };
        let bits = sample.temperature.to_bits();
        let at = (self.temperatures.iter()).position(|t| t.to_bits() == bits)?;
        let before: usize = self.temperatures[..at].iter().map(|t| count(*t)).sum();
        let each: usize = self.temperatures.iter().map(|t| count(*t)).sum();
        let index = sample.sample as usize;
        let first = sample.instruction.checked_mul(each)?;
        (index < count(sample.temperature)).then(|| first.checked_add(before + index))?
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
        // Parquet readers without unsigned 64-bit integers keep 63 bits exactly. Servers take
        // less: llama.cpp's 32 bits, some proxies what a JSON number holds exactly.
        match self.sampler {
            Sampler::Engine => u64::from_le_bytes(first) >> 1,
            Sampler::Endpoint => u64::from_le_bytes(first) >> 33,
        }
    }

    /// What keeps this plan, of `instructions`, from going on with a build that `begun`
    /// began. It may ask for more (samples, temperatures, instructions after those that are
    /// there), and must be the same in everything else.
    pub fn differences(&self, begun: &Plan, instructions: &[Instruction]) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, same: bool, old: &dyn Display, new: &dyn Display| {
            if !same {
                differences.push(format!("{what} was {old} and is now {new}"));
            }
        };
        let equal = |what, old: &Option<String>, new: &Option<String>| {
            let name = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "unknown".into());
            (what, old == new, name(old), name(new))
        };
        compare(
            "the sampler",
            self.sampler == begun.sampler,
            &begun.sampler.name(),
            &self.sampler.name(),
        );
        compare(
            "the model",
            self.model == begun.model,
            &begun.model,
            &self.model,
        );
        for (what, same, old, new) in [
            equal("the model's hash", &begun.model_sha256, &self.model_sha256),
            equal(
                "the chat template's hash",
                &begun.template_sha256,
                &self.template_sha256,
            ),
        ] {
            compare(what, same, &old, &new);
        }
        let dtype = |plan: &Plan| plan.dtype.clone().unwrap_or_else(|| "f32".into());
        compare(
            "--dtype",
            dtype(self) == dtype(begun),
            &dtype(begun),
            &dtype(self),
        );
        compare(
            "the instructions' hash",
            begins_with(instructions, &begun.instructions_sha256),
            &begun.instructions_sha256,
            &format!(
                "{} (new ones may come after those that are there, which must stay as they are)",
                self.instructions_sha256
            ),
        );
        let list = |plan: &Plan| format!("{:?}", plan.temperatures);
        compare(
            "the list of temperatures",
            begun
                .temperatures
                .iter()
                .all(|t| self.temperatures.contains(t)),
            &list(begun),
            &format!("{} (more may be added, none left out)", list(self)),
        );
        compare(
            "the number of samples",
            self.samples >= begun.samples,
            &begun.samples,
            &format!("{} (more may be added, none taken away)", self.samples),
        );
        compare(
            "max-new-tokens",
            self.max_new_tokens == begun.max_new_tokens,
            &begun.max_new_tokens,
            &self.max_new_tokens,
        );
        compare(
            "top-p",
            self.top_p == begun.top_p,
            &begun.top_p,
            &self.top_p,
        );
        compare("the seed", self.seed == begun.seed, &begun.seed, &self.seed);
        differences
    }
}

/// Hash of ids and texts of an instruction set.
pub fn instructions_sha256(instructions: &[Instruction]) -> String {
    let mut hash = Sha256::new();
    for instruction in instructions {
        add(&mut hash, instruction);
    }
    hex(&hash.finalize())
}

/// Whether some of the first instructions, or all, have this hash.
fn begins_with(instructions: &[Instruction], sha256: &str) -> bool {
    let mut hash = Sha256::new();
    instructions.iter().any(|instruction| {
        add(&mut hash, instruction);
        hex(&hash.clone().finalize()) == sha256
    })
}

fn add(hash: &mut Sha256, instruction: &Instruction) {
    for part in [&instruction.id, &instruction.text] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
