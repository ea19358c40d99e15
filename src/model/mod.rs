//! Llama-family models: where they come from, their files, and the forward pass.

mod built_in_templates;
pub mod capture;
pub mod chat;
pub mod chat_template;
mod directory;
pub mod gguf;
mod gguf_header;
mod hf_config;
mod hub;
pub mod kv_cache;
pub mod llama;
pub mod part_times;
mod pickle;
mod pickle_machine;
pub mod precision;
pub mod random;
pub mod rope;
mod sentencepiece;
pub mod source;
pub mod tokenizer;
mod torch_file;
pub mod weights;
mod wheel;

pub use chat::ChatModel;
pub use chat_template::ChatTemplate;
pub use hub::hub_dataset;
pub use part_times::PartTimes;
pub use precision::Precision;
pub use source::{ModelFiles, WeightFiles, resolve};
pub use tokenizer::TextTokenizer;
pub use weights::{Checkpoint, ModelConfig};
