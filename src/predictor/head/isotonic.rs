//! A rising map from scores to lengths, fitted on held-out instructions (pool adjacent
//! violators).

use serde::{Deserialize, Serialize};

/// Scores, rising, and the log length at each, never falling; linear between.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Isotonic {
    scores: Vec<f64>,
    logs: Vec<f64>,
}

impl Isotonic {
    /// The rising step function with the least squared distance to the logarithms of
    /// `lengths`, as a line through the steps' middles.
    pub fn fit(scores: &[f64], lengths: &[f64]) -> Isotonic {
        let mut pairs: Vec<(f64, f64)> = scores
            .iter()
            .zip(lengths)
            .map(|(s, l)| (*s, l.max(1.0).ln()))
            .filter(|(s, _)| s.is_finite())
            .collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Blocks of (sum of scores, sum of logs, count).
        let mut blocks: Vec<(f64, f64, f64)> = Vec::new();
        for (score, log) in pairs {
            blocks.push((score, log, 1.0));
            while let [.., a, b] = blocks[..]
                && a.1 / a.2 >= b.1 / b.2
            {
                blocks.truncate(blocks.len() - 2);
                blocks.push((a.0 + b.0, a.1 + b.1, a.2 + b.2));
            }
        }
        Isotonic {
            scores: blocks.iter().map(|b| b.0 / b.2).collect(),
            logs: blocks.iter().map(|b| b.1 / b.2).collect(),
        }
    }

    /// Tokens for a score; beyond the fitted scores, the outermost length.
    pub fn tokens(&self, score: f64) -> f64 {
        let above = self.scores.partition_point(|s| *s < score);
        let log = match (above, self.scores.len()) {
            (_, 0) => 0.0,
            (0, _) => self.logs[0],
            (above, n) if above == n => self.logs[n - 1],
            (above, _) => {
                let (low, high) = (self.scores[above - 1], self.scores[above]);
                let share = (score - low) / (high - low);
                self.logs[above - 1] + share * (self.logs[above] - self.logs[above - 1])
            }
        };
        log.exp()
    }

    /// Whether a stored map can be used.
    pub fn is_sound(&self) -> bool {
        self.scores.len() == self.logs.len()
            && self.scores.windows(2).all(|w| w[0] < w[1])
            && self.scores.iter().chain(&self.logs).all(|v| v.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violators_are_pooled_and_the_map_rises() {
        let map = Isotonic::fit(&[3.0, 0.0, 1.0, 2.0], &[400.0, 10.0, 90.0, 40.0]);
        assert!(map.is_sound());
        assert!((map.tokens(1.5) - 60.0).abs() < 1e-9);
        assert!((map.tokens(-5.0) - 10.0).abs() < 1e-9);
        assert!((map.tokens(9.0) - 400.0).abs() < 1e-9);
        let mut last = 0.0;
        for step in 0..40 {
            let tokens = map.tokens(f64::from(step) / 10.0);
            assert!(tokens >= last);
            last = tokens;
        }
        assert_eq!(Isotonic::fit(&[], &[]).tokens(1.0), 1.0);
    }
}
