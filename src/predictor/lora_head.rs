//! A head on the model's own state of the chat prompt, trained together with a LoRA adapter
//! under it (`lora-head`), or on the state of a learned token after the prompt (`len-token`,
//! see `len_token`). Predicting merges the adapter and runs the prompt once.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dataset::{Instance, Label};
use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::kernel::backward::softmax;
use crate::kernel::elementwise::rms_norm;
use crate::lora::{Adapter, peft};
use crate::model::capture::Capture;
use crate::model::chat::fits;
use crate::model::llama::{Chunk, Llama, Workspace};
use crate::model::{ChatModel, Checkpoint, ModelFiles};
use crate::train::Training;
use crate::train::length_head::{HeadLoss, HeadShape, LengthExamples, LengthHeadConfig, add_head};
use crate::train::llama::{LEARNED_TOKENS, Options, TrainableLlama};

use super::fitted_file::{self, FittedFile};
use super::len_token;
use super::prediction::LEVELS;
use super::stored::Kind;
use super::training::TrainingData;
use super::tuning::{OnProgress, Tune, TuneOutcome, WATCHED, finish, run};
use super::{Prediction, Predictor, Quantiles, Query};

const FILE: &str = "length_head.safetensors";
/// Prompt tokens run in one pass, and prompts.
const PASS_TOKENS: usize = 512;
const SLOTS: usize = 32;

/// How a predicted distribution becomes one number, as the label asks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reading {
    Mean,
    Quantile(f64),
}

impl Reading {
    /// Of `samples` answers, the longest lies above the quantile 0.5^(1 / samples) as often as
    /// below.
    fn of(label: Label, samples: f64) -> Reading {
        match label {
            Label::Mean => Reading::Mean,
            Label::Max => Reading::Quantile(0.5f64.powf(1.0 / samples.max(1.0))),
            Label::Quantile(q) => Reading::Quantile(q),
        }
    }
}

/// What the folder says of its head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    shape: HeadShape,
    reading: Reading,
    adapter: bool,
    learned_token: bool,
}

/// Trains a head of `kind` ([`Kind::LoraHead`] or [`Kind::LenToken`]).
///
/// # Errors
/// As for a LoRA adapter: a prompt that does not fit, a loss that is not a number, a folder
/// that cannot be written, an interruption.
pub fn train_lora_head(
    tune: &Tune<'_>,
    kind: Kind,
    head: &LengthHeadConfig,
    data: &TrainingData<'_>,
    on_progress: OnProgress<'_>,
) -> Result<TuneOutcome> {
    head.validate()?;
    let checkpoint = Checkpoint::load(tune.files)?;
    let shape_of = &checkpoint.config;
    let learned = kind == Kind::LenToken;
    let config = &tune.config;
    let adapter = match tune.lora.r {
        0 => None,
        _ => {
            let name = &tune.files.name;
            Some(Adapter::new(
                tune.lora.clone(),
                shape_of,
                name,
                config.seed,
            )?)
        }
    };
    let options = Options {
        arithmetic: config.dtype.arithmetic(),
        without_vocabulary: true,
        learned_tokens: usize::from(learned),
        ..Options::default()
    };
    let norm = checkpoint.f32_values("model.norm.weight")?;
    let size = norm.iter().map(|w| w * w).sum::<f32>() / norm.len() as f32;
    let all = data.train.iter().flat_map(Instance::lengths);
    let shape = HeadShape {
        loss: head.loss.unwrap_or(match learned {
            true => len_token::LOSS,
            false => HeadLoss::Distribution,
        }),
        states: shape_of.hidden_size,
        hidden: head.hidden,
        bins: head.bins,
        longest: all.fold(1.0, f64::max),
        scale: 1.0 / size.max(1e-12).sqrt(),
    };
    let prompts = |of: &[Instance<'_>]| -> Result<Vec<Vec<u32>>> {
        let limit = shape_of.max_position_embeddings;
        of.iter()
            .map(|i| {
                let text = tune.template.render(i.instruction)?;
                let mut prompt = tune.tokenizer.encode(&text)?;
                fits(i.instruction_id, prompt.len(), usize::from(learned), limit)
                    .map_err(|e| e.from_file(&data.name))?;
                prompt.extend(learned.then_some(shape_of.vocab_size as u32));
                Ok(prompt)
            })
            .collect()
    };
    let targets = |of: &[Instance<'_>]| -> Vec<Vec<f32>> {
        of.iter()
            .map(|i| match shape.loss {
                HeadLoss::Distribution => shape.spread(&i.lengths()),
                HeadLoss::LogRegression => vec![i.label(data.label).max(1.0).ln() as f32],
            })
            .collect()
    };
    let watched = &data.validation[..data.validation.len().min(WATCHED)];
    let train_targets = targets(&data.train);
    let (train_prompts, watched_prompts) = (prompts(&data.train)?, prompts(watched)?);
    let has_adapter = adapter.is_some();
    let mut model = TrainableLlama::with_options(&checkpoint, adapter, tune.team.clone(), options)?;
    drop(checkpoint);
    let rate = head.learning_rate / config.learning_rate;
    let weights = add_head(
        &mut model.parameters,
        &shape,
        &train_targets,
        rate,
        config.seed,
    );
    let examples = |prompts, targets| LengthExamples {
        shape: shape.clone(),
        weights: weights.clone(),
        prompts,
        targets,
    };
    let train = examples(train_prompts, train_targets);
    let watched = examples(watched_prompts, targets(watched));
    let mut training = Training::new(model, config.clone())?;
    let outcome = run(tune, &mut training, &train, &watched, on_progress)?;
    let samples: usize = data.train.iter().map(|i| i.samples.len()).sum();
    let stored = Stored {
        shape: shape.clone(),
        reading: Reading::of(data.label, samples as f64 / data.train.len() as f64),
        adapter: has_adapter,
        learned_token: learned,
    };
    let parameters = &training.model.parameters;
    let token = parameters.get(LEARNED_TOKENS).unwrap_or_default();
    let tensors = [
        ("weights", fitted_file::tensor(&parameters.values[weights])?),
        ("learned_token", fitted_file::tensor(token)?),
    ];
    if has_adapter {
        peft::write(&training.model.adapter()?, tune.out)?;
    }
    fitted_file::write(&tune.out.join(FILE), &stored, &tensors)?;
    finish(tune, data, kind)?;
    Ok(outcome)
}

/// A trained head on the model it was trained with.
pub struct LoraHead {
    name: String,
    chat: ChatModel,
    stored: Stored,
    weights: Vec<f32>,
    norm: Vec<f32>,
}

impl LoraHead {
    /// Reads what [`train_lora_head`] wrote; `files` are those of the model it was trained on.
    ///
    /// # Errors
    /// Missing or damaged files, another model's.
    pub fn read(name: &str, dir: &Path, files: &ModelFiles, team: Arc<Team>) -> Result<LoraHead> {
        let file: FittedFile<Stored> = FittedFile::read(&dir.join(FILE))?;
        let stored = file.settings.clone();
        let (weights, token) = (file.f32s("weights")?, file.f32s("learned_token")?);
        let mut checkpoint = Checkpoint::load(files)?;
        let hidden = checkpoint.config.hidden_size;
        let shape = &stored.shape;
        let sane = shape.states == hidden
            && (2..=1000).contains(&shape.bins)
            && shape.hidden <= 1 << 14
            && shape.longest.is_finite()
            && shape.longest > 0.0;
        if !sane || shape.parameters() != weights.len() {
            return Err(file.damaged("its head does not fit the model"));
        }
        if token.len() != if stored.learned_token { hidden } else { 0 } {
            return Err(file.damaged("its token does not fit the model"));
        }
        if stored.adapter {
            peft::read(dir)?.merge_into(&mut checkpoint)?;
        }
        if stored.learned_token {
            len_token::append(&mut checkpoint, &token)?;
        }
        let norm = checkpoint.f32_values("model.norm.weight")?;
        let llama = Llama::new(&checkpoint, team)?;
        Ok(LoraHead {
            name: name.to_string(),
            chat: ChatModel::with_llama(files, llama)?,
            stored,
            weights,
            norm,
        })
    }

    /// The last states of prompts, after all blocks: `[prompt][hidden]`.
    fn states(&self, prompts: &[Vec<u32>]) -> Result<Vec<f32>> {
        let llama = self.chat.llama();
        let Some(first) = prompts.first() else {
            return Ok(Vec::new());
        };
        // What all begin with is run once, in slot 0, but for the last token of each.
        let shared = prompts
            .iter()
            .map(|p| {
                let same = first.iter().zip(p).take_while(|(a, b)| a == b).count();
                same.min(p.len() - 1)
            })
            .min()
            .unwrap_or(0);
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let mut cache = llama.new_cache(SLOTS + 1, longest)?;
        let mut workspace = Workspace::default();
        if shared > 0 {
            let chunk = Chunk {
                slot: 0,
                tokens: &first[..shared],
                logits: false,
            };
            llama.forward(&[chunk], &mut cache, &mut workspace, None)?;
        }
        let (mut states, mut rest) = (Vec::new(), prompts);
        while !rest.is_empty() {
            let mut tokens = 0;
            let fitting = rest.iter().take(SLOTS).take_while(|p| {
                tokens += p.len() - shared;
                tokens <= PASS_TOKENS
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            let mut chunks = Vec::with_capacity(now.len());
            for (index, prompt) in now.iter().enumerate() {
                cache.copy_prefix(0, index + 1, shared);
                chunks.push(Chunk {
                    slot: index + 1,
                    tokens: &prompt[shared..],
                    logits: false,
                });
            }
            let mut capture = Capture {
                last: vec![llama.config().num_hidden_layers],
                ..Capture::default()
            };
            llama.forward(&chunks, &mut cache, &mut workspace, Some(&mut capture))?;
            states.append(&mut capture.states);
            rest = later;
        }
        Ok(states)
    }

    fn read_out(&self, state: &[f32]) -> Prediction {
        let shape = &self.stored.shape;
        let mut normed = vec![0.0; state.len()];
        let eps = self.chat.config().rms_norm_eps;
        rms_norm(state, &self.norm, eps, &mut normed);
        let mut out = shape.forward(&self.weights, &normed, &mut Vec::new());
        match shape.loss {
            HeadLoss::LogRegression => Prediction::of(f64::from(out[0]).exp().clamp(1.0, 1e6)),
            HeadLoss::Distribution => {
                softmax(&mut out);
                let tokens = match self.stored.reading {
                    Reading::Mean => shape.mean(&out),
                    Reading::Quantile(q) => shape.quantile(&out, q),
                };
                let quantiles = LEVELS.map(|level| shape.quantile(&out, level));
                Prediction {
                    quantiles: Some(Quantiles::new(quantiles)),
                    ..Prediction::of(tokens.max(1.0))
                }
            }
        }
    }
}

impl Predictor for LoraHead {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        super::need_texts(&self.name, queries.iter().map(|q| q.instruction))?;
        let learned = self.stored.learned_token;
        let token = self.chat.config().vocab_size as u32 - 1;
        let prompts = queries
            .iter()
            .map(|q| {
                let (id, text) = (q.instruction_id, q.instruction);
                let mut prompt = self.chat.fitting_prompt(id, text, usize::from(learned))?;
                prompt.extend(learned.then_some(token));
                Ok(prompt)
            })
            .collect::<Result<Vec<_>>>()?;
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::Usage(
                "the chat template renders an empty prompt".into(),
            ));
        }
        let states = self.states(&prompts)?;
        let width = self.stored.shape.states;
        Ok(states
            .chunks_exact(width)
            .map(|s| self.read_out(s))
            .collect())
    }
}
