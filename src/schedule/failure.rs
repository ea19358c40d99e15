//! Failure collection (FCR, paper section 4.3): where a micro-batch stops, and how the requests
//! that were cut there are run at the end of their group, anew or from where they were.

use super::{Fcr, MicroBatch};

/// Tokens after which a batch stops whose longest member is predicted (binned) at `longest`
/// tokens: the prediction rounded up, within `1..=max_new_tokens`; the limit itself without
/// FCR.
pub fn cap(fcr: Fcr, longest: f64, max_new_tokens: usize) -> usize {
    match fcr {
        Fcr::Recompute | Fcr::Resume if longest.is_finite() => {
            // The cast saturates, so that huge and negative predictions are harmless.
            (longest.ceil() as usize).clamp(1, max_new_tokens.max(1))
        }
        Fcr::Off | Fcr::Recompute | Fcr::Resume => max_new_tokens,
    }
}

/// Batches for the requests of a group that were cut below `max_new_tokens`, in the order of
/// their failing, up to the limit: nothing fails twice.
pub fn recovery_batches(
    failed: &[usize],
    batch_size: usize,
    max_new_tokens: usize,
) -> Vec<MicroBatch> {
    failed
        .chunks(batch_size.max(1))
        .map(|members| MicroBatch {
            members: members.to_vec(),
            cap: max_new_tokens,
            keeps: false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_follow_the_prediction_only_under_fcr() {
        let caps = [-1.0, 0.0, 49.2, 50.0, 1e30, f64::NAN, f64::INFINITY]
            .map(|longest| cap(Fcr::Recompute, longest, 512));
        assert_eq!(caps, [1, 1, 50, 50, 512, 512, 512]);
        assert_eq!(cap(Fcr::Off, 50.0, 512), 512);
    }

    #[test]
    fn recovery_keeps_the_order_and_runs_to_the_limit() {
        let failed: Vec<usize> = (0..20).rev().collect();
        let batches = recovery_batches(&failed, 16, 512);
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].members, failed[..16]);
        assert_eq!(batches[1].members, failed[16..]);
        assert!(batches.iter().all(|batch| batch.cap == 512));
        assert!(recovery_batches(&[], 16, 512).is_empty());
    }
}
