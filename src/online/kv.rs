//! Paged keys and values: how many blocks are free, and how many steps they last.
//!
//! A row of context c (prompt and generated tokens) holds ceil(c / block) blocks and takes
//! another one at the step at which its context is a multiple of the block. All rows move on
//! by one token a step, so rows are counted by the step (modulo the block) at which they take
//! their next block, and what many steps need follows without looking at a row.

/// The blocks of an engine.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    size: u64,
    total: u64,
    free: u64,
    /// Growing rows by (context - step) modulo the size.
    phases: Vec<u64>,
    growing: u64,
}

impl Blocks {
    pub fn new(total: u64, size: u64) -> Blocks {
        let size = size.max(1);
        Blocks {
            size,
            total,
            free: total,
            phases: vec![0; size as usize],
            growing: 0,
        }
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn free(&self) -> u64 {
        self.free
    }

    pub fn used(&self) -> u64 {
        self.total - self.free
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Blocks of so many tokens.
    pub fn of(&self, tokens: u64) -> u64 {
        tokens.div_ceil(self.size)
    }

    pub fn take(&mut self, blocks: u64) {
        self.free -= blocks;
    }

    pub fn give(&mut self, blocks: u64) {
        self.free += blocks;
    }

    fn phase(&self, context: u64, step: u64) -> usize {
        ((context + self.size - step % self.size) % self.size) as usize
    }

    /// A row of this context at this step takes blocks from now on.
    pub fn grow(&mut self, context: u64, step: u64) {
        let phase = self.phase(context, step);
        self.phases[phase] += 1;
        self.growing += 1;
    }

    /// A row that grew does no longer; `context` is what it has at `step`.
    pub fn stop(&mut self, context: u64, step: u64) {
        let phase = self.phase(context, step);
        self.phases[phase] -= 1;
        self.growing -= 1;
    }

    /// Rows that take a block at the step after `step`.
    fn due(&self, step: u64) -> u64 {
        self.phases[self.phase(0, step)]
    }

    /// Blocks that `count` steps from `step` on take.
    pub fn needed(&self, step: u64, count: u64) -> u64 {
        let rest = (0..count % self.size).map(|ahead| self.due(step + ahead));
        count / self.size * self.growing + rest.sum::<u64>()
    }

    /// Steps from `step` on that the free blocks last, at most `most`.
    pub fn lasts(&self, step: u64, most: u64) -> u64 {
        if self.growing == 0 {
            return most;
        }
        let rounds = (self.free / self.growing).min(most / self.size);
        let mut left = self.free - rounds * self.growing;
        let mut steps = rounds * self.size;
        while steps < most {
            let due = self.due(step + steps);
            if due > left {
                break;
            }
            left -= due;
            steps += 1;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_steps_need_is_what_rows_take_one_by_one(
            size in 1u64..20,
            contexts in prop::collection::vec(0u64..100, 0..12),
            start in 0u64..50,
            count in 0u64..70,
            free in 0u64..60,
        ) {
            let held: u64 = contexts.iter().map(|c| c.div_ceil(size)).sum();
            let mut blocks = Blocks::new(held + free, size);
            blocks.take(held);
            for context in &contexts {
                blocks.grow(*context, start);
            }
            let after = |steps: u64| -> u64 {
                contexts.iter().map(|c| (c + steps).div_ceil(size)).sum::<u64>() - held
            };
            prop_assert_eq!(blocks.needed(start, count), after(count));
            let lasts = blocks.lasts(start, count);
            prop_assert!(after(lasts) <= free);
            prop_assert!(lasts == count || after(lasts + 1) > free);
            for context in &contexts {
                blocks.stop(context + count, start + count);
            }
            prop_assert_eq!(blocks.growing, 0);
        }
    }
}
