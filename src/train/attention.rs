//! Causal grouped-query attention over a ragged batch, forward and backward. A task is one
//! (segment, key head); queries go in blocks against the keys they may see, and probabilities
//! are computed again on the way back (Dao et al. 2022), so memory grows with the length alone.

use std::cell::RefCell;

use crate::kernel::backward::{dot, softmax, softmax_again, softmax_backward};
use crate::kernel::matmul::{Matrix, Then, multiply};
use crate::kernel::{Disjoint, Team};
use crate::model::ModelConfig;

use super::batch::{Batch, Segment};

/// Queries of a block.
const QUERIES: usize = 24;

/// The heads of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub queries: usize,
    pub keys: usize,
    pub dim: usize,
}

impl Heads {
    pub fn of(config: &ModelConfig) -> Heads {
        Heads {
            queries: config.num_attention_heads,
            keys: config.num_key_value_heads,
            dim: config.head_dim,
        }
    }

    /// Of a row of queries, keys and values.
    pub fn width(self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }

    fn group(self) -> usize {
        self.queries / self.keys
    }

    /// Floats of the shared rows' gradients that each (segment, key head) finds.
    pub fn shared_gradients(self, batch: &Batch) -> usize {
        batch.segments.len() * self.keys * 2 * batch.shared * self.dim
    }
}

/// A thread's matrices of one task.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    keys_across: Vec<f32>,
    values_across: Vec<f32>,
    scores: Vec<f32>,
    d_scores: Vec<f32>,
    found: Vec<f32>,
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One (segment, key head).
struct Task {
    heads: Heads,
    segment: Segment,
    head: usize,
}

impl Task {
    fn at(heads: Heads, batch: &Batch, index: usize) -> Task {
        Task {
            heads,
            segment: batch.segments[index / heads.keys],
            head: index % heads.keys,
        }
    }

    /// Positions attended to by the segment's last row.
    fn len(&self) -> usize {
        self.segment.before + self.segment.len
    }

    fn padded(&self) -> usize {
        self.len().next_multiple_of(16)
    }

    /// The rows of all positions.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let Segment { start, len, before } = self.segment;
        (0..before).chain(start..start + len)
    }

    /// First column of the key head, or of its values, in a row.
    fn key_column(&self) -> usize {
        (self.heads.queries + self.head) * self.heads.dim
    }

    fn value_column(&self) -> usize {
        (self.heads.queries + self.heads.keys + self.head) * self.heads.dim
    }

    /// Columns of the task's query heads.
    fn query_heads(&self) -> std::ops::Range<usize> {
        let group = self.heads.group();
        self.head * group..(self.head + 1) * group
    }

    /// `[position][dim]` and, across, `[dim][padded]`.
    fn gather(&self, qkv: &[f32], column: usize, rows: &mut Vec<f32>, across: &mut Vec<f32>) {
        let (d, padded, width) = (self.heads.dim, self.padded(), self.heads.width());
        rows.clear();
        for row in self.rows() {
            rows.extend_from_slice(&qkv[row * width + column..][..d]);
        }
        across.clear();
        across.resize(d * padded, 0.0);
        for (t, row) in rows.chunks_exact(d).enumerate() {
            for (i, v) in row.iter().enumerate() {
                across[i * padded + t] = *v;
            }
        }
    }

    /// Blocks of queries: (first, count, positions that the last of them sees).
    fn blocks(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let Segment { len, before, .. } = self.segment;
        (0..len).step_by(QUERIES).map(move |first| {
            let count = QUERIES.min(len - first);
            (first, count, before + first + count)
        })
    }
}

/// `attended` `[rows, query heads x dim]` from rotated `qkv`; `log_sums` `[rows, query heads]`
/// is kept for the way back.
pub(super) fn forward(
    team: &Team,
    heads: Heads,
    batch: &Batch,
    qkv: &[f32],
    attended: &mut [f32],
    log_sums: &mut [f32],
) {
    let (d, width, out_width) = (heads.dim, heads.width(), heads.queries * heads.dim);
    let scale = 1.0 / (d as f32).sqrt();
    let (attended, log_sums) = (Disjoint::new(attended), Disjoint::new(log_sums));
    team.for_each(batch.segments.len() * heads.keys, 1, &|index| {
        let task = Task::at(heads, batch, index);
        let padded = task.padded();
        SCRATCH.with_borrow_mut(|s| {
            task.gather(qkv, task.key_column(), &mut s.keys, &mut s.keys_across);
            task.gather(
                qkv,
                task.value_column(),
                &mut s.values,
                &mut s.values_across,
            );
            grow(&mut s.scores, QUERIES * padded);
            grow(&mut s.found, QUERIES * d);
            for head in task.query_heads() {
                for (first, count, seen) in task.blocks() {
                    let row = task.segment.start + first;
                    let q = Matrix::rows(&qkv[row * width + head * d..], width);
                    let lanes = seen.next_multiple_of(16);
                    let keys = Matrix::rows(&s.keys_across, padded);
                    let scores = &mut s.scores;
                    multiply(
                        (count, lanes, d),
                        q,
                        keys,
                        scale,
                        Then::Store,
                        scores,
                        padded,
                    );
                    for i in 0..count {
                        let scores = &mut scores[i * padded..][..lanes];
                        let own = task.segment.before + first + i + 1;
                        let log_sum = softmax(&mut scores[..own]);
                        scores[own..].fill(0.0);
                        // SAFETY: each (row, head) is one task's.
                        unsafe { log_sums.slice((row + i) * heads.queries + head, 1)[0] = log_sum };
                    }
                    let (p, values) = (Matrix::rows(scores, padded), Matrix::rows(&s.values, d));
                    let found = &mut s.found;
                    multiply((count, d, seen), p, values, 1.0, Then::Store, found, d);
                    for (i, found) in found.chunks_exact(d).take(count).enumerate() {
                        // SAFETY: as above.
                        let to = unsafe { attended.slice((row + i) * out_width + head * d, d) };
                        to.copy_from_slice(found);
                    }
                }
            }
        });
    });
}

/// The gradient of `qkv` (rotated) from that of `attended`. `shared` is room for
/// [`Heads::shared_gradients`].
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    team: &Team,
    heads: Heads,
    batch: &Batch,
    (qkv, attended, log_sums): (&[f32], &[f32], &[f32]),
    d_attended: &[f32],
    shared: &mut [f32],
    d_qkv: &mut [f32],
) {
    let (d, width) = (heads.dim, heads.width());
    let shared_len = 2 * batch.shared * d;
    let all = Disjoint::new(d_qkv);
    let parts = Disjoint::new(shared);
    team.for_each(batch.segments.len() * heads.keys, 1, &|index| {
        let task = Task::at(heads, batch, index);
        SCRATCH.with_borrow_mut(|s| {
            one_backward(&task, (qkv, attended, log_sums), d_attended, s, &all);
            // The segment's own keys and values; the shared ones wait for all sequences.
            let before = task.segment.before;
            let halves = [
                (&s.d_keys, task.key_column()),
                (&s.d_values, task.value_column()),
            ];
            for (half, (found, column)) in halves.into_iter().enumerate() {
                for (i, found) in found[before * d..].chunks_exact(d).enumerate() {
                    // SAFETY: each (row, key head) is one task's.
                    let to = unsafe { all.slice((task.segment.start + i) * width + column, d) };
                    to.copy_from_slice(found);
                }
                if before > 0 {
                    let at = index * shared_len + half * before * d;
                    // SAFETY: each task has a part of its own.
                    let part = unsafe { parts.slice(at, before * d) };
                    part.copy_from_slice(&found[..before * d]);
                }
            }
        });
    });
    // In the order of the sequences, whoever was done first.
    let shared = &*shared;
    team.for_each(batch.shared, 1, &|row| {
        for task in heads.keys..batch.segments.len() * heads.keys {
            for half in 0..2 {
                let column = (heads.queries + half * heads.keys + task % heads.keys) * d;
                let from = &shared[task * shared_len + (half * batch.shared + row) * d..][..d];
                // SAFETY: each row is one call's.
                let to = unsafe { all.slice(row * width + column, d) };
                to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
            }
        }
    });
}

/// The gradients of a task's queries into `all`, those of its keys and values into `s`.
fn one_backward(
    task: &Task,
    (qkv, attended, log_sums): (&[f32], &[f32], &[f32]),
    d_attended: &[f32],
    s: &mut Scratch,
    all: &Disjoint,
) {
    let heads = task.heads;
    let (d, width, out_width) = (heads.dim, heads.width(), heads.queries * heads.dim);
    let scale = 1.0 / (d as f32).sqrt();
    let padded = task.padded();
    task.gather(qkv, task.key_column(), &mut s.keys, &mut s.keys_across);
    task.gather(
        qkv,
        task.value_column(),
        &mut s.values,
        &mut s.values_across,
    );
    grow(&mut s.scores, QUERIES * padded);
    grow(&mut s.d_scores, QUERIES * padded);
    grow(&mut s.found, QUERIES * d);
    for sum in [&mut s.d_keys, &mut s.d_values] {
        sum.clear();
        sum.resize(task.len() * d, 0.0);
    }
    for head in task.query_heads() {
        for (first, count, seen) in task.blocks() {
            let row = task.segment.start + first;
            let lanes = seen.next_multiple_of(16);
            let q = Matrix::rows(&qkv[row * width + head * d..], width);
            let d_out = Matrix::rows(&d_attended[row * out_width + head * d..], out_width);
            let keys = Matrix::rows(&s.keys_across, padded);
            let values = Matrix::rows(&s.values_across, padded);
            let size = (count, lanes, d);
            multiply(size, q, keys, scale, Then::Store, &mut s.scores, padded);
            multiply(
                size,
                d_out,
                values,
                1.0,
                Then::Store,
                &mut s.d_scores,
                padded,
            );
            for i in 0..count {
                let p = &mut s.scores[i * padded..][..lanes];
                let change = &mut s.d_scores[i * padded..][..lanes];
                let own = task.segment.before + first + i + 1;
                softmax_again(&mut p[..own], log_sums[(row + i) * heads.queries + head]);
                p[own..].fill(0.0);
                let at = (row + i) * out_width + head * d;
                let along = dot(&attended[at..at + d], &d_attended[at..at + d]);
                softmax_backward(p, change, along, scale);
            }
            let p = Matrix::rows(&s.scores, padded).transposed();
            let change = Matrix::rows(&s.d_scores, padded);
            multiply(
                (seen, d, count),
                p,
                d_out,
                1.0,
                Then::Add,
                &mut s.d_values,
                d,
            );
            let size = (seen, d, count);
            multiply(
                size,
                change.transposed(),
                q,
                1.0,
                Then::Add,
                &mut s.d_keys,
                d,
            );
            let keys = Matrix::rows(&s.keys, d);
            let found = &mut s.found;
            multiply((count, d, seen), change, keys, 1.0, Then::Store, found, d);
            for (i, found) in found.chunks_exact(d).take(count).enumerate() {
                // SAFETY: each (row, head) is one task's.
                let to = unsafe { all.slice((row + i) * width + head * d, d) };
                to.copy_from_slice(found);
            }
        }
    }
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}
