//! Runs an experiment whose requests arrive over time: arms x seeds, in simulated time on all
//! cores or one by one on a real model, into a run directory, resumable by arm and seed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::config::{Arm, ExecutorKind, Experiment, OnlineArm};
use crate::dataset::embedded;
use crate::error::{Error, Result};
use crate::execute::StepTimeModel;
use crate::online::Request;
use crate::online::arrivals::Arrivals;
use crate::online::engine::{Outcome, simulate};
use crate::online::metrics::figures;
use crate::online::summary::{ArmFigures, OnlineArmSummary, OnlineSummary, over_seeds};
use crate::predictor::{Prediction, Workshop};
use crate::report::online::{OnlineDirectory, draw_online};
use crate::schedule::{Forecast, arrival_order};

use super::queries::Queries;
use super::serve::{measured_figures, same_answers};
use super::stage::Stage;
use super::workload::Workload;
use super::{Progress, RunOptions, at_once, open_directory};

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
            let budget = ready.online.limits.token_budget;
            let alone = |request: &Request| alone_s(request, budget, &step_time);
            Ok(ArmFigures {
                arm: ready.name.clone(),
                seed: ready.seed,
                figures: figures(&ready.requests, &outcome, &slo, alone)?,
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

/// An arm under a seed, ready to be simulated or served.
pub(super) struct Ready {
    pub name: String,
    seed: u64,
    pub online: OnlineArm,
    /// In order of arrival.
    pub requests: Vec<Request>,
    /// Which of the workload each of them is.
    pub order: Vec<usize>,
    pub sizes: Vec<f32>,
}

impl Ready {
    fn simulate(&self, step_time: &StepTimeModel) -> Result<Outcome> {
        let policy = self.online.policy.build()?;
        let limits = &self.online.limits;
        simulate(
            &self.requests,
            &self.sizes,
            policy.as_ref(),
            limits,
            step_time,
        )
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
    let times = online.arrivals.times(&recorded, seed)?;
    let mut order = arrival_order(lengths.len(), seed);
    if let Arrivals::Recorded { .. } = online.arrivals {
        order = (0..lengths.len()).collect();
        order.sort_by(|a, b| {
            recorded[*a]
                .partial_cmp(&recorded[*b])
                .unwrap_or(std::cmp::Ordering::Equal)
        });
    }
    let prompts = workload.prompt_tokens();
    let policy = online.policy.build()?;
    // By request: what is said of one does not hang on when it comes.
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let said = forecasts.iter().map(|forecast| {
        let z: f64 = StandardNormal.sample(&mut rng);
        (policy.size(forecast) * (online.noise * z).exp()) as f32
    });
    let said: Vec<f32> = said.collect();
    Ok(Ready {
        name: arm.name.clone(),
        seed,
        online,
        requests: order
            .iter()
            .zip(times)
            .map(|(request, arrival_s)| Request {
                arrival_s,
                prompt_tokens: prompts[*request] as u32,
                response_tokens: lengths[*request] as u32,
            })
            .collect(),
        sizes: order.iter().map(|r| said[*r]).collect(),
        order,
    })
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
            predictor: arm.predictor.clone(),
            arrivals: online.arrivals.in_words(),
            rate: online.arrivals.rate(),
            noise: online.noise,
            slots: online.limits.slots,
            kv_tokens: online.limits.kv_tokens,
            requests: workload.instances.len(),
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
