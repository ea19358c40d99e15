//! `lenaware profile`: measures step times and fits the step-time model.

mod tuning;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::engine::{MemoryFloor, Model};
use crate::error::Result;
use crate::execute::measure::{GenerationTimes, Profile, ROUNDS, generation, measure};
use crate::model::{Checkpoint, resolve};
use crate::persist;
use crate::report::tables::text_table;
use crate::tensor::Storage;

use super::{Dtype, Global, interrupt, must_not_exist, progress};

/// Measure step times over rows and positions on this device, and fit the model that replay uses
///
/// Examples:
///   lenaware profile --out cpu.toml      # then `step_time = "cpu.toml"` in an experiment
///   lenaware profile --device cuda --random-weights llama-7b --out card.toml
///   lenaware profile --tuning 4 --dtype bf16     # how fast LoRA tuning goes, in how much memory
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The model to measure: smollm2-135m, hub:org/name[@revision], a model's directory or a
    /// .gguf file
    #[arg(long, value_name = "MODEL", default_value = "smollm2-135m")]
    model: String,
    /// Instead of a model, random weights of a published shape: tiny, smollm2-135m or llama-7b
    #[arg(long, value_name = "SHAPE")]
    random_weights: Option<String>,
    /// What to compute in
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Rows of the micro-batches to measure
    #[arg(
        long,
        value_name = "N,N..",
        value_delimiter = ',',
        default_value = "1,2,4,8,16,32,64"
    )]
    rows: Vec<usize>,
    /// Positions (prompt and answer, tokens) up to which steps are measured
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    positions: usize,
    /// Also time whole generations of so many tokens, in one static batch of each --rows
    #[arg(long, value_name = "TOKENS")]
    generate: Option<usize>,
    /// Prompt tokens of those generations
    #[arg(long, value_name = "TOKENS", default_value_t = 192)]
    prompt: usize,
    /// The TOML file to write
    #[arg(long, value_name = "FILE", required_unless_present = "tuning")]
    out: Option<PathBuf>,
    /// Instead of step times, time so many optimizer steps of LoRA tuning
    #[arg(long, value_name = "STEPS", conflicts_with_all = ["out", "generate"])]
    tuning: Option<usize>,
    /// How the frozen weights are kept while tuning
    #[arg(
        long,
        value_enum,
        value_name = "STORAGE",
        default_value_t,
        requires = "tuning"
    )]
    frozen_weights: Storage,
    /// Examples of a micro-batch of --tuning; a step has two
    #[arg(
        long,
        value_name = "EXAMPLES",
        default_value_t = 16,
        requires = "tuning"
    )]
    micro_batch_size: usize,
    /// Tokens of an example of --tuning
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 128,
        requires = "tuning"
    )]
    tokens: usize,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Some(steps) = arguments.tuning {
        return tuning::run(global, arguments, steps);
    }
    // clap sees to it that one of both is there.
    let out = arguments.out.as_deref().unwrap_or(Path::new(""));
    must_not_exist(out)?;
    interrupt::ends("stopped: nothing was written, the same command starts anew");
    let (model, name) = load(global, arguments)?;
    let floor = model.memory_floor()?;
    let bar = progress::bar(
        global,
        (arguments.rows.len() * ROUNDS) as u64,
        "batch sizes",
    );
    let profile = measure(
        model.as_ref(),
        &name,
        &arguments.rows,
        arguments.positions,
        || bar.inc(1),
    )?;
    bar.clear();
    let mut generations = Vec::new();
    for &rows in &arguments.rows {
        if let Some(new_tokens) = arguments.generate {
            generations.push(generation(
                model.as_ref(),
                rows,
                arguments.prompt,
                new_tokens.max(2),
            )?);
        }
    }
    let device = model.device();
    drop(model);
    let Profile {
        model,
        held_out,
        steps,
        prefills,
    } = profile;
    persist::write(out, model.to_toml()?.as_bytes())?;
    if global.json {
        println!(
            "{}",
            json!({
                "device": device,
                "step_time": model,
                "held_out": held_out,
                "memory_floor": floor,
                "steps": steps,
                "prefills": prefills,
                "generations": generations,
            })
        );
        return Ok(());
    }
    println!("{name} on {device}");
    let mut headers: Vec<String> = ["rows", "position", "measured (ms)", "fitted (ms)"]
        .map(String::from)
        .into();
    headers.extend(floor.map(|_| "memory floor (ms)".to_string()));
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|s| {
            let mut row = vec![
                s.rows.to_string(),
                (s.context_sum / s.rows).to_string(),
                format!("{:.2}", 1e3 * s.seconds),
                format!("{:.2}", 1e3 * model.steps(s.rows, s.context_sum, 1)),
            ];
            row.extend(floor.map(|f| format!("{:.2}", 1e3 * f.step_s(s.context_sum))));
            row
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
    if let Some(floor) = floor {
        println!(
            "memory floor: {:.2} GB of weights a step, {:.0} kB a position, at {:.2} TB/s (a \
             copy's, read plus written)",
            floor.bytes_a_step as f64 / 1e9,
            floor.bytes_a_position as f64 / 1e3,
            floor.bandwidth / 1e12
        );
    }
    if !generations.is_empty() {
        println!("{}", generations_text(&generations, floor));
    }
    println!("{}", out.display());
    Ok(())
}

fn load(global: &Global, arguments: &Arguments) -> Result<(Arc<dyn Model>, String)> {
    let (place, precision) = (global.place()?, arguments.dtype.precision());
    if let Some(shape) = &arguments.random_weights {
        progress::say(global, &format!("drawing random weights of {shape}"));
        let model = place.put_random(shape, global.seed, precision, global.team())?;
        return Ok((model, format!("random weights of {shape}")));
    }
    let files = resolve(&arguments.model, global.shows_progress(), global.offline)?;
    progress::loading(global, &files);
    let model = place.put(&Checkpoint::load(&files)?, precision, global.team())?;
    Ok((model, files.name))
}

fn generations_text(generations: &[GenerationTimes], floor: Option<MemoryFloor>) -> String {
    let mut headers: Vec<String> = [
        "rows",
        "prompt",
        "new",
        "prefill (ms)",
        "prefill (tokens/s)",
        "decode (ms a step)",
        "decode (tokens/s)",
    ]
    .map(String::from)
    .into();
    headers.extend(floor.map(|_| "of the memory floor".to_string()));
    let rows: Vec<Vec<String>> = generations
        .iter()
        .map(|g| {
            let steps = (g.new_tokens - 1) as f64;
            let mut row = vec![
                g.rows.to_string(),
                g.prompt_tokens.to_string(),
                g.new_tokens.to_string(),
                format!("{:.1}", 1e3 * g.prefill_s),
                format!("{:.0}", (g.rows * g.prompt_tokens) as f64 / g.prefill_s),
                format!("{:.3}", 1e3 * g.decode_s / steps),
                format!("{:.1}", g.rows as f64 * steps / g.decode_s),
            ];
            row.extend(floor.map(|f| {
                let context = g.rows * (g.prompt_tokens + g.new_tokens / 2);
                format!("{:.1} %", 100.0 * f.step_s(context) * steps / g.decode_s)
            }));
            row
        })
        .collect();
    text_table(&headers, &rows)
}
