//! Speed of the engine on the shape of SmolLM2-135M with random weights: decoding by rows and
//! by position, prefill, where the time goes, and the share of what the machine can do.
//!
//! What bounds it: a token costs 0.27 GFLOP in products. With one row every step streams all
//! weights from memory, so what counts is the form they are kept in: 538 MB in f32, 269 MB
//! where they are exact in bf16, 101 MB as the blocks of a 4-bit GGUF file; the answers are
//! the same. From about 8 rows on the multiply-adds bound the step, and with longer contexts
//! attention over the KV cache (46 KB a position and row in f32, 23 KB in f16).
//!
//! `cargo bench --bench engine [-- --threads N] [--only f32|f32-bf16|f32-q4|bf16] [--positions]`:
//! after a warm-up, the median of 3 runs each. Shares are of the best that this machine shows
//! just before: multiply-adds on operands in registers, reading 512 MB. On a shared machine the
//! latter moves, and a share may come out above 100 %.

use std::time::Instant;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use lenaware::engine::{Batching, Engine, Request, RunStats};
use lenaware::kernel::{Arithmetic, Team, peak};
use lenaware::model::llama::Llama;
use lenaware::model::{Checkpoint, ModelConfig, Precision};

const PROMPT: usize = 64;
const NEW_TOKENS: usize = 64;
const GFLOP_PER_TOKEN: f64 = 0.269;
const RUNS: usize = 3;
const ROWS: [usize; 6] = [1, 4, 8, 16, 32, 64];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|a| a == flag)?;
        arguments.get(at + 1)
    };
    let threads = value("--threads").and_then(|n| n.parse().ok());
    let team = threads.map_or_else(Team::of_the_machine, Team::new);
    let mut config = ModelConfig::smollm2_135m();
    config.eos_token_ids.clear();
    let checkpoint = Checkpoint::random(&config, 1);
    println!(
        "SmolLM2-135M's shape, {} threads, prompts of {PROMPT} tokens, {NEW_TOKENS} new tokens",
        team.threads()
    );
    let mut results = Vec::new();
    for (name, stored, precision) in [
        ("f32", None, Precision::F32),
        ("f32-bf16", Some(GgmlDType::BF16), Precision::F32),
        ("f32-q4", Some(GgmlDType::Q4_1), Precision::F32),
        ("bf16", None, Precision::BF16),
    ] {
        if value("--only").is_some_and(|only| only != name) {
            continue;
        }
        let model = model(&checkpoint, stored, precision, team.clone());
        let positions = arguments.iter().any(|a| a == "--positions");
        results.push(format!("\"{name}\":{}", measure(name, &model, positions)));
    }
    println!("{{{}}}", results.join(","));
}

/// Weights as a file of type `stored` would have them.
fn model(
    checkpoint: &Checkpoint,
    stored: Option<GgmlDType>,
    precision: Precision,
    team: std::sync::Arc<Team>,
) -> Llama {
    let mut checkpoint = checkpoint.clone();
    if let Some(stored) = stored {
        let round = |tensor: &Tensor| Ok(rounded(tensor, stored));
        checkpoint.map_matrices(round).expect("matrices");
    }
    Llama::with_precision(&checkpoint, precision, team).expect("packed weights")
}

fn rounded(tensor: &Tensor, stored: GgmlDType) -> Tensor {
    let quantized = match stored {
        GgmlDType::BF16 => tensor.to_dtype(DType::BF16),
        stored => QTensor::quantize(tensor, stored).and_then(|q| q.dequantize(&Device::Cpu)),
    };
    quantized
        .and_then(|t| t.to_dtype(DType::F32))
        .expect("rounding")
}

fn measure(name: &str, model: &Llama, positions: bool) -> String {
    let team = model.team();
    let arithmetic = model.precision().products;
    let peak = peak::operations_per_s(team, arithmetic) / 1e9;
    let read = peak::read_bytes_per_s(team).expect("memory") / 1e9;
    let what = match arithmetic {
        Arithmetic::F32 => "f32",
        Arithmetic::Bf16 => "bf16",
    };
    println!(
        "\n{name}: products in {what}, weights {:.0} MB, KV cache {:.1} KB a position; this \
         machine: {peak:.0} GFLOP/s, {read:.0} GB/s",
        model.weight_bytes() as f64 / 1e6,
        model.kv_bytes_per_token() as f64 / 1e3,
    );
    println!(
        "rows  tokens/s  GFLOP/s  % of peak  % of bandwidth  ms/step: products attention   head \
         sampling   rest"
    );
    let mut decode = Vec::new();
    for rows in ROWS {
        let (rate, stats) = median(|| decode_rate(model, rows, PROMPT, NEW_TOKENS));
        let steps = (stats.steps - 1) as f64;
        let ms = |seconds: f64| 1e3 * seconds / steps;
        let parts = stats.parts;
        let known = parts.products_s + parts.attention_s + parts.head_s + stats.sampling_s;
        println!(
            "{rows:>4}  {rate:>8.0}  {:>7.0}  {:>9.0}  {:>14.0}  {:>7.2}: {:>8.2} {:>9.2} {:>6.2} \
             {:>8.2} {:>6.2}",
            rate * GFLOP_PER_TOKEN,
            100.0 * rate * GFLOP_PER_TOKEN / peak,
            100.0 * rate / rows as f64 * model.weight_bytes() as f64 / 1e9 / read,
            ms(stats.decode_s),
            ms(parts.products_s),
            ms(parts.attention_s),
            ms(parts.head_s),
            ms(stats.sampling_s),
            ms(stats.decode_s - known),
        );
        decode.push(format!("\"{rows}\":{rate:.0}"));
    }
    if positions {
        for prompt in [128, 512] {
            let (rate, _) = median(|| decode_rate(model, 32, prompt, 16));
            println!("  32 rows from position {prompt}: {rate:.0} tokens/s");
        }
    }
    let (prefill, _) = median(|| prefill_rate(model));
    println!("prefill of 8 x 256: {prefill:.0} tokens/s");
    format!(
        "{{\"decode\":{{{}}},\"prefill\":{prefill:.0}}}",
        decode.join(",")
    )
}

/// The median after one run to warm up.
fn median(mut run: impl FnMut() -> (f64, RunStats)) -> (f64, RunStats) {
    let mut runs: Vec<_> = (0..=RUNS).map(|_| run()).skip(1).collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    runs.swap_remove(RUNS / 2)
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

fn decode_rate(model: &Llama, rows: usize, prompt: usize, new_tokens: usize) -> (f64, RunStats) {
    let mut engine = Engine::new(model, rows, prompt + new_tokens).expect("cache");
    let mut queue = requests(rows, prompt, new_tokens);
    let stats = engine
        .generate(&mut || queue.next(), Batching::Static, &mut Vec::new())
        .expect("generation");
    let rate = (stats.computed_tokens - rows) as f64 / stats.decode_s;
    (rate, stats)
}

fn prefill_rate(model: &Llama) -> (f64, RunStats) {
    let mut engine = Engine::new(model, 8, 257).expect("cache");
    let mut queue = requests(8, 256, 1);
    let begun = Instant::now();
    let stats = engine
        .generate(&mut || queue.next(), Batching::Static, &mut Vec::new())
        .expect("generation");
    let rate = stats.prefill_tokens as f64 / begun.elapsed().as_secs_f64();
    (rate, stats)
}
