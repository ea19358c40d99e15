//! Runs an experiment file: arms x seeds on an executor, into a run directory, resumable by
//! arm and seed. Seeds are the outer loop, so that a drift of the machine hits all arms alike.

mod workload;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Arm, ExecutorKind, Experiment, Served};
use crate::dataset::{LengthDataset, embedded};
use crate::engine::{Model, Place};
use crate::error::{Error, Result};
use crate::evaluate::accounting::summarise_arm;
use crate::evaluate::summary::{ArmRun, ExecutorSummary, Summary};
use crate::execute::{Executor, LiveExecutor, LiveRequest, ReplayExecutor, StepTimeModel, run_arm};
use crate::model::{ChatModel, Checkpoint, Precision};
use crate::predictor::{Query, Workshop, training_lengths};
use crate::provenance::environment;
use crate::report::wording::FORCED;
use crate::report::{RunDirectory, draw_run};
use crate::schedule::{Batching, MicroBatch, Scheduling, arrival_order};

pub use workload::Workload;

/// What [`run`] tells while it goes on.
pub struct Progress<'a> {
    pub arm: &'a str,
    pub seed: u64,
    /// Arms x seeds done and to do.
    pub done: usize,
    pub total: usize,
}

/// How a run is to be begun.
pub struct RunOptions<'a> {
    /// Where live runs compute, if the experiment does not say.
    pub place: Place,
    /// `results/`, or wherever runs are kept.
    pub root: &'a Path,
    /// Go on with the latest run of the same experiment, if it is unfinished.
    pub resume: bool,
    pub on_progress: &'a dyn Fn(&Progress<'_>),
    pub stop: &'a dyn Fn() -> ControlFlow<()>,
}

/// A finished run.
pub struct Run {
    pub directory: PathBuf,
    pub report: PathBuf,
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
    let queries = Queries::of(experiment, &dataset, workshop)?;
    let stage = Stage::of(experiment, &workload, workshop, options.place)?;
    let config = experiment.to_toml()?;
    stage.warm_up(experiment)?;
    let directory = open_directory(experiment, &config, options)?;
    let mut runs = directory.finished_arms()?;
    let total = experiment.seeds.len() * experiment.arms.len();
    for &seed in &experiment.seeds {
        for arm in &experiment.arms {
            if runs.iter().any(|r| r.arm == arm.name && r.seed == seed) {
                continue;
            }
            (options.on_progress)(&Progress {
                arm: &arm.name,
                seed,
                done: runs.len(),
                total,
            });
            let outcome = stage.run(arm, seed, &workload, &queries, options.stop);
            let finished = match outcome {
                Ok(finished) => finished,
                Err(Error::Interrupted(_)) => return Err(interrupted(&directory, &runs, total)),
                Err(error) => {
                    if runs.is_empty() {
                        directory.discard();
                    }
                    return Err(error.from_file(&experiment.workload.dataset));
                }
            };
            runs.push(finished);
            // The large tables first: an arm that is listed is complete.
            directory.write_batches(&runs)?;
            directory.write_requests(&runs)?;
            if let Some(run) = runs.last() {
                directory.append_arm(run)?;
            }
            if (options.stop)().is_break() && runs.len() < total {
                return Err(interrupted(&directory, &runs, total));
            }
        }
    }
    let summary = summarise(experiment, &stage, &runs);
    directory.write_summary(&summary)?;
    let report = draw_run(directory.path())?;
    Ok(Run {
        directory: directory.path().to_path_buf(),
        report,
        summary,
    })
}

fn interrupted(directory: &RunDirectory, runs: &[ArmRun], total: usize) -> Error {
    Error::Interrupted(format!(
        "stopped with {} of {total} arms kept in {}: the same command with --resume continues",
        runs.len(),
        directory.path().display()
    ))
}

fn open_directory(
    experiment: &Experiment,
    config: &str,
    options: &RunOptions<'_>,
) -> Result<RunDirectory> {
    if options.resume
        && let Some(latest) = RunDirectory::latest(options.root, &experiment.name)?
    {
        let path = latest.path().join("config.toml");
        let begun = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        if begun == config {
            return Ok(latest);
        }
        return Err(Error::Usage(format!(
            "the latest run, {}, was begun with another configuration: run without --resume",
            latest.path().display()
        )));
    }
    let directory = RunDirectory::create(options.root, &experiment.name)?;
    directory.write_config(config)?;
    directory.write_environment(&environment())?;
    Ok(directory)
}

/// Where arms are run.
enum Stage {
    Live {
        model: LiveModel,
        requests: Vec<LiveRequest>,
        /// Whether responses are as long as recorded, whatever is drawn.
        forced: bool,
    },
    Replay {
        prompt_tokens: Vec<usize>,
        step_time: StepTimeModel,
    },
}

/// The model of a live run: with its text side on the CPU, or wherever it computes.
enum LiveModel {
    Chat(Arc<ChatModel>),
    Placed(Box<dyn Model>),
}

impl LiveModel {
    fn get(&self) -> &dyn Model {
        match self {
            LiveModel::Chat(chat) => chat.llama(),
            LiveModel::Placed(model) => model.as_ref(),
        }
    }
}

impl Stage {
    fn of(
        experiment: &Experiment,
        workload: &Workload<'_>,
        workshop: &Workshop,
        place: Place,
    ) -> Result<Stage> {
        let executor = &experiment.executor;
        let most = experiment.arms.iter().map(|a| a.schedule.max_new_tokens);
        let most = most.max().unwrap_or(0);
        let place = match &executor.device {
            Some(device) => Place::parse(device)?,
            None => place,
        };
        Ok(match (executor.kind, &executor.random_weights) {
            (ExecutorKind::LiveForced, Some(shape)) => {
                let team = workshop.team().clone();
                let model = place.put_random(shape, 42, Precision::F32, team)?;
                let requests = workload.filler_requests(model.config(), most)?;
                Stage::Live {
                    model: LiveModel::Placed(model),
                    requests,
                    forced: true,
                }
            }
            (ExecutorKind::Live | ExecutorKind::LiveForced, _) => {
                let forced = executor.kind == ExecutorKind::LiveForced;
                let chat = workshop.chat()?;
                let requests = workload
                    .live_requests(&chat, most, forced)
                    .map_err(|e| e.from_file(&experiment.workload.dataset))?;
                let model = match place {
                    Place::Cpu => LiveModel::Chat(chat),
                    Place::Cuda(_) => {
                        let checkpoint = Checkpoint::load(&workshop.files()?)?;
                        let team = workshop.team().clone();
                        LiveModel::Placed(place.put(&checkpoint, Precision::F32, team)?)
                    }
                };
                Stage::Live {
                    model,
                    requests,
                    forced,
                }
            }
            (ExecutorKind::Replay, _) => Stage::Replay {
                prompt_tokens: workload.prompt_tokens(),
                step_time: StepTimeModel::load(&executor.step_time)?,
            },
        })
    }

    /// Touches the weights and wakes the threads, so that the first arm does not pay for it.
    fn warm_up(&self, experiment: &Experiment) -> Result<()> {
        let Stage::Live {
            model, requests, ..
        } = self
        else {
            return Ok(());
        };
        let size = experiment.arms[0].schedule.batch_size.min(requests.len());
        let go_on = || ControlFlow::Continue(());
        let batch = MicroBatch {
            members: (0..size).collect(),
            cap: 8,
        };
        LiveExecutor::new(model.get(), requests, 8, &go_on)
            .run_batch(&batch, Batching::Static)
            .map(|_| ())
    }

    fn run(
        &self,
        arm: &Arm,
        seed: u64,
        workload: &Workload<'_>,
        queries: &Queries,
        stop: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<ArmRun> {
        let lengths = workload.lengths(seed)?;
        let order = arrival_order(lengths.len(), seed);
        let most = arm.schedule.max_new_tokens;
        let begun = Instant::now();
        let predictions = match self {
            Stage::Live { .. } => queries.predict(arm, workload, &lengths)?,
            Stage::Replay { .. } => queries.remembered(arm, seed, workload, &lengths)?,
        };
        let predict_s = begun.elapsed().as_secs_f64();
        // Vanilla and every other arm that ignores predictions do not wait for them, and
        // simulated time knows nothing of what predicting costs on other hardware.
        let scheduled = arm.schedule.scheduling != Scheduling::None;
        let (mut executor, predict_s): (Box<dyn Executor + '_>, f64) = match self {
            Stage::Live {
                model,
                requests,
                forced,
            } => {
                let live = LiveExecutor::new(model.get(), requests, most, stop);
                let live = match forced {
                    true => live.forced_to(&lengths),
                    false => live,
                };
                (Box::new(live), if scheduled { predict_s } else { 0.0 })
            }
            Stage::Replay {
                prompt_tokens,
                step_time,
            } => (
                Box::new(ReplayExecutor::new(
                    &lengths,
                    prompt_tokens,
                    most,
                    step_time.clone(),
                )),
                0.0,
            ),
        };
        let mut run = run_arm(
            executor.as_mut(),
            &arm.name,
            seed,
            &order,
            &predictions,
            &arm.schedule,
            predict_s,
        )?;
        run.outputs_sha256 = executor.outputs_sha256();
        Ok(run)
    }

    fn describe(&self, experiment: &Experiment) -> ExecutorSummary {
        match self {
            Stage::Live {
                model,
                forced: false,
                ..
            } => ExecutorSummary::Live {
                device: model.get().device(),
                model: experiment.executor.model.clone(),
            },
            Stage::Live { model, .. } => ExecutorSummary::LiveForced {
                device: model.get().device(),
                model: match &experiment.executor.random_weights {
                    Some(shape) => format!("random weights of {shape}"),
                    None => experiment.executor.model.clone(),
                },
                what: FORCED.into(),
            },
            Stage::Replay { step_time, .. } => ExecutorSummary::Replay {
                step_time: step_time.name.clone(),
            },
        }
    }
}

/// A predictor under a label, and the seed where the served answers are drawn by it.
type PredictionKey = (String, Option<u64>);

/// The predictors of the arms, made once, with the training lengths of each label.
struct Queries {
    predictors: HashMap<String, Box<dyn crate::predictor::Predictor>>,
    /// Predictions of replays: simulated time does not count them, so each is made once.
    remembered: RefCell<HashMap<PredictionKey, Vec<f64>>>,
}

impl Queries {
    fn of(
        experiment: &Experiment,
        dataset: &LengthDataset,
        workshop: &Workshop,
    ) -> Result<Queries> {
        let mut predictors = HashMap::new();
        for arm in &experiment.arms {
            let key = predictor_key(arm);
            if predictors.contains_key(&key) {
                continue;
            }
            let training = training_lengths(&dataset.training_instances(), arm.label);
            predictors.insert(key, workshop.predictor(&arm.predictor, &training)?);
        }
        Ok(Queries {
            predictors,
            remembered: RefCell::default(),
        })
    }

    fn remembered(
        &self,
        arm: &Arm,
        seed: u64,
        workload: &Workload<'_>,
        lengths: &[usize],
    ) -> Result<Vec<f64>> {
        // Only where the seed draws the served answers can it change a prediction (oracle's).
        let drawn = (workload.served == Served::Random).then_some(seed);
        let key = (predictor_key(arm), drawn);
        if let Some(known) = self.remembered.borrow().get(&key) {
            return Ok(known.clone());
        }
        let predictions = self.predict(arm, workload, lengths)?;
        self.remembered
            .borrow_mut()
            .insert(key, predictions.clone());
        Ok(predictions)
    }

    fn predict(&self, arm: &Arm, workload: &Workload<'_>, lengths: &[usize]) -> Result<Vec<f64>> {
        let queries: Vec<Query<'_>> = workload
            .instances
            .iter()
            .zip(lengths)
            .map(|(instance, served)| Query {
                instruction_id: instance.instruction_id,
                instruction: instance.instruction,
                prompt_tokens: instance.samples[0].prompt_tokens,
                label: instance.label(arm.label),
                served: Some(*served as f64),
            })
            .collect();
        let predictions = self.predictors[&predictor_key(arm)].predict(&queries)?;
        Ok(predictions.into_iter().map(|p| p.tokens).collect())
    }
}

fn predictor_key(arm: &Arm) -> String {
    format!("{} {}", arm.predictor, arm.label)
}

fn summarise(experiment: &Experiment, stage: &Stage, runs: &[ArmRun]) -> Summary {
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
            summary
        })
        .collect();
    Summary {
        experiment: experiment.name.clone(),
        created: jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        executor: stage.describe(experiment),
        arms,
    }
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
