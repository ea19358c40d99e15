//! Quantiles, intervals and rank correlation: the few statistics under every table.
//! Deterministic: the bootstrap is seeded.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::summary::Measure;

/// Resamples behind a bootstrap interval.
pub const RESAMPLES: usize = 2_000;

/// Of more values than this the mean's interval is the normal one: the bootstrap's differs by
/// less than its own noise there, and would take minutes for a million.
pub const MOST_RESAMPLED: usize = 50_000;

/// A figure over items (requests, instructions) with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    #[serde(rename = "mean")]
    pub value: f64,
    pub ci95: [f64; 2],
}

/// The `q`-quantile (0..=1) of a non-empty list, with linear interpolation between order
/// statistics (NumPy's default, type 7). Returns NaN for an empty list.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, q)
}

/// As [`quantile`], of values in ascending order.
pub fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let place = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = place.ceil() as usize;
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// The middle of a list; NaN for an empty one.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The arithmetic mean; NaN for an empty list.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

impl Measure {
    /// Mean and 95 % interval (Student's t) over the seeds' values; the interval is the mean
    /// itself where there is one value.
    pub fn over(values: Vec<f64>) -> Self {
        let count = values.len() as f64;
        let mean = mean(&values);
        let half = match StudentsT::new(0.0, 1.0, count - 1.0) {
            Ok(student) if values.len() > 1 => {
                let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
                let standard_error = (squares / (count - 1.0) / count).sqrt();
                student.inverse_cdf(0.975) * standard_error
            }
            _ => 0.0,
        };
        Measure {
            mean,
            ci95: [mean - half, mean + half],
            values,
        }
    }
}

/// The mean of `values` with its 95 % percentile bootstrap interval.
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Estimate {
    bootstrap(values, seed, |mean| mean)
}

/// `of(mean of values)`, for a monotone `of` such as the root of a mean square, with its 95 %
/// percentile bootstrap interval over [`RESAMPLES`] resamples (the normal one for more than
/// [`MOST_RESAMPLED`] values). NaN for an empty list.
pub fn bootstrap(values: &[f64], seed: u64, of: impl Fn(f64) -> f64) -> Estimate {
    let value = of(mean(values));
    if values.len() < 2 {
        return Estimate {
            value,
            ci95: [value; 2],
        };
    }
    if values.len() > MOST_RESAMPLED {
        let (count, center) = (values.len() as f64, mean(values));
        let squares: f64 = values.iter().map(|v| (v - center).powi(2)).sum();
        let half = 1.959_964 * squares.sqrt() / count;
        // A share stays within 0..=1, as its resamples would.
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let ends = [(center - half).max(low), (center + half).min(high)];
        return Estimate {
            value,
            ci95: ends.map(&of),
        };
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sum: f64 = (0..values.len())
                .map(|_| values[random.random_range(0..values.len())])
                .sum();
            of(sum / values.len() as f64)
        })
        .collect();
    Estimate {
        value,
        ci95: [quantile(&resampled, 0.025), quantile(&resampled, 0.975)],
    }
}

/// Kendall's tau-b between two lists of equal length. `None` where it is undefined: fewer
/// than two items, a constant list, or a value that is not a number.
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> Option<f64> {
    let constant = |list: &[f64]| list.windows(2).all(|pair| pair[0] == pair[1]);
    let unordered = |list: &[f64]| list.iter().any(|value| value.is_nan());
    if x.len() != y.len() || constant(x) || constant(y) || unordered(x) || unordered(y) {
        return None;
    }
    // Compared by value, not by `total_cmp`, so that 0.0 and -0.0 tie as the crate assumes.
    let compare = |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal);
    kendalls::tau_b_with_comparator(x, y, compare)
        .ok()
        .map(|(tau, _)| tau)
        .filter(|tau| tau.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.9), 4.6);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan() && mean(&[]).is_nan());
    }

    #[test]
    fn intervals_over_seeds_are_students() {
        // Mean 2, standard deviation 1, three values: half width 4.302653 / sqrt(3).
        let measure = Measure::over(vec![1.0, 2.0, 3.0]);
        assert_eq!(measure.mean, 2.0);
        assert!((measure.ci95[1] - (2.0 + 4.302_652_7 / 3f64.sqrt())).abs() < 1e-4);
        assert!((measure.ci95[0] + measure.ci95[1] - 4.0).abs() < 1e-9);
        let one = Measure::over(vec![5.0]);
        assert_eq!(one.ci95, [5.0, 5.0]);
    }

    #[test]
    fn bootstrap_is_seeded_and_near_the_normal_interval() {
        // 0 and 1 in equal parts: standard error of the mean 0.5 / 20.
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let estimate = bootstrap_mean(&values, 42);
        assert_eq!(estimate, bootstrap_mean(&values, 42));
        assert_ne!(estimate, bootstrap_mean(&values, 43));
        assert!((estimate.ci95[0] - (0.5 - 1.96 * 0.025)).abs() < 0.008);
        assert!((estimate.ci95[1] - (0.5 + 1.96 * 0.025)).abs() < 0.008);
        assert_eq!(bootstrap_mean(&[3.0], 1).ci95, [3.0, 3.0]);
        let many: Vec<f64> = (0..100_000).map(|i| f64::from(i % 2)).collect();
        let half = 1.96 * 0.5 / 100_000f64.sqrt();
        let estimate = bootstrap_mean(&many, 42);
        assert!((estimate.ci95[1] - 0.5 - half).abs() < 1e-5);
        assert!((estimate.ci95[0] - 0.5 + half).abs() < 1e-5);
    }

    #[test]
    fn kendall_by_hand() {
        // 4 of 6 pairs concordant, 1 discordant, 1 tied in x only:
        // (4 - 1) / sqrt((6 - 1) * 6).
        let tau = kendall_tau_b(&[1.0, 1.0, 2.0, 3.0], &[1.0, 3.0, 2.0, 4.0]);
        assert!((tau.expect("defined") - 3.0 / 30f64.sqrt()).abs() < 1e-12);
        // Ties in both at once count in neither denominator twice: (5 - 0) / sqrt(5 * 5).
        let tied = kendall_tau_b(&[1.0, 1.0, 2.0, 3.0], &[5.0, 5.0, 6.0, 7.0]);
        assert!((tied.expect("defined") - 1.0).abs() < 1e-12);
        assert_eq!(kendall_tau_b(&[1.0, 2.0], &[2.0, 1.0]), Some(-1.0));
    }

    #[test]
    fn kendall_is_undefined_for_constants() {
        assert_eq!(kendall_tau_b(&[4.0; 3], &[1.0, 2.0, 3.0]), None);
        assert_eq!(kendall_tau_b(&[1.0, f64::NAN], &[1.0, 2.0]), None);
        assert_eq!(kendall_tau_b(&[], &[]), None);
        assert_eq!(kendall_tau_b(&[1.0], &[1.0]), None);
    }

    proptest! {
        #[test]
        fn kendall_equals_counting_pairs(
            pairs in prop::collection::vec((0i32..6, 0i32..6), 2..40),
        ) {
            let (x, y): (Vec<f64>, Vec<f64>) =
                pairs.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
            let (mut balance, mut differ_x, mut differ_y) = (0.0, 0.0, 0.0);
            for i in 0..x.len() {
                for j in 0..i {
                    let (a, b) = ((x[i] - x[j]).signum(), (y[i] - y[j]).signum());
                    let (a, b) = (if x[i] == x[j] { 0.0 } else { a }, if y[i] == y[j] { 0.0 } else { b });
                    balance += a * b;
                    differ_x += a * a;
                    differ_y += b * b;
                }
            }
            match kendall_tau_b(&x, &y) {
                Some(tau) => prop_assert!((tau - balance / f64::sqrt(differ_x * differ_y)).abs() < 1e-9),
                None => prop_assert!(differ_x == 0.0 || differ_y == 0.0),
            }
        }

        #[test]
        fn a_bootstrap_interval_stays_within_the_values(
            values in prop::collection::vec(-100.0..100.0f64, 1..50), seed in any::<u64>(),
        ) {
            let estimate = bootstrap_mean(&values, seed);
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(low - 1e-9 <= estimate.ci95[0]);
            prop_assert!(estimate.ci95[0] <= estimate.ci95[1]);
            prop_assert!(estimate.ci95[1] <= high + 1e-9);
        }
    }
}
