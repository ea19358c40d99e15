//! What every way of sampling shares: which planned responses are not there yet, and putting
//! all of them together as the finished dataset.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::engine::RunStats;
use crate::error::{Error, Result};
use crate::instruction::Instruction;

use super::plan::{Key, Plan, PlannedSample};
use super::store::{DATASET, Existing, Store, StoredSample};
use super::{Known, LengthDataset, Provenance, Sample};

/// A build whose folder is open.
pub(crate) struct Assembly<'a> {
    pub plan: &'a Plan,
    pub instructions: &'a [Instruction],
    /// All samples, in the order of the finished file.
    planned: Vec<PlannedSample>,
    done: HashMap<Key, Sample>,
    /// Whether the finished dataset is this plan's, row for row.
    complete: bool,
    store: Store,
}

/// What one run drew.
#[derive(Default)]
pub(crate) struct Drawn {
    pub samples: Vec<StoredSample>,
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
        let (store, existing) = Store::open(dir, plan, instructions, endpoint)?;
        let planned = plan.samples(instructions.len());
        let mut assembly = Assembly {
            plan,
            instructions,
            planned,
            done: HashMap::new(),
            complete: false,
            store,
        };
        assembly.take(existing)?;
        assembly.store.begin()?;
        Ok(assembly)
    }

    fn take(&mut self, existing: Existing) -> Result<()> {
        let places: HashMap<Key, PlannedSample> =
            self.planned.iter().map(|s| (s.key(), *s)).collect();
        let numbers: HashMap<&str, usize> = self
            .instructions
            .iter()
            .enumerate()
            .map(|(number, instruction)| (instruction.id.as_str(), number))
            .collect();
        let mut order = Vec::new();
        for row in existing.finished {
            let number = numbers.get(row.instruction_id.as_str());
            let place =
                number.and_then(|n| places.get(&(*n, row.temperature.to_bits(), row.sample)));
            let Some(place) = place else {
                return Err(self.foreign(&row));
            };
            let instruction = &self.instructions[place.instruction];
            if self.plan.seed_of(&instruction.id, *place) != row.seed
                || instruction.text != row.instruction
            {
                return Err(self.foreign(&row));
            }
            if (&instruction.category, instruction.split) != (&row.category, row.split) {
                return Err(Error::Usage(format!(
                    "the category or the split of the instruction `{}` is another than in {}: \
                     give another --out or the instructions as they were",
                    row.instruction_id,
                    self.path().display()
                )));
            }
            order.push(place.key());
            self.done.insert(place.key(), row);
        }
        self.complete = order.into_iter().eq(self.planned.iter().map(|s| s.key()));
        for stored in existing.appended {
            if !places.contains_key(&stored.place().key()) {
                return Err(Error::malformed(
                    self.store.dir(),
                    format!(
                        "holds sample {} of instruction {} at temperature {}, which the plan has \
                         not: give another --out",
                        stored.sample, stored.instruction, stored.temperature
                    ),
                ));
            }
            self.add(stored);
        }
        Ok(())
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

    /// A sample drawn later never takes the place of one that is there.
    fn add(&mut self, stored: StoredSample) {
        let place = stored.place();
        let instruction = &self.instructions[place.instruction];
        let seed = self.plan.seed_of(&instruction.id, place);
        self.done.entry(place.key()).or_insert_with(|| Sample {
            instruction_id: instruction.id.clone(),
            instruction: instruction.text.clone(),
            category: instruction.category.clone(),
            split: instruction.split,
            sample: place.sample,
            temperature: place.temperature,
            seed,
            prompt_tokens: stored.prompt_tokens,
            response_tokens: stored.response_tokens,
            finish_reason: stored.finish_reason,
            response: Some(stored.response),
            arrival_s: None,
        });
    }

    /// Planned samples that are not there yet, in the plan's order.
    pub fn missing(&self) -> Vec<PlannedSample> {
        let lacks = |s: &&PlannedSample| !self.done.contains_key(&s.key());
        self.planned.iter().filter(lacks).copied().collect()
    }

    /// Samples that are there.
    pub fn done(&self) -> usize {
        self.done.len()
    }

    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Adds what was drawn (and stored) in this run, and writes the dataset.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where samples are still missing, or a folder that cannot be
    /// written.
    pub fn finish(mut self, drawn: Vec<StoredSample>) -> Result<PathBuf> {
        for stored in drawn {
            self.add(stored);
        }
        if self.done.len() < self.planned.len() {
            return Err(Error::Interrupted(format!("stopped with {}", self.kept(0))));
        }
        if self.complete {
            self.store.seal()?;
            self.store.tidy()?;
            return Ok(self.path());
        }
        let samples = self
            .planned
            .iter()
            .filter_map(|s| self.done.remove(&s.key()));
        let served = self.store.served();
        let dataset = LengthDataset {
            samples: samples.collect(),
            provenance: Provenance {
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
            },
        };
        self.store.finish(&dataset)
    }

    /// How much is there, with `more` that were stored since, and how to go on: the end of a
    /// message.
    pub fn kept(&self, more: usize) -> String {
        format!(
            "{} of {} samples kept in {}: the same command continues",
            self.done.len() + more,
            self.planned.len(),
            self.store.dir().display()
        )
    }
}
