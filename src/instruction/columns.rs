//! Which columns of an instruction set are what.

use std::collections::HashSet;
use std::path::Path;

use clap::Args;

use crate::error::{Error, Result};
use crate::table::Wanted;

/// Names of the columns (of JSON: keys) of an instruction set, where they are not the usual
/// ones. A column that is named must be there.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Columns {
    /// Column of the instructions' texts [default: instruction, else text]
    #[arg(long = "text-column", id = "text-column", value_name = "COLUMN")]
    pub text: Option<String>,
    /// Column of what is appended to the text, as Alpaca's input [default: input]
    #[arg(long = "input-column", id = "input-column", value_name = "COLUMN")]
    pub input: Option<String>,
    /// Column of the instructions' ids [default: id, else numbered from 0]
    #[arg(long = "id-column", id = "id-column", value_name = "COLUMN")]
    pub id: Option<String>,
    /// Column of the instructions' categories [default: category]
    #[arg(
        long = "category-column",
        id = "category-column",
        value_name = "COLUMN"
    )]
    pub category: Option<String>,
    /// Column of train, validation or test [default: split]
    #[arg(long = "split-column", id = "split-column", value_name = "COLUMN")]
    pub split: Option<String>,
}

impl Columns {
    fn flags(&self) -> [(&'static str, Option<&str>, &'static str); 5] {
        [
            ("--text-column", self.text.as_deref(), "text"),
            ("--input-column", self.input.as_deref(), "input"),
            ("--id-column", self.id.as_deref(), "id"),
            ("--category-column", self.category.as_deref(), "category"),
            ("--split-column", self.split.as_deref(), "split"),
        ]
    }

    pub(super) fn named(&self, flag: &str) -> Option<&str> {
        self.flags().into_iter().find(|f| f.0 == flag)?.1
    }

    /// The columns to look for in a table, each once.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        let usual = ("", None, "instruction");
        for (flag, name, usual) in self.flags().into_iter().chain([usual]) {
            let column = name.unwrap_or(usual);
            match wanted.iter_mut().find(|w| w.name == column) {
                Some(known) if name.is_some() => (known.flag, known.required) = (flag, true),
                Some(_) => {}
                None => wanted.push(Wanted {
                    name: column.to_string(),
                    flag,
                    required: name.is_some(),
                }),
            }
        }
        wanted
    }

    /// Refuses named columns that occur in no row.
    pub(super) fn all_in(&self, path: &Path, seen: &HashSet<String>, any: bool) -> Result<()> {
        let absent = |f: &(&str, Option<&str>, &str)| f.1.is_some_and(|name| !seen.contains(name));
        match self.flags().into_iter().find(absent) {
            Some((flag, Some(name), _)) if any => {
                let mut there: Vec<&str> = seen.iter().map(String::as_str).collect();
                there.sort_unstable();
                there.truncate(20);
                Err(Error::malformed(
                    path,
                    format!(
                        "has no column `{name}` ({flag}): it has {}",
                        there.join(", ")
                    ),
                ))
            }
            _ => Ok(()),
        }
    }
}
