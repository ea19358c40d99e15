//! An arm whose requests arrive over time, under a seed: who comes when, what is foreseen of
//! each, and its simulation.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::config::{Arm, OnlineArm, Repredict};
use crate::error::{Error, Result};
use crate::execute::StepTimeModel;
use crate::online::Request;
use crate::online::arrivals::Arrivals;
use crate::online::engine::{Outcome, Renewal, Simulation};
use crate::online::memory::Memory;
use crate::online::metrics::{Figures, Slo, Times, figures, group_e2e_s};
use crate::schedule::{Forecast, arrival_order};

use super::workload::Workload;

/// An arm under a seed, ready to be simulated or served; everything is in order of arrival.
pub(super) struct Ready {
    pub name: String,
    pub seed: u64,
    pub online: OnlineArm,
    pub requests: Vec<Request>,
    /// Which of the workload each of them is.
    pub order: Vec<usize>,
    pub sizes: Vec<f32>,
    /// What memory is reckoned with.
    answers: Vec<f32>,
    /// Empty where answers are not awaited together.
    groups: Vec<u32>,
    /// Forecasts, and what each is wrongly multiplied by, where they are renewed.
    forecasts: Vec<(Forecast, f64)>,
}

impl Ready {
    pub fn simulate(&self, step_time: &StepTimeModel) -> Result<Outcome> {
        let policy = self.online.policy.build()?;
        let renewed = |request: u32, generated: u32| self.renewed(request, generated);
        let renewal = self
            .online
            .repredict
            .map(|Repredict { every, .. }| Renewal {
                every,
                size: &renewed,
            });
        Simulation {
            memory: self.online.memory,
            answers: &self.answers,
            groups: &self.groups,
            renewal,
            ..Simulation::new(
                &self.requests,
                &self.sizes,
                policy.as_ref(),
                &self.online.limits,
                step_time,
            )
        }
        .run()
    }

    /// The whole answer's length as foreseen once it has so many tokens.
    fn renewed(&self, request: u32, generated: u32) -> f32 {
        let place = request as usize;
        let done = f64::from(generated);
        let probe = self.online.repredict.and_then(|r| r.probe_noise);
        let rest = match probe {
            Some(noise) => {
                let own = (u64::from(request) << 32) | u64::from(generated);
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ own ^ 0x9e37_79b9);
                let z: f64 = StandardNormal.sample(&mut rng);
                let left = f64::from(self.requests[place].response_tokens) - done;
                left.max(1.0) * (noise * z).exp()
            }
            None => {
                let (forecast, wrong) = &self.forecasts[place];
                wrong * forecast.remaining((done / wrong) as usize, 0.5)
            }
        };
        (done + rest) as f32
    }

    /// Where answers are awaited together.
    pub fn group_e2e_s(&self, outcome: &Outcome) -> Option<Times> {
        match self.groups.is_empty() {
            true => None,
            false => Some(group_e2e_s(&self.requests, outcome, &self.groups)),
        }
    }

    /// Every figure, those of groups where there are any.
    pub fn figures(
        &self,
        outcome: &Outcome,
        slo: &Slo,
        step_time: &StepTimeModel,
    ) -> Result<Figures> {
        let budget = self.online.limits.token_budget;
        let alone = |request: &Request| alone_s(request, budget, step_time);
        Ok(Figures {
            group_e2e_s: self.group_e2e_s(outcome),
            ..figures(&self.requests, outcome, slo, alone)?
        })
    }
}

/// `foresee` makes the forecasts of requests whose served lengths are given.
pub(super) fn prepare(
    arm: &Arm,
    seed: u64,
    workload: &Workload<'_>,
    foresee: impl Fn(&[usize]) -> Result<Arc<[Forecast]>>,
) -> Result<Ready> {
    let Some(online) = arm.online else {
        return Err(Error::Usage(format!(
            "the arm `{}` knows no arrivals",
            arm.name
        )));
    };
    let most = arm.schedule.max_new_tokens;
    let mut lengths = workload.lengths(seed)?;
    lengths.iter_mut().for_each(|l| *l = (*l).clamp(1, most));
    let forecasts = foresee(&lengths)?;
    let recorded: Vec<Option<f64>> = (workload.instances.iter())
        .map(|i| i.samples[0].arrival_s)
        .collect();
    let mut times = online.arrivals.times(&recorded, seed)?;
    let mut order = arrival_order(lengths.len(), seed);
    if let Arrivals::Recorded { .. } = online.arrivals {
        order = (0..lengths.len()).collect();
        order.sort_by(|a, b| {
            recorded[*a]
                .partial_cmp(&recorded[*b])
                .unwrap_or(std::cmp::Ordering::Equal)
        });
    }
    let mut groups = Vec::new();
    if let Some(of) = workload.groups() {
        together(&mut order, &mut times, &of);
        groups = order.iter().map(|r| of[*r]).collect();
    }
    let (prompts, _) = workload.estimated_prompts();
    let policy = online.policy.build()?;
    // By request: what is said of one does not hang on when it comes.
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let wrong: Vec<f64> = (0..lengths.len())
        .map(|_| {
            let z: f64 = StandardNormal.sample(&mut rng);
            (online.noise * z).exp()
        })
        .collect();
    let said = |of: &dyn Fn(&Forecast) -> f64| -> Vec<f32> {
        let said = order.iter().map(|r| of(&forecasts[*r]) * wrong[*r]);
        said.map(|tokens| tokens as f32).collect()
    };
    let answers = match (online.memory, online.memory.at()) {
        // No answer is longer than that, however wrong a prediction is made.
        (_, Some(at)) => (said(&|forecast| forecast.at(at)).into_iter())
            .map(|tokens| tokens.clamp(1.0, most as f32))
            .collect(),
        // As long as any may be, until some have ended.
        (Memory::History { .. }, None) => vec![most as f32; order.len()],
        (_, None) => Vec::new(),
    };
    let renewed = online.repredict.is_some_and(|r| r.probe_noise.is_none());
    Ok(Ready {
        name: arm.name.clone(),
        seed,
        online,
        sizes: said(&|forecast| policy.size(forecast)),
        answers,
        groups,
        forecasts: match renewed {
            true => (order.iter().map(|r| (forecasts[*r].clone(), wrong[*r]))).collect(),
            false => Vec::new(),
        },
        requests: order
            .iter()
            .zip(times)
            .map(|(request, arrival_s)| Request {
                arrival_s,
                prompt_tokens: prompts[*request] as u32,
                response_tokens: lengths[*request] as u32,
            })
            .collect(),
        order,
    })
}

/// Lets the requests of each group come together, when the first of as many requests would: the
/// rate stays what it is.
fn together(order: &mut [usize], times: &mut [f64], groups: &[u32]) {
    let mut first = vec![usize::MAX; groups.len()];
    for (place, request) in order.iter().enumerate() {
        let known = &mut first[groups[*request] as usize];
        *known = (*known).min(place);
    }
    order.sort_by_key(|r| (first[groups[*r] as usize], *r));
    for place in 1..order.len() {
        if groups[order[place]] == groups[order[place - 1]] {
            times[place] = times[place - 1];
        }
    }
}

/// How long a request takes where there is no other.
pub(super) fn alone_s(request: &Request, token_budget: usize, step_time: &StepTimeModel) -> f64 {
    let (prompt, tokens) = (
        request.prompt_tokens as usize,
        request.response_tokens as usize,
    );
    let first = step_time.first_step();
    let chunks = prompt.div_ceil(token_budget.max(1)).max(1);
    let prefill = match first {
        0 => 0.0,
        _ => step_time.p0 * chunks as f64 + step_time.p1 * prompt.max(1) as f64,
    };
    prefill + step_time.steps(1, prompt + first, tokens - first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_group_come_together() {
        let groups = [0, 0, 1, 1, 2];
        let (mut order, mut times) = (vec![3, 4, 0, 2, 1], vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        together(&mut order, &mut times, &groups);
        assert_eq!(order, [2, 3, 4, 0, 1]);
        assert_eq!(times, [1.0, 1.0, 3.0, 4.0, 4.0]);
    }
}
