use std::ops::ControlFlow;
use std::sync::Arc;

use super::*;
use crate::kernel::Team;
use crate::model::llama::{Llama, Workspace};
use crate::model::{Checkpoint, ModelConfig, Precision};

fn tiny(threads: usize) -> Llama {
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 7);
    Llama::new(&checkpoint, Team::new(threads)).unwrap()
}

/// The ways a model may be computed and kept: f32, f32 from weights that are exact in bf16,
/// bf16 with a cache in f16.
fn every_form(threads: usize) -> Vec<Llama> {
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 7);
    let mut rounded = checkpoint.clone();
    let narrow = |matrix: &candle_core::Tensor| {
        let narrow = matrix.to_dtype(candle_core::DType::BF16)?;
        Ok(narrow.to_dtype(candle_core::DType::F32)?)
    };
    rounded.map_matrices(narrow).unwrap();
    let team = Team::new(threads);
    [
        (&checkpoint, Precision::F32),
        (&rounded, Precision::F32),
        (&checkpoint, Precision::BF16),
    ]
    .map(|(weights, precision)| Llama::with_precision(weights, precision, team.clone()).unwrap())
    .into()
}

fn requests(count: usize) -> Vec<Request> {
    (0..count)
        .map(|id| Request {
            id,
            prompt: (0..3 + id * 5 % 17)
                .map(|i| 3 + ((i * i + id / 3) % 60) as u32)
                .collect::<Vec<u32>>()
                .into(),
            max_new_tokens: 4 + id * 7 % 40,
            temperature: [0.0, 0.7, 1.3][id % 3],
            top_p: 1.0,
            seed: id as u64 * 31,
        })
        .collect()
}

fn run(model: &Llama, slots: usize, batching: Batching, share: bool) -> (Vec<Response>, RunStats) {
    let mut engine = Engine::new(model, slots, 96).unwrap().share_prefixes(share);
    let mut queue = requests(23).into_iter();
    let mut responses = Vec::new();
    let stats = engine
        .generate(&mut || queue.next(), batching, &mut responses)
        .unwrap();
    responses.sort_by_key(|r| r.id);
    (responses, stats)
}

#[test]
fn answers_do_not_depend_on_batching_slots_threads_or_shared_prefixes() {
    let alone: Vec<Vec<Response>> = every_form(1)
        .iter()
        .map(|model| run(model, 1, Batching::Static, false).0)
        .collect();
    for answers in &alone {
        let ended = |reason| answers.iter().any(|r| r.finish_reason == reason);
        assert!(answers.len() == 23 && ended(FinishReason::Stop) && ended(FinishReason::Length));
    }
    // Otherwise the forms would not be told apart here.
    assert!(alone[0] != alone[1] && alone[0] != alone[2]);
    for threads in [1, 2, 3] {
        for (model, alone) in every_form(threads).iter().zip(&alone) {
            for slots in [1, 2, 5, 23, 40] {
                for batching in [Batching::Static, Batching::Compacting, Batching::Continuous] {
                    for share in [false, true] {
                        assert_eq!(&run(model, slots, batching, share).0, alone);
                    }
                }
            }
        }
    }
}

#[test]
fn bf16_logits_are_near_those_of_f32() {
    let forms = every_form(2);
    let prompt: Vec<u32> = (0..20).map(|i| 3 + i * 7 % 60).collect();
    let logits: Vec<Vec<f32>> = forms
        .iter()
        .map(|model| {
            let chunk = Chunk {
                slot: 0,
                tokens: &prompt,
                logits: true,
            };
            let mut cache = model.new_cache(1, 32).unwrap();
            model
                .forward(&[chunk], &mut cache, &mut Workspace::default(), None)
                .unwrap()
                .to_vec()
        })
        .collect();
    let size = logits[0].iter().fold(0f32, |a, b| a.max(b.abs()));
    for (a, b) in logits[0].iter().zip(&logits[2]) {
        assert!((a - b).abs() < 0.03 * size, "{a} {b} {size}");
    }
}

#[test]
fn logits_of_a_row_are_bitwise_the_same_alone_and_among_others() {
    every_form(2).iter().for_each(row_alone_and_among_others);
}

fn row_alone_and_among_others(model: &Llama) {
    let prompts: Vec<Vec<u32>> = requests(9).iter().map(|r| r.prompt.to_vec()).collect();
    let mut workspace = Workspace::default();
    let mut cache = model.new_cache(12, 64).unwrap();
    let chunks: Vec<Chunk<'_>> = prompts
        .iter()
        .enumerate()
        .map(|(i, p)| Chunk {
            slot: 11 - i,
            tokens: p,
            logits: true,
        })
        .collect();
    let together = model
        .forward(&chunks, &mut cache, &mut workspace, None)
        .unwrap()
        .to_vec();
    for (row, prompt) in together.chunks_exact(64).zip(&prompts) {
        let mut cache = model.new_cache(1, 64).unwrap();
        let mut last = Vec::new();
        // A token at a time, the other extreme of ragged batches.
        for i in 0..prompt.len() {
            let chunk = Chunk {
                slot: 0,
                tokens: &prompt[i..=i],
                logits: true,
            };
            last = model
                .forward(&[chunk], &mut cache, &mut workspace, None)
                .unwrap()
                .to_vec();
        }
        assert_eq!(last, row);
    }
}

#[test]
fn static_batches_compute_their_finished_rows_and_compacting_ones_do_not() {
    let model = tiny(2);
    let (responses, fixed) = run(&model, 8, Batching::Static, true);
    let (_, compacting) = run(&model, 8, Batching::Compacting, true);
    let useful: usize = responses.iter().map(|r| r.tokens.len()).sum();
    let padded: usize = responses
        .chunks(8)
        .map(|batch| batch.len() * batch.iter().map(|r| r.tokens.len()).max().unwrap())
        .sum();
    assert_eq!(fixed.computed_tokens, padded);
    assert_eq!(compacting.computed_tokens, useful);
    assert_eq!(compacting.steps, fixed.steps);
    assert_eq!(fixed.generated_tokens, useful);
}

#[test]
fn samples_of_one_prompt_share_its_prefill() {
    let model = tiny(1);
    let prompt: Arc<[u32]> = (0..30).map(|i| 3 + i % 50).collect::<Vec<u32>>().into();
    let mut engine = Engine::new(&model, 4, 64).unwrap();
    let mut queue = (0..8).map(|id| Request {
        id,
        prompt: prompt.clone(),
        max_new_tokens: 5,
        temperature: 1.0,
        top_p: 1.0,
        seed: id as u64,
    });
    let stats = engine
        .generate(&mut || queue.next(), Batching::Static, &mut Vec::new())
        .unwrap();
    assert_eq!(stats.prefill_tokens, 30 + 7);
}

#[test]
fn impossible_requests_are_refused_and_a_stop_is_obeyed() {
    let model = tiny(1);
    let mut engine = Engine::new(&model, 2, 32).unwrap();
    for (prompt, max_new_tokens) in [(vec![5; 30], 3), (vec![], 3), (vec![5], 0), (vec![64], 3)] {
        let mut queue = Some(Request {
            id: 0,
            prompt: prompt.into(),
            max_new_tokens,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        });
        let outcome = engine.generate(&mut || queue.take(), Batching::Static, &mut Vec::new());
        assert!(outcome.is_err());
    }
    struct StopAtOnce(usize);
    impl Observer for StopAtOnce {
        fn finished(&mut self, _: Response) -> Result<()> {
            Ok(())
        }
        fn stepped(&mut self, _: &RunStats) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Break(())
        }
    }
    let mut observer = StopAtOnce(0);
    let mut queue = requests(1).into_iter();
    engine
        .generate(&mut || queue.next(), Batching::Static, &mut observer)
        .unwrap();
    assert_eq!(observer.0, 1);
}

#[test]
fn what_stops_and_goes_on_in_other_batches_answers_the_same() {
    use super::session::{Progress, Session};

    for model in &every_form(2) {
        let alone = run(model, 1, Batching::Static, false).0;
        for batching in [Batching::Static, Batching::Compacting] {
            let engine = Engine::new(model, 23, 96).unwrap().share_prefixes(false);
            let mut session = Session::new(engine);
            let mut go_on = || ControlFlow::Continue(());
            let mut waiting: Vec<usize> = (0..23).collect();
            let mut answers = Vec::new();
            let mut computed = 0;
            while !waiting.is_empty() {
                // Old and new ones together, with other neighbours each time.
                let batch: Vec<usize> = waiting.drain(..waiting.len().min(6)).collect();
                let (kept, new): (Vec<usize>, Vec<usize>) =
                    batch.iter().partition(|id| session.keeps(**id));
                let all = requests(23);
                let new = new.iter().map(|id| all[*id].clone()).collect();
                let most = 1 + computed % 5;
                let (progress, stats) = session
                    .advance(new, &kept, most, batching, true, &mut go_on)
                    .unwrap();
                computed += stats.computed_tokens;
                assert_eq!(progress.len(), batch.len());
                for one in progress {
                    match one {
                        Progress::Ended(response) => answers.push(response),
                        Progress::Stopped { id, tokens } => {
                            assert_eq!(session.tokens(id), tokens);
                            waiting.push(id);
                        }
                    }
                }
                let turn = computed % waiting.len().max(1);
                waiting.rotate_left(turn);
            }
            answers.sort_by_key(|r| r.id);
            assert_eq!(answers, alone);
        }
    }
    let model = tiny(1);
    let mut session = Session::new(Engine::new(&model, 2, 96).unwrap());
    let mut go_on = || ControlFlow::Continue(());
    let mut advance = |new, kept: &[usize]| {
        let done = session.advance(new, kept, 3, Batching::Static, true, &mut go_on);
        done.unwrap_err().to_string()
    };
    assert!(advance(requests(3), &[]).contains("slots are free"));
    assert!(advance(Vec::new(), &[1]).contains("not kept"));
}
