//! The requests of an experiment: which instructions are served, and how long their recorded
//! answers are.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::chat::ChatModel;
use crate::chat::fits;
use crate::config::{Experiment, Served};
use crate::dataset::{Instance, LengthDataset, Split};
use crate::error::{Error, Result};
use crate::execute::LiveRequest;
use crate::model::ModelConfig;
use crate::predictor::seen::Seen;

/// Tokens of the vicuna_v1.1 template around an instruction, in Llama's tokenizer.
const VICUNA_TEMPLATE: usize = 40;

/// Tokens of a prompt whose length is not recorded: the template's, and one for every four
/// characters.
fn estimated_prompt(instruction: &str) -> usize {
    VICUNA_TEMPLATE + instruction.chars().count().div_ceil(4)
}

/// The test split of a dataset without splits: what no predictor of the experiment was trained on.
/// Nothing where none says what it was trained on, or all is known.
fn keep_unseen(
    experiment: &Experiment,
    instances: &mut Vec<Instance<'_>>,
) -> Result<Option<String>> {
    let mut seen = Seen::default();
    for arm in &experiment.arms {
        seen = seen.and(Seen::by(&arm.predictor)?);
    }
    if seen.is_empty() || instances.iter().all(|i| seen.has(i)) {
        instances.clear();
        return Ok(None);
    }
    let all = instances.len();
    seen.keep_unseen(instances);
    Ok(Some(format!(
        "The dataset has no splits: the {} of {all} instructions that no predictor here was trained \
         on are served.",
        instances.len()
    )))
}

/// The requests of an experiment, in the order of the dataset.
pub struct Workload<'d> {
    /// By request: its instruction with all recorded answers.
    pub instances: Vec<Instance<'d>>,
    pub(super) served: Served,
    /// By request, where every answer is served: which one, and the place of its instruction.
    answers: Vec<(usize, u32)>,
    /// What is to be said where the dataset has no splits and only what no predictor was trained
    /// on is served.
    unseen: Option<String>,
}

impl<'d> Workload<'d> {
    /// The instructions of the experiment's split, as many as it asks for.
    ///
    /// # Errors
    /// An empty split, or an instruction without a sample at the served temperature.
    pub fn of(experiment: &Experiment, dataset: &'d LengthDataset) -> Result<Workload<'d>> {
        let asked = &experiment.workload;
        let mut instances = dataset.instances();
        let has_splits = instances.iter().any(|i| i.split.is_some());
        let mut unseen = None;
        if asked.split == Some(Split::Test) && !has_splits {
            unseen = keep_unseen(experiment, &mut instances)?;
        } else if asked.split.is_some() {
            instances.retain(|i| i.split == asked.split);
        }
        instances.truncate(asked.limit.unwrap_or(usize::MAX));
        if instances.is_empty() {
            return Err(Error::Usage(format!(
                "the workload is empty: {} has no instructions of the split `{}`{}",
                asked.dataset,
                asked.split.map_or("all", Split::name),
                match has_splits {
                    true => "",
                    false => {
                        ", nor any other: leave `split` out to serve all, or train with --hold-out \
                         and `split = \"test\"` serves what no predictor was trained on"
                    }
                }
            )));
        }
        let mut answers = Vec::new();
        if asked.served == Served::All {
            let counts = instances.iter().map(|i| i.samples.len());
            answers = (counts.enumerate())
                .flat_map(|(group, count)| (0..count).map(move |sample| (sample, group as u32)))
                .collect();
            instances = (answers.iter())
                .map(|(_, group)| instances[*group as usize].clone())
                .collect();
        }
        let workload = Workload {
            instances,
            served: asked.served,
            answers,
            unseen,
        };
        workload.lengths(0)?;
        Ok(workload)
    }

    /// Which predictors of the experiment were trained on instructions that are served here.
    ///
    /// # Errors
    /// A damaged predictor's folder.
    pub(super) fn remembered(&self, experiment: &Experiment) -> Result<Vec<String>> {
        let mut names: Vec<&str> = Vec::new();
        for arm in &experiment.arms {
            if !names.contains(&arm.predictor.as_str()) {
                names.push(&arm.predictor);
            }
        }
        let mut notes: Vec<String> = self.unseen.iter().cloned().collect();
        for name in names {
            notes.extend(Seen::by(name)?.warning(name, &self.instances));
        }
        Ok(notes)
    }

    /// Served response lengths by request, tokens.
    ///
    /// # Errors
    /// An instruction without a sample at the served temperature.
    pub fn lengths(&self, seed: u64) -> Result<Vec<usize>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.instances
            .iter()
            .enumerate()
            .map(|(request, instance)| {
                let sample = match self.served {
                    Served::All => &instance.samples[self.answers[request].0],
                    Served::Temperature(t) => instance
                        .samples
                        .iter()
                        .find(|s| s.temperature == t)
                        .ok_or_else(|| {
                            Error::Usage(format!(
                                "the instruction `{}` has no sample at temperature {t}: change \
                                 `served`",
                                instance.instruction_id
                            ))
                        })?,
                    Served::Random => {
                        &instance.samples[rng.random_range(0..instance.samples.len())]
                    }
                };
                Ok(sample.response_tokens as usize)
            })
            .collect()
    }

    /// By request: the place of its instruction, where answers to one are awaited together.
    pub(super) fn groups(&self) -> Option<Vec<u32>> {
        let all = self.served == Served::All;
        all.then(|| self.answers.iter().map(|(_, group)| *group).collect())
    }

    /// Prompt lengths by request, tokens; where the dataset does not know one but has its text it
    /// is estimated, and how many were.
    pub(super) fn estimated_prompts(&self) -> (Vec<usize>, usize) {
        let mut estimated = 0;
        let lengths = self.instances.iter().map(|instance| {
            match (instance.samples[0].prompt_tokens, instance.instruction) {
                (0, text) if !text.is_empty() => {
                    estimated += 1;
                    estimated_prompt(text)
                }
                (known, _) => known as usize,
            }
        });
        (lengths.collect(), estimated)
    }

    /// Prompt lengths by request, tokens; 0 where the dataset does not know.
    pub(super) fn prompt_tokens(&self) -> Vec<usize> {
        self.instances
            .iter()
            .map(|i| i.samples[0].prompt_tokens as usize)
            .collect()
    }

    /// Requests for a model without a text side: prompts as long as they were recorded, of
    /// tokens that mean nothing. Where the dataset does not know a prompt's length it is
    /// estimated as Vicuna's template and a token for every four characters.
    ///
    /// # Errors
    /// A prompt that does not fit the model with `new_tokens`.
    pub(super) fn filler_requests(
        &self,
        config: &ModelConfig,
        new_tokens: usize,
    ) -> Result<Vec<LiveRequest>> {
        let vocab = config.vocab_size;
        let most = config.max_position_embeddings;
        let requests = self.instances.iter().enumerate();
        requests
            .map(|(index, instance)| {
                let len = match instance.samples[0].prompt_tokens as usize {
                    0 => estimated_prompt(instance.instruction),
                    known => known,
                };
                fits(instance.instruction_id, len, new_tokens, most)?;
                let tokens = (0..len).map(|i| ((index * 7919 + i * 104_729 + 17) % vocab) as u32);
                Ok(LiveRequest {
                    prompt: tokens.collect::<Vec<u32>>().into(),
                    temperature: 0.0,
                    seed: 0,
                })
            })
            .collect()
    }

    /// The requests as the real model gets them; `forced` where lengths are replayed.
    pub(super) fn live_requests(
        &self,
        chat: &ChatModel,
        new_tokens: usize,
        forced: bool,
    ) -> Result<Vec<LiveRequest>> {
        let temperature = match self.served {
            Served::Temperature(t) => t,
            // Lengths are forced, and the draws that make them do not matter.
            Served::Random | Served::All if forced => 0.0,
            Served::Random | Served::All => {
                return Err(Error::Usage(
                    "`served = \"random\"` and `\"all\"` need recorded answers: use \
                     `kind = \"replay\"` or `kind = \"live-forced\"`"
                        .into(),
                ));
            }
        };
        let texts = self.instances.iter().map(|i| i.instruction);
        crate::predictor::need_texts("the live executor", texts)?;
        self.instances
            .iter()
            .map(|instance| {
                let sample = instance
                    .samples
                    .iter()
                    .find(|s| s.temperature == temperature);
                let (id, text) = (instance.instruction_id, instance.instruction);
                Ok(LiveRequest {
                    prompt: chat.fitting_prompt(id, text, new_tokens)?.into(),
                    temperature,
                    seed: sample.map_or(0, |s| s.seed),
                })
            })
            .collect()
    }
}
