//! Shortest remaining processing time, by prediction (TRAIL, Shahout et al. 2024, without its
//! new predictions while an answer is generated): one with less left takes a running one's place.

use super::{Known, Policy};

#[derive(Debug, Clone, Copy)]
pub struct ShortestRemaining;

impl Policy for ShortestRemaining {
    fn rank(&self, known: &Known) -> f64 {
        known.remaining()
    }

    fn preempts(&self) -> bool {
        true
    }
}
