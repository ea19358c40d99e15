//! A Llama of random weights with a byte-level tokenizer, written as a model's directory: for
//! tests of what happens around a model.

use std::path::Path;

use lenaware::model::{Checkpoint, ModelConfig};
use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Bytes, and three special tokens before them.
const VOCABULARY: usize = 3 + 256;

/// Writes the model into `dir`. `blocks` decides how slow it is.
pub fn write(dir: &Path, blocks: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let config = ModelConfig {
        vocab_size: VOCABULARY,
        num_hidden_layers: blocks,
        max_position_embeddings: 512,
        ..ModelConfig::tiny()
    };
    let checkpoint = Checkpoint::random(&config, 11);
    candle_core::safetensors::save(
        &checkpoint.tensors().unwrap(),
        dir.join("model.safetensors"),
    )
    .unwrap();
    let described = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    });
    std::fs::write(dir.join("config.json"), described.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
}

fn tokenizer() -> Value {
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let words = bytes.into_iter().map(String::from);
    let vocabulary: Map<String, Value> = specials
        .map(String::from)
        .into_iter()
        .chain(words)
        .enumerate()
        .map(|(id, word)| (word, id.into()))
        .collect();
    assert_eq!(vocabulary.len(), VOCABULARY);
    let added = |(id, word): (usize, &&str)| {
        json!({"id": id, "content": word, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": specials.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    })
}
