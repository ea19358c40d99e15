//! Llama-family models: where they come from, their files, and the forward pass.

pub mod chat;
pub mod chat_template;
pub mod gguf;
mod gguf_header;
mod hub;
pub mod kv_cache;
pub mod llama;
pub mod random;
pub mod rope;
pub mod source;
pub mod tokenizer;
pub mod weights;
mod wheel;

pub use chat::ChatModel;
pub use chat_template::ChatTemplate;
pub use hub::hub_dataset;
pub use source::{ModelFiles, WeightFiles, resolve};
pub use tokenizer::TextTokenizer;
pub use weights::{Checkpoint, ModelConfig};
