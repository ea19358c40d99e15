//! Runs an experiment whose requests arrive over time: arms x seeds, in simulated time on all
//! cores or one by one on a real model, into a run directory, resumable by arm and seed.

use std::path::{Path, PathBuf};

use crate::config::{Arm, ExecutorKind, Experiment};
use crate::dataset::embedded;
use crate::error::{Error, Result};
use crate::execute::StepTimeModel;
use crate::online::summary::{ArmFigures, OnlineArmSummary, OnlineSummary, over_seeds};
use crate::predictor::{Prediction, Workshop};
use crate::report::online::{OnlineDirectory, draw_online};
use crate::schedule::Forecast;

use super::queries::Queries;
use super::ready::prepare;
use super::serve::{measured_figures, same_answers};
use super::stage::Stage;
use super::workload::Workload;
use super::{Progress, RunOptions, at_once, environment_of, open_directory};

/// Arms at most of which the engine over time is kept.
const TIMELINES: usize = 24;

/// A finished run.
pub struct OnlineRun {
    /// The run's folder.
    pub directory: PathBuf,
    /// The report in it.
    pub report: PathBuf,
    /// What the arms came to, as `summary.json` has it.
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
    let notes = workload.remembered(experiment)?;
    let queries = Queries::of(experiment, &dataset, workshop)?;
    let step_time = StepTimeModel::load(&experiment.executor.step_time)?;
    let live = match experiment.executor.kind {
        ExecutorKind::Replay => None,
        ExecutorKind::Live | ExecutorKind::LiveForced => {
            let stage = Stage::of(experiment, &workload, workshop)?;
            stage.warm_up(experiment)?;
            Some(stage)
        }
    };
    let environment = environment_of(experiment, workshop, live.as_ref())?;
    let directory = open_directory(experiment, &experiment.to_toml()?, &environment, options)?;
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
        if let [(seed, arm), ..] = some {
            (options.on_progress)(&Progress {
                arm: &arm.name,
                seed: *seed,
                done: done.len(),
                total,
            });
        }
        if let (Some(stage), [(seed, arm)]) = (&live, some) {
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
            if done.is_empty() {
                directory.discard();
            }
            return Err(error);
        }
    }
    let mut summary = summarise(experiment, (&workload, live.as_ref()), &step_time, &done)?;
    summary.notes = notes;
    directory.write_summary(&summary, &done)?;
    let report = draw_online(directory.path())?;
    Ok(OnlineRun {
        directory: directory.path().to_path_buf(),
        report,
        summary,
    })
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
            (Some(a), Some(b)) => {
                let most = |arm: &Arm| arm.schedule.max_new_tokens;
                a.arrivals == b.arrivals && a.limits == b.limits && most(other) == most(arm)
            }
            _ => false,
        };
        experiment
            .arms
            .iter()
            .find(alike)
            .unwrap_or(&experiment.arms[0])
    };
    // A model's own prompts are tokenised.
    let estimated_prompts = match (live, &experiment.executor.random_weights) {
        (Some(_), None) => 0,
        _ => workload.estimated_prompts().1,
    };
    let mut arms = Vec::new();
    for arm in &experiment.arms {
        let own = of(arm);
        let base = base_of(arm);
        let beside = of(base);
        let (mut figures, e2e_gain_pct, throughput_gain_pct) = over_seeds(&own, &beside)?;
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
            queue_formed: false,
            queue_exceeds_batch: false,
            figures,
            e2e_gain_pct,
            throughput_gain_pct,
            outputs_equal_first: same_answers(experiment, &own, runs),
        });
    }
    Ok(OnlineSummary {
        experiment: experiment.name.clone(),
        created: crate::provenance::now(),
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
        notes: Vec::new(),
        arms,
    }
    .judge_queues())
}
