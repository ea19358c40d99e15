//! A run's folder, `results/<experiment>/<UTC time>/`: written as the run goes, read back to
//! redraw or to resume.
//!
//! Every file appears whole or not at all, except `arms.jsonl`, to which finished arms are
//! appended; a line torn by a crash is dropped when the folder is opened again.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::evaluate::summary::{ArmRun, BatchRecord, RequestRecord, Summary};

use super::{records, run_order, tables};
use crate::persist::{self, Lock};
use crate::regular_file;

/// The folder of one run.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
    /// No other process writes it meanwhile.
    lock: Option<Arc<Lock>>,
}

impl RunDirectory {
    /// Makes `root/<experiment>/<UTC time>/`. Never an existing folder: a second run within
    /// the same second gets `-2` after the time, and so does one that is begun while the clock
    /// is behind the latest run's.
    pub fn create(root: &Path, experiment: &str) -> Result<RunDirectory> {
        let parent = root.join(folder_name(experiment));
        std::fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, e))?;
        // No colons: some file systems refuse them.
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H-%M-%SZ")
            .to_string();
        let entries = std::fs::read_dir(&parent).map_err(|e| Error::io(&parent, e))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        let (time, mut number) = run_order::next(&now, names.iter().map(String::as_str));
        loop {
            let path = parent.join(match number {
                1 => time.clone(),
                number => format!("{time}-{number}"),
            });
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    let lock = Some(Arc::new(Lock::take(&path)?));
                    return Ok(RunDirectory { path, lock });
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io(&path, e)),
            }
        }
    }

    /// Opens the folder of an earlier run, to go on with it.
    pub fn open(path: &Path) -> Result<RunDirectory> {
        let missing = !path.join("config.toml").is_file();
        if missing {
            return Err(Error::malformed(
                path,
                "not a run's folder: there is no config.toml in it",
            ));
        }
        let directory = RunDirectory {
            path: path.to_path_buf(),
            lock: Some(Arc::new(Lock::take(path)?)),
        };
        directory.drop_torn_line()?;
        Ok(directory)
    }

    /// The latest run of `experiment` under `root`, if there is one.
    pub fn latest(root: &Path, experiment: &str) -> Result<Option<RunDirectory>> {
        let parent = root.join(folder_name(experiment));
        let entries = match std::fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&parent, e)),
        };
        let latest = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("config.toml").is_file())
            .max_by_key(|path| run_order::of(path));
        latest.map(|path| RunDirectory::open(&path)).transpose()
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the folder of a run that failed before its first arm away again. A folder that
    /// holds anything but its configuration and environment stays.
    pub fn discard(mut self) {
        self.lock = None;
        let begun = ["config.toml", "environment.json"];
        let is_begun = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|e| begun.iter().any(|name| e.file_name() == *name))
        };
        if !std::fs::read_dir(&self.path).is_ok_and(|mut entries| entries.all(is_begun)) {
            return;
        }
        for name in begun {
            let _ = std::fs::remove_file(self.path.join(name));
        }
        let _ = std::fs::remove_dir(&self.path);
        // The experiment's folder too, if this was its only run.
        let _ = self.path.parent().map(std::fs::remove_dir);
    }

    /// Where a figure goes, without its ending.
    pub fn figure(&self, name: &str) -> PathBuf {
        self.path.join("figures").join(name)
    }

    /// Writes `config.toml`, the configuration as resolved.
    pub fn write_config(&self, config: &str) -> Result<()> {
        persist::write(&self.path.join("config.toml"), config.as_bytes())
    }

    /// Writes `environment.json`.
    pub fn write_environment(&self, environment: &Value) -> Result<()> {
        persist::write(&self.path.join("environment.json"), &pretty(environment)?)
    }

    /// Appends a finished arm to `arms.jsonl` and waits until it is on the disk. Its batches
    /// and requests belong into the Parquet files; write those first, so that an arm that is
    /// listed is complete.
    pub fn append_arm(&self, run: &ArmRun) -> Result<()> {
        self.append_line(run)
    }

    /// Appends a line to `arms.jsonl` and waits until it is on the disk.
    pub(super) fn append_line(&self, run: &impl serde::Serialize) -> Result<()> {
        let path = self.path.join("arms.jsonl");
        let mut line = serde_json::to_vec(run).map_err(json_error)?;
        line.push(b'\n');
        let file = OpenOptions::new().create(true).append(true).open(&path);
        // One write, so that a crash leaves at most one torn line.
        file.and_then(|mut file| file.write_all(&line).and_then(|()| file.sync_all()))
            .map_err(|e| Error::io(&path, e))
    }

    /// Writes `batches.parquet` with the micro-batches of all `runs`.
    pub fn write_batches(&self, runs: &[ArmRun]) -> Result<()> {
        records::write_batches(&self.path.join("batches.parquet"), runs)
    }

    /// Writes `requests.parquet` with the requests of all `runs`.
    pub fn write_requests(&self, runs: &[ArmRun]) -> Result<()> {
        records::write_requests(&self.path.join("requests.parquet"), runs)
    }

    /// Writes `summary.json`, `summary.csv` and `summary.md`.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        persist::write(&self.path.join("summary.json"), &pretty(summary)?)?;
        let csv = tables::arms_csv(summary)?;
        persist::write(&self.path.join("summary.csv"), csv.as_bytes())?;
        let markdown = tables::arms_markdown(summary);
        persist::write(&self.path.join("summary.md"), markdown.as_bytes())
    }

    /// The arms that `arms.jsonl` lists, with their batches and requests as far as the
    /// Parquet files have them. Empty where no arm has finished.
    pub fn finished_arms(&self) -> Result<Vec<ArmRun>> {
        read_arms(&self.path)
    }

    fn drop_torn_line(&self) -> Result<()> {
        let path = self.path.join("arms.jsonl");
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(&path, e)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| Error::io(&path, e))?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64)
                .and_then(|()| file.seek(SeekFrom::End(0)))
                .and_then(|_| file.sync_all())
                .map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }
}

/// An experiment's name as a folder's: letters that mean something to a file system are
/// replaced, so that a name cannot lead out of the results.
fn folder_name(experiment: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let name: String = experiment
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    match name.trim_matches('.') {
        "" => "experiment".into(),
        name => name.to_string(),
    }
}

/// Everything a run's folder holds in data.
#[derive(Debug, Clone)]
pub struct RunData {
    /// `summary.json`.
    pub summary: Summary,
    /// `config.toml` as it stands; empty where there is none.
    pub config: String,
    /// `environment.json`; null where there is none.
    pub environment: Value,
    /// The runs that `arms.jsonl` lists, with the batches and requests of the Parquet files.
    pub runs: Vec<ArmRun>,
}

/// Reads a run's folder. Only `summary.json` must be there; what else is missing is empty.
pub fn read_run(path: &Path) -> Result<RunData> {
    let summary_path = path.join("summary.json");
    let bytes = regular_file::bytes_up_to(&summary_path, regular_file::LISTS)?;
    let summary = serde_json::from_slice(&bytes)
        .map_err(|e| Error::malformed(&summary_path, format!("{e}: run the experiment again")))?;
    let config = read_optional(&path.join("config.toml"))?.unwrap_or_default();
    let environment_path = path.join("environment.json");
    let environment = match environment_path.exists() {
        true => regular_file::any_json(&environment_path, "run the experiment again")?,
        false => Value::Null,
    };
    Ok(RunData {
        summary,
        config,
        environment,
        runs: read_arms(path)?,
    })
}

fn read_arms(folder: &Path) -> Result<Vec<ArmRun>> {
    let mut runs: Vec<ArmRun> = Vec::new();
    let path = folder.join("arms.jsonl");
    let text = read_optional(&path)?.unwrap_or_default();
    // A last line without an end was torn by a crash: that arm has not finished.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for (number, line) in whole.lines().enumerate() {
        let run: ArmRun = serde_json::from_str(line)
            .map_err(|e| Error::malformed(&path, format!("line {}: {e}", number + 1)))?;
        // An arm that ran twice (a crash between two files) counts once, as it ran last.
        runs.retain(|r| (&r.arm, r.seed) != (&run.arm, run.seed));
        runs.push(run);
    }
    attach(
        &mut runs,
        folder,
        "batches.parquet",
        records::read_batches,
        |run, row: BatchRecord| {
            run.batches.push(row);
        },
    )?;
    attach(
        &mut runs,
        folder,
        "requests.parquet",
        records::read_requests,
        |run, row: RequestRecord| {
            run.requests.push(row);
        },
    )?;
    Ok(runs)
}

/// Gives each row of a Parquet file to its run. Rows of arms that `arms.jsonl` does not list
/// did not finish and are left out.
fn attach<T>(
    runs: &mut [ArmRun],
    folder: &Path,
    name: &str,
    read: fn(&Path) -> Result<Vec<records::Of<T>>>,
    give: fn(&mut ArmRun, T),
) -> Result<()> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(());
    }
    let mut last = 0;
    for ((arm, seed), row) in read(&path)? {
        let is = |run: &ArmRun| run.arm == arm && run.seed == seed;
        if !runs.get(last).is_some_and(is) {
            let Some(place) = runs.iter().position(is) else {
                continue;
            };
            last = place;
        }
        give(&mut runs[last], row);
    }
    Ok(())
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    regular_file::text_if_there(path, u64::MAX)
}

pub(super) fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(json_error)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn json_error(error: serde_json::Error) -> Error {
    Error::Numeric(format!("JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn a_run_written_is_the_run_read() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(root.path(), "table5").unwrap();
        let runs = [
            samples::run("vanilla", 42, false),
            samples::run("ours", u64::MAX, true),
        ];
        let environment = crate::provenance::environment();
        directory
            .write_config("[experiment]\nname = \"table5\"\n")
            .unwrap();
        directory.write_environment(&environment).unwrap();
        directory.write_batches(&runs).unwrap();
        directory.write_requests(&runs).unwrap();
        for run in &runs {
            directory.append_arm(run).unwrap();
        }
        directory.write_summary(&samples::summary(true)).unwrap();

        let data = read_run(directory.path()).unwrap();
        assert!(data.runs == runs);
        // Through JSON both, which is not read back to the last bit.
        let text = serde_json::to_string(&samples::summary(true)).unwrap();
        let expected: Summary = serde_json::from_str(&text).unwrap();
        assert_eq!(data.summary, expected);
        assert_eq!(data.environment, environment);
        assert!(data.config.contains("table5"));
        let held = RunDirectory::open(directory.path()).unwrap_err();
        assert!(held.to_string().contains("being written by process"));
        let path = directory.path().to_path_buf();
        drop(directory);
        let opened = RunDirectory::open(&path).unwrap();
        assert!(opened.finished_arms().unwrap() == runs);
        for name in [
            "summary.csv",
            "summary.md",
            "batches.parquet",
            "requests.parquet",
        ] {
            assert!(path.join(name).metadata().unwrap().len() > 0);
        }
    }

    #[test]
    fn runs_never_share_a_folder_nor_leave_the_root() {
        let root = tempfile::tempdir().unwrap();
        let names: std::collections::HashSet<_> = (0..3)
            .map(|_| RunDirectory::create(root.path(), "../../x").unwrap().path)
            .collect();
        assert_eq!(names.len(), 3);
        assert!(names.iter().all(|p| p.starts_with(root.path())));
        assert_eq!(folder_name(".."), "experiment");
        assert_eq!(folder_name("a/b c"), "a-b-c");
    }

    #[test]
    fn a_torn_line_is_an_unfinished_arm() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(root.path(), "x").unwrap();
        directory.write_config("").unwrap();
        let run = samples::run("vanilla", 42, false);
        directory.append_arm(&run).unwrap();
        let path = directory.path().join("arms.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"arm\": \"ou").unwrap();
        drop(file);
        assert_eq!(directory.finished_arms().unwrap().len(), 1);

        let path = directory.path().to_path_buf();
        drop(directory);
        let again = RunDirectory::open(&path).unwrap();
        again.append_arm(&samples::run("ours", 42, true)).unwrap();
        let arms: Vec<String> = again
            .finished_arms()
            .unwrap()
            .into_iter()
            .map(|r| r.arm)
            .collect();
        assert_eq!(arms, ["vanilla", "ours"]);
    }

    #[test]
    fn what_is_not_a_run_is_said_to_be_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(RunDirectory::open(root.path()).is_err());
        let message = read_run(root.path()).unwrap_err().to_string();
        assert!(message.contains("summary.json"), "{message}");
    }
}
