//! `lenaware build-dataset`: samples a length dataset from a model.

mod card;
mod dry_run;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::chat::ChatModel;
use crate::dataset::Split;
use crate::dataset::build::{BuildOptions, Built, Progress, build};
use crate::endpoint::{self, Address, ApiKey, Endpoint, EndpointOptions};
use crate::error::{Error, Result, visible};
use crate::instruction::{self, Instruction};
use crate::model::resolve;

use super::progress::{self, Bar};
use super::{Dtype, Global, interrupt};

/// The model that is sampled unless another is named.
const MODEL: &str = "smollm2-135m";

/// Sample responses to instructions from a model and store their lengths
///
/// The folder --out holds `dataset.parquet` when done, and README.md, a dataset card as the
/// Hugging Face hub reads it (one of your own is left alone). Until then every finished response is
/// kept in it, and the same command continues after an interruption. Slots and threads change
/// the speed only, never a token. With more --samples or --temperatures, or instructions put
/// after those that are there, the same folder is added to; nothing is sampled twice.
///
/// With --endpoint a server answers: vLLM, SGLang, llama.cpp's, TGI, or another that speaks
/// OpenAI's API. Lengths are then the server's own counts.
///
/// Examples:
///   lenaware build-dataset --limit 16 --temperatures 0,0.7 --out data/small      # half a minute
///   lenaware build-dataset --out data/own --dry-run        # what it would do, and how long it takes
///   lenaware build-dataset --instructions in.jsonl --temperatures 0,0.7 --samples 4 --out data/run1
///   lenaware build-dataset --endpoint http://localhost:8000 --model NAME --out data/served
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// smollm2-135m, hub:org/name[@revision], a model's directory or a .gguf file; with
    /// --endpoint, the server's name for it [default: smollm2-135m, or the server's only one]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Instead of the model's own chat template: chatml, llama-2, llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "endpoint")]
    chat_template: Option<String>,
    /// Ask the server at this URL (its API is taken to be at URL/v1 unless the URL says v1
    /// or the like)
    #[arg(long, value_name = "URL", conflicts_with = "slots")]
    endpoint: Option<String>,
    /// Requests to the server at once
    #[arg(long, value_name = "N", default_value_t = 32, requires = "endpoint")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How long one request to the server may take
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        requires = "endpoint"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Further tries of a request after time-outs, dropped connections, 429 and 5xx
    #[arg(long, value_name = "N", default_value_t = 8, requires = "endpoint")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1000))]
    retries: u32,
    /// The environment variable that holds the server's API key [default: OPENAI_API_KEY,
    /// where it is set]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    api_key_env: Option<String>,
    /// Instructions: .jsonl with `text`, Alpaca or FastChat .json, .csv, .parquet, .txt (one a
    /// line) or hub:org/name[@revision][:file] [default: the project's own]
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    /// Only instructions of this split: train, validation or test
    #[arg(long, value_name = "SPLIT")]
    split: Option<String>,
    /// Only the first N instructions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Temperatures to sample at, with commas between them; 0 is greedy
    #[arg(
        long,
        value_name = "T,T..",
        value_delimiter = ',',
        default_value = "0,0.3,0.5,0.7"
    )]
    temperatures: Vec<f32>,
    /// Samples of each instruction at each temperature above 0
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples: u32,
    /// Cut responses off after so many tokens; their true lengths are then unknown
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    max_new_tokens: u32,
    /// Draw from the fewest most probable tokens that together reach this probability
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// What to compute in. bf16 is about twice as fast and takes half the memory; its answers,
    /// and their lengths, are other draws
    #[arg(long, value_enum, default_value_t, conflicts_with = "endpoint")]
    dtype: Dtype,
    /// Sequences in flight at once; more are faster and take more memory
    #[arg(long, value_name = "N", default_value_t = 32)]
    slots: usize,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the first prompt as the model gets it, with its tokens, or the first request to the
    /// server, and stop
    #[arg(long)]
    show_prompt: bool,
    /// Print what would be sampled, and about how long that takes, and stop; nothing is written
    /// and no server is asked
    #[arg(long, conflicts_with = "show_prompt")]
    dry_run: bool,
    #[command(flatten, next_help_heading = "Columns of --instructions")]
    columns: instruction::Columns,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let instructions = instructions(global, arguments)?;
    let options = BuildOptions {
        temperatures: arguments.temperatures.clone(),
        samples: arguments.samples,
        max_new_tokens: arguments.max_new_tokens,
        top_p: arguments.top_p,
        seed: global.seed,
        slots: arguments.slots,
    };
    if arguments.dry_run {
        return dry_run::dry_run(global, arguments, &instructions, &options);
    }
    let built = match &arguments.endpoint {
        Some(url) => from_endpoint(global, arguments, url, &instructions, &options),
        None => from_engine(global, arguments, &instructions, &options),
    };
    let built = built.map_err(|e| match &arguments.instructions {
        Some(path) => e.from_file(path),
        None => e,
    })?;
    if let Some(built) = built {
        // Of a dataset that did not grow the card stays, with what was added to it.
        let there = crate::dataset::card::beside(&built.path).exists();
        let card = match built.sampled > 0 || !there {
            true => card::write(global, arguments, &built.path)?,
            false => None,
        };
        print(global, &built, card.as_deref());
    }
    Ok(())
}

fn from_engine(
    global: &Global,
    arguments: &Arguments,
    instructions: &[Instruction],
    options: &BuildOptions,
) -> Result<Option<Built>> {
    let name = arguments.model.as_deref().unwrap_or(MODEL);
    let files = resolve(name, global.shows_progress(), global.offline)?
        .with_chat_template(arguments.chat_template.clone());
    progress::loading(global, &files);
    let chat = ChatModel::load_on(
        &files,
        global.place()?,
        arguments.dtype.precision(),
        global.team(),
    )?;
    if arguments.show_prompt {
        show_prompt(global, &chat, &instructions[0])?;
        return Ok(None);
    }
    let a_token = chat.model().kv_bytes_per_token() as f64 / 1e9;
    let most = (options.slots * options.max_new_tokens as usize) as f64;
    let free = chat.model().free_memory();
    let free = free.map_or(String::new(), |b| {
        format!("; {:.1} GB are free", b as f64 / 1e9)
    });
    progress::say(
        global,
        &format!(
            "memory: keys and values of {} sequences take up to {:.2} GB, and {:.3} GB for every \
             1,000 tokens of prompts{free}",
            options.slots,
            most * a_token,
            1000.0 * a_token
        ),
    );
    sample(global, &chat, instructions, options, &arguments.out).map(Some)
}

fn from_endpoint(
    global: &Global,
    arguments: &Arguments,
    url: &str,
    instructions: &[Instruction],
    options: &BuildOptions,
) -> Result<Option<Built>> {
    if global.offline {
        return Err(Error::Usage(
            "--endpoint asks a server, which --offline forbids: leave one of them out".into(),
        ));
    }
    let endpoint = Endpoint::new(EndpointOptions {
        address: Address::parse(url)?,
        key: ApiKey::from_env(arguments.api_key_env.as_deref())?,
        timeout: Duration::from_secs(arguments.timeout.into()),
        retries: arguments.retries,
        concurrency: arguments.concurrency.into(),
    });
    if !arguments.show_prompt {
        let url = endpoint.address().of("chat/completions");
        progress::say(global, &format!("asking {url}"));
        if endpoint.sends_key_in_the_clear() {
            progress::say(
                global,
                "the API key is sent unencrypted, and whoever is on the way can read it: ask over \
                 https, or through a tunnel (ssh -L)",
            );
        }
    }
    let bar = progress::bar(global, 0, "samples");
    let notices = Notices::new(global, &bar);
    let notice = |line: &str| notices.say(line);
    let model = match (&arguments.model, arguments.show_prompt) {
        (Some(name), true) => name.clone(),
        (name, _) => endpoint.model(name.as_deref(), &notice)?,
    };
    if arguments.show_prompt {
        let request = endpoint::build::first_request(&model, instructions, options)?;
        println!(
            "{}",
            serde_json::to_string_pretty(&request).unwrap_or_default()
        );
        return Ok(None);
    }
    progress::detail(global, &format!("it answers as {model}"));
    interrupt::listen();
    let built = endpoint::build::build(
        &endpoint,
        &model,
        instructions,
        options,
        &arguments.out,
        &mut |p| show(&bar, p),
        &notice,
    );
    bar.clear();
    built.map(Some)
}

/// Builds from the engine with a progress bar, stopping at Ctrl-C.
pub fn sample(
    global: &Global,
    chat: &ChatModel,
    instructions: &[Instruction],
    options: &BuildOptions,
    out: &Path,
) -> Result<Built> {
    interrupt::listen();
    let bar = progress::bar(global, 0, "samples");
    let built = build(chat, instructions, options, out, &mut |p| show(&bar, p));
    bar.clear();
    built
}

fn show(bar: &Bar, progress: Progress) -> ControlFlow<()> {
    bar.set_total(progress.total as u64);
    let rate = progress.tokens as f64 / bar.elapsed().as_secs_f64().max(1e-3);
    bar.set_message(format!("{rate:.0} tokens/s"));
    bar.set_position(progress.done as u64);
    interrupt::check()
}

/// Lines about what is tried again, few enough to read when all requests fail together.
struct Notices<'a> {
    global: &'a Global,
    bar: &'a Bar,
    last: Mutex<Option<Instant>>,
}

impl<'a> Notices<'a> {
    const EVERY: Duration = Duration::from_secs(5);

    fn new(global: &'a Global, bar: &'a Bar) -> Self {
        Notices {
            global,
            bar,
            last: Mutex::new(None),
        }
    }

    fn say(&self, line: &str) {
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() > Self::EVERY) {
            *last = Some(Instant::now());
            self.bar.suspend(|| progress::say(self.global, line));
        }
    }
}

/// The prompt as text, then a line a token: its id, and how the vocabulary writes it.
fn show_prompt(global: &Global, chat: &ChatModel, instruction: &Instruction) -> Result<()> {
    let rendered = chat.rendered(&instruction.text)?;
    let tokens: Vec<(u32, String)> = chat
        .prompt(&instruction.text)?
        .into_iter()
        .map(|id| (id, chat.tokenizer().token(id).unwrap_or_default()))
        .collect();
    if global.json {
        let tokens: Vec<_> = tokens
            .iter()
            .map(|(id, text)| json!({"id": id, "text": text}))
            .collect();
        let prompt = json!({
            "instruction_id": instruction.id,
            "rendered": rendered,
            "tokens": tokens,
        });
        println!("{prompt}");
        return Ok(());
    }
    // A terminal obeys what a template may write.
    println!("{}", visible(&rendered));
    for (id, text) in tokens {
        println!("{id:>8}  {text:?}");
    }
    Ok(())
}

fn print(global: &Global, built: &Built, card: Option<&Path>) {
    let rate = built.stats.generated_tokens as f64 / built.elapsed.as_secs_f64();
    if global.json {
        println!(
            "{}",
            json!({
                "dataset": built.path,
                "card": card,
                "samples": built.resumed + built.sampled,
                "resumed": built.resumed,
                "generated_tokens": built.stats.generated_tokens,
                "seconds": built.elapsed.as_secs_f64(),
                "tokens_per_s": rate,
            })
        );
    } else if built.sampled == 0 {
        println!("{} is complete already", built.path.display());
    } else {
        println!(
            "{}: {} samples ({} of them from before), {} tokens in {:.1} s, {rate:.0} tokens/s",
            built.path.display(),
            built.resumed + built.sampled,
            built.resumed,
            built.stats.generated_tokens,
            built.elapsed.as_secs_f64(),
        );
    }
}

fn instructions(global: &Global, arguments: &Arguments) -> Result<Vec<Instruction>> {
    let mut instructions = match &arguments.instructions {
        Some(path) => {
            let (columns, progress) = (&arguments.columns, global.shows_progress());
            instruction::read_source(path, columns, progress, global.offline)?
        }
        None => instruction::embedded(),
    };
    if let Some(name) = &arguments.split {
        let split: Split = name.parse()?;
        instructions.retain(|i| i.split == Some(split));
    }
    instructions.truncate(arguments.limit.unwrap_or(usize::MAX));
    if instructions.is_empty() {
        return Err(Error::Usage(
            "no instructions are left to sample: check --split and --limit".into(),
        ));
    }
    Ok(instructions)
}
