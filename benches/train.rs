//! Speed of tuning a LoRA adapter (r 8 on q_proj and v_proj, micro-batches of 16, two a step,
//! perception-only prompts of the embedded instructions, about 83 tokens an example) on
//! SmolLM2-135M, in f32 and in bf16: examples and tokens a second, where the time goes, peak
//! memory of the process. Without the model, random weights and tokens of the same shape.
//!
//! What bounds it: 0.42 GFLOP a computed row for the blocks, forward and backward; the 25 or so
//! rows of the chat template's beginning are computed once a micro-batch, not once an example.
//!
//! `cargo bench --bench train [-- --only f32|bf16] [--steps N] [--dropout RATE]
//! [--examples FILE]`: after a step to warm up, the median step. --examples writes the examples
//! as JSON for `tests/peers/train_peft.py`.

use std::ops::ControlFlow;
use std::time::Instant;

use lenaware::dataset::embedded::embedded;
use lenaware::kernel::Team;
use lenaware::lora::{Adapter, LoraConfig};
use lenaware::model::{ChatTemplate, Checkpoint, ModelConfig, TextTokenizer, resolve};
use lenaware::predictor::asked::question;
use lenaware::train::llama::{Options, TrainableLlama};
use lenaware::train::{Dtype, Example, StepTimes, TrainConfig, Training};

const EXAMPLES: usize = 64;
/// Lengths of the instructions that are taken, in tokens with prompt and target.
const TOKENS: std::ops::RangeInclusive<usize> = 60..=125;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|a| a == flag)?;
        arguments.get(at + 1).cloned()
    };
    let number = |flag| value(flag).map(|v| v.parse::<f64>().expect("a number"));
    let Some(only) = value("--only") else {
        // A process each, so that the peaks of memory are their own.
        for dtype in ["f32", "bf16"] {
            let program = std::env::current_exe().expect("this program");
            let mut command = std::process::Command::new(program);
            command.args(&arguments[1..]).args(["--only", dtype]);
            assert!(command.status().expect("it runs").success());
        }
        return;
    };
    let dtype = match only.as_str() {
        "bf16" => Dtype::Bf16,
        _ => Dtype::F32,
    };
    let (checkpoint, examples) = model_and_examples();
    if let Some(path) = value("--examples") {
        let rows: Vec<_> = examples
            .iter()
            .map(|e| serde_json::json!({"prompt": e.prompt, "target": e.target}))
            .collect();
        std::fs::write(path, serde_json::to_vec(&rows).expect("JSON")).expect("written");
    }
    measure(
        checkpoint,
        examples,
        dtype,
        number("--steps").map_or(6, |n| n as usize),
        number("--dropout").unwrap_or(0.05),
    );
}

fn measure(
    checkpoint: Checkpoint,
    examples: Vec<Example>,
    dtype: Dtype,
    steps: usize,
    dropout: f64,
) {
    let team = Team::of_the_machine();
    let threads = team.threads();
    let lora = LoraConfig {
        dropout,
        ..LoraConfig::default()
    };
    let adapter = Adapter::new(lora, &checkpoint.config, "bench", 1).expect("an adapter");
    let options = Options {
        arithmetic: dtype.arithmetic(),
        ..Options::default()
    };
    let model = TrainableLlama::with_options(&checkpoint, Some(adapter), team, options)
        .expect("packed weights");
    drop(checkpoint);
    let config = TrainConfig {
        epochs: steps,
        max_steps: Some(steps + 1),
        dtype,
        ..TrainConfig::default()
    };
    let a_step = config.micro_batch_size * config.gradient_accumulation;
    let tokens: usize = examples
        .iter()
        .map(|e| e.prompt.len() + e.target.len())
        .sum();
    let mean = tokens as f64 / examples.len() as f64;
    println!(
        "\n{dtype:?}: {threads} threads, {} examples of {mean:.1} tokens, {a_step} a step",
        examples.len()
    );
    let mut training = Training::new(model, config).expect("a configuration");
    let plan = training.plan_memory(&examples).expect("memory");
    println!("{}", plan.summary());
    let (mut seconds, mut begun) = (Vec::new(), Instant::now());
    let mut before = StepTimes::default();
    training
        .run(&examples, &mut |training, record| {
            if record.step == 0 {
                before = training.model.times();
            } else {
                seconds.push(begun.elapsed().as_secs_f64());
            }
            begun = Instant::now();
            Ok(ControlFlow::Continue(()))
        })
        .expect("training");
    let after = training.model.times();
    let total: f64 = seconds.iter().sum();
    let count = seconds.len() as f64;
    let part = |name: &str, of: fn(&StepTimes) -> f64| {
        let s = of(&after) - of(&before);
        println!(
            "  {name:<18} {:>7.0} ms a step, {:>4.1} %",
            1e3 * s / count,
            100.0 * s / total
        );
        s
    };
    let known = part("forward products", |t| t.forward_products_s)
        + part("backward products", |t| t.backward_products_s)
        + part("attention", |t| t.attention_s)
        + part("LoRA", |t| t.low_rank_s)
        + part("head", |t| t.head_s)
        + part("norms, activations", |t| t.rest_s);
    println!(
        "  {:<18} {:>7.0} ms a step",
        "between",
        1e3 * (total - known) / count
    );
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let rate = a_step as f64 / median;
    println!(
        "{{\"dtype\":\"{dtype:?}\",\"examples_per_s\":{rate:.2},\"tokens_per_s\":{:.0},\
         \"slowest\":{:.2},\"fastest\":{:.2},\"peak_mb\":{:.0}}}",
        rate * mean,
        a_step as f64 / seconds[seconds.len() - 1],
        a_step as f64 / seconds[0],
        peak_bytes() / 1e6
    );
}

/// The real model with real prompts, or the same shape with random ones.
fn model_and_examples() -> (Checkpoint, Vec<Example>) {
    let Ok(files) = resolve("smollm2-135m", false, true) else {
        println!("the model is not here: random weights and tokens");
        let checkpoint = Checkpoint::random(&ModelConfig::smollm2_135m(), 1);
        let examples = (0..EXAMPLES as u32).map(|i| Example {
            prompt: (0..25)
                .chain((0..40 + 7 * (i % 8)).map(|k| (i * 7919 + k * 104_729 + 17) % 49_152))
                .collect(),
            target: vec![33, 32, 32, 2],
        });
        return (checkpoint, examples.collect());
    };
    let tokenizer = TextTokenizer::from_files(&files).expect("tokenizer");
    let template = ChatTemplate::from_files(&files).expect("template");
    let dataset = embedded().expect("the embedded dataset");
    let examples = dataset
        .training_instances()
        .iter()
        .map(|instance| {
            let text = template.render(&question(instance.instruction));
            let mut target = tokenizer.encode("150").expect("tokens");
            target.push(2);
            Example {
                prompt: tokenizer.encode(&text.expect("text")).expect("tokens"),
                target,
            }
        })
        .filter(|e| TOKENS.contains(&(e.prompt.len() + e.target.len())))
        .take(EXAMPLES)
        .collect();
    (Checkpoint::load(&files).expect("weights"), examples)
}

/// The most memory that the process had at once.
fn peak_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM"));
    let kilobytes = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kb| kb * 1024.0)
}
