//! Ridge regression from the last prompt token's hidden state, at a middle layer of the
//! untuned model, to the logarithm of the length: one prefill a prediction, and that prefill
//! is the one the answer needs anyway. Middle layers know more than the last (TRAIL,
//! Shahout et al. 2024); which one is chosen on validation.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use nalgebra::{DMatrix, DVector};

use crate::error::{Error, Result};
use crate::model::ChatModel;
use crate::persist;

use super::states::{StateReader, StatesOf};
use super::{Prediction, Predictor, Query};

const FILE: &str = "ridge.safetensors";
/// Penalties tried, relative to the number of training instructions.
const PENALTIES: [f64; 6] = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// A fitted line: standardised state -> log length.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeFit {
    /// Blocks run before the state is taken.
    pub layer: usize,
    pub penalty: f64,
    mean: Vec<f64>,
    scale: Vec<f64>,
    weights: Vec<f64>,
    intercept: f64,
    /// No prediction exceeds this (the longest training label).
    limit: f64,
}

/// How one (layer, penalty) did on validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    pub layer: usize,
    pub penalty: f64,
    /// Mean absolute error on the validation instructions, tokens.
    pub validation_error: f64,
}

/// Layers that are tried: thirds to the whole depth.
pub fn candidate_layers(depth: usize) -> Vec<usize> {
    let mut layers: Vec<usize> = [1.0 / 3.0, 0.5, 2.0 / 3.0, 5.0 / 6.0, 1.0]
        .map(|share| ((depth as f64 * share).round() as usize).max(1))
        .to_vec();
    layers.dedup();
    layers
}

/// States of some instructions: `[instruction][layer][hidden]`, with their labels (tokens).
pub struct Examples<'a> {
    pub states: &'a [f32],
    pub labels: &'a [f64],
}

impl Examples<'_> {
    /// The states after layer `place` of `layers`, one row an instruction.
    fn layer(&self, place: usize, layers: usize) -> Vec<&[f32]> {
        let hidden = self.states.len() / (self.labels.len() * layers).max(1);
        (0..self.labels.len())
            .map(|i| &self.states[(i * layers + place) * hidden..][..hidden])
            .collect()
    }
}

/// Fits every layer and penalty on `train` and keeps what errs least on `validation`.
///
/// # Errors
/// Too few examples, or a system that cannot be solved.
pub fn fit(
    layers: &[usize],
    train: &Examples<'_>,
    validation: &Examples<'_>,
) -> Result<(RidgeFit, Vec<Trial>)> {
    if train.labels.len() < 2 || validation.labels.is_empty() {
        return Err(Error::Usage(
            "a ridge needs at least two training instructions and one for validation".into(),
        ));
    }
    let mut best: Option<(f64, RidgeFit)> = None;
    let mut trials = Vec::new();
    for (place, &layer) in layers.iter().enumerate() {
        let system = System::new(&train.layer(place, layers.len()), train.labels);
        for relative in PENALTIES {
            let penalty = relative * train.labels.len() as f64;
            let fitted = system.solve(layer, penalty)?;
            let validation_error = validation
                .layer(place, layers.len())
                .iter()
                .zip(validation.labels)
                .map(|(state, label)| (fitted.predict(state) - label).abs())
                .sum::<f64>()
                / validation.labels.len() as f64;
            trials.push(Trial {
                layer,
                penalty,
                validation_error,
            });
            if best
                .as_ref()
                .is_none_or(|(least, _)| validation_error < *least)
            {
                best = Some((validation_error, fitted));
            }
        }
    }
    best.map(|(_, fitted)| (fitted, trials))
        .ok_or_else(|| Error::Numeric("no ridge could be fitted".into()))
}

/// Standardised states, ready to be solved for any penalty.
pub(super) struct System {
    mean: Vec<f64>,
    scale: Vec<f64>,
    gram: DMatrix<f64>,
    moments: DVector<f64>,
    intercept: f64,
    limit: f64,
}

impl System {
    pub(super) fn new(states: &[&[f32]], labels: &[f64]) -> System {
        let (n, d) = (states.len(), states[0].len());
        let column = |j: usize| states.iter().map(move |s| f64::from(s[j]));
        let mean: Vec<f64> = (0..d).map(|j| column(j).sum::<f64>() / n as f64).collect();
        let scale: Vec<f64> = (0..d)
            .map(|j| {
                let variance = column(j).map(|x| (x - mean[j]).powi(2)).sum::<f64>() / n as f64;
                // A feature that never changes says nothing; do not divide by it.
                if variance > 1e-12 {
                    variance.sqrt()
                } else {
                    1.0
                }
            })
            .collect();
        let x = DMatrix::from_fn(n, d, |i, j| (f64::from(states[i][j]) - mean[j]) / scale[j]);
        let logs: Vec<f64> = labels.iter().map(|l| l.max(1.0).ln()).collect();
        let intercept = logs.iter().sum::<f64>() / n as f64;
        let y = DVector::from_iterator(n, logs.iter().map(|l| l - intercept));
        System {
            gram: x.tr_mul(&x),
            moments: x.tr_mul(&y),
            mean,
            scale,
            intercept,
            limit: labels.iter().copied().fold(1.0, f64::max),
        }
    }

    pub(super) fn solve(&self, layer: usize, penalty: f64) -> Result<RidgeFit> {
        let d = self.moments.len();
        let penalised = &self.gram + DMatrix::identity(d, d) * penalty;
        let weights = penalised
            .cholesky()
            .ok_or_else(|| Error::Numeric("the hidden states make a singular system".into()))?
            .solve(&self.moments);
        Ok(RidgeFit {
            layer,
            penalty,
            mean: self.mean.clone(),
            scale: self.scale.clone(),
            weights: weights.iter().copied().collect(),
            intercept: self.intercept,
            limit: self.limit,
        })
    }
}

impl RidgeFit {
    /// Numbers in a state.
    pub fn features(&self) -> usize {
        self.weights.len()
    }

    /// Tokens predicted from a hidden state.
    pub fn predict(&self, state: &[f32]) -> f64 {
        let log = self.intercept
            + state
                .iter()
                .enumerate()
                .map(|(j, x)| (f64::from(*x) - self.mean[j]) / self.scale[j] * self.weights[j])
                .sum::<f64>();
        log.exp().clamp(1.0, self.limit)
    }

    /// Writes the fit into a predictor's folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let tensor = |v: &[f64]| Tensor::new(v, &Device::Cpu);
        let tensors = BTreeMap::from([
            ("mean", tensor(&self.mean)?),
            ("scale", tensor(&self.scale)?),
            ("weights", tensor(&self.weights)?),
            (
                "intercept_and_limit",
                tensor(&[self.intercept, self.limit])?,
            ),
        ]);
        let header = HashMap::from([
            ("layer".to_string(), self.layer.to_string()),
            ("penalty".to_string(), self.penalty.to_string()),
        ]);
        let bytes = safetensors::serialize(&tensors, Some(header))
            .map_err(|e| Error::malformed(&path, format!("cannot be written: {e}")))?;
        persist::write(&path, &bytes)
    }

    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(dir: &Path) -> Result<RidgeFit> {
        let path = dir.join(FILE);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let damaged = |what: String| Error::malformed(&path, format!("{what}: train again"));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|e| damaged(format!("is damaged ({e})")))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| damaged(format!("is damaged ({e})")))?;
        let values = |name: &str| -> Result<Vec<f64>> {
            tensors
                .get(name)
                .and_then(|t| t.to_vec1::<f64>().ok())
                .ok_or_else(|| damaged(format!("has no vector `{name}`")))
        };
        let number = |key: &str| -> Result<f64> {
            header
                .metadata()
                .as_ref()
                .and_then(|m| m.get(key)?.parse().ok())
                .ok_or_else(|| damaged(format!("does not state its {key}")))
        };
        let rest = values("intercept_and_limit")?;
        let fit = RidgeFit {
            layer: number("layer")? as usize,
            penalty: number("penalty")?,
            mean: values("mean")?,
            scale: values("scale")?,
            weights: values("weights")?,
            intercept: rest.first().copied().unwrap_or(f64::NAN),
            limit: rest.get(1).copied().unwrap_or(f64::NAN),
        };
        let d = fit.weights.len();
        let finite = fit.intercept.is_finite()
            && fit.limit >= 1.0
            && [&fit.mean, &fit.scale, &fit.weights]
                .iter()
                .all(|v| v.iter().all(|x| x.is_finite()));
        if fit.mean.len() != d || fit.scale.len() != d || !finite {
            return Err(damaged(
                "holds vectors of different sizes or values that are not finite".into(),
            ));
        }
        Ok(fit)
    }
}

/// The fit with the model it looks into.
pub struct Ridge {
    name: String,
    reader: StateReader,
    fit: RidgeFit,
}

impl Ridge {
    /// Reads a trained ridge from its folder.
    ///
    /// # Errors
    /// A damaged folder, or one for a model of another size.
    pub fn read(name: &str, dir: &Path, chat: Arc<ChatModel>) -> Result<Ridge> {
        let fit = RidgeFit::read(dir)?;
        let config = chat.config();
        if fit.weights.len() != config.hidden_size || fit.layer > config.num_hidden_layers {
            return Err(Error::Usage(format!(
                "{} was trained on a model of another size: give --model",
                dir.display()
            )));
        }
        Ok(Ridge {
            name: name.to_string(),
            reader: StateReader::new(chat)?,
            fit,
        })
    }
}

impl Predictor for Ridge {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        super::need_texts(self.name(), queries.iter().map(|q| q.instruction))?;
        let asked: Vec<(&str, &str)> = queries
            .iter()
            .map(|q| (q.instruction_id, q.instruction))
            .collect();
        let of = StatesOf {
            last: vec![self.fit.layer],
            mean: Vec::new(),
        };
        let states = self.reader.read(&asked, &of, |_| ())?;
        Ok(states
            .chunks_exact(self.fit.features())
            .map(|state| Prediction::of(self.fit.predict(state)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    /// Two layers of 5 features; only the second knows the length.
    fn examples(n: usize, seed: u64) -> (Vec<f32>, Vec<f64>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut states, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let mut noise =
                || -> Vec<f32> { (0..5).map(|_| rng.random_range(-1.0..1.0)).collect() };
            states.extend(noise());
            let features = noise();
            let log = 4.0 + f64::from(features[1]) - 0.5 * f64::from(features[3]);
            states.extend(features);
            labels.push(log.exp());
        }
        (states, labels)
    }

    #[test]
    fn the_layer_that_knows_is_found_and_survives_storage() {
        let (train_states, train_labels) = examples(200, 0);
        let (val_states, val_labels) = examples(60, 1000);
        let train = Examples {
            states: &train_states,
            labels: &train_labels,
        };
        let validation = Examples {
            states: &val_states,
            labels: &val_labels,
        };
        let (fitted, trials) = fit(&[3, 7], &train, &validation).unwrap();
        assert_eq!(fitted.layer, 7);
        assert_eq!(trials.len(), 2 * PENALTIES.len());
        for (row, label) in validation.layer(1, 2).iter().zip(&val_labels) {
            assert!((fitted.predict(row) / label - 1.0).abs() < 0.15);
        }
        let dir = tempfile::tempdir().unwrap();
        fitted.write(dir.path()).unwrap();
        assert_eq!(RidgeFit::read(dir.path()).unwrap(), fitted);
        std::fs::write(dir.path().join(FILE), b"broken").unwrap();
        assert!(RidgeFit::read(dir.path()).is_err());
    }

    #[test]
    fn layers_cover_the_depth() {
        assert_eq!(candidate_layers(30), [10, 15, 20, 25, 30]);
        assert_eq!(candidate_layers(2), [1, 2]);
    }
}
