//! Training the predictors that are trained, each into a folder of its own.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset::{Instance, Label, LengthDataset, Split};
use crate::error::{Error, Result};
use crate::evaluate::statistics::median;
use crate::kernel::Team;
use crate::lora::{Adapter, LoraConfig, peft};
use crate::model::chat::fits;
use crate::model::{ChatModel, Checkpoint, ModelFiles, TextTokenizer};
use crate::persist;
use crate::report::figures::loss_curve;
use crate::train::llama::TrainableLlama;
use crate::train::{Example, StepRecord, TrainConfig, Training, mean_loss};

use super::asked::question;
use super::ridge::{self, Examples, Trial};
use super::states::{StateReader, StatesOf};
use super::stored::{Description, Kind};

/// Targets of instruction tuning are rounded up to multiples of this (paper, section 3.2).
const TARGET_CELL: f64 = 50.0;
/// A checkpoint is written every so many steps.
const CHECKPOINT_EVERY: usize = 20;
/// Validation instructions whose loss is watched.
const WATCHED: usize = 32;

/// The parts of a dataset that training sees; the test split is never among them.
pub struct TrainingData<'d> {
    pub name: String,
    pub label: Label,
    pub train: Vec<Instance<'d>>,
    pub validation: Vec<Instance<'d>>,
}

impl<'d> TrainingData<'d> {
    /// The dataset's own splits; where it has none, every tenth instruction is for validation.
    ///
    /// # Errors
    /// Too few instructions to train and choose on.
    pub fn of(name: &str, dataset: &'d LengthDataset, label: Label) -> Result<TrainingData<'d>> {
        let instances = dataset.instances();
        super::need_texts("training", instances.iter().map(|i| i.instruction))?;
        let of = |split| -> Vec<Instance<'d>> {
            instances
                .iter()
                .filter(|i| i.split == Some(split))
                .cloned()
                .collect()
        };
        let (mut train, mut validation) = (of(Split::Train), of(Split::Validation));
        if train.is_empty() {
            train = instances.clone();
        }
        if validation.is_empty() {
            let (chosen, rest): (Vec<_>, Vec<_>) = train
                .into_iter()
                .enumerate()
                .partition(|(index, _)| index % 10 == 9);
            validation = chosen.into_iter().map(|(_, i)| i).collect();
            train = rest.into_iter().map(|(_, i)| i).collect();
        }
        if train.len() < 2 || validation.is_empty() {
            return Err(Error::Usage(format!(
                "{name} has {} instructions to train on: sample more",
                train.len()
            )));
        }
        Ok(TrainingData {
            name: name.to_string(),
            label,
            train,
            validation,
        })
    }

    /// Keeps the first instructions only.
    pub fn truncate(&mut self, train: usize) {
        self.train.truncate(train.max(2));
    }

    fn labels(&self, of: &[Instance<'_>]) -> Vec<f64> {
        of.iter().map(|i| i.label(self.label)).collect()
    }

    /// The texts of the training instructions.
    pub fn train_texts(&self) -> Vec<&'d str> {
        self.train.iter().map(|i| i.instruction).collect()
    }

    /// The labels of the training instructions, tokens.
    pub fn train_labels(&self) -> Vec<f64> {
        self.labels(&self.train)
    }

    /// The texts of the validation instructions.
    pub fn validation_texts(&self) -> Vec<&'d str> {
        self.validation.iter().map(|i| i.instruction).collect()
    }

    /// The labels of the validation instructions, tokens.
    pub fn validation_labels(&self) -> Vec<f64> {
        self.labels(&self.validation)
    }

    /// Texts and labels of what is fitted on once all is chosen: the training instructions,
    /// and those of validation where `refit` says so.
    pub fn for_final_fit(&self, refit: bool) -> (Vec<&'d str>, Vec<f64>) {
        let (mut texts, mut labels) = (self.train_texts(), self.train_labels());
        if refit {
            texts.extend(self.validation_texts());
            labels.extend(self.validation_labels());
        }
        (texts, labels)
    }

    /// Describes a predictor that looks into no model, fitted on so many instructions.
    pub(super) fn describe_words(&self, kind: Kind, instructions: usize) -> Description {
        Description {
            kind,
            label: self.label.to_string(),
            model: String::new(),
            model_sha256: String::new(),
            chat_template: None,
            dataset: self.name.clone(),
            training_instructions: instructions,
            training_median: median(&self.labels(&self.train)),
            tool_version: env!("CARGO_PKG_VERSION").into(),
            dataset_model: None,
            training_s: None,
        }
    }

    /// Describes a predictor that looks into a model, fitted on so many instructions.
    pub(super) fn describe(
        &self,
        kind: Kind,
        files: &ModelFiles,
        instructions: usize,
    ) -> Result<Description> {
        Ok(Description {
            model: files.name.clone(),
            model_sha256: files.sha256()?,
            chat_template: files.chat_template.clone(),
            ..self.describe_words(kind, instructions)
        })
    }
}

/// Fits the ridge into `out`; returns how every layer and penalty did on validation.
///
/// # Errors
/// A prompt that does not fit the model, or a folder that cannot be written.
pub fn train_ridge(
    files: &ModelFiles,
    chat: Arc<ChatModel>,
    data: &TrainingData<'_>,
    out: &Path,
    mut on_progress: impl FnMut(usize),
) -> Result<Vec<Trial>> {
    let layers = ridge::candidate_layers(chat.config().num_hidden_layers);
    let reader = StateReader::new(chat)?;
    let of_layers = StatesOf {
        last: layers.clone(),
        mean: Vec::new(),
    };
    let run = |of: &[Instance<'_>], done: usize, on: &mut dyn FnMut(usize)| {
        let asked: Vec<(&str, &str)> = of
            .iter()
            .map(|i| (i.instruction_id, i.instruction))
            .collect();
        reader
            .read(&asked, &of_layers, |n| on(done + n))
            .map_err(|e| e.from_file(&data.name))
    };
    let train_states = run(&data.train, 0, &mut on_progress)?;
    let validation_states = run(&data.validation, data.train.len(), &mut on_progress)?;
    let (train_labels, validation_labels) =
        (data.labels(&data.train), data.labels(&data.validation));
    let (fitted, trials) = ridge::fit(
        &layers,
        &Examples {
            states: &train_states,
            labels: &train_labels,
        },
        &Examples {
            states: &validation_states,
            labels: &validation_labels,
        },
    )?;
    fitted.write(out)?;
    data.describe(Kind::Ridge, files, data.train.len())?
        .write(out)?;
    Ok(trials)
}

/// What a LoRA run reports of itself after a step.
pub struct LoraProgress<'a> {
    pub record: &'a StepRecord,
    pub total_steps: usize,
}

/// The outcome of a LoRA run.
#[derive(Debug, Clone)]
pub struct LoraOutcome {
    pub steps: usize,
    pub loss: f64,
    /// (step, mean loss on validation targets).
    pub validation: Vec<(usize, f64)>,
    pub curve: PathBuf,
}

/// Tunes an adapter for the perception-only prompt into `out`, continuing from the checkpoint
/// there if `resume` says so.
///
/// # Errors
/// A loss that is not a number, a folder that cannot be written, or [`Error::Interrupted`]
/// with a checkpoint kept.
#[allow(clippy::too_many_arguments)]
pub fn train_lora(
    files: &ModelFiles,
    tokenizer: (&TextTokenizer, &crate::model::ChatTemplate),
    team: Arc<Team>,
    data: &TrainingData<'_>,
    lora: LoraConfig,
    config: TrainConfig,
    out: &Path,
    resume: bool,
    on_progress: &mut dyn FnMut(&LoraProgress<'_>) -> ControlFlow<()>,
) -> Result<LoraOutcome> {
    let checkpoint = Checkpoint::load(files)?;
    let end = *checkpoint
        .config
        .eos_token_ids
        .first()
        .ok_or_else(|| Error::Usage("the model names no end token".into()))?;
    let examples = |of: &[Instance<'_>]| -> Result<Vec<Example>> {
        of.iter()
            .map(|instance| {
                let example = example(tokenizer, instance, data.label, end)?;
                let (prompt, target) = (example.prompt.len(), example.target.len());
                let limit = checkpoint.config.max_position_embeddings;
                fits(instance.instruction_id, prompt, target, limit)
                    .map_err(|e| e.from_file(&data.name))?;
                Ok(example)
            })
            .collect()
    };
    let train = examples(&data.train)?;
    let mut watched = examples(&data.validation)?;
    watched.truncate(WATCHED);
    let adapter = Adapter::new(lora, &checkpoint.config, &files.name, config.seed)?;
    let model = TrainableLlama::new(&checkpoint, adapter, team)?;
    drop(checkpoint);
    let micro_batch = config.micro_batch_size;
    let total_steps = config.total_steps(train.len());
    let watch_every = (total_steps / 3).max(1);
    let mut training = Training::new(model, config)?;
    let state = out.join("checkpoint.safetensors");
    let mut log = Log::default();
    if resume && state.exists() {
        training.restore(&state)?;
        log = Log::read(out, training.step)?;
    }
    let mut stopped = false;
    training.run(&train, &mut |training, record| {
        log.steps.push(record.clone());
        if training.step % watch_every == 0 || training.step == total_steps {
            let loss = mean_loss(&training.model, &watched, micro_batch)?;
            log.validation.push((training.step, loss));
        }
        stopped = on_progress(&LoraProgress {
            record,
            total_steps,
        })
        .is_break();
        if (stopped || training.step % CHECKPOINT_EVERY == 0) && training.step < total_steps {
            log.write(out)?;
            training.save(&state)?;
        }
        Ok(if stopped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    if stopped && training.step < total_steps {
        return Err(Error::Interrupted(format!(
            "stopped after step {} of {total_steps}, kept in {}: the same command with --resume \
             continues",
            training.step,
            out.display()
        )));
    }
    log.write(out)?;
    peft::write(&training.model.adapter()?, out)?;
    let points: Vec<(u64, f64)> = log.steps.iter().map(|r| (r.step as u64, r.loss)).collect();
    let watched: Vec<(u64, f64)> = log.validation.iter().map(|v| (v.0 as u64, v.1)).collect();
    loss_curve(&out.join("loss"), &points, &watched)?;
    // The description last: a folder that has it is complete.
    data.describe(Kind::Lora, files, data.train.len())?
        .write(out)?;
    if state.exists() {
        std::fs::remove_file(&state).map_err(|e| Error::io(&state, e))?;
    }
    Ok(LoraOutcome {
        steps: training.step,
        loss: log.steps.last().map_or(f64::NAN, |r| r.loss),
        validation: log.validation,
        curve: out.join("loss.svg"),
    })
}

/// The perception-only prompt and the label, rounded up, as its answer.
fn example(
    (tokenizer, template): (&TextTokenizer, &crate::model::ChatTemplate),
    instance: &Instance<'_>,
    label: Label,
    end: u32,
) -> Result<Example> {
    let tokens = (instance.label(label) / TARGET_CELL).ceil().max(1.0) * TARGET_CELL;
    let mut target = tokenizer.encode(&format!("{tokens:.0}"))?;
    target.push(end);
    Ok(Example {
        prompt: tokenizer.encode(&template.render(&question(instance.instruction))?)?,
        target,
    })
}

/// `loss.csv` and `validation.csv` of a training run.
#[derive(Default)]
struct Log {
    steps: Vec<StepRecord>,
    validation: Vec<(usize, f64)>,
}

impl Log {
    fn write(&self, out: &Path) -> Result<()> {
        let mut text = String::from("step,loss,learning_rate,grad_norm,tokens_per_s\n");
        for r in &self.steps {
            text.push_str(&format!(
                "{},{},{},{},{:.1}\n",
                r.step, r.loss, r.learning_rate, r.grad_norm, r.tokens_per_s
            ));
        }
        persist::write(&out.join("loss.csv"), text.as_bytes())?;
        let mut text = String::from("step,validation_loss\n");
        for (step, loss) in &self.validation {
            text.push_str(&format!("{step},{loss}\n"));
        }
        persist::write(&out.join("validation.csv"), text.as_bytes())
    }

    /// What was logged up to `step`.
    fn read(out: &Path, step: usize) -> Result<Log> {
        fn rows<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<Vec<T>> {
            let damaged = |e: csv::Error| Error::malformed(&path, format!("is damaged: {e}"));
            csv::Reader::from_path(&path)
                .map_err(damaged)?
                .deserialize()
                .collect::<std::result::Result<_, _>>()
                .map_err(damaged)
        }
        let mut steps: Vec<StepRecord> = rows(out.join("loss.csv"))?;
        steps.truncate(step);
        let mut validation: Vec<(usize, f64)> = rows(out.join("validation.csv"))?;
        validation.retain(|(at, _)| *at <= step);
        Ok(Log { steps, validation })
    }
}
