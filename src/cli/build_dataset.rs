//! `lenaware build-dataset`: samples a length dataset from a model.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::dataset::Split;
use crate::dataset::build::{BuildOptions, Built, build};
use crate::error::{Error, Result};
use crate::instruction::{self, Instruction};
use crate::model::{ChatModel, resolve};

use super::{Global, interrupt, progress};

/// Sample responses to instructions from a model and store their lengths
///
/// The folder --out holds `dataset.parquet` when done. Until then every finished response is
/// kept in it, and the same command continues after an interruption. Slots and threads change
/// the speed only, never a token.
///
/// Examples:
///   lenaware build-dataset --out data/own
///   lenaware build-dataset --instructions in.jsonl --temperatures 0,0.7 --samples 4 --out data/run1
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// smollm2-135m, hub:org/name[@revision], a model's directory or a .gguf file
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Instructions: .jsonl with `text`, Alpaca or FastChat .json, .csv, .parquet, .txt (one a
    /// line) or hub:org/name[@revision][:file] [default: the project's own]
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Columns of --instructions")]
    columns: instruction::Columns,
    /// Only instructions of this split: train, validation or test
    #[arg(long)]
    split: Option<String>,
    /// Only the first N instructions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// 0 is greedy
    #[arg(long, value_delimiter = ',', default_value = "0,0.3,0.5,0.7")]
    temperatures: Vec<f32>,
    /// Samples of each instruction at each temperature above 0
    #[arg(long, default_value_t = 1)]
    samples: u32,
    #[arg(long, default_value_t = 512)]
    max_new_tokens: u32,
    /// Sequences in flight at once
    #[arg(long, default_value_t = 32)]
    slots: usize,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the first rendered prompt and its token ids, and stop
    #[arg(long)]
    show_prompt: bool,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let instructions = instructions(global, arguments)?;
    let files = resolve(&arguments.model, global.shows_progress(), global.offline)?;
    progress::detail_model(global, &files);
    let chat = ChatModel::load(&files, global.team())?;
    if arguments.show_prompt {
        let prompt = chat.prompt(&instructions[0].text)?;
        println!("{}\n{prompt:?}", chat.rendered(&instructions[0].text)?);
        return Ok(());
    }
    let options = BuildOptions {
        temperatures: arguments.temperatures.clone(),
        samples: arguments.samples,
        max_new_tokens: arguments.max_new_tokens,
        seed: global.seed,
        slots: arguments.slots,
    };
    progress::detail(
        global,
        &format!(
            "the KV cache takes {:.2} GB for every 16 slots of 1,000 tokens",
            16_000.0 * chat.config().kv_bytes_per_token() as f64 / 1e9
        ),
    );
    let built =
        sample(global, &chat, &instructions, &options, &arguments.out).map_err(
            |e| match &arguments.instructions {
                Some(path) => e.from_file(path),
                None => e,
            },
        )?;
    let rate = built.stats.generated_tokens as f64 / built.elapsed.as_secs_f64();
    if global.json {
        println!(
            "{}",
            json!({
                "dataset": built.path,
                "samples": built.resumed + built.sampled,
                "resumed": built.resumed,
                "generated_tokens": built.stats.generated_tokens,
                "seconds": built.elapsed.as_secs_f64(),
                "tokens_per_s": rate,
            })
        );
    } else if built.sampled == 0 {
        println!("{} is complete already", built.path.display());
    } else {
        println!(
            "{}: {} samples ({} of them from before), {} tokens in {:.1} s, {rate:.0} tokens/s",
            built.path.display(),
            built.resumed + built.sampled,
            built.resumed,
            built.stats.generated_tokens,
            built.elapsed.as_secs_f64(),
        );
    }
    Ok(())
}

/// Builds with a progress bar, stopping at Ctrl-C.
pub fn sample(
    global: &Global,
    chat: &ChatModel,
    instructions: &[Instruction],
    options: &BuildOptions,
    out: &std::path::Path,
) -> Result<Built> {
    interrupt::listen();
    let bar = progress::bar(global, 0, "samples");
    let built = build(chat, instructions, options, out, &mut |p| {
        if bar.length() != Some(p.total as u64) {
            bar.set_length(p.total as u64);
            bar.reset_eta();
        }
        bar.set_position(p.done as u64);
        let rate = p.tokens as f64 / bar.elapsed().as_secs_f64().max(1e-3);
        bar.set_message(format!("{rate:.0} tokens/s"));
        interrupt::check()
    });
    bar.finish_and_clear();
    built
}

fn instructions(global: &Global, arguments: &Arguments) -> Result<Vec<Instruction>> {
    let mut instructions = match &arguments.instructions {
        Some(path) => {
            let (columns, progress) = (&arguments.columns, global.shows_progress());
            instruction::read_source(path, columns, progress, global.offline)?
        }
        None => instruction::embedded(),
    };
    if let Some(name) = &arguments.split {
        let split: Split = name.parse()?;
        instructions.retain(|i| i.split == Some(split));
    }
    instructions.truncate(arguments.limit.unwrap_or(usize::MAX));
    if instructions.is_empty() {
        return Err(Error::Usage(
            "no instructions are left to sample: check --split and --limit".into(),
        ));
    }
    Ok(instructions)
}
