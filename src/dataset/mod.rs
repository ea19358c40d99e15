//! The length dataset: a row a sampled response, with what is needed to trust it
//! (seed, temperature, finish reason) and its provenance in the file's metadata.

pub(crate) mod appended;
pub(crate) mod assemble;
pub mod build;
pub mod card;
pub mod describe;
pub mod embedded;
pub mod import;
mod parquet;
pub mod plan;
pub mod store;
mod writer;

pub use appended::StoredSample;
pub use writer::{DatasetWriter, Row};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Why a response ended. `Length` means the limit cut it off: the true length is longer
/// (censored), and statistics must say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it, by an end token.
    Stop,
    /// It reached the limit.
    Length,
}

/// Which part of an instruction set an instruction belongs to. Predictors are fitted on
/// `Train`, choices are made on `Validation`, figures are reported on `Test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To fit predictors on.
    Train,
    /// To make choices on.
    Validation,
    /// To report figures on.
    Test,
}

impl Split {
    /// As in files and on the command line: `train`, `validation`, `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

impl std::str::FromStr for Split {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Split::Train, Split::Validation, Split::Test]
            .into_iter()
            .find(|split| split.name() == name)
            .ok_or_else(|| {
                Error::Usage(format!(
                    "the split `{name}` is none of train, validation and test"
                ))
            })
    }
}

/// One sampled response: a row of the dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Samples of one id are answers to one instruction.
    pub instruction_id: String,
    /// Its text; empty in traces, which do not have it.
    pub instruction: String,
    /// Its kind in the instruction set, as `classification`; none where it does not say.
    pub category: Option<String>,
    /// Its part of the instruction set; none in imported data that does not say.
    pub split: Option<Split>,
    /// Index of the sample among those of one (instruction, temperature).
    pub sample: u32,
    /// 0 means greedy.
    pub temperature: f32,
    /// Of the random numbers that drew it; 0 in imported data.
    pub seed: u64,
    /// Length of the rendered prompt in tokens; 0 where unknown (imported data).
    pub prompt_tokens: u32,
    /// Generated tokens, the end token included.
    pub response_tokens: u32,
    /// Whether it ended or was cut off.
    pub finish_reason: FinishReason,
    /// Its text; none where only lengths were recorded.
    pub response: Option<String>,
    /// When the request came, seconds since the first one; recorded traces have it.
    pub arrival_s: Option<f64>,
}

/// How a property of all samples is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// Whoever sampled the responses wrote it down.
    #[default]
    Recorded,
    /// Concluded from something else that is recorded, as a cut from a length at the limit.
    Inferred,
    /// Nobody said: a stand-in, and statistics must say so.
    Assumed,
}

impl Known {
    /// As in a file's metadata: `recorded`, `inferred`, `assumed`.
    pub fn name(self) -> &'static str {
        match self {
            Known::Recorded => "recorded",
            Known::Inferred => "inferred",
            Known::Assumed => "assumed",
        }
    }

    /// The one of that name; `Recorded` for any other, as in files that do not say.
    pub fn named(name: &str) -> Known {
        [Known::Inferred, Known::Assumed]
            .into_iter()
            .find(|known| known.name() == name)
            .unwrap_or_default()
    }
}

/// Where a dataset is from; kept in the Parquet file's metadata.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// Whose responses these are, by name.
    pub model: String,
    /// Hash of its weights; none where unknown.
    pub model_sha256: Option<String>,
    /// Hash of the chat template the prompts were rendered by; none where unknown.
    pub template_sha256: Option<String>,
    /// The limit of the responses' lengths; 0 where unknown (imported data).
    pub max_new_tokens: u32,
    /// How it is known why responses ended. `Assumed`: all are marked `stop`, and how many of
    /// them were cut off is unknown.
    pub finish_reasons: Known,
    /// With how many bits the engine computed; none where unknown.
    pub dtype: Option<String>,
    /// `Assumed`: all temperatures are 0 as a stand-in.
    pub temperatures: Known,
    /// The version of `lenaware` that wrote the file.
    pub tool_version: String,
    /// The commit that version was built from; none where unknown.
    pub git_commit: Option<String>,
    /// Share of the probability that tokens were drawn from; none where unknown.
    pub top_p: Option<f32>,
    /// `engine` (this tool's own) or `endpoint`; none where unknown.
    pub sampler: Option<String>,
    /// Scheme, host and port of the server that answered.
    pub endpoint: Option<String>,
    /// What the server called the model in its answers.
    pub served_model: Option<String>,
}

/// A whole length dataset in memory, rows in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthDataset {
    /// Where it is from.
    pub provenance: Provenance,
    /// All of them, in the order of the file.
    pub samples: Vec<Sample>,
}

/// One instruction with all its samples.
#[derive(Debug, Clone)]
pub struct Instance<'a> {
    /// As [`Sample::instruction_id`].
    pub instruction_id: &'a str,
    /// Its text; empty in traces.
    pub instruction: &'a str,
    /// As [`Sample::category`].
    pub category: Option<&'a str>,
    /// As [`Sample::split`].
    pub split: Option<Split>,
    /// At least one, in the order of the file.
    pub samples: Vec<&'a Sample>,
}

/// How the several lengths of one instruction become one label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// The longest: the paper's, for batches that no row may outlast.
    Max,
    /// Their arithmetic mean.
    Mean,
    /// Linear interpolation between order statistics, `0 <= q <= 1`.
    Quantile(f64),
}

impl std::str::FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "max" => Ok(Label::Max),
            "mean" => Ok(Label::Mean),
            other => match other.parse::<f64>() {
                Ok(q) if (0.0..=1.0).contains(&q) => Ok(Label::Quantile(q)),
                _ => Err(Error::Usage(format!(
                    "label `{other}` is neither `max`, `mean` nor a quantile between 0 and 1"
                ))),
            },
        }
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Max => write!(f, "max"),
            Label::Mean => write!(f, "mean"),
            Label::Quantile(q) => write!(f, "{q}"),
        }
    }
}

impl Label {
    /// The label of a non-empty list of lengths, in tokens.
    pub fn of(&self, lengths: &[f64]) -> f64 {
        match self {
            Label::Max => lengths.iter().copied().fold(f64::MIN, f64::max),
            Label::Mean => lengths.iter().sum::<f64>() / lengths.len() as f64,
            Label::Quantile(q) => crate::evaluate::statistics::quantile(lengths, *q),
        }
    }
}

impl Instance<'_> {
    /// Lengths of its samples, in tokens, in the order of the file.
    pub fn lengths(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|s| f64::from(s.response_tokens))
            .collect()
    }

    /// The label of all its samples, in tokens.
    pub fn label(&self, label: Label) -> f64 {
        label.of(&self.lengths())
    }
}

impl LengthDataset {
    /// The samples by instruction, in the order of first appearance.
    pub fn instances(&self) -> Vec<Instance<'_>> {
        let mut place = std::collections::HashMap::new();
        let mut instances: Vec<Instance<'_>> = Vec::new();
        for sample in &self.samples {
            let at = *place
                .entry(sample.instruction_id.as_str())
                .or_insert_with(|| {
                    instances.push(Instance {
                        instruction_id: &sample.instruction_id,
                        instruction: &sample.instruction,
                        category: sample.category.as_deref(),
                        split: sample.split,
                        samples: Vec::new(),
                    });
                    instances.len() - 1
                });
            instances[at].samples.push(sample);
        }
        instances
    }

    /// Samples that the limit cut off.
    pub fn censored(&self) -> usize {
        self.samples
            .iter()
            .filter(|s| s.finish_reason == FinishReason::Length)
            .count()
    }

    /// The instructions predictors may be fitted on: those of the training split, or all where
    /// the dataset has no splits.
    pub fn training_instances(&self) -> Vec<Instance<'_>> {
        let mut instances = self.instances();
        if instances.iter().any(|i| i.split == Some(Split::Train)) {
            instances.retain(|i| i.split == Some(Split::Train));
        }
        instances
    }

    /// The part of the dataset that belongs to `split`. A dataset without splits (imported
    /// data) is returned whole only where `split` is `None`.
    pub fn of_split(&self, split: Option<Split>) -> LengthDataset {
        LengthDataset {
            provenance: self.provenance.clone(),
            samples: self
                .samples
                .iter()
                .filter(|s| split.is_none() || s.split == split)
                .cloned()
                .collect(),
        }
    }
}
