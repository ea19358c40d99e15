//! `lenaware predict`: predicted lengths for a file of instructions, for other tools.

use std::path::PathBuf;

use clap::Args;

use crate::dataset::Label;
use crate::dataset::embedded;
use crate::error::{Error, Result};
use crate::instruction;
use crate::persist;
use crate::predictor::{Query, Workshop, from_file, training_lengths};

use super::{Global, must_not_exist};

/// Predict the lengths of answers to a file of instructions, as JSON lines
///
/// Predictors that know a distribution also print its `quantiles`: the length that an answer
/// does not exceed with probability 0.1 to 0.99.
///
/// Example:
///   lenaware predict --predictor ./runs/ridge --instructions in.jsonl --out predictions.jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// constant, input-length, perception-only, pia, file:FILE, or a trained predictor's folder
    #[arg(long)]
    predictor: String,
    /// Instructions, as for build-dataset
    #[arg(long, value_name = "FILE")]
    instructions: PathBuf,
    /// The dataset that `constant` and `input-length` are fitted on
    #[arg(long, default_value = embedded::EMBEDDED, value_name = "PATH")]
    dataset: PathBuf,
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Instead of the one a predictor was trained with, or the model's own: chatml, llama-2,
    /// llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Some(out) = &arguments.out {
        must_not_exist(out)?;
    }
    if ["ground-truth", "oracle"].contains(&arguments.predictor.as_str()) {
        return Err(Error::Usage(format!(
            "`{}` needs recorded answers: use it in `evaluate` or `ablate`",
            arguments.predictor
        )));
    }
    let instructions = instruction::read(&arguments.instructions)?;
    let dataset = embedded::open(&arguments.dataset)?;
    let training = training_lengths(&dataset.training_instances(), Label::Max);
    let workshop = Workshop::new(
        &arguments.model,
        global.team(),
        global.shows_progress(),
        global.offline,
    )
    .with_chat_template(arguments.chat_template.clone());
    let queries: Vec<Query<'_>> = instructions
        .iter()
        .map(|i| Query {
            instruction_id: &i.id,
            instruction: &i.text,
            prompt_tokens: 0,
            label: f64::NAN,
            served: None,
        })
        .collect();
    let predictor = workshop.predictor(&arguments.predictor, &training)?;
    let mut text = String::new();
    let predictions = predictor
        .predict(&queries)
        .map_err(|e| e.from_file(&arguments.instructions))?;
    for (query, prediction) in queries.iter().zip(predictions) {
        let line = from_file::line(query.instruction_id, &prediction);
        text.push_str(&format!("{line}\n"));
    }
    match &arguments.out {
        Some(out) => persist::write(out, text.as_bytes()),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}
