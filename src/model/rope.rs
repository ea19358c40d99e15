//! Rotary position tables, with Llama 3's frequency scaling where the model asks for it.

use candle_transformers::models::llama::Llama3RopeType;

use super::weights::ModelConfig;

/// Cosines and sines for every position a model knows, `head_dim / 2` each.
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Angles as Hugging Face computes them: position (f32) times an f32 inverse frequency.
    pub fn new(config: &ModelConfig) -> RopeTable {
        let half = config.head_dim / 2;
        let frequencies = inverse_frequencies(config);
        let positions = config.max_position_embeddings;
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for f in &frequencies {
                let angle = f64::from(position as f32 * f);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        RopeTable { half, cos, sin }
    }

    /// (cos, sin) of one position.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// `theta^(-2i/d)`, scaled for long contexts where the configuration says `llama3`.
pub fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
    let d = config.head_dim;
    let plain = (0..d)
        .step_by(2)
        .map(|i| 1.0 / config.rope_theta.powf(i as f32 / d as f32));
    let Some(scaling) = config
        .rope_scaling
        .as_ref()
        .filter(|s| matches!(s.rope_type, Llama3RopeType::Llama3))
    else {
        return plain.collect();
    };
    let original = scaling.original_max_position_embeddings as f32;
    let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
    plain
        .map(|f| {
            let wavelength = 2.0 * std::f32::consts::PI / f;
            if wavelength < original / high {
                f
            } else if wavelength > original / low {
                f / scaling.factor
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * f / scaling.factor + smooth * f
            }
        })
        .collect()
}
