//! `finetune --predictor lora`.

use std::path::Path;

use serde_json::json;

use crate::error::Result;
use crate::lora::LoraConfig;
use crate::model::{ChatTemplate, ModelFiles, TextTokenizer};
use crate::predictor::training::TrainingData;
use crate::predictor::tuning::{Tune, TuneOutcome, TuneProgress, train_lora};
use crate::train::TrainConfig;

use super::settings::Settings;
use super::{Global, interrupt, progress};

pub(super) fn lora(
    global: &Global,
    files: &ModelFiles,
    data: &TrainingData<'_>,
    settings: &Settings,
    resume: bool,
    out: &Path,
) -> Result<()> {
    let config = settings.train.clone();
    let outcome = tune(
        global,
        files,
        data,
        settings.lora.clone(),
        config,
        out,
        resume,
    )?;
    if global.json {
        println!(
            "{}",
            json!({
                "predictor": out,
                "steps": outcome.steps,
                "loss": outcome.loss,
                "validation": outcome.validation,
            })
        );
    } else {
        println!(
            "{}: {} steps, loss {:.3}; curve in {}",
            out.display(),
            outcome.steps,
            outcome.loss,
            outcome.curve.display()
        );
    }
    Ok(())
}

/// Tunes with a progress bar, stopping at Ctrl-C.
pub fn tune(
    global: &Global,
    files: &ModelFiles,
    data: &TrainingData<'_>,
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
        team: global.team(),
        lora,
        config,
        out,
        resume,
    };
    let outcome = train_lora(&tune, data, &mut |progress| {
        match progress {
            TuneProgress::Planned(plan) => progress::say(global, &plan.summary()),
            TuneProgress::Stepped {
                record,
                total_steps,
                validation,
            } => {
                bar.set_length(total_steps as u64);
                bar.set_position(record.step as u64 + 1);
                let seen = validation.map_or(String::new(), |v| format!(", validation {v:.3}"));
                bar.set_message(format!(
                    "loss {:.3}{seen}, {:.0} tokens/s",
                    record.loss, record.tokens_per_s
                ));
            }
        }
        interrupt::check()
    });
    bar.finish_and_clear();
    outcome
}
