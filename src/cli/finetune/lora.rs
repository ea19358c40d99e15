//! `finetune --predictor lora`, `lora-head` and `len-token`.

use std::path::Path;

use serde_json::json;

use crate::error::Result;
use crate::lora::LoraConfig;
use crate::model::{ChatTemplate, ModelFiles, TextTokenizer};
use crate::predictor::lora_head::train_lora_head;
use crate::predictor::stored::Kind;
use crate::predictor::training::TrainingData;
use crate::predictor::tuning::{Tune, TuneOutcome, TuneProgress, train_lora};
use crate::train::TrainConfig;
use crate::train::length_head::LengthHeadConfig;

use super::settings::{Settings, Trainable};
use super::{Global, interrupt, progress};

pub(super) fn lora(
    global: &Global,
    kind: Trainable,
    files: &ModelFiles,
    data: &TrainingData<'_>,
    settings: &Settings,
    resume: bool,
    out: &Path,
) -> Result<()> {
    let (lora, config) = (settings.lora.clone(), settings.train.clone());
    let head = match kind {
        Trainable::LoraHead => Some((Kind::LoraHead, &settings.tuned_head)),
        Trainable::LenToken => Some((Kind::LenToken, &settings.tuned_head)),
        _ => None,
    };
    let refit = settings.refit;
    let outcome = tune_kind(global, files, data, head, refit, lora, config, out, resume)?;
    if global.json {
        println!(
            "{}",
            json!({
                "predictor": out,
                "steps": outcome.steps,
                "loss": outcome.loss,
                "validation": outcome.validation,
                "best": outcome.best,
            })
        );
    } else {
        let best = outcome.best.map_or(String::new(), |(step, loss)| {
            format!(", the best on validation after step {step}: {loss:.3}")
        });
        println!(
            "{}: {} steps, loss {:.3}{best}; curve in {}",
            out.display(),
            outcome.steps,
            outcome.loss,
            outcome.curve.display()
        );
    }
    Ok(())
}

/// Tunes an adapter for the perception-only prompt with a progress bar, stopping at Ctrl-C.
pub fn tune(
    global: &Global,
    files: &ModelFiles,
    data: &TrainingData<'_>,
    lora: LoraConfig,
    config: TrainConfig,
    out: &Path,
    resume: bool,
) -> Result<TuneOutcome> {
    tune_kind(global, files, data, None, false, lora, config, out, resume)
}

#[allow(clippy::too_many_arguments)]
fn tune_kind(
    global: &Global,
    files: &ModelFiles,
    data: &TrainingData<'_>,
    head: Option<(Kind, &LengthHeadConfig)>,
    refit: bool,
    lora: LoraConfig,
    config: TrainConfig,
    out: &Path,
    resume: bool,
) -> Result<TuneOutcome> {
    interrupt::listen();
    let tokenizer = TextTokenizer::from_files(files)?;
    let template = ChatTemplate::from_files(files)?;
    let bar = progress::bar(global, 0, "steps");
    let tune = Tune {
        files,
        tokenizer: &tokenizer,
        template: &template,
        place: global.tuning_place()?,
        team: global.team(),
        lora,
        config,
        out,
        resume,
    };
    let mut on_progress = |progress: TuneProgress<'_>| {
        match progress {
            TuneProgress::Planned(plan) => progress::say(global, &plan.summary()),
            TuneProgress::Stepped {
                record,
                total_steps,
                validation,
            } => {
                bar.set_total(total_steps as u64);
                let seen = validation.map_or(String::new(), |v| format!(", validation {v:.3}"));
                bar.set_message(format!(
                    "loss {:.3}{seen}, {:.0} tokens/s",
                    record.loss, record.tokens_per_s
                ));
                bar.set_position(record.step as u64 + 1);
            }
        }
        interrupt::check()
    };
    let outcome = match head {
        Some((kind, head)) => train_lora_head(&tune, kind, head, refit, data, &mut on_progress),
        None => train_lora(&tune, data, &mut on_progress),
    };
    bar.clear();
    outcome
}
