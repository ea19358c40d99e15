//! `lenaware profile`: measures step times and fits the step-time model.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::error::Result;
use crate::execute::measure::{Profile, measure};
use crate::model::{ChatModel, resolve};
use crate::persist;
use crate::report::tables::text_table;

use super::{Dtype, Global, must_not_exist, progress};

/// Measure step times over rows and positions on this device, and fit the model that replay uses
///
/// Example:
///   lenaware profile --out cpu.toml      # then `step_time = "cpu.toml"` in an experiment
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Instead of the model's own chat template: chatml, llama-2, llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// What to compute in
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Rows of the micro-batches to measure
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64")]
    rows: Vec<usize>,
    /// Positions up to which steps are measured
    #[arg(long, default_value_t = 512)]
    positions: usize,
    /// The TOML file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    must_not_exist(&arguments.out)?;
    let files = resolve(&arguments.model, global.shows_progress(), global.offline)?
        .with_chat_template(arguments.chat_template.clone());
    progress::detail_model(global, &files);
    let chat = ChatModel::load_in(&files, arguments.dtype.precision(), global.team())?;
    let bar = progress::bar(global, arguments.rows.len() as u64, "batch sizes");
    let Profile {
        model,
        held_out,
        steps,
    } = measure(&chat, &arguments.rows, arguments.positions, || bar.inc(1))?;
    bar.finish_and_clear();
    persist::write(&arguments.out, model.to_toml()?.as_bytes())?;
    if global.json {
        println!(
            "{}",
            json!({"step_time": model, "held_out": held_out, "steps": steps})
        );
        return Ok(());
    }
    let headers = ["rows", "position", "measured (ms)", "fitted (ms)"].map(String::from);
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|s| {
            vec![
                s.rows.to_string(),
                (s.context_sum / s.rows).to_string(),
                format!("{:.2}", 1e3 * s.seconds),
                format!("{:.2}", 1e3 * model.steps(s.rows, s.context_sum, 1)),
            ]
        })
        .collect();
    println!("{}", text_table(&headers, &rows));
    println!(
        "step = {:.2} ms + {:.3} ms a row + {:.6} ms a position; prefill = {:.2} ms + {:.3} ms a \
         token",
        1e3 * model.t0,
        1e3 * model.t1,
        1e3 * model.t2,
        1e3 * model.p0,
        1e3 * model.p1
    );
    if let Some(error) = held_out {
        println!(
            "mean error on {} held-out steps: {:.1} %",
            error.observations,
            100.0 * error.mean_relative
        );
    }
    println!("{}", arguments.out.display());
    Ok(())
}
