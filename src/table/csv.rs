//! CSV: quoted fields may hold commas, quotes and line ends; a byte order mark, CRLF and empty
//! lines are passed over.

use std::borrow::Cow;
use std::cell::Cell as Left;
use std::io::{self, BufReader, Read};
use std::path::Path;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::{Cell, Each, Place, Wanted};
use crate::error::{Error, Result};
use crate::regular_file;

/// A longer record is no row of a table, and is not read into memory: its bytes, and of commas
/// alone eight bytes for each. The reader's own buffer comes on top.
const LONGEST_RECORD: u64 = 15_000_000;
/// The reader keeps two more copies of its first record.
const LONGEST_HEADER: u64 = 3_000_000;
const BUFFER: usize = 1 << 20;
/// Tables of a thousand columns are wide ones.
const MOST_COLUMNS: usize = 1 << 16;
/// Behind the file comes a record of its own, so that a quote that is never closed is told from
/// a last field.
const END: &[u8] = b"\n\0";

pub(super) fn read(path: &Path, wanted: &[Wanted], each: &mut Each<'_>) -> Result<()> {
    let file = regular_file::open(path)?;
    let length = file.limit();
    let tabs = path.extension().is_some_and(|e| e == "tsv");
    let left = Left::new(LONGEST_RECORD);
    let mut reader = ReaderBuilder::new()
        .delimiter(if tabs { b'\t' } else { b',' })
        .buffer_capacity(BUFFER)
        .has_headers(false)
        // Lengths are compared here: the last record has its own.
        .flexible(true)
        .from_reader(Bounded {
            reader: file.chain(END),
            left: &left,
        });
    let mut record = ByteRecord::new();
    let mut following = |record: &mut ByteRecord, most: u64| -> Result<Option<Place>> {
        left.set(most);
        let begin = Place::Byte(reader.position().byte());
        let read = reader.read_byte_record(record);
        // What the buffer holds is the rest of the file, once that has been read.
        let behind = reader.position().byte() >= length + END.len() as u64;
        match read {
            Err(_) if left.get() == 0 => {
                let most = most / 1_000_000;
                let what = format!("begins a row of more than {most} MB: is a quote left open?");
                Err(begin.wrong(path, what))
            }
            Err(e) => Err(failed(path, e)),
            Ok(false) => Ok(None),
            Ok(true) if behind && record.as_slice() == &END[1..] => Ok(None),
            Ok(true) if behind => Err(begin.wrong(
                path,
                "begins a row with a quote that is never closed: close it",
            )),
            Ok(true) => Ok(Some(begin)),
        }
    };
    if following(&mut record, LONGEST_HEADER)?.is_none() {
        return Err(Error::malformed(
            path,
            "is empty: give a header and a row a sample",
        ));
    }
    if record.len() > MOST_COLUMNS {
        let count = record.len();
        let what = format!("line 1 has {count} columns: give those that are of use");
        return Err(Error::malformed(path, what));
    }
    let header = record
        .iter()
        .map(|name| {
            let name = std::str::from_utf8(name).map_err(|_| {
                Error::malformed(path, "line 1 is not UTF-8: save the file as UTF-8")
            })?;
            Ok(name.trim().to_string())
        })
        .collect::<Result<Vec<String>>>()?;
    let columns = wanted
        .iter()
        .map(|column| place_of(path, &header, column))
        .collect::<Result<Vec<Option<usize>>>>()?;
    while let Some(place) = following(&mut record, LONGEST_RECORD)? {
        if record.len() != header.len() {
            let what = format!(
                "{} fields where the header has {}: is a comma unquoted, or a quote left open?",
                record.len(),
                header.len()
            );
            return Err(place.wrong(path, what));
        }
        let cells = columns
            .iter()
            .zip(wanted)
            .map(|(at, column)| match at.and_then(|at| record.get(at)) {
                None | Some(b"") => Ok(Cell::Empty),
                Some(field) => match std::str::from_utf8(field) {
                    Ok(text) => Ok(Cell::Text(Cow::Borrowed(text))),
                    Err(_) => {
                        let what =
                            format!("`{}` is not UTF-8: save the file as UTF-8", column.name);
                        Err(place.wrong(path, what))
                    }
                },
            })
            .collect::<Result<Vec<Cell<'_>>>>()?;
        each(place, &cells)?;
    }
    Ok(())
}

/// Fails where a record becomes too long.
struct Bounded<'l, R> {
    reader: R,
    left: &'l Left<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        self.left.set(self.left.get().saturating_sub(read as u64));
        match self.left.get() {
            0 => Err(io::Error::other("a record that is too long")),
            _ => Ok(read),
        }
    }
}

fn place_of(path: &Path, header: &[String], column: &Wanted) -> Result<Option<usize>> {
    let mut found = (0..header.len()).filter(|&at| header[at] == column.name);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Error::malformed(
            path,
            format!("has the column `{}` twice: rename one", column.name),
        )),
        (None, _) if column.required => {
            Err(column.missing(path, header.iter().map(String::as_str)))
        }
        (at, _) => Ok(at),
    }
}

fn failed(path: &Path, error: csv::Error) -> Error {
    match error.into_kind() {
        ErrorKind::Io(error) => Error::io(path, error),
        kind => Error::malformed(path, format!("is not readable as CSV: {kind:?}")),
    }
}

/// The line, from 1, of the row that follows the byte, line ends and empty lines passed over.
/// 0 where the file cannot be read again.
pub(super) fn line_after(path: &Path, byte: u64) -> u64 {
    let Ok(file) = regular_file::open(path) else {
        return 0;
    };
    let mut line = 1;
    for (at, read) in BufReader::with_capacity(1 << 20, file).bytes().enumerate() {
        match read {
            Ok(b'\n') => line += 1,
            Ok(b'\r') => {}
            Ok(_) if (at as u64) < byte => {}
            _ => break,
        }
    }
    line
}
