//! Dropout whose masks are a function of a key, the adapted layer, the row and the column:
//! drawn where they are needed, forward and backward, by any thread, and the same in a resumed
//! run.

use crate::kernel::lane::{Isa, Lane, instantiate};

/// Zeroes a share of the elements and scales the others by 1 / (1 - share).
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Of 2^32: how many draws drop an element.
    threshold: u32,
    keep: f32,
    key: u64,
}

impl Dropout {
    /// A share of `rate`, below 1, is dropped. Each key has masks of its own.
    pub fn new(rate: f64, key: u64) -> Dropout {
        Dropout {
            threshold: (rate.clamp(0.0, 1.0) * 4_294_967_296.0) as u32,
            keep: (1.0 / (1.0 - rate)) as f32,
            key,
        }
    }

    /// Evaluation: nothing is dropped.
    pub fn off() -> Dropout {
        Dropout::new(0.0, 0)
    }

    /// Whether anything is dropped.
    pub fn is_on(&self) -> bool {
        self.threshold > 0
    }

    /// `rows` rows of multipliers, the same for every key: 0 for what is dropped.
    pub fn pool(&self, rows: usize, width: usize) -> Vec<f32> {
        let mut pool = vec![1.0; rows * width];
        let draws = Dropout { key: 0, ..*self };
        for (row, multipliers) in pool.chunks_exact_mut(width.max(1)).enumerate() {
            draws.apply(width, row, multipliers);
        }
        pool
    }

    /// Which of `of` rows of multipliers `row` of the adapted layer `layer` gets.
    pub fn choice(&self, layer: usize, row: usize, of: usize) -> usize {
        (mix(self.key ^ mix((layer as u64) << 32 | row as u64)) % of as u64) as usize
    }

    /// Drops elements of `row` of what the adapted layer `layer` takes.
    pub fn apply(&self, layer: usize, row: usize, x: &mut [f32]) {
        if self.is_on() {
            let key = mix(self.key ^ mix((layer as u64) << 32 | row as u64)) as u32;
            // SAFETY: a slice of its own length.
            unsafe {
                drop_as(
                    Isa::detect(),
                    x.as_mut_ptr(),
                    x.len(),
                    key,
                    self.threshold,
                    self.keep,
                );
            }
        }
    }
}

instantiate! {
    unsafe fn drop_as = drop_kernel(x: *mut f32, n: usize, key: u32, threshold: u32, keep: f32)
}

/// Plain Rust that the compiler turns into the vectors of each instruction set.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn drop_kernel<L: Lane>(x: *mut f32, n: usize, key: u32, threshold: u32, keep: f32) {
    // SAFETY: the caller promises n floats.
    let x = unsafe { std::slice::from_raw_parts_mut(x, n) };
    for (i, v) in x.iter_mut().enumerate() {
        // MurmurHash3's finalizer scatters the column's number.
        let mut h = key.wrapping_add((i as u32).wrapping_mul(0x9e37_79b1));
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        h ^= h >> 16;
        *v *= if h < threshold { 0.0 } else { keep };
    }
}

/// SplitMix64's finalizer (Steele, Lea and Flood 2014): a bijection that scatters neighbouring
/// numbers.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_its_share_keeps_the_mean_and_repeats_itself() {
        let mask = |key, layer, row| {
            let mut x = vec![1.0; 10_000];
            Dropout::new(0.3, key).apply(layer, row, &mut x);
            x
        };
        let x = mask(1, 2, 3);
        let dropped = x.iter().filter(|v| **v == 0.0).count() as f64 / 1e4;
        assert!((dropped - 0.3).abs() < 0.02, "{dropped}");
        assert!(x.iter().all(|v| *v == 0.0 || *v == (1.0 / 0.7) as f32));
        assert_eq!(x, mask(1, 2, 3));
        let next = x[1..].iter().zip(&x).filter(|(a, b)| a == b).count() as f64 / 1e4;
        assert!((next - 0.58).abs() < 0.03, "{next}");
        for other in [mask(2, 2, 3), mask(1, 3, 3), mask(1, 2, 4)] {
            let same = x.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / 1e4;
            assert!((same - 0.58).abs() < 0.03, "{same}");
        }
    }

    #[test]
    fn every_instruction_set_draws_the_same_masks() {
        let mut masks = Vec::new();
        for isa in crate::kernel::lane::isas_to_test() {
            let mut x = vec![1.0; 77];
            // SAFETY: the slice has this length.
            unsafe { drop_as(isa, x.as_mut_ptr(), 77, 5, 1 << 30, 2.0) };
            masks.push(x);
        }
        assert!(masks.windows(2).all(|w| w[0] == w[1]));
    }
}
