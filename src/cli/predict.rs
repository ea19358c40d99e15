//! `lenaware predict`: predicted lengths for a file of instructions, for other tools.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::dataset::Label;
use crate::dataset::embedded;
use crate::error::{Error, Result};
use crate::evaluate::statistics::median;
use crate::instruction;
use crate::memory;
use crate::persist;
use crate::predictor::hints::{Engine, Order, Requests};
use crate::predictor::known::is_told;
use crate::predictor::{Prediction, Query, folds, from_file, training_lengths};

use super::{Global, interrupt, must_not_exist, progress};

/// Predict the lengths of answers to a file of instructions, as JSON lines
///
/// Predictors that know a distribution also print its `quantiles`: the length that an answer
/// does not exceed with probability 0.01 to 0.99.
///
/// With --for the lines are requests to a serving engine instead, one an instruction, with what
/// is predicted where that engine looks for it: vLLM's `priority`, the objective `short` or
/// `long` of llm-d's router, NVIDIA Dynamo's `osl`.
///
/// Examples:
///   lenaware predict --predictor constant --instructions datasets/instructions.jsonl
///   lenaware predict --predictor ./runs/ridge --instructions in.jsonl --out predictions.jsonl
///   lenaware predict --predictor ./runs/ridge --instructions in.jsonl --for vllm --served-model NAME
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// constant, input-length, perception-only, pia, file:FILE, or a trained predictor's folder
    #[arg(long, value_name = "NAME|DIR")]
    predictor: String,
    /// Instructions, as for build-dataset
    #[arg(long, value_name = "FILE")]
    instructions: PathBuf,
    /// The dataset that `constant` and `input-length` are fitted on
    #[arg(long, default_value = embedded::EMBEDDED, value_name = "PATH")]
    dataset: PathBuf,
    /// The model that a model-based predictor looks into: smollm2-135m, hub:org/name[@revision],
    /// a model's directory or a .gguf file
    #[arg(long, value_name = "MODEL", default_value = "smollm2-135m")]
    model: String,
    /// Instead of the one a predictor was trained with, or the model's own: chatml, llama-2,
    /// llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Write requests to this engine, with the predictions as hints, instead of predictions
    #[arg(long = "for", value_name = "ENGINE", value_enum)]
    engine: Option<Target>,
    /// What the engine calls the model that is to answer; needed with --for
    #[arg(long, value_name = "NAME", requires = "engine")]
    served_model: Option<String>,
    /// Where the engine is to cut answers (`max_completion_tokens`) [default: it decides]
    #[arg(long, value_name = "N", requires = "engine")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// vllm: who goes first. Shortest first, requests wait least on average; longest first, no
    /// long answer is left to the end of a batch [default: shortest-first]
    #[arg(long, value_name = "ORDER", value_enum, requires = "engine")]
    order: Option<First>,
    /// llm-d: more predicted tokens than these are `long`, as many are `short` [default: the
    /// median of this file's predictions]
    #[arg(long, value_name = "TOKENS", requires = "engine")]
    long_above: Option<u32>,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Whom requests are written for.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Target {
    /// A batch file for `vllm run-batch --scheduling-policy priority`
    Vllm,
    /// Requests and their headers, for llm-d's router
    LlmD,
    /// Requests for NVIDIA Dynamo's frontend
    Dynamo,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum First {
    ShortestFirst,
    LongestFirst,
}

/// What an instruction takes besides its own text: the query, the prediction with its quantiles,
/// and the line that is written.
const BYTES: usize = 1000;

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Some(out) = &arguments.out {
        must_not_exist(out)?;
    }
    if is_told(&arguments.predictor) || arguments.predictor == folds::NAME {
        return Err(Error::Usage(format!(
            "`{}` needs recorded answers: use it in `evaluate` or `ablate`",
            arguments.predictor
        )));
    }
    arguments.check_engine()?;
    interrupt::ends("stopped: nothing was written, the same command starts anew");
    let reading = format!("reading {}", arguments.instructions.display());
    progress::say(global, &reading);
    let instructions = instruction::read(&arguments.instructions)?;
    let count = instructions.len();
    let path = arguments.instructions.display();
    memory::check(
        &format!("{path}: predictions of its {count} instructions need"),
        count.saturating_mul(BYTES),
        memory::available(),
        "give a part of the file",
    )?;
    let dataset = embedded::open(&arguments.dataset)?;
    let training = training_lengths(&dataset.training_instances(), Label::Max);
    let workshop = global
        .workshop(&arguments.model)?
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
    let asked = format!("asking {} about {}", arguments.predictor, queries.len());
    progress::say(global, &format!("{asked} instructions"));
    let predictions = predictor
        .predict(&queries)
        .map_err(|e| e.from_file(&arguments.instructions))?;
    let requests = arguments.requests(global, &predictions);
    let mut lines = Vec::new();
    for (query, prediction) in queries.iter().zip(&predictions) {
        let line = match &requests {
            Some(requests) => requests.line(query, prediction),
            None => from_file::line(query.instruction_id, prediction),
        };
        lines.push(line.to_string());
    }
    match (&arguments.out, global.json) {
        (Some(out), json) => {
            interrupt::listen();
            persist::write(out, (lines.join("\n") + "\n").as_bytes())?;
            if json {
                let told = json!({"predictions": out, "instructions": lines.len()});
                println!("{told}");
            }
        }
        // Every line is a document; all of them together are a list.
        (None, true) => println!("[{}]", lines.join(",")),
        (None, false) => println!("{}", lines.join("\n")),
    }
    Ok(())
}

impl Arguments {
    /// Refuses flags that --for's engine has no use for, before anything is computed.
    fn check_engine(&self) -> Result<()> {
        let Some(engine) = self.engine else {
            return Ok(());
        };
        let wrong = |what: &str| Err(Error::Usage(what.into()));
        if self
            .served_model
            .as_ref()
            .is_none_or(std::string::String::is_empty)
        {
            return wrong(
                "--for writes requests, and a request names its model: give --served-model NAME, \
                 as the engine calls it",
            );
        }
        if self.order.is_some() && engine != Target::Vllm {
            return wrong(
                "--order is vLLM's `priority`, which is not written for this engine: leave it out \
                 or use --for vllm",
            );
        }
        if self.long_above.is_some() && engine != Target::LlmD {
            return wrong(
                "--long-above parts llm-d's objectives, which are not written for this engine: \
                 leave it out or use --for llm-d",
            );
        }
        Ok(())
    }

    /// How requests are written, where they are asked for.
    fn requests(&self, global: &Global, predictions: &[Prediction]) -> Option<Requests<'_>> {
        let engine = match self.engine? {
            Target::Vllm => Engine::Vllm(match self.order {
                Some(First::LongestFirst) => Order::Longest,
                Some(First::ShortestFirst) | None => Order::Shortest,
            }),
            Target::LlmD => Engine::LlmD {
                long_above: self
                    .long_above
                    .map_or_else(|| border_between_halves(global, predictions), f64::from),
            },
            Target::Dynamo => Engine::Dynamo,
        };
        Some(Requests {
            engine,
            model: self.served_model.as_deref().unwrap_or_default(),
            max_tokens: self.max_tokens,
        })
    }
}

/// The median prediction: whatever the model's lengths and the predictor's scale, half of the
/// requests are short. Other files have other medians, so it is said.
fn border_between_halves(global: &Global, predictions: &[Prediction]) -> f64 {
    let tokens: Vec<f64> = predictions.iter().map(|p| p.tokens).collect();
    let border = median(&tokens);
    progress::say(
        global,
        &format!(
            "long: more than {border:.1} tokens, the median prediction (--long-above sets it)"
        ),
    );
    border
}
