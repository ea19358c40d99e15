//! Every metric, of predictors and of schedules, and the statistics under them.
//! Pure functions: numbers in, numbers out.

pub mod accounting;
pub mod evaluation;
pub mod length_bins;
pub mod predictor_metrics;
pub mod quantile_metrics;
#[cfg(test)]
mod scipy_tests;
pub mod spread;
pub mod statistics;
pub mod summary;
