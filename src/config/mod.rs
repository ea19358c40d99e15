//! The experiment file: what `ablate --config exp.toml` runs. Read from TOML with every
//! mistake named by file, line and nearest valid key; resolved so that nothing is implicit;
//! and written back as the `config.toml` of a run, which reads as the same experiment.

mod file;
mod mistakes;
mod online;
mod sweep;

use std::path::Path;

use crate::dataset::{Label, Split};
use crate::error::{Error, Result, misleads};
use crate::evaluate::summary::Published;
use crate::online::arrivals::Arrivals;
use crate::online::metrics::Slo;
use crate::online::policy::PolicyConfig;
use crate::schedule::{Batching, ScheduleOptions};

use file::{ArmKeys, ExperimentFile};
use mistakes::Source;
pub use online::{OnlineArm, Repredict};

/// A resolved experiment: arms x seeds on one workload and one executor.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// As in the file, in reports and in the name of the run's folder.
    pub name: String,
    /// Each seed draws an order of arrival; at least one, all different.
    pub seeds: Vec<u64>,
    /// What is asked.
    pub workload: Workload,
    /// Who answers, in what time.
    pub executor: ExecutorConfig,
    /// Where the arms' published figures are from.
    pub published: Option<String>,
    /// In the order of the file, sweeps after the arms; names are unique.
    pub arms: Vec<Arm>,
}

/// The requests that are served.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// `embedded`, or a length dataset's path relative to the current directory.
    pub dataset: String,
    /// `None` = all of it.
    pub split: Option<Split>,
    /// Instructions at most; `None` = all.
    pub limit: Option<usize>,
    /// Which of an instruction's samples is the request.
    pub served: Served,
    /// When requests come; `None`: all are there, and are served in groups.
    pub arrivals: Option<Arrivals>,
    /// What a request that arrives over time must meet to count as good.
    pub slo: Option<Slo>,
}

/// Which of an instruction's samples is served.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Served {
    /// The first sample at this temperature.
    Temperature(f32),
    /// One drawn by the seed.
    Random,
    /// Every one, each a request of its own: rollouts of a prompt.
    All,
}

/// Who runs the micro-batches.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorConfig {
    /// Simulated or real.
    pub kind: ExecutorKind,
    /// The model of a live run, named as on the command line.
    pub model: String,
    /// Instead of the model's own chat template: a built-in one or a Jinja file.
    pub chat_template: Option<String>,
    /// Instead of `model`, for a forced live run: random weights of a published shape.
    pub random_weights: Option<String>,
    /// Where a live run computes; `None` = as `--device` says.
    pub device: Option<String>,
    /// The step-time model of a replay: a preset or a file from `profile`.
    pub step_time: String,
}

impl ExecutorConfig {
    /// The step-time model of an experiment that names none.
    pub const PAPER: &'static str = "paper";
}

/// Whether batches are computed, and where the lengths of answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutorKind {
    /// Recorded lengths in simulated time.
    #[default]
    Replay,
    /// The real model in real time.
    Live,
    /// The real model in real time, every response as long as it was recorded.
    LiveForced,
}

/// One way of serving the workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Unique in the experiment; what tables and figures call it.
    pub name: String,
    /// A predictor's bare word or path, as on the command line.
    pub predictor: String,
    /// What the predictor is to foresee, where it can choose.
    pub label: Label,
    /// Groups and their micro-batches; of an arm of serving over time only `max_new_tokens` counts.
    pub schedule: ScheduleOptions,
    /// Where requests arrive over time: the engine and who is next.
    pub online: Option<OnlineArm>,
    /// What somebody else reported for it.
    pub published: Option<Published>,
}

/// Letters of a name that is written, and of one with what a sweep adds. Names are drawn in
/// figures, letter by letter.
const LONGEST_NAME: usize = 200;
const LONGEST_SWEPT: usize = 1000;
/// Arms of an experiment, and runs: each is kept in memory, and has its row in every table.
const MOST_ARMS: usize = 1000;
const MOST_RUNS: usize = 100_000;
const TOO_MANY_ARMS: &str = "an experiment has 1000 at most, share them out over several files";

/// Refuses a name that no table could hold, or that would be shown as another.
fn plain(name: &str, most: usize) -> Result<(), String> {
    let letters = name.chars().count();
    if letters > most {
        return Err(format!(
            "is {letters} letters long: give a name of {most} at most"
        ));
    }
    match name.chars().find(|c| misleads(*c)) {
        Some(letter) => Err(format!(
            "holds {}, which is not shown: leave it out",
            letter.escape_unicode()
        )),
        None => Ok(()),
    }
}

/// A mistake that the TOML reader found in a configuration file, with its line and the nearest
/// valid key.
pub fn mistake(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    Source { text, path }.mistake(error)
}

impl Experiment {
    /// Reads an experiment file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::regular_file::text_up_to(path, crate::regular_file::SETTINGS)?;
        Experiment::parse(&text, path)
    }

    /// Reads the text of an experiment file; `path` is for messages only.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let source = Source { text, path };
        let file: ExperimentFile = toml::from_str(text).map_err(|error| source.mistake(&error))?;
        let at = |section: &str, message: &str| Err(source.in_section(section, 0, message));

        if file.experiment.seeds.is_empty() {
            return at(
                "experiment",
                "`seeds` is empty; give at least one, e.g. [42]",
            );
        }
        let mut seeds = file.experiment.seeds.clone();
        seeds.sort_unstable();
        if seeds.windows(2).any(|pair| pair[0] == pair[1]) {
            return at("experiment", "`seeds` holds the same seed twice");
        }
        if file.defaults.name.is_some() {
            return at(
                "defaults",
                "`name` belongs to an [[arm]], not to [defaults]",
            );
        }
        if file.workload.limit == Some(0) {
            return at("workload", "`limit = 0` leaves no request to serve");
        }

        if file.executor.random_weights.is_some() && file.executor.kind != ExecutorKind::LiveForced
        {
            return at(
                "executor",
                "`random_weights` have no answers of their own: use `kind = \"live-forced\"`",
            );
        }

        if let Err(message) = plain(&file.experiment.name, LONGEST_NAME) {
            return Err(source.at_key("experiment", 0, "name", &message));
        }
        if file.arm.len() > MOST_ARMS {
            let count = file.arm.len();
            let message = format!("{count} arms: {TOO_MANY_ARMS}");
            return Err(source.in_section("arm", MOST_ARMS, &message));
        }

        let arrivals = file.workload.arrivals.map(|a| a.0);
        if let Some(arrivals) = &arrivals {
            if let Err(error) = arrivals.validate() {
                return at("workload", &error.to_string());
            }
        } else if file.workload.slo.is_some() {
            return at("workload", "`slo` needs `arrivals`");
        }

        let served = file.workload.served;
        let live = file.executor.kind != ExecutorKind::Replay;
        let mut arms = Vec::new();
        for (place, keys) in file.arm.iter().enumerate() {
            if let Some(Err(message)) = keys.name.as_ref().map(|name| plain(name, LONGEST_NAME)) {
                return Err(source.at_key("arm", place, "name", &message));
            }
            let merged = keys.clone().over(&file.defaults);
            arms.push(resolve(merged, (arrivals, served), live, |message| {
                source.in_section("arm", place, message)
            })?);
        }
        for (place, swept) in file.sweep.iter().enumerate() {
            for keys in sweep::expand(swept, &file.arm, &source, place, MOST_ARMS - arms.len())? {
                if let Some(Err(message)) =
                    keys.name.as_ref().map(|name| plain(name, LONGEST_SWEPT))
                {
                    let message = format!("the name of an arm: {message}");
                    return Err(source.in_section("sweep", place, &message));
                }
                let merged = keys.over(&file.defaults);
                arms.push(resolve(merged, (arrivals, served), live, |message| {
                    source.in_section("sweep", place, message)
                })?);
            }
        }
        if arms.is_empty() {
            return at("", "no `[[arm]]` and no `[[sweep]]`: nothing to run");
        }
        if arms.len() * file.experiment.seeds.len() > MOST_RUNS {
            let (arms, seeds) = (arms.len(), file.experiment.seeds.len());
            let message =
                format!("{seeds} seeds of {arms} arms are more than {MOST_RUNS} runs: give fewer");
            return Err(source.at_key("experiment", 0, "seeds", &message));
        }
        for (place, arm) in arms.iter().enumerate() {
            if arms[..place].iter().any(|other| other.name == arm.name) {
                let message = format!("two arms are called '{}'; names must differ", arm.name);
                return at("", &message);
            }
        }
        Ok(Experiment {
            name: file.experiment.name,
            seeds: file.experiment.seeds,
            workload: Workload {
                dataset: file.workload.dataset,
                split: file.workload.split.into(),
                limit: file.workload.limit,
                served: file.workload.served,
                arrivals,
                slo: file.workload.slo,
            },
            executor: ExecutorConfig {
                kind: file.executor.kind,
                model: file.executor.model,
                chat_template: file.executor.chat_template,
                random_weights: file.executor.random_weights,
                device: file.executor.device,
                step_time: file.executor.step_time,
            },
            published: file.experiment.published,
            arms,
        })
    }

    /// The resolved experiment as a file that [`Experiment::parse`] reads as the same.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&ExperimentFile::from(self))
            .map_err(|error| Error::Numeric(format!("the configuration: {error}")))
    }

    /// The arm that the others are compared with: the one named `vanilla`, else the first.
    pub fn vanilla(&self) -> usize {
        self.arms
            .iter()
            .position(|arm| arm.name == "vanilla")
            .unwrap_or(0)
    }
}

/// Fills what neither arm nor defaults say with the built-in defaults, and checks the whole.
fn resolve(
    keys: ArmKeys,
    (arrivals, served): (Option<Arrivals>, Served),
    live: bool,
    mistake: impl Fn(&str) -> Error,
) -> Result<Arm> {
    let Some(name) = keys.name.clone().filter(|name| !name.trim().is_empty()) else {
        return Err(mistake("an arm needs a `name`"));
    };
    let built_in = ScheduleOptions::default();
    let online = online::resolve(&keys, arrivals, live)
        .map_err(|error| mistake(&format!("arm '{name}': {error}")))?;
    if let Some(online) = &online {
        if online.policy == PolicyConfig::Groups && served != Served::All {
            return Err(mistake(&format!(
                "arm '{name}': the policy groups is for several answers to each prompt: set \
                 [workload] served = \"all\""
            )));
        }
        let schedule = ScheduleOptions {
            batching: Batching::Continuous,
            max_new_tokens: keys.max_new_tokens.unwrap_or(built_in.max_new_tokens),
            ..built_in
        };
        schedule
            .validate()
            .map_err(|error| mistake(&format!("arm '{name}': {error}")))?;
        return Ok(Arm {
            name,
            predictor: keys.predictor.unwrap_or_else(|| "constant".to_owned()),
            label: keys.label.map_or(Label::Max, |label| label.0),
            schedule,
            online: Some(*online),
            published: keys.published,
        });
    }
    let schedule = ScheduleOptions {
        group_size: keys.group_size.unwrap_or(built_in.group_size),
        batch_size: keys.batch_size.unwrap_or(built_in.batch_size),
        max_new_tokens: keys.max_new_tokens.unwrap_or(built_in.max_new_tokens),
        scheduling: keys.scheduling.unwrap_or_default(),
        binning: keys.binning.unwrap_or(0),
        vbs: keys.vbs.and_then(|vbs| vbs.0),
        fcr: keys.fcr.unwrap_or_default(),
        batching: keys.batching.unwrap_or_default(),
        order_at: keys.order_at,
        cap_at: keys.cap_at,
        max_rows: keys.max_rows.unwrap_or(built_in.max_rows),
        kv_tokens: keys.kv_tokens.unwrap_or(built_in.kv_tokens),
        stage_steps: keys.stage_steps.unwrap_or(built_in.stage_steps),
        stage_level: keys.stage_level.unwrap_or(built_in.stage_level),
        bins: keys.bins.unwrap_or(built_in.bins),
        carry: keys.carry.unwrap_or(built_in.carry),
        step_cost: built_in.step_cost,
    };
    schedule
        .validate()
        .map_err(|error| mistake(&format!("arm '{name}': {error}")))?;
    Ok(Arm {
        name,
        predictor: keys.predictor.unwrap_or_else(|| "constant".to_owned()),
        label: keys.label.map_or(Label::Max, |label| label.0),
        schedule,
        online: None,
        published: keys.published,
    })
}

#[cfg(test)]
mod tests;
