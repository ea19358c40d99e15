//! `lenaware ablate`: runs an experiment file.

mod list;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::config::{ExecutorKind, Experiment};
use crate::error::{Error, Result};
use crate::experiment::{self, Progress, Run, RunOptions};
use crate::predictor::Workshop;
use crate::report::online_text;
use crate::report::tables::arms_text;
use crate::report::wording::number;

use super::progress::{self, Bar};
use super::{Global, interrupt};

/// Run scheduled against unscheduled batch inference, as an experiment file says
///
/// A run goes into RESULTS/NAME/TIME: the arms as they finish, tables, figures and report.html.
///
/// Examples:
///   lenaware ablate --list                                          # what there is, and what it needs
///   lenaware ablate --config experiments/table5.toml                # replayed: a second
///   lenaware ablate --config experiments/live.toml --dry-run        # the plan, and how long it takes
///   lenaware ablate --config experiments/policies.toml --results runs
///   lenaware ablate --config experiments/policies.toml --results runs --resume
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The experiment file
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    config: Option<PathBuf>,
    /// List the experiment files of a folder [default: experiments]: what each asks, how it is
    /// run, and whether all that it needs is there
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        default_missing_value = "experiments",
        conflicts_with_all = ["config", "dry_run", "resume"]
    )]
    list: Option<PathBuf>,
    /// Where runs are kept
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Print the resolved plan and how long it will take, and stop; nothing is written
    #[arg(long)]
    dry_run: bool,
    /// Go on with the latest run of this experiment, if it is unfinished; finished arms are kept
    #[arg(long)]
    resume: bool,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Some(folder) = &arguments.list {
        return list::list(global, folder);
    }
    // clap sees to it that one of both is there.
    let config = arguments.config.as_deref().unwrap_or(Path::new(""));
    let experiment = Experiment::load(config)?;
    if arguments.dry_run {
        return dry_run(global, &experiment);
    }
    say_what_is_run(global, &experiment);
    let mut global = global.clone();
    if let Some(device) = &experiment.executor.device {
        global.device.clone_from(device);
    }
    let global = &global;
    let workshop = global
        .workshop(&experiment.executor.model)?
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
    let teller = Teller::new(global, experiment);
    let options = RunOptions {
        root: &arguments.results,
        resume: arguments.resume,
        on_progress: &|p| teller.tell(p),
        stop: &interrupt::check,
    };
    let run = experiment::run_online(experiment, workshop, &options);
    teller.bar.clear();
    let run = run?;
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

/// Prints what would be run, and how long it will take.
fn dry_run(global: &Global, experiment: &Experiment) -> Result<()> {
    let estimate = experiment::estimate(experiment, global.thread_count());
    let plan = experiment.to_toml()?;
    if !global.json {
        println!("{}", expected(experiment, estimate));
        print!("{plan}");
        return Ok(());
    }
    let resolved: serde_json::Value =
        toml::from_str(&plan).map_err(|e| Error::Numeric(e.to_string()))?;
    let found = estimate.as_ref().ok();
    println!(
        "{}",
        json!({
            "arms": experiment.arms.len(),
            "seeds": experiment.seeds,
            "requests": found.map(|e| e.requests),
            // Predicting not included; null where it is not known, as the next says.
            "estimated_s": found.map(|e| e.seconds),
            "not_estimated": estimate.as_ref().err().map(super::one_line),
            "plan": resolved,
        })
    );
    Ok(())
}

/// How long it will take, as a comment of the plan.
fn expected(experiment: &Experiment, estimate: Result<experiment::Estimate>) -> String {
    let arms = format!(
        "# {} arms x {} seeds",
        experiment.arms.len(),
        experiment.seeds.len()
    );
    match estimate {
        Ok(found) => {
            let by = match experiment.executor.kind {
                ExecutorKind::Replay => String::new(),
                _ => format!(" by the step times of {}", experiment.executor.step_time),
            };
            format!(
                "{arms}, {} requests each: about {}{by}, predicting not included",
                found.requests,
                about(found.seconds)
            )
        }
        Err(error) => format!("{arms}; how long it takes is not known: {error}").replace('\n', " "),
    }
}

/// A time to wait for, in seconds, minutes or hours.
pub(super) fn about(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{} s", number(s.max(0.01))),
        s if s < 5400.0 => format!("{} min", number(s / 60.0)),
        s => format!("{} h", number(s / 3600.0)),
    }
}

/// Runs an experiment with progress on stderr, stopping between two steps at Ctrl-C.
pub fn execute(
    global: &Global,
    experiment: &Experiment,
    workshop: &Workshop,
    results: &Path,
    resume: bool,
) -> Result<Run> {
    interrupt::listen();
    let teller = Teller::new(global, experiment);
    let run = experiment::run(
        experiment,
        workshop,
        &RunOptions {
            root: results,
            resume,
            on_progress: &|p| teller.tell(p),
            stop: &interrupt::check,
        },
    );
    teller.bar.clear();
    run
}

/// What is about to be run, before datasets, predictors and models are read.
pub fn say_what_is_run(global: &Global, experiment: &Experiment) {
    let line = format!(
        "{}: {} arms x {} seeds on {}",
        experiment.name,
        experiment.arms.len(),
        experiment.seeds.len(),
        experiment.workload.dataset
    );
    progress::say(global, &line);
}

/// Says which arm of a live run begins and when all will be done, and how far a replay is.
struct Teller<'a> {
    global: &'a Global,
    live: bool,
    bar: Bar,
    /// When the first arm of this run began, and how many were done then.
    begun: Cell<Option<(Instant, usize)>>,
}

impl<'a> Teller<'a> {
    fn new(global: &'a Global, experiment: &Experiment) -> Teller<'a> {
        Teller {
            global,
            live: experiment.executor.kind != ExecutorKind::Replay,
            bar: progress::bar(global, 0, "arms"),
            begun: Cell::new(None),
        }
    }

    fn tell(&self, p: &Progress<'_>) {
        if !self.live {
            self.bar.set_total(p.total as u64);
            self.bar.set_position(p.done as u64);
            return;
        }
        let (begun, before) = self.begun.get().unwrap_or((Instant::now(), p.done));
        self.begun.set(Some((begun, before)));
        let left = match p.done - before {
            0 => String::new(),
            done => {
                let each_s = begun.elapsed().as_secs_f64() / done as f64;
                format!(", about {} left", about(each_s * (p.total - p.done) as f64))
            }
        };
        let place = format!("[{}/{}]", p.done + 1, p.total);
        let line = format!("{place} {} (seed {}){left}", p.arm, p.seed);
        progress::say(self.global, &line);
    }
}
