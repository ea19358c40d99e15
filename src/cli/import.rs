//! `lenaware import`: reads lengths recorded by others.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::dataset::Split;
use crate::dataset::import::sequence_scheduling;
use crate::error::Result;

use super::{Global, must_not_exist};

/// Read lengths recorded by others into a length dataset
///
/// Example:
///   lenaware import --from sequence-scheduling --instructions alpaca-val-10k.json \
///       --lengths alpaca-val-10k-length.json --out val.parquet
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// What the files are
    #[arg(long)]
    from: Source,
    /// The file of instructions
    #[arg(long, value_name = "FILE")]
    instructions: PathBuf,
    /// The file of lengths
    #[arg(long, value_name = "FILE")]
    lengths: PathBuf,
    /// Mark all instructions as of this split: train, validation or test
    #[arg(long)]
    split: Option<String>,
    /// The Parquet file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// The pairs of JSON files of the Sequence-Scheduling repository
    SequenceScheduling,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    must_not_exist(&arguments.out)?;
    let split: Option<Split> = arguments.split.as_deref().map(str::parse).transpose()?;
    let dataset = match arguments.from {
        Source::SequenceScheduling => {
            sequence_scheduling(&arguments.instructions, &arguments.lengths, split)?
        }
    };
    dataset.write_parquet(&arguments.out)?;
    let instructions = dataset.instances().len();
    if global.json {
        println!(
            "{}",
            json!({
                "dataset": arguments.out,
                "instructions": instructions,
                "samples": dataset.samples.len(),
                "censored": dataset.censored(),
            })
        );
    } else {
        println!(
            "{}: {instructions} instructions, {} samples, {} of them cut off at the limit",
            arguments.out.display(),
            dataset.samples.len(),
            dataset.censored(),
        );
    }
    Ok(())
}
