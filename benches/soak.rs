//! A build of a million samples through a model that costs nothing: memory, open files and speed
//! stay as they are. With `endpoint` the same number of answers comes from a server. It fails where
//! memory or files grow after the first fifth of the way.
//!
//! `cargo bench --bench soak [-- --samples 1000000] [endpoint]`: a line each twentieth of the
//! way (resident memory, open files, samples/s since the line before), one JSON document at the
//! end. Instructions are 20,000 of some 60 characters; answers are log-normal lengths cut at 512
//! tokens, of letters. Everything else is what `build-dataset` does.

#[path = "../tests/commands/tiny_model.rs"]
mod tiny_model;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lenaware::Result;
use lenaware::chat::ChatModel;
use lenaware::dataset::Label;
use lenaware::dataset::build::{BuildOptions, Progress, build};
use lenaware::dataset::describe::describe;
use lenaware::endpoint::{self, Address, Endpoint, EndpointOptions};
use lenaware::engine::sampling::Draw;
use lenaware::engine::{Decoder, Drawn, Model};
use lenaware::instruction::Instruction;
use lenaware::model::capture::Capture;
use lenaware::model::llama::Chunk;
use lenaware::model::{ModelConfig, ModelFiles, PartTimes};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const INSTRUCTIONS: usize = 20_000;
const MAX_NEW_TOKENS: u32 = 512;
/// Lines of the table.
const PARTS: usize = 20;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|a| a == "--samples");
    let samples: usize = at
        .and_then(|at| arguments.get(at + 1))
        .map_or(1_000_000, |value| {
            value.parse().expect("a whole number of samples")
        });
    let over_http = arguments.iter().any(|a| a == "endpoint");
    let instructions = instructions(INSTRUCTIONS.min(samples));
    let options = BuildOptions {
        temperatures: vec![1.0],
        samples: samples.div_ceil(instructions.len()) as u32,
        max_new_tokens: MAX_NEW_TOKENS,
        top_p: 1.0,
        seed: 42,
        slots: 64,
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("out");
    let mut watch = Watch::new(instructions.len() * options.samples as usize);
    let built = match over_http {
        true => through_a_server(&instructions, &options, &out, &mut watch),
        false => through_the_engine(&instructions, &options, &out, dir.path(), &mut watch),
    };
    let total_s = watch.begun.elapsed().as_secs_f64();
    let (described, _) = describe(&built, Label::Max).expect("a description");
    assert_eq!(described.overall.samples, watch.total);
    let bytes = std::fs::metadata(&built).map_or(0, |m| m.len());
    println!(
        "put together after {total_s:.0} s, {} MB",
        bytes / 1_000_000
    );
    println!("{}", watch.document(over_http, total_s));
    watch.assert_flat();
}

fn instructions(count: usize) -> Vec<Instruction> {
    let one = |id| Instruction {
        id: format!("i{id}"),
        category: None,
        split: None,
        text: format!("Say in a few words, number {id}, what it is good for."),
    };
    (0..count).map(one).collect()
}

fn through_the_engine(
    instructions: &[Instruction],
    options: &BuildOptions,
    out: &Path,
    dir: &Path,
    watch: &mut Watch,
) -> std::path::PathBuf {
    let path = dir.join("model");
    tiny_model::write(&path, 1);
    let files = ModelFiles::local(&path).expect("a model's files");
    let mut config = ChatModel::load(&files, lenaware::kernel::Team::new(1))
        .expect("it loads")
        .config()
        .clone();
    config.max_position_embeddings = 4096;
    let chat = ChatModel::with_model(&files, Arc::new(Costless(config))).expect("a model");
    let told = &mut |progress| watch.tell(progress);
    build(&chat, instructions, options, out, told)
        .expect("it is built")
        .path
}

fn through_a_server(
    instructions: &[Instruction],
    options: &BuildOptions,
    out: &Path,
    watch: &mut Watch,
) -> std::path::PathBuf {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("is bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    let endpoint = Endpoint::new(EndpointOptions {
        address: Address::parse(&address).expect("is a URL"),
        key: None,
        timeout: Duration::from_mins(1),
        retries: 3,
        concurrency: 8,
    });
    let told = &mut |progress| watch.tell(progress);
    endpoint::build::build(&endpoint, "m", instructions, options, out, told, &|why| {
        eprintln!("{why}");
    })
    .expect("it is built")
    .path
}

/// Answers everything on a connection until it is closed.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            match reader.read_line(&mut line)? {
                0 => return Ok(()),
                1 | 2 => break,
                _ => (),
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        let asked: Value = serde_json::from_slice(&body)?;
        let seed = asked["seed"].as_u64().unwrap_or(0);
        let length = length_of(seed);
        let content: String = (0..length)
            .map(|at| char::from(letter(seed, at) as u8))
            .collect();
        let answer = json!({
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 12, "completion_tokens": length},
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        writer.write_all(&[head.as_bytes(), answer.as_bytes()].concat())?;
    }
}

/// Tokens of the answer that this seed draws.
fn length_of(seed: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    (3.2 + 0.8 * normal).exp().clamp(1.0, 511.0) as u64 + 1
}

/// The code of a small letter.
fn letter(seed: u64, at: u64) -> u64 {
    let mixed = (seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    97 + (mixed >> 40) % 26
}

/// A model whose next token follows from the seed and the position alone.
struct Costless(ModelConfig);

/// What its slots hold.
struct Slots {
    tokens: Vec<Vec<u32>>,
    capacity: usize,
    end: u32,
    vocabulary: usize,
}

impl Slots {
    fn new(config: &ModelConfig, slots: usize, capacity: usize) -> Slots {
        Slots {
            tokens: vec![Vec::new(); slots],
            capacity,
            end: config.eos_token_ids[0],
            vocabulary: config.vocab_size,
        }
    }
}

impl Model for Costless {
    fn config(&self) -> &ModelConfig {
        &self.0
    }

    fn decoder(&self, slots: usize, capacity: usize) -> Result<Box<dyn Decoder + '_>> {
        Ok(Box::new(Slots::new(&self.0, slots, capacity)))
    }

    fn keeping_decoder(self: Arc<Self>, slots: usize, capacity: usize) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(Slots::new(&self.0, slots, capacity)))
    }

    fn device(&self) -> String {
        "none".into()
    }

    fn processor(&self) -> String {
        "none".into()
    }

    fn dtype(&self) -> String {
        "f32".into()
    }

    fn kv_bytes_per_token(&self) -> usize {
        4
    }

    fn free_memory(&self) -> Option<usize> {
        None
    }
}

impl Decoder for Slots {
    fn slots(&self) -> usize {
        self.tokens.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn pass_tokens(&self) -> usize {
        512
    }

    fn tokens(&self, slot: usize) -> &[u32] {
        &self.tokens[slot]
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.tokens[slot].truncate(len);
    }

    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        let prefix = self.tokens[from][..len].to_vec();
        self.tokens[to] = prefix;
        Ok(())
    }

    fn peak_cache_bytes(&self) -> usize {
        0
    }

    fn step(
        &mut self,
        chunks: &[Chunk<'_>],
        draws: &[Draw],
        _capture: Option<&mut Capture>,
    ) -> Result<Drawn> {
        for chunk in chunks {
            self.tokens[chunk.slot].extend_from_slice(chunk.tokens);
        }
        let next = |draw: &Draw| match draw.position + 1 >= length_of(draw.seed) {
            true => self.end,
            // Bytes stand behind three special tokens, in the order of their stand-ins.
            false => 3 + (letter(draw.seed, draw.position) - 33) as u32,
        };
        Ok(Drawn {
            tokens: draws.iter().map(next).collect(),
            sampling_s: 0.0,
            parts: PartTimes::default(),
        })
    }

    fn last_logits(&mut self, rows: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; rows * self.vocabulary])
    }
}

/// Takes the process's measures as the build goes on.
struct Watch {
    begun: Instant,
    total: usize,
    last: (Instant, usize),
    /// Samples, resident MB, open files, samples/s.
    lines: Vec<[f64; 4]>,
}

impl Watch {
    fn new(total: usize) -> Watch {
        Watch {
            begun: Instant::now(),
            total,
            last: (Instant::now(), 0),
            lines: Vec::new(),
        }
    }

    fn tell(&mut self, progress: Progress) -> ControlFlow<()> {
        if progress.done * PARTS >= self.total * (self.lines.len() + 1) {
            let (since, before) = self.last;
            let rate = (progress.done - before) as f64 / since.elapsed().as_secs_f64();
            let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            let resident = of_status("VmRSS:").unwrap_or(f64::NAN);
            println!(
                "{:>9} samples  {resident:>6.1} MB  {open:>3} files  {rate:>8.0} samples/s",
                progress.done
            );
            self.lines
                .push([progress.done as f64, resident, open as f64, rate]);
            self.last = (Instant::now(), progress.done);
        }
        ControlFlow::Continue(())
    }

    /// What the process has at the end it had after the first fifth, but for some MB that the
    /// allocator gives back when it likes.
    fn assert_flat(&self) {
        let (early, last) = (self.lines[PARTS / 5], self.lines[self.lines.len() - 1]);
        assert!(
            last[1] < early[1] + 16.0,
            "memory grew from {} to {} MB",
            early[1],
            last[1]
        );
        assert!(
            last[2] <= early[2],
            "{} files were open, then {}",
            early[2],
            last[2]
        );
    }

    fn document(&self, over_http: bool, total_s: f64) -> Value {
        let column = |place: usize| -> Vec<f64> { self.lines.iter().map(|l| l[place]).collect() };
        json!({
            "through": if over_http { "endpoint" } else { "engine" },
            "samples": self.total,
            "total_s": total_s,
            "at_samples": column(0),
            "resident_mb": column(1),
            "open_files": column(2),
            "samples_per_s": column(3),
            "peak_mb_with_the_putting_together": of_status("VmHWM:"),
        })
    }
}

/// A line of what the system tells of the process, in MB.
fn of_status(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
