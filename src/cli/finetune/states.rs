//! `finetune` of what reads hidden states of the untuned model.

use std::path::Path;
use std::sync::Arc;

use crate::chat::ChatModel;
use crate::error::Result;
use crate::model::{ModelFiles, Precision};
use crate::predictor::head::{HeadSource, train_head};
use crate::predictor::state_ridge;
use crate::predictor::states::{StateReader, StatesOf};
use crate::predictor::stored::Kind;
use crate::predictor::training::TrainingData;
use crate::predictor::trials::Chosen;

use super::settings::Settings;
use super::{Global, progress};

/// Fits a ridge and returns what was chosen.
pub(super) fn ridge(
    global: &Global,
    files: &ModelFiles,
    data: &TrainingData<'_>,
    settings: &Settings,
    out: &Path,
) -> Result<Chosen> {
    let chat = load(global, files)?;
    let total = data.train.len() + data.validation.len();
    let bar = progress::bar(global, total as u64, "prompts");
    let on_progress = |done| bar.set_position(done as u64);
    let chosen = state_ridge::train(files, chat, data, settings.refit, out, on_progress);
    bar.clear();
    chosen
}

/// Trains a head and returns what was chosen.
pub(super) fn head(
    global: &Global,
    kind: Kind,
    files: &ModelFiles,
    data: &TrainingData<'_>,
    settings: &Settings,
    out: &Path,
) -> Result<Chosen> {
    let chat = load(global, files)?;
    let reader = StateReader::new(chat)?;
    let source = HeadSource {
        files,
        reader: &reader,
        cache: settings.states_cache.as_deref(),
    };
    let total = data.train.len() + data.validation.len();
    let bar = progress::bar(global, total as u64, "prompts");
    let chosen = train_head(
        kind,
        &source,
        data,
        &settings.head,
        settings.refit,
        settings.train.seed,
        out,
        |done| {
            bar.set_position(done as u64);
            if done >= total {
                bar.set_message("training the networks".into());
            }
        },
    );
    bar.clear();
    chosen
}

fn load(global: &Global, files: &ModelFiles) -> Result<Arc<ChatModel>> {
    let (place, team) = (global.place()?, global.team());
    Ok(Arc::new(ChatModel::load_on(
        files,
        place,
        Precision::F32,
        team,
    )?))
}

/// Layers given by flags.
pub(super) fn layers(last: Option<&[usize]>, mean: Option<&[usize]>) -> Option<StatesOf> {
    (last.is_some() || mean.is_some()).then(|| StatesOf {
        last: last.unwrap_or_default().to_vec(),
        mean: mean.unwrap_or_default().to_vec(),
    })
}
