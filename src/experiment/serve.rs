//! An arm whose requests arrive over time, on a real model, and its simulation beside it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::config::{Arm, Experiment};
use crate::error::{Error, Result};
use crate::evaluate::summary::Measure;
use crate::execute::{Arriving, Executor, LiveExecutor, StepTimeModel};
use crate::online::arrivals::Arrivals;
use crate::online::engine::{Outcome, simulate};
use crate::online::metrics::{Figures, Slo, figures};
use crate::online::summary::{ArmFigures, Measured, ServedRequest, by_path};
use crate::online::{Fate, Request};

use super::queries::Queries;
use super::ready::{Ready, alone_s, prepare};
use super::stage::Stage;
use super::workload::Workload;

impl Stage {
    /// Serves an arm under a seed for real.
    ///
    /// # Errors
    /// A replay's stage, the predictor's or the engine's, or [`Error::Interrupted`].
    pub fn serve(
        &self,
        arm: &Arm,
        seed: u64,
        (workload, queries): (&Workload<'_>, &Queries),
        slo: &Slo,
        stop: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<ArmFigures> {
        let Stage::Live {
            model,
            requests,
            forced,
            step_time,
        } = self
        else {
            return Err(Error::Usage("a replay has no model to serve with".into()));
        };
        let took_s = Cell::new(0.0);
        let mut ready = prepare(arm, seed, workload, |lengths| {
            let begun = Instant::now();
            let forecasts = queries.forecast(arm, workload, lengths)?;
            took_s.set(begun.elapsed().as_secs_f64());
            Ok(forecasts.into())
        })?;
        // Who asks for no prediction does not wait for one.
        let predict_s = match ready.online.policy.build()?.predicts() {
            false => 0.0,
            true => took_s.get(),
        };
        for (coming, request) in ready.requests.iter_mut().zip(&ready.order) {
            coming.prompt_tokens = requests[*request].prompt.len() as u32;
        }
        let lengths = workload.lengths(seed)?;
        let most = arm.schedule.max_new_tokens;
        let mut live = LiveExecutor::new(model.as_ref(), requests, most, stop);
        if *forced {
            live = live.forced_to(&lengths);
        }
        let outcome = live.serve(&Arriving {
            requests: &ready.requests,
            order: &ready.order,
            sizes: &ready.sizes,
            policy: ready.online.policy.build()?.as_ref(),
            slots: ready.online.limits.slots,
            predict_s,
        })?;
        for (coming, request) in ready.requests.iter_mut().zip(&ready.order) {
            let tokens = live.outputs().get(request).map_or(1, Vec::len);
            coming.response_tokens = tokens as u32;
        }
        // How much slower than alone is known only where the device's times are.
        let alone = |request: &Request| {
            let budget = ready.online.limits.token_budget;
            let of_device = step_time.as_ref();
            of_device.map_or(f64::INFINITY, |time| alone_s(request, budget, time))
        };
        let simulated = match step_time {
            Some(step_time) => {
                let beside = ready.beside(step_time, predict_s)?;
                Some(Figures {
                    group_e2e_s: ready.group_e2e_s(&beside),
                    ..figures(&ready.requests, &beside, slo, alone)?
                })
            }
            None => None,
        };
        Ok(ArmFigures {
            arm: ready.name.clone(),
            seed,
            figures: Figures {
                group_e2e_s: ready.group_e2e_s(&outcome),
                ..figures(&ready.requests, &outcome, slo, alone)?
            },
            timeline: Vec::new(),
            measured: Some(Measured {
                predict_s,
                outputs_sha256: live.outputs_sha256(),
                simulated,
                requests: ready.records(&outcome),
            }),
        })
    }
}

impl Ready {
    /// The same requests in simulated time. Predicting is charged as it is in real time: where
    /// all come at once everybody waits for all predictions, and else its time is spread over
    /// the tokens of all prompts.
    fn beside(&self, step_time: &StepTimeModel, predict_s: f64) -> Result<Outcome> {
        let policy = self.online.policy.build()?;
        let limits = &self.online.limits;
        let at_once = self.online.arrivals == Arrivals::AtOnce;
        let prompts = self.requests.iter().map(|r| f64::from(r.prompt_tokens));
        let prompts = prompts.sum::<f64>().max(1.0);
        let (before_s, a_token_s) = match at_once {
            true => (predict_s, 0.0),
            false => (0.0, predict_s / prompts),
        };
        let charged = StepTimeModel {
            p1: step_time.p1 + a_token_s,
            ..step_time.clone()
        };
        let sizes = &self.sizes;
        let mut outcome = simulate(&self.requests, sizes, policy.as_ref(), limits, &charged)?;
        let waited = outcome.waiting_mean * outcome.makespan_s;
        outcome.makespan_s += before_s;
        let all = waited + before_s * self.requests.len() as f64;
        outcome.waiting_mean = all / outcome.makespan_s.max(f64::MIN_POSITIVE);
        for fate in &mut outcome.fates {
            if let Fate::Served(times) = fate {
                times.admitted_s += before_s;
                times.first_token_s += before_s;
                times.finish_s += before_s;
            }
        }
        Ok(outcome)
    }

    fn records(&self, outcome: &Outcome) -> Vec<ServedRequest> {
        let requests = self.requests.iter().zip(&self.order).zip(&outcome.fates);
        requests
            .filter_map(|((coming, request), fate)| match fate {
                Fate::Served(times) => Some(ServedRequest {
                    request: *request,
                    prompt_tokens: coming.prompt_tokens,
                    response_tokens: coming.response_tokens,
                    arrival_s: coming.arrival_s,
                    admitted_s: times.admitted_s,
                    first_token_s: times.first_token_s,
                    finish_s: times.finish_s,
                }),
                Fate::Refused => None,
            })
            .collect()
    }
}

/// What live runs of an arm add to its figures: see
/// [`crate::online::summary::OnlineArmSummary::figures`].
///
/// # Errors
/// A figure that is not a number.
pub(super) fn measured_figures(runs: &[&ArmFigures]) -> Result<BTreeMap<String, Measure>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut add = |path: String, value: f64| all.entry(path).or_default().push(value);
    for run in runs {
        let Some(measured) = &run.measured else {
            continue;
        };
        add("predict_s".into(), measured.predict_s);
        let Some(simulated) = &measured.simulated else {
            continue;
        };
        for (path, value) in by_path(simulated)? {
            add(format!("simulated.{path}"), value);
        }
        let above = |simulated: f64, measured: f64| match measured > 0.0 {
            true => (simulated / measured - 1.0) * 100.0,
            false => 0.0,
        };
        let own = &run.figures;
        for (path, value) in [
            ("makespan", above(simulated.makespan_s, own.makespan_s)),
            ("e2e_mean", above(simulated.e2e_s.mean, own.e2e_s.mean)),
        ] {
            add(format!("simulated.{path}_difference_pct"), value);
        }
    }
    let measures = all.into_iter();
    Ok(measures
        .map(|(p, values)| (p, Measure::over(values)))
        .collect())
}

/// Whether every answer of an arm equals the first arm's of the same seed; none where nothing
/// was generated.
pub(super) fn same_answers(
    experiment: &Experiment,
    own: &[&ArmFigures],
    all: &[ArmFigures],
) -> Option<bool> {
    let first = &experiment.arms.first()?.name;
    let hash = |run: &ArmFigures| run.measured.as_ref()?.outputs_sha256.clone();
    own.iter()
        .map(|run| {
            let other = all.iter().find(|r| r.arm == *first && r.seed == run.seed)?;
            Some(hash(run)? == hash(other)?)
        })
        .try_fold(true, |all, same| Some(all && same?))
}
