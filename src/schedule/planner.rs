//! From arrivals and predictions to groups of micro-batches: the one entry point that
//! executors and drivers use. The steps themselves are in `binning`, `vbs` and `failure`.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::binning::{self, Bin};
use super::{
    Fcr, Forecast, Group, MicroBatch, ScheduleOptions, Scheduling, failure, multi_bin, packing,
};

/// The order in which `count` requests arrive under `seed`: the same for every arm, so that
/// arms are compared on the same groups.
pub fn arrival_order(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order
}

/// Cuts the requests, in the order of their arrival, into groups.
///
/// Without scheduling, batches are consecutive arrivals and a group holds as many whole batches
/// as cover `group_size`, so that vanilla is never handicapped by half-filled batches at the end
/// of groups.
pub(super) fn groups(order: &[usize], options: &ScheduleOptions) -> Vec<Vec<usize>> {
    let batch_size = options.batch_size.max(1);
    let group_size = options.group_size.max(1);
    let size = match options.scheduling {
        Scheduling::None => group_size.div_ceil(batch_size) * batch_size,
        _ => group_size,
    };
    order.chunks(size).map(<[usize]>::to_vec).collect()
}

/// The first micro-batches of every group, in the order of arrival; `forecasts` are indexed by
/// request. What of them is run again is up to [`super::Rounds`].
pub fn plan(order: &[usize], forecasts: &[Forecast], options: &ScheduleOptions) -> Vec<Group> {
    groups(order, options)
        .iter()
        .map(|group| first_batches(group, forecasts, options))
        .collect()
}

pub(super) fn first_batches(
    group: &[usize],
    forecasts: &[Forecast],
    options: &ScheduleOptions,
) -> Group {
    let length = |request: usize| match options.order_at {
        Some(p) => forecasts[request].at(p),
        None => forecasts[request].tokens,
    };
    let sorted = || {
        let mut sorted = group.to_vec();
        sorted.sort_by(|a, b| length(*a).total_cmp(&length(*b)));
        sorted
    };
    let bins = match options.scheduling {
        Scheduling::None => in_order(group, options),
        Scheduling::MultiBin => multi_bin::cut(group, length, options),
        Scheduling::Packed => packing::pack(group, forecasts, length, options),
        _ if options.binning > 0 => binning::cut(&sorted(), length, options),
        _ => cut_by_longest(&sorted(), length, options),
    };
    let cap = |bin: &Bin| match options.cap_at {
        Some(p) => (bin.members.iter().map(|r| forecasts[*r].at(p))).fold(1.0, f64::max),
        None => bin.length,
    };
    Group {
        batches: bins
            .into_iter()
            .map(|bin| MicroBatch {
                cap: failure::cap(options.fcr, cap(&bin), options.max_new_tokens),
                keeps: options.fcr == Fcr::Resume,
                members: bin.members,
            })
            .collect(),
    }
}

/// Consecutive arrivals.
fn in_order(group: &[usize], options: &ScheduleOptions) -> Vec<Bin> {
    group
        .chunks(options.batch_size.max(1))
        .map(|members| Bin {
            members: members.to_vec(),
            length: options.max_new_tokens as f64,
        })
        .collect()
}

/// Without binning a batch takes the next longer request as long as the size allowed for it,
/// the longest so far, is not exceeded.
fn cut_by_longest(
    sorted: &[usize],
    length: impl Fn(usize) -> f64,
    options: &ScheduleOptions,
) -> Vec<Bin> {
    let mut batches: Vec<Bin> = Vec::new();
    for &request in sorted {
        // No row is longer than the limit, whatever was predicted.
        let predicted = length(request).min(options.max_new_tokens as f64);
        match batches.last_mut() {
            Some(batch) if batch.members.len() < options.rows_allowed(predicted) => {
                batch.members.push(request);
                batch.length = predicted;
            }
            _ => batches.push(Bin {
                members: vec![request],
                length: predicted,
            }),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Fcr, VbsTable};
    use proptest::prelude::*;

    fn points(predictions: &[f64]) -> Vec<Forecast> {
        Forecast::points(predictions, 512)
    }

    fn members(groups: &[Group]) -> Vec<Vec<usize>> {
        groups
            .iter()
            .flat_map(|g| g.batches.iter().map(|b| b.members.clone()))
            .collect()
    }

    #[test]
    fn vanilla_cuts_arrivals_as_they_come() {
        let order = [4, 2, 0, 1, 3];
        let options = ScheduleOptions {
            group_size: 3,
            batch_size: 2,
            ..Default::default()
        };
        let groups = plan(&order, &points(&[0.0; 5]), &options);
        assert_eq!(members(&groups), [vec![4, 2], vec![0, 1], vec![3]]);
        assert_eq!(groups.len(), 2);
        assert!(groups[0].batches.iter().all(|b| b.cap == 512));
    }

    #[test]
    fn arrivals_depend_on_the_seed_alone() {
        let order = arrival_order(100, 42);
        assert_eq!(order, arrival_order(100, 42));
        assert_ne!(order, arrival_order(100, 43));
        let mut all = order;
        all.sort_unstable();
        assert!(all.into_iter().eq(0..100));
    }

    #[test]
    fn sorting_is_stable_and_stays_inside_groups() {
        let options = ScheduleOptions {
            group_size: 4,
            batch_size: 2,
            scheduling: Scheduling::Sorted,
            fcr: Fcr::Recompute,
            ..Default::default()
        };
        let predictions = [30.0, 10.0, f64::NAN, 10.0, 5.5, 1.0];
        let groups = plan(&[0, 1, 2, 3, 4, 5], &points(&predictions), &options);
        assert_eq!(members(&groups), [vec![1, 3], vec![0, 2], vec![5, 4]]);
        let caps: Vec<usize> = groups
            .iter()
            .flat_map(|g| g.batches.iter().map(|b| b.cap))
            .collect();
        assert_eq!(caps, [10, 512, 6]);
    }

    #[test]
    fn without_bins_a_batch_satisfies_its_longest_member() {
        let options = ScheduleOptions {
            batch_size: 1,
            scheduling: Scheduling::Sorted,
            vbs: Some(VbsTable::new(vec![(50, 3), (100, 2)]).expect("a table")),
            ..Default::default()
        };
        let predictions = [10.0, 20.0, 60.0, 70.0, 80.0, 300.0];
        let groups = plan(&[0, 1, 2, 3, 4, 5], &points(&predictions), &options);
        assert_eq!(members(&groups), [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
    }

    fn options() -> impl Strategy<Value = ScheduleOptions> {
        (
            1usize..80,
            1usize..24,
            1usize..600,
            any::<bool>(),
            prop::sample::select(vec![0usize, 1, 50]),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(
                |(group_size, batch_size, max_new_tokens, sorted, binning, vbs, fcr)| {
                    let plain = ScheduleOptions {
                        group_size,
                        batch_size,
                        max_new_tokens,
                        ..Default::default()
                    };
                    if !sorted {
                        return plain;
                    }
                    ScheduleOptions {
                        scheduling: Scheduling::Sorted,
                        binning,
                        vbs: vbs.then(VbsTable::default),
                        fcr: if fcr { Fcr::Recompute } else { Fcr::Off },
                        ..plain
                    }
                },
            )
    }

    fn prediction() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => 0.0..700.0f64,
            1 => Just(f64::NAN),
            1 => Just(f64::INFINITY),
            1 => -10.0..1.0f64,
        ]
    }

    proptest! {
        #[test]
        fn plans_keep_every_promise(
            options in options(),
            predictions in prop::collection::vec(prediction(), 0..300),
        ) {
            // Arrivals in an order of their own.
            let mut order: Vec<usize> = (0..predictions.len()).collect();
            order.reverse();
            let forecasts = Forecast::points(&predictions, options.max_new_tokens);
            let groups = plan(&order, &forecasts, &options);

            let mut seen: Vec<usize> = members(&groups).concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..predictions.len()).collect::<Vec<_>>());

            let mut arrived = order.iter();
            for group in &groups {
                let mut now: Vec<usize> =
                    group.batches.iter().flat_map(|b| b.members.clone()).collect();
                if options.scheduling == Scheduling::Sorted {
                    prop_assert!(now.len() <= options.group_size);
                }
                let mut arrivals: Vec<usize> = arrived.by_ref().take(now.len()).copied().collect();
                now.sort_unstable();
                arrivals.sort_unstable();
                prop_assert_eq!(now, arrivals);
            }

            for batch in groups.iter().flat_map(|g| &g.batches) {
                prop_assert!(!batch.members.is_empty());
                prop_assert!((1..=options.max_new_tokens).contains(&batch.cap));
                if options.fcr == Fcr::Off {
                    prop_assert_eq!(batch.cap, options.max_new_tokens);
                }
                let longest = batch
                    .members
                    .iter()
                    .map(|&m| forecasts[m].tokens)
                    .fold(0.0, f64::max)
                    .min(options.max_new_tokens as f64);
                prop_assert!(batch.members.len() <= options.rows_allowed(longest));
                if options.fcr == Fcr::Recompute {
                    prop_assert!(batch.cap as f64 >= longest);
                }
            }
        }
    }
}
