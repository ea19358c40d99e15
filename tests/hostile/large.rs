//! Large files that were made to hurt: each is read in twice its size and 200 MB, or refused.

use std::path::Path;

use lenaware::Result;
use lenaware::config::Experiment;
use lenaware::dataset::import::{Trace, import_table, sequence_scheduling};
use lenaware::instruction;
use lenaware::predictor::from_file::FromFile;

use crate::guard::{MEMORY, measured};
use crate::place::Place;
use crate::readers::{adapter, model, predictor};

/// A file, and what is said of it; nothing where it is read.
struct Case {
    file: &'static str,
    bytes: fn() -> Vec<u8>,
    read: fn(&Place, &Path) -> Result<()>,
    said: &'static str,
}

/// `begin`, so many times `again`, `end`.
fn repeated(begin: &str, again: &str, times: usize, end: &str) -> Vec<u8> {
    [begin, &again.repeat(times), end].concat().into_bytes()
}

const MILLION: usize = 1_000_000;

const CASES: [Case; 24] = [
    Case {
        file: "zeros.json",
        bytes: || repeated("[", "0,", 30 * MILLION, "0]"),
        read: instructions,
        said: "entry 1 is not an instruction",
    },
    Case {
        file: "objects.json",
        bytes: || repeated("[", "{},", 10 * MILLION, "{}]"),
        read: instructions,
        said: "entry 1 has no `text`",
    },
    Case {
        file: "short.json",
        bytes: || repeated("[", r#"{"text":"a"},"#, MILLION, r#"{"text":"a"}]"#),
        read: instructions,
        said: "",
    },
    Case {
        file: "beside.json",
        bytes: || repeated(r#"[{"text":"a","z":["#, "0,", 20 * MILLION, "0]}]"),
        read: instructions,
        said: "",
    },
    Case {
        file: "keys.json",
        bytes: || {
            let keys: Vec<String> = (0..3 * MILLION).map(|n| format!("\"{n}\":0")).collect();
            format!("[{{\"text\":\"a\",{}}}]", keys.join(",")).into_bytes()
        },
        read: instructions,
        said: "",
    },
    Case {
        file: "entry.json",
        bytes: || repeated(r#"[{"text":""#, "a", 80 * MILLION, "\"}]"),
        read: instructions,
        said: "entry 1 is longer than 64 MiB",
    },
    Case {
        file: "deep.json",
        bytes: || repeated(r#"[{"text":"a","z":"#, "[", 20 * MILLION, ""),
        read: instructions,
        said: "is not a JSON list",
    },
    Case {
        file: "beside.jsonl",
        bytes: || repeated(r#"{"text":"a","z":["#, "0,", 25 * MILLION, "0]}\n"),
        read: instructions,
        said: "",
    },
    Case {
        file: "line.jsonl",
        bytes: || repeated(r#"{"text":""#, "a", 80 * MILLION, "\"}\n"),
        read: instructions,
        said: "line 1: is longer than 64 MiB",
    },
    Case {
        file: "short.txt",
        bytes: || repeated("", "a\n", MILLION, ""),
        read: instructions,
        said: "",
    },
    Case {
        file: "header.csv",
        bytes: || repeated("text", ",", 100 * MILLION, "\n"),
        read: instructions,
        said: "line 1: begins a row of more than 3 MB",
    },
    Case {
        file: "columns.csv",
        bytes: || repeated("text", ",a", 400_000, "\n"),
        read: instructions,
        said: "line 1 has 400001 columns",
    },
    Case {
        file: "commas.csv",
        bytes: || repeated("text\na\n", ",", 14 * MILLION, "\n"),
        read: instructions,
        said: "line 3: 14000001 fields",
    },
    Case {
        file: "quote.csv",
        bytes: || repeated("text\na\n\"", "b\n", 20 * MILLION, ""),
        read: instructions,
        said: "line 3: begins a row of more than 15 MB: is a quote left open?",
    },
    Case {
        file: "hashes.jsonl",
        bytes: || {
            let row = r#"{"timestamp":1,"input_length":2,"output_length":3,"hash_ids":["#;
            repeated(row, "0,", 20 * MILLION, "0]}\n")
        },
        read: |place, path| {
            let import = Trace::Mooncake.import(path, None, None);
            import_table(&import, &place.path("imported.parquet")).map(|_| ())
        },
        said: "",
    },
    Case {
        file: "lengths.json",
        bytes: || repeated("[", "0,", 20 * MILLION, "0]"),
        read: |place, path| {
            sequence_scheduling(&place.path("conversations.json"), path, None).map(|_| ())
        },
        said: "entry 1: is not an object",
    },
    Case {
        file: "levels.jsonl",
        bytes: || {
            let levels: Vec<String> = (1..3 * MILLION).map(|n| format!("\"0.{n}\":1")).collect();
            let begin = r#"{"instruction_id":"a","predicted_tokens":1,"quantiles":{"#;
            format!("{begin}{}}}}}\n", levels.join(",")).into_bytes()
        },
        read: |_, path| FromFile::read("file:p", path).map(|_| ()),
        said: "of 1000 levels at most",
    },
    Case {
        file: "lines.toml",
        bytes: || repeated("[experiment]\nname = 'x'\n", "\n", 50 * MILLION, ""),
        read: |_, path| Experiment::load(path).map(|_| ()),
        said: "has 50.0 MB where such a file has 1 at most",
    },
    Case {
        file: "model/config.json",
        bytes: || repeated(r#"{"x":["#, "0,", 20 * MILLION, "0]}"),
        read: model,
        said: "holds more values than such a file has",
    },
    Case {
        file: "model/tokenizer.json",
        bytes: || {
            let begin = r#"{"added_tokens":[{"id":0,"content":""#;
            let end = r#""}],"model":{"type":"BPE","vocab":{},"merges":[]}}"#;
            repeated(begin, "a", 10 * MILLION, end)
        },
        read: model,
        said: "an added token of 10000000 bytes",
    },
    Case {
        file: "torch/tokenizer.model",
        bytes: || b"\x0a\x00".repeat(10 * MILLION),
        read: model,
        said: "more tokens than any model has",
    },
    Case {
        file: "small.gguf",
        bytes: || {
            let mut file = b"GGUF\x03\x00\x00\x00".to_vec();
            for number in [1_u64, 1, 1] {
                file.extend(number.to_le_bytes());
            }
            // The key, a list of bytes and how many.
            file.extend(b"x\x09\x00\x00\x00\x00\x00\x00\x00");
            file.extend((16 * MILLION as u64).to_le_bytes());
            file.resize(file.len() + 16 * MILLION, 0);
            file
        },
        read: |place, _| model(place, &place.path("small.gguf")),
        said: "an array of 16000000",
    },
    Case {
        file: "adapter/adapter_model.safetensors",
        bytes: || {
            let tensors: Vec<String> = (0..300_000)
                .map(|n| {
                    format!("\"{n}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}")
                })
                .collect();
            let header = format!("{{{}}}", tensors.join(","));
            let length = header.len() as u64;
            [&length.to_le_bytes(), header.as_bytes()].concat()
        },
        read: adapter,
        said: "makes no sense",
    },
    Case {
        file: "words/predictor.json",
        bytes: || repeated(r#"{"files":{"#, r#""a":"b","#, 5 * MILLION, r#""a":"b"}}"#),
        read: predictor,
        said: "has 40.0 MB where such a file has 1 at most",
    },
];

fn instructions(_: &Place, path: &Path) -> Result<()> {
    instruction::read(path).map(|_| ())
}

/// Reads them all, and names each that took too much or was not told as it should be.
pub fn check_all(place: &Place) {
    let mut wrong = Vec::new();
    for case in &CASES {
        let bytes = (case.bytes)();
        let path = place.path(case.file);
        let good = std::fs::read(&path).ok();
        place.put(case.file, &bytes);
        let length = bytes.len();
        drop(bytes);
        let of = match path.parent() {
            Some(folder) if case.file.contains('/') => folder,
            _ => &path,
        };
        let began = std::time::Instant::now();
        let (outcome, peak) = measured(MEMORY + 2 * length, || (case.read)(place, of));
        match good {
            Some(good) => drop(place.put(case.file, &good)),
            None => std::fs::remove_file(&path).expect("was written"),
        }
        let said = outcome.err().map(|e| e.to_string()).unwrap_or_default();
        let (size, peak) = (length / MILLION, peak / MILLION);
        let took = began.elapsed();
        eprintln!(
            "{}: {size} MB, at most {peak} MB held, {took:.1?}",
            case.file
        );
        let told = match case.said {
            "" => said.is_empty(),
            part => said.contains(part),
        };
        if !told {
            wrong.push(format!("{}: {said:?}", case.file));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
