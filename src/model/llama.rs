//! The Llama forward pass over ragged batches: rows of any sequences at any positions packed
//! one below the other, without padding. A row's result depends on its own sequence alone
//! (see `kernel`), so a request's logits are bitwise the same alone and in any batch.

mod chunks;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::kernel::attention::{Attend, attend, scratch_len};
use crate::kernel::elementwise::{rms_norm, rms_norm_rows, rotate};
use crate::kernel::pages::MAX_HEAD_DIM;
use crate::kernel::{Arithmetic, Disjoint, Epilogue, PackedWeights, Team};

use super::capture::Capture;
use super::kv_cache::KvCache;
use super::part_times::{PartTimes, Stopwatch};
use super::precision::Precision;
use super::rope::RopeTable;
use super::weights::{Checkpoint, ModelConfig};
pub use chunks::Chunk;
pub(crate) use chunks::check_chunks;
use chunks::{Row, row_ends, rows_of};

/// A Llama-family model on the CPU, weights packed for the kernels. The residual stream, norms
/// and attention are f32.
pub struct Llama {
    config: ModelConfig,
    precision: Precision,
    /// Output head; where it is tied, also the embedding.
    head: PackedWeights,
    /// `[vocab, hidden]`, only where the head is not tied.
    embedding: Option<Vec<f32>>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    rope: RopeTable,
    team: Arc<Team>,
}

struct Layer {
    input_norm: Vec<f32>,
    /// `q`, `k` and `v` one below the other.
    qkv_proj: PackedWeights,
    o_proj: PackedWeights,
    post_attention_norm: Vec<f32>,
    gate_up_proj: PackedWeights,
    down_proj: PackedWeights,
}

/// Buffers of the forward pass, kept between calls.
#[derive(Default)]
pub struct Workspace {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    inner: Vec<f32>,
    wanted: Vec<f32>,
    logits: Vec<f32>,
    /// Where the time of all passes went.
    pub times: PartTimes,
}

impl Workspace {
    /// The logits that the last pass left, if nothing has drawn from them since.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

impl Llama {
    /// Packs a checkpoint's weights.
    ///
    /// # Errors
    /// Missing or misshapen tensors, dimensions the kernels do not take, no memory.
    pub fn new(checkpoint: &Checkpoint, team: Arc<Team>) -> Result<Llama> {
        Self::with_precision(checkpoint, Precision::F32, team)
    }

    /// As [`Llama::new`], computing in `precision`.
    ///
    /// # Errors
    /// As [`Llama::new`].
    pub fn with_precision(
        checkpoint: &Checkpoint,
        precision: Precision,
        team: Arc<Team>,
    ) -> Result<Llama> {
        let arithmetic = precision.products;
        let config = checkpoint.config.clone();
        check_shape("this engine", &config, arithmetic)?;
        let hidden = config.hidden_size;
        let remedy = match arithmetic {
            Arithmetic::F32 => {
                "compute in bf16 (--dtype bf16, where the command has it), on a card (--device cuda) or \
                 choose a smaller --model"
            }
            Arithmetic::Bf16 => "compute on a card (--device cuda) or choose a smaller --model",
        };
        let (needed, free) = (
            config.packed_bytes(arithmetic, 1.0),
            crate::memory::available(),
        );
        crate::memory::check("the model's weights take", needed, free, remedy)?;
        let memory = |e: std::io::Error| {
            Error::Memory(format!("no memory for the model's packed weights: {e}"))
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let tensor =
                |name: &str| checkpoint.f32_values(&format!("model.layers.{i}.{name}.weight"));
            let (q, k, v) = (
                tensor("self_attn.q_proj")?,
                tensor("self_attn.k_proj")?,
                tensor("self_attn.v_proj")?,
            );
            let (gate, up) = (tensor("mlp.gate_proj")?, tensor("mlp.up_proj")?);
            layers.push(Layer {
                input_norm: tensor("input_layernorm")?,
                qkv_proj: PackedWeights::pack(&[&q, &k, &v], hidden, arithmetic).map_err(memory)?,
                o_proj: PackedWeights::pack(
                    &[&tensor("self_attn.o_proj")?],
                    config.num_attention_heads * config.head_dim,
                    arithmetic,
                )
                .map_err(memory)?,
                post_attention_norm: tensor("post_attention_layernorm")?,
                gate_up_proj: PackedWeights::pack_gated(&gate, &up, hidden, arithmetic)
                    .map_err(memory)?,
                down_proj: PackedWeights::pack(
                    &[&tensor("mlp.down_proj")?],
                    config.intermediate_size,
                    arithmetic,
                )
                .map_err(memory)?,
            });
        }
        let embedding = checkpoint.f32_values("model.embed_tokens.weight")?;
        let (head, embedding) = if config.tie_word_embeddings {
            (PackedWeights::pack(&[&embedding], hidden, arithmetic), None)
        } else {
            let head = checkpoint.f32_values("lm_head.weight")?;
            (
                PackedWeights::pack(&[&head], hidden, arithmetic),
                Some(embedding),
            )
        };
        Ok(Llama {
            head: head.map_err(memory)?,
            embedding,
            layers,
            norm: checkpoint.f32_values("model.norm.weight")?,
            rope: RopeTable::new(&config),
            team,
            precision,
            config,
        })
    }

    /// The model's dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What weights, products and the cache are kept and computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes that the packed weights take.
    pub fn weight_bytes(&self) -> usize {
        let products = self.layers.iter().flat_map(|layer| {
            [
                &layer.qkv_proj,
                &layer.o_proj,
                &layer.gate_up_proj,
                &layer.down_proj,
            ]
        });
        let embedding = self.embedding.as_ref().map_or(0, |e| size_of_val(&e[..]));
        products.map(PackedWeights::bytes).sum::<usize>() + self.head.bytes() + embedding
    }

    /// Bytes of the KV cache that a token takes.
    pub fn kv_bytes_per_token(&self) -> usize {
        self.config.kv_bytes_per_token(self.precision.cache)
    }

    /// An empty cache for this model: `slots` sequences of up to `capacity` positions.
    ///
    /// # Errors
    /// If its address space cannot be had.
    pub fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache> {
        KvCache::new(&self.config, self.precision.cache, slots, capacity)
    }

    /// The threads that compute.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// Runs the chunks' tokens through the model and into their slots. Returns the logits
    /// `[wanted chunks, vocab]`, in the order of the chunks that asked for them.
    ///
    /// # Errors
    /// A token outside the vocabulary, a slot that would overflow, a slot named twice.
    pub fn forward<'w>(
        &self,
        chunks: &[Chunk<'_>],
        cache: &mut KvCache,
        workspace: &'w mut Workspace,
        mut capture: Option<&mut Capture>,
    ) -> Result<&'w mut [f32]> {
        let most = cache.capacity().min(self.config.max_position_embeddings);
        check_chunks(
            chunks,
            cache.slots(),
            most,
            self.config.vocab_size,
            |slot| cache.tokens(slot).len(),
        )?;
        let hidden = self.config.hidden_size;
        let rows = rows_of(chunks, cache);
        for chunk in chunks {
            cache.extend(chunk.slot, chunk.tokens);
        }
        let cache = &*cache;
        let n = rows.len();
        let w = workspace;
        grow(&mut w.hidden, n * hidden);
        grow(&mut w.normed, n * hidden);
        grow(&mut w.qkv, n * self.qkv_width());
        grow(
            &mut w.attended,
            n * self.config.num_attention_heads * self.config.head_dim,
        );
        grow(&mut w.inner, n * self.config.intermediate_size);
        let mut watch = Stopwatch::start();
        self.embed(&rows, &mut w.hidden);
        let ends = row_ends(chunks);
        let mut depth = self.layers.len();
        if let Some(capture) = capture.as_deref_mut() {
            capture.begin(chunks.len(), hidden);
            capture.take(0, &ends, hidden, &w.hidden);
            if capture.stops_early && !chunks.iter().any(|c| c.logits) {
                depth = depth.min(capture.of.deepest());
            }
        }
        let team = &self.team;
        for (index, layer) in self.layers[..depth].iter().enumerate() {
            self.norm_rows(&w.hidden, &layer.input_norm, n, &mut w.normed);
            watch.lap(&mut w.times.rest_s);
            let qkv = &mut w.qkv;
            layer
                .qkv_proj
                .product(team, &w.normed, n, Epilogue::Store, qkv);
            watch.lap(&mut w.times.products_s);
            self.attention(index, &rows, cache, qkv, &mut w.attended);
            watch.lap(&mut w.times.attention_s);
            layer
                .o_proj
                .product(team, &w.attended, n, Epilogue::Add, &mut w.hidden);
            watch.lap(&mut w.times.products_s);
            self.norm_rows(&w.hidden, &layer.post_attention_norm, n, &mut w.normed);
            watch.lap(&mut w.times.rest_s);
            layer
                .gate_up_proj
                .product(team, &w.normed, n, Epilogue::SiluGate, &mut w.inner);
            layer
                .down_proj
                .product(team, &w.inner, n, Epilogue::Add, &mut w.hidden);
            watch.lap(&mut w.times.products_s);
            if let Some(capture) = capture.as_deref_mut() {
                capture.take(index + 1, &ends, hidden, &w.hidden);
            }
        }
        let wanted: Vec<usize> = (0..chunks.len())
            .filter(|&c| chunks[c].logits)
            .map(|c| ends[c] - 1)
            .collect();
        grow(&mut w.wanted, wanted.len() * hidden);
        grow(&mut w.logits, wanted.len() * self.config.vocab_size);
        for (to, row) in w.wanted.chunks_exact_mut(hidden).zip(&wanted) {
            let from = &w.hidden[row * hidden..(row + 1) * hidden];
            rms_norm(from, &self.norm, self.config.rms_norm_eps, to);
        }
        watch.lap(&mut w.times.rest_s);
        self.head.product(
            team,
            &w.wanted,
            wanted.len(),
            Epilogue::Store,
            &mut w.logits,
        );
        watch.lap(&mut w.times.head_s);
        Ok(&mut w.logits[..wanted.len() * self.config.vocab_size])
    }

    fn qkv_width(&self) -> usize {
        (self.config.num_attention_heads + 2 * self.config.num_key_value_heads)
            * self.config.head_dim
    }

    fn embed(&self, rows: &[Row], to: &mut [f32]) {
        let hidden = self.config.hidden_size;
        for (row, to) in rows.iter().zip(to.chunks_exact_mut(hidden)) {
            let token = row.token as usize;
            match &self.embedding {
                Some(table) => to.copy_from_slice(&table[token * hidden..(token + 1) * hidden]),
                None => self.head.unpack_row(token, to),
            }
        }
    }

    fn norm_rows(&self, x: &[f32], weight: &[f32], rows: usize, y: &mut [f32]) {
        rms_norm_rows(&self.team, rows, x, weight, self.config.rms_norm_eps, y);
    }

    /// Rotates queries and keys, stores keys and values, attends.
    fn attention(
        &self,
        layer: usize,
        rows: &[Row],
        cache: &KvCache,
        qkv: &mut [f32],
        attended: &mut [f32],
    ) {
        let d = self.config.head_dim;
        let (heads, kv_heads) = (
            self.config.num_attention_heads,
            self.config.num_key_value_heads,
        );
        let width = self.qkv_width();
        let shared = Disjoint::new(qkv);
        self.team.for_each(rows.len(), 4, &|index| {
            let row = &rows[index];
            // SAFETY: each row is written by one call.
            let qkv = unsafe { shared.slice(index * width, width) };
            let (cos, sin) = self.rope.at(row.position);
            for head in qkv[..(heads + kv_heads) * d].chunks_exact_mut(d) {
                rotate(head, cos, sin);
            }
            for head in 0..kv_heads {
                let key = &qkv[(heads + head) * d..][..d];
                let value = &qkv[(heads + kv_heads + head) * d..][..d];
                // SAFETY: each row is another position, and none is read before all are
                // written.
                unsafe {
                    cache
                        .pages(layer, row.slot, head)
                        .write(row.position, key, value);
                }
            }
        });
        let qkv = &*qkv;
        let group = heads / kv_heads;
        let scale = 1.0 / (d as f32).sqrt();
        let longest = rows.iter().map(|r| r.position + 1).max().unwrap_or(1);
        let out = Disjoint::new(attended);
        let next = AtomicUsize::new(0);
        self.team.run(&|_| {
            let mut scratch = vec![0.0; scratch_len(longest)];
            let claim = || next.fetch_add(1, Ordering::Relaxed);
            // The rows of one prompt share their keys: near already.
            let warm = |index: usize| index > 0 && rows[index - 1].slot == rows[index].slot;
            let mut index = claim();
            while let Some(row) = rows.get(index) {
                let following = claim();
                for head in 0..kv_heads {
                    let first = head * group * d;
                    let ahead = match rows.get(following) {
                        _ if warm(index) => None,
                        _ if head + 1 < kv_heads => Some((row.slot, head + 1)),
                        Some(next) => Some((next.slot, 0)),
                        None => None,
                    };
                    let call = Attend {
                        queries: &qkv[index * width + first..][..group * d],
                        pages: cache.pages(layer, row.slot, head),
                        ahead: ahead.map(|(slot, head)| cache.pages(layer, slot, head)),
                        len: row.position + 1,
                        scale,
                    };
                    // SAFETY: each (row, head group) is written by one call.
                    let out = unsafe { out.slice(index * heads * d + first, group * d) };
                    attend(&call, &mut scratch, out);
                }
                index = following;
            }
        });
    }
}

/// Refuses dimensions that the kernels do not take; `who` asks for others.
pub(crate) fn check_shape(who: &str, config: &ModelConfig, arithmetic: Arithmetic) -> Result<()> {
    let odd = config.hidden_size % 2 == 1 && arithmetic == Arithmetic::Bf16;
    if !config.head_dim.is_multiple_of(16)
        || !config.intermediate_size.is_multiple_of(16)
        || config.head_dim > MAX_HEAD_DIM
        || odd
    {
        return Err(Error::Usage(format!(
            "{who} needs head and feed-forward sizes that are multiples of 16, heads of at most \
             {MAX_HEAD_DIM}, and for bf16 an even hidden size; the model has {}, {} and {}",
            config.head_dim, config.intermediate_size, config.hidden_size
        )));
    }
    Ok(())
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}
