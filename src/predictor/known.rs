//! Predictors that look at the recorded lengths: bounds, not predictors one could use.

use crate::error::{Error, Result};

use super::{LEVELS, Prediction, Predictor, Quantiles, Query};

/// The word of [`GroundTruth`].
pub const GROUND_TRUTH: &str = "ground-truth";
/// The word of [`Oracle`].
pub const ORACLE: &str = "oracle";

/// Whether a predictor of that name is told by recorded answers: a bound, not a finding.
pub fn is_told(name: &str) -> bool {
    [GROUND_TRUTH, ORACLE].contains(&name)
}

/// The label over the recorded samples: the paper's "ground truth". Not an upper bound of
/// scheduling, since the answer served is only one of the samples.
pub struct GroundTruth;

impl Predictor for GroundTruth {
    fn name(&self) -> &str {
        GROUND_TRUTH
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        Ok(queries.iter().map(|q| Prediction::of(q.label)).collect())
    }
}

/// The length of the very answer that will be served.
pub struct Oracle;

impl Predictor for Oracle {
    fn name(&self) -> &str {
        ORACLE
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
