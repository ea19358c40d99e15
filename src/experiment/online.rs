//! Runs an experiment whose requests arrive over time: arms x seeds, in simulated time on all
//! cores or one by one on a real model, into a run directory, resumable by arm and seed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::config::{Arm, ExecutorKind, Experiment, OnlineArm, Repredict};
use crate::dataset::embedded;
use crate::error::{Error, Result};
use crate::execute::StepTimeModel;
use crate::online::Request;
use crate::online::arrivals::Arrivals;
use crate::online::engine::{Outcome, Renewal, Simulation};
use crate::online::memory::Memory;
use crate::online::metrics::{Figures, Slo, figures, group_e2e_s};
use crate::online::summary::{ArmFigures, OnlineArmSummary, OnlineSummary, over_seeds};
use crate::predictor::{Prediction, Workshop};
use crate::report::online::{OnlineDirectory, draw_online};
use crate::schedule::{Forecast, arrival_order};

use super::queries::Queries;
use super::serve::{measured_figures, same_answers};
use super::stage::Stage;
use super::workload::Workload;
use super::{Progress, RunOptions, at_once, open_directory};

/// Arms at most of which the engine over time is kept.
const TIMELINES: usize = 24;

/// A finished run.
pub struct OnlineRun {
    pub directory: PathBuf,
    pub report: PathBuf,
    pub summary: OnlineSummary,
}

/// Simulates or serves every arm under every seed.
///
/// # Errors
/// Anything wrong with dataset, model or predictors, or [`Error::Interrupted`]; finished arms are
/// kept then.
pub fn run_online(
    experiment: &Experiment,
    workshop: &Workshop,
    options: &RunOptions<'_>,
) -> Result<OnlineRun> {
    let name = &experiment.workload.dataset;
    let dataset = embedded::open(Path::new(name))?;
    let workload = Workload::of(experiment, &dataset)?;
    let queries = Queries::of(experiment, &dataset, workshop)?;
    let step_time = StepTimeModel::load(&experiment.executor.step_time)?;
    let live = match experiment.executor.kind {
        ExecutorKind::Replay => None,
        ExecutorKind::Live | ExecutorKind::LiveForced => {
            let stage = Stage::of(experiment, &workload, workshop, options.place)?;
            stage.warm_up(experiment)?;
            Some(stage)
        }
    };
    let directory = open_directory(experiment, &experiment.to_toml()?, options)?;
    let directory = OnlineDirectory::new(directory);
    let mut done = directory.finished()?;
    let pending: Vec<(u64, &Arm)> = (experiment.seeds.iter())
        .flat_map(|seed| experiment.arms.iter().map(move |arm| (*seed, arm)))
        .filter(|(seed, arm)| !done.iter().any(|d| d.arm == arm.name && d.seed == *seed))
        .collect();
    let slo = experiment.workload.slo.unwrap_or_default();
    let threads = workshop.team().threads();
    let total = experiment.arms.len() * experiment.seeds.len();
    let interrupted = |kept: usize| {
        Err(Error::Interrupted(format!(
            "stopped with {kept} of {total} arms kept in {}: the same command with --resume \
             continues",
            directory.path().display()
        )))
    };
    // No more at once than are needed: a million requests take their memory. A live arm has
    // the machine to itself.
    let together = match &live {
        Some(_) => 1,
        None => 2 * threads.max(1),
    };
    for some in pending.chunks(together) {
        if (options.stop)().is_break() {
            return interrupted(done.len());
        }
        if let (Some(stage), [(seed, arm)]) = (&live, some) {
            (options.on_progress)(&Progress {
                arm: &arm.name,
                seed: *seed,
                done: done.len(),
                total,
            });
            match stage.serve(arm, *seed, (&workload, &queries), &slo, options.stop) {
                Ok(run) => {
                    directory.append(&run)?;
                    done.push(run);
                }
                Err(Error::Interrupted(_)) => return interrupted(done.len()),
                Err(error) => {
                    if done.is_empty() {
                        directory.discard();
                    }
                    return Err(error.from_file(name));
                }
            }
            continue;
        }
        let prepared = some
            .iter()
            .map(|(seed, arm)| {
                prepare(arm, *seed, &workload, |lengths| {
                    queries.remembered(arm, *seed, &workload, lengths)
                })
            })
            .collect::<Result<Vec<_>>>();
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                if done.is_empty() {
                    directory.discard();
                }
                return Err(error.from_file(name));
            }
        };
        let outcomes = at_once(&prepared, threads, |ready| {
            let outcome = ready.simulate(&step_time)?;
            let shown = experiment.arms.len() <= TIMELINES && ready.seed == experiment.seeds[0];
            Ok(ArmFigures {
                arm: ready.name.clone(),
                seed: ready.seed,
                figures: ready.figures(&outcome, &slo, &step_time)?,
                timeline: if shown { outcome.timeline } else { Vec::new() },
                measured: None,
            })
        });
        let mut failed = None;
        for outcome in outcomes {
            match outcome {
                Ok(outcome) => {
                    directory.append(&outcome)?;
                    done.push(outcome);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
    let summary = summarise(experiment, (&workload, live.as_ref()), &step_time, &done)?;
    directory.write_summary(&summary)?;
    let report = draw_online(directory.path())?;
    Ok(OnlineRun {
        directory: directory.path().to_path_buf(),
        report,
        summary,
    })
}

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
    fn simulate(&self, step_time: &StepTimeModel) -> Result<Outcome> {
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

    /// Every figure, those of groups where there are any.
    fn figures(&self, outcome: &Outcome, slo: &Slo, step_time: &StepTimeModel) -> Result<Figures> {
        let budget = self.online.limits.token_budget;
        let alone = |request: &Request| alone_s(request, budget, step_time);
        let group_e2e_s = match self.groups.is_empty() {
            true => None,
            false => Some(group_e2e_s(&self.requests, outcome, &self.groups)),
        };
        Ok(Figures {
            group_e2e_s,
            ..figures(&self.requests, outcome, slo, alone)?
        })
    }
}

/// Simulates every arm under the first seed with the recorded labels for predictions: how long
/// that takes tells how long the experiment will, and if it is run live the simulated seconds
/// of all arms, which are returned.
///
/// # Errors
/// As [`run_online`]'s, but for predictors.
pub(super) fn try_out(
    experiment: &Experiment,
    workload: &Workload<'_>,
    step_time: &StepTimeModel,
) -> Result<f64> {
    let mut simulated_s = 0.0;
    for arm in &experiment.arms {
        let most = arm.schedule.max_new_tokens;
        let labels = || {
            let said = workload.instances.iter().map(|i| {
                let prompt = i.samples[0].prompt_tokens as usize;
                Forecast::new(&Prediction::of(i.label(arm.label)), prompt, most)
            });
            said.collect()
        };
        let ready = prepare(arm, experiment.seeds[0], workload, |_| Ok(labels()))?;
        simulated_s += ready.simulate(step_time)?.makespan_s;
    }
    Ok(simulated_s)
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
        (_, Some(at)) => said(&|forecast| forecast.at(at)),
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

/// Lets the requests of each group come together, when its first one would.
fn together(order: &mut [usize], times: &mut [f64], groups: &[u32]) {
    let mut first = vec![usize::MAX; groups.len()];
    for (place, request) in order.iter().enumerate() {
        let known = &mut first[groups[*request] as usize];
        *known = (*known).min(place);
    }
    let at: Vec<f64> = times.to_vec();
    order.sort_by_key(|r| (first[groups[*r] as usize], *r));
    for (time, request) in times.iter_mut().zip(order.iter()) {
        *time = at[first[groups[*request] as usize]];
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

fn summarise(
    experiment: &Experiment,
    (workload, live): (&Workload<'_>, Option<&Stage>),
    step_time: &StepTimeModel,
    runs: &[ArmFigures],
) -> Result<OnlineSummary> {
    let of =
        |arm: &Arm| -> Vec<&ArmFigures> { runs.iter().filter(|run| run.arm == arm.name).collect() };
    // The first arm with the same load and the same engine.
    let base_of = |arm: &Arm| -> &Arm {
        let alike = |other: &&Arm| match (&other.online, &arm.online) {
            (Some(a), Some(b)) => a.arrivals == b.arrivals && a.limits == b.limits,
            _ => false,
        };
        experiment
            .arms
            .iter()
            .find(alike)
            .unwrap_or(&experiment.arms[0])
    };
    let (_, estimated_prompts) = workload.estimated_prompts();
    let mut arms = Vec::new();
    for arm in &experiment.arms {
        let own = of(arm);
        let base = base_of(arm);
        let (mut figures, e2e_gain_pct, throughput_gain_pct) = over_seeds(&own, &of(base))?;
        figures.extend(measured_figures(&own)?);
        let Some(online) = &arm.online else { continue };
        arms.push(OnlineArmSummary {
            name: arm.name.clone(),
            policy: online.policy.name(),
            memory: online.memory.name(),
            repredict: online.repredict.map_or_else(String::new, |r| r.name()),
            predictor: arm.predictor.clone(),
            arrivals: online.arrivals.in_words(),
            rate: online.arrivals.rate(),
            noise: online.noise,
            slots: online.limits.slots,
            kv_tokens: online.limits.kv_tokens,
            requests: workload.instances.len(),
            estimated_prompts,
            compared_with: base.name.clone(),
            seeds: own.iter().map(|run| run.seed).collect(),
            queue_formed: figures.get("waiting_mean").is_some_and(|w| w.mean >= 1.0),
            figures,
            e2e_gain_pct,
            throughput_gain_pct,
            outputs_equal_first: same_answers(experiment, &own, runs),
        });
    }
    Ok(OnlineSummary {
        experiment: experiment.name.clone(),
        created: jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        simulated: live.is_none(),
        executor: live.map(|stage| stage.describe(experiment)),
        step_time: match live {
            // Nothing was simulated with it.
            Some(Stage::Live {
                step_time: None, ..
            }) => String::new(),
            _ => step_time.name.clone(),
        },
        arrivals: experiment
            .workload
            .arrivals
            .map_or_else(String::new, |a| a.in_words()),
        arms,
    })
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
        assert_eq!(times, [1.0, 1.0, 2.0, 3.0, 3.0]);
    }
}
