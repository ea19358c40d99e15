//! Every reader of strangers' files under libFuzzer, which sees which parts of the project an
//! input reaches and looks for more of them. `scripts/fuzz.sh READER SECONDS` builds and runs it;
//! the reader is named by `LENAWARE_READER`. What it finds belongs into
//! `tests/fixtures/hostile/READER`, where `tests/hostile` reads it ever after.

#![no_main]

#[path = "../../hostile/allocator.rs"]
mod allocator;
#[path = "../../hostile/guard.rs"]
mod guard;
#[path = "../../hostile/place.rs"]
mod place;
#[path = "../../hostile/readers.rs"]
mod readers;
#[path = "../../hostile/seeds.rs"]
mod seeds;
#[path = "../../commands/tiny_model.rs"]
mod tiny_model;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

use place::Place;
use readers::{READERS, Reader};

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting::new();

/// Of the project.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

static PLACE: OnceLock<(Place, &Reader)> = OnceLock::new();

fn begin() -> (Place, &'static Reader) {
    lenaware::model::chat_template::serve_if_asked();
    let name = std::env::var("LENAWARE_READER").unwrap_or_default();
    let Some(reader) = READERS.iter().find(|reader| reader.name == name) else {
        let names: Vec<&str> = READERS.iter().map(|reader| reader.name).collect();
        eprintln!("LENAWARE_READER is none of {}", names.join(", "));
        std::process::exit(2);
    };
    let place = Place::new();
    if let Some(corpus) = std::env::var_os("LENAWARE_SEEDS") {
        for (number, seed) in place.seeds(&name).iter().enumerate() {
            let path = std::path::Path::new(&corpus).join(format!("seed-{number}"));
            std::fs::write(path, seed).expect("the folder of seeds can be written");
        }
        std::process::exit(0);
    }
    guard::hush();
    (place, reader)
}

fuzz_target!(
    init: {
        PLACE.get_or_init(begin);
    },
    |bytes: &[u8]| {
        let (place, reader) = PLACE.get().expect("is there");
        if let Err(why) = guard::check(place, reader, bytes) {
            eprintln!("{}: {why}", reader.name);
            std::process::abort();
        }
    }
);
