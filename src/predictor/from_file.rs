//! Predictions made elsewhere: `file:predictions.jsonl`, a line an instruction.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

use super::{Prediction, Predictor, Query};

/// Predictions by instruction id.
pub struct FromFile {
    name: String,
    predictions: HashMap<String, f64>,
}

#[derive(Deserialize)]
struct Line {
    instruction_id: String,
    predicted_tokens: f64,
}

impl FromFile {
    /// Reads lines of `{"instruction_id": .., "predicted_tokens": ..}` (as `predict` writes).
    ///
    /// # Errors
    /// A missing file or a malformed line.
    pub fn read(name: &str, path: &Path) -> Result<FromFile> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let mut predictions = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_str(line).map_err(|e| {
                Error::malformed(
                    path,
                    format!(
                        "line {} is not {{\"instruction_id\": .., \"predicted_tokens\": ..}}: {e}",
                        number + 1
                    ),
                )
            })?;
            predictions.insert(line.instruction_id, line.predicted_tokens);
        }
        Ok(FromFile {
            name: name.to_string(),
            predictions,
        })
    }
}

impl Predictor for FromFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        queries
            .iter()
            .map(|q| {
                let found = self.predictions.get(q.instruction_id).ok_or_else(|| {
                    Error::Usage(format!(
                        "`{}` has no prediction for the instruction `{}`",
                        self.name, q.instruction_id
                    ))
                })?;
                Ok(Prediction::of(*found))
            })
            .collect()
    }
}
