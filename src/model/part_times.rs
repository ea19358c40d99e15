//! Where the time of the forward pass goes.

use std::time::Instant;

/// Seconds by part of the forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PartTimes {
    /// The blocks' projections.
    pub products_s: f64,
    /// Rotating, storing and attending.
    pub attention_s: f64,
    /// The output head.
    pub head_s: f64,
    /// Embedding, norms, and what lies between the parts.
    pub rest_s: f64,
}

impl std::ops::AddAssign for PartTimes {
    fn add_assign(&mut self, other: PartTimes) {
        self.products_s += other.products_s;
        self.attention_s += other.attention_s;
        self.head_s += other.head_s;
        self.rest_s += other.rest_s;
    }
}

/// Adds the time since the last lap to a part.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    pub(crate) fn lap(&mut self, part: &mut f64) {
        let now = Instant::now();
        *part += (now - self.0).as_secs_f64();
        self.0 = now;
    }
}
