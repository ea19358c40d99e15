//! Where the arms of an experiment are run: on a model, or in replay.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Arm, ExecutorConfig, ExecutorKind, Experiment};
use crate::engine::Model;
use crate::error::Result;
use crate::evaluate::summary::{ArmRun, ExecutorSummary};
use crate::execute::{Executor, LiveExecutor, LiveRequest, ReplayExecutor, StepTimeModel, run_arm};
use crate::model::Precision;
use crate::predictor::Workshop;
use crate::report::wording::FORCED;
use crate::schedule::{
    Batching, Forecast, MicroBatch, ScheduleOptions, Scheduling, StepCost, arrival_order,
};

use super::queries::Queries;
use super::workload::Workload;

/// Where arms are run.
pub(super) enum Stage {
    Live {
        model: Arc<dyn Model>,
        requests: Vec<LiveRequest>,
        /// Whether responses are as long as recorded, whatever is drawn.
        forced: bool,
        /// What `planned` scheduling reckons with and the run is compared with, where the
        /// experiment names it; the time that counts is measured.
        step_time: Option<StepTimeModel>,
    },
    Replay {
        prompt_tokens: Vec<usize>,
        step_time: StepTimeModel,
    },
}

impl Stage {
    pub fn of(
        experiment: &Experiment,
        workload: &Workload<'_>,
        workshop: &Workshop,
    ) -> Result<Stage> {
        let executor = &experiment.executor;
        let most = experiment.arms.iter().map(|a| a.schedule.max_new_tokens);
        let most = most.max().unwrap_or(0);
        // The paper's times say nothing of a live run's device.
        let named = executor.step_time != ExecutorConfig::PAPER;
        let step_time = StepTimeModel::load(&executor.step_time)?;
        let of_device = named.then(|| step_time.clone());
        Ok(match (executor.kind, &executor.random_weights) {
            (ExecutorKind::LiveForced, Some(shape)) => {
                let team = workshop.team().clone();
                let model = workshop
                    .place()
                    .put_random(shape, 42, Precision::F32, team)?;
                let requests = workload.filler_requests(model.config(), most)?;
                Stage::Live {
                    model,
                    requests,
                    forced: true,
                    step_time: of_device,
                }
            }
            (ExecutorKind::Live | ExecutorKind::LiveForced, _) => {
                let forced = executor.kind == ExecutorKind::LiveForced;
                let chat = workshop.chat()?;
                let requests = workload
                    .live_requests(&chat, most, forced)
                    .map_err(|e| e.from_file(&experiment.workload.dataset))?;
                Stage::Live {
                    model: chat.model().clone(),
                    requests,
                    forced,
                    step_time: of_device,
                }
            }
            (ExecutorKind::Replay, _) => Stage::Replay {
                prompt_tokens: workload.prompt_tokens(),
                step_time,
            },
        })
    }

    /// Touches the weights and wakes the threads, so that the first arm does not pay for it.
    pub fn warm_up(&self, experiment: &Experiment) -> Result<()> {
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
            keeps: false,
        };
        LiveExecutor::new(model.as_ref(), requests, 8, &go_on)
            .run_batch(&batch, Batching::Static)
            .map(|_| ())
    }

    /// What an arm under a seed needs before it can run: predictions are made here.
    pub fn prepare(
        &self,
        arm: &Arm,
        seed: u64,
        workload: &Workload<'_>,
        queries: &Queries,
    ) -> Result<Prepared> {
        let lengths = workload.lengths(seed)?;
        let begun = Instant::now();
        let forecasts = match self {
            Stage::Live { .. } => queries.forecast(arm, workload, &lengths)?.into(),
            Stage::Replay { .. } => queries.remembered(arm, seed, workload, &lengths)?,
        };
        let predict_s = begun.elapsed().as_secs_f64();
        // Vanilla and every other arm that ignores predictions do not wait for them, and
        // simulated time knows nothing of what predicting costs on other hardware.
        let waits = arm.schedule.scheduling != Scheduling::None;
        Ok(Prepared {
            name: arm.name.clone(),
            schedule: ScheduleOptions {
                step_cost: self.step_cost(),
                ..arm.schedule.clone()
            },
            seed,
            order: arrival_order(lengths.len(), seed),
            lengths,
            forecasts,
            predict_s: match self {
                Stage::Live { .. } if waits => predict_s,
                _ => 0.0,
            },
        })
    }

    /// Runs an arm for real.
    ///
    /// # Errors
    /// The executor's, or [`Error::Interrupted`].
    pub fn run(&self, arm: &Prepared, stop: &dyn Fn() -> ControlFlow<()>) -> Result<ArmRun> {
        let most = arm.schedule.max_new_tokens;
        match self {
            Stage::Live {
                model,
                requests,
                forced,
                step_time,
            } => {
                let mut live = LiveExecutor::new(model.as_ref(), requests, most, stop);
                if *forced {
                    live = live.forced_to(&arm.lengths);
                }
                if arm.schedule.keeps() {
                    live = live.keeping(arm.most_kept());
                }
                let mut run = arm.run_on(&mut live)?;
                run.outputs_sha256 = live.outputs_sha256();
                if let Some(step_time) = step_time {
                    let prompts: Vec<usize> = requests.iter().map(|r| r.prompt.len()).collect();
                    run.replayed_s = Some(arm.again(&run, &prompts, step_time)?.total_s);
                }
                Ok(run)
            }
            Stage::Replay {
                prompt_tokens,
                step_time,
            } => arm.replay(prompt_tokens, step_time),
        }
    }

    /// What planning takes steps to cost: what the replay charges, or what the experiment says
    /// of the device.
    fn step_cost(&self) -> StepCost {
        match self {
            Stage::Live { step_time, .. } => match step_time {
                Some(step_time) => step_time.cost(),
                None => ScheduleOptions::default().step_cost,
            },
            Stage::Replay { step_time, .. } => step_time.cost(),
        }
    }

    pub fn describe(&self, experiment: &Experiment) -> ExecutorSummary {
        match self {
            Stage::Live {
                model,
                forced: false,
                ..
            } => ExecutorSummary::Live {
                device: model.device(),
                model: experiment.executor.model.clone(),
            },
            Stage::Live { model, .. } => ExecutorSummary::LiveForced {
                device: model.device(),
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

/// An arm under a seed, ready to run.
pub(super) struct Prepared {
    pub name: String,
    pub seed: u64,
    schedule: ScheduleOptions,
    order: Vec<usize>,
    lengths: Vec<usize>,
    forecasts: Arc<[Forecast]>,
    predict_s: f64,
}

impl Prepared {
    /// Runs it in simulated time.
    pub fn replay(&self, prompt_tokens: &[usize], step_time: &StepTimeModel) -> Result<ArmRun> {
        self.replay_of(&self.lengths, prompt_tokens, step_time)
    }

    /// Requests that run or are kept at once: those of a group, and where these are carried on,
    /// who knows.
    fn most_kept(&self) -> usize {
        match self.schedule.carry {
            true => self.order.len(),
            false => self.schedule.group_size.min(self.order.len()),
        }
    }

    /// Replays what was run live: the same schedule, the lengths that were served.
    fn again(
        &self,
        run: &ArmRun,
        prompt_tokens: &[usize],
        step_time: &StepTimeModel,
    ) -> Result<ArmRun> {
        let mut lengths = self.lengths.clone();
        for record in &run.requests {
            lengths[record.request] = record.response_tokens;
        }
        self.replay_of(&lengths, prompt_tokens, step_time)
    }

    fn replay_of(
        &self,
        lengths: &[usize],
        prompt_tokens: &[usize],
        step_time: &StepTimeModel,
    ) -> Result<ArmRun> {
        let most = self.schedule.max_new_tokens;
        let step_time = step_time.clone();
        self.run_on(&mut ReplayExecutor::new(
            lengths,
            prompt_tokens,
            most,
            step_time,
        ))
    }

    fn run_on(&self, executor: &mut dyn Executor) -> Result<ArmRun> {
        run_arm(
            executor,
            &self.name,
            self.seed,
            &self.order,
            &self.forecasts,
            &self.schedule,
            self.predict_s,
        )
    }
}
