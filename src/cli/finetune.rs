//! `lenaware finetune`: trains a predictor into a folder.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::dataset::Label;
use crate::dataset::embedded::{self, EMBEDDED};
use crate::error::{Error, Result};
use crate::lora::LoraConfig;
use crate::model::{ChatModel, ChatTemplate, ModelFiles, TextTokenizer, resolve};
use crate::persist;
use crate::predictor::training::{TrainingData, train_ridge};
use crate::predictor::tuning::{Tune, TuneOutcome, TuneProgress, train_lora};
use crate::train::TrainConfig;

use super::{Global, interrupt, progress};

/// Train a predictor of response lengths
///
/// `lora` tunes an adapter for the perception-only prompt (a PEFT folder any engine serves);
/// `ridge` fits a line on a hidden state of the untuned model in seconds. Flags override the
/// file of --config.
///
/// Examples:
///   lenaware finetune --predictor ridge --out ./runs/ridge
///   lenaware finetune --predictor lora --dataset data/run1 --epochs 3 --out ./runs/lora
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A TOML file with these settings and [lora] and [train] sections
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to train
    #[arg(long)]
    predictor: Option<Trainable>,
    /// The model to look into or to tune [default: smollm2-135m]
    #[arg(long)]
    model: Option<String>,
    /// Instead of the model's own chat template: chatml, llama-2, llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// A length dataset: a Parquet file, a folder of build-dataset, or `embedded` [default]
    #[arg(long, value_name = "PATH")]
    dataset: Option<PathBuf>,
    /// What to foresee of an instruction's samples: max, mean or a quantile [default: max]
    #[arg(long)]
    label: Option<String>,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the first N training instructions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Go on from the checkpoint in --out
    #[arg(long)]
    resume: bool,
    /// Rank of the adapter [default: 8]
    #[arg(long, value_name = "R")]
    lora_r: Option<usize>,
    #[arg(long, value_name = "ALPHA")]
    lora_alpha: Option<f64>,
    #[arg(long, value_name = "SHARE")]
    lora_dropout: Option<f64>,
    /// Layers to adapt [default: q_proj,v_proj]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    target_modules: Option<Vec<String>>,
    #[arg(long)]
    epochs: Option<usize>,
    #[arg(long)]
    max_steps: Option<usize>,
    #[arg(long)]
    learning_rate: Option<f64>,
    #[arg(long)]
    micro_batch_size: Option<usize>,
    #[arg(long)]
    gradient_accumulation: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Trainable {
    Lora,
    Ridge,
}

/// The resolved settings, and the shape of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    predictor: Option<Trainable>,
    #[serde(default = "default_model")]
    model: String,
    chat_template: Option<String>,
    #[serde(default = "default_dataset")]
    dataset: PathBuf,
    #[serde(default = "default_label")]
    label: String,
    out: Option<PathBuf>,
    limit: Option<usize>,
    #[serde(default)]
    lora: LoraConfig,
    #[serde(default)]
    train: TrainConfig,
}

fn default_model() -> String {
    "smollm2-135m".into()
}

fn default_dataset() -> PathBuf {
    EMBEDDED.into()
}

fn default_label() -> String {
    "max".into()
}

impl Settings {
    fn resolve(global: &Global, arguments: &Arguments) -> Result<Settings> {
        let text = match &arguments.config {
            Some(path) => std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?,
            None => String::new(),
        };
        let path = arguments.config.clone().unwrap_or_default();
        let mut settings: Settings =
            toml::from_str(&text).map_err(|e| crate::config::mistake(&path, &text, &e))?;
        let seed_in_file = text.contains("seed");
        if !seed_in_file {
            settings.train.seed = global.seed;
        }
        macro_rules! overridden {
            ($($flag:ident => $($place:ident).+),+ $(,)?) => {$(
                if let Some(value) = arguments.$flag.clone() {
                    settings.$($place).+ = value.into();
                }
            )+};
        }
        overridden! {
            predictor => predictor,
            model => model,
            chat_template => chat_template,
            dataset => dataset,
            label => label,
            out => out,
            limit => limit,
            lora_r => lora.r,
            lora_alpha => lora.alpha,
            lora_dropout => lora.dropout,
            target_modules => lora.target_modules,
            epochs => train.epochs,
            max_steps => train.max_steps,
            learning_rate => train.learning_rate,
            micro_batch_size => train.micro_batch_size,
            gradient_accumulation => train.gradient_accumulation,
        }
        settings.lora.validate()?;
        settings.train.validate()?;
        Ok(settings)
    }
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let settings = Settings::resolve(global, arguments)?;
    let missing = |flag: &str| Error::Usage(format!("--{flag} is missing (or set it in --config)"));
    let kind = settings.predictor.ok_or_else(|| missing("predictor"))?;
    let out = settings.out.clone().ok_or_else(|| missing("out"))?;
    let label: Label = settings.label.parse()?;
    if out.join("predictor.json").exists() {
        return Err(Error::Usage(format!(
            "{} holds a trained predictor already: give another --out",
            out.display()
        )));
    }
    if out.join("checkpoint.safetensors").exists() && !arguments.resume {
        return Err(Error::Usage(format!(
            "{} holds an unfinished run: add --resume to go on with it, or give another --out",
            out.display()
        )));
    }
    let dataset = embedded::open(&settings.dataset)?;
    let name = settings.dataset.display().to_string();
    let mut data = TrainingData::of(&name, &dataset, label)?;
    data.truncate(settings.limit.unwrap_or(usize::MAX));
    let files = resolve(&settings.model, global.shows_progress(), global.offline)?
        .with_chat_template(settings.chat_template.clone());
    progress::detail_model(global, &files);
    let text = toml::to_string(&settings).map_err(|e| Error::Numeric(e.to_string()))?;
    let outcome = match kind {
        Trainable::Ridge => {
            let chat = ChatModel::load(&files, global.team())?;
            ridge(global, &files, &chat, &data, &out)
        }
        Trainable::Lora => lora(global, &files, &data, &settings, arguments.resume, &out),
    };
    // Beside what was trained or is to be continued, and nowhere else.
    if matches!(outcome, Ok(()) | Err(Error::Interrupted(_))) {
        persist::write(&out.join("config.toml"), text.as_bytes())?;
    }
    outcome
}

/// Fits the ridge with a progress bar and prints what was chosen.
pub fn ridge(
    global: &Global,
    files: &ModelFiles,
    chat: &ChatModel,
    data: &TrainingData<'_>,
    out: &Path,
) -> Result<()> {
    let total = data.train.len() + data.validation.len();
    let bar = progress::bar(global, total as u64, "prompts");
    let trials = train_ridge(files, chat, data, out, |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    let trials = trials?;
    let best = trials
        .iter()
        .min_by(|a, b| a.validation_error.total_cmp(&b.validation_error));
    let (layer, error) = best.map_or((0, f64::NAN), |t| (t.layer, t.validation_error));
    if global.json {
        let out = json!({"predictor": out, "layer": layer, "validation_error": error});
        println!("{out}");
    } else {
        println!(
            "{}: layer {layer} of {}, mean absolute error {error:.1} tokens on {} validation \
             instructions",
            out.display(),
            chat.config().num_hidden_layers,
            data.validation.len()
        );
    }
    Ok(())
}

fn lora(
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
