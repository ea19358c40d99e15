//! `finetune --predictor ridge`.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::error::Result;
use crate::model::{ChatModel, ModelFiles};
use crate::predictor::training::{TrainingData, train_ridge};

use super::{Global, progress};

/// Fits the ridge with a progress bar and prints what was chosen.
pub fn ridge(
    global: &Global,
    files: &ModelFiles,
    chat: Arc<ChatModel>,
    data: &TrainingData<'_>,
    out: &Path,
) -> Result<()> {
    let total = data.train.len() + data.validation.len();
    let bar = progress::bar(global, total as u64, "prompts");
    let trials = train_ridge(files, chat.clone(), data, out, |done| {
        bar.set_position(done as u64)
    });
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
