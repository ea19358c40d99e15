//! Speed of the engine on the shape of SmolLM2-135M with random weights: decode tokens/s by
//! rows, prefill tokens/s, and the share of each that is matrix products.
//!
//! What bounds it: a token costs 0.27 GFLOP in products. At 1 row every step streams all
//! weights (538 MB in f32) from memory; from about 8 rows on the products' arithmetic
//! dominates; attention grows with the context, about 46 KB of KV cache read a position.
//!
//! `cargo bench --bench engine [-- --threads N]`: warm-up, then the median of 3 runs each.

use std::time::Instant;

use lenaware::engine::{Batching, Engine, Request};
use lenaware::kernel::Team;
use lenaware::model::{Checkpoint, ModelConfig, llama::Llama};

const PROMPT: usize = 64;
const NEW_TOKENS: usize = 64;
const GFLOP_PER_TOKEN: f64 = 0.269;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let threads = arguments
        .iter()
        .position(|a| a == "--threads")
        .and_then(|at| arguments.get(at + 1)?.parse().ok());
    let team = threads.map_or_else(Team::of_the_machine, Team::new);
    let mut config = ModelConfig::smollm2_135m();
    config.eos_token_ids.clear();
    let checkpoint = Checkpoint::random(&config, 1).expect("random weights");
    let model = Llama::new(&checkpoint, team.clone()).expect("packed weights");
    drop(checkpoint);
    println!(
        "SmolLM2-135M's shape, f32, {} threads; prompt {PROMPT}, {NEW_TOKENS} new tokens",
        team.threads()
    );
    println!("rows  decode tokens/s  GFLOP/s  ms/step");
    let mut results = Vec::new();
    for rows in [1, 4, 8, 16, 32, 64] {
        let mut rates: Vec<f64> = (0..4).map(|_| decode_rate(&model, rows)).skip(1).collect();
        rates.sort_by(f64::total_cmp);
        let rate = rates[1];
        println!(
            "{rows:>4}  {rate:>15.0}  {:>7.0}  {:>7.2}",
            rate * GFLOP_PER_TOKEN,
            1e3 * rows as f64 / rate
        );
        results.push(format!("\"{rows}\":{rate:.0}"));
    }
    let mut rates: Vec<f64> = (0..4).map(|_| prefill_rate(&model)).skip(1).collect();
    rates.sort_by(f64::total_cmp);
    println!("prefill of 8 x 256: {:.0} tokens/s", rates[1]);
    println!(
        "{{\"decode\":{{{}}},\"prefill\":{:.0}}}",
        results.join(","),
        rates[1]
    );
}

fn requests(count: usize, prompt: usize, max_new_tokens: usize) -> impl Iterator<Item = Request> {
    (0..count).map(move |id| Request {
        id,
        prompt: (0..prompt)
            .map(|i| ((id * 7919 + i * 104_729 + 17) % 49_152) as u32)
            .collect::<Vec<u32>>()
            .into(),
        max_new_tokens,
        temperature: 0.7,
        top_p: 1.0,
        seed: id as u64,
    })
}

fn decode_rate(model: &Llama, rows: usize) -> f64 {
    let mut engine = Engine::new(model, rows, PROMPT + NEW_TOKENS).expect("cache");
    let mut queue = requests(rows, PROMPT, NEW_TOKENS);
    let stats = engine
        .generate(&mut || queue.next(), Batching::Static, &mut Vec::new())
        .expect("generation");
    (stats.computed_tokens - rows) as f64 / stats.decode_s
}

fn prefill_rate(model: &Llama) -> f64 {
    let mut engine = Engine::new(model, 8, 257).expect("cache");
    let mut queue = requests(8, 256, 1);
    let begun = Instant::now();
    let stats = engine
        .generate(&mut || queue.next(), Batching::Static, &mut Vec::new())
        .expect("generation");
    stats.prefill_tokens as f64 / begun.elapsed().as_secs_f64()
}
