//! The requests that wait, in the order of a policy.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use super::policy::Queueing;

/// Sizes within so much of each other count as alike where response ratios are compared.
const CLASS: f64 = 1.05;

/// A rank and the request that has it; by rank, then by request (which are numbered by arrival).
#[derive(Debug, Clone, Copy)]
struct Entry {
    rank: f64,
    request: u32,
    /// The waiting it belongs to: a request that was displaced waits anew.
    stamp: u32,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.rank.total_cmp(&other.rank)).then(self.request.cmp(&other.request))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// Waiting requests.
#[derive(Debug)]
pub(crate) struct Queue {
    queueing: Queueing,
    guard_s: Option<f64>,
    ranked: BinaryHeap<Reverse<Entry>>,
    /// By class of size: whoever came first has the highest ratio of its class.
    classes: BTreeMap<i32, BinaryHeap<Reverse<Entry>>>,
    /// In order of arrival, for the guard: (request, stamp); those that wait no more are skipped.
    oldest: BinaryHeap<Reverse<(u32, u32)>>,
    /// By request: the stamp of its present waiting, even where it does not wait.
    stamps: Vec<u32>,
    waiting: usize,
}

impl Queue {
    pub fn new(requests: usize, queueing: Queueing, guard_s: Option<f64>) -> Queue {
        Queue {
            queueing,
            guard_s,
            ranked: BinaryHeap::new(),
            classes: BTreeMap::new(),
            oldest: BinaryHeap::new(),
            stamps: vec![0; requests],
            waiting: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// A request begins to wait; `size` is asked for where ratios are compared.
    pub fn push(&mut self, request: u32, rank: f64, size: f64) {
        let stamp = self.stamps[request as usize] + 1;
        self.stamps[request as usize] = stamp;
        self.waiting += 1;
        let entry = Entry {
            rank,
            request,
            stamp,
        };
        match self.queueing {
            Queueing::Ranked => {
                self.ranked.push(Reverse(entry));
                if self.guard_s.is_some() {
                    self.oldest.push(Reverse((request, stamp)));
                }
            }
            Queueing::ResponseRatio => {
                let class = (size.max(1.0).ln() / CLASS.ln()).round() as i32;
                let first = Entry { rank: 0.0, ..entry };
                self.classes.entry(class).or_default().push(Reverse(first));
            }
        }
    }

    fn stale(stamps: &[u32], entry: &Entry) -> bool {
        stamps[entry.request as usize] != entry.stamp
    }

    /// Who is next at this moment; `arrival_s` knows when requests came.
    pub fn first(&mut self, now: f64, arrival_s: impl Fn(u32) -> f64) -> Option<u32> {
        if self.waiting == 0 {
            return None;
        }
        if self.queueing == Queueing::ResponseRatio {
            return self.highest_ratio(now, arrival_s);
        }
        if let Some(guard) = self.guard_s {
            while let Some(Reverse((request, stamp))) = self.oldest.peek().copied() {
                if self.stamps[request as usize] != stamp {
                    self.oldest.pop();
                } else if now - arrival_s(request) >= guard {
                    return Some(request);
                } else {
                    break;
                }
            }
        }
        while let Some(Reverse(entry)) = self.ranked.peek() {
            if !Self::stale(&self.stamps, entry) {
                return Some(entry.request);
            }
            self.ranked.pop();
        }
        None
    }

    fn highest_ratio(&mut self, now: f64, arrival_s: impl Fn(u32) -> f64) -> Option<u32> {
        let stamps = &self.stamps;
        let mut best: Option<(f64, u32)> = None;
        self.classes.retain(|class, members| {
            while members
                .peek()
                .is_some_and(|Reverse(entry)| Self::stale(stamps, entry))
            {
                members.pop();
            }
            if let Some(Reverse(entry)) = members.peek() {
                let waited = now - arrival_s(entry.request);
                // (waiting + service) / service is in the order of waiting / service.
                let ratio = waited / CLASS.powi(*class);
                let better = best.is_none_or(|(r, request)| {
                    ratio > r || (ratio == r && entry.request < request)
                });
                if better {
                    best = Some((ratio, entry.request));
                }
            }
            !members.is_empty()
        });
        best.map(|(_, request)| request)
    }

    /// The request that [`Queue::first`] named waits no more.
    pub fn take(&mut self, request: u32) {
        // Its entries are stale from now on, and dropped when they come up.
        self.stamps[request as usize] += 1;
        self.waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue, now: f64, arrivals: &[f64]) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(request) = queue.first(now, |r| arrivals[r as usize]) {
            queue.take(request);
            order.push(request);
        }
        assert!(queue.is_empty());
        order
    }

    #[test]
    fn ranks_go_first_and_ties_by_arrival() {
        let mut queue = Queue::new(4, Queueing::Ranked, None);
        for (request, rank) in [(0, 5.0), (1, 2.0), (2, 5.0), (3, 2.0)] {
            queue.push(request, rank, rank);
        }
        assert_eq!(drain(&mut queue, 0.0, &[0.0; 4]), [1, 3, 0, 2]);
    }

    #[test]
    fn the_guard_serves_the_oldest_once_it_has_waited() {
        let arrivals = [0.0, 1.0, 2.0];
        let fill = || {
            let mut queue = Queue::new(3, Queueing::Ranked, Some(10.0));
            for (request, rank) in [(0, 9.0), (1, 5.0), (2, 1.0)] {
                queue.push(request, rank, rank);
            }
            queue
        };
        assert_eq!(drain(&mut fill(), 5.0, &arrivals), [2, 1, 0]);
        assert_eq!(drain(&mut fill(), 10.5, &arrivals), [0, 2, 1]);
        // One who is displaced waits on with its own arrival.
        let mut queue = fill();
        queue.take(0);
        queue.push(0, 9.0, 9.0);
        assert_eq!(queue.waiting, 3);
        assert_eq!(drain(&mut queue, 11.5, &arrivals), [0, 1, 2]);
    }

    #[test]
    fn ratios_weigh_waiting_against_size() {
        let arrivals = [0.0, 9.0];
        let fill = || {
            let mut queue = Queue::new(2, Queueing::ResponseRatio, None);
            queue.push(0, 0.0, 100.0);
            queue.push(1, 0.0, 10.0);
            queue
        };
        // 10/100 against 1/10 is about a tie; then 11/100 < 2/10; 9.5/100 > 0.5/10.
        assert_eq!(fill().first(11.0, |r| arrivals[r as usize]), Some(1));
        assert_eq!(fill().first(9.5, |r| arrivals[r as usize]), Some(0));
    }
}
