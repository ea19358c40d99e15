//! Small networks on hidden states of the untuned model: one prefill a prediction, the one
//! the answer needs anyway. Several of them, trained from different seeds, are averaged.
//!
//! `head` looks at the last prompt token after middle layers (TRAIL, Shahout et al. 2024, found
//! that those know more than the last) and at averages over the prompt, and foresees a whole
//! distribution. `pooling-mlp` is the paper's (section 4.3, Table 4): averages of the last
//! layer's states, and a network that foresees one number.

mod bins;
mod isotonic;
mod network;
mod objective;
mod train;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::chat::ChatModel;
use crate::error::{Error, Result};

use super::calibration::Calibration;
use super::fitted_file::{self, FittedFile, tensor};
use super::states::{StateReader, StatesOf};
use super::{Prediction, Predictor, Quantiles, Query, asked_of};

pub use bins::LengthBins;
pub use isotonic::Isotonic;
pub use network::{Network, Recipe};
pub use objective::{Objective, Reading, Targets};
pub use train::{HeadConfig, HeadSource, train_head};

const FILE: &str = "head.safetensors";
/// Standardised features are cut here: single outliers of a state say little.
const CUT: f32 = 8.0;

/// Everything of a trained head but its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Settings {
    states: StatesOf,
    hidden_size: usize,
    objective: Objective,
    bins: LengthBins,
    members: usize,
    /// Layers of each member's network.
    depth: usize,
    /// From scores to tokens: for [`Objective::Ranking`] only.
    map: Option<Isotonic>,
    calibration: Calibration,
}

/// A trained head: networks that are averaged, without the model.
#[derive(Debug, Clone)]
pub struct HeadFit {
    settings: Settings,
    mean: Vec<f32>,
    scale: Vec<f32>,
    members: Vec<Network>,
}

impl HeadFit {
    /// Calibrated quantiles for states `[instruction][features]`.
    ///
    /// # Errors
    /// States of another width.
    pub fn predict(&self, states: &[f32]) -> Result<Vec<Quantiles>> {
        let raw = readings(
            &self.members,
            &standardised(states, &self.mean, &self.scale)?,
            self.settings.objective,
            &self.settings.bins,
        )?;
        Ok(raw.iter().map(|r| self.calibrated(r)).collect())
    }

    fn calibrated(&self, reading: &Reading) -> Quantiles {
        let Settings {
            map, calibration, ..
        } = &self.settings;
        match reading {
            Reading::Quantiles(quantiles) => calibration.apply(quantiles),
            Reading::Tokens(tokens) => calibration.apply_point(*tokens),
            Reading::Score(score) => {
                let tokens = map.as_ref().map_or(1.0, |m| m.tokens(*score));
                calibration.apply_point(tokens)
            }
        }
    }

    /// Writes the fit into a predictor's folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut names = vec!["mean".to_string(), "scale".to_string()];
        let mut tensors = vec![tensor(&self.mean)?, tensor(&self.scale)?];
        for (member, network) in self.members.iter().enumerate() {
            for (layer, (weight, bias)) in network.layers().iter().enumerate() {
                names.push(format!("{member}.{layer}.weight"));
                tensors.push(weight.flatten_all()?);
                names.push(format!("{member}.{layer}.bias"));
                tensors.push(bias.clone());
            }
        }
        let named: Vec<(&str, Tensor)> = names.iter().map(String::as_str).zip(tensors).collect();
        fitted_file::write(&dir.join(FILE), &self.settings, &named)
    }

    /// Reads what training left in a predictor's folder.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(dir: &Path) -> Result<HeadFit> {
        let file: FittedFile<Settings> = FittedFile::read(&dir.join(FILE))?;
        let settings = file.settings.clone();
        let (mean, scale) = (file.f32s("mean")?, file.f32s("scale")?);
        let sound = settings.bins.is_sound()
            && settings.map.as_ref().is_none_or(Isotonic::is_sound)
            && scale.len() == mean.len()
            && Some(mean.len()) == settings.states.vectors().checked_mul(settings.hidden_size)
            && !mean.is_empty()
            && settings.members > 0
            && settings.depth > 0;
        if !sound {
            return Err(file.damaged("states settings that do not fit its numbers"));
        }
        let mut members = Vec::new();
        for member in 0..settings.members {
            let (mut layers, mut width) = (Vec::new(), mean.len());
            for layer in 0..settings.depth {
                let weight = file.f32s(&format!("{member}.{layer}.weight"))?;
                let bias = file.f32s(&format!("{member}.{layer}.bias"))?;
                if bias.is_empty() || weight.len() != bias.len() * width {
                    return Err(file.damaged("holds layers of different sizes"));
                }
                let out = bias.len();
                let weight = Tensor::from_vec(weight, (out, width), &Device::Cpu)?;
                layers.push((weight, Tensor::from_vec(bias, out, &Device::Cpu)?));
                width = out;
            }
            if width != settings.objective.outputs(&settings.bins) {
                return Err(file.damaged("holds layers of different sizes"));
            }
            members.push(Network::of(layers));
        }
        Ok(HeadFit {
            settings,
            mean,
            scale,
            members,
        })
    }
}

/// States `[rows][features]` as a tensor, shifted, scaled and cut.
fn standardised(states: &[f32], mean: &[f32], scale: &[f32]) -> Result<Tensor> {
    let values: Vec<f32> = states
        .chunks_exact(mean.len())
        .flat_map(|row| {
            let each = row.iter().zip(mean).zip(scale);
            each.map(|((x, m), s)| ((x - m) / s).clamp(-CUT, CUT))
        })
        .collect();
    let rows = states.len() / mean.len().max(1);
    Ok(Tensor::from_vec(values, (rows, mean.len()), &Device::Cpu)?)
}

/// What the average of the networks says of each row.
fn readings(
    members: &[Network],
    features: &Tensor,
    objective: Objective,
    bins: &LengthBins,
) -> Result<Vec<Reading>> {
    let mut total: Option<Tensor> = None;
    for network in members {
        let outputs = objective.averageable(&network.forward(features)?)?;
        total = Some(match total {
            Some(total) => (total + outputs)?,
            None => outputs,
        });
    }
    let total = total.ok_or_else(|| Error::Numeric("a head without networks".into()))?;
    let mean = (total / members.len() as f64)?;
    Ok(mean
        .to_vec2::<f32>()?
        .iter()
        .map(|row| objective.read(row, bins))
        .collect())
}

/// A trained head with the model it looks into.
pub struct Head {
    name: String,
    reader: StateReader,
    fit: HeadFit,
}

impl Head {
    /// Reads a trained head from its folder.
    ///
    /// # Errors
    /// A damaged folder, or one for a model of another size.
    pub fn read(name: &str, dir: &Path, chat: Arc<ChatModel>) -> Result<Head> {
        let fit = HeadFit::read(dir)?;
        let config = chat.config();
        let of = &fit.settings.states;
        if fit.settings.hidden_size != config.hidden_size || of.deepest() > config.num_hidden_layers
        {
            return Err(Error::Usage(format!(
                "{} was trained on a model of another size: give --model",
                dir.display()
            )));
        }
        Ok(Head {
            name: name.to_string(),
            reader: StateReader::new(chat)?,
            fit,
        })
    }
}

impl Predictor for Head {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        let asked = asked_of(self.name(), queries)?;
        let states = self
            .reader
            .read(&asked, &self.fit.settings.states, |_| ())?;
        let quantiles = self.fit.predict(&states)?;
        Ok(quantiles.into_iter().map(Prediction::distributed).collect())
    }
}
