//! `ablate --list`: the experiment files of a folder, what each is, and whether it can be run here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{ExecutorKind, Experiment};
use crate::dataset::embedded::EMBEDDED;
use crate::engine::Place;
use crate::error::{Error, Result};
use crate::execute::StepTimeModel;
use crate::model::resolve;
use crate::predictor::{decision, stored};
use crate::report::tables::text_table;

use super::super::Global;

/// Words that put a question to the model.
const ASKED: [&str; 2] = ["perception-only", "pia"];

/// An experiment file, or what is wrong with it.
#[derive(Debug, PartialEq, Serialize)]
struct Entry {
    path: PathBuf,
    /// The first sentence of the file.
    description: String,
    #[serde(flatten)]
    plan: Option<Plan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Plan {
    kind: ExecutorKind,
    /// Whether requests arrive over time.
    over_time: bool,
    arms: usize,
    seeds: usize,
    /// What must be had before it can be run, in words; empty where all is there.
    missing: Vec<String>,
}

/// Prints the experiment files of `folder`.
pub(super) fn list(global: &Global, folder: &Path) -> Result<()> {
    let entries = entries(folder)?;
    if global.json {
        let text = serde_json::to_string(&entries).map_err(|e| Error::Numeric(e.to_string()))?;
        println!("{text}");
        return Ok(());
    }
    let headers = ["file", "kind", "arms x seeds", "needs", "what it asks"].map(String::from);
    let rows: Vec<Vec<String>> = entries.iter().map(Entry::row).collect();
    println!("{}", text_table(&headers, &rows));
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let listed = std::fs::read_dir(folder).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Error::Usage(format!(
            "{}: there is no such folder of experiment files: give one, --list DIR",
            folder.display()
        )),
        _ => Error::io(folder, e),
    })?;
    let mut paths: Vec<PathBuf> = listed
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml") && path.is_file())
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(Error::Usage(format!(
            "{} has no experiment files (*.toml): give another folder, --list DIR",
            folder.display()
        )));
    }
    Ok(paths.into_iter().map(Entry::of).collect())
}

impl Entry {
    fn of(path: PathBuf) -> Entry {
        let read = crate::regular_file::text_up_to(&path, crate::regular_file::SETTINGS);
        let (description, parsed) = match read {
            Ok(text) => (first_sentence(&text), Experiment::parse(&text, &path)),
            Err(error) => (String::new(), Err(error)),
        };
        let (plan, error) = match parsed {
            Ok(experiment) => (Some(Plan::of(&experiment)), None),
            Err(error) => (None, Some(super::super::one_line(&error))),
        };
        Entry {
            path,
            description,
            plan,
            error,
        }
    }

    fn row(&self) -> Vec<String> {
        let path = self.path.display().to_string();
        match (&self.plan, &self.error) {
            (Some(plan), _) => vec![
                path,
                plan.kind_in_words(),
                format!("{} x {}", plan.arms, plan.seeds),
                match plan.missing.as_slice() {
                    [] => "all there".into(),
                    [one] => format!("missing: {one}"),
                    [first, others @ ..] => format!("missing: {first}, {} more", others.len()),
                },
                self.description.clone(),
            ],
            (None, error) => {
                let mistake = error.clone().unwrap_or_default();
                vec![path, "mistake".into(), "-".into(), "-".into(), mistake]
            }
        }
    }
}

impl Plan {
    fn of(experiment: &Experiment) -> Plan {
        Plan {
            kind: experiment.executor.kind,
            over_time: experiment.workload.arrivals.is_some(),
            arms: experiment.arms.len(),
            seeds: experiment.seeds.len(),
            missing: missing(experiment),
        }
    }

    fn kind_in_words(&self) -> String {
        let kind = match self.kind {
            ExecutorKind::Replay => "replay",
            ExecutorKind::Live => "live",
            ExecutorKind::LiveForced => "live, forced",
        };
        match self.over_time {
            true => format!("{kind}, over time"),
            false => kind.into(),
        }
    }
}

/// What an experiment reads or runs that is not here. Nothing is loaded to find out.
fn missing(experiment: &Experiment) -> Vec<String> {
    let (workload, executor) = (&experiment.workload, &experiment.executor);
    // In order, each once.
    let mut missing = BTreeSet::new();
    if workload.dataset != EMBEDDED && !Path::new(&workload.dataset).exists() {
        missing.insert(workload.dataset.clone());
    }
    if StepTimeModel::load(&executor.step_time).is_err() {
        missing.insert(executor.step_time.clone());
    }
    if let Some(device) = executor
        .device
        .as_deref()
        .filter(|d| Place::parse(d).is_err())
    {
        missing.insert(format!("the device {device}"));
    }
    let mut asks_model = executor.kind != ExecutorKind::Replay && executor.random_weights.is_none();
    for arm in &experiment.arms {
        let spec = arm.predictor.as_str();
        if let Some(file) = spec.strip_prefix("file:") {
            if !Path::new(file).exists() {
                missing.insert(file.into());
            }
        } else if spec.contains('/') {
            let folder = decision::split(spec).map_or(spec, |(folder, _)| folder);
            match stored::Description::read(Path::new(folder)) {
                // A sentence encoder is no model of the experiment's.
                Ok(Some(description)) if description.kind == stored::Kind::Encoder => {}
                Ok(Some(description)) => asks_model |= !description.model.is_empty(),
                // A PEFT folder of another tool's.
                Ok(None) if Path::new(folder).join("adapter_config.json").exists() => {
                    asks_model = true;
                }
                Ok(None) | Err(_) => {
                    missing.insert(folder.into());
                }
            }
        } else {
            asks_model |= ASKED.contains(&spec);
        }
    }
    // Offline: a look, not a download.
    if asks_model && resolve(&executor.model, false, true).is_err() {
        missing.insert(format!("the model {}", executor.model));
    }
    missing.into_iter().collect()
}

/// The first sentence of the comment that a file begins with, on one line.
fn first_sentence(text: &str) -> String {
    let paragraph: Vec<&str> = text
        .lines()
        .skip_while(|line| line.trim().is_empty())
        .map_while(|line| line.trim().strip_prefix('#').map(str::trim))
        .take_while(|line| !line.is_empty())
        .collect();
    let paragraph = paragraph.join(" ");
    let end = paragraph
        .match_indices(['.', '?', '!'])
        .map(|(at, mark)| at + mark.len())
        .find(|end| {
            // `e.g. this` and `Table 4.` of a number go on.
            let rest = &paragraph[*end..];
            rest.is_empty()
                || rest
                    .strip_prefix(' ')
                    .and_then(|rest| rest.chars().next())
                    .is_some_and(|next| !next.is_lowercase())
        });
    paragraph[..end.unwrap_or(paragraph.len())].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sentence_ends_where_it_does() {
        let cases = [
            (
                "# One, two\n# three. Four.\n#\n#   lenaware x\n",
                "One, two three.",
            ),
            ("# Where is a.toml read? Here.\n", "Where is a.toml read?"),
            (
                "# Lengths, e.g. of chats, by 1.5. `Simulated`.\n",
                "Lengths, e.g. of chats, by 1.5.",
            ),
            ("\n# No end\n\n# Other", "No end"),
            ("[experiment]\n# late\n", ""),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(first_sentence(text), expected, "{text}");
        }
    }

    #[test]
    fn shipped_experiments_say_what_they_are_and_parse() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
        for entry in entries(&folder).unwrap() {
            assert_eq!(entry.error, None, "{}", entry.path.display());
            let words = entry.description.split_whitespace().count();
            assert!((4..=40).contains(&words), "{entry:?}");
            assert!(entry.description.ends_with(['.', '?']), "{entry:?}");
        }
    }
}
