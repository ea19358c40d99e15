//! Dropout from our own seeded generator: candle's cannot be seeded on the CPU.

use candle_core::{Device, Tensor};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Zeroes a share `rate` of the elements and scales the others by 1 / (1 - rate). With rate 0
/// (evaluation) it changes nothing.
pub struct Dropout {
    rate: f64,
    rng: ChaCha8Rng,
}

impl Dropout {
    /// The mask stream is a function of `seed` and `step` alone, so a resumed run draws the
    /// same masks.
    pub fn new(rate: f64, seed: u64, step: u64) -> Dropout {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step);
        Dropout { rate, rng }
    }

    /// Evaluation: nothing is dropped.
    pub fn off() -> Dropout {
        Dropout::new(0.0, 0, 0)
    }

    pub fn apply(&mut self, x: &Tensor) -> candle_core::Result<Tensor> {
        if self.rate <= 0.0 {
            return Ok(x.clone());
        }
        // 16 random bits decide an element: rates are exact to 1 / 65,536.
        let threshold = (self.rate * 65_536.0) as u16;
        let keep = (1.0 / (1.0 - self.rate)) as f32;
        let mut bytes = vec![0u8; x.elem_count() * 2];
        self.rng.fill_bytes(&mut bytes);
        let mask: Vec<f32> = bytes
            .chunks_exact(2)
            .map(|b| {
                if u16::from_le_bytes([b[0], b[1]]) < threshold {
                    0.0
                } else {
                    keep
                }
            })
            .collect();
        x * Tensor::from_vec(mask, x.shape(), &Device::Cpu)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_its_share_and_keeps_the_mean() {
        let x = Tensor::ones((100, 100), candle_core::DType::F32, &Device::Cpu).unwrap();
        let y = Dropout::new(0.3, 1, 2).apply(&x).unwrap();
        let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
        let dropped = y.iter().filter(|v| **v == 0.0).count() as f64 / 1e4;
        assert!((dropped - 0.3).abs() < 0.02, "{dropped}");
        let again = Dropout::new(0.3, 1, 2).apply(&x).unwrap();
        assert_eq!(y, again.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
}
