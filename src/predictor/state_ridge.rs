//! `ridge`: a line from the last prompt token's hidden state, at one or all of some middle layers
//! of the untuned model, to the length. One prefill a prediction, and that prefill is the one
//! the answer needs anyway. Middle layers know more than the last (TRAIL, Shahout et al. 2024);
//! which of them, and the scale of lengths, is chosen on validation.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chat::ChatModel;
use crate::dataset::Instance;
use crate::error::{Error, Result};
use crate::model::ModelFiles;

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
const PENALTIES: [f64; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];

/// What the folder states beside the line.
#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    /// Blocks run before each of the states is taken that the line reads.
    layers: Vec<usize>,
    #[serde(flatten)]
    calibration: PointCalibration,
}

/// Layers that are tried: from the middle of the depth to five sixths of it.
fn candidate_layers(depth: usize) -> Vec<usize> {
    let mut layers: Vec<usize> = [0.53, 0.6, 0.67, 0.73, 0.83]
        .map(|share| ((depth as f64 * share).round() as usize).max(1))
        .to_vec();
    layers.dedup();
    layers
}

/// What is tried of `layers`, as places among them: each alone, and all of them together.
fn candidate_places(layers: usize) -> Vec<Range<usize>> {
    let mut places: Vec<Range<usize>> = (0..layers).map(|place| place..place + 1).collect();
    if layers > 1 {
        places.push(0..layers);
    }
    places
}

/// States `[instruction][layer][hidden]` of some instructions.
struct States {
    values: Vec<f32>,
    layers: usize,
    hidden: usize,
}

impl States {
    /// The states after the layers at these places, one row an instruction.
    fn of_layers(&self, places: &Range<usize>) -> Vec<&[f32]> {
        let columns = places.start * self.hidden..places.end * self.hidden;
        self.values
            .chunks_exact(self.layers * self.hidden)
            .map(|all| &all[columns.clone()])
            .collect()
    }
}

/// What was found best on validation.
struct Best {
    places: Range<usize>,
    penalty: f64,
    line: RidgeFit,
    /// What it says of the validation instructions, tokens.
    predicted: Vec<f64>,
    choice: String,
}

/// Tries layers, scales and penalties on train; what errs least on validation.
fn choose(
    layers: &[usize],
    (train, labels): (&States, &[f64]),
    (held, held_labels): (&States, &[f64]),
    trials: &mut Trials,
) -> Result<Best> {
    let mut best = None;
    for places in candidate_places(layers.len()) {
        let named = match &layers[places.clone()] {
            [layer] => format!("layer {layer}"),
            all => format!("layers {all:?}"),
        };
        let system = System::new(&train.of_layers(&places), labels);
        let held = held.of_layers(&places);
        for penalty in PENALTIES {
            for line in system.solve(penalty * labels.len() as f64)? {
                let predicted: Vec<f64> = held.iter().map(|state| line.predict(state)).collect();
                let scale = line.length_scale().name();
                let choice = format!("{named}, {scale} scale, penalty {penalty}");
                let error = mean_absolute_error(&predicted, held_labels);
                if trials.note(choice.clone(), error) {
                    best = Some(Best {
                        places: places.clone(),
                        penalty,
                        line,
                        predicted,
                        choice,
                    });
                }
            }
        }
    }
    best.ok_or_else(|| Error::Numeric("no ridge on hidden states has a finite error".into()))
}

/// Chooses layers, scale and penalty on validation, then fits on train and validation (only train where
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
        let mut rows = inside.of_layers(&best.places);
        rows.extend(outside.of_layers(&best.places));
        line = line.again(&rows, &labels, best.penalty * labels.len() as f64)?;
    }
    let choice = best.choice + calibration.in_words();
    let settings = Settings {
        layers: layers[best.places].to_vec(),
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
        let deepest = settings.layers.iter().max();
        if settings.layers.is_empty()
            || line.features() != settings.layers.len() * config.hidden_size
            || deepest > Some(&config.num_hidden_layers)
        {
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
            last: self.settings.layers.clone(),
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
    use super::super::length_scale::LengthScale;
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
        // The second is among what is read, and its scale is found.
        assert!(best.places.contains(&1), "{}", best.choice);
        assert_eq!(
            best.line.length_scale(),
            LengthScale::Log,
            "{}",
            best.choice
        );
        for (said, label) in best.predicted.iter().zip(&held_labels) {
            assert!((said / label - 1.0).abs() < 0.15);
        }
    }

    #[test]
    fn layers_are_of_the_middle() {
        assert_eq!(candidate_layers(30), [16, 18, 20, 22, 25]);
        assert_eq!(candidate_layers(2), [1, 2]);
        assert_eq!(candidate_layers(1), [1]);
        assert_eq!(candidate_places(2), [0..1, 1..2, 0..2]);
        assert_eq!(candidate_places(1).len(), 1);
    }
}
