use std::collections::HashMap;
use std::path::Path;

use super::*;
use serde_json::json;

/// Writes an encoder of random weights into `dir`: words of one letter, one block.
pub(crate) fn write_tiny(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let (words, hidden, inner, positions) = (29, 8, 16, 12);
    let config = json!({"model_type": "bert", "vocab_size": words, "hidden_size": hidden,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": inner,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": positions,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "pad_token_id": 0});
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();

    let mut vocabulary = serde_json::Map::new();
    for (id, word) in ["[UNK]", "[CLS]", "[SEP]"].into_iter().enumerate() {
        vocabulary.insert(word.into(), id.into());
    }
    for letter in 'a'..='z' {
        vocabulary.insert(letter.to_string(), vocabulary.len().into());
    }
    let special = |id: u32, word: &str| {
        json!({"id": id, "content": word, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let piece = |word: &str| json!({"SpecialToken": {"id": word, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let described = |id: u32, word: &str| json!({"id": word, "ids": [id], "tokens": [word]});
    let tokenizer = json!({
        "version": "1.0",
        // As the real one: a fixed padding that must not be used.
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0,
            "direction": "Right"},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(1, "[CLS]"), special(2, "[SEP]")],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [piece("[CLS]"), text, piece("[SEP]")],
            "pair": [piece("[CLS]"), text, piece("[SEP]")],
            "special_tokens": {"[CLS]": described(1, "[CLS]"), "[SEP]": described(2, "[SEP]")}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();

    let mut state = 1u32;
    let mut tensors = HashMap::new();
    let mut put = |name: &str, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.insert(name.to_string(), tensor);
    };
    put("embeddings.word_embeddings.weight", &[words, hidden]);
    put(
        "embeddings.position_embeddings.weight",
        &[positions, hidden],
    );
    put("embeddings.token_type_embeddings.weight", &[2, hidden]);
    let block = "encoder.layer.0";
    for (name, to, from) in [
        ("attention.self.query", hidden, hidden),
        ("attention.self.key", hidden, hidden),
        ("attention.self.value", hidden, hidden),
        ("attention.output.dense", hidden, hidden),
        ("intermediate.dense", inner, hidden),
        ("output.dense", hidden, inner),
    ] {
        put(&format!("{block}.{name}.weight"), &[to, from]);
        put(&format!("{block}.{name}.bias"), &[to]);
    }
    for norm in [
        "embeddings.LayerNorm".to_string(),
        format!("{block}.attention.output.LayerNorm"),
        format!("{block}.output.LayerNorm"),
    ] {
        put(&format!("{norm}.weight"), &[hidden]);
        put(&format!("{norm}.bias"), &[hidden]);
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

pub(crate) fn load(dir: &Path) -> Result<SentenceEncoder> {
    SentenceEncoder::load(&ModelFiles::local(dir)?)
}

#[test]
fn a_texts_vector_has_length_one_and_does_not_depend_on_the_others() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny(dir.path());
    let encoder = load(dir.path()).unwrap();
    let long = "a b c d e f g h i j k l m n o p";
    let texts = ["a b c", "x", "c b a", long, "a b c", ""];
    let mut seen = 0;
    let together = encoder.embed(&texts, |done| seen = done).unwrap();
    assert_eq!(seen, texts.len());
    let vectors: Vec<&[f32]> = together.chunks(encoder.hidden_size()).collect();
    assert_eq!(vectors.len(), texts.len());
    for (text, vector) in texts.iter().zip(&vectors) {
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
        let alone = encoder.embed(&[text], |_| ()).unwrap();
        for (one, other) in alone.iter().zip(*vector) {
            assert!((one - other).abs() < 1e-5, "{text}");
        }
    }
    assert_eq!(vectors[0], vectors[4]);
    assert_ne!(vectors[0], vectors[2]);
    // What does not fit is cut off, and the cut is at the model's own limit.
    let cut = encoder.embed(&["a b c d e f g h i j", "a b c d e f g h i"], |_| ());
    let cut = cut.unwrap();
    let (same, shorter) = cut.split_at(encoder.hidden_size());
    let distance =
        |v: &[f32]| -> f32 { v.iter().zip(vectors[3]).map(|(a, b)| (a - b).abs()).sum() };
    assert!(distance(same) < 1e-4 && distance(shorter) > 1e-3);
}

#[test]
fn directories_that_are_no_encoder_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |part: &str| {
        let error = load(dir.path()).err().expect(part).to_string();
        assert!(error.contains(part), "`{part}` is not in: {error}");
    };
    let fresh = || write_tiny(dir.path());
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    fresh();
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    write(
        "config.json",
        config.replace("\"bert\"", "\"llama\"").as_bytes(),
    );
    refused("no sentence encoder");
    write(
        "config.json",
        config
            .replace("\"num_attention_heads\":2", "\"num_attention_heads\":0")
            .as_bytes(),
    );
    refused("sizes that make no sense");
    write(
        "config.json",
        config
            .replace("\"hidden_size\":8", "\"hidden_size\":6")
            .as_bytes(),
    );
    refused("lacks weights");
    write("config.json", b"{\"model_type\": \"bert\"}");
    refused("is not of an encoder");
    fresh();
    write("tokenizer.json", b"{}");
    refused("is no tokenizer");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    refused("tokenizer.json");
    fresh();
    let weights = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    write("model.safetensors", &weights[..weights.len() / 2]);
    refused("is damaged");
}

#[test]
fn weights_that_are_no_numbers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny(dir.path());
    let path = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let bias = Tensor::new(&[f32::NAN; 8], &Device::Cpu).unwrap();
    tensors.insert("encoder.layer.0.output.dense.bias".into(), bias);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let error = load(dir.path()).unwrap().embed(&["a"], |_| ()).unwrap_err();
    assert!(error.to_string().contains("no number"), "{error}");
}
