//! Length datasets as Parquet files that pandas, polars and DuckDB read as they are.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use polars::prelude::*;

use crate::error::{Error, Result};
use crate::persist;

use super::{FinishReason, LengthDataset, Provenance, Sample, Split};

/// Metadata keys are prefixed, so that they cannot collide with other tools'.
const PREFIX: &str = "lenaware.";

impl LengthDataset {
    /// Writes the dataset whole or not at all.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_parquet(&self, path: &Path) -> Result<()> {
        let rows = &self.samples;
        let column = |name: &str, series: Series| Column::from(series.with_name(name.into()));
        let columns = vec![
            column(
                "instruction_id",
                rows.iter().map(|s| s.instruction_id.as_str()).collect(),
            ),
            column(
                "instruction",
                rows.iter().map(|s| s.instruction.as_str()).collect(),
            ),
            column(
                "category",
                rows.iter().map(|s| s.category.as_deref()).collect(),
            ),
            column(
                "split",
                rows.iter().map(|s| s.split.map(Split::name)).collect(),
            ),
            column("sample", rows.iter().map(|s| s.sample).collect()),
            column("temperature", rows.iter().map(|s| s.temperature).collect()),
            column("seed", rows.iter().map(|s| s.seed).collect()),
            column(
                "prompt_tokens",
                rows.iter().map(|s| s.prompt_tokens).collect(),
            ),
            column(
                "response_tokens",
                rows.iter().map(|s| s.response_tokens).collect(),
            ),
            column(
                "finish_reason",
                rows.iter()
                    .map(|s| match s.finish_reason {
                        FinishReason::Stop => "stop",
                        FinishReason::Length => "length",
                    })
                    .collect(),
            ),
            column(
                "response",
                rows.iter().map(|s| s.response.as_deref()).collect(),
            ),
        ];
        let failed = |e: PolarsError| Error::malformed(path, format!("cannot be written: {e}"));
        let mut frame = DataFrame::new(rows.len(), columns).map_err(failed)?;
        let metadata = metadata_of(&self.provenance);
        persist::write_with(path, |file| {
            ParquetWriter::new(file)
                .with_compression(ParquetCompression::Zstd(None))
                .with_key_value_metadata(Some(KeyValueMetadata::from_static(metadata)))
                .finish(&mut frame)
                .map(|_| ())
                .map_err(failed)
        })
    }

    /// Reads a dataset written by [`LengthDataset::write_parquet`] or by anyone with the same
    /// columns (`category`, `split`, `response`, `seed`, `sample`, `prompt_tokens` may lack).
    ///
    /// # Errors
    /// A file that is missing, malformed or empty.
    pub fn read_parquet(path: &Path) -> Result<LengthDataset> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        read_from(path, file)
    }

    /// As [`LengthDataset::read_parquet`], from bytes in memory.
    ///
    /// # Errors
    /// As there; `path` only names the bytes in messages.
    pub fn from_parquet_bytes(path: &Path, bytes: &'static [u8]) -> Result<LengthDataset> {
        read_from(path, std::io::Cursor::new(bytes))
    }
}

fn read_from(path: &Path, source: impl polars::io::mmap::MmapBytesReader) -> Result<LengthDataset> {
    let remedy = "give a length dataset as written by `lenaware build-dataset` or `import`";
    let wrong = |what: String| Error::malformed(path, format!("{what}; {remedy}"));
    // The Parquet reader is robust, but a file made to hurt may still trip an assertion in it.
    let (frame, metadata) = quietly(|| {
        let mut reader = ParquetReader::new(source);
        let metadata = reader.get_metadata()?.clone();
        Ok((reader.finish()?, metadata))
    })
    .map_err(|e| wrong(format!("is not a readable Parquet file ({e})")))?;
    if frame.height() == 0 {
        return Err(wrong("holds no samples".into()));
    }
    let fields: std::collections::HashMap<&str, &str> = metadata
        .key_value_metadata()
        .iter()
        .flatten()
        .filter_map(|kv| Some((kv.key.strip_prefix(PREFIX)?, kv.value.as_deref()?)))
        .collect();
    let samples = samples_of(&frame).map_err(wrong)?;
    Ok(LengthDataset {
        provenance: provenance_of(&fields),
        samples,
    })
}

/// Runs `read`, turning a panic inside the library into an error without its message on the
/// terminal.
fn quietly<T>(read: impl FnOnce() -> PolarsResult<T>) -> std::result::Result<T, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(read));
    std::panic::set_hook(hook);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or_default().into()),
        Err(_) => Err("its pages are corrupt".into()),
    }
}

fn samples_of(frame: &DataFrame) -> std::result::Result<Vec<Sample>, String> {
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
            let lacks = |name: &str| format!("has no `{name}` in row {row}");
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
    column
        .cast(&dtype)
        .map(Some)
        .map_err(|_| format!("has a column `{name}` that is not {dtype}"))
}

fn metadata_of(provenance: &Provenance) -> Vec<(String, String)> {
    let mut pairs = vec![
        ("model", provenance.model.clone()),
        ("max_new_tokens", provenance.max_new_tokens.to_string()),
        ("tool_version", provenance.tool_version.clone()),
    ];
    for (key, value) in [
        ("model_sha256", &provenance.model_sha256),
        ("template_sha256", &provenance.template_sha256),
        ("git_commit", &provenance.git_commit),
        ("top_p", &provenance.top_p.map(|p| p.to_string())),
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

fn provenance_of(fields: &std::collections::HashMap<&str, &str>) -> Provenance {
    let get = |key: &str| fields.get(key).map(|v| v.to_string());
    Provenance {
        model: get("model").unwrap_or_else(|| "unknown".into()),
        model_sha256: get("model_sha256"),
        template_sha256: get("template_sha256"),
        max_new_tokens: get("max_new_tokens")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0),
        tool_version: get("tool_version").unwrap_or_else(|| "unknown".into()),
        git_commit: get("git_commit"),
        top_p: get("top_p").and_then(|v| v.parse().ok()),
        sampler: get("sampler"),
        endpoint: get("endpoint"),
        served_model: get("served_model"),
    }
}
