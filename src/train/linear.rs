//! Frozen weights, packed for both directions, and low-rank updates beside them.

use std::cell::RefCell;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernel::matmul::{Matrix, Then, multiply};
use crate::kernel::{Arithmetic, Disjoint, PackedWeights, Team};
use crate::lora::Adapter;
use crate::model::{Checkpoint, ModelConfig};

use super::attention::Heads;
use super::buffer::Buffer;
use super::dropout::Dropout;
use super::parameters::Parameters;

/// Rows that a thread takes at once.
const ROWS: usize = 24;
/// Columns that a thread takes at once.
const COLUMNS: usize = 64;

/// `W` `[out, in]` frozen: `x W^T` forward, `dy W` backward.
pub(super) struct Frozen {
    pub forward: PackedWeights,
    /// `W^T`; none where no gradient passes.
    back: Option<PackedWeights>,
}

impl Frozen {
    /// Packs the named matrices one below the other.
    pub fn new(
        checkpoint: &Checkpoint,
        names: &[String],
        rows_in: usize,
        arithmetic: Arithmetic,
        backward: bool,
    ) -> Result<Frozen> {
        let matrices = names
            .iter()
            .map(|name| checkpoint.f32_values(name))
            .collect::<Result<Vec<_>>>()?;
        let views: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        let memory = |e| Error::Memory(format!("no memory for the model's packed weights: {e}"));
        let forward = PackedWeights::pack(&views, rows_in, arithmetic).map_err(memory)?;
        let back = if backward {
            let out: usize = views.iter().map(|m| m.len() / rows_in).sum();
            let mut transposed = vec![0.0; out * rows_in];
            let rows = views.iter().flat_map(|m| m.chunks_exact(rows_in));
            for (o, row) in rows.enumerate() {
                for (k, w) in row.iter().enumerate() {
                    transposed[k * out + o] = *w;
                }
            }
            // Pairs of bf16 need an even number of terms.
            let arithmetic = match out % 2 {
                0 => arithmetic,
                _ => Arithmetic::F32,
            };
            Some(PackedWeights::pack(&[&transposed], out, arithmetic).map_err(memory)?)
        } else {
            None
        };
        Ok(Frozen { forward, back })
    }

    /// The weights transposed, for gradients.
    ///
    /// # Panics
    /// If it was packed without.
    pub fn backward(&self) -> &PackedWeights {
        self.back.as_ref().expect("packed for gradients")
    }

    pub fn bytes(&self) -> usize {
        self.forward.bytes() + self.back.as_ref().map_or(0, PackedWeights::bytes)
    }
}

/// `y += scaling * B (A dropout(x))`: a low-rank update of one linear layer.
pub(super) struct LowRank {
    /// A number of its own, for dropout.
    pub layer: usize,
    pub rank: usize,
    pub scaling: f32,
    pub rows_in: usize,
    pub rows_out: usize,
    /// First column of the layer's output in `y`.
    pub column: usize,
    /// `A` `[rank, in]` among the parameters.
    pub a: Range<usize>,
    /// `B` transposed, `[rank, out]`: both directions then read whole rows.
    pub b: Range<usize>,
}

/// The linear layers of a block, in the order in which they are kept.
pub(super) const LAYERS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// What the low-rank products need besides their operands, reused by all layers.
#[derive(Default)]
pub(super) struct LowRankScratch {
    d_inner: Buffer,
    dropped: Buffer,
    packed: Vec<f32>,
}

thread_local! {
    /// A few rows of x after dropout, or of its gradient before.
    static CHUNK: RefCell<Vec<f32>> = RefCell::default();
}

impl LowRank {
    /// The updates of block `index`, by layer; their matrices become parameters.
    pub fn of_block(
        config: &ModelConfig,
        index: usize,
        adapter: Option<&Adapter>,
        parameters: &mut Parameters,
    ) -> Result<[Option<LowRank>; 7]> {
        let heads = Heads::of(config);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (heads.queries * heads.dim, heads.keys * heads.dim);
        // (in, out, first column of the output it is part of)
        let shapes = [
            (hidden, q, 0),
            (hidden, kv, q),
            (hidden, kv, q + kv),
            (q, hidden, 0),
            (hidden, inner, 0),
            (hidden, inner, inner),
            (inner, hidden, 0),
        ];
        let mut low_rank = [const { None }; 7];
        for (layer, name) in LAYERS.iter().enumerate() {
            let name = format!("model.layers.{index}.{name}");
            let pair = adapter.and_then(|a| Some((a, a.pairs.get(&name)?)));
            if let Some((adapter, pair)) = pair {
                let (rows_in, rows_out, column) = shapes[layer];
                let rank = adapter.config.r;
                let a = pair.a.flatten_all()?.to_vec1::<f32>()?;
                let b = pair.b.t()?.flatten_all()?.to_vec1::<f32>()?;
                let mut add = |side: &str, shape, values: &[f32]| {
                    parameters.add(format!("{name}.{side}"), shape, values, 1.0)
                };
                low_rank[layer] = Some(LowRank {
                    layer: index * LAYERS.len() + layer,
                    rank,
                    scaling: adapter.config.scaling() as f32,
                    rows_in,
                    rows_out,
                    column,
                    a: add("lora_A", [rank, rows_in], &a),
                    b: add("lora_B^T", [rank, rows_out], &b),
                });
            }
        }
        Ok(low_rank)
    }

    /// The rank in whole lanes: what a row of `inner` takes.
    pub fn width(&self) -> usize {
        self.rank.next_multiple_of(16)
    }

    /// Adds the update of `n` rows of `x` to `y` (rows `y_row` apart) and keeps `A x` in
    /// `inner` `[n, width]`.
    #[allow(clippy::too_many_arguments)]
    pub fn forward(
        &self,
        team: &Team,
        dropout: Dropout,
        parameters: &[f32],
        x: &[f32],
        inner: &mut [f32],
        (y, y_row): (&mut [f32], usize),
        scratch: &mut LowRankScratch,
    ) {
        let (r, width, from) = (self.rank, self.width(), self.rows_in);
        let n = inner.len() / width;
        transpose(
            &parameters[self.a.clone()],
            from,
            width,
            &mut scratch.packed,
        );
        let (a, b) = (&scratch.packed[..], &parameters[self.b.clone()]);
        let (inner, y) = (Disjoint::new(inner), Disjoint::new(y));
        team.for_each(n.div_ceil(ROWS), 1, &|chunk| {
            let start = chunk * ROWS;
            let rows = ROWS.min(n - start);
            // SAFETY: each chunk of rows is one call's.
            let inner = unsafe { inner.slice(start * width, rows * width) };
            // SAFETY: as above.
            let y = unsafe { y.slice(start * y_row, rows * y_row) };
            let x = &x[start * from..(start + rows) * from];
            CHUNK.with_borrow_mut(|copy| {
                let x = if dropout.is_on() {
                    copy.clear();
                    copy.extend_from_slice(x);
                    for (i, row) in copy.chunks_exact_mut(from).enumerate() {
                        dropout.apply(self.layer, start + i, row);
                    }
                    &copy[..]
                } else {
                    x
                };
                let (x, a) = (Matrix::rows(x, from), Matrix::rows(a, width));
                multiply((rows, width, from), x, a, 1.0, Then::Store, inner, width);
            });
            multiply(
                (rows, self.rows_out, r),
                Matrix::rows(inner, width),
                Matrix::rows(b, self.rows_out),
                self.scaling,
                Then::Add,
                &mut y[self.column..],
                y_row,
            );
        });
    }

    /// Adds to the gradients of `A` and `B` and, where wanted, of `x`, given that of `y` and
    /// what [`LowRank::forward`] saw and kept.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        team: &Team,
        dropout: Dropout,
        (parameters, gradients): (&[f32], &mut [f32]),
        (dy, y_row): (&[f32], usize),
        x: &[f32],
        inner: &[f32],
        dx: Option<&mut [f32]>,
        scratch: &mut LowRankScratch,
    ) -> Result<()> {
        let (r, width) = (self.rank, self.width());
        let (from, to) = (self.rows_in, self.rows_out);
        let n = inner.len() / width;
        let (a, b) = (&parameters[self.a.clone()], &parameters[self.b.clone()]);
        transpose(b, to, width, &mut scratch.packed);
        scratch.d_inner.resize(n * width)?;
        scratch
            .dropped
            .resize(if dropout.is_on() { n * from } else { 0 })?;
        let packed = &scratch.packed[..];
        let d_inner = Disjoint::new(&mut scratch.d_inner);
        let dropped = Disjoint::new(&mut scratch.dropped);
        let dx = dx.map(Disjoint::new);
        team.for_each(n.div_ceil(ROWS), 1, &|chunk| {
            let start = chunk * ROWS;
            let rows = ROWS.min(n - start);
            // SAFETY: each chunk of rows is one call's, in all three.
            let d_inner = unsafe { d_inner.slice(start * width, rows * width) };
            let dy = Matrix::rows(&dy[start * y_row + self.column..], y_row);
            let b = Matrix::rows(packed, width);
            let size = (rows, width, to);
            multiply(size, dy, b, self.scaling, Then::Store, d_inner, width);
            if let Some(dx) = &dx {
                // SAFETY: as above.
                let dx = unsafe { dx.slice(start * from, rows * from) };
                let (d, a) = (Matrix::rows(d_inner, width), Matrix::rows(a, from));
                if dropout.is_on() {
                    CHUNK.with_borrow_mut(|change| {
                        change.resize(rows * from, 0.0);
                        multiply((rows, from, r), d, a, 1.0, Then::Store, change, from);
                        for (i, row) in change.chunks_exact_mut(from).enumerate() {
                            dropout.apply(self.layer, start + i, row);
                        }
                        dx.iter_mut().zip(&*change).for_each(|(x, c)| *x += c);
                    });
                } else {
                    multiply((rows, from, r), d, a, 1.0, Then::Add, dx, from);
                }
            }
            if dropout.is_on() {
                // SAFETY: as above.
                let copy = unsafe { dropped.slice(start * from, rows * from) };
                copy.copy_from_slice(&x[start * from..(start + rows) * from]);
                for (i, row) in copy.chunks_exact_mut(from).enumerate() {
                    dropout.apply(self.layer, start + i, row);
                }
            }
        });
        let x = if dropout.is_on() { &scratch.dropped } else { x };
        let d_inner = Matrix::rows(&scratch.d_inner, width).transposed();
        let inner = Matrix::rows(inner, width).transposed();
        let gradients = Disjoint::new(gradients);
        let of_a = from.div_ceil(COLUMNS);
        team.for_each(of_a + to.div_ceil(COLUMNS), 1, &|part| {
            let (columns, matrix) = if part < of_a {
                (part * COLUMNS..from.min((part + 1) * COLUMNS), &self.a)
            } else {
                let part = part - of_a;
                (part * COLUMNS..to.min((part + 1) * COLUMNS), &self.b)
            };
            let size = (r, columns.len(), n);
            // One column block of all rows: rows lie apart, so they are written one by one.
            CHUNK.with_borrow_mut(|sum| {
                sum.resize(r * columns.len(), 0.0);
                let (left, right, alpha, row) = if part < of_a {
                    (d_inner, Matrix::rows(&x[columns.start..], from), 1.0, from)
                } else {
                    let dy = Matrix::rows(&dy[self.column + columns.start..], y_row);
                    (inner, dy, self.scaling, to)
                };
                multiply(size, left, right, alpha, Then::Store, sum, columns.len());
                for (i, sum) in sum.chunks_exact(columns.len()).enumerate() {
                    let at = matrix.start + i * row + columns.start;
                    // SAFETY: each part has columns of its own.
                    let to = unsafe { gradients.slice(at, columns.len()) };
                    to.iter_mut().zip(sum).for_each(|(g, s)| *g += s);
                }
            });
        });
        Ok(())
    }
}

/// `[rank, columns]` to `[columns][width]`, zero beyond the rank.
fn transpose(matrix: &[f32], columns: usize, width: usize, to: &mut Vec<f32>) {
    to.clear();
    to.resize(columns * width, 0.0);
    for (r, row) in matrix.chunks_exact(columns).enumerate() {
        for (c, v) in row.iter().enumerate() {
            to[c * width + r] = *v;
        }
    }
}
