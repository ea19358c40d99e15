//! Length datasets as Parquet files that pandas, polars and DuckDB read as they are.

use std::path::Path;

use polars::prelude::*;

use crate::error::{Error, Result};
use crate::memory::Pile;
use crate::table::parquet::{Table, cast};

use super::{DatasetWriter, FinishReason, Known, LengthDataset, Provenance, Row, Sample, Split};

/// Metadata keys are prefixed, so that they cannot collide with other tools'.
pub(super) const PREFIX: &str = "lenaware.";

impl LengthDataset {
    /// Writes the dataset whole or not at all.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_parquet(&self, path: &Path) -> Result<()> {
        let mut writer = DatasetWriter::create(path, &self.provenance)?;
        for sample in &self.samples {
            writer.push(&Row::from(sample))?;
        }
        writer.finish()
    }

    /// Reads a dataset written by [`LengthDataset::write_parquet`] or by anyone with the same
    /// columns (`category`, `split`, `response`, `seed`, `sample`, `prompt_tokens` and `arrival_s`
    /// may lack).
    ///
    /// # Errors
    /// A file that is missing, malformed or empty.
    pub fn read_parquet(path: &Path) -> Result<LengthDataset> {
        samples_in(path, &Table::open(path)?)
    }

    /// As [`LengthDataset::read_parquet`], from bytes in memory.
    ///
    /// # Errors
    /// As there; `path` only names the bytes in messages.
    pub fn from_parquet_bytes(path: &Path, bytes: &'static [u8]) -> Result<LengthDataset> {
        samples_in(path, &Table::of_bytes(path, bytes)?)
    }
}

const COLUMNS: [&str; 12] = [
    "instruction_id",
    "instruction",
    "response_tokens",
    "finish_reason",
    "temperature",
    "category",
    "split",
    "sample",
    "seed",
    "prompt_tokens",
    "response",
    "arrival_s",
];

fn samples_in(path: &Path, table: &Table) -> Result<LengthDataset> {
    let remedy = "give a length dataset as written by `lenaware build-dataset` or `import`";
    let wrong = |what: String| Error::malformed(path, format!("{what}; {remedy}"));
    if table.rows() == 0 {
        return Err(wrong("holds no samples".into()));
    }
    table.fits(size_of::<Sample>())?;
    let there: Vec<&str> = (COLUMNS.into_iter())
        .filter(|name| table.has(name))
        .collect();
    let (mut samples, mut pile) = (Vec::new(), Pile::default());
    table.batches(&there, |begin, frame| {
        pile.add(bytes_of_texts(frame), || {
            let what = format!("{}: the texts of its samples need", path.display());
            (what, "take a part of it")
        })?;
        samples.extend(samples_of(frame, begin).map_err(wrong)?);
        Ok(())
    })?;
    let pairs = table.key_values();
    let fields = (pairs.iter())
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.as_str())))
        .collect();
    Ok(LengthDataset {
        provenance: provenance_of(&fields),
        samples,
    })
}

/// What the texts of some rows take, each kept on its own: files hold equal ones once.
fn bytes_of_texts(frame: &DataFrame) -> usize {
    let texts = frame.columns().iter().filter(|c| c.dtype().is_string());
    texts
        .filter_map(|c| c.str().ok())
        .flat_map(|c| c.iter().flatten())
        .map(str::len)
        .sum()
}

fn samples_of(frame: &DataFrame, begin: usize) -> std::result::Result<Vec<Sample>, String> {
    let required = |name: &str, dtype: DataType| {
        optional(frame, name, dtype)?.ok_or_else(|| format!("has no column `{name}`"))
    };
    let ids = required("instruction_id", DataType::String)?;
    let texts = required("instruction", DataType::String)?;
    let lengths = required("response_tokens", DataType::UInt32)?;
    let reasons = required("finish_reason", DataType::String)?;
    let temperatures = required("temperature", DataType::Float32)?;
    let categories = optional(frame, "category", DataType::String)?;
    let splits = optional(frame, "split", DataType::String)?;
    let indices = optional(frame, "sample", DataType::UInt32)?;
    let seeds = optional(frame, "seed", DataType::UInt64)?;
    let prompts = optional(frame, "prompt_tokens", DataType::UInt32)?;
    let responses = optional(frame, "response", DataType::String)?;
    let arrivals = optional(frame, "arrival_s", DataType::Float64)?;
    let text = |column: &Column, row: usize| -> Option<String> {
        Some(column.str().ok()?.get(row)?.to_string())
    };
    let number = |column: &Option<Column>, row: usize| {
        column
            .as_ref()
            .and_then(|c| c.u32().ok()?.get(row))
            .unwrap_or(0)
    };
    (0..frame.height())
        .map(|row| {
            let lacks = |name: &str| format!("has no `{name}` in row {}", begin + row + 1);
            let split = match splits.as_ref().and_then(|s| text(s, row)) {
                Some(name) => Some(name.parse::<Split>().map_err(|e| e.to_string())?),
                None => None,
            };
            Ok(Sample {
                instruction_id: text(&ids, row).ok_or_else(|| lacks("instruction_id"))?,
                instruction: text(&texts, row).ok_or_else(|| lacks("instruction"))?,
                category: categories.as_ref().and_then(|c| text(c, row)),
                split,
                sample: number(&indices, row),
                temperature: temperatures
                    .f32()
                    .ok()
                    .and_then(|c| c.get(row))
                    .filter(|t| t.is_finite())
                    .ok_or_else(|| lacks("temperature"))?,
                seed: seeds
                    .as_ref()
                    .and_then(|c| c.u64().ok()?.get(row))
                    .unwrap_or(0),
                prompt_tokens: number(&prompts, row),
                response_tokens: lengths
                    .u32()
                    .ok()
                    .and_then(|c| c.get(row))
                    .ok_or_else(|| lacks("response_tokens"))?,
                finish_reason: match text(&reasons, row).as_deref() {
                    Some("stop") => FinishReason::Stop,
                    Some("length") => FinishReason::Length,
                    _ => return Err(lacks("finish_reason")),
                },
                response: responses.as_ref().and_then(|c| text(c, row)),
                arrival_s: arrivals.as_ref().and_then(|c| c.f64().ok()?.get(row)),
            })
        })
        .collect()
}

fn optional(
    frame: &DataFrame,
    name: &str,
    dtype: DataType,
) -> std::result::Result<Option<Column>, String> {
    let Ok(column) = frame.column(name) else {
        return Ok(None);
    };
    cast(column, &dtype)
        .map(Some)
        .map_err(|_| format!("has a column `{name}` that is not {dtype}"))
}

pub(super) fn metadata_of(provenance: &Provenance) -> Vec<(String, String)> {
    let mut pairs = vec![
        ("model", provenance.model.clone()),
        ("max_new_tokens", provenance.max_new_tokens.to_string()),
        ("finish_reason", provenance.finish_reasons.name().into()),
        ("temperature", provenance.temperatures.name().into()),
        ("tool_version", provenance.tool_version.clone()),
    ];
    for (key, value) in [
        ("model_sha256", &provenance.model_sha256),
        ("template_sha256", &provenance.template_sha256),
        ("git_commit", &provenance.git_commit),
        ("top_p", &provenance.top_p.map(|p| p.to_string())),
        ("dtype", &provenance.dtype),
        ("sampler", &provenance.sampler),
        ("endpoint", &provenance.endpoint),
        ("served_model", &provenance.served_model),
    ] {
        if let Some(value) = value {
            pairs.push((key, value.clone()));
        }
    }
    pairs
        .into_iter()
        .map(|(key, value)| (format!("{PREFIX}{key}"), value))
        .collect()
}

pub(super) fn provenance_of(fields: &std::collections::HashMap<&str, &str>) -> Provenance {
    let get = |key: &str| fields.get(key).map(std::string::ToString::to_string);
    let known = |key: &str| fields.get(key).map_or(Known::Recorded, |v| Known::named(v));
    Provenance {
        model: get("model").unwrap_or_else(|| "unknown".into()),
        model_sha256: get("model_sha256"),
        template_sha256: get("template_sha256"),
        max_new_tokens: get("max_new_tokens")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0),
        finish_reasons: known("finish_reason"),
        temperatures: known("temperature"),
        tool_version: get("tool_version").unwrap_or_else(|| "unknown".into()),
        git_commit: get("git_commit"),
        dtype: get("dtype"),
        top_p: get("top_p").and_then(|v| v.parse().ok()),
        sampler: get("sampler"),
        endpoint: get("endpoint"),
        served_model: get("served_model"),
    }
}
