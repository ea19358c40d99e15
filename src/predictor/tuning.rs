//! Running a training to its end: checkpoints, the log, the validation loss, the best adapter.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset::{Instance, Label};
use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::lora::{Adapter, LoraConfig, peft};
use crate::model::chat::fits;
use crate::model::{ChatTemplate, Checkpoint, ModelFiles, TextTokenizer};
use crate::persist;
use crate::report::figures::loss_curve;
use crate::train::llama::{Options, TrainableLlama};
use crate::train::{Example, MemoryPlan, Objective, StepRecord, TrainConfig, Training};

use super::asked::question;
use super::stored::Kind;
use super::training::TrainingData;

/// Targets of instruction tuning are rounded up to multiples of this (paper, section 3.2).
const TARGET_CELL: f64 = 50.0;
/// Validation instructions whose loss is watched.
pub(super) const WATCHED: usize = 256;
/// The run's checkpoint in its folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// What a run reports of itself.
pub enum TuneProgress<'a> {
    /// Before the first step.
    Planned(&'a MemoryPlan),
    /// After each step.
    Stepped {
        record: &'a StepRecord,
        total_steps: usize,
        /// The latest validation loss.
        validation: Option<f64>,
    },
}

/// The outcome of a run.
#[derive(Debug, Clone)]
pub struct TuneOutcome {
    pub steps: usize,
    pub loss: f64,
    /// (step, mean loss on validation examples).
    pub validation: Vec<(usize, f64)>,
    /// The step whose values were kept, and their validation loss.
    pub best: Option<(usize, f64)>,
    pub curve: PathBuf,
}

/// Where and how a run goes.
pub struct Tune<'a> {
    pub files: &'a ModelFiles,
    pub tokenizer: &'a TextTokenizer,
    pub template: &'a ChatTemplate,
    pub team: Arc<Team>,
    pub lora: LoraConfig,
    pub config: TrainConfig,
    pub out: &'a Path,
    /// Whether to go on from the checkpoint in `out`.
    pub resume: bool,
}

/// Told of what happens; `Break` stops the run with a checkpoint.
pub type OnProgress<'a> = &'a mut dyn FnMut(TuneProgress<'_>) -> ControlFlow<()>;

/// Tunes an adapter for the perception-only prompt.
///
/// # Errors
/// A loss that is not a number, a folder that cannot be written, or [`Error::Interrupted`]
/// with a checkpoint kept.
pub fn train_lora(
    tune: &Tune<'_>,
    data: &TrainingData<'_>,
    on_progress: OnProgress<'_>,
) -> Result<TuneOutcome> {
    let checkpoint = Checkpoint::load(tune.files)?;
    let end = *checkpoint
        .config
        .eos_token_ids
        .first()
        .ok_or_else(|| Error::Usage("the model names no end token".into()))?;
    let examples = |of: &[Instance<'_>]| -> Result<Vec<Example>> {
        of.iter()
            .map(|instance| {
                let example = example(tune, instance, data.label, end)?;
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
    let config = &tune.config;
    let name = &tune.files.name;
    let adapter = Adapter::new(tune.lora.clone(), &checkpoint.config, name, config.seed)?;
    let options = Options {
        arithmetic: config.dtype.arithmetic(),
        ..Options::default()
    };
    let team = tune.team.clone();
    let model = TrainableLlama::with_options(&checkpoint, Some(adapter), team, options)?;
    drop(checkpoint);
    let mut training = Training::new(model, config.clone())?;
    let outcome = run(tune, &mut training, &train, &watched, on_progress)?;
    peft::write(&training.model.adapter()?, tune.out)?;
    finish(tune, data, Kind::Lora)?;
    Ok(outcome)
}

/// Trains to the end of the run, the best values on validation taken in the end.
pub(super) fn run<O: Objective>(
    tune: &Tune<'_>,
    training: &mut Training,
    train: &O,
    watched: &O,
    on_progress: OnProgress<'_>,
) -> Result<TuneOutcome> {
    let (config, out) = (&tune.config, tune.out);
    let total_steps = config.total_steps(train.len());
    let interval = config.evaluation_interval(train.len());
    let state = out.join(CHECKPOINT);
    let plan = training.plan_memory(train)?;
    let _ = on_progress(TuneProgress::Planned(&plan));
    let mut log = Log::default();
    if tune.resume && state.exists() {
        training.restore(&state)?;
        log = Log::read(out, training.step)?;
    }
    let mut kept = (training.step > 0).then_some(training.step);
    let mut stopped = false;
    let outcome = training.run(train, &mut |training, record| {
        log.steps.push(record.clone());
        let step = training.step;
        if step.is_multiple_of(interval) || step == total_steps {
            let loss = training.evaluate(watched)?;
            log.validation.push((step, loss));
        }
        stopped = on_progress(TuneProgress::Stepped {
            record,
            total_steps,
            validation: log.validation.last().map(|v| v.1),
        })
        .is_break();
        let patience_spent = training.out_of_patience();
        let due = stopped || step.is_multiple_of(config.checkpoint_every);
        if due && step < total_steps && !patience_spent {
            log.write(out)?;
            training.save(&state)?;
            kept = Some(step);
        }
        Ok(match stopped || patience_spent {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    });
    match (outcome, kept) {
        (Err(Error::Numeric(message)), Some(step)) => {
            return Err(Error::Numeric(format!(
                "{message}; the checkpoint of step {step} is kept in {}",
                out.display()
            )));
        }
        (outcome, _) => outcome?,
    }
    if stopped && training.step < total_steps && !training.out_of_patience() {
        return Err(Error::Interrupted(format!(
            "stopped after step {} of {total_steps}, kept in {}: the same command with --resume \
             continues",
            training.step,
            out.display()
        )));
    }
    log.write(out)?;
    training.take_best();
    let points: Vec<(u64, f64)> = log.steps.iter().map(|r| (r.step as u64, r.loss)).collect();
    let watched: Vec<(u64, f64)> = log.validation.iter().map(|v| (v.0 as u64, v.1)).collect();
    loss_curve(&out.join("loss"), &points, &watched)?;
    Ok(TuneOutcome {
        steps: training.step,
        loss: log.steps.last().map_or(f64::NAN, |r| r.loss),
        validation: log.validation,
        best: training.best.as_ref().map(|b| (b.step, b.loss)),
        curve: out.join("loss.svg"),
    })
}

/// Writes the description, which makes the folder a whole one, and removes the checkpoint.
pub(super) fn finish(tune: &Tune<'_>, data: &TrainingData<'_>, kind: Kind) -> Result<()> {
    data.describe(kind, tune.files, data.train.len())?
        .write(tune.out)?;
    let state = tune.out.join(CHECKPOINT);
    if state.exists() {
        std::fs::remove_file(&state).map_err(|e| Error::io(&state, e))?;
    }
    Ok(())
}

/// The perception-only prompt and the label, rounded up, as its answer.
fn example(tune: &Tune<'_>, instance: &Instance<'_>, label: Label, end: u32) -> Result<Example> {
    let tokens = (instance.label(label) / TARGET_CELL).ceil().max(1.0) * TARGET_CELL;
    let mut target = tune.tokenizer.encode(&format!("{tokens:.0}"))?;
    target.push(end);
    Ok(Example {
        prompt: tune
            .tokenizer
            .encode(&tune.template.render(&question(instance.instruction))?)?,
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
