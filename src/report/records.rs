//! The records of a run as Parquet: a row a micro-batch, a row a request, each with its arm
//! and seed. Plain columns, so that pandas, polars and DuckDB read them as they are.

use std::path::Path;

use polars::prelude::*;

use crate::error::{Error, Result};
use crate::evaluate::summary::{ArmRun, BatchRecord, RequestRecord};

use crate::persist::{aside, persist};
use crate::table::parquet;

fn rows<'a, T: 'a>(
    runs: &'a [ArmRun],
    of: fn(&ArmRun) -> &Vec<T>,
) -> impl Iterator<Item = (&'a ArmRun, &'a T)> + Clone {
    runs.iter()
        .flat_map(move |run| of(run).iter().map(move |row| (run, row)))
}

/// Counts are below four thousand million by a wide margin; a larger one is a bug upstream
/// and is kept visible as the largest value rather than wrapped.
fn u32_of(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Writes `batches.parquet`.
pub fn write_batches(path: &Path, runs: &[ArmRun]) -> Result<()> {
    let rows = rows(runs, |run| &run.batches);
    let count = |name: &str, of: fn(&BatchRecord) -> usize| {
        let values: Vec<u32> = rows.clone().map(|(_, b)| u32_of(of(b))).collect();
        Column::new(name.into(), values)
    };
    let tokens = |name: &str, of: fn(&BatchRecord) -> usize| {
        let values: Vec<u64> = rows.clone().map(|(_, b)| of(b) as u64).collect();
        Column::new(name.into(), values)
    };
    let seconds = |name: &str, of: fn(&BatchRecord) -> f64| {
        let values: Vec<f64> = rows.clone().map(|(_, b)| of(b)).collect();
        Column::new(name.into(), values)
    };
    let mut columns = identity(rows.clone().map(|(run, _)| run));
    columns.extend([
        count("group", |b| b.group),
        count("batch", |b| b.batch),
        count("attempt", |b| b.attempt),
        count("rows", |b| b.rows),
        count("cap", |b| b.cap),
        count("steps", |b| b.steps),
        tokens("computed_tokens", |b| b.computed_tokens),
        tokens("useful_tokens", |b| b.useful_tokens),
        tokens("failed_tokens", |b| b.failed_tokens),
        seconds("start_s", |b| b.start_s),
        seconds("prefill_s", |b| b.prefill_s),
        seconds("decode_s", |b| b.decode_s),
    ]);
    write(path, columns)
}

/// Writes `requests.parquet`.
pub fn write_requests(path: &Path, runs: &[ArmRun]) -> Result<()> {
    let rows = rows(runs, |run| &run.requests);
    let count = |name: &str, of: fn(&RequestRecord) -> usize| {
        let values: Vec<u32> = rows.clone().map(|(_, r)| u32_of(of(r))).collect();
        Column::new(name.into(), values)
    };
    let number = |name: &str, of: fn(&RequestRecord) -> f64| {
        let values: Vec<f64> = rows.clone().map(|(_, r)| of(r)).collect();
        Column::new(name.into(), values)
    };
    let failed: Vec<bool> = rows.clone().map(|(_, r)| r.failed).collect();
    let mut columns = identity(rows.clone().map(|(run, _)| run));
    columns.extend([
        count("request", |r| r.request),
        number("predicted", |r| r.predicted),
        count("response_tokens", |r| r.response_tokens),
        Column::new("failed".into(), failed),
        count("batch_steps", |r| r.batch_steps),
        number("latency_s", |r| r.latency_s),
    ]);
    write(path, columns)
}

/// The columns that say whose row it is.
fn identity<'a>(runs: impl Iterator<Item = &'a ArmRun> + Clone) -> Vec<Column> {
    let arms: Vec<&str> = runs.clone().map(|run| run.arm.as_str()).collect();
    let seeds: Vec<u64> = runs.map(|run| run.seed).collect();
    vec![
        Column::new("arm".into(), arms),
        Column::new("seed".into(), seeds),
    ]
}

/// Writes columns of equal height as one Parquet file.
pub(super) fn write(path: &Path, columns: Vec<Column>) -> Result<()> {
    let failed = |e: PolarsError| Error::io(path, std::io::Error::other(e.to_string()));
    let mut frame = DataFrame::new_infer_height(columns).map_err(failed)?;
    let file = aside(path, "")?;
    ParquetWriter::new(file.as_file())
        .finish(&mut frame)
        .map_err(failed)?;
    persist(file, path)
}

/// Rows of one arm and seed.
pub type Of<T> = ((String, u64), T);

/// Reads `batches.parquet`, in the file's order.
pub fn read_batches(path: &Path) -> Result<Vec<Of<BatchRecord>>> {
    let table = Table::read(path)?;
    let whole = |name| table.whole(name);
    let (group, batch, attempt) = (whole("group")?, whole("batch")?, whole("attempt")?);
    let (rows, cap, steps) = (whole("rows")?, whole("cap")?, whole("steps")?);
    let computed = whole("computed_tokens")?;
    let (useful, failed) = (whole("useful_tokens")?, whole("failed_tokens")?);
    let start = table.real("start_s")?;
    let (prefill, decode) = (table.real("prefill_s")?, table.real("decode_s")?);
    let record = |(n, owner)| {
        let record = BatchRecord {
            group: group[n],
            batch: batch[n],
            attempt: attempt[n],
            rows: rows[n],
            cap: cap[n],
            steps: steps[n],
            computed_tokens: computed[n],
            useful_tokens: useful[n],
            failed_tokens: failed[n],
            start_s: start[n],
            prefill_s: prefill[n],
            decode_s: decode[n],
        };
        (owner, record)
    };
    Ok(table
        .owners()?
        .into_iter()
        .enumerate()
        .map(record)
        .collect())
}

/// Reads `requests.parquet`, in the file's order.
pub fn read_requests(path: &Path) -> Result<Vec<Of<RequestRecord>>> {
    let table = Table::read(path)?;
    let request = table.whole("request")?;
    let predicted = table.real("predicted")?;
    let tokens = table.whole("response_tokens")?;
    let failed = table.flag("failed")?;
    let steps = table.whole("batch_steps")?;
    let latency = table.real("latency_s")?;
    let record = |(n, owner)| {
        let record = RequestRecord {
            request: request[n],
            predicted: predicted[n],
            response_tokens: tokens[n],
            failed: failed[n],
            batch_steps: steps[n],
            latency_s: latency[n],
        };
        (owner, record)
    };
    Ok(table
        .owners()?
        .into_iter()
        .enumerate()
        .map(record)
        .collect())
}

/// A Parquet file in memory, its columns asked for by name and type.
struct Table<'a> {
    path: &'a Path,
    frame: DataFrame,
}

impl Table<'_> {
    fn read(path: &Path) -> Result<Table<'_>> {
        let frame = parquet::Table::open(path)?.whole()?;
        Ok(Table { path, frame })
    }

    fn column<T>(
        &self,
        name: &str,
        kind: &str,
        read: impl Fn(&Column) -> Option<Vec<T>>,
    ) -> Result<Vec<T>> {
        let column = self.frame.column(name).ok();
        column.and_then(read).ok_or_else(|| {
            Error::malformed(self.path, format!("column `{name}` ({kind}) is missing"))
        })
    }

    fn whole(&self, name: &str) -> Result<Vec<usize>> {
        self.column(name, "u32 or u64", |column| {
            if let Ok(values) = column.u32() {
                return values.iter().map(|v| v.map(|v| v as usize)).collect();
            }
            let values = column.u64().ok()?;
            values.iter().map(|v| v.map(|v| v as usize)).collect()
        })
    }

    fn real(&self, name: &str) -> Result<Vec<f64>> {
        // A missing number is one that could not be computed.
        let read = |column: &Column| {
            let values = column.f64().ok()?;
            Some(values.iter().map(|v| v.unwrap_or(f64::NAN)).collect())
        };
        self.column(name, "f64", read)
    }

    fn flag(&self, name: &str) -> Result<Vec<bool>> {
        self.column(name, "bool", |c| c.bool().ok()?.iter().collect())
    }

    fn owners(&self) -> Result<Vec<(String, u64)>> {
        let arms = self.column("arm", "string", |c| {
            c.str().ok()?.iter().map(|v| v.map(String::from)).collect()
        })?;
        let seeds = self.column("seed", "u64", |c| {
            c.u64().ok()?.iter().collect::<Option<Vec<u64>>>()
        })?;
        Ok(arms.into_iter().zip(seeds).collect())
    }
}
