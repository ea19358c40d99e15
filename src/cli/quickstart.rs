//! `lenaware quickstart`: the whole way, small: sample, train, evaluate, schedule, report.

mod page;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use crate::config::Experiment;
use crate::dataset::build::BuildOptions;
use crate::dataset::embedded::{EMBEDDED, embedded, open};
use crate::dataset::{Label, LengthDataset, Sample, Split};
use crate::engine::Place;
use crate::error::{Error, Result};
use crate::experiment::Run;
use crate::instruction::{self, Instruction};
use crate::lora::LoraConfig;
use crate::model::{ModelFiles, resolve};
use crate::predictor::seen::Seen;
use crate::predictor::state_ridge;
use crate::predictor::training::TrainingData;
use crate::predictor::{Workshop, folds, training_lengths};
use crate::provenance::Inputs;
use crate::report::RunDirectory;
use crate::report::figures::{self, PredictorRow};
use crate::train::TrainConfig;

use super::evaluate::{Task, evaluate};
use page::Page;

use super::{Global, ablate, build_dataset, finetune, progress};

const MODEL: &str = "smollm2-135m";
const LIVE: &str = include_str!("../../experiments/quickstart-live.toml");
const REPLAY: &str = include_str!("../../experiments/quickstart-replay.toml");
/// Instructions sampled anew; with the temperatures below this is about 25,000 tokens.
const SAMPLED: usize = 48;
const TEMPERATURES: [f32; 2] = [0.0, 0.7];
const MAX_NEW_TOKENS: u32 = 512;
/// What the predictors foresee. Most instructions have one answer among four that was cut off,
/// so the paper's max says little here; compared on the validation split (results/NOTES.md).
const LABEL: Label = Label::Mean;

/// See the whole of lenaware work on a real model, in some minutes
///
/// Samples responses of SmolLM2-135M and compares them with those recorded in the dataset that
/// comes with the tool, trains a ridge and a LoRA adapter on that dataset to foresee lengths,
/// measures both, and runs scheduled against unscheduled batches. Without a model it replays
/// the recorded lengths.
///
/// Examples:
///   lenaware quickstart
///   lenaware quickstart --results runs --offline     # without a model in the cache: a replay
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Where the run is kept
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    // Its answers are compared with recorded ones, which are the CPU's.
    let global = &Global {
        device: "cpu".into(),
        ..global.clone()
    };
    let begun = Instant::now();
    progress::say(global, "quickstart: about 5 minutes on 2 cores");
    // A model that cannot be had is left out; any other mistake ends it before a file is written.
    let workshop = Workshop::new(
        MODEL,
        Place::Cpu,
        global.team(),
        global.shows_progress(),
        global.offline,
    );
    let files = match resolve(MODEL, global.shows_progress(), global.offline) {
        Ok(files) => {
            workshop.chat()?;
            Ok(files)
        }
        Err(Error::ModelUnavailable(why)) => Err(why),
        Err(error) => return Err(error),
    };
    let directory = RunDirectory::create(&arguments.results, "quickstart")?;
    let inputs = Inputs {
        threads: global.thread_count(),
        device: match files {
            Ok(_) => "cpu".into(),
            Err(_) => "replay".into(),
        },
        dataset: Path::new(EMBEDDED),
        models: workshop.used(),
        seeds: vec![global.seed],
    };
    directory.write_environment(&inputs.environment()?)?;
    let mut page = Page::default();
    match files {
        Ok(files) => with_model(global, &workshop, &files, directory.path(), &mut page).map_err(
            |error| match error {
                // What its parts say of going on is not true of the whole.
                Error::Interrupted(_) => Error::Interrupted(format!(
                    "stopped; quickstart begins anew each time, and what this one made is in {}",
                    directory.path().display()
                )),
                other => other,
            },
        )?,
        Err(why) => {
            let left_out = format!(
                "Left out for want of a model: sampling, training, evaluation and the live \
                 batches. {why}"
            );
            progress::say(global, &left_out);
            page.notes.push(left_out);
            page.replay = Some(replay(global, &workshop, None, directory.path())?);
        }
    }
    let report = page.write(directory.path())?;
    let seconds = begun.elapsed().as_secs_f64();
    if global.json {
        println!("{}", page.json(&report, seconds));
        return Ok(());
    }
    page.print();
    println!("{}\ndone in {seconds:.0} s", report.display());
    Ok(())
}

fn with_model(
    global: &Global,
    workshop: &Workshop,
    files: &ModelFiles,
    base: &Path,
    page: &mut Page,
) -> Result<()> {
    let chat = workshop.chat()?;
    progress::say(global, "1/5 sampling responses");
    let options = BuildOptions {
        temperatures: TEMPERATURES.to_vec(),
        samples: 1,
        max_new_tokens: MAX_NEW_TOKENS,
        top_p: 1.0,
        seed: global.seed,
        slots: 32,
    };
    let built = build_dataset::sample(
        global,
        &chat,
        &instructions(),
        &options,
        &base.join("dataset"),
    )?;
    let fresh = open(&built.path)?;
    let recorded = embedded()?;
    let (equal, compared) = compare(&fresh, &recorded);
    let note = format!(
        "Sampled {} responses, {} tokens, at {:.0} tokens/s; {equal} of {compared} equal the \
         recorded ones to the letter.",
        built.sampled,
        built.stats.generated_tokens,
        built.stats.generated_tokens as f64 / built.elapsed.as_secs_f64()
    );
    progress::say(global, &note);
    page.notes.push(note);
    let data = TrainingData::of("embedded", &recorded, LABEL)?;

    progress::say(global, "2/5 fitting a ridge on hidden states");
    let ridge = base.join("ridge");
    state_ridge::train(files, chat.clone(), &data, true, &ridge, |_| ())?;
    Seen::in_training(&data).write(&ridge)?;

    progress::say(global, "3/5 tuning a LoRA adapter");
    let lora = base.join("lora");
    let config = TrainConfig {
        max_steps: Some(24),
        micro_batch_size: 4,
        gradient_accumulation: 2,
        learning_rate: 1e-3,
        seed: global.seed,
        ..TrainConfig::default()
    };
    finetune::tune(
        global,
        files,
        &data,
        LoraConfig::default(),
        config,
        &lora,
        false,
    )?;
    Seen::in_training(&data).write(&lora)?;
    page.figures.push((
        "Loss of the adapter, nats a target token.".into(),
        lora.join("figures").join("loss"),
    ));

    progress::say(global, "4/5 evaluating predictors");
    let best = assess(global, workshop, &data, [&ridge, &lora], base, page)?;

    progress::say(global, "5/5 scheduled against unscheduled batches");
    let live = experiment(LIVE, "./runs/best", &best)?;
    page.live = Some(ablate::execute(global, &live, workshop, base, false)?);
    page.replay = Some(replay(global, workshop, Some(&best), base)?);
    page.dataset = Some(fresh);
    Ok(())
}

/// The first training instructions of the embedded set.
fn instructions() -> Vec<Instruction> {
    let mut all = instruction::embedded();
    all.retain(|i| i.split == Some(Split::Train));
    all.truncate(SAMPLED);
    all
}

/// How many of the fresh responses are recorded under the same seed, and how many of those
/// have the same text and length.
fn compare(fresh: &LengthDataset, recorded: &LengthDataset) -> (usize, usize) {
    let key = |s: &Sample| (s.instruction_id.clone(), s.temperature.to_bits(), s.seed);
    let known: HashMap<_, &Sample> = recorded.samples.iter().map(|s| (key(s), s)).collect();
    let pairs: Vec<(&Sample, &Sample)> = fresh
        .samples
        .iter()
        .filter_map(|s| Some((s, *known.get(&key(s))?)))
        .collect();
    let same = |(a, b): &&(&Sample, &Sample)| {
        a.response == b.response && a.response_tokens == b.response_tokens
    };
    (pairs.iter().filter(same).count(), pairs.len())
}

/// Chooses the better of the trained predictors on validation, and reports all on test.
fn assess(
    global: &Global,
    workshop: &Workshop,
    data: &TrainingData<'_>,
    trained: [&Path; 2],
    base: &Path,
    page: &mut Page,
) -> Result<String> {
    let names = trained.map(|path| path.display().to_string());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let quiet = Global {
        quiet: true,
        ..global.clone()
    };
    let training = training_lengths(&data.train, data.label);
    let task = |instances| Task {
        instances,
        training: &training,
        label: data.label,
        timed_alone: false,
    };
    let chosen = evaluate(&quiet, workshop, &names, &task(&data.validation))?;
    let best = chosen
        .predictors
        .iter()
        .min_by(|a, b| a.metrics.error.value.total_cmp(&b.metrics.error.value))
        .map_or(names[0], |p| p.metrics.name.as_str())
        .to_string();
    let recorded = embedded()?;
    let mut test = recorded.instances();
    test.retain(|i| i.split == Some(Split::Test));
    let all = [&["perception-only"], names.as_slice(), &["ground-truth"]].concat();
    let mut evaluation = evaluate(global, workshop, &all, &task(&test))?;
    let place = all.iter().position(|n| *n == best).unwrap_or(0);
    let stem = base.join("figures").join("predicted-vs-true");
    let short = short_name(&best);
    figures::predicted_vs_true(&stem, &short, &evaluation.tokens(place), &evaluation.labels)?;
    page.figures.push((
        format!("Predicted against true, {short}, test instructions."),
        stem,
    ));
    for predictor in &mut evaluation.predictors {
        predictor.metrics.name = short_name(&predictor.metrics.name);
    }
    let rows: Vec<PredictorRow> = std::iter::once(&evaluation.floor)
        .chain(evaluation.predictors.iter().map(|record| &record.metrics))
        .chain(&evaluation.ceiling)
        .map(|metrics| PredictorRow::of(&metrics.name, metrics))
        .collect();
    let stem = base.join("figures").join("accuracy");
    figures::predictor_bars(&stem, &rows)?;
    page.figures.push((
        "Accuracy of the predictors on test instructions, between floor and ceiling.".into(),
        stem,
    ));
    page.notes.push(format!(
        "The scheduled arms use {short}, which erred least on {} validation instructions.",
        data.validation.len()
    ));
    page.evaluation = Some((evaluation, test.len()));
    Ok(best)
}

/// The last part of a trained predictor's path.
fn short_name(name: &str) -> String {
    let last = Path::new(name).file_name();
    last.map_or_else(|| name.to_string(), |n| n.to_string_lossy().into_owned())
}

fn experiment(text: &str, placeholder: &str, predictor: &str) -> Result<Experiment> {
    let quoted = toml::Value::String(predictor.to_string()).to_string();
    let text = text.replace(&format!("\"{placeholder}\""), &quoted);
    Experiment::parse(&text, Path::new("quickstart"))
}

fn replay(
    global: &Global,
    workshop: &Workshop,
    predictor: Option<&str>,
    base: &Path,
) -> Result<Run> {
    let experiment = experiment(REPLAY, "ground-truth", predictor.unwrap_or(folds::NAME))?;
    ablate::execute(global, &experiment, workshop, base, false)
}
