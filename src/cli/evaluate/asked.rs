//! Which instructions are asked about, and what a reader must know of the answers.

use super::{Arguments, Evaluation};
use crate::dataset::{Instance, Label, LengthDataset, Split};
use crate::error::{Error, Result};
use crate::predictor::seen::Seen;

/// The instructions to evaluate on, and the split they are of.
pub(super) fn chosen<'d>(
    dataset: &'d LengthDataset,
    arguments: &Arguments,
) -> Result<(Vec<Instance<'d>>, Option<Split>)> {
    let mut instances = dataset.instances();
    let has_splits = instances.iter().any(|i| i.split.is_some());
    let split: Option<Split> = match arguments.split.as_deref() {
        Some("all") => None,
        Some(name) => Some(name.parse()?),
        None => has_splits.then_some(Split::Test),
    };
    // A file of one split only (a validation file, say) is meant as a whole.
    let other_splits_only = arguments.split.is_none() && instances.iter().all(|i| i.split != split);
    let of_split = split.is_some() && !other_splits_only;
    if of_split {
        instances.retain(|i| i.split == split);
    }
    if instances.is_empty() {
        return Err(Error::Usage(format!(
            "{} has no instructions of that split",
            arguments.dataset.display()
        )));
    }
    Ok((instances, split.filter(|_| of_split)))
}

/// Where a dataset has no split: leaves out what any of the predictors was trained on, and says
/// so. Everything stays where that is all of it.
pub(super) fn keep_unseen(instances: &mut Vec<Instance<'_>>, seen: &[Seen]) -> Option<String> {
    let all = instances.len();
    let seen = seen.iter().cloned().fold(Seen::default(), Seen::and);
    let known = seen.keep_unseen(instances);
    (known > 0).then(|| {
        format!(
            "{known} of {all} instructions were trained on by the predictors here and are left out \
             (--split all keeps them)"
        )
    })
}

/// Whether some of the instructions that were fitted on are evaluated.
pub(super) fn sees_its_answers(fitted_on: &[Instance<'_>], evaluated: &[Instance<'_>]) -> bool {
    let fitted: std::collections::HashSet<&str> =
        fitted_on.iter().map(|i| i.instruction_id).collect();
    evaluated.iter().any(|i| fitted.contains(i.instruction_id))
}

/// What a reader must know before comparing the rows.
pub(super) fn notes(
    evaluation: &Evaluation,
    dataset: &LengthDataset,
    label: Label,
    sees_its_answers: bool,
) -> Vec<String> {
    let mut notes = Vec::new();
    if sees_its_answers {
        notes.push(
            "the floor, `constant` and `input-length` were fitted on instructions that are \
             evaluated here: --fit-on names another dataset for that"
                .to_string(),
        );
    }
    let here = &dataset.provenance.model;
    for record in &evaluation.predictors {
        let Some(trained) = &record.trained_on else {
            continue;
        };
        let name = &record.short_name;
        if let Some(other) = trained.label.as_ref().filter(|l| **l != label.to_string()) {
            notes.push(format!(
                "{name} was trained for the label {other}, not {label}"
            ));
        }
        if let Some(other) = trained.dataset_model.as_ref().filter(|m| *m != here) {
            notes.push(format!(
                "{name} was trained on lengths of {other}, and these are of {here}: only its \
                 rank correlations (tau, Spearman) can be compared"
            ));
        }
    }
    notes
}
