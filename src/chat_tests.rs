use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::engine::sampling::Draw;
use crate::engine::{Batching, Engine, Request, Response};
use crate::model::llama::Chunk;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-vicuna")
}

/// The model as published, or with other rotary settings.
fn tiny_vicuna(rope_scaling: &Value) -> (ChatModel, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("vicuna-7b-v1.5");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(fixture()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let path = model.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["rope_scaling"] = rope_scaling.clone();
    std::fs::write(&path, config.to_string()).unwrap();
    let files = ModelFiles::local(&model).unwrap();
    (ChatModel::load(&files, Team::new(2)).unwrap(), dir)
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Values of `tests/peers/tiny_vicuna.py`.
#[test]
fn vicuna_as_it_is_published_computes_what_transformers_computes() {
    let golden = std::fs::read_to_string(fixture().join("golden.jsonl")).unwrap();
    let rows: Vec<Value> = golden
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 8);
    for row in rows {
        let (chat, _dir) = tiny_vicuna(&row["rope_scaling"]);
        assert_eq!(chat.config().eos_token_ids, [2]);
        assert_eq!(chat.config().max_position_embeddings, 4096);
        let instruction = row["instruction"].as_str().unwrap();
        let rendered = chat.rendered(instruction).unwrap();
        assert_eq!(rendered, format!("<s>{}", row["prompt"].as_str().unwrap()));
        let prompt = chat.prompt(instruction).unwrap();
        assert_eq!(prompt, ids(&row["ids"]));
        let mut decoder = chat.model().decoder(1, prompt.len()).unwrap();
        let chunk = Chunk {
            slot: 0,
            tokens: &prompt,
            logits: true,
        };
        decoder.step(&[chunk], &[Draw::GREEDY], None).unwrap();
        let logits = decoder.last_logits(1).unwrap();
        let expected: Vec<f32> = serde_json::from_value(row["logits"].clone()).unwrap();
        for (found, expected) in logits.iter().step_by(8).zip(expected) {
            assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
        }
        let mut engine = Engine::new(chat.model().as_ref(), 1, prompt.len() + 8)
            .unwrap()
            .obey_end_tokens(false);
        let mut request = Some(Request {
            id: 0,
            prompt: prompt.into(),
            max_new_tokens: 8,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        });
        let mut responses: Vec<Response> = Vec::new();
        engine
            .generate(&mut || request.take(), Batching::Static, &mut responses)
            .unwrap();
        assert_eq!(responses[0].tokens, ids(&row["greedy"]));
    }
}
