//! Speed of `build-dataset` end to end on the real SmolLM2-135M: prompts, sampling, decoding and
//! storing included, 64 instructions x 2 temperatures, up to 512 new tokens, 32 slots.
//!
//! `cargo bench --bench sampling`: the median of 3 builds, tokens/s. Reference on 2 cores: the
//! server of llama.cpp, 32 slots, the same file: 218 tokens/s (Q4_1), 345 (BF16).

use std::ops::ControlFlow;

use lenaware::dataset::build::{BuildOptions, build};
use lenaware::instruction;
use lenaware::kernel::Team;
use lenaware::model::{ChatModel, resolve};

const RUNS: usize = 3;

fn main() {
    let files = resolve("smollm2-135m", true, false).expect("the model can be had");
    let chat = ChatModel::load(&files, Team::of_the_machine()).expect("it loads");
    let instructions: Vec<_> = instruction::embedded().into_iter().take(64).collect();
    let options = BuildOptions {
        temperatures: vec![0.0, 0.7],
        samples: 1,
        max_new_tokens: 512,
        top_p: 1.0,
        seed: 42,
        slots: 32,
    };
    let mut rates = Vec::new();
    for run in 1..=RUNS {
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
            "run {run}: {} tokens in {:.1} s: {rate:.0} tokens/s (prefill {:.1} s, decode {:.1} s)",
            built.stats.generated_tokens,
            built.elapsed.as_secs_f64(),
            built.stats.prefill_s,
            built.stats.decode_s
        );
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    println!("{{\"tokens_per_s\":{:.0}}}", rates[RUNS / 2]);
}
