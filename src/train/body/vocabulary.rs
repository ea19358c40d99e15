//! Cross-entropy over the vocabulary, and its gradient.

use std::sync::Mutex;

use crate::kernel::backward::{scale, softmax};
use crate::kernel::{Disjoint, Team};

/// Rows whose logits are in memory at once.
pub(super) const ROWS: usize = 96;

/// The cross-entropy (nats) of `targets`, one a row of `logits`, summed. With `weight`, the
/// logits become the gradient of `weight` times the sum.
pub(super) fn cross_entropy(
    team: &Team,
    logits: &mut [f32],
    targets: &[u32],
    weight: Option<f64>,
) -> f64 {
    let n = targets.len();
    let vocabulary = logits.len() / n.max(1);
    let losses: Vec<Mutex<f64>> = (0..n).map(|_| Mutex::new(0.0)).collect();
    let rows = Disjoint::new(logits);
    team.for_each(n, 1, &|row| {
        // SAFETY: each row is one call's.
        let logits = unsafe { rows.slice(row * vocabulary, vocabulary) };
        let target = targets[row] as usize;
        let wanted = logits[target];
        let log_sum = softmax(logits);
        if let Ok(mut loss) = losses[row].lock() {
            *loss = f64::from(log_sum) - f64::from(wanted);
        }
        if let Some(weight) = weight {
            logits[target] -= 1.0;
            scale(logits, weight as f32);
        }
    });
    losses
        .iter()
        .map(|l| *l.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        .sum()
}
