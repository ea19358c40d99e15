//! Every metric, of predictors and of schedules, and the statistics under them.
//! Pure functions: numbers in, numbers out.

pub mod statistics;
pub mod summary;
