//! `profile --tuning`: how fast LoRA tuning goes, and in how much memory.

use serde_json::json;

use crate::error::{Error, Result};
use crate::kernel::Arithmetic;
use crate::model::{Checkpoint, ModelConfig, resolve};
use crate::tensor::Storage;
use crate::train::llama::Options;
use crate::train::rate::{TuningLoad, tuning_rate};

use super::super::{Dtype, Global, progress};
use super::Arguments;

pub(super) fn run(global: &Global, arguments: &Arguments, steps: usize) -> Result<()> {
    let (checkpoint, name) = match &arguments.random_weights {
        Some(shape) => {
            let config = ModelConfig::shape(shape)?;
            let name = format!("random weights of {shape}");
            (Checkpoint::random(&config, global.seed), name)
        }
        None => {
            let files = resolve(&arguments.model, global.shows_progress(), global.offline)?;
            progress::loading(global, &files);
            (Checkpoint::load(&files)?, files.name)
        }
    };
    if arguments.tokens < 4 {
        return Err(Error::Usage("--tokens must be at least 4".into()));
    }
    let place = global.tuning_place()?;
    let dtype = match arguments.dtype {
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
    };
    let options = Options {
        arithmetic: match arguments.dtype {
            Dtype::F32 => Arithmetic::F32,
            Dtype::Bf16 => Arithmetic::Bf16,
        },
        frozen: arguments.frozen_weights,
        place,
        ..Options::default()
    };
    let load = TuningLoad {
        steps: steps.max(1),
        micro_batch: arguments.micro_batch_size.max(1),
        tokens: arguments.tokens,
    };
    let rate = tuning_rate(checkpoint, options, load, global.team())?;
    if global.json {
        println!(
            "{}",
            json!({
                "model": name,
                "device": place.name(),
                "dtype": dtype,
                "frozen_weights": arguments.frozen_weights,
                "tuning": rate,
                "peak_resident_bytes": peak_resident(),
            })
        );
        return Ok(());
    }
    let storage = match arguments.frozen_weights {
        Storage::Dense => String::new(),
        other => format!(", frozen weights in {}", other.name()),
    };
    println!(
        "{name} on {}, {dtype}{storage}, LoRA of rank 8 on q_proj and v_proj",
        place.name()
    );
    println!(
        "{:.2} examples/s of {} tokens (median of {} steps of {} examples; {:.2} to {:.2}); loss \
         {:.3} to {:.3}",
        rate.examples_per_s,
        load.tokens,
        load.steps,
        2 * load.micro_batch,
        rate.least,
        rate.most,
        rate.losses.0,
        rate.losses.1
    );
    println!("{}", rate.memory.summary());
    if let Some(bytes) = peak_resident() {
        println!(
            "the process took at most {:.0} MB of the machine's memory",
            bytes as f64 / 1e6
        );
    }
    Ok(())
}

/// The most memory the process ever had, mapped files among it, where the system says so.
fn peak_resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
