//! `len-token`: a token of its own after the prompt, whose embedding is learned and whose last
//! state a head reads the length from, by default as a regression on its logarithm; without an
//! adapter (rank 0) nothing else of the model changes. Training and predicting are those of
//! [`super::lora_head`].

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::model::Checkpoint;
use crate::train::length_head::HeadLoss;

/// What the head learns unless the settings say otherwise.
pub const LOSS: HeadLoss = HeadLoss::LogRegression;

/// Makes the learned embedding the last token of the model's vocabulary.
///
/// # Errors
/// An embedding of another width.
pub(super) fn append(checkpoint: &mut Checkpoint, embedding: &[f32]) -> Result<()> {
    let row = Tensor::from_slice(embedding, (1, embedding.len()), &Device::Cpu)?;
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        if checkpoint.has(name) {
            // Where the head is a matrix of its own, it never says the token.
            let row = match name {
                "lm_head.weight" => row.zeros_like()?,
                _ => row.clone(),
            };
            let longer = Tensor::cat(&[checkpoint.tensor(name)?, row], 0)?;
            checkpoint.replace(name, longer);
        }
    }
    checkpoint.config.vocab_size += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn the_token_is_the_last_of_the_vocabulary() {
        for tied in [true, false] {
            let config = ModelConfig {
                tie_word_embeddings: tied,
                ..ModelConfig::tiny()
            };
            let mut checkpoint = Checkpoint::random(&config, 1);
            append(&mut checkpoint, &[0.5; 48]).unwrap();
            let table = checkpoint.f32_values("model.embed_tokens.weight").unwrap();
            assert_eq!(checkpoint.config.vocab_size, 65);
            assert_eq!(table[64 * 48..], [0.5; 48]);
            crate::model::llama::Llama::new(&checkpoint, crate::kernel::Team::new(1)).unwrap();
            assert!(append(&mut checkpoint, &[0.5; 47]).is_err());
        }
    }
}
