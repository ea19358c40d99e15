//! CSV: quoted fields may hold commas, quotes and line ends; a byte order mark, CRLF and empty
//! lines are passed over.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::{Cell, Each, Place, Wanted};
use crate::error::{Error, Result};

pub(super) fn read(path: &Path, wanted: &[Wanted], each: &mut Each<'_>) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let tabs = path.extension().is_some_and(|e| e == "tsv");
    let mut reader = ReaderBuilder::new()
        .delimiter(if tabs { b'\t' } else { b',' })
        .buffer_capacity(1 << 20)
        .from_reader(file);
    let header = reader
        .byte_headers()
        .map_err(|e| failed(path, e))?
        .iter()
        .map(|name| {
            let name = std::str::from_utf8(name).map_err(|_| {
                Error::malformed(path, "line 1 is not UTF-8: save the file as UTF-8")
            })?;
            Ok(name.trim().to_string())
        })
        .collect::<Result<Vec<String>>>()?;
    if header.is_empty() {
        return Err(Error::malformed(
            path,
            "is empty: give a header and a row a sample",
        ));
    }
    let columns = wanted
        .iter()
        .map(|column| place_of(path, &header, column))
        .collect::<Result<Vec<Option<usize>>>>()?;
    let mut record = ByteRecord::new();
    while reader
        .read_byte_record(&mut record)
        .map_err(|e| failed(path, e))?
    {
        let place = Place::Byte(record.position().map_or(0, |p| p.byte()));
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
        ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => Place::Byte(pos.map_or(0, |p| p.byte())).wrong(
            path,
            format!(
                "{len} fields where the header has {expected_len}: is a comma unquoted, or a quote \
                 left open?"
            ),
        ),
        kind => Error::malformed(path, format!("is not readable as CSV: {kind:?}")),
    }
}

/// The line, from 1, of the row that follows the byte, line ends and empty lines passed over.
/// 0 where the file cannot be read again.
pub(super) fn line_after(path: &Path, byte: u64) -> u64 {
    let Ok(file) = File::open(path) else {
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
