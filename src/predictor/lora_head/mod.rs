//! A head on the model's own state of the chat prompt, trained together with a LoRA adapter
//! under it (`lora-head`), or on the state of a learned token after the prompt (`len-token`,
//! see `len_token`). Predicting merges the adapter and runs the prompt once.

mod train;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chat::ChatModel;
use crate::engine::Place;
use crate::error::Result;
use crate::kernel::Team;
use crate::kernel::backward::softmax;
use crate::kernel::elementwise::rms_norm;
use crate::lora::peft;
use crate::model::{Checkpoint, ModelFiles, Precision};
use crate::train::Dtype;
use crate::train::dropout::Dropout;
use crate::train::length_head::{HeadLoss, HeadShape};

use super::calibration::Calibration;
use super::fitted_file::FittedFile;
use super::len_token;
use super::prediction::LEVELS;
use super::states::{StateReader, StatesOf};
use super::{Prediction, Predictor, Quantiles, Query, asked_of};

pub use train::train_lora_head;

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
    /// What it was trained in, and predicts in.
    #[serde(default)]
    dtype: Dtype,
    /// The label that it foresees, and the learning rate, epochs and adapter of its training: a
    /// run that is resumed has the same.
    #[serde(default)]
    recipe: String,
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
    pub fn read(
        name: &str,
        dir: &Path,
        files: &ModelFiles,
        place: Place,
        team: Arc<Team>,
    ) -> Result<LoraHead> {
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
        // Keys and values of one prompt are few: only the products with weights are narrowed.
        let precision = Precision {
            products: stored.dtype.arithmetic(),
            ..Precision::F32
        };
        let token = checkpoint.config.vocab_size as u32 - 1;
        let model = place.put(&checkpoint, precision, team)?;
        let suffix = Vec::from_iter(stored.learned_token.then_some(token));
        let chat = Arc::new(ChatModel::with_model(files, model)?);
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
        let whole = (Dropout::off(), 0);
        let mut out = shape.forward(&self.weights, &normed, whole, &mut Vec::new());
        Quantiles::new(match shape.loss {
            HeadLoss::LogRegression => {
                [f64::from(out[0]).exp().clamp(1.0, shape.longest); LEVELS.len()]
            }
            HeadLoss::Distribution | HeadLoss::Ranked => {
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
        let said = self.readings(&asked_of(&self.name, queries)?)?;
        Ok(said
            .iter()
            .map(|q| Prediction::distributed(self.stored.calibration.apply(q)))
            .collect())
    }
}
