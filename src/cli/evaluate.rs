//! `lenaware evaluate`: accuracy of predictors on a length dataset.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::dataset::embedded::{self, EMBEDDED};
use crate::dataset::{Instance, Label, Split};
use crate::error::{Error, Result};
use crate::evaluate::predictor_metrics::{PredictorMetrics, floor_and_ceiling, predictor_metrics};
use crate::predictor::stored::Description;
use crate::predictor::{Query, TrainingLength, Workshop, training_lengths};
use crate::report::tables::text_table;

use super::{Global, progress};

/// Measure how well predictors foresee lengths
///
/// Error is the mean absolute error in tokens, Acc-k the share within k tokens, each with a
/// 95 % bootstrap interval over instructions. `floor` always predicts the median training
/// length; `ceiling` is what the coldest sample tells of the others.
///
/// Examples:
///   lenaware evaluate --predictor constant --predictor ./runs/ridge
///   lenaware --json evaluate --dataset val.parquet --predictor ./runs/lora
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A length dataset: a Parquet file, a folder of build-dataset, or `embedded`
    #[arg(long, default_value = EMBEDDED, value_name = "PATH")]
    dataset: PathBuf,
    /// Instructions to evaluate on: test, validation, train or all [default: test where the
    /// dataset has splits]
    #[arg(long)]
    split: Option<String>,
    /// Only the first N instructions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// constant, input-length, perception-only, pia, ground-truth, file:FILE, or a trained one's
    /// folder; may be given several times
    #[arg(long, required = true)]
    predictor: Vec<String>,
    /// What is foreseen of an instruction's samples: max, mean or a quantile
    #[arg(long, default_value = "max")]
    label: String,
    /// The model that model-based predictors look into
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Instead of the model's own chat template: chatml, llama-2, llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
}

/// The table of predictors on one dataset.
pub struct Evaluation {
    pub predictors: Vec<PredictorMetrics>,
    pub floor: PredictorMetrics,
    pub ceiling: Option<PredictorMetrics>,
    /// Predictions by predictor, and the labels, in the order of the instances.
    pub predictions: Vec<Vec<f64>>,
    pub labels: Vec<f64>,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let label: Label = arguments.label.parse()?;
    let dataset = embedded::open(&arguments.dataset)?;
    let mut instances = dataset.instances();
    let has_splits = instances.iter().any(|i| i.split.is_some());
    let split: Option<Split> = match arguments.split.as_deref() {
        Some("all") => None,
        Some(name) => Some(name.parse()?),
        None => has_splits.then_some(Split::Test),
    };
    // A file of one split only (a validation file, say) is meant as a whole.
    let other_splits_only = arguments.split.is_none() && instances.iter().all(|i| i.split != split);
    if split.is_some() && !other_splits_only {
        instances.retain(|i| i.split == split);
    }
    instances.truncate(arguments.limit.unwrap_or(usize::MAX));
    if instances.is_empty() {
        return Err(Error::Usage(format!(
            "{} has no instructions of that split",
            arguments.dataset.display()
        )));
    }
    let training = training_lengths(&dataset.training_instances(), label);
    let workshop = Workshop::new(
        &arguments.model,
        global.team(),
        global.shows_progress(),
        global.offline,
    )
    .with_chat_template(arguments.chat_template.clone());
    let names: Vec<&str> = arguments.predictor.iter().map(String::as_str).collect();
    let evaluation = evaluate(global, &workshop, &names, &instances, &training, label)
        .map_err(|e| e.from_file(&arguments.dataset))?;
    if global.json {
        println!(
            "{}",
            json!({
                "dataset": arguments.dataset,
                "label": label.to_string(),
                "predictors": evaluation.predictors,
                "floor": evaluation.floor,
                "ceiling": evaluation.ceiling,
            })
        );
    } else {
        println!(
            "{} instructions of {}, label {label} of their samples",
            instances.len(),
            arguments.dataset.display()
        );
        let (headers, rows) = evaluation.table();
        println!("{}", text_table(&headers, &rows));
    }
    Ok(())
}

/// Runs and scores every predictor.
pub fn evaluate(
    global: &Global,
    workshop: &Workshop,
    names: &[&str],
    instances: &[Instance<'_>],
    training: &[TrainingLength],
    label: Label,
) -> Result<Evaluation> {
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
    let (mut metrics, mut all) = (Vec::new(), Vec::new());
    for name in names {
        progress::say(global, &format!("evaluating {name}"));
        let predictor = workshop.predictor(name, training)?;
        warn_of_label(global, name, label);
        let begun = Instant::now();
        let predictions = predictor.predict(&queries)?;
        let ms = begun.elapsed().as_secs_f64() * 1e3 / queries.len() as f64;
        let tokens: Vec<f64> = predictions.iter().map(|p| p.tokens).collect();
        let unparsable: Vec<bool> = predictions.iter().map(|p| p.unparsable).collect();
        metrics.push(predictor_metrics(
            name,
            &tokens,
            &labels,
            &unparsable,
            ms,
            global.seed,
        ));
        all.push(tokens);
    }
    let trained: Vec<f64> = training.iter().map(|t| t.label).collect();
    let (floor, ceiling) = floor_and_ceiling(instances, label, Some(&trained), global.seed);
    Ok(Evaluation {
        predictors: metrics,
        floor,
        ceiling,
        predictions: all,
        labels,
    })
}

/// A predictor trained for another label is evaluated all the same, but not silently.
fn warn_of_label(global: &Global, name: &str, label: Label) {
    if let Ok(Some(trained)) = Description::read(Path::new(name))
        && trained.label != label.to_string()
    {
        let trained = trained.label;
        progress::say(
            global,
            &format!("note: {name} was trained for the label {trained}, not {label}"),
        );
    }
}

impl Evaluation {
    /// Headers and rows of the table, floor first and ceiling last.
    pub fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let headers = [
            "predictor",
            "Error (tokens)",
            "Acc-50",
            "Acc-100",
            "bias",
            "under",
            "tau",
            "unparsable",
            "ms each",
        ]
        .map(String::from)
        .to_vec();
        let rows = std::iter::once(&self.floor)
            .chain(&self.predictors)
            .chain(&self.ceiling)
            .map(row)
            .collect();
        (headers, rows)
    }
}

fn row(m: &PredictorMetrics) -> Vec<String> {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    vec![
        m.name.clone(),
        format!(
            "{:.1} [{:.1}, {:.1}]",
            m.error.value, m.error.ci95[0], m.error.ci95[1]
        ),
        percent(m.acc_50.value),
        percent(m.acc_100.value),
        format!("{:+.1}", m.bias.value),
        percent(m.underestimation.value),
        m.kendall_tau.map_or("-".into(), |tau| format!("{tau:.2}")),
        percent(m.unparsable),
        format!("{:.2}", m.ms_per_prediction),
    ]
}
