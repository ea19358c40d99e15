//! Llama-family models: where they come from, their files, and the forward pass.

pub mod kv_cache;
pub mod llama;
pub mod random;
pub mod rope;
pub mod weights;

pub use weights::{Checkpoint, ModelConfig};
