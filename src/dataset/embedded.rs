//! The dataset that comes with the tool: SmolLM2-135M's answers to the project's own 640
//! instructions at four temperatures, sampled by `build-dataset`.

use std::path::Path;

use crate::digest::{sha256_bytes, sha256_file};
use crate::error::Result;

use super::LengthDataset;

/// How the embedded dataset is named wherever a path to one is taken.
pub const EMBEDDED: &str = "embedded";

/// The embedded dataset's file as it is, and its name.
pub(crate) fn bytes() -> (&'static str, &'static [u8]) {
    (
        "datasets/smollm2-135m/dataset.parquet",
        include_bytes!("../../datasets/smollm2-135m/dataset.parquet"),
    )
}

/// Reads the embedded dataset.
///
/// # Errors
/// Never in a build whose tests passed.
pub fn embedded() -> Result<LengthDataset> {
    let (path, bytes) = bytes();
    LengthDataset::from_parquet_bytes(Path::new(path), bytes)
}

/// The sha256, in hexadecimal, of the file that `name` stands for, as [`open`] takes it.
///
/// # Errors
/// A file that cannot be read.
pub fn sha256_of(name: &Path) -> Result<String> {
    if name == Path::new(EMBEDDED) {
        return Ok(sha256_bytes(bytes().1));
    }
    match name.is_dir() {
        true => sha256_file(&name.join(super::store::DATASET)),
        false => sha256_file(name),
    }
}

/// Reads the dataset that `name` stands for: `embedded`, a Parquet file, or a folder that
/// `build-dataset` finished.
///
/// # Errors
/// A file that is missing, malformed or empty.
pub fn open(name: &Path) -> Result<LengthDataset> {
    if name == Path::new(EMBEDDED) {
        return embedded();
    }
    if name.is_dir() {
        return super::store::read_finished(name);
    }
    LengthDataset::read_parquet(name)
}
