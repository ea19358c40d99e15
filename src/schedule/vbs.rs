//! Variable batch size: short responses need less memory and end together, so they run in
//! larger batches (paper, section 4.3). The table is read from `vbs = true` or from a table
//! `vbs = { 50 = 256, 100 = 128 }` of the experiment file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Rows of a batch by predicted length: up to `bound` tokens, `rows` rows. Longer than the
/// last bound means the arm's `batch_size`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, usize>", into = "BTreeMap<String, usize>")]
pub struct VbsTable {
    /// (bound in tokens, rows), ascending by bound.
    steps: Vec<(usize, usize)>,
}

impl Default for VbsTable {
    /// The paper's table (reference code): 50 -> 256, 100 -> 128, 150 -> 64, 200 -> 32.
    fn default() -> Self {
        VbsTable {
            steps: vec![(50, 256), (100, 128), (150, 64), (200, 32)],
        }
    }
}

impl VbsTable {
    /// A table of (bound in tokens, rows) in any order.
    pub fn new(mut steps: Vec<(usize, usize)>) -> Result<Self> {
        steps.sort_unstable();
        let table = VbsTable { steps };
        table.validate()?;
        Ok(table)
    }

    /// Rows for a batch whose longest member is predicted at `length` tokens; `None` beyond
    /// the last bound.
    pub fn rows(&self, length: f64) -> Option<usize> {
        self.steps
            .iter()
            .find(|(bound, _)| length <= *bound as f64)
            .map(|(_, rows)| *rows)
    }

    /// Rows must fall as lengths grow: the planner closes a batch at the first member that
    /// does not fit and would otherwise cut too early.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: &str| Err(Error::Usage(format!("`vbs`: {message}")));
        if self.steps.is_empty() {
            return refuse("an empty table; write `vbs = false` to turn it off");
        }
        if self
            .steps
            .iter()
            .any(|(bound, rows)| *bound == 0 || *rows == 0)
        {
            return refuse("lengths and batch sizes must be at least 1");
        }
        let falls = self
            .steps
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1);
        if !falls {
            return refuse("batch sizes must not grow with the length");
        }
        Ok(())
    }
}

impl TryFrom<BTreeMap<String, usize>> for VbsTable {
    type Error = String;

    fn try_from(table: BTreeMap<String, usize>) -> Result<Self, String> {
        let steps = table
            .into_iter()
            .map(|(bound, rows)| match bound.parse::<usize>() {
                Ok(bound) => Ok((bound, rows)),
                Err(_) => Err(format!("`vbs`: `{bound}` is not a length in tokens")),
            })
            .collect::<Result<Vec<_>, String>>()?;
        VbsTable::new(steps).map_err(|error| error.to_string())
    }
}

impl From<VbsTable> for BTreeMap<String, usize> {
    fn from(table: VbsTable) -> Self {
        table
            .steps
            .into_iter()
            .map(|(bound, rows)| (bound.to_string(), rows))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_table() {
        let table = VbsTable::default();
        let rows: Vec<_> = [0.0, 50.0, 50.5, 100.0, 150.0, 200.0, 200.1, 512.0]
            .map(|length| table.rows(length))
            .to_vec();
        let expected = [256, 256, 128, 128, 64, 32].map(Some);
        assert_eq!(rows[..6], expected);
        assert_eq!(rows[6..], [None, None]);
        assert_eq!(table.rows(f64::NAN), None);
    }

    #[test]
    fn tables_are_read_in_any_order_and_checked() {
        let table: VbsTable = toml::from_str("100 = 8\n50 = 32\n").expect("a table");
        assert_eq!(table.rows(50.0), Some(32));
        assert_eq!(table.rows(51.0), Some(8));
        let growing = toml::from_str::<VbsTable>("50 = 8\n100 = 32\n").expect_err("grows");
        assert!(growing.to_string().contains("must not grow"));
        assert!(toml::from_str::<VbsTable>("short = 8\n").is_err());
        assert!(toml::from_str::<VbsTable>("50 = 0\n").is_err());
    }
}
