//! One block of a frozen Llama with low-rank updates in the tensor library's operations: forward,
//! and the reverse pass by hand.

use std::ops::Range;

use candle_core::{D, Device, Result, Tensor};

use crate::model::{Checkpoint, ModelConfig};
use crate::tensor::Layout;
use crate::tensor::attention::Heads;
use crate::tensor::ops::{rms_norm, rms_norm_backward, rotate, silu_gate, silu_gate_backward};
use crate::tensor::weights::{BlockWeights, Form};
use crate::train::dropout::Dropout;
use crate::train::linear::LowRank;
use crate::train::parameters::Parameters;

use super::tensors::Masks;

const O: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;

/// What all blocks of a pass share.
pub(super) struct Pass {
    pub heads: Heads,
    pub eps: f32,
    pub layout: Layout,
    /// By row: `[rows, 1, dim / 2]`.
    pub cos: Tensor,
    pub sin: Tensor,
    pub dropout: Dropout,
}

pub(super) struct TensorBlock {
    weights: BlockWeights,
    low_rank: [Option<LowRank>; 7],
}

/// The matrices of a block's updates as they are now: `A` `[rank, in]` and `B` transposed, `[rank,
/// out]`.
pub(super) type Pairs = [Option<(Tensor, Tensor)>; 7];

/// Gradients of parameters, on the device.
pub(super) type Found = Vec<(Range<usize>, Tensor)>;

/// What the way back needs of a block's forward pass.
pub(super) struct Kept {
    /// Rotated.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    /// The residual stream between attention and feed-forward.
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
}

/// f32 a row that [`Kept`] takes.
pub(super) fn kept_per_row(config: &ModelConfig, heads: Heads) -> usize {
    (2 * heads.queries + 2 * heads.keys) * heads.dim
        + config.hidden_size
        + 2 * config.intermediate_size
}

impl TensorBlock {
    pub fn new(
        checkpoint: &Checkpoint,
        index: usize,
        form: &Form,
        low_rank: [Option<LowRank>; 7],
    ) -> crate::Result<TensorBlock> {
        Ok(TensorBlock {
            weights: BlockWeights::new(checkpoint, index, form)?,
            low_rank,
        })
    }

    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// The updates' matrices from the parameters.
    pub fn pairs(&self, parameters: &Parameters, device: &Device) -> Result<Pairs> {
        let mut pairs = [const { None }; 7];
        for (pair, low_rank) in pairs.iter_mut().zip(&self.low_rank) {
            if let Some(l) = low_rank {
                let matrix = |range: &Range<usize>, columns: usize| {
                    let values = &parameters.values[range.clone()];
                    Tensor::from_slice(values, (l.rank, columns), device)
                };
                *pair = Some((matrix(&l.a, l.rows_in)?, matrix(&l.b, l.rows_out)?));
            }
        }
        Ok(pairs)
    }

    /// The block's output `[rows, hidden]` and what [`TensorBlock::backward`] needs.
    pub fn forward(
        &self,
        pass: &Pass,
        (pairs, masks): (&Pairs, &mut Masks),
        input: &Tensor,
    ) -> Result<(Tensor, Kept)> {
        let Heads { queries, keys, dim } = pass.heads;
        let mut add = |layer: usize, y: Tensor, x: &Tensor| -> Result<Tensor> {
            let (Some(low_rank), Some((a, b))) = (&self.low_rank[layer], &pairs[layer]) else {
                return Ok(y);
            };
            let x = masks.dropped(pass.dropout, low_rank, x)?;
            let update = x.matmul(&a.t()?)?.matmul(b)?;
            y + (update * f64::from(low_rank.scaling))?
        };
        let normed = rms_norm(input, &self.weights.input_norm, pass.eps)?;
        let qkv = self.weights.qkv.forward(&normed)?;
        let part = |from: usize, heads: usize| {
            qkv.narrow(D::Minus1, from * dim, heads * dim)?.contiguous()
        };
        let q = add(0, part(0, queries)?, &normed)?;
        let k = add(1, part(queries, keys)?, &normed)?;
        let v = add(2, part(queries + keys, keys)?, &normed)?;
        let q = turned(&q, queries, &pass.cos, &pass.sin)?;
        let k = turned(&k, keys, &pass.cos, &pass.sin)?;
        let attended = pass.layout.forward(&q, &k, &v)?;
        let middle = (input + add(O, self.weights.o.forward(&attended)?, &attended)?)?;
        let normed = rms_norm(&middle, &self.weights.post_attention_norm, pass.eps)?;
        let gate_up = self.weights.gate_up.forward(&normed)?;
        let inner = gate_up.dim(D::Minus1)? / 2;
        let half = |from| gate_up.narrow(D::Minus1, from, inner)?.contiguous();
        let gate = add(GATE, half(0)?, &normed)?;
        let up = add(UP, half(inner)?, &normed)?;
        let activated = silu_gate(&gate, &up)?;
        let output = (&middle + add(DOWN, self.weights.down.forward(&activated)?, &activated)?)?;
        let kept = Kept {
            q,
            k,
            v,
            attended,
            middle,
            gate,
            up,
        };
        Ok((output, kept))
    }

    /// The gradient of the block's input from that of its output (none where it is not wanted),
    /// and those of its updates.
    pub fn backward(
        &self,
        pass: &Pass,
        (pairs, masks): (&Pairs, &mut Masks),
        input: &Tensor,
        kept: Kept,
        d: &Tensor,
        input_wanted: bool,
    ) -> Result<(Option<Tensor>, Found)> {
        let Heads { queries, keys, .. } = pass.heads;
        let mut found = Found::new();
        // Adds the gradient through a layer's update to that of what the layer reads.
        let mut add = |layer: usize, dx: Tensor, x: &Tensor, dy: &Tensor| -> Result<Tensor> {
            let (Some(low_rank), Some((a, b))) = (&self.low_rank[layer], &pairs[layer]) else {
                return Ok(dx);
            };
            let x = masks.dropped(pass.dropout, low_rank, x)?;
            let inner = x.matmul(&a.t()?)?;
            let scaled = (dy * f64::from(low_rank.scaling))?;
            found.push((
                low_rank.b.clone(),
                inner.t()?.contiguous()?.matmul(&scaled)?,
            ));
            let d_inner = scaled.matmul(&b.t()?)?;
            found.push((low_rank.a.clone(), d_inner.t()?.contiguous()?.matmul(&x)?));
            dx + masks.dropped(pass.dropout, low_rank, &d_inner.matmul(a)?)?
        };
        let activated = silu_gate(&kept.gate, &kept.up)?;
        let d_activated = add(DOWN, self.weights.down.backward(d)?, &activated, d)?;
        let (d_gate, d_up) = silu_gate_backward(&kept.gate, &kept.up, &d_activated)?;
        drop((activated, d_activated));
        let normed = rms_norm(&kept.middle, &self.weights.post_attention_norm, pass.eps)?;
        let d_normed = self
            .weights
            .gate_up
            .backward(&Tensor::cat(&[&d_gate, &d_up], D::Minus1)?)?;
        let d_normed = add(GATE, d_normed, &normed, &d_gate)?;
        let d_normed = add(UP, d_normed, &normed, &d_up)?;
        drop((d_gate, d_up));
        let through = rms_norm_backward(
            &kept.middle,
            &self.weights.post_attention_norm,
            pass.eps,
            &d_normed,
        )?;
        let d_middle = (d + through)?;
        let d_attended = add(
            O,
            self.weights.o.backward(&d_middle)?,
            &kept.attended,
            &d_middle,
        )?;
        let seen = (&kept.q, &kept.k, &kept.v);
        let [d_q, d_k, d_v] = pass.layout.backward(seen, &d_attended)?;
        let back = pass.sin.neg()?;
        let d_q = turned(&d_q, queries, &pass.cos, &back)?;
        let d_k = turned(&d_k, keys, &pass.cos, &back)?;
        let normed = rms_norm(input, &self.weights.input_norm, pass.eps)?;
        let d_normed = match input_wanted {
            true => self
                .weights
                .qkv
                .backward(&Tensor::cat(&[&d_q, &d_k, &d_v], D::Minus1)?)?,
            false => normed.zeros_like()?,
        };
        let d_normed = add(0, d_normed, &normed, &d_q)?;
        let d_normed = add(1, d_normed, &normed, &d_k)?;
        let d_normed = add(2, d_normed, &normed, &d_v)?;
        let d_input = match input_wanted {
            true => {
                let through =
                    rms_norm_backward(input, &self.weights.input_norm, pass.eps, &d_normed)?;
                Some((d_middle + through)?)
            }
            false => None,
        };
        Ok((d_input, found))
    }
}

/// Heads side by side in `[rows, heads * dim]`, each turned.
fn turned(x: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    rotate(&x.reshape((rows, heads, width / heads))?, cos, sin)?.reshape((rows, width))
}
