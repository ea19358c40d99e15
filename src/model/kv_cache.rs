//! The KV cache: pages of 16 positions, a page table a slot. Only pages in use take memory, a
//! common prefix is shared and not copied, and a slot remembers which tokens it holds, so that
//! such a prefix can be found.
//!
//! A page holds, for every layer and key head, 16 keys as the attention kernel reads them
//! (`[d][16]`), then 16 values (`[16][d]`).

use crate::error::{Error, Result};
use crate::kernel::lines::{Lines, bytes_mut};
use crate::kernel::pages::{BLOCK, Element, Pages};

use super::weights::ModelConfig;

/// Keys and values of up to `slots` sequences of up to `capacity` positions.
pub struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    element: Element,
    capacity: usize,
    slots: Vec<Slot>,
    pool: Pool,
    page_bytes: usize,
    /// How many slots use each page that was ever used.
    uses: Vec<u32>,
    free: Vec<u32>,
}

/// The pages' memory, only ever used through the pointer: rows of one pass write their own
/// positions at the same time.
struct Pool {
    base: *mut u8,
    bytes: usize,
    _lines: Lines,
}

// SAFETY: whoever writes through the pointer sees to it that no one else uses that position
// (see `Pages::write`), or has the cache for itself.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

#[derive(Default)]
struct Slot {
    tokens: Vec<u32>,
    pages: Vec<u32>,
}

impl ModelConfig {
    /// Bytes of keys and values a token takes.
    pub fn kv_bytes_per_token(&self, element: Element) -> usize {
        2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * element.bytes()
    }
}

impl KvCache {
    /// Takes address space for all pages there can be; memory only as they are used.
    ///
    /// # Errors
    /// If the address space cannot be had; the message says how much was asked for.
    pub fn new(
        config: &ModelConfig,
        element: Element,
        slots: usize,
        capacity: usize,
    ) -> Result<KvCache> {
        let page_bytes = config.kv_bytes_per_token(element) * BLOCK;
        let pages = slots.saturating_mul(capacity.div_ceil(BLOCK));
        let bytes = pages.saturating_mul(page_bytes);
        let mut lines = Lines::zeroed(bytes.div_ceil(64), true).map_err(|source| {
            Error::Memory(format!(
                "no memory for a KV cache of {slots} slots x {capacity} positions ({:.1} GB): \
                 use fewer slots or fewer new tokens ({source})",
                bytes as f64 / 1e9
            ))
        })?;
        Ok(KvCache {
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            element,
            capacity: capacity.next_multiple_of(BLOCK),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            pool: Pool {
                base: bytes_mut(&mut lines).as_mut_ptr(),
                bytes,
                _lines: lines,
            },
            page_bytes,
            uses: Vec::new(),
            free: Vec::new(),
        })
    }

    /// Sequences at once.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Positions a slot can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The tokens whose keys and values the slot holds.
    pub fn tokens(&self, slot: usize) -> &[u32] {
        &self.slots[slot].tokens
    }

    /// Pages that have ever been used at once: what the cache takes of memory.
    pub fn peak_bytes(&self) -> usize {
        self.uses.len() * self.page_bytes
    }

    /// Forgets all but the first `len` positions of a slot.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        let slot = &mut self.slots[slot];
        slot.tokens.truncate(len);
        for page in slot.pages.drain(slot.tokens.len().div_ceil(BLOCK)..) {
            self.uses[page as usize] -= 1;
            if self.uses[page as usize] == 0 {
                self.free.push(page);
            }
        }
    }

    /// Appends tokens to a slot and gives it pages of its own to write their keys and values
    /// to.
    pub(crate) fn extend(&mut self, slot: usize, tokens: &[u32]) {
        let held = self.slots[slot].tokens.len();
        if !held.is_multiple_of(BLOCK) {
            let last = self.slots[slot].pages[held / BLOCK];
            if self.uses[last as usize] > 1 {
                let own = self.copy_page(last);
                self.uses[last as usize] -= 1;
                self.slots[slot].pages[held / BLOCK] = own;
            }
        }
        self.slots[slot].tokens.extend_from_slice(tokens);
        let needed = self.slots[slot].tokens.len().div_ceil(BLOCK);
        while self.slots[slot].pages.len() < needed {
            let page = self.take_page();
            self.slots[slot].pages.push(page);
        }
    }

    /// Gives slot `to` the first `len` positions of slot `from`, which it then holds exactly.
    ///
    /// # Panics
    /// If `from` holds fewer than `len` positions.
    pub fn copy_prefix(&mut self, from: usize, to: usize, len: usize) {
        assert!(len <= self.slots[from].tokens.len());
        if from == to {
            return self.truncate(to, len);
        }
        self.truncate(to, 0);
        let tokens = self.slots[from].tokens[..len].to_vec();
        let mut pages = self.slots[from].pages[..len.div_ceil(BLOCK)].to_vec();
        for &page in &pages {
            self.uses[page as usize] += 1;
        }
        // A page that both would go on writing is copied at once.
        if !len.is_multiple_of(BLOCK)
            && let Some(last) = pages.last_mut()
        {
            self.uses[*last as usize] -= 1;
            *last = self.copy_page(*last);
        }
        self.slots[to] = Slot { tokens, pages };
    }

    fn take_page(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_else(|| {
            self.uses.push(0);
            self.uses.len() as u32 - 1
        });
        self.uses[page as usize] = 1;
        page
    }

    fn copy_page(&mut self, page: u32) -> u32 {
        let copy = self.take_page();
        assert!(self.uses.len() * self.page_bytes <= self.pool.bytes);
        // SAFETY: two pages inside the pool, which this call has for itself.
        unsafe {
            let from = self.pool.base.add(page as usize * self.page_bytes);
            let to = self.pool.base.add(copy as usize * self.page_bytes);
            from.copy_to_nonoverlapping(to, self.page_bytes);
        }
        copy
    }

    /// Where a slot's keys and values of one layer and head are.
    ///
    /// # Panics
    /// If a page lies outside the pool, which no sequence of calls can bring about.
    pub(crate) fn pages(&self, layer: usize, slot: usize, head: usize) -> Pages<'_> {
        let pages = &self.slots[slot].pages;
        assert!(self.uses.len() * self.page_bytes <= self.pool.bytes);
        Pages {
            pool: self.pool.base,
            table: pages,
            page_bytes: self.page_bytes,
            offset: (layer * self.kv_heads + head)
                * 2
                * BLOCK
                * self.head_dim
                * self.element.bytes(),
            head_dim: self.head_dim,
            element: self.element,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cache beside a plain list of what each slot was given.
    fn check(cache: &KvCache, written: &[Vec<f32>]) {
        for (slot, values) in written.iter().enumerate() {
            assert_eq!(cache.tokens(slot).len(), values.len());
            for (position, &value) in values.iter().enumerate() {
                let (key, found) = cache.pages(1, slot, 0).read(position);
                assert!(key.iter().all(|k| *k == value) && found.iter().all(|v| *v == -value));
            }
        }
    }

    #[test]
    fn slots_never_see_each_other_however_prefixes_are_shared() {
        use rand::{Rng, SeedableRng};
        let config = ModelConfig::tiny();
        for element in [Element::F32, Element::F16] {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
            let mut cache = KvCache::new(&config, element, 4, 64).unwrap();
            let mut written: Vec<Vec<f32>> = vec![Vec::new(); 4];
            let mut next = 0u32;
            for _ in 0..600 {
                let slot = rng.random_range(0..4);
                match rng.random_range(0..4) {
                    0 => {
                        let len = rng.random_range(0..=written[slot].len());
                        cache.truncate(slot, len);
                        written[slot].truncate(len);
                    }
                    1 => {
                        let from = rng.random_range(0..4);
                        let len = rng.random_range(0..=written[from].len());
                        cache.copy_prefix(from, slot, len);
                        written[slot] = written[from][..len].to_vec();
                    }
                    _ => {
                        let room = 64 - written[slot].len();
                        let start = written[slot].len();
                        let tokens: Vec<u32> = (0..rng.random_range(0..=room.min(20)))
                            .map(|_| {
                                next = (next + 1) % 2000;
                                next
                            })
                            .collect();
                        cache.extend(slot, &tokens);
                        for (i, token) in tokens.iter().enumerate() {
                            let d = config.head_dim;
                            let value = *token as f32;
                            let pages = cache.pages(1, slot, 0);
                            // SAFETY: nothing else uses the cache.
                            unsafe { pages.write(start + i, &vec![value; d], &vec![-value; d]) };
                            written[slot].push(value);
                        }
                    }
                }
                check(&cache, &written);
            }
            // Never more pages than all slots full.
            assert!(cache.peak_bytes() <= 4 * 4 * cache.page_bytes);
        }
    }

    #[test]
    fn freed_pages_are_used_again() {
        let mut cache = KvCache::new(&ModelConfig::tiny(), Element::F32, 2, 64).unwrap();
        cache.extend(0, &[1; 64]);
        let full = cache.peak_bytes();
        cache.truncate(0, 3);
        cache.extend(1, &[2; 40]);
        assert_eq!(cache.peak_bytes(), full);
    }
}
