//! Lengths from a sentence encoder's vector, the proxy that other work uses: a ridge on the
//! vector itself and on its likeness to some training instructions, which bends the line.

use std::path::Path;

use candle_core::{Device, Tensor};
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{ModelFiles, SentenceEncoder};

use super::calibration::PointCalibration;
use super::fitted_file::{self, FittedFile, tensor};
use super::held_out::HeldOut;
use super::lexical::longest;
use super::ridge::{RidgeFit, System};
use super::stored::{Description, Kind};
use super::training::TrainingData;
use super::trials::{Chosen, Trials, mean_absolute_error};
use super::{Prediction, Predictor, Query, asked_of};

const FILE: &str = "encoder.safetensors";
/// Training instructions that texts are held against, at most.
const LANDMARKS: usize = 1000;
/// Widths tried of the likeness exp(width (cosine - 1)); 0 is the vector alone.
const WIDTHS: [f32; 3] = [0.0, 1.5, 4.0];
/// Penalties tried, relative to the number of training instructions.
const PENALTIES: [f64; 6] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3];

/// Vectors of some training instructions, and how fast likeness to them fades.
#[derive(Debug, Clone, PartialEq)]
struct Landmarks {
    width: f32,
    /// `[landmark][hidden]`
    vectors: Vec<f32>,
}

impl Landmarks {
    /// Numbers that a vector of so many becomes.
    fn features(&self, hidden: usize) -> usize {
        hidden + self.vectors.len() / hidden.max(1)
    }

    /// The vectors (`[text][hidden]`), each followed by its likeness to every landmark.
    fn expand(&self, vectors: &[f32], hidden: usize) -> Result<Vec<f32>> {
        if self.vectors.is_empty() || vectors.is_empty() {
            return Ok(vectors.to_vec());
        }
        let matrix = |of: &[f32]| Tensor::from_slice(of, (of.len() / hidden, hidden), &Device::Cpu);
        let cosines = matrix(vectors)?.matmul(&matrix(&self.vectors)?.t()?)?;
        let likeness = cosines.to_vec2::<f32>()?;
        let mut expanded = Vec::with_capacity(vectors.len() + likeness.len() * likeness[0].len());
        for (vector, alike) in vectors.chunks_exact(hidden).zip(&likeness) {
            expanded.extend_from_slice(vector);
            expanded.extend(
                alike
                    .iter()
                    .map(|cosine| (self.width * (cosine - 1.0)).exp()),
            );
        }
        Ok(expanded)
    }
}

#[derive(Serialize, Deserialize)]
struct Settings {
    /// What the encoder was named by.
    encoder: String,
    hidden_size: usize,
    width: f32,
    #[serde(flatten)]
    calibration: PointCalibration,
}

/// A fitted encoder as a predictor, with its distribution.
pub struct Encoder {
    name: String,
    encoder: SentenceEncoder,
    landmarks: Landmarks,
    line: RidgeFit,
    settings: Settings,
}

/// Chooses width and penalty on validation, then fits on train and validation (only train
/// where `refit` is false), into `out`. `named` is what the encoder was named by; `seed` draws
/// the landmarks.
///
/// # Errors
/// Weights that come to no number, or a folder that cannot be written.
pub fn train(
    encoder: &SentenceEncoder,
    named: &str,
    data: &TrainingData<'_>,
    refit: bool,
    seed: u64,
    out: &Path,
    mut on_progress: impl FnMut(usize),
) -> Result<Chosen> {
    let hidden = encoder.hidden_size();
    let (labels, held_labels) = (data.train_labels(), data.validation_labels());
    let vectors = encoder.embed(&data.train_texts(), &mut on_progress)?;
    let held_out = encoder.embed(&data.validation_texts(), |done| {
        on_progress(labels.len() + done);
    })?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let drawn = index::sample(&mut rng, labels.len(), LANDMARKS.min(labels.len()));
    let drawn: Vec<f32> = drawn
        .iter()
        .flat_map(|at| vectors[at * hidden..][..hidden].to_vec())
        .collect();

    let mut trials = Trials::default();
    let mut best = None;
    for width in WIDTHS {
        let landmarks = Landmarks {
            width,
            vectors: if width > 0.0 {
                drawn.clone()
            } else {
                Vec::new()
            },
        };
        let features = landmarks.features(hidden);
        let rows = landmarks.expand(&vectors, hidden)?;
        let held_rows = landmarks.expand(&held_out, hidden)?;
        let system = System::new(&rows.chunks_exact(features).collect::<Vec<_>>(), &labels);
        for penalty in PENALTIES {
            for line in system.solve(penalty * labels.len() as f64)? {
                let predicted: Vec<f64> = held_rows
                    .chunks_exact(features)
                    .map(|row| line.predict(row))
                    .collect();
                let error = mean_absolute_error(&predicted, &held_labels);
                let of = match width > 0.0 {
                    true => format!("vector and likeness of width {width}"),
                    false => "vector".to_string(),
                };
                let scale = line.length_scale().name();
                let what = format!("{of}, {scale} scale, penalty {penalty}");
                if trials.note(what.clone(), error) {
                    best = Some((what, landmarks.clone(), penalty, line, predicted));
                }
            }
        }
    }
    let (choice, landmarks, penalty, mut line, predicted) =
        best.ok_or_else(|| Error::Numeric("no line on the encoder has a finite error".into()))?;
    let limit = longest(&labels);
    let (calibration, held) = PointCalibration::fit(&predicted, &held_labels, limit, &mut trials);
    let choice = choice + calibration.in_words();
    let (texts, labels) = data.for_final_fit(refit);
    if refit {
        let all = landmarks.expand(&[vectors, held_out].concat(), hidden)?;
        let rows: Vec<&[f32]> = all.chunks_exact(landmarks.features(hidden)).collect();
        line = line.again(&rows, &labels, penalty * labels.len() as f64)?;
    }
    let settings = Settings {
        encoder: named.to_string(),
        hidden_size: hidden,
        width: landmarks.width,
        calibration,
    };
    let landmarks = [("landmarks", tensor(&landmarks.vectors)?)];
    fitted_file::write(&out.join(FILE), &settings, &landmarks)?;
    line.write(out)?;
    trials.write(out)?;
    HeldOut::write(out, data.validation_ids(), &held.quantiles)?;
    Description {
        model: encoder.name().to_string(),
        model_sha256: encoder.sha256().to_string(),
        ..data.describe_words(Kind::Encoder, texts.len())
    }
    .write(out)?;
    Ok(Chosen {
        choice,
        validation_error: held.error,
        validation_instructions: held_labels.len(),
        training_instructions: texts.len(),
    })
}

impl Encoder {
    /// Reads a trained one from its folder; `resolve` finds the encoder's files by its name.
    ///
    /// # Errors
    /// A damaged folder, or an encoder that is not the one it was trained on.
    pub fn read(
        name: &str,
        dir: &Path,
        description: &Description,
        resolve: impl FnOnce(&str) -> Result<ModelFiles>,
    ) -> Result<Encoder> {
        let file: FittedFile<Settings> = FittedFile::read(&dir.join(FILE))?;
        let line = RidgeFit::read(dir)?;
        let hidden = file.settings.hidden_size;
        let landmarks = Landmarks {
            width: file.settings.width,
            vectors: file.f32s("landmarks")?,
        };
        let fits = hidden > 0
            && landmarks.vectors.len().is_multiple_of(hidden)
            && landmarks.features(hidden) == line.features()
            && landmarks.width.is_finite();
        if !fits {
            return Err(file.damaged("holds vectors of different sizes"));
        }
        let encoder = SentenceEncoder::load(&resolve(&file.settings.encoder)?)?;
        if encoder.sha256() != description.model_sha256 || encoder.hidden_size() != hidden {
            return Err(Error::Usage(format!(
                "{} was trained on another encoder than the one that is now at `{}`: put that \
                 one back, or train again",
                dir.display(),
                file.settings.encoder
            )));
        }
        Ok(Encoder {
            name: name.to_string(),
            encoder,
            landmarks,
            line,
            settings: file.settings,
        })
    }
}

impl Predictor for Encoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        let asked = asked_of(self.name(), queries)?;
        let texts: Vec<&str> = asked.iter().map(|(_, text)| *text).collect();
        let hidden = self.encoder.hidden_size();
        let vectors = self.encoder.embed(&texts, |_| ())?;
        let rows = self.landmarks.expand(&vectors, hidden)?;
        let predictions = rows
            .chunks_exact(self.landmarks.features(hidden))
            .map(|row| self.settings.calibration.prediction(self.line.predict(row)));
        Ok(predictions.collect())
    }
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
