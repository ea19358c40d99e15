//! `ridge`: a line from the last prompt token's hidden state, at a middle layer of the untuned
//! model, to the logarithm of the length. One prefill a prediction, and that prefill is the one
//! the answer needs anyway. Middle layers know more than the last (TRAIL, Shahout et al. 2024);
//! which one is chosen on validation.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dataset::Instance;
use crate::error::{Error, Result};
use crate::model::{ChatModel, ModelFiles};

use super::calibration::PointCalibration;
use super::fitted_file::{self, FittedFile};
use super::held_out::HeldOut;
use super::lexical::longest;
use super::ridge::{RidgeFit, System};
use super::states::{StateReader, StatesOf};
use super::stored::Kind;
use super::training::TrainingData;
use super::trials::{Chosen, Trials, mean_absolute_error};
use super::{Prediction, Predictor, Query, asked_of};

const FILE: &str = "state.safetensors";
/// Penalties tried, relative to the number of training instructions.
const PENALTIES: [f64; 6] = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// What the folder states beside the line.
#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    /// Blocks run before the state is taken.
    layer: usize,
    #[serde(flatten)]
    calibration: PointCalibration,
}

/// Layers that are tried: thirds to the whole depth.
fn candidate_layers(depth: usize) -> Vec<usize> {
    let mut layers: Vec<usize> = [1.0 / 3.0, 0.5, 2.0 / 3.0, 5.0 / 6.0, 1.0]
        .map(|share| ((depth as f64 * share).round() as usize).max(1))
        .to_vec();
    layers.dedup();
    layers
}

/// States `[instruction][layer][hidden]` of some instructions.
struct States {
    values: Vec<f32>,
    layers: usize,
    hidden: usize,
}

impl States {
    /// The states after layer `place` of the layers, one row an instruction.
    fn of_layer(&self, place: usize) -> Vec<&[f32]> {
        self.values
            .chunks_exact(self.layers * self.hidden)
            .map(|all| &all[place * self.hidden..][..self.hidden])
            .collect()
    }
}

/// What was found best on validation.
struct Best {
    place: usize,
    penalty: f64,
    line: RidgeFit,
    /// What it says of the validation instructions, tokens.
    predicted: Vec<f64>,
    choice: String,
}

/// Tries every layer and penalty on train; what errs least on validation.
fn choose(
    layers: &[usize],
    (train, labels): (&States, &[f64]),
    (held, held_labels): (&States, &[f64]),
    trials: &mut Trials,
) -> Result<Best> {
    let mut best = None;
    for (place, layer) in layers.iter().enumerate() {
        let system = System::new(&train.of_layer(place), labels);
        let held = held.of_layer(place);
        for penalty in PENALTIES {
            let line = system.solve(penalty * labels.len() as f64)?;
            let predicted: Vec<f64> = held.iter().map(|state| line.predict(state)).collect();
            let choice = format!("layer {layer}, penalty {penalty}");
            let error = mean_absolute_error(&predicted, held_labels);
            if trials.note(choice.clone(), error) {
                best = Some(Best {
                    place,
                    penalty,
                    line,
                    predicted,
                    choice,
                });
            }
        }
    }
    best.ok_or_else(|| Error::Numeric("no ridge on hidden states has a finite error".into()))
}

/// Chooses layer and penalty on validation, then fits on train and validation (only train where
/// `refit` is false), into `out`.
///
/// # Errors
/// A prompt that does not fit the model, or a folder that cannot be written.
pub fn train(
    files: &ModelFiles,
    chat: Arc<ChatModel>,
    data: &TrainingData<'_>,
    refit: bool,
    out: &Path,
    mut on_progress: impl FnMut(usize),
) -> Result<Chosen> {
    let layers = candidate_layers(chat.config().num_hidden_layers);
    let hidden = chat.config().hidden_size;
    let reader = StateReader::new(chat)?;
    let of = StatesOf {
        last: layers.clone(),
        mean: Vec::new(),
    };
    let mut states = |instances: &[Instance<'_>], done: usize| -> Result<States> {
        let asked: Vec<(&str, &str)> = (instances.iter())
            .map(|i| (i.instruction_id, i.instruction))
            .collect();
        let values = reader
            .read(&asked, &of, |n| on_progress(done + n))
            .map_err(|e| e.from_file(&data.name))?;
        Ok(States {
            values,
            layers: layers.len(),
            hidden,
        })
    };
    let inside = states(&data.train, 0)?;
    let outside = states(&data.validation, data.train.len())?;
    let (labels, held_labels) = (data.train_labels(), data.validation_labels());
    let mut trials = Trials::default();
    let best = choose(
        &layers,
        (&inside, &labels),
        (&outside, &held_labels),
        &mut trials,
    )?;
    let limit = longest(&labels);
    let (calibration, held) =
        PointCalibration::fit(&best.predicted, &held_labels, limit, &mut trials);
    let (texts, labels) = data.for_final_fit(refit);
    let mut line = best.line;
    if refit {
        let mut rows = inside.of_layer(best.place);
        rows.extend(outside.of_layer(best.place));
        line = System::new(&rows, &labels).solve(best.penalty * labels.len() as f64)?;
    }
    let choice = best.choice + calibration.in_words();
    let settings = Settings {
        layer: layers[best.place],
        calibration,
    };
    fitted_file::write(&out.join(FILE), &settings, &[])?;
    line.write(out)?;
    trials.write(out)?;
    HeldOut::write(out, data.validation_ids(), &held.quantiles)?;
    data.describe(Kind::Ridge, files, texts.len())?.write(out)?;
    Ok(Chosen {
        choice,
        validation_error: held.error,
        validation_instructions: held_labels.len(),
        training_instructions: texts.len(),
    })
}

/// The line with the model it looks into.
pub struct StateRidge {
    name: String,
    reader: StateReader,
    line: RidgeFit,
    settings: Settings,
}

impl StateRidge {
    /// Reads a trained ridge from its folder.
    ///
    /// # Errors
    /// A damaged folder, or one for a model of another size.
    pub fn read(name: &str, dir: &Path, chat: Arc<ChatModel>) -> Result<StateRidge> {
        let line = RidgeFit::read(dir)?;
        let settings = FittedFile::<Settings>::read(&dir.join(FILE))?.settings;
        let config = chat.config();
        if line.features() != config.hidden_size || settings.layer > config.num_hidden_layers {
            return Err(Error::Usage(format!(
                "{} was trained on a model of another size: give --model",
                dir.display()
            )));
        }
        Ok(StateRidge {
            name: name.to_string(),
            reader: StateReader::new(chat)?,
            line,
            settings,
        })
    }
}

impl Predictor for StateRidge {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        let asked = asked_of(self.name(), queries)?;
        let of = StatesOf {
            last: vec![self.settings.layer],
            mean: Vec::new(),
        };
        let states = self.reader.read(&asked, &of, |_| ())?;
        let said = (states.chunks_exact(self.line.features())).map(|state| {
            self.settings
                .calibration
                .prediction(self.line.predict(state))
        });
        Ok(said.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    /// Two layers of 5 features; only the second knows the length.
    fn examples(n: usize, seed: u64) -> (States, Vec<f64>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let mut noise =
                || -> Vec<f32> { (0..5).map(|_| rng.random_range(-1.0..1.0)).collect() };
            values.extend(noise());
            let features = noise();
            let log = 4.0 + f64::from(features[1]) - 0.5 * f64::from(features[3]);
            values.extend(features);
            labels.push(log.exp());
        }
        let states = States {
            values,
            layers: 2,
            hidden: 5,
        };
        (states, labels)
    }

    #[test]
    fn the_layer_that_knows_is_found() {
        let (train, labels) = examples(200, 0);
        let (held, held_labels) = examples(60, 1000);
        let mut trials = Trials::default();
        let best = choose(
            &[3, 7],
            (&train, &labels),
            (&held, &held_labels),
            &mut trials,
        )
        .unwrap();
        assert_eq!(best.place, 1);
        assert!(best.choice.starts_with("layer 7"), "{}", best.choice);
        for (said, label) in best.predicted.iter().zip(&held_labels) {
            assert!((said / label - 1.0).abs() < 0.15);
        }
    }

    #[test]
    fn layers_cover_the_depth() {
        assert_eq!(candidate_layers(30), [10, 15, 20, 25, 30]);
        assert_eq!(candidate_layers(2), [1, 2]);
    }
}
