//! Lengths as classes: bins of equal width in the square root of the length, so that a token
//! more matters where answers are short and little where they are long.

use serde::{Deserialize, Serialize};

use crate::predictor::{LEVELS, Quantiles};

/// `count` bins from 1 token to the longest length there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthBins {
    /// `count + 1` borders, tokens, rising.
    edges: Vec<f64>,
}

impl LengthBins {
    /// Equally wide in the square root of tokens. `limit` is the longest length there can be;
    /// below 2 it counts as 2, a `count` of 0 as 1.
    pub fn new(count: usize, limit: f64) -> LengthBins {
        let (count, top) = (count.max(1), (limit.max(2.0) + 1.0).sqrt());
        let edges = (0..=count)
            .map(|k| (1.0 + (top - 1.0) * k as f64 / count as f64).powi(2))
            .collect();
        LengthBins { edges }
    }

    /// Number of bins.
    pub fn count(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    /// Whether the borders are finite and rise: what a stored file must hold.
    pub fn is_sound(&self) -> bool {
        self.edges.len() >= 2 && self.edges.windows(2).all(|w| w[0] >= 0.0 && w[0] < w[1])
    }

    /// Shares of the bins, summing to 1: a bell of width `smoothing` (in the square root of
    /// tokens) about each of the lengths, averaged. A neighbouring bin is nearly right, and the
    /// loss knows it.
    pub fn target(&self, lengths: &[f64], smoothing: f64) -> Vec<f32> {
        let mut shares = vec![0.0; self.count()];
        for length in lengths {
            let at = length.max(1.0).sqrt();
            for (share, edge) in shares.iter_mut().zip(self.edges.windows(2)) {
                let centre = f64::midpoint(edge[0], edge[1]).sqrt();
                *share += (-0.5 * ((at - centre) / smoothing).powi(2)).exp();
            }
        }
        let total: f64 = shares.iter().sum();
        shares.iter().map(|s| (s / total) as f32).collect()
    }

    /// Quantiles of a distribution over the bins, uniform within each.
    pub fn quantiles(&self, shares: &[f64]) -> Quantiles {
        let total: f64 = shares.iter().sum();
        let mut tokens = [0.0; LEVELS.len()];
        for (to, level) in tokens.iter_mut().zip(LEVELS) {
            let (mut below, mut found) = (0.0, self.edges[self.count()]);
            for (share, edge) in shares.iter().zip(self.edges.windows(2)) {
                let share = share / total;
                if below + share >= level && share > 0.0 {
                    found = edge[0] + (edge[1] - edge[0]) * (level - below) / share;
                    break;
                }
                below += share;
            }
            *to = found;
        }
        Quantiles::new(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_centred_on_its_length_and_read_back() {
        let bins = LengthBins::new(40, 512.0);
        assert!(bins.is_sound());
        assert_eq!(bins.edges[0], 1.0);
        assert!((bins.edges[40] - 513.0).abs() < 1e-9);
        for length in [20.0, 100.0, 300.0] {
            let target = bins.target(&[length], 1.0);
            assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            let shares: Vec<f64> = target.iter().map(|s| f64::from(*s)).collect();
            let median = bins.quantiles(&shares).at(0.5);
            assert!((median / length - 1.0).abs() < 0.05, "{length}: {median}");
        }
        let both = bins.target(&[20.0, 300.0], 1.0);
        let shares: Vec<f64> = both.iter().map(|s| f64::from(*s)).collect();
        let quantiles = bins.quantiles(&shares);
        assert!(quantiles.at(0.25) < 30.0 && quantiles.at(0.75) > 250.0);
    }
}
