//! Files from strangers: no reader panics, hangs, takes more memory than the file justifies, or
//! refuses in more words than anyone reads. Cases that were found by fuzzing (`tests/fuzz`) are
//! kept in `tests/fixtures/hostile`, a folder a reader, and every reader's good files are spoilt
//! here in the same thousands of ways on each run.

mod allocator;
mod guard;
mod large;
mod place;
mod readers;
mod seeds;
mod spoil;
#[path = "../commands/tiny_model.rs"]
mod tiny_model;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use guard::check;
use lenaware::model::chat_template;
use place::Place;
use readers::READERS;

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting::new();

/// Of the project.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An input that is read for longer ends the process.
const PATIENCE: Duration = Duration::from_mins(1);

/// Spoilt inputs a reader; drawing figures, asking a server and rendering apart take long.
fn rounds(reader: &str) -> usize {
    match reader {
        "results" => 400,
        "endpoint" | "chat-template" => 1000,
        "predictor" => 2000,
        _ => 5000,
    }
}

#[test]
fn no_large_file_takes_more_than_twice_its_size() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    large::check_all(&Place::new());
}

/// What is being read, and since when; written to a file before the process is ended.
static READING: Mutex<Option<(Instant, &str, Vec<u8>)>> = Mutex::new(None);

fn watch() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let reading = READING.lock().expect("is whole");
            if let Some((since, reader, bytes)) = reading.as_ref()
                && since.elapsed() > PATIENCE
            {
                let path = keep(reader, bytes);
                eprintln!(
                    "{reader}: read for more than {PATIENCE:?}: {}",
                    path.display()
                );
                std::process::abort();
            }
        }
    });
}

/// Puts an input where it outlasts the test.
fn keep(reader: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("lenaware-hostile-{reader}"));
    std::fs::write(&path, bytes).expect("is written");
    path
}

/// Memory is counted for the whole process: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn no_file_gets_the_better_of_its_reader() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    guard::hush();
    watch();
    chat_template::render_by(env!("CARGO_BIN_EXE_lenaware").into());
    let place = Place::new();
    let mut failures = Vec::new();
    for reader in &READERS {
        let began = Instant::now();
        let mut count = 0;
        let mut attempt = |bytes: &[u8], what: &str| {
            count += 1;
            *READING.lock().expect("is whole") = Some((Instant::now(), reader.name, bytes.into()));
            if let Err(why) = check(&place, reader, bytes) {
                let path = keep(reader.name, bytes);
                failures.push(format!(
                    "{}: {what}: {why}: {}",
                    reader.name,
                    path.display()
                ));
            }
            *READING.lock().expect("is whole") = None;
        };
        let kept = Path::new(ROOT)
            .join("tests/fixtures/hostile")
            .join(reader.name);
        if let Ok(folder) = std::fs::read_dir(kept) {
            for entry in folder {
                let path = entry.expect("is there").path();
                let bytes = std::fs::read(&path).expect("is there");
                attempt(&bytes, &path.display().to_string());
            }
        }
        let seeds = place.seeds(reader.name);
        // Several formats are tried on each of these, and a server's errors are among the seeds.
        if !["instructions", "traces", "endpoint"].contains(&reader.name) {
            for seed in &seeds {
                let read = (reader.read)(&place, seed);
                assert!(read.is_ok(), "{}: a good file: {read:?}", reader.name);
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for round in 0..rounds(reader.name) {
            let seed = &seeds[round % seeds.len()];
            attempt(&spoil::spoil(seed, &mut rng), "spoilt");
        }
        eprintln!("{}: {count} inputs in {:.1?}", reader.name, began.elapsed());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
