//! Inter-token latencies, counted: a million requests have too many of them to be kept.

/// Each class of the histogram is this much longer than the one before it.
const GROWTH: f64 = 1.01;
const SHORTEST_S: f64 = 1e-6;
const CLASSES: usize = 2_600;

/// A histogram of gaps between tokens; quantiles are true within half a percent.
#[derive(Debug, Clone)]
pub(crate) struct Gaps {
    counts: Vec<u64>,
    count: u64,
    sum_s: f64,
}

impl Default for Gaps {
    fn default() -> Self {
        Gaps {
            counts: vec![0; CLASSES],
            count: 0,
            sum_s: 0.0,
        }
    }
}

impl Gaps {
    /// `count` gaps of `seconds` each.
    pub fn add(&mut self, seconds: f64, count: u64) {
        let class = (seconds / SHORTEST_S).max(1.0).ln() / GROWTH.ln();
        self.counts[(class as usize).min(CLASSES - 1)] += count;
        self.count += count;
        self.sum_s += seconds * count as f64;
    }

    /// Seconds; 0 without gaps.
    pub fn mean(&self) -> f64 {
        match self.count {
            0 => 0.0,
            n => self.sum_s / n as f64,
        }
    }

    /// The gap that a share `q` of all does not exceed, seconds; 0 without gaps.
    pub fn quantile(&self, q: f64) -> f64 {
        let wanted = q * self.count as f64;
        let mut below = 0.0;
        for (class, count) in self.counts.iter().enumerate() {
            below += *count as f64;
            if *count > 0 && below >= wanted {
                return SHORTEST_S * GROWTH.powf(class as f64 + 0.5);
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_true_within_a_class() {
        let mut gaps = Gaps::default();
        assert_eq!((gaps.mean(), gaps.quantile(0.5)), (0.0, 0.0));
        gaps.add(0.01, 90);
        gaps.add(0.5, 10);
        assert!((gaps.mean() - 0.059).abs() < 1e-12);
        assert!((gaps.quantile(0.5) / 0.01 - 1.0).abs() < 0.01);
        assert!((gaps.quantile(0.99) / 0.5 - 1.0).abs() < 0.01);
        gaps.add(1e9, 1);
        gaps.add(0.0, 1);
        assert!(gaps.quantile(0.0) <= 1.1e-6);
    }
}
