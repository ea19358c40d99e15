//! Packing by predicted memory (S3, Jin et al. 2023, section 4): requests in decreasing order of
//! what they are predicted to take, each into the first batch that has room for it.

use super::binning::Bin;
use super::{Forecast, ScheduleOptions};

/// Batches whose prompts and predicted responses fit `kv_tokens`, of at most the row limit. A
/// request that is larger than the budget alone is alone in its batch.
pub(super) fn pack(
    group: &[usize],
    forecasts: &[Forecast],
    length: impl Fn(usize) -> f64,
    options: &ScheduleOptions,
) -> Vec<Bin> {
    let predicted = |request: usize| length(request).clamp(1.0, options.max_new_tokens as f64);
    let need =
        |request: usize| forecasts[request].prompt_tokens + predicted(request).ceil() as usize;
    let mut decreasing = group.to_vec();
    decreasing.sort_by_key(|request| std::cmp::Reverse(need(*request)));
    let mut open: Vec<(usize, Bin)> = Vec::new();
    for request in decreasing {
        let needed = need(request);
        let room = |used: usize, bin: &Bin| {
            used + needed <= options.kv_tokens && bin.members.len() < options.row_limit()
        };
        match open.iter_mut().find(|(used, bin)| room(*used, bin)) {
            Some((used, bin)) => {
                *used += needed;
                bin.members.push(request);
                bin.length = bin.length.max(predicted(request));
            }
            None => {
                let bin = Bin {
                    members: vec![request],
                    length: predicted(request),
                };
                open.push((needed, bin));
            }
        }
    }
    open.into_iter().map(|(_, bin)| bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_with_room_takes_it() {
        let predictions = [50.0, 90.0, 10.0, 40.0, 300.0];
        let forecasts = Forecast::points(&predictions, 512);
        let options = ScheduleOptions {
            kv_tokens: 100,
            batch_size: 3,
            ..ScheduleOptions::default()
        };
        let bins = pack(&[0, 1, 2, 3, 4], &forecasts, |r| predictions[r], &options);
        let members: Vec<&[usize]> = bins.iter().map(|b| &b.members[..]).collect();
        assert_eq!(members, [&[4][..], &[1, 2], &[0, 3]]);
        let lengths: Vec<f64> = bins.iter().map(|b| b.length).collect();
        assert_eq!(lengths, [300.0, 90.0, 50.0]);
    }
}
