//! A head on the model's own state of the chat prompt, trained together with a LoRA adapter
//! under it (`lora-head`), or on the state of a learned token after the prompt (`len-token`,
//! see `len_token`). Predicting merges the adapter and runs the prompt once.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dataset::Instance;
use crate::error::Result;
use crate::kernel::Team;
use crate::kernel::backward::softmax;
use crate::kernel::elementwise::rms_norm;
use crate::lora::{Adapter, peft};
use crate::model::chat::fits;
use crate::model::llama::Llama;
use crate::model::{ChatModel, Checkpoint, ModelFiles};
use crate::train::Training;
use crate::train::length_head::{
    HeadLoss, HeadShape, LengthExamples, LengthHeadConfig, Target, add_head,
};
use crate::train::llama::{LEARNED_TOKENS, Options, TrainableLlama};

use super::calibration::Calibration;
use super::fitted_file::{self, FittedFile};
use super::held_out::HeldOut;
use super::len_token;
use super::prediction::LEVELS;
use super::states::{StateReader, StatesOf};
use super::stored::Kind;
use super::training::TrainingData;
use super::tuning::{OnProgress, Tune, TuneOutcome, WATCHED, finish, run};
use super::{Prediction, Predictor, Quantiles, Query};

const FILE: &str = "length_head.safetensors";
/// What the folder says of its head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    shape: HeadShape,
    /// Blocks of the model that are run.
    depth: usize,
    calibration: Calibration,
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
    let mut checkpoint = Checkpoint::load(tune.files)?;
    let depth = head.depth.unwrap_or(checkpoint.config.num_hidden_layers);
    checkpoint.truncate(depth)?;
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
        smoothing: head.smoothing,
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
                HeadLoss::Distribution => match head.target {
                    Target::Label => shape.spread(&[i.label(data.label)]),
                    Target::Samples => shape.spread(&i.lengths()),
                },
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
    let mut stored = Stored {
        shape,
        depth,
        calibration: Calibration::default(),
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
    let path = tune.out.join(FILE);
    fitted_file::write(&path, &stored, &tensors)?;
    drop(training);
    // Once more, calibrated on what the folder itself says of the validation instructions.
    let tuned = LoraHead::read("", tune.out, tune.files, tune.team.clone())?;
    let held = tuned.readings(
        &data
            .validation
            .iter()
            .map(|i| (i.instruction_id, i.instruction))
            .collect::<Vec<_>>(),
    )?;
    let labels = data.validation_labels();
    stored.calibration = Calibration::fit(&held, &labels, stored.shape.longest);
    fitted_file::write(&path, &stored, &tensors)?;
    let quantiles: Vec<Quantiles> = held.iter().map(|q| stored.calibration.apply(q)).collect();
    HeldOut::write(tune.out, data.validation_ids(), &quantiles)?;
    finish(tune, data, kind)?;
    Ok(outcome)
}

/// A trained head on the model it was trained with.
pub struct LoraHead {
    name: String,
    reader: StateReader,
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
        checkpoint.truncate(stored.depth)?;
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
        let token = llama.config().vocab_size as u32 - 1;
        let suffix = Vec::from_iter(stored.learned_token.then_some(token));
        let chat = Arc::new(ChatModel::with_llama(files, llama)?);
        Ok(LoraHead {
            name: name.to_string(),
            reader: StateReader::with_suffix(chat, suffix)?,
            stored,
            weights,
            norm,
        })
    }

    /// What the head says of each instruction (id and text), not yet calibrated.
    fn readings(&self, instructions: &[(&str, &str)]) -> Result<Vec<Quantiles>> {
        let of = StatesOf {
            last: vec![self.stored.depth],
            mean: Vec::new(),
        };
        let states = self.reader.read(instructions, &of, |_| ())?;
        Ok(states
            .chunks_exact(self.stored.shape.states)
            .map(|state| self.read_out(state))
            .collect())
    }

    fn read_out(&self, state: &[f32]) -> Quantiles {
        let shape = &self.stored.shape;
        let mut normed = vec![0.0; state.len()];
        let eps = self.reader.chat().config().rms_norm_eps;
        rms_norm(state, &self.norm, eps, &mut normed);
        let mut out = shape.forward(&self.weights, &normed, &mut Vec::new());
        Quantiles::new(match shape.loss {
            HeadLoss::LogRegression => {
                [f64::from(out[0]).exp().clamp(1.0, shape.longest); LEVELS.len()]
            }
            HeadLoss::Distribution => {
                softmax(&mut out);
                LEVELS.map(|level| shape.quantile(&out, level))
            }
        })
    }
}

impl Predictor for LoraHead {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        super::need_texts(&self.name, queries.iter().map(|q| q.instruction))?;
        let asked: Vec<(&str, &str)> = queries
            .iter()
            .map(|q| (q.instruction_id, q.instruction))
            .collect();
        let said = self.readings(&asked)?;
        Ok(said
            .iter()
            .map(|q| Prediction::distributed(self.stored.calibration.apply(q)))
            .collect())
    }
}
