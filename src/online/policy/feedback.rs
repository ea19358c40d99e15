//! A multi-level feedback queue (FastServe, Wu et al. 2023): without any prediction, requests
//! sink from level to level as they are given more, each level's share being twice the last's.
//! Least attained service with ever fewer changes of place.

use super::{Known, Policy};

#[derive(Debug, Clone, Copy)]
pub struct Feedback {
    /// Tokens of the first level.
    pub quantum: u32,
}

impl Policy for Feedback {
    fn rank(&self, known: &Known) -> f64 {
        (f64::from(known.generated) / f64::from(self.quantum.max(1)) + 1.0)
            .log2()
            .floor()
    }

    fn preempts(&self) -> bool {
        true
    }

    fn quantum(&self) -> Option<u32> {
        Some(self.quantum)
    }
}
