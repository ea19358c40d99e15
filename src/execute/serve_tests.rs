use super::*;
use crate::execute::{Executor, LiveRequest, StepTimeModel};
use crate::kernel::Team;
use crate::model::llama::Llama;
use crate::model::{Checkpoint, ModelConfig};
use crate::online::arrivals::Arrivals;
use crate::online::engine::{Limits, simulate};
use crate::online::policy::{Fcfs, PolicyConfig};

const MOST: usize = 24;
const SJF: PolicyConfig = PolicyConfig::Sjf {
    at: None,
    beta: None,
    guard_s: None,
};

fn tiny() -> Llama {
    let checkpoint = Checkpoint::random(&ModelConfig::tiny(), 7);
    Llama::new(&checkpoint, Team::new(2)).unwrap()
}

fn prompts(count: u32) -> Vec<LiveRequest> {
    (0..count)
        .map(|id| LiveRequest {
            prompt: (0..3 + id % 7)
                .map(|i| 3 + (i * 5 + id) % 60)
                .collect::<Vec<u32>>()
                .into(),
            temperature: [0.0, 0.9][id as usize % 2],
            seed: u64::from(id),
        })
        .collect()
}

/// Who comes when, of how many tokens as foretold.
struct Load {
    requests: Vec<online::Request>,
    order: Vec<usize>,
    sizes: Vec<f32>,
    predict_s: f64,
}

/// Requests come in the opposite order of the workload.
fn load(prompts: &[LiveRequest], arrivals: Arrivals) -> Load {
    let times = arrivals.times(&vec![None; prompts.len()], 3).unwrap();
    let order: Vec<usize> = (0..prompts.len()).rev().collect();
    Load {
        requests: (order.iter().zip(times))
            .map(|(&request, arrival_s)| online::Request {
                arrival_s,
                prompt_tokens: prompts[request].prompt.len() as u32,
                response_tokens: 1,
            })
            .collect(),
        // All different.
        sizes: order.iter().map(|r| (r * 7 % 31 + 1) as f32).collect(),
        order,
        predict_s: 0.0,
    }
}

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn served(
    live: &mut LiveExecutor<'_>,
    load: &Load,
    policy: PolicyConfig,
    slots: usize,
) -> (Outcome, Vec<Served>) {
    let outcome = live
        .serve(&Arriving {
            requests: &load.requests,
            order: &load.order,
            sizes: &load.sizes,
            policy: policy.build().unwrap().as_ref(),
            slots,
            predict_s: load.predict_s,
        })
        .unwrap();
    let fates = outcome.fates.iter();
    let times = fates.map(|fate| match fate {
        Fate::Served(served) => *served,
        Fate::Refused => panic!("refused"),
    });
    let times = times.collect();
    (outcome, times)
}

/// By place in the order of arrival.
fn admissions(times: &[Served]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|a, b| times[*a].admitted_s.total_cmp(&times[*b].admitted_s));
    order
}

#[test]
fn every_policy_gives_everybody_the_answer_it_would_have_alone() {
    let (model, prompts) = (tiny(), prompts(30));
    let mut alone = LiveExecutor::new(&model, &prompts, MOST, &go_on);
    for request in 0..prompts.len() {
        alone.run_continuous(&[request], 1).unwrap();
    }
    let tokens: usize = alone.outputs().values().map(Vec::len).sum();
    for arrivals in [
        Arrivals::AtOnce,
        Arrivals::Poisson { rate: 2_000.0 },
        // Slow enough that the engine is idle in between.
        Arrivals::Gamma {
            rate: 200.0,
            cv: 3.0,
        },
    ] {
        let load = load(&prompts, arrivals);
        for policy in [
            PolicyConfig::Fcfs,
            SJF,
            PolicyConfig::Sjf {
                at: None,
                beta: None,
                guard_s: Some(0.001),
            },
            PolicyConfig::Lpt,
            PolicyConfig::Hrrn,
            PolicyConfig::Aging { tokens_per_s: 1e3 },
        ] {
            let mut live = LiveExecutor::new(&model, &prompts, MOST, &go_on);
            let (outcome, times) = served(&mut live, &load, policy, 4);
            assert_eq!(live.outputs_sha256(), alone.outputs_sha256());
            assert_eq!(outcome.decoded_tokens as usize, tokens);
            assert!(outcome.rows_mean > 0.0 && outcome.busy_s > 0.0);
            assert!(outcome.itl_mean_s() > 0.0);
            for (request, t) in load.requests.iter().zip(&times) {
                assert!(request.arrival_s <= t.admitted_s && t.admitted_s < t.first_token_s);
                assert!(t.first_token_s <= t.finish_s && t.finish_s <= outcome.makespan_s);
            }
        }
    }
}

#[test]
fn who_waits_is_served_in_the_policys_order() {
    let (model, prompts) = (tiny(), prompts(20));
    let load = load(&prompts, Arrivals::AtOnce);
    let order = |policy| {
        let mut live = LiveExecutor::new(&model, &prompts, MOST, &go_on);
        admissions(&served(&mut live, &load, policy, 1).1)
    };
    let as_they_come: Vec<usize> = (0..20).collect();
    assert_eq!(order(PolicyConfig::Fcfs), as_they_come);
    let mut by_size = as_they_come;
    by_size.sort_by(|a, b| load.sizes[*a].total_cmp(&load.sizes[*b]));
    assert_eq!(order(SJF), by_size);
    by_size.reverse();
    assert_eq!(order(PolicyConfig::Lpt), by_size);
}

#[test]
fn what_predicting_takes_is_part_of_the_times() {
    let (model, prompts) = (tiny(), prompts(8));
    let mut live = LiveExecutor::new(&model, &prompts, MOST, &go_on);
    // Nobody waits so long for real.
    let mut load = load(&prompts, Arrivals::AtOnce);
    load.predict_s = 800.0;
    let (outcome, times) = served(&mut live, &load, SJF, 2);
    assert!(times.iter().all(|t| t.admitted_s >= 800.0));
    assert!(outcome.makespan_s < 900.0 && outcome.busy_s < 100.0);
    // Where they come one after another each waits for its own share.
    load.predict_s = 200.0;
    load.order.truncate(2);
    load.sizes.truncate(2);
    load.requests.truncate(2);
    load.requests[1].arrival_s = 100.1;
    let (_, times) = served(&mut live, &load, SJF, 2);
    for (request, t) in load.requests.iter().zip(&times) {
        let waited = t.admitted_s - request.arrival_s;
        assert!((100.0..110.0).contains(&waited), "{waited}");
    }
}

#[test]
fn an_idle_engine_stops_too() {
    let (model, prompts) = (tiny(), prompts(2));
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        match asked.get() {
            0..3 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    };
    let mut load = load(&prompts, Arrivals::AtOnce);
    load.requests[0].arrival_s = 1e6;
    load.requests[1].arrival_s = 1e6;
    let mut live = LiveExecutor::new(&model, &prompts, MOST, &stop);
    let error = live.serve(&Arriving {
        requests: &load.requests,
        order: &load.order,
        sizes: &load.sizes,
        policy: &Fcfs,
        slots: 2,
        predict_s: 0.0,
    });
    assert!(matches!(error, Err(Error::Interrupted(_))));
    // Forced lengths are obeyed.
    load.requests[0].arrival_s = 0.0;
    load.requests[1].arrival_s = 0.0;
    let lengths = [3, 24];
    let mut live = LiveExecutor::new(&model, &prompts, MOST, &go_on).forced_to(&lengths);
    served(&mut live, &load, PolicyConfig::Fcfs, 2);
    let tokens: Vec<usize> = live.outputs().values().map(Vec::len).collect();
    assert_eq!(tokens, lengths);
}

/// When each request ends if, as the built-in engine does it, whoever is admitted is prefilled
/// whole before the next step of all rows; first come, first served.
fn step_by_step(requests: &[online::Request], slots: usize, time: &StepTimeModel) -> Vec<f64> {
    let mut finishes = vec![0.0; requests.len()];
    let (mut now, mut next) = (0.0_f64, 0);
    // (request, its position, tokens that are left)
    let mut rows: Vec<(usize, usize, u32)> = Vec::new();
    loop {
        let (mut prompt_tokens, mut admitted) = (0, Vec::new());
        while rows.len() + admitted.len() < slots
            && let Some(request) = requests.get(next)
            && request.arrival_s <= now
        {
            prompt_tokens += request.prompt_tokens as usize;
            let position = request.prompt_tokens as usize + 1;
            admitted.push((next, position, request.response_tokens - 1));
            next += 1;
        }
        if !admitted.is_empty() {
            now += time.prefill(prompt_tokens);
            rows.append(&mut admitted);
        }
        if rows.is_empty() {
            let Some(request) = requests.get(next) else {
                return finishes;
            };
            now = request.arrival_s;
            continue;
        }
        let leave = |rows: &mut Vec<(usize, usize, u32)>, finishes: &mut [f64], now: f64| {
            rows.retain(|(request, _, left)| {
                if *left == 0 {
                    finishes[*request] = now;
                }
                *left > 0
            });
        };
        leave(&mut rows, &mut finishes, now);
        if !rows.is_empty() {
            let positions = rows.iter().map(|row| row.1).sum();
            now += time.steps(rows.len(), positions, 1);
            for (_, position, left) in &mut rows {
                *position += 1;
                *left -= 1;
            }
            leave(&mut rows, &mut finishes, now);
        }
    }
}

#[test]
fn the_simulated_engine_takes_as_long_as_this_one_step_by_step() {
    for preset in ["smollm2-135m-2-cores", "llama-7b-h100"] {
        let time = StepTimeModel::load(preset).unwrap();
        for (arrivals, slots) in [
            (Arrivals::AtOnce, 16),
            (Arrivals::Poisson { rate: 3.0 }, 16),
            (Arrivals::AtOnce, 64),
        ] {
            let times = arrivals.times(&[None; 160], 5).unwrap();
            let requests: Vec<online::Request> = (times.iter().enumerate())
                .map(|(i, arrival_s)| online::Request {
                    arrival_s: *arrival_s,
                    prompt_tokens: 30 + (i * 37 % 60) as u32,
                    response_tokens: ((i * 97 % 600) as u32).clamp(5, 512),
                })
                .collect();
            let finishes = step_by_step(&requests, slots, &time);
            let limits = Limits::whole_prompts(slots);
            let outcome = simulate(&requests, &[0.0; 160], &Fcfs, &limits, &time).unwrap();
            let mean = |of: &dyn Fn(usize) -> f64| -> f64 {
                let each = requests.iter().enumerate();
                each.map(|(i, r)| of(i) - r.arrival_s).sum::<f64>() / 160.0
            };
            let simulated = mean(&|i| match outcome.fates[i] {
                Fate::Served(served) => served.finish_s,
                Fate::Refused => f64::NAN,
            });
            let last = finishes.iter().copied().fold(0.0, f64::max);
            for (said, is) in [
                (outcome.makespan_s, last),
                (simulated, mean(&|i| finishes[i])),
            ] {
                let off = said / is - 1.0;
                assert!(off.abs() < 0.005, "{preset}, {slots}: {said} and {is} s");
            }
        }
    }
}
