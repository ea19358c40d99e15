//! Waiting requests in bins of like size, served in batches of one bin (multi-bin batching).

use std::collections::VecDeque;

/// Bins that hold about as many requests each, by predicted size.
#[derive(Debug, Default)]
pub(super) struct Bins {
    /// Sizes at which the next bin begins.
    edges: Vec<f32>,
    /// By bin: requests in order of arrival.
    waiting: Vec<VecDeque<u32>>,
    /// The bin whose batch is being filled, and how many it still takes.
    filling: Option<(usize, usize)>,
}

impl Bins {
    /// `bins` bins that part `sizes` evenly.
    pub fn new(sizes: &[f32], bins: usize) -> Bins {
        let mut sorted = sizes.to_vec();
        sorted.sort_unstable_by(f32::total_cmp);
        let mut edges: Vec<f32> = (1..bins)
            .filter_map(|bin| sorted.get(bin * sorted.len() / bins).copied())
            .collect();
        edges.dedup();
        Bins {
            waiting: vec![VecDeque::new(); edges.len() + 1],
            edges,
            filling: None,
        }
    }

    pub fn push(&mut self, request: u32, size: f64) {
        let bin = self.edges.partition_point(|edge| f64::from(*edge) <= size);
        let members = &mut self.waiting[bin];
        // One that was displaced goes back to where its arrival puts it.
        let place = members.partition_point(|other| *other < request);
        members.insert(place, request);
    }

    /// Begins a batch of up to `most`: of the bin whose batch was complete first, and where
    /// none is, of the bin whose first request has waited longest.
    pub fn begin(&mut self, most: usize) {
        let ready = |members: &VecDeque<u32>| -> Option<(bool, u32)> {
            match members.get(most - 1) {
                Some(last) => Some((false, *last)),
                None => members.front().map(|first| (true, *first)),
            }
        };
        let bins = self.waiting.iter().enumerate();
        let next = bins
            .filter_map(|(bin, members)| Some((ready(members)?, bin)))
            .min();
        self.filling = next.map(|(_, bin)| (bin, self.waiting[bin].len().min(most)));
    }

    /// Who of the batch is next; `None` once it is filled.
    pub fn next(&self) -> Option<u32> {
        let (bin, left) = self.filling?;
        match left {
            0 => None,
            _ => self.waiting[bin].front().copied(),
        }
    }

    /// The one that [`Bins::next`] named has been admitted.
    pub fn take(&mut self) {
        if let Some((bin, left)) = &mut self.filling {
            *left = left.saturating_sub(1);
            self.waiting[*bin].pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_of_one_bin_and_full_ones_go_first() {
        let sizes = [10.0, 100.0, 110.0, 12.0, 14.0, 120.0];
        let mut bins = Bins::new(&sizes, 2);
        for (request, size) in sizes.iter().enumerate().take(5) {
            bins.push(request as u32, f64::from(*size));
        }
        let batch = |bins: &mut Bins, most| {
            bins.begin(most);
            let mut members = Vec::new();
            while let Some(request) = bins.next() {
                bins.take();
                members.push(request);
            }
            members
        };
        // The long ones were two first, with the third request; then the short ones.
        assert_eq!(batch(&mut bins, 2), [1, 2]);
        assert_eq!(batch(&mut bins, 2), [0, 3]);
        bins.push(5, 120.0);
        // None is full: the one that waits longest.
        assert_eq!(batch(&mut bins, 2), [4]);
        assert_eq!(batch(&mut bins, 2), [5]);
        assert_eq!(batch(&mut bins, 2), [0u32; 0]);
    }

    #[test]
    fn alike_sizes_are_one_bin() {
        let mut bins = Bins::new(&[7.0; 9], 4);
        bins.push(3, 7.0);
        bins.push(1, 7.0);
        bins.begin(8);
        assert_eq!(bins.next(), Some(1));
        assert!(Bins::new(&[], 3).next().is_none());
    }
}
