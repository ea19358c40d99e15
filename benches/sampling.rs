//! Speed of `build-dataset` end to end on the real SmolLM2-135M (prompts, prefill, drawing,
//! detokenising, storing, the tail when slots run empty), beside the engine's bare decode rate
//! in the same process: as many rows as slots, at the mean context of the build.
//!
//! `cargo bench --bench sampling [-- --instructions 64] [--temperatures 0,0.7] [--slots 32]
//! [--dtype f32|bf16] [--runs 3]`: the median of the runs, tokens/s.
//!
//! The same prompts through llama.cpp's server: `llama-server -m MODEL.gguf -t 2 -np 32 -c 32768`,
//! then `lenaware build-dataset --endpoint http://localhost:8080 --limit 64 --temperatures 0,0.7
//! --out DIR`.

use std::ops::ControlFlow;

use lenaware::chat::ChatModel;
use lenaware::dataset::LengthDataset;
use lenaware::dataset::build::{BuildOptions, build};
use lenaware::engine::{Batching, Engine, Model, Place, Request};
use lenaware::instruction;
use lenaware::kernel::Team;
use lenaware::model::{Precision, resolve};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str, default: &str| {
        let at = arguments.iter().position(|a| a == flag);
        at.and_then(|at| arguments.get(at + 1))
            .map_or(default, |value| value)
            .to_string()
    };
    let number = |flag: &str, default: &str| -> usize {
        value(flag, default).parse().expect("a whole number")
    };
    let precision = match value("--dtype", "f32").as_str() {
        "bf16" => Precision::BF16,
        _ => Precision::F32,
    };
    let files = resolve("smollm2-135m", true, false).expect("the model can be had");
    let chat = ChatModel::load_on(&files, Place::Cpu, precision, Team::of_the_machine())
        .expect("it loads");
    let instructions: Vec<_> = instruction::embedded()
        .into_iter()
        .take(number("--instructions", "64"))
        .collect();
    let options = BuildOptions {
        temperatures: value("--temperatures", "0,0.7")
            .split(',')
            .map(|t| t.parse().expect("a temperature"))
            .collect(),
        samples: 1,
        max_new_tokens: 512,
        top_p: 1.0,
        seed: 42,
        slots: number("--slots", "32"),
    };
    let runs = number("--runs", "3").max(1);
    let mut rates = Vec::new();
    let mut context = 0;
    for run in 1..=runs {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let go_on = &mut |_| ControlFlow::Continue(());
        let built = build(
            &chat,
            &instructions,
            &options,
            &dir.path().join("out"),
            go_on,
        )
        .expect("a build");
        let rate = built.stats.generated_tokens as f64 / built.elapsed.as_secs_f64();
        println!(
            "run {run}: {} tokens in {:.1} s: {rate:.0} tokens/s (prefill of {} tokens {:.1} s, \
             decode {:.1} s)",
            built.stats.generated_tokens,
            built.elapsed.as_secs_f64(),
            built.stats.prefill_tokens,
            built.stats.prefill_s,
            built.stats.decode_s
        );
        rates.push(rate);
        context = mean_context(&LengthDataset::read_parquet(&built.path).expect("the dataset"));
    }
    rates.sort_by(f64::total_cmp);
    let mut bare: Vec<f64> = (0..3)
        .map(|_| bare_decode(chat.model().as_ref(), options.slots, context))
        .collect();
    bare.sort_by(f64::total_cmp);
    let (rate, bare) = (rates[runs / 2], bare[1]);
    println!(
        "bare decode of {} rows at the mean context, position {context}: {bare:.0} tokens/s; the \
         build reaches {:.0} % of it",
        options.slots,
        100.0 * rate / bare
    );
    println!("{{\"tokens_per_s\":{rate:.0},\"bare_decode_tokens_per_s\":{bare:.0}}}");
}

/// Positions that a token of the build attended to, on average.
fn mean_context(dataset: &LengthDataset) -> usize {
    let (mut tokens, mut positions) = (0u64, 0u64);
    for sample in &dataset.samples {
        let (prompt, response) = (
            u64::from(sample.prompt_tokens),
            u64::from(sample.response_tokens),
        );
        tokens += response;
        positions += response * prompt + response * response / 2;
    }
    (positions / tokens.max(1)) as usize
}

fn bare_decode(model: &dyn Model, rows: usize, context: usize) -> f64 {
    let mut engine = Engine::new(model, rows, context + 64).expect("cache");
    let mut queue = (0..rows).map(|id| Request {
        id,
        prompt: (0..context)
            .map(|i| ((id * 7919 + i * 104_729 + 17) % 49_152) as u32)
            .collect::<Vec<u32>>()
            .into(),
        max_new_tokens: 32,
        temperature: 0.7,
        top_p: 1.0,
        seed: id as u64,
    });
    let stats = engine
        .generate(&mut || queue.next(), Batching::Static, &mut Vec::new())
        .expect("generation");
    (stats.computed_tokens - rows) as f64 / stats.decode_s
}
