//! The columns of a length dataset that statistics need, read batch by batch: about 30 bytes a
//! sample in memory, whatever its texts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use polars::prelude::*;

use crate::dataset::embedded::{self, EMBEDDED};
use crate::dataset::import::fingerprint;
use crate::dataset::{Provenance, parquet, store};
use crate::error::{Error, Result};
use crate::table::parquet::{Table, cast};

use super::looping::is_looping;

/// Bytes of a sample in memory, about.
const ROW: usize = 32;
/// No category, no group.
pub const NONE: u32 = u32::MAX;

/// A dataset by columns, a place a sample.
pub struct Columns {
    pub provenance: Provenance,
    /// Response tokens.
    pub lengths: Vec<u32>,
    pub cut: Vec<bool>,
    /// Number of the instruction, from 0 in the order of first appearance.
    pub instruction: Vec<u32>,
    pub instructions: usize,
    /// Place in `temperatures`.
    pub temperature: Vec<u32>,
    pub temperatures: Vec<f32>,
    /// Place in `categories`, or [`NONE`].
    pub category: Vec<u32>,
    pub categories: Vec<String>,
    /// By instruction: its prompt's length, 0 where unknown.
    pub prompt_tokens: Vec<u32>,
    /// Where known, in the order of the file.
    pub arrivals: Vec<f64>,
    /// Responses whose text is there, and of those the looping ones: [ended, cut off].
    pub with_text: [usize; 2],
    pub looping: [usize; 2],
}

/// Reads what `name` stands for: `embedded`, a Parquet file, a folder of `build-dataset`.
///
/// # Errors
/// A file that is missing, malformed or empty.
pub fn read(name: &Path) -> Result<Columns> {
    let (path, table) = match name {
        name if name == Path::new(EMBEDDED) => {
            let (path, bytes) = embedded::bytes();
            (
                PathBuf::from(path),
                Table::of_bytes(Path::new(path), bytes)?,
            )
        }
        name => {
            let path = match name.is_dir() {
                true => name.join(store::DATASET),
                false => name.to_path_buf(),
            };
            let table = Table::open(&path)?;
            (path, table)
        }
    };
    let remedy = "give a length dataset as written by `lenaware build-dataset` or `import`";
    let wrong = |what: String| Error::malformed(&path, format!("{what}; {remedy}"));
    const NEEDED: [&str; 4] = [
        "instruction_id",
        "response_tokens",
        "finish_reason",
        "temperature",
    ];
    const OPTIONAL: [&str; 4] = ["category", "prompt_tokens", "arrival_s", "response"];
    if let Some(lacking) = NEEDED.iter().find(|name| !table.has(name)) {
        return Err(wrong(format!("has no column `{lacking}`")));
    }
    if table.rows() == 0 {
        return Err(wrong("holds no samples".into()));
    }
    table.fits(ROW)?;
    if table.rows() >= NONE as usize {
        return Err(wrong("claims more than 4 billion samples".into()));
    }
    let there: Vec<&str> = NEEDED
        .into_iter()
        .chain(OPTIONAL.into_iter().filter(|name| table.has(name)))
        .collect();
    let pairs = table.key_values();
    let fields = pairs
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(parquet::PREFIX)?, value.as_str())))
        .collect();
    let mut reading = Reading::new(parquet::provenance_of(&fields));
    table.batches(&there, |begin, frame| {
        reading.batch(begin, frame).map_err(wrong)
    })?;
    Ok(reading.columns)
}

struct Reading {
    columns: Columns,
    numbers: HashMap<u128, u32>,
    /// The last row's instruction: samples of one stand together in most files.
    last: Option<(String, u32)>,
    temperatures: HashMap<u32, u32>,
    categories: HashMap<String, u32>,
}

impl Reading {
    fn new(provenance: Provenance) -> Reading {
        Reading {
            columns: Columns {
                provenance,
                lengths: Vec::new(),
                cut: Vec::new(),
                instruction: Vec::new(),
                instructions: 0,
                temperature: Vec::new(),
                temperatures: Vec::new(),
                category: Vec::new(),
                categories: Vec::new(),
                prompt_tokens: Vec::new(),
                arrivals: Vec::new(),
                with_text: [0; 2],
                looping: [0; 2],
            },
            numbers: HashMap::new(),
            last: None,
            temperatures: HashMap::new(),
            categories: HashMap::new(),
        }
    }

    fn batch(&mut self, begin: usize, frame: &DataFrame) -> std::result::Result<(), String> {
        let column = |name: &str, dtype: DataType| match frame.column(name) {
            Ok(column) => cast(column, &dtype)
                .map(Some)
                .map_err(|_| format!("has a column `{name}` that is not {dtype}")),
            Err(_) => Ok(None),
        };
        let text = |name: &str| {
            Ok::<_, String>(chunked(column(name, DataType::String)?, |c| {
                c.str().ok().cloned()
            }))
        };
        let whole = |name: &str| {
            Ok::<_, String>(chunked(column(name, DataType::UInt32)?, |c| {
                c.u32().ok().cloned()
            }))
        };
        let ids = text("instruction_id")?;
        let lengths = whole("response_tokens")?;
        let reasons = text("finish_reason")?;
        let temperatures = chunked(column("temperature", DataType::Float32)?, |c| {
            c.f32().ok().cloned()
        });
        let categories = text("category")?;
        let prompts = whole("prompt_tokens")?;
        let arrivals = chunked(column("arrival_s", DataType::Float64)?, |c| {
            c.f64().ok().cloned()
        });
        let responses = text("response")?;
        for row in 0..frame.height() {
            let lacks = |name: &str| format!("has no `{name}` in row {}", begin + row + 1);
            let id = ids.as_ref().and_then(|c| c.get(row));
            let number = self.number(id.ok_or_else(|| lacks("instruction_id"))?);
            let length = lengths.as_ref().and_then(|c| c.get(row));
            let length = length.ok_or_else(|| lacks("response_tokens"))?;
            let cut = match reasons.as_ref().and_then(|c| c.get(row)) {
                Some("stop") => false,
                Some("length") => true,
                _ => return Err(lacks("finish_reason")),
            };
            let temperature = temperatures.as_ref().and_then(|c| c.get(row));
            let temperature = temperature
                .filter(|t| t.is_finite())
                .ok_or_else(|| lacks("temperature"))?;
            let columns = &mut self.columns;
            columns.lengths.push(length);
            columns.cut.push(cut);
            columns.instruction.push(number);
            let prompt = prompts.as_ref().and_then(|c| c.get(row)).unwrap_or(0);
            match columns.prompt_tokens.get_mut(number as usize) {
                Some(known) => *known = (*known).max(prompt),
                None => columns.prompt_tokens.push(prompt),
            }
            columns.arrivals.extend(
                arrivals
                    .as_ref()
                    .and_then(|c| c.get(row))
                    .filter(|a| a.is_finite()),
            );
            if let Some(response) = responses.as_ref().and_then(|c| c.get(row)) {
                columns.with_text[usize::from(cut)] += 1;
                columns.looping[usize::from(cut)] += usize::from(is_looping(response));
            }
            let group = self.temperature(temperature);
            self.columns.temperature.push(group);
            let group = match categories.as_ref().and_then(|c| c.get(row)) {
                Some(name) => self.category(name),
                None => NONE,
            };
            self.columns.category.push(group);
        }
        Ok(())
    }

    fn number(&mut self, id: &str) -> u32 {
        match &self.last {
            Some((last, number)) if last == id => *number,
            _ => {
                let fresh = self.columns.instructions as u32;
                let number = match self.numbers.entry(fingerprint(id)) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        self.columns.instructions += 1;
                        *entry.insert(fresh)
                    }
                };
                self.last = Some((id.to_string(), number));
                number
            }
        }
    }

    fn temperature(&mut self, temperature: f32) -> u32 {
        // -0.0 is the same temperature as 0.0.
        let known = &mut self.columns.temperatures;
        *self
            .temperatures
            .entry((temperature + 0.0).to_bits())
            .or_insert_with(|| {
                known.push(temperature + 0.0);
                known.len() as u32 - 1
            })
    }

    fn category(&mut self, name: &str) -> u32 {
        if let Some(&group) = self.categories.get(name) {
            return group;
        }
        let group = self.columns.categories.len() as u32;
        self.columns.categories.push(name.to_string());
        self.categories.insert(name.to_string(), group);
        group
    }
}

fn chunked<T>(column: Option<Column>, of: impl Fn(&Column) -> Option<T>) -> Option<T> {
    of(&column?)
}

impl Columns {
    /// The lengths by instruction: `lengths[bounds[i]..bounds[i + 1]]` are those of the `i`-th,
    /// in the order of the file, and `rows` says where each is from.
    pub fn by_instruction(&self) -> Grouped {
        let mut bounds = vec![0usize; self.instructions + 1];
        for row in 0..self.lengths.len() {
            bounds[self.instruction[row] as usize + 1] += 1;
        }
        for at in 1..bounds.len() {
            bounds[at] += bounds[at - 1];
        }
        let mut next = bounds.clone();
        let mut lengths = vec![0; bounds[self.instructions]];
        let mut rows = vec![0; bounds[self.instructions]];
        for row in 0..self.lengths.len() {
            let place = &mut next[self.instruction[row] as usize];
            lengths[*place] = self.lengths[row];
            rows[*place] = row as u32;
            *place += 1;
        }
        Grouped {
            bounds,
            lengths,
            rows,
        }
    }
}

/// Lengths sorted by instruction.
pub struct Grouped {
    bounds: Vec<usize>,
    lengths: Vec<u32>,
    rows: Vec<u32>,
}

impl Grouped {
    /// The lengths of each instruction that has any.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> + Clone {
        self.bounds
            .windows(2)
            .map(|b| &self.lengths[b[0]..b[1]])
            .filter(|lengths| !lengths.is_empty())
    }

    /// As [`Grouped::iter`], with the samples' rows.
    pub fn iter_with_rows(&self) -> impl Iterator<Item = (&[u32], &[u32])> {
        self.bounds
            .windows(2)
            .map(|b| (&self.lengths[b[0]..b[1]], &self.rows[b[0]..b[1]]))
            .filter(|(lengths, _)| !lengths.is_empty())
    }
}
