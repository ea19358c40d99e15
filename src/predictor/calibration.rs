//! Making quantiles true: what is said to be exceeded by one answer in ten is moved until one
//! held-out answer in ten exceeds it (split-conformal quantile shifts, Romano et al. 2019, on
//! log lengths).

use serde::{Deserialize, Serialize};

use super::prediction::{LEVELS, Quantiles};

/// One shift of the log length a level, fitted on instructions that training did not see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    shift: Vec<f64>,
    /// No quantile exceeds this, tokens.
    limit: f64,
}

impl Default for Calibration {
    /// Changes nothing.
    fn default() -> Self {
        Calibration {
            shift: vec![0.0; LEVELS.len()],
            limit: f64::MAX,
        }
    }
}

impl Calibration {
    /// Fits the shifts on held-out predictions and their labels, both in tokens. `limit` is the
    /// longest length there can be.
    pub fn fit(predicted: &[Quantiles], labels: &[f64], limit: f64) -> Calibration {
        let shift = LEVELS
            .iter()
            .enumerate()
            .map(|(place, level)| {
                let mut gaps: Vec<f64> = predicted
                    .iter()
                    .zip(labels)
                    .map(|(q, label)| log(*label) - log(q.tokens()[place]))
                    .collect();
                gaps.sort_by(f64::total_cmp);
                // The smallest shift that covers a share `level` of n + 1.
                let rank = ((gaps.len() + 1) as f64 * level).ceil() as usize;
                gaps.get(rank.clamp(1, gaps.len().max(1)) - 1)
                    .copied()
                    .unwrap_or(0.0)
            })
            .collect();
        Calibration { shift, limit }
    }

    /// As [`Calibration::fit`] for predictors of a single number: the spread of held-out
    /// answers about it becomes the distribution.
    pub fn fit_points(predicted: &[f64], labels: &[f64], limit: f64) -> Calibration {
        let points: Vec<Quantiles> = predicted.iter().map(|p| point(*p)).collect();
        Calibration::fit(&points, labels, limit)
    }

    /// The calibrated quantiles.
    pub fn apply(&self, predicted: &Quantiles) -> Quantiles {
        let mut tokens = [0.0; LEVELS.len()];
        for (place, to) in tokens.iter_mut().enumerate() {
            let shift = self.shift.get(place).copied().unwrap_or(0.0);
            *to = (log(predicted.tokens()[place]) + shift)
                .exp()
                .clamp(1.0, self.limit);
        }
        Quantiles::new(tokens)
    }

    /// The calibrated quantiles about a single predicted number.
    pub fn apply_point(&self, tokens: f64) -> Quantiles {
        self.apply(&point(tokens))
    }
}

fn log(tokens: f64) -> f64 {
    tokens.max(1.0).ln()
}

fn point(tokens: f64) -> Quantiles {
    Quantiles::new([tokens; LEVELS.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn quantiles_that_were_false_come_true_on_new_answers() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut draw = |n: usize| -> (Vec<f64>, Vec<f64>) {
            (0..n)
                .map(|_| {
                    let center: f64 = rng.random_range(20.0..300.0);
                    (center, center * rng.random_range(0.5..1.8))
                })
                .unzip()
        };
        let (points, labels) = draw(4000);
        let calibration = Calibration::fit_points(&points, &labels, 1e4);
        let (points, labels) = draw(4000);
        for level in [0.1, 0.5, 0.9] {
            let covered = points
                .iter()
                .zip(&labels)
                .filter(|(p, label)| **label <= calibration.apply_point(**p).at(level))
                .count() as f64
                / 4000.0;
            assert!((covered - level).abs() < 0.03, "{level}: {covered}");
        }
        let none = Calibration::fit_points(&[], &[], 512.0);
        assert_eq!(none.apply_point(600.0).at(0.5), 512.0);
    }
}
