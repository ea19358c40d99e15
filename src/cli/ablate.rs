//! `lenaware ablate`: runs an experiment file.

use std::path::PathBuf;

use clap::Args;

use crate::config::{ExecutorKind, Experiment};
use crate::error::{Error, Result};
use crate::experiment::{self, Progress, Run, RunOptions};
use crate::predictor::Workshop;
use crate::report::online_text;
use crate::report::tables::arms_text;
use crate::report::wording::number;

use super::{Global, interrupt, progress};

/// Run scheduled against unscheduled batch inference, as an experiment file says
///
/// Examples:
///   lenaware ablate --config experiments/table5.toml
///   lenaware ablate --config experiments/live.toml --dry-run
///   lenaware ablate --config experiments/policies.toml
///   lenaware ablate --config experiments/live-policies.toml
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The experiment file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where runs are kept
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Print the resolved plan and stop
    #[arg(long)]
    dry_run: bool,
    /// Go on with the latest run of this experiment
    #[arg(long)]
    resume: bool,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let experiment = Experiment::load(&arguments.config)?;
    if arguments.dry_run {
        println!("{}", expected(global, &experiment));
        print!("{}", experiment.to_toml()?);
        return Ok(());
    }
    let workshop = Workshop::new(
        &experiment.executor.model,
        global.team(),
        global.shows_progress(),
        global.offline,
    )
    .with_chat_template(experiment.executor.chat_template.clone());
    if experiment.workload.arrivals.is_some() {
        return run_online(global, &experiment, &workshop, arguments);
    }
    let run = execute(
        global,
        &experiment,
        &workshop,
        &arguments.results,
        arguments.resume,
    )?;
    if global.json {
        let text =
            serde_json::to_string(&run.summary).map_err(|e| Error::Numeric(e.to_string()))?;
        println!("{text}");
    } else {
        println!("{}", arms_text(&run.summary));
        println!("{}", run.report.display());
    }
    Ok(())
}

/// Simulates or serves requests that arrive over time.
fn run_online(
    global: &Global,
    experiment: &Experiment,
    workshop: &Workshop,
    arguments: &Arguments,
) -> Result<()> {
    interrupt::listen();
    let options = RunOptions {
        place: global.place()?,
        root: &arguments.results,
        resume: arguments.resume,
        on_progress: &|p| tell(global, experiment, p),
        stop: &interrupt::check,
    };
    let run = experiment::run_online(experiment, workshop, &options)?;
    if global.json {
        let text =
            serde_json::to_string(&run.summary).map_err(|e| Error::Numeric(e.to_string()))?;
        println!("{text}");
    } else {
        println!("{}", online_text(&run.summary));
        println!("{}", run.report.display());
    }
    Ok(())
}

/// How long it will take, as a comment of the plan.
fn expected(global: &Global, experiment: &Experiment) -> String {
    let arms = format!(
        "# {} arms x {} seeds",
        experiment.arms.len(),
        experiment.seeds.len()
    );
    match experiment::estimate(experiment, global.team().threads()) {
        Ok(found) => {
            let by = match experiment.executor.kind {
                ExecutorKind::Replay => String::new(),
                _ => format!(" by the step times of {}", experiment.executor.step_time),
            };
            let took = match found.seconds {
                s if s < 90.0 => format!("{} s", number(s.max(0.01))),
                s if s < 5400.0 => format!("{} min", number(s / 60.0)),
                s => format!("{} h", number(s / 3600.0)),
            };
            format!(
                "{arms}, {} requests each: about {took}{by}, predicting not included",
                found.requests
            )
        }
        Err(error) => format!("{arms}; how long it takes is not known: {error}").replace('\n', " "),
    }
}

/// Runs an experiment with progress on stderr, stopping between two steps at Ctrl-C.
pub fn execute(
    global: &Global,
    experiment: &Experiment,
    workshop: &Workshop,
    results: &std::path::Path,
    resume: bool,
) -> Result<Run> {
    interrupt::listen();
    experiment::run(
        experiment,
        workshop,
        &RunOptions {
            place: global.place()?,
            root: results,
            resume,
            on_progress: &|p| tell(global, experiment, p),
            stop: &interrupt::check,
        },
    )
}

/// Says which arm of a live run begins.
fn tell(global: &Global, experiment: &Experiment, p: &Progress<'_>) {
    if experiment.executor.kind != ExecutorKind::Replay {
        let line = format!("[{}/{}] {} (seed {})", p.done + 1, p.total, p.arm, p.seed);
        progress::say(global, &line);
    }
}
