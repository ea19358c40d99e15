//! Runs an experiment file: arms x seeds on an executor, into a run directory, resumable by
//! arm and seed. Seeds are the outer loop, so that a drift of the machine hits all arms alike.

mod estimate;
mod journal;
mod online;
mod queries;
mod ready;
mod serve;
mod stage;
mod workload;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::config::{Arm, Experiment};
use crate::dataset::embedded;
use crate::error::{Error, Result};
use crate::evaluate::accounting::summarise_arm;
use crate::evaluate::summary::{ArmRun, Summary};
use crate::predictor::Workshop;
use crate::provenance::{Inputs, ModelIdentity};
use crate::report::{RunDirectory, draw_run};

pub use estimate::{Estimate, estimate};
use journal::Journal;
pub use online::{OnlineRun, run_online};
use queries::Queries;
use stage::Stage;
pub use workload::Workload;

/// Replays that are prepared, and then run by all threads.
const TOGETHER: usize = 64;

/// What [`run`] tells while it goes on.
pub struct Progress<'a> {
    /// The arm that is about to run; its name.
    pub arm: &'a str,
    /// The seed it is about to run under.
    pub seed: u64,
    /// Arms x seeds done and to do.
    pub done: usize,
    /// Arms x seeds in all.
    pub total: usize,
}

/// How a run is to be begun.
pub struct RunOptions<'a> {
    /// `results/`, or wherever runs are kept.
    pub root: &'a Path,
    /// Go on with the latest run of the same experiment, if it is unfinished.
    pub resume: bool,
    /// Told before each arm and seed.
    pub on_progress: &'a dyn Fn(&Progress<'_>),
    /// Asked again and again whether to stop; `Break` keeps the arms that are done.
    pub stop: &'a dyn Fn() -> ControlFlow<()>,
}

/// A finished run.
pub struct Run {
    /// The run's folder.
    pub directory: PathBuf,
    /// The report in it.
    pub report: PathBuf,
    /// What the arms came to, as `summary.json` has it.
    pub summary: Summary,
}

/// Runs every arm under every seed.
///
/// # Errors
/// Anything wrong with dataset, model or predictors (before the first arm runs), or
/// [`Error::Interrupted`]; finished arms are kept then.
pub fn run(experiment: &Experiment, workshop: &Workshop, options: &RunOptions<'_>) -> Result<Run> {
    let dataset = embedded::open(Path::new(&experiment.workload.dataset))?;
    let workload = Workload::of(experiment, &dataset)?;
    let notes = workload.remembered(experiment)?;
    let queries = Queries::of(experiment, &dataset, workshop)?;
    let stage = Stage::of(experiment, &workload, workshop)?;
    let config = experiment.to_toml()?;
    stage.warm_up(experiment)?;
    let environment = environment_of(experiment, workshop, Some(&stage))?;
    let directory = open_directory(experiment, &config, &environment, options)?;
    let mut journal = Journal::open(directory)?;
    let total = experiment.seeds.len() * experiment.arms.len();
    let mut pending: Vec<(u64, &Arm)> = (experiment.seeds.iter())
        .flat_map(|seed| experiment.arms.iter().map(move |arm| (*seed, arm)))
        .filter(|(seed, arm)| !journal.has(&arm.name, *seed))
        .collect();
    pending.reverse();
    let together = match &stage {
        Stage::Live { .. } => 1,
        Stage::Replay { .. } => TOGETHER,
    };
    while !pending.is_empty() {
        let (mut prepared, mut failed) = (Vec::new(), None);
        for (seed, arm) in pending
            .split_off(pending.len().saturating_sub(together))
            .iter()
            .rev()
        {
            if (options.stop)().is_break() {
                return Err(journal.interrupted(total));
            }
            (options.on_progress)(&Progress {
                arm: &arm.name,
                seed: *seed,
                done: journal.runs().len() + prepared.len(),
                total,
            });
            match stage.prepare(arm, *seed, &workload, &queries) {
                Ok(ready) => prepared.push(ready),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let mut outcomes: Vec<Result<ArmRun>> = match &stage {
            Stage::Live { .. } => prepared
                .iter()
                .map(|arm| stage.run(arm, options.stop))
                .collect(),
            Stage::Replay {
                prompt_tokens,
                step_time,
            } => at_once(&prepared, workshop.team().threads(), |arm| {
                arm.replay(prompt_tokens, step_time)
            }),
        };
        // What was prepared before it is done and kept.
        outcomes.extend(failed.map(Err));
        for outcome in outcomes {
            match outcome {
                Ok(run) => journal.push(run)?,
                Err(Error::Interrupted(_)) => return Err(journal.interrupted(total)),
                Err(error) => {
                    journal.close()?;
                    return Err(error.from_file(&experiment.workload.dataset));
                }
            }
        }
        if (options.stop)().is_break() && !pending.is_empty() {
            return Err(journal.interrupted(total));
        }
    }
    let (directory, runs) = journal.finish()?;
    let mut summary = summarise(experiment, &stage, &notes, &runs);
    summary.notes.extend(nothing_failed(&summary));
    directory.write_summary(&summary)?;
    let report = draw_run(directory.path())?;
    Ok(Run {
        directory: directory.path().to_path_buf(),
        report,
        summary,
    })
}

/// Runs by so many threads; outcomes in the order of the arms.
fn at_once<A: Sync, R: Send>(
    arms: &[A],
    threads: usize,
    run: impl Fn(&A) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<Result<R>>>> = arms.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, arms.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(arm) = arms.get(place) else { break };
                    let outcome = run(arm);
                    if let Ok(mut slot) = outcomes[place].lock() {
                        *slot = Some(outcome);
                    }
                }
            });
        }
    });
    let broken = || Err(Error::Numeric("a replay did not come to its end".into()));
    (outcomes.into_iter())
        .map(|slot| slot.into_inner().ok().flatten().unwrap_or_else(broken))
        .collect()
}

/// What the run hangs on besides its configuration.
fn environment_of(
    experiment: &Experiment,
    workshop: &Workshop,
    stage: Option<&Stage>,
) -> Result<Value> {
    let mut models = workshop.used();
    if let Some(shape) = &experiment.executor.random_weights {
        let identity = ModelIdentity {
            name: format!("random weights of {shape}"),
            sha256: None,
        };
        models.insert(0, identity);
    }
    Inputs {
        threads: workshop.team().threads(),
        device: match stage {
            Some(Stage::Live { model, .. }) => model.device(),
            // In simulated time, which this machine has no part in.
            Some(Stage::Replay { .. }) | None => "replay".into(),
        },
        dataset: Path::new(&experiment.workload.dataset),
        models,
        seeds: experiment.seeds.clone(),
    }
    .environment()
}

fn open_directory(
    experiment: &Experiment,
    config: &str,
    environment: &Value,
    options: &RunOptions<'_>,
) -> Result<RunDirectory> {
    if options.resume
        && let Some(latest) = RunDirectory::latest(options.root, &experiment.name)?
    {
        let path = latest.path().join("config.toml");
        let begun = crate::regular_file::text_up_to(&path, crate::regular_file::LISTS)?;
        if begun == config {
            refuse_other_data(latest.path(), environment)?;
            return Ok(latest);
        }
        return Err(Error::Usage(format!(
            "the latest run, {}, was begun with another configuration: run without --resume",
            latest.path().display()
        )));
    }
    let directory = RunDirectory::create(options.root, &experiment.name)?;
    directory.write_config(config)?;
    directory.write_environment(environment)?;
    Ok(directory)
}

/// Refuses to go on with a run whose dataset or model was another file, as its environment tells
/// (an earlier version's does not).
fn refuse_other_data(run: &Path, environment: &Value) -> Result<()> {
    let path = run.join("environment.json");
    let text =
        crate::regular_file::text_up_to(&path, crate::regular_file::LISTS).unwrap_or_default();
    let begun: Value = serde_json::from_str(&text).unwrap_or_default();
    for what in ["dataset", "model"] {
        let hash = |of: &Value| of[what]["sha256"].as_str().map(str::to_string);
        if let (Some(then), Some(now)) = (hash(&begun), hash(environment))
            && then != now
        {
            return Err(Error::Usage(format!(
                "{} was begun with another {what} of the same name: run without --resume",
                run.display()
            )));
        }
    }
    Ok(())
}

fn summarise(experiment: &Experiment, stage: &Stage, notes: &[String], runs: &[ArmRun]) -> Summary {
    let runs_of =
        |arm: &Arm| -> Vec<ArmRun> { runs.iter().filter(|r| r.arm == arm.name).cloned().collect() };
    let vanilla = runs_of(&experiment.arms[experiment.vanilla()]);
    let arms = experiment
        .arms
        .iter()
        .map(|arm| {
            let own = runs_of(arm);
            let mut summary = summarise_arm(
                &arm.name,
                &arm.predictor,
                &arm.schedule,
                &own,
                Some(&vanilla),
            );
            summary.outputs_equal_vanilla = same_outputs(&own, &vanilla);
            summary.published = arm.published;
            summary
        })
        .collect();
    Summary {
        experiment: experiment.name.clone(),
        created: crate::provenance::now(),
        executor: stage.describe(experiment),
        published: experiment.published.clone(),
        notes: notes.to_vec(),
        arms,
    }
}

/// Where failures are collected and there are none, the arms show nothing of it.
fn nothing_failed(summary: &Summary) -> Option<String> {
    let mut collecting = summary
        .arms
        .iter()
        .filter(|arm| arm.fcr != "off")
        .peekable();
    collecting.peek()?;
    collecting
        .all(|arm| arm.failure_ratio.mean == 0.0)
        .then(|| {
            "No request outlived its prediction, so collecting failures (FCR) had nothing to do: \
         these predictors know, or foresee too much. A trained predictor fails."
                .to_string()
        })
}

/// Whether every answer equals vanilla's of the same seed; none where nothing was generated.
fn same_outputs(own: &[ArmRun], vanilla: &[ArmRun]) -> Option<bool> {
    own.iter()
        .map(|run| {
            let hash = run.outputs_sha256.as_ref()?;
            let other = vanilla.iter().find(|v| v.seed == run.seed)?;
            Some(other.outputs_sha256.as_ref()? == hash)
        })
        .try_fold(true, |all, same| Some(all && same?))
}
