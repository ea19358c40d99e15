//! The arms that are done, kept in the run's folder as they come.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::evaluate::summary::ArmRun;
use crate::report::RunDirectory;

/// The tables are written anew each time: so much longer than that took is between two times.
const PATIENCE: u32 = 10;

/// Finished arms and where they are kept.
pub(super) struct Journal {
    directory: RunDirectory,
    runs: Vec<ArmRun>,
    /// How many of them the folder lists.
    listed: usize,
    written: Instant,
    took: Duration,
}

impl Journal {
    /// Reads what an earlier run left.
    ///
    /// # Errors
    /// A damaged folder.
    pub fn open(directory: RunDirectory) -> Result<Journal> {
        let runs = directory.finished_arms()?;
        Ok(Journal {
            listed: runs.len(),
            directory,
            runs,
            written: Instant::now(),
            took: Duration::ZERO,
        })
    }

    pub fn runs(&self) -> &[ArmRun] {
        &self.runs
    }

    pub fn has(&self, arm: &str, seed: u64) -> bool {
        self.runs.iter().any(|r| r.arm == arm && r.seed == seed)
    }

    /// Adds a finished arm. It is on the disk soon, and a live one, which takes long, at once.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn push(&mut self, run: ArmRun) -> Result<()> {
        self.runs.push(run);
        match self.written.elapsed() >= self.took * PATIENCE {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> Result<()> {
        let begun = Instant::now();
        // The large tables first: an arm that is listed is complete.
        self.directory.write_batches(&self.runs)?;
        self.directory.write_requests(&self.runs)?;
        for run in &self.runs[self.listed..] {
            self.directory.append_arm(run)?;
        }
        self.listed = self.runs.len();
        self.took = begun.elapsed();
        self.written = Instant::now();
        Ok(())
    }

    /// Writes what is not written yet.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn finish(mut self) -> Result<(RunDirectory, Vec<ArmRun>)> {
        if self.listed < self.runs.len() {
            self.write()?;
        }
        Ok((self.directory, self.runs))
    }

    /// Ends after an error: what is done is kept, and a folder without anything taken away.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn close(self) -> Result<()> {
        let (directory, runs) = self.finish()?;
        if runs.is_empty() {
            directory.discard();
        }
        Ok(())
    }

    /// Ends early: the error that says how to go on.
    pub fn interrupted(self, total: usize) -> Error {
        match self.finish() {
            Ok((directory, runs)) => Error::Interrupted(format!(
                "stopped with {} of {total} arms kept in {}: the same command with --resume \
                 continues",
                runs.len(),
                directory.path().display()
            )),
            Err(error) => error,
        }
    }
}
