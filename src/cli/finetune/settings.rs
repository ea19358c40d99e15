//! What `finetune` is told, by file and by flags.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::dataset::embedded::EMBEDDED;
use crate::error::{Error, Result};
use crate::lora::LoraConfig;
use crate::model::MINILM;
use crate::predictor::head::HeadConfig;
use crate::predictor::vocabulary::TermsConfig;
use crate::train::TrainConfig;
use crate::train::length_head::LengthHeadConfig;

use super::{Arguments, Global, states};

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trainable {
    Lora,
    LoraHead,
    LenToken,
    Ridge,
    Lexical,
    Neighbour,
    Encoder,
    Head,
    PoolingMlp,
    Stack,
}

/// The resolved settings, and the shape of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub predictor: Option<Trainable>,
    #[serde(default = "default_model")]
    pub model: String,
    pub chat_template: Option<String>,
    #[serde(default = "default_dataset")]
    pub dataset: PathBuf,
    #[serde(default = "default_label")]
    pub label: String,
    pub out: Option<PathBuf>,
    pub limit: Option<usize>,
    /// Share of the instructions that is kept for an evaluation, where the dataset has no split.
    #[serde(default)]
    pub hold_out: f64,
    /// Whether what was chosen on validation is fitted again on train and validation.
    #[serde(default = "yes")]
    pub refit: bool,
    #[serde(default = "default_encoder")]
    pub encoder: String,
    /// Where hidden states are kept between runs.
    pub states_cache: Option<PathBuf>,
    /// Folders of the predictors that a stack mixes.
    #[serde(default)]
    pub members: Vec<PathBuf>,
    #[serde(default)]
    pub terms: TermsConfig,
    #[serde(default)]
    pub head: HeadConfig,
    #[serde(default)]
    pub lora: LoraConfig,
    #[serde(default)]
    pub tuned_head: LengthHeadConfig,
    #[serde(default)]
    pub train: TrainConfig,
}

fn default_model() -> String {
    "smollm2-135m".into()
}

fn default_encoder() -> String {
    MINILM.into()
}

fn yes() -> bool {
    true
}

fn default_dataset() -> PathBuf {
    EMBEDDED.into()
}

fn default_label() -> String {
    "max".into()
}

impl Settings {
    pub fn resolve(global: &Global, arguments: &Arguments) -> Result<Settings> {
        let text = match &arguments.config {
            Some(path) => crate::regular_file::text_up_to(path, crate::regular_file::SETTINGS)?,
            None => String::new(),
        };
        let path = arguments.config.clone().unwrap_or_default();
        let mut settings: Settings =
            toml::from_str(&text).map_err(|e| crate::config::mistake(&path, &text, &e))?;
        if settings.head == HeadConfig::default()
            && arguments.predictor.or(settings.predictor) == Some(Trainable::PoolingMlp)
        {
            settings.head = HeadConfig::pooling_mlp();
        }
        // The key, not the word: paths may hold it too.
        let written: Option<toml::Table> = toml::from_str(&text).ok();
        let of_train = written.as_ref().and_then(|table| table.get("train"));
        if of_train.and_then(|train| train.get("seed")).is_none() {
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
            hold_out => hold_out,
            encoder => encoder,
            states_cache => states_cache,
            members => members,
            objective => head.objective,
            target => head.target,
            target => tuned_head.target,
            depth => tuned_head.depth,
            heads => head.members,
            hidden => head.recipe.hidden,
            ngrams => terms.ngrams,
            min_documents => terms.min_documents,
            lora_r => lora.r,
            lora_alpha => lora.alpha,
            lora_dropout => lora.dropout,
            target_modules => lora.target_modules,
            lora_layers => lora.layers,
            tuned_head_hidden => tuned_head.hidden,
            tuned_head_dropout => tuned_head.dropout,
            head_learning_rate => tuned_head.learning_rate,
            dtype => train.dtype,
            frozen_weights => train.frozen,
            patience => train.patience,
            epochs => train.epochs,
            max_steps => train.max_steps,
            learning_rate => train.learning_rate,
            micro_batch_size => train.micro_batch_size,
            gradient_accumulation => train.gradient_accumulation,
        }
        let layers = states::layers(
            arguments.layers.as_deref(),
            arguments.mean_layers.as_deref(),
        );
        settings.head.states = layers.or(settings.head.states);
        if arguments.no_refit {
            settings.refit = false;
        }
        if !(0.0..=0.9).contains(&settings.hold_out) {
            return Err(Error::Usage(format!(
                "`hold_out` is {}: give a share from 0 to 0.9, such as 0.2",
                settings.hold_out
            )));
        }
        settings.head.validate()?;
        settings.terms.validate()?;
        // A learned token can do without an adapter.
        if settings.predictor != Some(Trainable::LenToken) || settings.lora.r > 0 {
            settings.lora.validate()?;
        }
        settings.tuned_head.validate()?;
        settings.train.validate()?;
        Ok(settings)
    }
}
