//! Dropout whose masks are a function of a key, the adapted layer and the row: drawn where they
//! are needed, forward and backward, by any thread, and the same in a resumed run.

/// Zeroes a share of the elements and scales the others by 1 / (1 - share).
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Of 2^16: how many draws drop an element.
    threshold: u64,
    keep: f32,
    key: u64,
}

impl Dropout {
    /// A share of `rate` is dropped; rates are exact to 1 / 65,536. Each key has masks of its
    /// own.
    pub fn new(rate: f64, key: u64) -> Dropout {
        Dropout {
            threshold: (rate.clamp(0.0, 1.0) * 65_536.0) as u64,
            keep: (1.0 / (1.0 - rate)) as f32,
            key,
        }
    }

    /// Evaluation: nothing is dropped.
    pub fn off() -> Dropout {
        Dropout::new(0.0, 0)
    }

    pub fn is_on(&self) -> bool {
        self.threshold > 0
    }

    /// Drops elements of `row` of what the adapted layer `layer` takes.
    pub fn apply(&self, layer: usize, row: usize, x: &mut [f32]) {
        if !self.is_on() {
            return;
        }
        let mut state = mix(self.key ^ mix((layer as u64) << 32 | row as u64));
        for four in x.chunks_mut(4) {
            // SplitMix64 (Steele, Lea and Flood 2014): 64 bits decide four elements.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = mix(state);
            for v in four {
                *v *= if bits & 0xffff < self.threshold {
                    0.0
                } else {
                    self.keep
                };
                bits >>= 16;
            }
        }
    }
}

/// SplitMix64's finalizer: a bijection that scatters neighbouring numbers.
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
        for other in [mask(2, 2, 3), mask(1, 3, 3), mask(1, 2, 4)] {
            let same = x.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / 1e4;
            assert!((same - 0.58).abs() < 0.03, "{same}");
        }
    }
}
