//! Taking hidden states out of a forward pass: what predictors' heads read.

use serde::{Deserialize, Serialize};

/// Which residual states are taken. A layer is how many blocks have run: 0 is the embedding,
/// `num_hidden_layers` the last block's output (before the final norm).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatesOf {
    /// Layers whose state at the last token is taken.
    pub last: Vec<usize>,
    /// Layers whose states are averaged over the tokens (of a prompt: over what follows the
    /// chat template's beginning).
    pub mean: Vec<usize>,
}

impl StatesOf {
    /// Vectors of `hidden_size` a chunk.
    pub fn vectors(&self) -> usize {
        self.last.len() + self.mean.len()
    }

    /// The deepest layer asked for.
    pub fn deepest(&self) -> usize {
        self.last
            .iter()
            .chain(&self.mean)
            .copied()
            .max()
            .unwrap_or(0)
    }
}

/// States taken in a pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Capture {
    /// What is to be taken.
    pub of: StatesOf,
    /// The first token of each chunk that the averages take in; empty for all.
    pub mean_from: Vec<usize>,
    /// Whether the pass ends after the deepest of these layers, if no chunk wants logits. The
    /// chunks' slots hold no keys and values of the layers above then: copy nothing from them
    /// and do not continue them.
    pub stops_early: bool,
    /// Filled by the pass: `[chunk][last layers, then mean layers][hidden]`.
    pub states: Vec<f32>,
}

impl Capture {
    /// Room for `chunks` chunks.
    pub(crate) fn begin(&mut self, chunks: usize, hidden: usize) {
        self.states.clear();
        self.states.resize(chunks * self.of.vectors() * hidden, 0.0);
    }

    /// Takes what is wanted of `layer` from `states` `[rows][hidden]`; `ends` is where each
    /// chunk's rows end.
    pub(crate) fn take(&mut self, layer: usize, ends: &[usize], hidden: usize, states: &[f32]) {
        let width = self.of.vectors();
        let row = |at: usize| &states[at * hidden..(at + 1) * hidden];
        let mut begin = 0;
        for (chunk, &end) in ends.iter().enumerate() {
            let to = &mut self.states[chunk * width * hidden..(chunk + 1) * width * hidden];
            let (last, mean) = to.split_at_mut(self.of.last.len() * hidden);
            for (to, _) in wanted(last, &self.of.last, layer, hidden) {
                to.copy_from_slice(row(end - 1));
            }
            let skipped = self.mean_from.get(chunk).copied().unwrap_or(0);
            let first = (begin + skipped).min(end - 1);
            for (to, _) in wanted(mean, &self.of.mean, layer, hidden) {
                for at in first..end {
                    to.iter_mut().zip(row(at)).for_each(|(t, s)| *t += s);
                }
                let share = 1.0 / (end - first) as f32;
                to.iter_mut().for_each(|t| *t *= share);
            }
            begin = end;
        }
    }
}

/// The places of `layer` among `layers`.
fn wanted<'a>(
    to: &'a mut [f32],
    layers: &'a [usize],
    layer: usize,
    hidden: usize,
) -> impl Iterator<Item = (&'a mut [f32], usize)> {
    to.chunks_exact_mut(hidden)
        .zip(layers.iter().copied())
        .filter(move |(_, l)| *l == layer)
}
