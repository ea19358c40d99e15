//! The Llama of `model::llama`, differentiable in an adapter's matrices. Batches are padded on
//! the right: with causal attention no real token ever sees the padding, so no mask for it is
//! needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::lora::{Adapter, LoraPair};
use crate::model::rope::RopeTable;
use crate::model::{Checkpoint, ModelConfig};

use super::dropout::Dropout;
use super::frozen::{FrozenLinear, FrozenNorm};

/// A frozen model with trainable adapter matrices.
pub struct TrainableLlama {
    config: ModelConfig,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: FrozenNorm,
    head: FrozenLinear,
    rope: RopeTable,
    adapter: Adapter,
    /// `<layer>.lora_A` and `<layer>.lora_B`.
    vars: BTreeMap<String, Var>,
}

struct Block {
    input_norm: FrozenNorm,
    q: Adapted,
    k: Adapted,
    v: Adapted,
    o: Adapted,
    post_attention_norm: FrozenNorm,
    gate: Adapted,
    up: Adapted,
    down: Adapted,
}

/// A frozen linear layer, with its low-rank update if it has one.
struct Adapted {
    frozen: FrozenLinear,
    low_rank: Option<(Var, Var, f64)>,
}

impl Adapted {
    fn apply(&self, x: &Tensor, dropout: &mut Dropout) -> candle_core::Result<Tensor> {
        let y = self.frozen.apply(x)?;
        let Some((a, b, scaling)) = &self.low_rank else {
            return Ok(y);
        };
        let update = dropout
            .apply(x)?
            .broadcast_matmul(&a.as_tensor().t()?)?
            .broadcast_matmul(&b.as_tensor().t()?)?;
        y + (update * *scaling)?
    }
}

impl TrainableLlama {
    /// Packs the frozen weights in both directions (twice the model's memory) and makes the
    /// adapter's matrices variables.
    ///
    /// # Errors
    /// An adapter for another model, missing tensors, no memory.
    pub fn new(
        checkpoint: &Checkpoint,
        adapter: Adapter,
        team: Arc<Team>,
    ) -> Result<TrainableLlama> {
        let config = checkpoint.config.clone();
        let places = adapter.config.places(&config);
        if places.len() != adapter.pairs.len()
            || places
                .iter()
                .any(|(name, ..)| !adapter.pairs.contains_key(name))
        {
            return Err(Error::Usage(format!(
                "the adapter (made for `{}`) does not fit this model's {} blocks",
                adapter.base_model, config.num_hidden_layers
            )));
        }
        let mut vars = BTreeMap::new();
        for (name, pair) in &adapter.pairs {
            vars.insert(format!("{name}.lora_A"), Var::from_tensor(&pair.a)?);
            vars.insert(format!("{name}.lora_B"), Var::from_tensor(&pair.b)?);
        }
        let linear = |name: String, rows_in: usize| -> Result<Adapted> {
            let weight = checkpoint.f32_values(&format!("{name}.weight"))?;
            let var = |side: &str| vars.get(&format!("{name}.lora_{side}")).cloned();
            Ok(Adapted {
                frozen: FrozenLinear::new(&weight, rows_in, team.clone())?,
                low_rank: var("A")
                    .zip(var("B"))
                    .map(|(a, b)| (a, b, adapter.config.scaling())),
            })
        };
        let norm = |name: String| -> Result<FrozenNorm> {
            let weight = checkpoint.f32_values(&format!("{name}.weight"))?;
            Ok(FrozenNorm::new(weight, config.rms_norm_eps, team.clone()))
        };
        let hidden = config.hidden_size;
        let mut blocks = Vec::new();
        for i in 0..config.num_hidden_layers {
            let at = |name: &str| format!("model.layers.{i}.{name}");
            blocks.push(Block {
                input_norm: norm(at("input_layernorm"))?,
                q: linear(at("self_attn.q_proj"), hidden)?,
                k: linear(at("self_attn.k_proj"), hidden)?,
                v: linear(at("self_attn.v_proj"), hidden)?,
                o: linear(
                    at("self_attn.o_proj"),
                    config.num_attention_heads * config.head_dim,
                )?,
                post_attention_norm: norm(at("post_attention_layernorm"))?,
                gate: linear(at("mlp.gate_proj"), hidden)?,
                up: linear(at("mlp.up_proj"), hidden)?,
                down: linear(at("mlp.down_proj"), config.intermediate_size)?,
            });
        }
        let embedding = checkpoint.f32_values("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings {
            FrozenLinear::new(&embedding, hidden, team.clone())?
        } else {
            let head = checkpoint.f32_values("lm_head.weight")?;
            FrozenLinear::new(&head, hidden, team.clone())?
        };
        Ok(TrainableLlama {
            embedding: Tensor::from_vec(embedding, (config.vocab_size, hidden), &Device::Cpu)?,
            norm: norm("model.norm".into())?,
            rope: RopeTable::new(&config),
            blocks,
            head,
            adapter,
            vars,
            config,
        })
    }

    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// The adapter's dropout rate while training.
    pub fn dropout_rate(&self) -> f64 {
        self.adapter.config.dropout
    }

    /// The adapter with the matrices as they are now.
    ///
    /// # Errors
    /// Only the tensor library's own.
    pub fn adapter(&self) -> Result<Adapter> {
        let mut adapter = self.adapter.clone();
        for (name, pair) in &mut adapter.pairs {
            let value = |side: &str| {
                self.vars[&format!("{name}.lora_{side}")]
                    .as_tensor()
                    .detach()
                    .copy()
            };
            *pair = LoraPair {
                a: value("A")?,
                b: value("B")?,
            };
        }
        Ok(adapter)
    }

    /// Logits `[wanted, vocab]` at `wanted` (row, position) places of `tokens`
    /// (`[rows][longest]`, padded on the right with any token).
    ///
    /// # Errors
    /// Only the tensor library's own.
    pub fn logits(
        &self,
        tokens: &[Vec<u32>],
        wanted: &[(usize, usize)],
        dropout: &mut Dropout,
    ) -> Result<Tensor> {
        let (rows, len) = (tokens.len(), tokens.iter().map(Vec::len).max().unwrap_or(0));
        let mut ids = Vec::with_capacity(rows * len);
        for row in tokens {
            ids.extend_from_slice(row);
            ids.resize(ids.len() + len - row.len(), 0);
        }
        let ids = Tensor::from_vec(ids, rows * len, &Device::Cpu)?;
        let mut x =
            self.embedding
                .index_select(&ids, 0)?
                .reshape((rows, len, self.config.hidden_size))?;
        let positions = Positions::new(&self.rope, &self.config, len)?;
        for block in &self.blocks {
            x = self.block(block, &x, &positions, dropout)?;
        }
        let places: Vec<u32> = wanted.iter().map(|(r, p)| (r * len + p) as u32).collect();
        let places = Tensor::from_vec(places, wanted.len(), &Device::Cpu)?;
        let states = x
            .reshape((rows * len, self.config.hidden_size))?
            .index_select(&places, 0)?;
        Ok(self.head.apply(&self.norm.apply(&states)?)?)
    }

    fn block(
        &self,
        block: &Block,
        x: &Tensor,
        positions: &Positions,
        dropout: &mut Dropout,
    ) -> candle_core::Result<Tensor> {
        let normed = block.input_norm.apply(x)?;
        let q = block.q.apply(&normed, dropout)?;
        let k = block.k.apply(&normed, dropout)?;
        let v = block.v.apply(&normed, dropout)?;
        let attended = self.attention(&q, &k, &v, positions)?;
        let x = (x + block.o.apply(&attended, dropout)?)?;
        let normed = block.post_attention_norm.apply(&x)?;
        let gate = block.gate.apply(&normed, dropout)?.silu()?;
        let inner = (gate * block.up.apply(&normed, dropout)?)?;
        x + block.down.apply(&inner, dropout)?
    }

    /// Causal grouped-query attention from differentiable operations only. The query heads of
    /// one key head are laid below each other, so keys need no copies.
    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        positions: &Positions,
    ) -> candle_core::Result<Tensor> {
        let (rows, len, _) = q.dims3()?;
        let (heads, kv_heads, d) = (
            self.config.num_attention_heads,
            self.config.num_key_value_heads,
            self.config.head_dim,
        );
        let split = |t: &Tensor, heads: usize| {
            t.reshape((rows, len, heads, d))?
                .transpose(1, 2)?
                .contiguous()
        };
        let q =
            candle_nn::rotary_emb::rope_slow(&split(q, heads)?, &positions.cos, &positions.sin)?;
        let k =
            candle_nn::rotary_emb::rope_slow(&split(k, kv_heads)?, &positions.cos, &positions.sin)?;
        let v = split(v, kv_heads)?;
        let q = q.reshape((rows, kv_heads, heads / kv_heads * len, d))?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (d as f64).sqrt())?;
        let scores = scores.broadcast_add(&positions.mask)?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        weights
            .matmul(&v)?
            .reshape((rows, heads, len, d))?
            .transpose(1, 2)?
            .reshape((rows, len, heads * d))
    }
}

/// What depends on the length of a batch only.
struct Positions {
    cos: Tensor,
    sin: Tensor,
    /// 0 where a query may look, -inf elsewhere: `[group * len, len]`.
    mask: Tensor,
}

impl Positions {
    fn new(rope: &RopeTable, config: &ModelConfig, len: usize) -> Result<Positions> {
        let half = config.head_dim / 2;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..len {
            let (c, s) = rope.at(position);
            cos.extend_from_slice(c);
            sin.extend_from_slice(s);
        }
        let group = config.num_attention_heads / config.num_key_value_heads;
        let mask: Vec<f32> = (0..group * len)
            .flat_map(|row| {
                (0..len).map(move |column| {
                    if column <= row % len {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                })
            })
            .collect();
        Ok(Positions {
            cos: Tensor::from_vec(cos, (len, half), &Device::Cpu)?,
            sin: Tensor::from_vec(sin, (len, half), &Device::Cpu)?,
            mask: Tensor::from_vec(mask, (group * len, len), &Device::Cpu)?.to_dtype(DType::F32)?,
        })
    }
}
