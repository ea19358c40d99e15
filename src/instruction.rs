//! Instruction sets and their readers: the project's own JSON lines, Alpaca's JSON, FastChat's
//! conversations, tables (CSV, Parquet), plain text, and datasets of the Hugging Face hub.

mod columns;
mod entry;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use crate::dataset::Split;
use crate::error::{Error, Result};
use crate::memory::Pile;
use crate::model;
use crate::regular_file::Lines;
use crate::table::{self, Cell, Format, Place, Wanted, json};

pub use columns::Columns;
use entry::{Entry, Picked};

/// One instruction, as it will be put to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Unique in its set.
    pub id: String,
    /// Its kind, as `classification`, where the set says.
    pub category: Option<String>,
    /// Its part of the set, where the set says.
    pub split: Option<Split>,
    /// What the model is asked.
    pub text: String,
}

/// The project's own 640 instructions, in 16 categories.
pub fn embedded() -> Vec<Instruction> {
    let path = Path::new("datasets/instructions.jsonl");
    let columns = Columns::default();
    let mut set = Set::new(path, &columns);
    // Checked by a test: the embedded file parses.
    let parsed = set.embedded(include_str!("../datasets/instructions.jsonl"));
    parsed.and_then(|()| set.finish()).unwrap_or_default()
}

/// Reads an instruction set from a file, by the columns' usual names: see [`read_with`].
///
/// # Errors
/// As there.
pub fn read(path: &Path) -> Result<Vec<Instruction>> {
    read_with(path, &Columns::default())
}

/// Reads an instruction set from a file:
///
/// * `.csv`, `.tsv`, `.parquet`: columns `instruction` (and perhaps `input`) or `text`;
/// * `.txt`: an instruction a line;
/// * anything else: JSON lines with those keys, or a JSON list of such objects or of FastChat
///   conversations.
///
/// Where `instruction` and `text` are both there, `text` is not taken: in Alpaca's tables it
/// holds the whole prompt with the answer.
///
/// # Errors
/// A file that is missing, malformed (the line is named) or empty, a column that was named and
/// is not there, or ids that repeat.
pub fn read_with(path: &Path, columns: &Columns) -> Result<Vec<Instruction>> {
    let mut set = Set::new(path, columns);
    set.file(path)?;
    set.finish()
}

/// As [`read_with`], where `source` may also be `hub:org/name[@revision][:file]`, a dataset of
/// the Hugging Face hub: its Parquet, JSON or CSV files, downloaded into the hub's cache.
///
/// # Errors
/// As there; and a dataset that cannot be had.
pub fn read_source(
    source: &Path,
    columns: &Columns,
    progress: bool,
    offline: bool,
) -> Result<Vec<Instruction>> {
    let Some(repository) = source.to_str().and_then(|s| s.strip_prefix("hub:")) else {
        return read_with(source, columns);
    };
    let mut set = Set::new(source, columns);
    for file in model::hub_dataset(repository, progress, offline)? {
        set.file(&file)?;
    }
    set.finish()
}

/// What an entry may have; which fields are there decides.
#[derive(Default)]
struct Fields {
    id: Option<String>,
    category: Option<String>,
    split: Option<String>,
    text: Option<String>,
    instruction: Option<String>,
    input: Option<String>,
    /// The first human turn of a conversation.
    turn: Option<String>,
}

/// The place of an entry, for messages.
#[derive(Clone, Copy)]
enum Where {
    /// An entry of a list, from 1.
    Entry(u64),
    Row(Place),
}

impl Where {
    fn name(&self, path: &Path) -> String {
        match self {
            Where::Entry(number) => format!("entry {number}"),
            Where::Row(row) => row.name(path),
        }
    }
}

/// Bytes that an instruction takes beside its texts: itself, what the system's memory has around
/// each text, and its id's place among the others'.
const BESIDE: usize = 250;

/// An instruction set in the making, from one or several files.
struct Set<'c> {
    source: &'c Path,
    columns: &'c Columns,
    instructions: Vec<Instruction>,
    /// Entries without an id are numbered on from here in the next file.
    next: usize,
    pile: Pile,
}

impl<'c> Set<'c> {
    fn new(source: &'c Path, columns: &'c Columns) -> Set<'c> {
        Set {
            source,
            columns,
            instructions: Vec::new(),
            next: 0,
            pile: Pile::default(),
        }
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        self.source_is(path, |set| match Format::of(path) {
            Some(format @ (Format::Csv | Format::Parquet)) => set.table(path, format),
            _ if path.extension().is_some_and(|e| e == "txt") => set.lines(path),
            _ => set.json(path),
        })
    }

    fn source_is(&mut self, path: &Path, read: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.instructions.len();
        read(self)?;
        if self.instructions.len() == before {
            return Err(Error::malformed(
                path,
                "holds no instructions: give one JSON object a line, with `text`",
            ));
        }
        Ok(())
    }

    /// JSON lines that are in the program.
    fn embedded(&mut self, text: &str) -> Result<()> {
        let path = self.source;
        let (wanted, seen) = (self.columns.wanted(), RefCell::default());
        let entry = Entry {
            wanted: &wanted,
            seen: &seen,
        };
        text.lines()
            .zip(1..)
            .try_for_each(|(line, number)| self.json_line(path, entry, number, line, 0))
    }

    fn json(&mut self, path: &Path) -> Result<()> {
        let first = self.next;
        let (wanted, seen) = (self.columns.wanted(), RefCell::default());
        let entry = Entry {
            wanted: &wanted,
            seen: &seen,
        };
        if json::is_list(path)? {
            json::read_list(path, entry, &mut |number, picked: Option<Picked>| {
                let place = Where::Entry(number);
                let fields = self.fields(path, &place.name(path), picked, &wanted)?;
                self.push(path, place, fields, first + number as usize - 1)
            })?;
        } else {
            let mut lines = Lines::open(path)?;
            while let Some((number, line)) = lines.following()? {
                self.json_line(path, entry, number, line, first)?;
            }
        }
        self.columns
            .all_in(path, &seen.borrow(), !self.instructions.is_empty())
    }

    fn json_line(
        &mut self,
        path: &Path,
        entry: Entry<'_>,
        number: u64,
        line: &str,
        first: usize,
    ) -> Result<()> {
        let place = Where::Row(Place::Line(number));
        let picked = json::from_text(line, entry).map_err(|e| {
            Error::malformed(path, format!("{} is not JSON: {e}", place.name(path)))
        })?;
        let fields = self.fields(path, &place.name(path), picked, entry.wanted)?;
        self.push(path, place, fields, first + number as usize - 1)
    }

    fn fields(
        &self,
        path: &Path,
        place: &str,
        picked: Option<Picked>,
        wanted: &[Wanted],
    ) -> Result<Fields> {
        picked
            .ok_or_else(|| "not an object".to_string())
            .and_then(|picked| picked.fields(self.columns, wanted))
            .map_err(|what| {
                Error::malformed(path, format!("{place} is not an instruction: {what}"))
            })
    }

    fn table(&mut self, path: &Path, format: Format) -> Result<()> {
        let columns = self.columns;
        let wanted: Vec<Wanted> = columns.wanted();
        let first = self.next;
        let mut index = 0;
        table::read(path, format, &wanted, &mut |place, cells| {
            // One column may be named for several purposes.
            let take = |flag: &str, usual: &str| {
                let name = columns.named(flag).unwrap_or(usual);
                let at = wanted.iter().position(|w| w.name == name)?;
                cells
                    .get(at)
                    .and_then(Cell::text)
                    .map(std::borrow::Cow::into_owned)
            };
            let fields = Fields {
                id: take("--id-column", "id"),
                category: take("--category-column", "category"),
                split: take("--split-column", "split"),
                input: take("--input-column", "input"),
                text: take("--text-column", "text"),
                instruction: match columns.text {
                    Some(_) => None,
                    None => take("", "instruction"),
                },
                turn: None,
            };
            index += 1;
            self.push(path, Where::Row(place), fields, first + index - 1)
        })
    }

    fn lines(&mut self, path: &Path) -> Result<()> {
        let first = self.next;
        let mut lines = Lines::open(path)?;
        while let Some((number, line)) = lines.following()? {
            let fields = Fields {
                text: Some(line.to_string()),
                ..Fields::default()
            };
            let place = Where::Row(Place::Line(number));
            self.push(path, place, fields, first + number as usize - 1)?;
        }
        Ok(())
    }

    fn push(&mut self, path: &Path, place: Where, fields: Fields, index: usize) -> Result<()> {
        let wrong = |what: String| Error::malformed(path, format!("{} {what}", place.name(path)));
        let text = fields.instruction.or(fields.text).map(|text| {
            match fields.input.filter(|i| !i.trim().is_empty()) {
                Some(input) => format!("{text}\nInput:\n{input}"),
                None => text,
            }
        });
        let text = text.or(fields.turn).filter(|t| !t.trim().is_empty());
        let text = text.ok_or_else(|| match &self.columns.text {
            Some(name) => wrong(format!("has no `{name}` (--text-column)")),
            None => wrong(
                "has no `text`, `instruction` or human turn in `conversations`: name the column \
                 by --text-column"
                    .into(),
            ),
        })?;
        let split = match fields.split.as_deref().map(str::trim) {
            None | Some("") => None,
            Some(name) => Some(
                name.parse()
                    .map_err(|e: Error| wrong(format!("is wrong: {e}")))?,
            ),
        };
        let category = fields.category;
        let id = match (fields.id, &self.columns.id) {
            (Some(id), _) => id,
            (None, Some(name)) => return Err(wrong(format!("has no `{name}` (--id-column)"))),
            (None, None) => index.to_string(),
        };
        self.next = index + 1;
        let bytes = id.len() + text.len() + category.as_ref().map_or(0, String::len);
        self.pile.add(bytes + BESIDE, || {
            let count = self.instructions.len();
            let path = path.display();
            (
                format!("{path}: more than its first {count} instructions need"),
                "give a part of the file",
            )
        })?;
        self.instructions.push(Instruction {
            id,
            category,
            split,
            text,
        });
        Ok(())
    }

    fn finish(self) -> Result<Vec<Instruction>> {
        let mut seen = HashSet::new();
        for instruction in &self.instructions {
            if !seen.insert(instruction.id.as_str()) {
                return Err(Error::malformed(
                    self.source,
                    format!("the id `{}` occurs twice: ids must differ", instruction.id),
                ));
            }
        }
        Ok(self.instructions)
    }
}

#[cfg(test)]
mod tests;
