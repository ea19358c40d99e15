//! Predictors that look at the recorded lengths: bounds, not predictors one could use.

use crate::error::{Error, Result};

use super::{LEVELS, Prediction, Predictor, Quantiles, Query};

/// The label over the recorded samples: the paper's "ground truth". Not an upper bound of
/// scheduling, since the answer served is only one of the samples.
pub struct GroundTruth;

impl Predictor for GroundTruth {
    fn name(&self) -> &str {
        "ground-truth"
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        Ok(queries.iter().map(|q| Prediction::of(q.label)).collect())
    }
}

/// The length of the very answer that will be served.
pub struct Oracle;

impl Predictor for Oracle {
    fn name(&self) -> &str {
        "oracle"
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        queries
            .iter()
            .map(|q| {
                // It is certain of what it knows.
                let certain =
                    |served| Prediction::distributed(Quantiles::new([served; LEVELS.len()]));
                q.served.map(certain).ok_or_else(|| {
                    Error::Usage(
                        "`oracle` needs to know the served answers: use it in `ablate`".into(),
                    )
                })
            })
            .collect()
    }
}
