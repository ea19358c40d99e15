//! Running a training to its end: checkpoints, the log, the validation loss, the best adapter.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chat::fits;
use crate::dataset::{Instance, Label};
use crate::engine::Place;
use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::lora::{Adapter, LoraConfig, peft};
use crate::model::{ChatTemplate, Checkpoint, ModelFiles, TextTokenizer};
use crate::persist;
use crate::report::figures::loss_curve;
use crate::train::llama::{Options, TrainableLlama};
use crate::train::tensorboard::{self, Scalar};
use crate::train::{Example, MemoryPlan, Objective, StepRecord, TrainConfig, Training};

use super::asked::question;
use super::stored::Kind;
use super::training::TrainingData;

/// Targets of instruction tuning are rounded up to multiples of this (paper, section 3.2).
const TARGET_CELL: f64 = 50.0;
/// Validation instructions whose loss is watched.
pub(super) const WATCHED: usize = 256;
/// The checkpoints that a run may leave in its folder.
pub const CHECKPOINTS: [&str; 2] = ["checkpoint.safetensors", "refit-checkpoint.safetensors"];

/// What a run reports of itself.
pub enum TuneProgress<'a> {
    /// Before the first step.
    Planned(&'a MemoryPlan),
    /// After each step.
    Stepped {
        /// What the step did.
        record: &'a StepRecord,
        /// Steps of the whole run.
        total_steps: usize,
        /// The latest validation loss.
        validation: Option<f64>,
    },
}

/// The outcome of a run.
#[derive(Debug, Clone)]
pub struct TuneOutcome {
    /// Optimizer steps done.
    pub steps: usize,
    /// Training loss of the last step.
    pub loss: f64,
    /// (step, mean loss on validation examples).
    pub validation: Vec<(usize, f64)>,
    /// The step whose values were kept, and their validation loss.
    pub best: Option<(usize, f64)>,
    /// The drawn loss curve (SVG).
    pub curve: PathBuf,
}

/// Where and how a run goes.
pub struct Tune<'a> {
    /// The model that is tuned.
    pub files: &'a ModelFiles,
    /// Its tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// The chat template that prompts are rendered by.
    pub template: &'a ChatTemplate,
    /// Where it is tuned, and predicts what its calibration is fitted on.
    pub place: Place,
    /// The threads that compute.
    pub team: Arc<Team>,
    /// Shape and place of the adapter.
    pub lora: LoraConfig,
    /// How it is trained.
    pub config: TrainConfig,
    /// The predictor's folder: checkpoints, log and result.
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
        frozen: config.frozen,
        place: tune.place,
        ..Options::default()
    };
    let team = tune.team.clone();
    let model = TrainableLlama::with_options(&checkpoint, Some(adapter), team, options)?;
    drop(checkpoint);
    let mut training = Training::new(model, config.clone())?;
    let part = Part::first();
    let outcome = run(tune, &mut training, &train, &watched, &part, on_progress)?;
    peft::write(&training.model.adapter()?, tune.out)?;
    finish(tune, data, Kind::Lora, data.train.len())?;
    Ok(outcome)
}

/// A part of a run: what is tuned with some instructions kept apart, or what is tuned again on
/// all of them.
pub(super) struct Part {
    checkpoint: &'static str,
    /// Begins the names of its log and figure.
    log: &'static str,
    /// Steps after which it ends, if that is before the schedule does.
    until: Option<usize>,
}

impl Part {
    pub fn first() -> Part {
        Part {
            checkpoint: CHECKPOINTS[0],
            log: "",
            until: None,
        }
    }

    pub fn refit(steps: usize) -> Part {
        Part {
            checkpoint: CHECKPOINTS[1],
            log: "refit-",
            until: Some(steps),
        }
    }

    pub fn checkpoint(&self, out: &Path) -> PathBuf {
        out.join(self.checkpoint)
    }

    pub fn remove_checkpoint(&self, out: &Path) -> Result<()> {
        let state = self.checkpoint(out);
        match std::fs::remove_file(&state) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&state, e)),
            _ => Ok(()),
        }
    }

    /// What the log in `out` says of the part.
    pub fn outcome(&self, out: &Path) -> Result<TuneOutcome> {
        Ok(Log::read(out, self.log, usize::MAX)?.outcome(self.curve(out)))
    }

    /// The loss figure, without extension. Not beside the log: a figure's data has its name, too.
    fn curve(&self, out: &Path) -> PathBuf {
        out.join("figures").join(format!("{}loss", self.log))
    }
}

/// Trains to the end of the part, the best values on the `watched` examples, if there are any,
/// taken in the end.
pub(super) fn run<O: Objective>(
    tune: &Tune<'_>,
    training: &mut Training,
    train: &O,
    watched: &O,
    part: &Part,
    on_progress: OnProgress<'_>,
) -> Result<TuneOutcome> {
    let (config, out) = (&tune.config, tune.out);
    let schedule = config.total_steps(train.len());
    let total_steps = part.until.map_or(schedule, |until| until.min(schedule));
    let interval = config.evaluation_interval(train.len());
    let state = part.checkpoint(out);
    let plan = training.plan_memory(train)?;
    let _ = on_progress(TuneProgress::Planned(&plan));
    let mut log = Log::default();
    if tune.resume && state.exists() {
        training.restore(&state)?;
        log = Log::read(out, part.log, training.step)?;
    }
    let mut kept = (training.step > 0).then_some(training.step);
    let mut stopped = false;
    let outcome = training.run(train, &mut |training, record| {
        log.steps.push(record.clone());
        log.unix_s.push(tensorboard::now());
        let step = training.step;
        if watched.len() > 0 && (step.is_multiple_of(interval) || step == total_steps) {
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
            log.write(out, part.log)?;
            training.save(&state)?;
            kept = Some(step);
        }
        Ok(match stopped || patience_spent || step >= total_steps {
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
    log.write(out, part.log)?;
    training.take_best();
    let points: Vec<(u64, f64)> = log.steps.iter().map(|r| (r.step as u64, r.loss)).collect();
    let watched: Vec<(u64, f64)> = log.validation.iter().map(|v| (v.0 as u64, v.1)).collect();
    let curve = part.curve(out);
    loss_curve(&curve, &points, &watched)?;
    Ok(log.outcome(curve))
}

/// Writes the description, which makes the folder a whole one, and removes the checkpoints.
pub(super) fn finish(
    tune: &Tune<'_>,
    data: &TrainingData<'_>,
    kind: Kind,
    instructions: usize,
) -> Result<()> {
    data.describe(kind, tune.files, instructions)?
        .write(tune.out)?;
    for part in [Part::first(), Part::refit(0)] {
        part.remove_checkpoint(tune.out)?;
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

/// `loss.csv` and `validation.csv` of a part, and both for TensorBoard.
#[derive(Default)]
struct Log {
    steps: Vec<StepRecord>,
    /// By step: when it was done, seconds since 1970.
    unix_s: Vec<f64>,
    validation: Vec<(usize, f64)>,
}

impl Log {
    fn write(&self, out: &Path, prefix: &str) -> Result<()> {
        let mut text = String::from("step,loss,learning_rate,grad_norm,tokens_per_s\n");
        for r in &self.steps {
            text.push_str(&format!(
                "{},{},{},{},{:.1}\n",
                r.step, r.loss, r.learning_rate, r.grad_norm, r.tokens_per_s
            ));
        }
        persist::write(&out.join(format!("{prefix}loss.csv")), text.as_bytes())?;
        let mut text = String::from("step,validation_loss\n");
        for (step, loss) in &self.validation {
            text.push_str(&format!("{step},{loss}\n"));
        }
        persist::write(
            &out.join(format!("{prefix}validation.csv")),
            text.as_bytes(),
        )?;
        tensorboard::write(out, prefix.trim_end_matches('-'), &self.scalars())
    }

    /// Every curve, by steps done.
    fn scalars(&self) -> Vec<Scalar> {
        let when = |step: usize| {
            let known = self.unix_s.get(step.saturating_sub(1));
            known.copied().unwrap_or_else(tensorboard::now)
        };
        let scalar = |tag, step, value| Scalar {
            tag,
            step,
            value,
            unix_s: when(step),
        };
        let mut scalars = Vec::new();
        for r in &self.steps {
            let done = r.step + 1;
            scalars.push(scalar("train/loss", done, r.loss));
            scalars.push(scalar("train/grad_norm", done, r.grad_norm));
            scalars.push(scalar("train/tokens_per_s", done, r.tokens_per_s));
            scalars.push(scalar("learning_rate", done, r.learning_rate));
        }
        for (done, loss) in &self.validation {
            scalars.push(scalar("validation/loss", *done, *loss));
        }
        scalars
    }

    /// What was logged up to `step`.
    fn read(out: &Path, prefix: &str, step: usize) -> Result<Log> {
        fn rows<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<Vec<T>> {
            let damaged = |e: csv::Error| Error::malformed(&path, format!("is damaged: {e}"));
            csv::Reader::from_path(&path)
                .map_err(damaged)?
                .deserialize()
                .collect::<std::result::Result<_, _>>()
                .map_err(damaged)
        }
        let mut steps: Vec<StepRecord> = rows(out.join(format!("{prefix}loss.csv")))?;
        steps.truncate(step);
        let mut validation: Vec<(usize, f64)> = rows(out.join(format!("{prefix}validation.csv")))?;
        validation.retain(|(at, _)| *at <= step);
        let known = tensorboard::times(out, prefix.trim_end_matches('-'));
        let now = tensorboard::now();
        let when = |r: &StepRecord| known.get(&(r.step + 1)).copied().unwrap_or(now);
        Ok(Log {
            unix_s: steps.iter().map(when).collect(),
            steps,
            validation,
        })
    }

    fn outcome(self, curve: PathBuf) -> TuneOutcome {
        let best = (self.validation.iter().copied()).min_by(|a, b| a.1.total_cmp(&b.1));
        TuneOutcome {
            steps: self.steps.len(),
            loss: self.steps.last().map_or(f64::NAN, |r| r.loss),
            validation: self.validation,
            best,
            curve: curve.with_extension("svg"),
        }
    }
}
