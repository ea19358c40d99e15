//! What a trained predictor said of the validation instructions before it was fitted on them
//! too: the only honest ground for choosing among predictors and for mixing them.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::persist;

use super::prediction::{LEVELS, Quantiles};

const FILE: &str = "held_out.jsonl";

/// Quantiles by instruction id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeldOut(pub HashMap<String, Quantiles>);

#[derive(Serialize, Deserialize)]
struct Line {
    instruction_id: String,
    /// Tokens at each of [`LEVELS`].
    quantiles: Vec<f64>,
}

impl HeldOut {
    /// Writes `held_out.jsonl` into a predictor's folder, in the order of the instructions.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write<'a>(
        dir: &Path,
        ids: impl Iterator<Item = &'a str>,
        quantiles: &[Quantiles],
    ) -> Result<()> {
        let mut text = String::new();
        for (id, quantiles) in ids.zip(quantiles) {
            let line = Line {
                instruction_id: id.to_string(),
                quantiles: quantiles.tokens().to_vec(),
            };
            text.push_str(&serde_json::to_string(&line).unwrap_or_default());
            text.push('\n');
        }
        persist::write(&dir.join(FILE), text.as_bytes())
    }

    /// Takes the file away, if there is one.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn remove(dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, e)),
            _ => Ok(()),
        }
    }

    /// Reads what training left in a predictor's folder.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(dir: &Path) -> Result<HeldOut> {
        let path = dir.join(FILE);
        let text = crate::regular_file::text_if_there(&path, u64::MAX)?.ok_or_else(|| {
            Error::Usage(format!(
                "{} holds no held-out predictions: train it again with `lenaware finetune`",
                dir.display()
            ))
        })?;
        let damaged = |number: usize, why: String| {
            Error::malformed(&path, format!("line {}: {why}: train again", number + 1))
        };
        let mut all = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line: Line =
                serde_json::from_str(line).map_err(|e| damaged(number, e.to_string()))?;
            let tokens: [f64; LEVELS.len()] = line
                .quantiles
                .try_into()
                .map_err(|_| damaged(number, format!("not {} quantiles", LEVELS.len())))?;
            if tokens.iter().any(|t| !t.is_finite()) {
                return Err(damaged(number, "a quantile is not a number".into()));
            }
            all.insert(line.instruction_id, Quantiles::new(tokens));
        }
        Ok(HeldOut(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_is_read_and_damage_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        assert!(HeldOut::read(dir.path()).is_err());
        let quantiles = [
            Quantiles::new(LEVELS.map(|p| 100.0 * p)),
            Quantiles::new(LEVELS.map(|p| 300.0 * p)),
        ];
        HeldOut::write(dir.path(), ["a", "b"].into_iter(), &quantiles).unwrap();
        let read = HeldOut::read(dir.path()).unwrap();
        assert_eq!(read.0["b"], quantiles[1]);
        let path = dir.path().join(FILE);
        std::fs::write(&path, "{\"instruction_id\": \"a\", \"quantiles\": [1.0]}\n").unwrap();
        let message = HeldOut::read(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("line 1") && message.contains("21"),
            "{message}"
        );
    }
}
