//! Cross-entropy over the vocabulary at the wanted rows.

use std::sync::Mutex;

use crate::error::Result;
use crate::kernel::backward::{scale, softmax};
use crate::kernel::{Disjoint, Epilogue};
use crate::model::part_times::Stopwatch;

use super::llama::TrainableLlama;

/// Rows whose logits are in memory at once.
pub(super) const ROWS: usize = 96;

impl TrainableLlama {
    /// The cross-entropy (nats) of `targets`, one a wanted row of the last forward pass, summed.
    /// With `weight`, the gradient of the states is that of `weight` times the sum.
    ///
    /// # Errors
    /// No memory.
    ///
    /// # Panics
    /// If there is not one target a state, or one is outside the vocabulary.
    pub fn vocabulary_loss(&mut self, targets: &[u32], weight: Option<f64>) -> Result<f64> {
        let mut watch = Stopwatch::start();
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let (team, work) = (&self.team, &mut self.work);
        assert_eq!(work.states.len(), targets.len() * hidden);
        work.d_states.resize(targets.len() * hidden)?;
        work.logits.resize(targets.len().min(ROWS) * vocabulary)?;
        let mut loss = 0.0;
        for (part, targets) in targets.chunks(ROWS).enumerate() {
            let n = targets.len();
            let at = part * ROWS * hidden..(part * ROWS + n) * hidden;
            let logits = &mut work.logits[..n * vocabulary];
            let states = &work.states[at.clone()];
            let forward = &self.head.forward;
            forward.product(team, states, n, Epilogue::Store, logits);
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
            loss += losses
                .iter()
                .map(|l| *l.lock().unwrap_or_else(|e| e.into_inner()))
                .sum::<f64>();
            if weight.is_some() {
                let d = &mut work.d_states[at];
                let back = self.head.backward();
                back.product(team, logits, n, Epilogue::Store, d);
            }
        }
        watch.lap(&mut self.times_mut().head_s);
        Ok(loss)
    }
}
