//! Which page of the card's KV pool holds which positions of which slot. Pages are taken as
//! sequences grow, so that a long sequence does not reserve its length for all of its batch.

use crate::error::{Error, Result};

/// Positions a page.
pub(super) const PAGE: usize = 64;

/// The page tables of all slots.
pub(super) struct PageTables {
    capacity: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    pages: usize,
    most_used: usize,
    /// `[slot][page of the slot]`, as the card has it.
    table: Vec<i32>,
    /// Whether the card's copy is older.
    pub changed: bool,
}

#[derive(Default)]
struct Slot {
    tokens: Vec<u32>,
    pages: Vec<u32>,
}

impl PageTables {
    /// Empty slots of up to `capacity` positions, over a pool of `pages`.
    pub fn new(slots: usize, capacity: usize, pages: usize) -> PageTables {
        let capacity = capacity.next_multiple_of(PAGE);
        PageTables {
            capacity,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            free: (0..pages as u32).rev().collect(),
            pages,
            most_used: 0,
            table: vec![0; slots * (capacity / PAGE)],
            changed: true,
        }
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn tokens(&self, slot: usize) -> &[u32] {
        &self.slots[slot].tokens
    }

    pub fn pages_of(&self, slot: usize) -> &[u32] {
        &self.slots[slot].pages
    }

    /// The most pages in use at once.
    pub fn most_used(&self) -> usize {
        self.most_used
    }

    pub fn table(&self) -> &[i32] {
        &self.table
    }

    /// Entries of a slot in the table.
    pub fn table_len(&self) -> usize {
        self.capacity / PAGE
    }

    pub fn truncate(&mut self, slot: usize, len: usize) {
        let slot = &mut self.slots[slot];
        slot.tokens.truncate(len);
        let kept = slot.tokens.len().div_ceil(PAGE);
        self.free.extend(slot.pages.drain(kept..).rev());
    }

    /// Appends tokens to a slot and gives it the pages that they need.
    ///
    /// # Errors
    /// The pool has no page left; nothing is changed then.
    pub fn extend(&mut self, slot: usize, tokens: &[u32]) -> Result<()> {
        let len = self.slots[slot].tokens.len() + tokens.len();
        let needed = len.div_ceil(PAGE) - self.slots[slot].pages.len();
        if needed > self.free.len() {
            return Err(Error::Memory(format!(
                "the card's memory holds {} tokens of keys and values, and all are taken: use \
                 fewer rows at once (--slots, or `batch_size` and `vbs` of the arm) or fewer new \
                 tokens (--max-new-tokens)",
                self.pages * PAGE
            )));
        }
        for _ in 0..needed {
            let held = self.slots[slot].pages.len();
            if let Some(page) = self.free.pop() {
                self.table[slot * (self.capacity / PAGE) + held] = page as i32;
                self.slots[slot].pages.push(page);
                self.changed = true;
            }
        }
        self.slots[slot].tokens.extend_from_slice(tokens);
        self.most_used = self.most_used.max(self.pages - self.free.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_pool_is_refused_and_nothing_changes() {
        let mut tables = PageTables::new(2, 200, 2);
        assert_eq!(tables.capacity(), 256);
        tables.extend(0, &[1; 100]).unwrap();
        let error = tables.extend(1, &[2]).unwrap_err().to_string();
        assert!(
            error.contains("128 tokens") && error.contains("--slots"),
            "{error}"
        );
        assert!(tables.tokens(1).is_empty());
        tables.truncate(0, 64);
        tables.extend(1, &[2]).unwrap();
        assert_eq!(tables.most_used(), 2);
    }

    proptest! {
        #[test]
        fn no_page_is_ever_held_twice(steps in prop::collection::vec((0usize..4, 0usize..200), 1..60)) {
            let mut tables = PageTables::new(4, 512, 20);
            for (slot, count) in steps {
                if tables.tokens(slot).len() + count > 512 || count % 5 == 0 {
                    tables.truncate(slot, count.min(tables.tokens(slot).len()));
                } else {
                    let before = tables.tokens(slot).len();
                    if tables.extend(slot, &vec![7; count]).is_err() {
                        prop_assert_eq!(tables.tokens(slot).len(), before);
                    }
                }
                let mut held: Vec<u32> = (0..4).flat_map(|s| tables.pages_of(s).to_vec()).collect();
                held.extend(&tables.free);
                held.sort_unstable();
                prop_assert_eq!(held, (0..20).collect::<Vec<u32>>());
                for slot in 0..4 {
                    let pages = tables.pages_of(slot);
                    prop_assert_eq!(pages.len(), tables.tokens(slot).len().div_ceil(PAGE));
                    for (i, page) in pages.iter().enumerate() {
                        prop_assert_eq!(tables.table()[slot * tables.table_len() + i], *page as i32);
                    }
                }
            }
        }
    }
}
