use super::*;
use crate::execute::{ReplayExecutor, StepTimeModel, run_arm};
use crate::kernel::Team;
use crate::model::llama::Llama;
use crate::model::{Checkpoint, ModelConfig};
use crate::schedule::{Fcr, Forecast, ScheduleOptions, Scheduling};

fn options(scheduling: Scheduling, fcr: Fcr, batching: Batching) -> ScheduleOptions {
    ScheduleOptions {
        group_size: 12,
        batch_size: 4,
        max_new_tokens: 24,
        scheduling,
        fcr,
        batching,
        stage_steps: 3,
        ..ScheduleOptions::default()
    }
}

#[test]
fn every_arm_serves_the_same_answers_and_replay_counts_the_same_tokens() {
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 7);
    let model = Llama::new(&checkpoint, Team::new(2)).unwrap();
    let requests: Vec<LiveRequest> = (0..30)
        .map(|id: u32| LiveRequest {
            prompt: (0..3 + id % 7)
                .map(|i| 3 + (i * 5 + id) % 60)
                .collect::<Vec<u32>>()
                .into(),
            temperature: [0.0, 0.9][id as usize % 2],
            seed: u64::from(id),
        })
        .collect();
    let go_on = || ControlFlow::Continue(());
    let order: Vec<usize> = (0..30).rev().collect();
    // Bad guesses: some requests fail their first attempt.
    let predictions: Vec<f64> = (0..30).map(|i| f64::from(i * 7 % 11 + 1)).collect();
    let predictions = Forecast::points(&predictions, 24);
    // First tokens come from prefills, as they do here.
    let step_time = StepTimeModel {
        p0: 0.001,
        ..StepTimeModel::paper()
    };
    let mut lengths: Option<Vec<usize>> = None;
    let mut hashes = Vec::new();
    for options in [
        options(Scheduling::None, Fcr::Off, Batching::Static),
        options(Scheduling::None, Fcr::Off, Batching::Compacting),
        options(Scheduling::None, Fcr::Off, Batching::Continuous),
        options(Scheduling::Sorted, Fcr::Off, Batching::Static),
        options(Scheduling::Sorted, Fcr::Recompute, Batching::Static),
        options(Scheduling::Sorted, Fcr::Resume, Batching::Static),
        options(Scheduling::Sorted, Fcr::Resume, Batching::Compacting),
        options(Scheduling::Staged, Fcr::Off, Batching::Static),
        options(Scheduling::Planned, Fcr::Off, Batching::Static),
        ScheduleOptions {
            carry: true,
            max_rows: 7,
            ..options(Scheduling::Staged, Fcr::Off, Batching::Compacting)
        },
        ScheduleOptions {
            carry: true,
            max_rows: 11,
            ..options(Scheduling::Planned, Fcr::Off, Batching::Static)
        },
    ] {
        let live = LiveExecutor::new(&model, &requests, 24, &go_on);
        let mut live = match options.keeps() {
            true => live.keeping(order.len()),
            false => live,
        };
        let run = run_arm(&mut live, "a", 1, &order, &predictions, &options, 0.0).unwrap();
        hashes.push(live.outputs_sha256());
        let lengths =
            lengths.get_or_insert_with(|| live.outputs().values().map(Vec::len).collect());
        assert!(
            options.fcr == Fcr::Off && !options.keeps() || run.requests.iter().any(|r| r.failed)
        );
        let prompts: Vec<usize> = requests.iter().map(|r| r.prompt.len()).collect();
        let mut replay = ReplayExecutor::new(lengths, &prompts, 24, step_time.clone());
        let simulated = run_arm(&mut replay, "a", 1, &order, &predictions, &options, 0.0).unwrap();
        let counts = |run: &crate::evaluate::summary::ArmRun| {
            run.batches
                .iter()
                .map(|b| {
                    (
                        b.rows,
                        b.cap,
                        b.computed_tokens,
                        b.useful_tokens,
                        b.failed_tokens,
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(&run), counts(&simulated));
    }
    assert!(hashes.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn forced_responses_are_computed_to_their_recorded_lengths() {
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 7);
    let model = Llama::new(&checkpoint, Team::new(2)).unwrap();
    let requests: Vec<LiveRequest> = (0..20)
        .map(|id: u32| LiveRequest {
            prompt: vec![3 + id, 5, 7].into(),
            temperature: 0.0,
            seed: 0,
        })
        .collect();
    // Beyond the limit of 24 as well.
    let lengths: Vec<usize> = (0..20).map(|i| i * 13 % 31 + 1).collect();
    let predictions: Vec<f64> = (0..20).map(|i| f64::from(i * 7 % 23 + 1)).collect();
    let predictions = Forecast::points(&predictions, 24);
    let order: Vec<usize> = (0..20).collect();
    let go_on = || ControlFlow::Continue(());
    for options in [
        options(Scheduling::None, Fcr::Off, Batching::Static),
        options(Scheduling::Sorted, Fcr::Recompute, Batching::Static),
        options(Scheduling::Sorted, Fcr::Recompute, Batching::Compacting),
        options(Scheduling::None, Fcr::Off, Batching::Continuous),
    ] {
        let mut live = LiveExecutor::new(&model, &requests, 24, &go_on).forced_to(&lengths);
        let run = run_arm(&mut live, "a", 1, &order, &predictions, &options, 0.0).unwrap();
        assert!(live.outputs_sha256().is_none());
        for record in &run.requests {
            assert_eq!(record.response_tokens, lengths[record.request].min(24));
        }
        let mut replay = ReplayExecutor::new(&lengths, &[3; 20], 24, StepTimeModel::paper());
        let simulated = run_arm(&mut replay, "a", 1, &order, &predictions, &options, 0.0).unwrap();
        let computed = |run: &crate::evaluate::summary::ArmRun| {
            let each = run.batches.iter();
            each.map(|b| (b.computed_tokens, b.useful_tokens, b.failed_tokens))
                .collect::<Vec<_>>()
        };
        assert_eq!(computed(&run), computed(&simulated));
        assert!(run.total_s > 0.0);
    }
}

#[test]
fn a_stop_is_obeyed() {
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 7);
    let model = Llama::new(&checkpoint, Team::new(1)).unwrap();
    let requests = [LiveRequest {
        prompt: vec![5, 6].into(),
        temperature: 0.0,
        seed: 0,
    }];
    let stop = || ControlFlow::Break(());
    let mut live = LiveExecutor::new(&model, &requests, 24, &stop);
    let batch = MicroBatch {
        members: vec![0],
        cap: 24,
        keeps: false,
    };
    let error = live.run_batch(&batch, Batching::Static).unwrap_err();
    assert!(matches!(error, Error::Interrupted(_)));
}
