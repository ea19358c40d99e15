//! The record of an evaluation: what `evaluate --json` prints and `summary.json` of its folder
//! holds. The definitions are the design's.

use serde::{Deserialize, Serialize};

use super::predictor_metrics::PredictorMetrics;
use super::statistics::{mean, squares_about};
use super::summary::Measure;
use crate::predictor::known::is_told;

/// Several predictors on one set of instructions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationSummary {
    /// Path or name of the evaluated dataset.
    pub dataset: String,
    /// The model whose lengths it holds.
    pub dataset_model: String,
    /// The part of it that was evaluated; `None` = all.
    pub split: Option<String>,
    /// What is foreseen of an instruction's samples: `max`, `mean` or a quantile.
    pub label: String,
    /// How many were evaluated.
    pub instructions: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// UTC, RFC 3339.
    pub created: String,
    /// In the order they were asked for.
    pub predictors: Vec<PredictorRecord>,
    /// What always saying one constant reaches.
    pub floor: PredictorMetrics,
    /// What one real answer, scaled, reaches; `None` where no instruction has two samples.
    pub ceiling: Option<PredictorMetrics>,
    /// What a reader of the table must know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One predictor's row: its accuracy, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictorRecord {
    /// Over all members, where there are several.
    #[serde(flatten)]
    pub metrics: PredictorMetrics,
    /// The predictors behind the row: one, or several that differ in their seed.
    pub members: Vec<String>,
    /// What `predictor.json` says, of predictors that have one.
    #[serde(default)]
    pub trained_on: Option<TrainedOn>,
    /// How the figures vary over the members, where there are several.
    #[serde(default)]
    pub seeds: Option<SeedSpread>,
    /// The members' names of their folders, or of the bare word: short, and unique in a table.
    #[serde(default)]
    pub short_name: String,
}

/// Where a trained predictor comes from, as its `predictor.json` says. What a kind does not
/// have, or an older tool did not write, is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainedOn {
    /// Its [`crate::predictor::stored::Kind`], in its word.
    pub kind: Option<String>,
    /// What it was trained to foresee: `max`, `mean`, a quantile, or a distribution.
    pub label: Option<String>,
    /// What it was trained on.
    pub dataset: Option<String>,
    /// The model whose lengths the dataset holds.
    pub dataset_model: Option<String>,
    /// The model that the predictor looks into.
    pub model: Option<String>,
    /// How many it was fitted on.
    pub training_instructions: Option<usize>,
    /// Wall time of the training; the mean of the members'.
    pub training_s: Option<f64>,
}

impl TrainedOn {
    /// What two predictors of one group must not differ in, as (key, value).
    pub fn identity(&self) -> [(&'static str, String); 5] {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let count = |n: &Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        [
            ("kind", text(&self.kind)),
            ("label", text(&self.label)),
            ("dataset", text(&self.dataset)),
            ("model", text(&self.model)),
            ("training_instructions", count(&self.training_instructions)),
        ]
    }
}

/// Figures over predictors that differ only in the seed of their training: mean, 95 % interval
/// (Student's t over seeds) and the values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedSpread {
    /// Mean |prediction - label|, tokens.
    pub error: Measure,
    /// Share within 50 tokens.
    pub acc_50: Measure,
    /// Share within 100 tokens.
    pub acc_100: Measure,
    /// Tau-b; none where it is undefined under some seed.
    pub kendall_tau: Option<Measure>,
}

impl SeedSpread {
    /// Of one predictor's accuracies, a seed each; `None` for fewer than two.
    pub fn of(seeds: &[PredictorMetrics]) -> Option<SeedSpread> {
        if seeds.len() < 2 {
            return None;
        }
        let over = |of: fn(&PredictorMetrics) -> f64| Measure::over(seeds.iter().map(of).collect());
        let tau: Option<Vec<f64>> = seeds.iter().map(|m| m.kendall_tau).collect();
        Some(SeedSpread {
            error: over(|m| m.error.value),
            acc_50: over(|m| m.acc_50.value),
            acc_100: over(|m| m.acc_100.value),
            kendall_tau: tau.map(Measure::over),
        })
    }
}

/// The standard deviation (n - 1) of a figure over seeds.
pub fn deviation(measure: &Measure) -> f64 {
    let squares = squares_about(&measure.values, mean(&measure.values));
    (squares / (measure.values.len() as f64 - 1.0).max(1.0)).sqrt()
}

/// An accuracy that others published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// As in tables.
    pub name: &'static str,
    /// Error in tokens, Acc-50 and Acc-100 as fractions.
    pub error: f64,
    /// Share within 50 tokens.
    pub acc_50: f64,
    /// Share within 100 tokens.
    pub acc_100: f64,
    /// What a prediction costs, in words.
    pub cost: &'static str,
}

/// Response length perception (Zheng et al. 2023), its reference code's figures on the first
/// 1,000 instructions of its Alpaca validation set, label max of four answers of Vicuna-7B.
pub const PAPER: Published = Published {
    name: "paper: LoRA Vicuna-7B",
    error: 62.0,
    acc_50: 0.59,
    acc_100: 0.81,
    cost: "a 7B prefill (its cost was not published)",
};

impl EvaluationSummary {
    /// The paper's figures, where they are of the same lengths: Vicuna-7B's, label max.
    pub fn published(&self) -> Option<Published> {
        let vicuna = self.dataset_model.to_lowercase().contains("vicuna-7b");
        (vicuna && self.label == "max").then_some(PAPER)
    }
}

impl PredictorRecord {
    /// Whether it looks at what it is asked to foresee.
    pub fn knows_the_answer(&self) -> bool {
        self.members.iter().all(|member| is_told(member))
    }

    /// Whether its predictions were made elsewhere, at a cost that is not known here.
    pub fn made_elsewhere(&self) -> bool {
        self.members.iter().any(|m| m.starts_with("file:"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::predictor_metrics::{Said, predictor_metrics};

    fn metrics(tokens: &[f64]) -> PredictorMetrics {
        let said = Said {
            tokens,
            ..Said::default()
        };
        predictor_metrics("p", said, &[10.0, 200.0, 300.0], 0.5, 1)
    }

    #[test]
    fn the_spread_over_seeds_keeps_every_value() {
        let seeds = [
            metrics(&[10.0, 200.0, 303.0]),
            metrics(&[19.0, 200.0, 300.0]),
        ];
        let spread = SeedSpread::of(&seeds).expect("two seeds");
        assert_eq!(spread.error.values, [1.0, 3.0]);
        assert_eq!(spread.error.mean, 2.0);
        assert!(spread.error.ci95[0] < 1.0);
        assert!((deviation(&spread.error) - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(spread.kendall_tau.map(|tau| tau.mean), Some(1.0));
        assert_eq!(SeedSpread::of(&seeds[..1]), None);
        let constant = [metrics(&[5.0; 3]), metrics(&[5.0; 3])];
        assert_eq!(SeedSpread::of(&constant).unwrap().kendall_tau, None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = PredictorRecord {
            metrics: metrics(&[1.0, 250.0, 90.0]),
            members: vec!["./a".into()],
            trained_on: Some(TrainedOn {
                kind: Some("ridge".into()),
                ..TrainedOn::default()
            }),
            seeds: None,
            short_name: "a".into(),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.starts_with("{\"name\":\"p\",\"n\":3,\"error\":{\"mean\":"));
        let read: PredictorRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read, record);
    }
}
