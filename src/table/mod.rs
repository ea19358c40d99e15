//! Tables that others wrote: named columns of a CSV, JSON lines or Parquet file, streamed row
//! by row, so that a file larger than the memory can be read and a mistake names its line.

mod csv;
mod footer;
pub(crate) mod json;
mod jsonl;
mod pages;
pub(crate) mod parquet;

use std::borrow::Cow;
use std::path::Path;

use crate::error::{Error, Result};

/// How a table is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma separated (tab separated where the name ends in `.tsv`), the first line a header.
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// Apache Parquet: typed columns.
    Parquet,
}

impl Format {
    /// The format that a file's name ends in, if it is one of these.
    pub fn of(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "csv" | "tsv" => Some(Format::Csv),
            "jsonl" | "ndjson" => Some(Format::JsonLines),
            "parquet" => Some(Format::Parquet),
            _ => None,
        }
    }
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// An empty field, a null, or a key that is not there.
    Empty,
    /// A string.
    Text(Cow<'a, str>),
    /// A whole number, a boolean among them where the format has such.
    Integer(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
}

impl Cell<'_> {
    /// The value as text; `None` where there is none.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Cell::Empty => None,
            Cell::Text(text) => Some(Cow::Borrowed(text)),
            Cell::Integer(n) => Some(Cow::Owned(n.to_string())),
            Cell::Float(n) => Some(Cow::Owned(n.to_string())),
        }
    }

    /// The value as a number. `None` where it is none; the text may have blanks around it.
    pub fn number(&self) -> Option<f64> {
        match self {
            Cell::Empty => None,
            Cell::Text(text) => text.trim().parse().ok(),
            Cell::Integer(n) => Some(*n as f64),
            Cell::Float(n) => Some(*n),
        }
    }
}

/// A column that is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// As the file's header has it.
    pub name: String,
    /// The flag that named it, for messages; empty where no flag did.
    pub flag: &'static str,
    /// Whether a file without it is refused.
    pub required: bool,
}

impl Wanted {
    /// The message about a file without this column, which has `others`.
    fn missing<'a>(&self, path: &Path, others: impl Iterator<Item = &'a str>) -> Error {
        const SHOWN: usize = 20;
        let mut named: Vec<String> = others.take(SHOWN + 1).map(|n| format!("`{n}`")).collect();
        if named.len() > SHOWN {
            named[SHOWN] = "and more".into();
        }
        let there = match named.is_empty() {
            true => "it has none".into(),
            false => format!("it has {}", named.join(", ")),
        };
        let flag = match self.flag {
            "" => String::new(),
            flag => format!(" ({flag})"),
        };
        Error::malformed(
            path,
            format!("has no column `{}`{flag}: {there}", self.name),
        )
    }
}

/// The place of a row, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A CSV row: the byte after the last row. Its line is looked up when it is asked for,
    /// since fields may hold line ends.
    Byte(u64),
    /// A line of text, from 1.
    Line(u64),
    /// A row of a Parquet file, from 1.
    Row(u64),
}

impl Place {
    /// How the place is called in messages about `path`: `line 7`.
    pub fn name(&self, path: &Path) -> String {
        match self {
            Place::Byte(byte) => format!("line {}", csv::line_after(path, *byte)),
            Place::Line(number) => format!("line {number}"),
            Place::Row(number) => format!("row {number}"),
        }
    }

    /// An error in this row of `path`.
    pub fn wrong(&self, path: &Path, what: impl std::fmt::Display) -> Error {
        Error::malformed(path, format!("{}: {what}", self.name(path)))
    }
}

/// What a row is handed to: its place, and the cells of the wanted columns in their order.
pub type Each<'e> = dyn FnMut(Place, &[Cell<'_>]) -> Result<()> + 'e;

/// Reads the columns `wanted` (names must differ), calling `each` for every row.
///
/// # Errors
/// A file that is missing, malformed or not UTF-8 (the line is named), a required column that
/// it lacks (those that exist are listed), or what `each` returns.
pub fn read(path: &Path, format: Format, wanted: &[Wanted], each: &mut Each<'_>) -> Result<()> {
    match format {
        Format::Csv => csv::read(path, wanted, each),
        Format::JsonLines => jsonl::read(path, wanted, each),
        Format::Parquet => parquet::read(path, wanted, each),
    }
}

#[cfg(test)]
mod tests;
