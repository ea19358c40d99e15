//! Parquet, some columns and some rows at a time.

use std::borrow::Cow;
use std::io::Cursor;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use polars::io::parquet::metadata::FileMetadataRef;
use polars::prelude::*;

use super::pages;
use super::{Cell, Each, Place, Wanted};
use crate::error::{Error, Result};
use crate::foreign::quietly;
use crate::memory;

/// Said where the library panics.
const CORRUPT: &str = "its pages are corrupt";
/// Rows that are in memory at once.
const BATCH: usize = 1 << 17;

enum Source {
    File(memmap2::Mmap),
    Bytes(&'static [u8]),
}

impl Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Source::File(map) => map,
            Source::Bytes(bytes) => bytes,
        }
    }
}

/// An open Parquet file.
pub(crate) struct Table {
    path: PathBuf,
    bytes: Source,
    metadata: FileMetadataRef,
    columns: Vec<String>,
}

impl Table {
    /// Opens a file. Nothing but its footer is read.
    ///
    /// # Errors
    /// A file that is missing or whose footer is malformed.
    pub fn open(path: &Path) -> Result<Table> {
        let file = crate::regular_file::open(path)?;
        if file.limit() == 0 {
            return Err(unreadable(path, "it is empty".into()));
        }
        let file = file.into_inner();
        // SAFETY: nothing here writes to a file of this name in place; whoever else does changes
        // what is read, as with any reader.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Table::of(path, Source::File(map))
    }

    /// As [`Table::open`], from bytes that `path` only names in messages.
    pub fn of_bytes(path: &Path, bytes: &'static [u8]) -> Result<Table> {
        Table::of(path, Source::Bytes(bytes))
    }

    fn of(path: &Path, bytes: Source) -> Result<Table> {
        super::footer::check(&bytes).map_err(|e| unreadable(path, e))?;
        let (metadata, columns) = footer(&bytes).map_err(|e| unreadable(path, e))?;
        Ok(Table {
            path: path.to_path_buf(),
            bytes,
            metadata,
            columns,
        })
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    pub fn rows(&self) -> usize {
        self.metadata.num_rows
    }

    /// Refuses what does not fit the memory there is, where each row takes `bytes` of it.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn fits(&self, bytes: usize) -> Result<()> {
        let needed = self.rows().saturating_mul(bytes);
        let path = self.path.display();
        let what = format!("{path}: its {} rows need", self.rows());
        memory::check(&what, needed, memory::available(), "take a part of it")
    }

    pub fn key_values(&self) -> Vec<(String, String)> {
        self.metadata
            .key_value_metadata()
            .iter()
            .flatten()
            .filter_map(|kv| Some((kv.key.clone(), kv.value.as_ref()?.clone())))
            .collect()
    }

    /// The named columns, some rows at a time, in order; `each` also gets the first row's number.
    ///
    /// # Errors
    /// Pages that are corrupt, or what `each` returns.
    pub fn batches(
        &self,
        columns: &[&str],
        mut each: impl FnMut(usize, &DataFrame) -> Result<()>,
    ) -> Result<()> {
        let checked = quietly(CORRUPT, || {
            pages::check(&self.bytes, &self.metadata, columns)
        });
        checked.map_err(|e| unreadable(&self.path, e))?;
        let mut begin = 0;
        let mut groups = self
            .metadata
            .row_groups
            .iter()
            .map(polars_parquet::read::RowGroupMetadata::num_rows);
        let mut next = groups.next();
        while let Some(first) = next {
            // Small groups are read together: each reading goes over the whole footer.
            let mut rows = first;
            next = groups.next();
            while let Some(more) = next
                && rows + more <= BATCH
            {
                rows += more;
                next = groups.next();
            }
            let end = begin + rows;
            while begin < end {
                let count = BATCH.min(end - begin);
                let frame = self.slice(columns, begin, count);
                let frame = frame.map_err(|e| unreadable(&self.path, e))?;
                if frame.height() != count {
                    return Err(unreadable(&self.path, "it ends early".into()));
                }
                each(begin, &frame)?;
                begin += count;
            }
        }
        Ok(())
    }

    /// All rows of all columns.
    ///
    /// # Errors
    /// Pages that are corrupt, or more rows than there is memory for.
    pub fn whole(&self) -> Result<DataFrame> {
        self.fits(self.columns.len() * 8)?;
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let mut whole: Option<DataFrame> = None;
        self.batches(&columns, |_, frame| {
            match &mut whole {
                None => whole = Some(frame.clone()),
                Some(whole) => {
                    let stacked = whole.vstack_mut(frame).map(|_| ());
                    stacked.map_err(|e| unreadable(&self.path, e.to_string()))?;
                }
            }
            Ok(())
        })?;
        match whole {
            Some(frame) => Ok(frame),
            // No row, but columns all the same.
            None => (self.slice(&columns, 0, 0)).map_err(|e| unreadable(&self.path, e)),
        }
    }

    fn slice(
        &self,
        columns: &[&str],
        from: usize,
        count: usize,
    ) -> std::result::Result<DataFrame, String> {
        quietly(CORRUPT, || {
            let mut reader = ParquetReader::new(Cursor::new(&self.bytes[..]))
                .with_columns(Some(
                    columns
                        .iter()
                        .map(std::string::ToString::to_string)
                        .collect(),
                ))
                .with_slice(Some((from, count)));
            reader.set_metadata(self.metadata.clone());
            let mut frame = reader.finish()?;
            frame.rechunk_mut();
            // Columns of pages that lie about their rows have other lengths than the frame.
            match frame.columns().iter().all(|c| c.len() == frame.height()) {
                true => Ok(frame),
                false => Err(PolarsError::ShapeMismatch(CORRUPT.into())),
            }
        })
    }
}

type Footer = (FileMetadataRef, Vec<String>);

fn footer(bytes: &[u8]) -> std::result::Result<Footer, String> {
    quietly(CORRUPT, || -> PolarsResult<Footer> {
        let mut reader = ParquetReader::new(Cursor::new(bytes));
        let metadata = reader.get_metadata()?.clone();
        let names = reader
            .schema()?
            .iter_names()
            .map(polars::prelude::PlSmallStr::to_string)
            .collect();
        Ok((metadata, names))
    })
}

/// A column as another type; of some pairs of types the library panics.
pub(crate) fn cast(column: &Column, to: &DataType) -> std::result::Result<Column, String> {
    quietly("it cannot be converted", || column.cast(to))
}

fn unreadable(path: &Path, why: String) -> Error {
    Error::malformed(path, format!("is not a readable Parquet file ({why})"))
}

pub(super) fn read(path: &Path, wanted: &[Wanted], each: &mut Each<'_>) -> Result<()> {
    let table = Table::open(path)?;
    for column in wanted {
        if column.required && !table.has(&column.name) {
            return Err(column.missing(path, table.columns().iter().map(String::as_str)));
        }
    }
    if table.rows() == 0 {
        return Err(Error::malformed(path, "holds no rows"));
    }
    let there: Vec<&str> = wanted
        .iter()
        .map(|column| column.name.as_str())
        .filter(|name| table.has(name))
        .collect();
    table.batches(&there, |begin, frame| {
        let columns = wanted
            .iter()
            .map(|column| match frame.column(&column.name) {
                Ok(values) => Values::of(values).map_err(|dtype| {
                    let what = format!(
                        "has a column `{}` of type {dtype}, which is neither text nor a number",
                        column.name
                    );
                    Error::malformed(path, what)
                }),
                Err(_) => Ok(Values::None),
            })
            .collect::<Result<Vec<Values>>>()?;
        for row in 0..frame.height() {
            let place = Place::Row((begin + row) as u64 + 1);
            let cells: Vec<Cell<'_>> = columns.iter().map(|values| values.cell(row)).collect();
            each(place, &cells)?;
        }
        Ok(())
    })
}

/// A column's values of one batch.
enum Values {
    None,
    Text(StringChunked),
    Integer(Int64Chunked),
    Float(Float64Chunked),
}

impl Values {
    fn of(column: &Column) -> std::result::Result<Values, DataType> {
        let dtype = column.dtype().clone();
        let cast = |to: DataType| cast(column, &to).map_err(|_| dtype.clone());
        let found = match &dtype {
            DataType::Null => Some(Values::None),
            d if d.is_integer() => cast(DataType::Int64)?
                .i64()
                .ok()
                .cloned()
                .map(Values::Integer),
            d if d.is_float() => cast(DataType::Float64)?
                .f64()
                .ok()
                .cloned()
                .map(Values::Float),
            DataType::String | DataType::Boolean => cast(DataType::String)?
                .str()
                .ok()
                .cloned()
                .map(Values::Text),
            _ => None,
        };
        found.ok_or(dtype)
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        let found = match self {
            Values::None => None,
            Values::Text(values) => values
                .get(row)
                .filter(|text| !text.is_empty())
                .map(|text| Cell::Text(Cow::Borrowed(text))),
            Values::Integer(values) => values.get(row).map(Cell::Integer),
            Values::Float(values) => values.get(row).map(Cell::Float),
        };
        found.unwrap_or(Cell::Empty)
    }
}
