//! The KV cache: preallocated, one slot a sequence, in the layout the attention kernel reads
//! (keys in blocks of 16 positions, values by position). A slot remembers which tokens it
//! holds, so that a common prefix can be copied instead of computed.

use crate::error::{Error, Result};
use crate::kernel::attention::BLOCK;
use crate::kernel::lane::{Lines, floats, floats_mut};

use super::weights::ModelConfig;

/// Keys and values of up to `slots` sequences of up to `capacity` positions.
pub struct KvCache {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    tokens: Vec<Vec<u32>>,
    keys: Lines,
    values: Lines,
}

impl ModelConfig {
    /// Bytes of keys and values a token takes.
    pub fn kv_bytes_per_token(&self) -> usize {
        2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * size_of::<f32>()
    }
}

impl KvCache {
    /// # Errors
    /// If the memory cannot be had; the message says how much was asked for.
    pub fn new(config: &ModelConfig, slots: usize, capacity: usize) -> Result<KvCache> {
        let capacity = capacity.next_multiple_of(BLOCK);
        let side = config.num_hidden_layers
            * slots
            * config.num_key_value_heads
            * capacity
            * config.head_dim;
        let buffer = || {
            Lines::zeroed(side / BLOCK, false).map_err(|source| {
                Error::Memory(format!(
                    "no memory for a KV cache of {slots} slots x {capacity} positions \
                     ({:.1} GB): use fewer slots or fewer new tokens ({source})",
                    (2 * side * size_of::<f32>()) as f64 / 1e9
                ))
            })
        };
        Ok(KvCache {
            layers: config.num_hidden_layers,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            capacity,
            tokens: vec![Vec::new(); slots],
            keys: buffer()?,
            values: buffer()?,
        })
    }

    pub fn slots(&self) -> usize {
        self.tokens.len()
    }

    /// Positions a slot can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The tokens whose keys and values the slot holds.
    pub fn tokens(&self, slot: usize) -> &[u32] {
        &self.tokens[slot]
    }

    /// Forgets all but the first `len` positions of a slot.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        self.tokens[slot].truncate(len);
    }

    pub(crate) fn push(&mut self, slot: usize, tokens: &[u32]) {
        self.tokens[slot].extend_from_slice(tokens);
    }

    /// Copies the first `len` positions of slot `from` into slot `to`, which then holds
    /// exactly these.
    ///
    /// # Panics
    /// If `from` holds fewer than `len` positions.
    pub fn copy_prefix(&mut self, from: usize, to: usize, len: usize) {
        assert!(len <= self.tokens[from].len());
        let prefix = self.tokens[from][..len].to_vec();
        self.tokens[to] = prefix;
        if from == to {
            return;
        }
        // Whole blocks of keys: positions past `len` are overwritten before they are read.
        let key_floats = len.next_multiple_of(BLOCK) * self.head_dim;
        let value_floats = len * self.head_dim;
        for layer in 0..self.layers {
            for head in 0..self.kv_heads {
                let source = self.at(layer, from, head);
                let target = self.at(layer, to, head);
                floats_mut(&mut self.keys).copy_within(source..source + key_floats, target);
                floats_mut(&mut self.values).copy_within(source..source + value_floats, target);
            }
        }
    }

    fn at(&self, layer: usize, slot: usize, head: usize) -> usize {
        ((layer * self.tokens.len() + slot) * self.kv_heads + head) * self.capacity * self.head_dim
    }

    /// Keys (`[block][d][16]`) and values (`[position][d]`) of one head of one slot.
    pub fn head(&self, layer: usize, slot: usize, head: usize) -> (&[f32], &[f32]) {
        let range = self.at(layer, slot, head)..self.at(layer, slot, head + 1);
        (
            &floats(&self.keys)[range.clone()],
            &floats(&self.values)[range],
        )
    }

    /// Writes the key and the value (`head_dim` floats each) of one position.
    pub(crate) fn write(
        &mut self,
        (layer, slot, head): (usize, usize, usize),
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let at = self.at(layer, slot, head);
        let block = at + position / BLOCK * BLOCK * self.head_dim + position % BLOCK;
        let keys = floats_mut(&mut self.keys);
        for (i, k) in key.iter().enumerate() {
            keys[block + i * BLOCK] = *k;
        }
        let row = at + position * self.head_dim;
        floats_mut(&mut self.values)[row..row + self.head_dim].copy_from_slice(value);
    }
}
