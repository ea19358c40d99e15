//! What every way of sampling shares: which planned responses are not there yet, and putting
//! all of them together as the finished dataset. Responses stay on the disk; of each its place
//! alone is in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::engine::RunStats;
use crate::error::{Error, Result};
use crate::instruction::Instruction;

use super::appended::{Lines, StoredSample};
use super::plan::{Plan, PlannedSample};
use super::store::{DATASET, Store};
use super::{DatasetWriter, Known, Provenance, Row, Sample};

/// Where a planned sample is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    /// Nowhere: it is to be drawn.
    Missing,
    /// In the finished dataset that the plan asks more of: the number of its row.
    Finished(u32),
    /// Appended since: the place of its line.
    Appended(u64),
}

/// A build whose folder is open.
pub(crate) struct Assembly<'a> {
    pub plan: &'a Plan,
    pub instructions: &'a [Instruction],
    /// All samples, in the order of the finished file.
    planned: Vec<PlannedSample>,
    /// Of each of them.
    places: Vec<Where>,
    /// How many are not missing.
    done: usize,
    /// The rows of a smaller dataset that is there already.
    finished: Vec<Sample>,
    /// Whether the finished dataset is this plan's, row for row.
    complete: bool,
    store: Store,
}

/// What one run drew.
#[derive(Default)]
pub(crate) struct Drawn {
    /// Samples, all of them stored.
    pub samples: usize,
    pub stats: RunStats,
}

impl<'a> Assembly<'a> {
    /// Opens or begins the build of `plan` in `dir`.
    ///
    /// # Errors
    /// As [`Store::open`], and files that hold what the plan does not.
    pub fn open(
        dir: &Path,
        plan: &'a Plan,
        instructions: &'a [Instruction],
        endpoint: Option<&str>,
    ) -> Result<Assembly<'a>> {
        plan.validate()?;
        let (store, finished) = Store::open(dir, plan, instructions, endpoint)?;
        let planned = plan.samples(instructions.len());
        let mut assembly = Assembly {
            plan,
            instructions,
            places: vec![Where::Missing; planned.len()],
            planned,
            done: 0,
            finished,
            complete: false,
            store,
        };
        assembly.find_finished()?;
        assembly.find_appended()?;
        assembly.store.begin()?;
        Ok(assembly)
    }

    /// A sample that was there first keeps its place.
    fn found(&mut self, index: usize, place: Where) {
        if self.places[index] == Where::Missing {
            self.places[index] = place;
            self.done += 1;
        }
    }

    fn index_of(&self, sample: PlannedSample) -> Option<usize> {
        (self.plan.place(sample)).filter(|index| *index < self.planned.len())
    }

    fn find_finished(&mut self) -> Result<()> {
        let numbers: HashMap<&str, usize> = self
            .instructions
            .iter()
            .enumerate()
            .map(|(number, instruction)| (instruction.id.as_str(), number))
            .collect();
        let mut indices = Vec::with_capacity(self.finished.len());
        for row in &self.finished {
            let index = numbers.get(row.instruction_id.as_str()).and_then(|number| {
                self.index_of(PlannedSample {
                    instruction: *number,
                    temperature: row.temperature,
                    sample: row.sample,
                })
            });
            let Some(index) = index else {
                return Err(self.foreign(row));
            };
            let place = self.planned[index];
            let instruction = &self.instructions[place.instruction];
            if self.plan.seed_of(&instruction.id, place) != row.seed
                || instruction.text != row.instruction
            {
                return Err(self.foreign(row));
            }
            if (&instruction.category, instruction.split) != (&row.category, row.split) {
                return Err(Error::Usage(format!(
                    "the category or the split of the instruction `{}` is another than in {}: \
                     give another --out or the instructions as they were",
                    row.instruction_id,
                    self.path().display()
                )));
            }
            indices.push(index);
        }
        self.complete = indices.iter().copied().eq(0..self.planned.len());
        for (row, index) in (0..).zip(indices) {
            self.found(index, Where::Finished(row));
        }
        Ok(())
    }

    /// Looks through what was appended, by this process or one before.
    fn find_appended(&mut self) -> Result<()> {
        let mut found = Vec::new();
        self.store.appended(|place, stored| {
            let index = self.index_of(stored.planned());
            found.push((index.ok_or_else(|| self.unplanned(&stored))?, place));
            Ok(())
        })?;
        for (index, place) in found {
            self.found(index, Where::Appended(place));
        }
        Ok(())
    }

    fn unplanned(&self, stored: &StoredSample) -> Error {
        Error::malformed(
            self.store.dir(),
            format!(
                "holds sample {} of instruction {} at temperature {}, which the plan has not: \
                 give another --out",
                stored.sample, stored.instruction, stored.temperature
            ),
        )
    }

    fn foreign(&self, row: &Sample) -> Error {
        Error::malformed(
            self.path(),
            format!(
                "holds a sample of the instruction `{}` that is not of the manifest's plan: give \
                 another --out",
                row.instruction_id
            ),
        )
    }

    fn path(&self) -> PathBuf {
        self.store.dir().join(DATASET)
    }

    /// Planned samples that are not there yet, in the plan's order.
    pub fn missing(&self) -> Vec<PlannedSample> {
        let all = self.planned.iter().zip(&self.places);
        all.filter(|(_, place)| **place == Where::Missing)
            .map(|(sample, _)| *sample)
            .collect()
    }

    /// Samples that are there.
    pub fn done(&self) -> usize {
        self.done
    }

    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Looks for what was stored in this run, and writes the dataset.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where samples are still missing, or a folder that cannot be
    /// written.
    pub fn finish(mut self) -> Result<PathBuf> {
        self.find_appended()?;
        if self.done < self.planned.len() {
            return Err(Error::Interrupted(format!("stopped with {}", self.kept(0))));
        }
        if self.complete {
            self.store.seal()?;
            self.store.tidy()?;
            return Ok(self.path());
        }
        let provenance = self.provenance();
        let mut lines = None;
        let (plan, instructions, finished) = (self.plan, self.instructions, &self.finished);
        let appended = self.store.samples();
        let fill = |writer: &mut DatasetWriter| {
            for (place, sample) in self.places.iter().zip(&self.planned) {
                match place {
                    Where::Missing => (),
                    Where::Finished(row) => writer.push(&Row::from(&finished[*row as usize]))?,
                    Where::Appended(at) => {
                        let lines = match &mut lines {
                            Some(lines) => lines,
                            None => lines.insert(Lines::open(&appended)?),
                        };
                        let stored = lines.at(*at)?;
                        let instruction = &instructions[sample.instruction];
                        let seed = plan.seed_of(&instruction.id, *sample);
                        writer.push(&row(instruction, seed, &stored))?;
                    }
                }
            }
            Ok(())
        };
        self.store.finish(&provenance, fill)
    }

    fn provenance(&self) -> Provenance {
        let served = self.store.served();
        Provenance {
            model: self.plan.model.clone(),
            model_sha256: self.plan.model_sha256.clone(),
            template_sha256: self.plan.template_sha256.clone(),
            max_new_tokens: self.plan.max_new_tokens,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            git_commit: crate::provenance::git_commit(),
            top_p: Some(self.plan.top_p),
            sampler: Some(self.plan.sampler.name().into()),
            endpoint: served.map(|s| s.address.clone()),
            served_model: served.and_then(|s| s.model.clone()),
            dtype: self.plan.dtype.clone(),
            finish_reasons: Known::Recorded,
            temperatures: Known::Recorded,
        }
    }

    /// How much is there, with `more` that were stored since, and how to go on: the end of a
    /// message.
    pub fn kept(&self, more: usize) -> String {
        format!(
            "{} of {} samples kept in {}: the same command continues",
            self.done + more,
            self.planned.len(),
            self.store.dir().display()
        )
    }
}

fn row<'r>(instruction: &'r Instruction, seed: u64, stored: &'r StoredSample) -> Row<'r> {
    Row {
        instruction_id: &instruction.id,
        instruction: &instruction.text,
        category: instruction.category.as_deref(),
        split: instruction.split,
        sample: stored.sample,
        temperature: stored.temperature,
        seed,
        prompt_tokens: stored.prompt_tokens,
        response_tokens: stored.response_tokens,
        finish_reason: stored.finish_reason,
        response: Some(&stored.response),
        arrival_s: None,
    }
}
