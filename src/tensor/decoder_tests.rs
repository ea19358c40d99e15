use super::*;
use crate::engine::{Batching, Engine, Request, Response};
use crate::model::capture::StatesOf;
use crate::model::llama::Llama;

fn both() -> [Arc<dyn Model>; 2] {
    let config = ModelConfig {
        num_attention_heads: 4,
        num_key_value_heads: 2,
        tie_word_embeddings: false,
        ..ModelConfig::tiny()
    };
    let checkpoint = Checkpoint::random(&config, 7);
    let team = Team::new(2);
    let device = (Device::Cpu, "the library");
    [
        Arc::new(Llama::new(&checkpoint, team.clone()).unwrap()),
        Arc::new(TensorLlama::new(&checkpoint, DType::F32, device, team).unwrap()),
    ]
}

fn answers(model: &dyn Model, slots: usize, batching: Batching) -> Vec<Response> {
    let mut engine = Engine::new(model, slots, 96).unwrap();
    let mut queue = (0..13).map(|id| Request {
        id,
        // Some begin alike, and are longer than others.
        prompt: (0..3 + id * 5 % 17)
            .map(|i| 3 + ((i * i + id / 3) % 60) as u32)
            .collect::<Vec<u32>>()
            .into(),
        max_new_tokens: 4 + id * 7 % 30,
        temperature: [0.0, 0.7][id % 2],
        top_p: 1.0,
        seed: id as u64,
    });
    let mut responses = Vec::new();
    engine
        .generate(&mut || queue.next(), batching, &mut responses)
        .unwrap();
    responses.sort_by_key(|r: &Response| r.id);
    responses
}

#[test]
fn it_answers_as_the_kernels_do_in_every_kind_of_batch() {
    let [kernels, library] = both();
    let expected = answers(kernels.as_ref(), 1, Batching::Static);
    for batching in [Batching::Static, Batching::Compacting, Batching::Continuous] {
        for slots in [1, 4, 20] {
            assert_eq!(answers(library.as_ref(), slots, batching), expected);
        }
    }
}

#[test]
fn states_are_taken_out_on_the_way() {
    let prompts: [Vec<u32>; 2] = [(3..20).collect(), vec![9, 4]];
    let states = both().map(|model| {
        let mut decoder = model.keeping_decoder(2, 32).unwrap();
        decoder
            .step(
                &[Chunk {
                    slot: 0,
                    tokens: &prompts[0][..5],
                    logits: false,
                }],
                &[],
                None,
            )
            .unwrap();
        decoder.copy_prefix(0, 1, 0).unwrap();
        let chunks = [&prompts[0][5..], &prompts[1][..]].map(|tokens| tokens);
        let chunks = [0, 1].map(|slot| Chunk {
            slot,
            tokens: chunks[slot],
            logits: false,
        });
        let mut capture = Capture {
            of: StatesOf {
                last: vec![0, 2],
                mean: vec![1],
            },
            mean_from: vec![2, 0],
            stops_early: true,
            states: Vec::new(),
        };
        decoder.step(&chunks, &[], Some(&mut capture)).unwrap();
        assert_eq!(decoder.tokens(1), prompts[1]);
        capture.states
    });
    assert_eq!(states[0].len(), 2 * 3 * 48);
    for (a, b) in states[0].iter().zip(&states[1]) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn keys_and_values_without_room_are_refused() {
    let [_, library] = both();
    let refused = library.decoder(1 << 30, 1 << 20).err().unwrap().to_string();
    assert!(refused.contains("--slots"), "{refused}");
}
