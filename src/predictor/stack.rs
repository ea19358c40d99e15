//! Other predictors' distributions, mixed: each quantile is a weighted mean of the members'
//! (Vincent averaging), with the weights that lose least on held-out predictions.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::calibration::Calibration;
use super::fitted_file::{self, FittedFile};
use super::held_out::HeldOut;
use super::stored::{Description, Kind};
use super::training::TrainingData;
use super::trials::{Chosen, mean_absolute_error};
use super::{LEVELS, Prediction, Predictor, Quantiles, Query};

const FILE: &str = "stack.safetensors";
/// Steps of exponentiated gradient on the weights.
const STEPS: usize = 400;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Settings {
    members: Vec<PathBuf>,
    /// As many as members, at least 0, summing to 1.
    weights: Vec<f64>,
    calibration: Calibration,
}

/// Mixes the predictors in the folders `members` into `out`.
///
/// # Errors
/// Fewer than two members, a member that is a stack itself or has another label, or held-out
/// predictions that do not cover this dataset's validation instructions.
pub fn train(data: &TrainingData<'_>, members: &[PathBuf], out: &Path) -> Result<Chosen> {
    if members.len() < 2 {
        return Err(Error::Usage(
            "a stack needs at least two trained predictors: --members ./runs/a,./runs/b".into(),
        ));
    }
    let (mut held, mut paths) = (Vec::new(), Vec::new());
    let (mut model, mut instructions) = (String::new(), usize::MAX);
    for member in members {
        let description = Description::read(member)?
            .ok_or_else(|| Error::Usage(format!("{} is no trained predictor", member.display())))?;
        refuse_stack(member, description.kind)?;
        if description.label != data.label.to_string() {
            return Err(Error::Usage(format!(
                "{} was trained for the label {}, not {}",
                member.display(),
                description.label,
                data.label
            )));
        }
        if !description.model_sha256.is_empty() && description.kind != Kind::Encoder {
            model = description.model;
        }
        instructions = instructions.min(description.training_instructions);
        let all = HeldOut::read(member)?;
        let quantiles = data
            .validation
            .iter()
            .map(|i| {
                all.0.get(i.instruction_id).cloned().ok_or_else(|| {
                    Error::Usage(format!(
                        "{} was trained on another dataset or split: it has no held-out \
                         prediction for `{}`",
                        member.display(),
                        i.instruction_id
                    ))
                })
            })
            .collect::<Result<Vec<Quantiles>>>()?;
        held.push(quantiles);
        paths.push(std::fs::canonicalize(member).map_err(|e| Error::io(member, e))?);
    }
    let labels = data.validation_labels();
    let weights = weights(&held, &labels);
    let mixed: Vec<Quantiles> = (0..labels.len())
        .map(|i| mix(held.iter().map(|m| &m[i]), &weights))
        .collect();
    let limit = (data.train_labels().into_iter())
        .chain(labels.iter().copied())
        .fold(2.0, f64::max);
    let calibration = Calibration::fit(&mixed, &labels, limit);
    let quantiles: Vec<Quantiles> = mixed.iter().map(|q| calibration.apply(q)).collect();
    let medians: Vec<f64> = quantiles.iter().map(|q| q.at(0.5)).collect();
    let choice = members
        .iter()
        .zip(&weights)
        .map(|(member, weight)| format!("{weight:.2} {}", member.display()))
        .collect::<Vec<_>>()
        .join(" + ");
    let settings = Settings {
        members: paths,
        weights,
        calibration,
    };
    fitted_file::write(&out.join(FILE), &settings, &[])?;
    HeldOut::write(out, data.validation_ids(), &quantiles)?;
    Description {
        model,
        ..data.describe_words(Kind::Stack, instructions)
    }
    .write(out)?;
    Ok(Chosen {
        choice,
        validation_error: mean_absolute_error(&medians, &labels),
        validation_instructions: labels.len(),
        training_instructions: instructions,
    })
}

fn refuse_stack(member: &Path, kind: Kind) -> Result<()> {
    match kind {
        Kind::Stack => Err(Error::Usage(format!(
            "{} is a stack itself: name its members instead",
            member.display()
        ))),
        _ => Ok(()),
    }
}

fn mix<'a>(members: impl Iterator<Item = &'a Quantiles>, weights: &[f64]) -> Quantiles {
    let mut tokens = [0.0; LEVELS.len()];
    for (quantiles, weight) in members.zip(weights) {
        for (to, value) in tokens.iter_mut().zip(quantiles.tokens()) {
            *to += weight * value;
        }
    }
    Quantiles::new(tokens)
}

/// The weights, at least 0 and summing to 1, whose mixture has the least mean pinball loss:
/// a convex problem, by exponentiated gradient (Kivinen and Warmuth 1997).
fn weights(held: &[Vec<Quantiles>], labels: &[f64]) -> Vec<f64> {
    let members = held.len();
    let mut weights = vec![1.0 / members as f64; members];
    let mut mean = vec![0.0; members];
    let scale = (labels.iter().sum::<f64>() / labels.len().max(1) as f64).max(1.0);
    for step in 0..STEPS {
        let mut gradient = vec![0.0; members];
        for (i, label) in labels.iter().enumerate() {
            for (place, level) in LEVELS.iter().enumerate() {
                let said = |m: &Vec<Quantiles>| m[i].tokens()[place];
                let mixed: f64 = held.iter().zip(&weights).map(|(m, w)| w * said(m)).sum();
                let slope = if mixed >= *label { 1.0 - level } else { -level };
                for (g, member) in gradient.iter_mut().zip(held) {
                    *g += slope * said(member);
                }
            }
        }
        let rate = 20.0 / (scale * (labels.len() * LEVELS.len()).max(1) as f64);
        let rate = rate / (1.0 + step as f64).sqrt();
        for (w, g) in weights.iter_mut().zip(&gradient) {
            *w *= (-rate * g).exp();
        }
        let total: f64 = weights.iter().sum();
        for (w, m) in weights.iter_mut().zip(&mut mean) {
            *w /= total;
            *m += *w / STEPS as f64;
        }
    }
    mean
}

/// A trained stack with its members.
pub struct Stack {
    name: String,
    members: Vec<Box<dyn Predictor>>,
    settings: Settings,
}

impl Stack {
    /// Reads a stack from its folder; `open` opens a member's. A member that is no longer
    /// where it was is looked for beside the stack.
    ///
    /// # Errors
    /// A damaged folder, or a member that cannot be opened.
    pub fn read(
        name: &str,
        dir: &Path,
        open: impl Fn(&str) -> Result<Box<dyn Predictor>>,
    ) -> Result<Stack> {
        let file: FittedFile<Settings> = FittedFile::read(&dir.join(FILE))?;
        let settings = file.settings.clone();
        let sound = settings.members.len() == settings.weights.len()
            && settings.weights.iter().all(|w| w.is_finite() && *w >= 0.0)
            && !settings.members.is_empty();
        if !sound {
            return Err(file.damaged("does not give every member a weight"));
        }
        let members = settings
            .members
            .iter()
            .map(|path| {
                let beside = path
                    .file_name()
                    .and_then(|name| Some(dir.canonicalize().ok()?.parent()?.join(name)));
                let path = match beside {
                    Some(beside) if !path.is_dir() && beside.is_dir() => beside,
                    _ => path.clone(),
                };
                if let Some(description) = Description::read(&path)? {
                    refuse_stack(&path, description.kind)?;
                }
                open(&path.display().to_string())
            })
            .collect::<Result<_>>()?;
        Ok(Stack {
            name: name.to_string(),
            members,
            settings,
        })
    }
}

impl Predictor for Stack {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        let all = self
            .members
            .iter()
            .map(|member| member.predict(queries))
            .collect::<Result<Vec<_>>>()?;
        (0..queries.len())
            .map(|i| {
                let said = all
                    .iter()
                    .map(|m| m[i].quantiles.as_ref())
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(|| {
                        Error::Usage(format!("a member of {} foresees no quantiles", self.name))
                    })?;
                let mixed = mix(said.into_iter(), &self.settings.weights);
                Ok(Prediction::distributed(
                    self.settings.calibration.apply(&mixed),
                ))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn who_knows_gets_the_weight() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let labels: Vec<f64> = (0..400).map(|_| rng.random_range(20.0..400.0)).collect();
        let mut around = |noise: f64| -> Vec<Quantiles> {
            labels
                .iter()
                .map(|l| {
                    let centre = l + rng.random_range(-noise..noise);
                    Quantiles::new(LEVELS.map(|p| centre + noise * (2.0 * p - 1.0)))
                })
                .collect()
        };
        let held = [around(20.0), around(150.0)];
        let weights = weights(&held, &labels);
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(weights[0] > 0.9, "{weights:?}");
        let mixed = mix(held.iter().map(|m| &m[0]), &[1.0, 0.0]);
        assert_eq!(mixed, held[0][0]);
    }
}
