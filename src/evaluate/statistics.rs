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
    /// The figure of all items; NaN where there are none.
    #[serde(rename = "mean", deserialize_with = "real")]
    pub value: f64,
    /// Lower and upper end.
    #[serde(deserialize_with = "ends")]
    pub ci95: [f64; 2],
}

/// JSON has no NaN: a figure of nothing is written as null.
fn real<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

fn ends<'de, D: serde::Deserializer<'de>>(from: D) -> Result<[f64; 2], D::Error> {
    let ends = <[Option<f64>; 2]>::deserialize(from)?;
    Ok(ends.map(|end| end.unwrap_or(f64::NAN)))
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

/// Squared distances from `center`, added up.
pub(super) fn squares_about(values: &[f64], center: f64) -> f64 {
    values.iter().map(|v| (v - center).powi(2)).sum()
}

impl Measure {
    /// Mean and 95 % interval (Student's t) over the seeds' values; the interval is the mean
    /// itself where there is one value.
    pub fn over(values: Vec<f64>) -> Self {
        let count = values.len() as f64;
        let mean = mean(&values);
        let half = match StudentsT::new(0.0, 1.0, count - 1.0) {
            Ok(student) if values.len() > 1 => {
                let standard_error = (squares_about(&values, mean) / (count - 1.0) / count).sqrt();
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
        let squares = squares_about(values, center);
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

/// Rows beyond which [`bootstrap_together`] resamples blocks of rows instead of single ones.
const MOST_BLOCKS: usize = 10_000;

/// Figures of the columns' means, each with its 95 % percentile bootstrap interval, all over the
/// same resamples: as many calls of [`bootstrap_mean`], in the time of one. `of` makes figures
/// out of the means of the columns; figures that are not finite in a resample are left out of
/// their interval. More than 10,000 rows are dealt into blocks that are resampled whole, which
/// for independent rows has the same spread. NaN for no rows.
pub fn bootstrap_together<const K: usize, const M: usize>(
    rows: &[[f64; K]],
    seed: u64,
    of: impl Fn(&[f64; K]) -> [f64; M],
) -> [Estimate; M] {
    let total = |rows: &[[f64; K]]| {
        let mut sums = [0.0; K];
        for row in rows {
            add(&mut sums, row);
        }
        sums
    };
    let values = of(&total(rows).map(|sum| sum / rows.len() as f64));
    let mut estimates = values.map(|value| Estimate {
        value,
        ci95: [value; 2],
    });
    if rows.len() < 2 {
        return estimates;
    }
    let count = rows.len().min(MOST_BLOCKS);
    let dealt: Vec<([f64; K], f64)> = match rows.len() > count {
        false => rows.iter().map(|row| (*row, 1.0)).collect(),
        true => (0..count)
            .map(|first| {
                let mut block = ([0.0; K], 0.0);
                for row in rows.iter().skip(first).step_by(count) {
                    add(&mut block.0, row);
                    block.1 += 1.0;
                }
                block
            })
            .collect(),
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let resampled: Vec<[f64; M]> = (0..RESAMPLES)
        .map(|_| {
            let (mut sums, mut weight) = ([0.0; K], 0.0);
            for _ in 0..count {
                let (block, size) = &dealt[random.random_range(0..count)];
                add(&mut sums, block);
                weight += size;
            }
            of(&sums.map(|sum| sum / weight))
        })
        .collect();
    for (place, estimate) in estimates.iter_mut().enumerate() {
        let mut column: Vec<f64> = resampled
            .iter()
            .map(|figures| figures[place])
            .filter(|figure| figure.is_finite())
            .collect();
        if !column.is_empty() {
            column.sort_by(f64::total_cmp);
            estimate.ci95 = [0.025, 0.975].map(|q| quantile_of_sorted(&column, q));
        }
    }
    estimates
}

fn add<const K: usize>(to: &mut [f64; K], row: &[f64; K]) {
    for (sum, value) in to.iter_mut().zip(row) {
        *sum += value;
    }
}

/// Spearman's rank correlation: Pearson's between the ranks, ties at the mean of their places.
/// `None` where [`kendall_tau_b`] is.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() || x.iter().chain(y).any(|value| value.is_nan()) {
        return None;
    }
    let (x, y) = (ranks(x), ranks(y));
    let middle = f64::midpoint(x.len() as f64, 1.0);
    let (mut both, mut of_x, mut of_y) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(&y) {
        both += (a - middle) * (b - middle);
        of_x += (a - middle).powi(2);
        of_y += (b - middle).powi(2);
    }
    (of_x > 0.0 && of_y > 0.0).then(|| both / (of_x * of_y).sqrt())
}

/// The places of the values in ascending order, from 1, equal ones at the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    // By value, so that 0.0 and -0.0 tie.
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let below = tied[0];
        let first = order.partition_point(|at| values[*at] < values[below]);
        for at in tied {
            ranks[*at] = first as f64 + f64::midpoint(tied.len() as f64, 1.0);
        }
    }
    ranks
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
#[path = "statistics_tests.rs"]
mod tests;
