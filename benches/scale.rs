//! Length datasets of a million samples: import from CSV and from JSON lines, and `describe`
//! of each, through the library.
//!
//! `cargo bench --bench scale`: seconds and peak memory. The tables are synthetic: 250,000
//! instructions of about 60 characters, four samples each at four temperatures, log-normal
//! lengths cut at 512, arrivals at 10 a second.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use lenaware::dataset::Label;
use lenaware::dataset::describe::describe;
use lenaware::dataset::import::{ArrivalUnit, TableColumns, TableImport, import_table};
use lenaware::table::Format;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const INSTRUCTIONS: usize = 250_000;
const TEMPERATURES: [f32; 4] = [0.0, 0.3, 0.5, 0.7];

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut results = Vec::new();
    for (format, name) in [(Format::Csv, "csv"), (Format::JsonLines, "jsonl")] {
        let table = dir.path().join("table").with_extension(name);
        write(&table, format).expect("a table");
        let out = dir.path().join(name).with_extension("parquet");
        let begun = Instant::now();
        let imported = import_table(&import(&table, format), &out).expect("an import");
        let import_s = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let (described, _) = describe(&out, Label::Max).expect("a description");
        let describe_s = begun.elapsed().as_secs_f64();
        assert_eq!(imported.samples, described.overall.samples);
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len()) as f64 / 1e6;
        println!(
            "{name}: {} samples, {:.0} MB: import {import_s:.2} s, describe {describe_s:.2} s, \
             {:.0} MB of Parquet",
            imported.samples,
            bytes(&table),
            bytes(&out)
        );
        results.push(format!(
            "\"{name}\":{{\"import_s\":{import_s:.2},\"describe_s\":{describe_s:.2}}}"
        ));
    }
    let peak = peak_memory_mb().map_or("null".into(), |mb| format!("{mb:.0}"));
    println!("{{{},\"peak_memory_mb\":{peak}}}", results.join(","));
}

fn import(path: &Path, format: Format) -> TableImport {
    let name = |name: &str| Some(name.to_string());
    TableImport {
        path: path.to_path_buf(),
        format,
        columns: TableColumns {
            response_tokens: "tokens".into(),
            instruction: name("prompt"),
            id: name("id"),
            category: name("topic"),
            temperature: name("temperature"),
            prompt_tokens: name("prompt_tokens"),
            arrival: name("time"),
            ..TableColumns::default()
        },
        arrival_unit: ArrivalUnit::Seconds,
        max_new_tokens: Some(512),
        temperature: None,
        split: None,
        model: "synthetic".into(),
        by_flags: true,
    }
}

fn write(path: &Path, format: Format) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    if format == Format::Csv {
        writeln!(
            file,
            "id,prompt,topic,prompt_tokens,temperature,tokens,time"
        )?;
    }
    let mut row = 0;
    for id in 0..INSTRUCTIONS {
        let (topic, kind) = (id % 16, id * 31 % 977);
        let prompt = format!("Say in a few words, number {id}, what kind {kind} is for.");
        let normal = |rng: &mut ChaCha8Rng| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let own = normal(&mut rng);
        for temperature in TEMPERATURES {
            let length = (4.6 + 0.8 * own + 0.4 * normal(&mut rng)).exp();
            let length = (length.round() as u32).clamp(2, 600);
            let time = f64::from(row) / 10.0;
            row += 1;
            let prompt_tokens = 12 + id % 7;
            match format {
                Format::Csv => writeln!(
                    file,
                    "i{id},\"{prompt}\",topic {topic},{prompt_tokens},{temperature},{length},{time}"
                )?,
                _ => writeln!(
                    file,
                    "{{\"id\":\"i{id}\",\"prompt\":\"{prompt}\",\"topic\":\"topic {topic}\",\
                     \"prompt_tokens\":{prompt_tokens},\"temperature\":{temperature},\
                     \"tokens\":{length},\"time\":{time},\"response\":null}}"
                )?,
            }
        }
    }
    file.flush()
}

/// The process's largest resident size so far, where the system tells.
fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
