use proptest::prelude::*;

use super::*;
use crate::online::metrics::{Slo, figures};
use crate::online::policy::PolicyConfig;

/// A second a step, nothing else: prefill gives the first token after `p0`.
fn clock(p0: f64) -> StepTimeModel {
    StepTimeModel {
        name: "clock".into(),
        source: "test".into(),
        t0: 1.0,
        t1: 0.0,
        t2: 0.0,
        p0,
        p1: 0.0,
        off_line: Vec::new(),
    }
}

fn request(arrival_s: f64, prompt_tokens: u32, response_tokens: u32) -> Request {
    Request {
        arrival_s,
        prompt_tokens,
        response_tokens,
    }
}

/// Sizes as an oracle knows them.
fn oracle(requests: &[Request]) -> Vec<f32> {
    requests.iter().map(|r| r.response_tokens as f32).collect()
}

fn run(
    requests: &[Request],
    policy: PolicyConfig,
    limits: &Limits,
    time: &StepTimeModel,
) -> Outcome {
    let policy = policy.build().unwrap();
    simulate(requests, &oracle(requests), policy.as_ref(), limits, time).unwrap()
}

/// Memory reckoned with the oracle's answers.
fn run_in(
    memory: Memory,
    requests: &[Request],
    policy: PolicyConfig,
    limits: &Limits,
    time: &StepTimeModel,
) -> Outcome {
    let policy = policy.build().unwrap();
    let sizes = oracle(requests);
    Simulation {
        memory,
        ..Simulation::new(requests, &sizes, policy.as_ref(), limits, time)
    }
    .run()
    .unwrap()
}

fn served(outcome: &Outcome) -> Vec<Served> {
    let fates = outcome.fates.iter();
    fates
        .map(|fate| match fate {
            Fate::Served(served) => *served,
            Fate::Refused => panic!("refused"),
        })
        .collect()
}

fn slots(slots: usize) -> Limits {
    Limits {
        slots,
        ..Limits::default()
    }
}

const SJF: PolicyConfig = PolicyConfig::Sjf {
    at: None,
    beta: None,
    guard_s: None,
};

#[test]
fn one_slot_serves_as_lindley_says() {
    // Service: a second of prefill and one for every further token.
    let requests = [
        request(0.0, 5, 4),
        request(1.0, 5, 2),
        request(20.0, 5, 3),
        request(20.5, 5, 1),
    ];
    let outcome = run(&requests, PolicyConfig::Fcfs, &slots(1), &clock(1.0));
    let finishes: Vec<f64> = served(&outcome).iter().map(|s| s.finish_s).collect();
    assert_eq!(finishes, [4.0, 6.0, 23.0, 24.0]);
    let firsts: Vec<f64> = served(&outcome).iter().map(|s| s.first_token_s).collect();
    assert_eq!(firsts, [1.0, 5.0, 21.0, 24.0]);
    assert_eq!(outcome.makespan_s, 24.0);
    assert_eq!(outcome.busy_s, 10.0);
    // Where prefill costs nothing the first token costs a step.
    let free = run(&requests, PolicyConfig::Fcfs, &slots(1), &clock(0.0));
    let firsts: Vec<f64> = served(&free).iter().map(|s| s.first_token_s).collect();
    assert_eq!(firsts, [1.0, 5.0, 21.0, 24.0]);
}

#[test]
fn policies_order_as_they_say() {
    // One runs; four wait for its slot.
    let requests = [
        request(0.0, 1, 10),
        request(1.0, 1, 8),
        request(2.0, 1, 2),
        request(3.0, 1, 40),
        request(4.0, 1, 5),
    ];
    let order = |policy| {
        let outcome = run(&requests, policy, &slots(1), &clock(1.0));
        let times = served(&outcome);
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by(|a, b| times[*a].finish_s.total_cmp(&times[*b].finish_s));
        order
    };
    assert_eq!(order(PolicyConfig::Fcfs), [0, 1, 2, 3, 4]);
    assert_eq!(order(SJF), [0, 2, 4, 1, 3]);
    assert_eq!(order(PolicyConfig::Lpt), [0, 3, 1, 4, 2]);
    // The first is displaced by the second, and that by the third, of two tokens.
    assert_eq!(order(PolicyConfig::Srpt { limit: None })[0], 2);
    assert_eq!(order(PolicyConfig::Hrrn), [0, 2, 4, 1, 3]);
    let guarded = PolicyConfig::Sjf {
        at: None,
        beta: None,
        guard_s: Some(9.0),
    };
    assert_eq!(order(guarded), [0, 1, 2, 3, 4]);
    let aging = |tokens_per_s| PolicyConfig::Aging { tokens_per_s };
    assert_eq!(order(aging(1e-3)), [0, 2, 4, 1, 3]);
    assert_eq!(order(aging(1e3)), [0, 1, 2, 3, 4]);
}

#[test]
fn prompts_are_prefilled_in_chunks_beside_decoding() {
    // Budget 4: one row decodes, three tokens of the long prompt an iteration.
    let limits = Limits {
        slots: 2,
        token_budget: 4,
        ..Limits::default()
    };
    let requests = [request(0.0, 1, 20), request(0.5, 9, 2)];
    let outcome = run(&requests, PolicyConfig::Fcfs, &limits, &clock(1.0));
    let times = served(&outcome);
    // Prefill of the first ends at 1; of the second after three iterations more.
    assert_eq!(times[1].first_token_s, 4.0);
    assert_eq!(times[1].finish_s, 5.0);
    assert_eq!(times[0].finish_s, 20.0);
    assert_eq!((outcome.prefilled_tokens, outcome.decoded_tokens), (10, 22));
}

#[test]
fn memory_that_runs_out_costs_the_latest_its_place() {
    // Room for 4 blocks of 4: two requests of 4 + 8 tokens need 6.
    let limits = Limits {
        slots: 2,
        kv_tokens: 16,
        block: 4,
        watermark: 0.0,
        ..Limits::default()
    };
    let requests = [request(0.0, 4, 8), request(0.0, 4, 8), request(0.0, 10, 8)];
    let outcome = run(&requests, PolicyConfig::Fcfs, &limits, &clock(1.0));
    assert_eq!(outcome.fates[2], Fate::Refused);
    let (Fate::Served(first), Fate::Served(second)) = (outcome.fates[0], outcome.fates[1]) else {
        panic!("served");
    };
    assert_eq!((first.preemptions, first.finish_s), (0, 8.0));
    assert_eq!(second.preemptions, 1);
    assert!(second.finish_s > 8.0);
    assert_eq!(outcome.decoded_tokens, 16);
    assert!(outcome.recomputed_tokens > 4);
    assert_eq!(outcome.kv_use_peak, 1.0);
    // With memory set aside nobody is displaced: one after the other.
    let set_aside = run_in(
        Memory::SetAside { at: 0.5 },
        &requests[..2],
        PolicyConfig::Fcfs,
        &limits,
        &clock(1.0),
    );
    assert_eq!(set_aside.preemptions, 0);
    assert_eq!(set_aside.makespan_s, 16.0);
    // Swapping computes nothing twice.
    let swap = Limits {
        overflow: Overflow::Swap { s_per_token: 0.25 },
        ..limits
    };
    let swapped = run(&requests[..2], PolicyConfig::Fcfs, &swap, &clock(1.0));
    assert_eq!(swapped.recomputed_tokens, 0);
    assert_eq!(swapped.prefilled_tokens, 8);
    assert!(swapped.swapped_tokens > 0 && swapped.busy_s > 9.0);
}

#[test]
fn nothing_and_enormous_things() {
    let time = clock(1.0);
    let none = run(&[], PolicyConfig::Fcfs, &slots(2), &time);
    assert_eq!((none.fates.len(), none.makespan_s), (0, 0.0));
    assert!(figures(&[], &none, &Slo::default(), |_| 1.0).is_ok());
    let huge = [request(0.0, 100_000, 1_000_000)];
    let outcome = run(&huge, PolicyConfig::Fcfs, &slots(2), &time);
    assert_eq!(outcome.decoded_tokens, 1_000_000);
    let policy = PolicyConfig::Fcfs.build().unwrap();
    let simulate = |requests: &[Request], limits: &Limits| {
        simulate(requests, &oracle(requests), policy.as_ref(), limits, &time)
    };
    assert!(simulate(&[request(1.0, 1, 1), request(0.0, 1, 1)], &slots(1)).is_err());
    assert!(simulate(&[request(0.0, 1, 0)], &slots(1)).is_err());
    assert!(simulate(&huge, &slots(0)).is_err());
    assert!(simulate(&huge, &slots(4096)).is_err());
}

fn all_policies() -> Vec<PolicyConfig> {
    vec![
        PolicyConfig::Fcfs,
        SJF,
        PolicyConfig::Sjf {
            at: None,
            beta: None,
            guard_s: Some(30.0),
        },
        PolicyConfig::Srpt { limit: None },
        PolicyConfig::Srpt { limit: Some(0.5) },
        PolicyConfig::Ranking {
            starvation_steps: 20,
            quantum_steps: 5,
        },
        PolicyConfig::Lpt,
        PolicyConfig::Hrrn,
        PolicyConfig::Aging { tokens_per_s: 2.0 },
        PolicyConfig::MultiBin { bins: 3 },
        PolicyConfig::Packing { guard_s: None },
        PolicyConfig::Packing {
            guard_s: Some(20.0),
        },
        PolicyConfig::Groups,
        PolicyConfig::Las { quantum: 4 },
        PolicyConfig::Mlfq { quantum: 4 },
    ]
}

/// Token by token, as an engine would do it, without a limit of memory: first come, first
/// served; prefill costs nothing.
fn naive(requests: &[Request], slots: usize, time: &StepTimeModel) -> Vec<f64> {
    let mut finish = vec![0.0; requests.len()];
    let (mut next, mut now) = (0, 0.0f64);
    let mut rows: Vec<(usize, u32)> = Vec::new();
    while next < requests.len() || !rows.is_empty() {
        while rows.len() < slots && next < requests.len() && requests[next].arrival_s <= now {
            rows.push((next, 0));
            next += 1;
        }
        if rows.is_empty() {
            now = requests[next].arrival_s;
            continue;
        }
        let context: u32 = rows
            .iter()
            .map(|(r, g)| requests[*r].prompt_tokens + g)
            .sum();
        now += time.steps(rows.len(), context as usize, 1);
        rows.iter_mut().for_each(|(_, g)| *g += 1);
        rows.retain(|(r, g)| {
            if *g == requests[*r].response_tokens {
                finish[*r] = now;
            }
            *g < requests[*r].response_tokens
        });
    }
    finish
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    prop::collection::vec((0.0..4.0f64, 0u32..40, 1u32..60), 0..40).prop_map(|rows| {
        let mut now = 0.0;
        rows.into_iter()
            .map(|(gap, prompt, response)| {
                now += gap;
                request(now, prompt, response)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn first_come_first_served_equals_a_simulation_token_by_token(
        requests in requests(),
        slots in 1usize..6,
    ) {
        let time = StepTimeModel { t1: 0.25, t2: 0.01, ..clock(0.0) };
        let outcome = run(&requests, PolicyConfig::Fcfs, &super::Limits { slots, ..Limits::default() }, &time);
        for (found, expected) in served(&outcome).iter().zip(naive(&requests, slots, &time)) {
            prop_assert!((found.finish_s - expected).abs() < 1e-6 * (1.0 + expected));
        }
    }

    #[test]
    fn every_token_is_served_once_and_memory_holds(
        requests in requests(),
        slots in 1usize..6,
        budget in 8usize..64,
        kv in prop::option::of(120u64..400),
        block in 1u64..20,
        swap in any::<bool>(),
        prefill in any::<bool>(),
    ) {
        let time = StepTimeModel { t1: 0.1, t2: 0.001, ..clock(if prefill { 0.5 } else { 0.0 }) };
        let overflow = match swap {
            true => Overflow::Swap { s_per_token: 0.01 },
            false => Overflow::Recompute,
        };
        let limits = Limits {
            slots,
            token_budget: budget,
            kv_tokens: kv.unwrap_or(0),
            block,
            overflow,
            ..Limits::default()
        };
        let memories = [
            Memory::AsItComes,
            Memory::SetAside { at: 0.5 },
            Memory::Peak { at: 0.5 },
            Memory::History { window: 5 },
        ];
        let groups: Vec<u32> = (0..requests.len() as u32).map(|r| r / 3).collect();
        let cases = all_policies().into_iter().flat_map(|c| memories.map(|m| (c, m)));
        for (config, memory) in cases {
            let policy = config.build().unwrap();
            let sizes = oracle(&requests);
            // Half of what comes, or twice as much.
            let answers: Vec<f32> = sizes.iter().enumerate().map(|(r, n)| n * [0.5, 2.0][r % 2]).collect();
            let all = Simulation {
                memory,
                answers: &answers,
                groups: &groups,
                renewal: Some(Renewal { every: 4, size: &|r, g| (r % 40 + g) as f32 }),
                ..Simulation::new(&requests, &sizes, policy.as_ref(), &limits, &time)
            };
            let outcome = all.run().unwrap();
            let times = served(&outcome);
            let tokens: u64 = requests.iter().map(|r| u64::from(r.response_tokens)).sum();
            prop_assert_eq!(outcome.decoded_tokens, tokens, "{:?}", config);
            let prompts: u64 = requests.iter().map(|r| u64::from(r.prompt_tokens.max(1))).sum();
            if prefill {
                prop_assert_eq!(outcome.prefilled_tokens, prompts + outcome.recomputed_tokens);
            }
            prop_assert!(outcome.kv_use_peak <= 1.0);
            let longest = times.iter().map(|t| t.finish_s).fold(0.0, f64::max);
            prop_assert!((longest - outcome.makespan_s).abs() < 1e-9 * (1.0 + longest));
            for (request, times) in requests.iter().zip(&times) {
                prop_assert!(request.arrival_s <= times.admitted_s + 1e-9);
                prop_assert!(times.admitted_s < times.first_token_s);
                prop_assert!(times.first_token_s <= times.finish_s);
            }
            prop_assert_eq!(outcome.preemptions, times.iter().map(|t| u64::from(t.preemptions)).sum::<u64>());
            let again = all.run().unwrap();
            prop_assert_eq!(&again.fates, &outcome.fates);
            let figures = figures(&requests, &outcome, &Slo::default(), |_| 1.0).unwrap();
            prop_assert_eq!(figures.completed, requests.len());
            prop_assert!(figures.jain > 0.0 && figures.jain <= 1.0 + 1e-9);
        }
    }

    #[test]
    fn nobody_is_overtaken_once_the_guard_is_up(
        requests in requests(),
        slots in 1usize..4,
        guard_s in 1.0..40.0f64,
    ) {
        let limits = Limits { slots, kv_tokens: 150, block: 4, ..Limits::default() };
        for config in [
            PolicyConfig::Sjf { at: None, beta: None, guard_s: Some(guard_s) },
            PolicyConfig::Packing { guard_s: Some(guard_s) },
        ] {
            let times = served(&run(&requests, config, &limits, &clock(1.0)));
            for (early, first) in requests.iter().zip(&times) {
                let up = early.arrival_s + guard_s;
                for (late, other) in requests.iter().zip(&times) {
                    let came_later = late.arrival_s > early.arrival_s;
                    let overtook = other.admitted_s >= up && other.admitted_s < first.admitted_s;
                    prop_assert!(!(came_later && overtook), "{config:?}: {early:?} {late:?}");
                }
            }
        }
    }

    #[test]
    fn the_shortest_first_is_never_later_in_the_mean(
        responses in prop::collection::vec(1u32..60, 1..30),
    ) {
        // All there at once, one slot: the oracle's order is the best one.
        let requests: Vec<Request> = responses.iter().map(|n| request(0.0, 1, *n)).collect();
        let mean = |policy| {
            let outcome = run(&requests, policy, &slots(1), &clock(1.0));
            let times = served(&outcome);
            (times.iter().map(|t| t.finish_s).sum::<f64>(), outcome.makespan_s)
        };
        let (fcfs, sjf) = (mean(PolicyConfig::Fcfs), mean(SJF));
        prop_assert!(sjf.0 <= fcfs.0 + 1e-9);
        prop_assert!((sjf.1 - fcfs.1).abs() < 1e-9);
    }
}
