//! Llama-family models: where they come from, their files, and the forward pass; and the
//! sentence encoders that stand in for them.

mod built_in_templates;
pub mod capture;
pub mod chat_template;
mod directory;
pub mod gguf;
mod gguf_header;
mod git_blob;
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
mod sentence_encoder;
mod sentencepiece;
pub mod source;
pub mod tokenizer;
mod tokenizer_file;
mod torch_file;
pub mod weights;
mod wheel;

pub use chat_template::ChatTemplate;
pub use hub::hub_dataset;
pub use part_times::PartTimes;
pub use precision::Precision;
pub use sentence_encoder::SentenceEncoder;
#[cfg(test)]
pub(crate) use sentence_encoder::tests::write_tiny as tiny_sentence_encoder;
pub use source::{MINILM, ModelFiles, WeightFiles, resolve, resolve_encoder};
pub use tokenizer::TextTokenizer;
pub use weights::{Checkpoint, ModelConfig};
