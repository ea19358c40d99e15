//! One block of a frozen Llama with low-rank updates: forward, and the reverse pass by hand.

use crate::error::Result;
use crate::kernel::backward::silu_gate_backward;
use crate::kernel::{Arithmetic, Disjoint, Epilogue, Team};
use crate::lora::Adapter;
use crate::model::part_times::Stopwatch;
use crate::model::rope::RopeTable;
use crate::model::{Checkpoint, ModelConfig};

use super::attention::{self, Heads};
use super::batch::Batch;
use super::buffer::Buffer;
use super::dropout::Dropout;
use super::linear::{Frozen, LAYERS, LowRank, LowRankScratch};
use super::parameters::Parameters;
use super::rows::{activate, copy, norm_backward_rows, norm_rows, rotate_rows};

/// Where the time of training steps goes, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepTimes {
    /// The blocks' projections.
    pub forward_products_s: f64,
    /// The same backward: gradients of what the projections took.
    pub backward_products_s: f64,
    /// Attention, forward and backward.
    pub attention_s: f64,
    /// The adapters' products, forward and backward.
    pub low_rank_s: f64,
    /// The vocabulary and its loss, forward and backward.
    pub head_s: f64,
    /// Norms, activations, copies, embedding.
    pub rest_s: f64,
}

/// What all blocks of a pass share.
pub(super) struct Pass<'a> {
    pub config: &'a ModelConfig,
    pub team: &'a Team,
    pub rope: &'a RopeTable,
    pub batch: &'a Batch,
    pub dropout: Dropout,
}

const O: usize = 3;
const DOWN: usize = 6;

pub(super) struct Block {
    input_norm: Vec<f32>,
    qkv: Frozen,
    o: Frozen,
    post_attention_norm: Vec<f32>,
    gate_up: Frozen,
    down: Frozen,
    low_rank: [Option<LowRank>; 7],
}

/// What the way back needs of a block's forward pass.
#[derive(Default)]
pub(super) struct Kept {
    /// Rotated queries and keys, and values.
    qkv: Buffer,
    attended: Buffer,
    log_sums: Buffer,
    /// The residual stream between attention and feed-forward.
    middle: Buffer,
    gate_up: Buffer,
    /// `A x` of each adapted layer.
    inner: [Buffer; 7],
}

/// Buffers that every block uses anew.
#[derive(Default)]
pub(super) struct Scratch {
    normed: Buffer,
    activated: Buffer,
    d_activated: Buffer,
    d_normed: Buffer,
    d_attended: Buffer,
    d_qkv: Buffer,
    shared: Buffer,
    low_rank: LowRankScratch,
    pub times: StepTimes,
}

/// Floats a row that [`Kept`] takes.
pub(super) fn kept_per_row(config: &ModelConfig, adapter: Option<&Adapter>) -> usize {
    let heads = Heads::of(config);
    let (targets, width) = adapter.map_or((0, 0), |a| {
        let targets = a.config.target_modules.len();
        (targets, a.config.r.next_multiple_of(16))
    });
    heads.width()
        + heads.queries * (heads.dim + 1)
        + config.hidden_size
        + 2 * config.intermediate_size
        + targets * width
}

/// Floats a row that [`Scratch`] takes.
pub(super) fn scratch_per_row(config: &ModelConfig) -> usize {
    let heads = Heads::of(config);
    heads.width()
        + heads.queries * heads.dim
        + 2 * config.hidden_size
        + 2 * config.intermediate_size
        + config.hidden_size.max(config.intermediate_size)
}

impl Block {
    /// Packs block `index`; its adapter matrices become parameters.
    pub fn new(
        checkpoint: &Checkpoint,
        index: usize,
        arithmetic: Arithmetic,
        backward: bool,
        adapter: Option<&Adapter>,
        parameters: &mut Parameters,
    ) -> Result<Block> {
        let config = &checkpoint.config;
        let heads = Heads::of(config);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let q = heads.queries * heads.dim;
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let pack = |layers: &[&str], rows_in| {
            let names: Vec<String> = layers.iter().map(|l| at(l) + ".weight").collect();
            Frozen::new(checkpoint, &names, rows_in, arithmetic, backward)
        };
        let low_rank = LowRank::of_block(config, index, adapter, parameters)?;
        Ok(Block {
            input_norm: checkpoint.f32_values(&at("input_layernorm.weight"))?,
            qkv: pack(&LAYERS[..O], hidden)?,
            o: pack(&LAYERS[O..=O], q)?,
            post_attention_norm: checkpoint.f32_values(&at("post_attention_layernorm.weight"))?,
            gate_up: pack(&LAYERS[4..6], hidden)?,
            down: pack(&LAYERS[DOWN..], inner)?,
            low_rank,
        })
    }

    pub fn bytes(&self) -> usize {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
            .map(Frozen::bytes)
            .iter()
            .sum()
    }

    /// `output` (both `[rows, hidden]`) from `input`; keeps what [`Block::backward`] needs.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        parameters: &[f32],
        input: &[f32],
        kept: &mut Kept,
        scratch: &mut Scratch,
        output: &mut [f32],
    ) -> Result<()> {
        let (team, heads) = (pass.team, Heads::of(pass.config));
        let (n, hidden) = (pass.batch.rows(), pass.config.hidden_size);
        let inner = pass.config.intermediate_size;
        scratch.normed.resize(n * hidden)?;
        scratch.activated.resize(n * inner)?;
        kept.qkv.resize(n * heads.width())?;
        kept.attended.resize(n * heads.queries * heads.dim)?;
        kept.log_sums.resize(n * heads.queries)?;
        kept.middle.resize(n * hidden)?;
        kept.gate_up.resize(n * 2 * inner)?;
        for (low_rank, kept) in self.low_rank.iter().zip(&mut kept.inner) {
            kept.resize(low_rank.as_ref().map_or(0, |l| n * l.width()))?;
        }
        let mut watch = Stopwatch::start();
        let s = scratch;
        macro_rules! low_rank {
            ($layers:expr, $x:expr, $y:expr, $y_row:expr) => {
                for layer in $layers {
                    if let Some(low_rank) = &self.low_rank[layer] {
                        let kept = &mut kept.inner[layer];
                        let (x, y) = ($x, (&mut $y[..], $y_row));
                        let (drop, scratch) = (pass.dropout, &mut s.low_rank);
                        low_rank.forward(team, drop, parameters, x, kept, y, scratch);
                    }
                }
                watch.lap(&mut s.times.low_rank_s);
            };
        }
        norm_rows(pass, input, &self.input_norm, &mut s.normed);
        watch.lap(&mut s.times.rest_s);
        let (qkv, width) = (&mut kept.qkv, heads.width());
        self.qkv
            .forward
            .product(team, &s.normed, n, Epilogue::Store, qkv);
        watch.lap(&mut s.times.forward_products_s);
        low_rank!(0..O, &s.normed, qkv, width);
        rotate_rows(pass, qkv, 1.0);
        attention::forward(
            team,
            heads,
            pass.batch,
            qkv,
            &mut kept.attended,
            &mut kept.log_sums,
        );
        watch.lap(&mut s.times.attention_s);
        copy(team, input, &mut kept.middle);
        watch.lap(&mut s.times.rest_s);
        let middle = &mut kept.middle;
        self.o
            .forward
            .product(team, &kept.attended, n, Epilogue::Add, middle);
        watch.lap(&mut s.times.forward_products_s);
        low_rank!(O..=O, &kept.attended, middle, hidden);
        norm_rows(pass, middle, &self.post_attention_norm, &mut s.normed);
        watch.lap(&mut s.times.rest_s);
        let gate_up = &mut kept.gate_up;
        self.gate_up
            .forward
            .product(team, &s.normed, n, Epilogue::Store, gate_up);
        watch.lap(&mut s.times.forward_products_s);
        low_rank!(4..6, &s.normed, gate_up, 2 * inner);
        activate(team, gate_up, inner, &mut s.activated);
        copy(team, middle, output);
        watch.lap(&mut s.times.rest_s);
        self.down
            .forward
            .product(team, &s.activated, n, Epilogue::Add, output);
        watch.lap(&mut s.times.forward_products_s);
        low_rank!(DOWN..=DOWN, &s.activated, output, hidden);
        Ok(())
    }

    /// Turns `d`, the gradient of the block's output, into that of its input, and adds to the
    /// adapter's gradients. Spends `kept`. Without `input_wanted`, `d` is left half done.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        parameters: &[f32],
        gradients: &mut [f32],
        input: &[f32],
        kept: &mut Kept,
        scratch: &mut Scratch,
        d: &mut [f32],
        input_wanted: bool,
    ) -> Result<()> {
        let (team, heads, eps) = (pass.team, Heads::of(pass.config), pass.config.rms_norm_eps);
        let (n, hidden) = (pass.batch.rows(), pass.config.hidden_size);
        let inner = pass.config.intermediate_size;
        let s = scratch;
        s.d_activated.resize(n * inner)?;
        s.d_normed.resize(n * hidden)?;
        s.d_attended.resize(n * heads.queries * heads.dim)?;
        s.d_qkv.resize(n * heads.width())?;
        s.shared.resize(heads.shared_gradients(pass.batch))?;
        let mut watch = Stopwatch::start();
        let adapted = |layers: std::ops::RangeInclusive<usize>| {
            self.low_rank[layers].iter().any(Option::is_some)
        };
        macro_rules! low_rank {
            ($layers:expr, $dy:expr, $dy_row:expr, $x:expr, $dx:expr) => {
                for layer in $layers {
                    if let Some(low_rank) = &self.low_rank[layer] {
                        let (dy, kept) = ((&$dy[..], $dy_row), &kept.inner[layer]);
                        let (drop, scratch) = (pass.dropout, &mut s.low_rank);
                        let both = (parameters, &mut *gradients);
                        low_rank.backward(team, drop, both, dy, $x, kept, $dx, scratch)?;
                    }
                }
                watch.lap(&mut s.times.low_rank_s);
            };
        }
        // Feed-forward.
        self.down
            .backward()
            .product(team, d, n, Epilogue::Store, &mut s.d_activated);
        watch.lap(&mut s.times.backward_products_s);
        if adapted(DOWN..=DOWN) {
            activate(team, &kept.gate_up, inner, &mut s.activated);
        }
        let dx = &mut s.d_activated;
        low_rank!(DOWN..=DOWN, d, hidden, &s.activated, Some(&mut dx[..]));
        let gate_up = Disjoint::new(&mut kept.gate_up);
        let d_activated = &s.d_activated;
        team.for_each(n, 4, &|row| {
            // SAFETY: each row is one call's.
            let (gate, up) =
                unsafe { gate_up.slice(row * 2 * inner, 2 * inner) }.split_at_mut(inner);
            silu_gate_backward(gate, up, &d_activated[row * inner..][..inner]);
        });
        watch.lap(&mut s.times.rest_s);
        let d_gate_up = &kept.gate_up;
        self.gate_up
            .backward()
            .product(team, d_gate_up, n, Epilogue::Store, &mut s.d_normed);
        watch.lap(&mut s.times.backward_products_s);
        if adapted(4..=5) {
            norm_rows(pass, &kept.middle, &self.post_attention_norm, &mut s.normed);
        }
        let dx = &mut s.d_normed;
        low_rank!(4..6, d_gate_up, 2 * inner, &s.normed, Some(&mut dx[..]));
        norm_backward_rows(
            team,
            &kept.middle,
            &self.post_attention_norm,
            eps,
            &s.d_normed,
            d,
        );
        watch.lap(&mut s.times.rest_s);
        // Attention.
        self.o
            .backward()
            .product(team, d, n, Epilogue::Store, &mut s.d_attended);
        watch.lap(&mut s.times.backward_products_s);
        let dx = &mut s.d_attended;
        low_rank!(O..=O, d, hidden, &kept.attended, Some(&mut dx[..]));
        let seen = (&kept.qkv[..], &kept.attended[..], &kept.log_sums[..]);
        let (d_attended, d_qkv) = (&s.d_attended, &mut s.d_qkv);
        attention::backward(
            team,
            heads,
            pass.batch,
            seen,
            d_attended,
            &mut s.shared,
            d_qkv,
        );
        rotate_rows(pass, d_qkv, -1.0);
        watch.lap(&mut s.times.attention_s);
        if input_wanted {
            let back = self.qkv.backward();
            back.product(team, &s.d_qkv, n, Epilogue::Store, &mut s.d_normed);
            watch.lap(&mut s.times.backward_products_s);
        }
        if adapted(0..=O - 1) {
            norm_rows(pass, input, &self.input_norm, &mut s.normed);
        }
        let dx = &mut s.d_normed;
        let width = heads.width();
        low_rank!(
            0..O,
            s.d_qkv,
            width,
            &s.normed,
            input_wanted.then_some(&mut dx[..])
        );
        if input_wanted {
            norm_backward_rows(team, input, &self.input_norm, eps, &s.d_normed, d);
        }
        watch.lap(&mut s.times.rest_s);
        Ok(())
    }
}
