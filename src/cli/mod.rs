//! The commands: each file holds one subcommand's arguments and its call into the library.
//! Results go to stdout, progress and warnings to stderr.

mod ablate;
mod build_dataset;
mod completions;
mod describe;
mod doctor;
mod evaluate;
mod finetune;
#[cfg(test)]
mod help_tests;
mod import;
mod interrupt;
mod man;
mod predict;
mod profile;
mod progress;
mod quickstart;
mod report;
mod reproduce;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::engine::Place;
use crate::error::{Error, Result, tame};
use crate::kernel::Team;
use crate::model::{Precision, chat_template};
use crate::predictor::Workshop;

/// What to type first: `--help` ends with it.
const FIRST_STEPS: &str = "\
First steps, in a clone of the repository:
  See it work on a real model, in about six minutes on two cores:
    lenaware quickstart
  The paper's tables and figures beside its own numbers, in seconds and without a model:
    lenaware reproduce
  Your model, in the place of smollm2-135m here and in the experiment file:
    lenaware build-dataset --model smollm2-135m --temperatures 0,0.7 --limit 128 --out runs/data
    lenaware finetune --predictor ridge --dataset runs/data --label mean --out ./runs/mine
    lenaware ablate --config experiments/own-model.toml
  Your traffic, in the place of the log that comes with the project:
    lenaware import --from csv --lengths datasets/sample-log.csv --out runs/log.parquet \\
        --arrival-column time --instruction-column prompt --prompt-tokens-column prompt_tokens \\
        --response-tokens-column completion_tokens --finish-reason-column finish_reason \\
        --split-column split
    lenaware finetune --predictor lexical --dataset runs/log.parquet --out ./runs/log-lexical
    lenaware ablate --config experiments/own-traffic.toml

`lenaware ablate --list` shows the experiments that come with the project, and \
`lenaware COMMAND --help` has examples of each.";

/// Length perception for language models: measure, learn and use how long answers will be.
#[derive(Parser)]
#[command(name = "lenaware", version, propagate_version = true, after_help = FIRST_STEPS)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Args, Clone)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    device: String,
    /// Threads to compute with [default: one a core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// The seed that every random choice follows from
    #[arg(long, global = true, default_value_t = 42, value_name = "SEED")]
    seed: u64,
    /// Print results to standard output as one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Say more on standard error: which files are used, and how
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Show no progress; warnings and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Never use the network: what is not in the cache is missing
    #[arg(long, global = true)]
    offline: bool,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::Arguments),
    BuildDataset(build_dataset::Arguments),
    Import(import::Arguments),
    Finetune(finetune::Arguments),
    Describe(describe::Arguments),
    Evaluate(evaluate::Arguments),
    Predict(predict::Arguments),
    Profile(profile::Arguments),
    Ablate(ablate::Arguments),
    Reproduce(reproduce::Arguments),
    Report(report::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// Runs the process's command line.
pub fn main() -> ExitCode {
    chat_template::serve_if_asked();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; wrong usage exits with 2.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let global = &cli.global;
    global.check_device(&cli.command)?;
    match &cli.command {
        Command::Quickstart(arguments) => quickstart::run(global, arguments),
        Command::BuildDataset(arguments) => build_dataset::run(global, arguments),
        Command::Import(arguments) => import::run(global, arguments),
        Command::Finetune(arguments) => finetune::run(global, arguments),
        Command::Describe(arguments) => describe::run(global, arguments),
        Command::Evaluate(arguments) => evaluate::run(global, arguments),
        Command::Predict(arguments) => predict::run(global, arguments),
        Command::Profile(arguments) => profile::run(global, arguments),
        Command::Ablate(arguments) => ablate::run(global, arguments),
        Command::Reproduce(arguments) => reproduce::run(global, arguments),
        Command::Report(arguments) => report::run(global, arguments),
        Command::Doctor(arguments) => doctor::run(global, arguments),
        Command::Completions(arguments) => completions::run(global, arguments, Cli::command()),
        Command::Man(arguments) => man::run(global, arguments, Cli::command()),
    }
}

fn one_line(error: &Error) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    tame(&words.join(" "))
}

impl Global {
    /// Refuses a device that is not in this build, or that the command does not compute on.
    fn check_device(&self, command: &Command) -> Result<()> {
        if ["auto", "cpu"].contains(&self.device.as_str()) {
            return Ok(());
        }
        self.place()?;
        match command {
            Command::Quickstart(_) => Err(Error::Usage(format!(
                "quickstart compares with answers that were computed on the CPU, not on `{}`: use \
                 --device cpu",
                self.device
            ))),
            _ => Ok(()),
        }
    }

    fn place(&self) -> Result<Place> {
        Place::parse(&self.device)
    }

    /// Where weights are tuned: by `auto` on a card only where this build can.
    fn tuning_place(&self) -> Result<Place> {
        match self.device == "auto" && !cfg!(feature = "cuda-training") {
            true => Ok(Place::Cpu),
            false => self.place(),
        }
    }

    /// What makes predictors, from a model that computes where the flags say.
    fn workshop(&self, model: &str) -> Result<Workshop> {
        let (place, team) = (self.place()?, self.team());
        Ok(Workshop::new(
            model,
            place,
            team,
            self.shows_progress(),
            self.offline,
        ))
    }

    fn thread_count(&self) -> usize {
        self.threads.map_or_else(
            || std::thread::available_parallelism().map_or(1, usize::from),
            usize::from,
        )
    }

    fn team(&self) -> Arc<Team> {
        Team::new(self.thread_count())
    }

    /// Whether progress may be drawn.
    fn shows_progress(&self) -> bool {
        !self.quiet
    }
}

/// What the engine computes in.
#[derive(Clone, Copy, Default, ValueEnum)]
enum Dtype {
    #[default]
    F32,
    Bf16,
}

impl Dtype {
    fn precision(self) -> Precision {
        match self {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::BF16,
        }
    }
}

/// Refuses an output file that is there already: results are never overwritten.
fn must_not_exist(path: &Path) -> Result<()> {
    if path.exists() {
        return Err(Error::Usage(format!(
            "{} is there already: give another --out or remove it",
            path.display()
        )));
    }
    Ok(())
}

/// As a shell reads it back.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:,@+=".contains(c);
    match !value.is_empty() && value.chars().all(plain) {
        true => value.to_string(),
        false => {
            let shown: String = value.chars().filter(|c| !c.is_control()).collect();
            format!("'{}'", shown.replace('\'', "'\\''"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_a_shell() {
        assert_eq!(quoted("hub:org/name@v1"), "hub:org/name@v1");
        assert_eq!(quoted("it's here"), "'it'\\''s here'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a\nb"), "'ab'");
    }
}
