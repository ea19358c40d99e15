//! Multi-bin batching (Guldogan et al. 2024): requests are put into a few bins by predicted
//! length, and batches are filled in the order of arrival within each.

use super::ScheduleOptions;
use super::binning::Bin;

/// Bins of equally many requests of the group, batches inside them.
pub(super) fn cut(
    group: &[usize],
    length: impl Fn(usize) -> f64,
    options: &ScheduleOptions,
) -> Vec<Bin> {
    // With their places in the order of arrival.
    let mut sorted: Vec<(usize, usize)> = group.iter().copied().enumerate().collect();
    sorted.sort_by(|a, b| length(a.1).total_cmp(&length(b.1)));
    let bins = options.bins.clamp(1, group.len().max(1));
    let most = options.max_new_tokens as f64;
    let mut batches = Vec::new();
    for members in sorted.chunks(group.len().div_ceil(bins).max(1)) {
        let mut arrived = members.to_vec();
        arrived.sort_unstable();
        let within: Vec<usize> = arrived.into_iter().map(|(_, request)| request).collect();
        for batch in within.chunks(options.batch_size.max(1)) {
            let longest = batch.iter().map(|r| length(*r)).fold(1.0, f64::max);
            batches.push(Bin {
                members: batch.to_vec(),
                length: longest.min(most),
            });
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_order_inside_a_bin() {
        let lengths = [400.0, 10.0, 300.0, 20.0, 350.0, 5.0];
        let options = ScheduleOptions {
            bins: 2,
            batch_size: 2,
            ..ScheduleOptions::default()
        };
        let batches = cut(&[5, 4, 3, 2, 1, 0], |r| lengths[r], &options);
        let members: Vec<&[usize]> = batches.iter().map(|b| &b.members[..]).collect();
        assert_eq!(members, [&[5, 3][..], &[1], &[4, 2], &[0]]);
        assert_eq!(batches[2].length, 350.0);
    }
}
