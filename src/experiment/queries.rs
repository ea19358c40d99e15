//! What the predictors of an experiment say of its requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Arm, Experiment, Served};
use crate::dataset::LengthDataset;
use crate::error::Result;
use crate::predictor::{Query, Workshop, known, training_lengths};
use crate::schedule::Forecast;

use super::workload::Workload;

/// A predictor under a label, the seed where the served answers are drawn by it, and the limit
/// of a response.
type PredictionKey = (String, Option<u64>, usize);

/// The predictors of the arms, made once, with the training lengths of each label.
pub(super) struct Queries {
    predictors: HashMap<String, Box<dyn crate::predictor::Predictor>>,
    /// Predictions of replays: simulated time does not count them, so each is made once.
    remembered: RefCell<HashMap<PredictionKey, Arc<[Forecast]>>>,
}

impl Queries {
    pub fn of(
        experiment: &Experiment,
        dataset: &LengthDataset,
        workshop: &Workshop,
    ) -> Result<Queries> {
        let mut predictors = HashMap::new();
        for arm in &experiment.arms {
            let key = predictor_key(arm);
            if predictors.contains_key(&key) {
                continue;
            }
            let training = training_lengths(&dataset.training_instances(), arm.label);
            predictors.insert(key, workshop.predictor(&arm.predictor, &training)?);
        }
        Ok(Queries {
            predictors,
            remembered: RefCell::default(),
        })
    }

    pub fn remembered(
        &self,
        arm: &Arm,
        seed: u64,
        workload: &Workload<'_>,
        lengths: &[usize],
    ) -> Result<Arc<[Forecast]>> {
        // Only the oracle sees the served answers, which a seed may draw.
        let drawn = workload.served == Served::Random && arm.predictor == known::ORACLE;
        let drawn = drawn.then_some(seed);
        let key = (predictor_key(arm), drawn, arm.schedule.max_new_tokens);
        if let Some(known) = self.remembered.borrow().get(&key) {
            return Ok(known.clone());
        }
        let forecasts: Arc<[Forecast]> = self.forecast(arm, workload, lengths)?.into();
        let mut remembered = self.remembered.borrow_mut();
        remembered.insert(key, forecasts.clone());
        Ok(forecasts)
    }

    pub fn forecast(
        &self,
        arm: &Arm,
        workload: &Workload<'_>,
        lengths: &[usize],
    ) -> Result<Vec<Forecast>> {
        let queries: Vec<Query<'_>> = workload
            .instances
            .iter()
            .zip(lengths)
            .map(|(instance, served)| Query {
                instruction_id: instance.instruction_id,
                instruction: instance.instruction,
                prompt_tokens: instance.samples[0].prompt_tokens,
                label: instance.label(arm.label),
                served: Some(*served as f64),
            })
            .collect();
        let said = self.predictors[&predictor_key(arm)].predict(&queries)?;
        let most = arm.schedule.max_new_tokens;
        Ok(said
            .iter()
            .zip(&queries)
            .map(|(said, query)| Forecast::new(said, query.prompt_tokens as usize, most))
            .collect())
    }
}

fn predictor_key(arm: &Arm) -> String {
    format!("{} {}", arm.predictor, arm.label)
}
