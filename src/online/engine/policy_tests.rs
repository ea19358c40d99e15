//! Policies and reckonings of memory on cases small enough to work out by hand.

use super::*;
use crate::online::policy::PolicyConfig;

/// A second an iteration; prefill costs nothing, so that the first token costs a step.
fn clock() -> StepTimeModel {
    StepTimeModel {
        name: "clock".into(),
        source: "test".into(),
        t0: 1.0,
        t1: 0.0,
        t2: 0.0,
        p0: 0.0,
        p1: 0.0,
        off_line: Vec::new(),
    }
}

/// (arrival, prompt, answer)
fn requests(of: &[(f64, u32, u32)]) -> Vec<Request> {
    let requests = of.iter().map(|(arrival_s, prompt, answer)| Request {
        arrival_s: *arrival_s,
        prompt_tokens: *prompt,
        response_tokens: *answer,
    });
    requests.collect()
}

/// Blocks of a token, so that memory is counted in tokens.
fn limits(slots: usize, kv_tokens: u64) -> Limits {
    Limits {
        slots,
        kv_tokens,
        block: 1,
        watermark: 0.0,
        ..Limits::default()
    }
}

fn served(outcome: &Outcome) -> Vec<Served> {
    let times = outcome.fates.iter().map(|fate| match fate {
        Fate::Served(served) => *served,
        Fate::Refused => panic!("refused"),
    });
    times.collect()
}

fn finishes(outcome: &Outcome) -> Vec<f64> {
    served(outcome).iter().map(|s| s.finish_s).collect()
}

/// A simulation; where it has no sizes they are the truth.
#[derive(Clone, Copy, Default)]
struct Case<'c> {
    policy: PolicyConfig,
    slots: usize,
    /// 0: without end.
    kv_tokens: u64,
    memory: Memory,
    sizes: &'c [f32],
    answers: &'c [f32],
    groups: &'c [u32],
    renewal: Option<Renewal<'c>>,
}

fn run(requests: &[Request], case: Case<'_>) -> Outcome {
    let policy = case.policy.build().unwrap();
    let truth: Vec<f32> = requests.iter().map(|r| r.response_tokens as f32).collect();
    let sizes = match case.sizes {
        [] => &truth,
        sizes => sizes,
    };
    let limits = limits(case.slots, case.kv_tokens);
    let time = clock();
    Simulation {
        memory: case.memory,
        answers: case.answers,
        groups: case.groups,
        renewal: case.renewal,
        ..Simulation::new(requests, sizes, policy.as_ref(), &limits, &time)
    }
    .run()
    .unwrap()
}

#[test]
fn the_peak_counts_on_what_short_answers_free() {
    // Set aside they are 8 + 12 tokens; at once they never hold more than 16: (4 + 4) x 2 when
    // the first ends, 4 + 8 when the second does.
    let pair = requests(&[(0.0, 4, 4), (0.0, 4, 8)]);
    let with = |memory, room| {
        let case = Case {
            slots: 2,
            kv_tokens: room,
            memory,
            ..Case::default()
        };
        let outcome = run(&pair, case);
        (finishes(&outcome), outcome.preemptions, outcome.kv_use_peak)
    };
    assert_eq!(with(Memory::Peak { at: 0.5 }, 16), (vec![4.0, 8.0], 0, 1.0));
    assert_eq!(with(Memory::SetAside { at: 0.5 }, 16).0, [4.0, 12.0]);
    // With a token less the second waits for a step (5 + 3 when the first ends, 4 + 3), where an
    // engine that looks no further lets both in and displaces one.
    assert_eq!(with(Memory::Peak { at: 0.5 }, 15).0, [4.0, 9.0]);
    let (_, displaced, _) = with(Memory::AsItComes, 15);
    assert_eq!(displaced, 1);
}

#[test]
fn the_past_tells_how_much_room_answers_need() {
    // Room for 40; until one has ended every answer counts as 30, so they go one by one.
    let alike = requests(&[(0.0, 2, 5); 4]);
    let case = Case {
        slots: 4,
        kv_tokens: 40,
        memory: Memory::History { window: 10 },
        answers: &[30.0; 4],
        ..Case::default()
    };
    let outcome = run(&alike, case);
    // Three of them would be 3 x 2 + 3 x 5 = 21 tokens at most.
    assert_eq!(finishes(&outcome), [5.0, 10.0, 10.0, 10.0]);
}

#[test]
fn a_probe_of_every_group_goes_first_then_the_longest_group() {
    let rollouts = requests(&[2, 3, 3, 9, 8, 7].map(|answer| (0.0, 1, answer)));
    let case = Case {
        policy: PolicyConfig::Groups,
        slots: 1,
        groups: &[0, 0, 0, 1, 1, 1],
        sizes: &[5.0; 6],
        ..Case::default()
    };
    let outcome = run(&rollouts, case);
    // 0 and 3 are probes: 2, then 2 + 9; then 4 and 5 of the long group, then 1 and 2.
    assert_eq!(finishes(&outcome), [2.0, 29.0, 32.0, 11.0, 19.0, 26.0]);
}

#[test]
fn batches_are_of_one_bin_and_end_before_the_next() {
    let mixed = requests(&[(0.0, 1, 2), (0.0, 1, 10), (0.0, 1, 1), (0.0, 1, 9)]);
    let case = Case {
        policy: PolicyConfig::MultiBin { bins: 2 },
        slots: 2,
        ..Case::default()
    };
    let outcome = run(&mixed, case);
    assert_eq!(finishes(&outcome), [2.0, 12.0, 1.0, 11.0]);
}

#[test]
fn memory_is_packed_with_the_largest_that_fit() {
    // Needs, set aside: 4, 10, 6, 6; room for 12.
    let jobs = requests(&[(0.0, 1, 3), (0.0, 1, 9), (0.0, 1, 5), (0.0, 1, 5)]);
    let packed = |guard_s| {
        let case = Case {
            policy: PolicyConfig::Packing { guard_s },
            slots: 4,
            kv_tokens: 12,
            memory: Memory::SetAside { at: 0.5 },
            ..Case::default()
        };
        finishes(&run(&jobs, case))
    };
    assert_eq!(packed(None), [17.0, 9.0, 14.0, 14.0]);
    // Whoever has waited long enough goes first, whatever fits better.
    assert_eq!(packed(Some(9.0)), [12.0, 9.0, 14.0, 17.0]);
}

#[test]
fn who_starves_is_promoted_for_a_while() {
    // One of 12 tokens, and one of 2 every 2 seconds, which always ranks lower.
    let mut jobs = vec![(0.0, 1, 12)];
    jobs.extend((0..20).map(|i| (f64::from(i) * 2.0, 1, 2)));
    let jobs = requests(&jobs);
    let long = |starvation_steps| {
        let case = Case {
            policy: PolicyConfig::Ranking {
                starvation_steps,
                quantum_steps: 6,
            },
            slots: 1,
            ..Case::default()
        };
        served(&run(&jobs, case))[0]
    };
    // Six steps after ten without, twice: 10 + 6 and 10 + 6.
    let promoted = long(10);
    assert_eq!((promoted.first_token_s, promoted.finish_s), (11.0, 32.0));
    assert_eq!(promoted.preemptions, 1);
    assert_eq!(long(1000).finish_s, 52.0);
}

#[test]
fn a_prediction_that_is_renewed_gives_the_slot_away() {
    // Foreseen as 5 tokens, the first goes on to 50; the second is of 20.
    let jobs = requests(&[(0.0, 1, 50), (10.0, 1, 20)]);
    let renewed = |request: u32, generated: u32| match request {
        0 => (generated + 30) as f32,
        _ => 20.0,
    };
    let with = |limit, renewal| {
        let case = Case {
            policy: PolicyConfig::Srpt { limit },
            slots: 1,
            sizes: &[5.0, 20.0],
            renewal,
            ..Case::default()
        };
        finishes(&run(&jobs, case))
    };
    let renewal = Some(Renewal {
        every: 8,
        size: &renewed,
    });
    assert_eq!(with(None, None), [50.0, 70.0]);
    // Of 38 tokens, as foreseen after 8, 28 are left when the second comes.
    assert_eq!(with(None, renewal), [70.0, 30.0]);
    // TRAIL's limit: after 4 of 5 foreseen tokens it keeps its slot.
    assert_eq!(with(Some(0.8), renewal), [50.0, 70.0]);
}

#[test]
fn who_waits_is_looked_at_though_nobody_comes_or_ends() {
    // The long one leaves room for a little, which the large one that waits does not fit.
    let jobs = |b, c| requests(&[(0.0, 100, 500), b, c]);
    let case = Case {
        slots: 3,
        kv_tokens: 1000,
        ..Case::default()
    };
    // Ratios: at 2 the second leads, 1/40; a block later, at 3, the third does, 1/4.
    let ratios = Case {
        policy: PolicyConfig::Hrrn,
        ..case
    };
    let outcome = run(&jobs((1.0, 950, 40), (2.0, 10, 4)), ratios);
    assert_eq!(served(&outcome)[2].admitted_s, 3.0);
    // The guard of the one that came first is up at 10.5.
    let guarded = Case {
        policy: PolicyConfig::Sjf {
            at: None,
            beta: None,
            guard_s: Some(10.0),
        },
        ..case
    };
    let outcome = run(&jobs((0.5, 10, 300), (0.6, 950, 40)), guarded);
    assert_eq!(served(&outcome)[1].admitted_s, 11.0);
}

#[test]
fn a_place_that_is_kept_no_longer_is_given_away() {
    // The third comes while the promoted second is kept: it gets its place at 16, not later.
    let jobs = requests(&[(0.0, 1, 20), (0.0, 1, 100), (11.0, 1, 5)]);
    let case = Case {
        policy: PolicyConfig::Ranking {
            starvation_steps: 10,
            quantum_steps: 6,
        },
        slots: 1,
        ..Case::default()
    };
    assert_eq!(served(&run(&jobs, case))[2].first_token_s, 17.0);
}

#[test]
fn attained_service_is_looked_at_where_it_changes_class() {
    let jobs = requests(&[(0.0, 1, 300), (63.0, 1, 10)]);
    let first_token = |policy| {
        let case = Case {
            policy,
            slots: 1,
            ..Case::default()
        };
        served(&run(&jobs, case))[1].first_token_s
    };
    assert_eq!(first_token(PolicyConfig::Las { quantum: 64 }), 65.0);
    assert_eq!(first_token(PolicyConfig::Mlfq { quantum: 64 }), 65.0);
    // Levels are of 16, 32 and 64 tokens: it has come to the third at 48.
    assert_eq!(first_token(PolicyConfig::Mlfq { quantum: 16 }), 64.0);
}
