//! What predictors are trained on, and what their folders say of it.

use crate::dataset::{Instance, Label, LengthDataset, Split};
use crate::error::{Error, Result};
use crate::evaluate::statistics::median;
use crate::model::ModelFiles;

use super::seen;
use super::stored::{Description, Kind};

/// The parts of a dataset that training sees; the test split is never among them.
pub struct TrainingData<'d> {
    /// Path or name of the dataset.
    pub name: String,
    /// What is foreseen of an instruction's samples.
    pub label: Label,
    /// Instructions to fit on; at least two.
    pub train: Vec<Instance<'d>>,
    /// Instructions to choose on; at least one.
    pub validation: Vec<Instance<'d>>,
    /// How many instructions were left out for an evaluation.
    pub held_out: usize,
}

impl<'d> TrainingData<'d> {
    /// The dataset's own splits; where it has none, every tenth instruction is for validation.
    ///
    /// # Errors
    /// Too few instructions to train and choose on.
    pub fn of(name: &str, dataset: &'d LengthDataset, label: Label) -> Result<TrainingData<'d>> {
        TrainingData::but_for(name, dataset, label, 0.0)
    }

    /// As [`TrainingData::of`], but a share of the instructions is left out where the dataset has
    /// no split: the same ones whatever their order, chosen by their words.
    ///
    /// # Errors
    /// Too few instructions to train and choose on, or a share of a dataset that has splits.
    pub fn but_for(
        name: &str,
        dataset: &'d LengthDataset,
        label: Label,
        share: f64,
    ) -> Result<TrainingData<'d>> {
        let mut instances = dataset.instances();
        let count = instances.len();
        super::need_texts("training", instances.iter().map(|i| i.instruction))?;
        let has_splits = instances.iter().any(|i| i.split.is_some());
        if has_splits && share > 0.0 {
            return Err(Error::Usage(format!(
                "{name} has splits of its own: leave --hold-out out"
            )));
        }
        if share > 0.0 {
            // By the fingerprint, which has nothing to do with lengths; the same text on one side.
            let mut prints: Vec<u64> = (instances.iter())
                .map(|i| seen::fingerprint(i.instruction))
                .collect();
            prints.sort_unstable();
            let held = ((share * count as f64).round() as usize).clamp(1, count.max(1));
            if let Some(limit) = prints.get(held - 1) {
                instances.retain(|i| seen::fingerprint(i.instruction) > *limit);
            }
        }
        let held_out = count - instances.len();
        let of = |split| -> Vec<Instance<'d>> {
            instances
                .iter()
                .filter(|i| i.split == Some(split))
                .cloned()
                .collect()
        };
        let (mut train, mut validation) = (of(Split::Train), of(Split::Validation));
        if train.is_empty() && has_splits {
            return Err(Error::Usage(format!(
                "{name} has no instructions of the split `train`: train on a dataset that has, or \
                 that has no splits"
            )));
        }
        if train.is_empty() {
            train = instances.clone();
        }
        if validation.is_empty() {
            let (chosen, rest): (Vec<_>, Vec<_>) = train
                .into_iter()
                .enumerate()
                .partition(|(index, _)| index % 10 == 9);
            validation = chosen.into_iter().map(|(_, i)| i).collect();
            train = rest.into_iter().map(|(_, i)| i).collect();
        }
        if train.len() < 2 || validation.is_empty() {
            return Err(Error::Usage(format!(
                "{name} has {} instructions to train on: sample more",
                train.len()
            )));
        }
        Ok(TrainingData {
            name: name.to_string(),
            label,
            train,
            validation,
            held_out,
        })
    }

    /// Keeps the first instructions only.
    pub fn truncate(&mut self, train: usize) {
        self.train.truncate(train.max(2));
    }

    pub(super) fn labels(&self, of: &[Instance<'_>]) -> Vec<f64> {
        of.iter().map(|i| i.label(self.label)).collect()
    }

    /// The texts of the training instructions.
    pub fn train_texts(&self) -> Vec<&'d str> {
        self.train.iter().map(|i| i.instruction).collect()
    }

    /// The labels of the training instructions, tokens.
    pub fn train_labels(&self) -> Vec<f64> {
        self.labels(&self.train)
    }

    /// The texts of the validation instructions.
    pub fn validation_texts(&self) -> Vec<&'d str> {
        self.validation.iter().map(|i| i.instruction).collect()
    }

    /// The ids of the validation instructions.
    pub fn validation_ids(&self) -> impl Iterator<Item = &'d str> + '_ {
        self.validation.iter().map(|i| i.instruction_id)
    }

    /// The labels of the validation instructions, tokens.
    pub fn validation_labels(&self) -> Vec<f64> {
        self.labels(&self.validation)
    }

    /// Texts and labels of what is fitted on once all is chosen: the training instructions,
    /// and those of validation where `refit` says so.
    pub fn for_final_fit(&self, refit: bool) -> (Vec<&'d str>, Vec<f64>) {
        let (mut texts, mut labels) = (self.train_texts(), self.train_labels());
        if refit {
            texts.extend(self.validation_texts());
            labels.extend(self.validation_labels());
        }
        (texts, labels)
    }

    /// Describes a predictor that looks into no model, fitted on so many instructions.
    pub(super) fn describe_words(&self, kind: Kind, instructions: usize) -> Description {
        Description {
            kind,
            label: self.label.to_string(),
            model: String::new(),
            model_sha256: String::new(),
            chat_template: None,
            dataset: self.name.clone(),
            training_instructions: instructions,
            training_median: median(&self.labels(&self.train)),
            tool_version: env!("CARGO_PKG_VERSION").into(),
            dataset_model: None,
            training_s: None,
            files: Default::default(),
        }
    }

    /// Describes a predictor that looks into a model, fitted on so many instructions.
    pub(super) fn describe(
        &self,
        kind: Kind,
        files: &ModelFiles,
        instructions: usize,
    ) -> Result<Description> {
        Ok(Description {
            model: files.name.clone(),
            model_sha256: files.sha256()?,
            chat_template: files.chat_template.clone(),
            ..self.describe_words(kind, instructions)
        })
    }
}
