//! How lengths vary: between instructions, and among the samples of one. Pure functions of
//! lengths in groups (one a instruction).

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// How far the samples of one instruction are apart. Lengths are in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Instructions with at least two samples; the others are left out.
    pub instructions: usize,
    /// Mean over them of longest - shortest.
    pub mean_range: f64,
    /// Mean over them of the standard deviation (n - 1) of their samples.
    pub mean_deviation: f64,
    /// Share of the lengths' variance that lies between instructions: the intraclass
    /// correlation ICC(1) of a one-way analysis of variance with groups of unequal size,
    /// (MSB - MSW) / (MSB + (n0 - 1) MSW). `None` where all lengths are equal or there is one
    /// instruction. Slightly below 0 where instructions tell nothing.
    /// Shrout and Fleiss, Psychological Bulletin 86 (1979).
    pub intraclass_correlation: Option<f64>,
}

/// The spread within `groups`, an instruction each; `None` where none has two samples.
pub fn spread<'a>(groups: impl Iterator<Item = &'a [u32]>) -> Option<Spread> {
    let (mut count, mut samples, mut squared_sizes) = (0usize, 0.0, 0.0);
    let (mut ranges, mut deviations) = (0.0, 0.0);
    let (mut total, mut within, mut squared_means) = (0.0, 0.0, 0.0);
    for group in groups.filter(|g| g.len() >= 2) {
        let size = group.len() as f64;
        let sum: f64 = group.iter().map(|&l| f64::from(l)).sum();
        let mean = sum / size;
        let squares: f64 = group.iter().map(|&l| (f64::from(l) - mean).powi(2)).sum();
        let low = group.iter().copied().min().unwrap_or(0);
        let high = group.iter().copied().max().unwrap_or(0);
        count += 1;
        samples += size;
        squared_sizes += size * size;
        ranges += f64::from(high - low);
        deviations += (squares / (size - 1.0)).sqrt();
        total += sum;
        within += squares;
        squared_means += size * mean * mean;
    }
    if count == 0 {
        return None;
    }
    let groups = count as f64;
    let between = (squared_means - total * total / samples).max(0.0) / (groups - 1.0);
    let within = within / (samples - groups);
    let size = (samples - squared_sizes / samples) / (groups - 1.0);
    let whole = between + (size - 1.0) * within;
    Some(Spread {
        instructions: count,
        mean_range: ranges / groups,
        mean_deviation: deviations / groups,
        intraclass_correlation: (count > 1 && whole > 0.0).then(|| (between - within) / whole),
    })
}

/// The 95 % interval of the mean of all lengths where the samples of one group may be alike:
/// Student's t with the standard error over groups (cluster-robust, with the correction
/// k / (k - 1) for k groups). `None` for fewer than two groups.
pub fn clustered_interval<'a>(groups: impl Iterator<Item = &'a [u32]> + Clone) -> Option<[f64; 2]> {
    let (mut count, mut samples, mut total) = (0.0, 0.0, 0.0);
    for group in groups.clone().filter(|g| !g.is_empty()) {
        count += 1.0;
        samples += group.len() as f64;
        total += group.iter().map(|&l| f64::from(l)).sum::<f64>();
    }
    if count < 2.0 {
        return None;
    }
    let mean = total / samples;
    let squares: f64 = groups
        .map(|g| g.iter().map(|&l| f64::from(l) - mean).sum::<f64>().powi(2))
        .sum();
    let error = (squares * count / (count - 1.0)).sqrt() / samples;
    let half = StudentsT::new(0.0, 1.0, count - 1.0)
        .ok()?
        .inverse_cdf(0.975)
        * error;
    Some([mean - half, mean + half])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_by_hand() {
        // Two instructions of two samples, (10, 20) and (30, 50), and one that does not count.
        let groups: [&[u32]; 3] = [&[10, 20], &[30, 50], &[1000]];
        let found = spread(groups.into_iter()).unwrap();
        assert_eq!(found.instructions, 2);
        assert_eq!(found.mean_range, 15.0);
        assert!((found.mean_deviation - f64::midpoint(50f64.sqrt(), 200f64.sqrt())).abs() < 1e-12);
        // Means 15 and 40: MSB = 2 (12.5^2 + 12.5^2) = 625; MSW = (50 + 200) / 2 = 125.
        let icc = found.intraclass_correlation.unwrap();
        assert!((icc - (625.0 - 125.0) / (625.0 + 125.0)).abs() < 1e-12);
    }

    #[test]
    fn spread_at_its_ends() {
        assert_eq!(spread([&[5u32][..], &[7]].into_iter()), None);
        let alike = spread([&[5u32, 5][..], &[9, 9]].into_iter()).unwrap();
        assert_eq!(alike.intraclass_correlation, Some(1.0));
        assert_eq!(alike.mean_range, 0.0);
        let equal = spread([&[5u32, 5][..], &[5, 5]].into_iter()).unwrap();
        assert_eq!(equal.intraclass_correlation, None);
        // Unequal sizes: n0 = (5 - 13/5) / 1 = 2.4.
        let unequal = spread([&[1u32, 3][..], &[6, 8, 10]].into_iter()).unwrap();
        let (msb, msw) = (2.0 * 3.6f64.powi(2) + 3.0 * 2.4f64.powi(2), 10.0 / 3.0);
        let icc = unequal.intraclass_correlation.unwrap();
        assert!((icc - (msb - msw) / (msb + 1.4 * msw)).abs() < 1e-12);
        let one = spread([&[1u32, 3][..]].into_iter()).unwrap();
        assert_eq!(one.intraclass_correlation, None);
    }

    #[test]
    fn an_interval_over_single_samples_is_students() {
        let groups: [&[u32]; 3] = [&[1], &[2], &[3]];
        let [low, high] = clustered_interval(groups.into_iter()).unwrap();
        assert!((high - (2.0 + 4.302_652_7 / 3f64.sqrt())).abs() < 1e-4);
        assert!((low + high - 4.0).abs() < 1e-9);
        // Doubling each sample adds nothing that is known.
        let doubled: [&[u32]; 3] = [&[1, 1], &[2, 2], &[3, 3]];
        let again = clustered_interval(doubled.into_iter()).unwrap();
        assert!((again[1] - high).abs() < 1e-9);
        assert_eq!(clustered_interval([&[1u32, 2][..]].into_iter()), None);
    }
}
