//! `lenaware evaluate`: accuracy of predictors on a length dataset.

mod asked;
mod group;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::dataset::embedded::{self, EMBEDDED};
use crate::dataset::{Instance, Label};
use crate::error::{Error, Result};
use crate::evaluate::evaluation::{EvaluationSummary, PredictorRecord, SeedSpread};
use crate::evaluate::predictor_metrics::{
    PredictorMetrics, Said, floor_and_ceiling, predictor_metrics, predictor_metrics_over,
};
use crate::evaluate::statistics::{mean, median};
use crate::predictor::folds;
use crate::predictor::known::is_told;
use crate::predictor::seen::Seen;
use crate::predictor::{
    Prediction, Predictor, Quantiles, Query, TrainingLength, Workshop, training_lengths,
};
use crate::provenance::Inputs;
use crate::report::evaluation::{self, Member, caption, for_terminal, to_json};
use crate::report::tables::text_table;
use crate::report::write_evaluation;

use super::{Global, interrupt, must_not_exist, progress};
use asked::{chosen, keep_unseen, notes, sees_its_answers};
use group::{Group, short_names};

/// Measure how well predictors foresee lengths
///
/// Error is the mean absolute error in tokens, Acc-k the share within k tokens, each with a
/// 95 % bootstrap interval over instructions. `floor` always predicts the median training
/// length; `ceiling` is what the coldest sample tells of the others. On lengths of another model
/// than a predictor was trained on, only the rank correlations (tau, Spearman) judge it: nothing
/// is fitted to the evaluated instructions, so its scale stays the other model's.
///
/// Examples:
///   lenaware evaluate --predictor constant --predictor input-length
///   lenaware evaluate --predictor constant --predictor ./runs/ridge --out results/ridge
///   lenaware --json evaluate --dataset val.parquet --predictor ./runs/lora
///   lenaware evaluate --predictor ./runs/head-1,./runs/head-2,./runs/head-3 --out results/heads
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A length dataset: a Parquet file, a folder of build-dataset, or `embedded`
    #[arg(long, default_value = EMBEDDED, value_name = "PATH")]
    dataset: PathBuf,
    /// Instructions to evaluate on: test, validation, train or all [default: test where the
    /// dataset has splits]
    #[arg(long, value_name = "SPLIT")]
    split: Option<String>,
    /// Only the first N instructions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// constant, input-length, lexical-folds (words, learnt from the other instructions),
    /// perception-only, pia, ground-truth, file:FILE, or a trained one's
    /// folder; may be given several times. Folders that differ only in their seed, with commas
    /// between them, are one row: the mean over the seeds and how it varies
    #[arg(long, required = true, value_name = "NAME|DIR[,DIR...]")]
    predictor: Vec<String>,
    /// The dataset whose training instructions the floor, `constant` and `input-length` are
    /// fitted on [default: the evaluated dataset]
    #[arg(long, value_name = "PATH")]
    fit_on: Option<PathBuf>,
    /// A folder to write: summary.json, .csv and .md, predictions.parquet, figures, report.html
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What is foreseen of an instruction's samples: max, mean or a quantile
    #[arg(long, value_name = "LABEL", default_value = "max")]
    label: String,
    /// The model that model-based predictors look into: smollm2-135m, hub:org/name[@revision], a
    /// model's directory or a .gguf file
    #[arg(long, value_name = "MODEL", default_value = "smollm2-135m")]
    model: String,
    /// Instead of the model's own chat template: chatml, llama-2, llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
}

/// Predictors on one set of instructions.
pub struct Evaluation {
    pub predictors: Vec<PredictorRecord>,
    pub floor: PredictorMetrics,
    pub ceiling: Option<PredictorMetrics>,
    /// By predictor, by member (one, or one a seed), in the order of the instances.
    pub predictions: Vec<Vec<Vec<Prediction>>>,
    pub labels: Vec<f64>,
}

/// What predictors are evaluated on, and what the cheapest are fitted on.
pub struct Task<'a> {
    pub instances: &'a [Instance<'a>],
    pub training: &'a [TrainingLength],
    pub label: Label,
    /// Whether to measure also what a prediction takes that is asked for alone.
    pub timed_alone: bool,
}

/// Queries that are asked for alone to see how long one takes.
const ALONE: usize = 20;

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let label: Label = arguments.label.parse()?;
    if let Some(out) = &arguments.out {
        must_not_exist(out)?;
    }
    let groups: Vec<Group> = arguments
        .predictor
        .iter()
        .map(|spec| Group::parse(spec))
        .collect::<Result<_>>()?;
    interrupt::ends("stopped: nothing of this evaluation is kept, the same command starts anew");
    progress::say(global, &format!("reading {}", arguments.dataset.display()));
    let dataset = embedded::open(&arguments.dataset)?;
    let (mut instances, split) = chosen(&dataset, arguments)?;
    let members = || groups.iter().flat_map(|group| &group.members);
    let seen: Vec<Seen> = members()
        .map(|spec| Seen::by(spec))
        .collect::<Result<_>>()?;
    let mut set_apart = None;
    if arguments.split.is_none() && split.is_none() {
        set_apart = keep_unseen(&mut instances, &seen);
    }
    instances.truncate(arguments.limit.unwrap_or(usize::MAX));
    if instances.is_empty() {
        return Err(Error::Usage(format!(
            "{} has no instructions of that split and --limit, or none that the predictors have \
             not seen",
            arguments.dataset.display()
        )));
    }
    let other = match &arguments.fit_on {
        Some(path) => Some(embedded::open(path)?),
        None => None,
    };
    let fitted_on = other.as_ref().unwrap_or(&dataset).training_instances();
    let training = training_lengths(&fitted_on, label);
    let workshop = global
        .workshop(&arguments.model)?
        .with_chat_template(arguments.chat_template.clone());
    let task = Task {
        instances: &instances,
        training: &training,
        label,
        timed_alone: true,
    };
    let evaluation = evaluate_groups(global, &workshop, &groups, &task)
        .map_err(|e| e.from_file(&arguments.dataset))?;
    let fitted_here = other.is_none() && sees_its_answers(&fitted_on, &instances);
    let remembered: Vec<String> = (members().zip(&seen))
        .filter_map(|(spec, seen)| seen.warning(spec, &instances))
        .collect();
    let notes = (set_apart.into_iter().chain(remembered.iter().cloned()))
        .chain(notes(&evaluation, &dataset, label, fitted_here))
        .collect();
    let summary = EvaluationSummary {
        dataset: arguments.dataset.display().to_string(),
        dataset_model: dataset.provenance.model.clone(),
        split: split.map(|split| split.name().to_string()),
        label: label.to_string(),
        instructions: instances.len(),
        seed: global.seed,
        created: crate::provenance::now(),
        notes,
        predictors: evaluation.predictors.clone(),
        floor: evaluation.floor.clone(),
        ceiling: evaluation.ceiling.clone(),
    };
    if let Some(out) = &arguments.out {
        // All is known: what is left are moments, and the folder comes whole.
        interrupt::listen();
        let ids: Vec<&str> = instances.iter().map(|i| i.instruction_id).collect();
        let inputs = Inputs {
            threads: global.thread_count(),
            device: workshop.place().name(),
            dataset: &arguments.dataset,
            models: workshop.used(),
            seeds: vec![global.seed],
        };
        write_evaluation(
            out,
            &summary,
            &evaluation.members(),
            &ids,
            &evaluation.labels,
            &inputs.environment()?,
        )?;
        progress::say(global, &out.join("report.html").display().to_string());
    }
    if global.json {
        println!("{}", to_json(&summary)?);
        return Ok(());
    }
    println!("{}", crate::error::visible(&caption(&summary)));
    let (headers, rows) = evaluation.table();
    println!("{}", text_table(&headers, &rows));
    for note in &summary.notes {
        let line = format!("note: {note}");
        // What is remembered must not pass for what is foreseen, however quiet it is to be.
        match remembered.contains(note) {
            true => progress::warn(&line),
            false => progress::say(global, &line),
        }
    }
    Ok(())
}

/// Runs and scores every predictor by its name.
pub fn evaluate(
    global: &Global,
    workshop: &Workshop,
    names: &[&str],
    task: &Task<'_>,
) -> Result<Evaluation> {
    let groups: Vec<Group> = names
        .iter()
        .map(|name| Group::parse(name))
        .collect::<Result<_>>()?;
    evaluate_groups(global, workshop, &groups, task)
}

fn evaluate_groups(
    global: &Global,
    workshop: &Workshop,
    groups: &[Group],
    task: &Task<'_>,
) -> Result<Evaluation> {
    let Task {
        instances, label, ..
    } = *task;
    let labels: Vec<f64> = instances.iter().map(|i| i.label(label)).collect();
    let queries: Vec<Query<'_>> = instances
        .iter()
        .zip(&labels)
        .map(|(instance, label)| Query {
            instruction_id: instance.instruction_id,
            instruction: instance.instruction,
            prompt_tokens: instance.samples.first().map_or(0, |s| s.prompt_tokens),
            label: *label,
            served: None,
        })
        .collect();
    let (mut records, mut all) = (Vec::new(), Vec::new());
    for (group, short_name) in groups.iter().zip(short_names(groups)) {
        let (mut said, mut each_ms, mut ms_alone) = (Vec::new(), Vec::new(), None);
        for member in &group.members {
            progress::say(global, &format!("evaluating {member}"));
            let predictor = workshop.predictor(member, task.training)?;
            let begun = Instant::now();
            said.push(predictor.predict(&queries)?);
            each_ms.push(begun.elapsed().as_secs_f64() * 1e3 / queries.len() as f64);
            if task.timed_alone && ms_alone.is_none() && takes_time(member) {
                ms_alone = Some(alone(predictor.as_ref(), &queries)?);
            }
        }
        let score = Score {
            labels: &labels,
            ms: mean(&each_ms),
            seed: global.seed,
        };
        let (metrics, seeds) = score.of(&group.name, &said);
        records.push(PredictorRecord {
            metrics: PredictorMetrics {
                ms_alone,
                ..metrics
            },
            members: group.members.clone(),
            trained_on: group.trained_on.clone(),
            seeds,
            short_name,
        });
        all.push(said);
    }
    let trained: Vec<f64> = task.training.iter().map(|t| t.label).collect();
    let (floor, ceiling) = floor_and_ceiling(instances, label, Some(&trained), global.seed);
    Ok(Evaluation {
        predictors: records,
        floor,
        ceiling,
        predictions: all,
        labels,
    })
}

/// Whether a prediction is more than a look-up or a product.
fn takes_time(name: &str) -> bool {
    // Of the last one a prediction alone is nothing: it learns from the others.
    let at_once = ["constant", "input-length", folds::NAME];
    !at_once.contains(&name) && !is_told(name) && !name.starts_with("file:")
}

/// Median milliseconds of single predictions, for queries spread over all.
fn alone(predictor: &dyn Predictor, queries: &[Query<'_>]) -> Result<f64> {
    let count = ALONE.min(queries.len());
    let times: Vec<f64> = (0..count)
        .map(|n| {
            let query = &queries[n * queries.len() / count];
            let begun = Instant::now();
            predictor.predict(std::slice::from_ref(query))?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        })
        .collect::<Result<_>>()?;
    Ok(median(&times))
}

/// One member's predictions, a list a property.
struct Columns {
    tokens: Vec<f64>,
    unparsable: Vec<bool>,
    quantiles: Vec<Option<Quantiles>>,
}

impl Columns {
    fn of(predictions: &[Prediction]) -> Columns {
        Columns {
            tokens: predictions.iter().map(|p| p.tokens).collect(),
            unparsable: predictions.iter().map(|p| p.unparsable).collect(),
            quantiles: predictions.iter().map(|p| p.quantiles.clone()).collect(),
        }
    }

    fn said(&self) -> Said<'_> {
        Said {
            tokens: &self.tokens,
            unparsable: &self.unparsable,
            quantiles: &self.quantiles,
        }
    }
}

/// How predictions of the members of a row are scored.
struct Score<'a> {
    labels: &'a [f64],
    ms: f64,
    seed: u64,
}

impl Score<'_> {
    fn of(&self, name: &str, said: &[Vec<Prediction>]) -> (PredictorMetrics, Option<SeedSpread>) {
        let columns: Vec<Columns> = said.iter().map(|s| Columns::of(s)).collect();
        let seeds: Vec<Said<'_>> = columns.iter().map(Columns::said).collect();
        let metrics = predictor_metrics_over(name, &seeds, self.labels, self.ms, self.seed);
        if seeds.len() < 2 {
            return (metrics, None);
        }
        let alone: Vec<PredictorMetrics> = seeds
            .iter()
            .map(|said| predictor_metrics(name, *said, self.labels, self.ms, self.seed))
            .collect();
        (metrics, SeedSpread::of(&alone))
    }
}

impl Evaluation {
    /// Headers and rows of the table, floor first and ceiling last.
    pub fn table(&self) -> evaluation::Table {
        for_terminal(&self.predictors, &self.floor, self.ceiling.as_ref())
    }

    /// The predicted tokens of the row `place`, its first member's.
    pub fn tokens(&self, place: usize) -> Vec<f64> {
        let first = self.predictions[place].iter().take(1).flatten();
        first.map(|p| p.tokens).collect()
    }

    fn members(&self) -> Vec<Member<'_>> {
        let row = |(record, said)| {
            let (record, said): (&PredictorRecord, &Vec<Vec<Prediction>>) = (record, said);
            let members = record.members.iter().zip(said);
            members.map(|(member, predictions)| Member {
                predictor: &record.metrics.name,
                member,
                predictions,
            })
        };
        self.predictors
            .iter()
            .zip(&self.predictions)
            .flat_map(row)
            .collect()
    }
}
