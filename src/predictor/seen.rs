//! Which instructions a predictor was trained on, so that nobody takes what it remembers for
//! what it foresees: `trained_on.txt` in its folder, a fingerprint a line.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::decision;
use super::training::TrainingData;
use crate::dataset::Instance;
use crate::error::{Error, Result};
use crate::persist;

const FILE: &str = "trained_on.txt";

/// Fingerprints of instructions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen(BTreeSet<u64>);

/// The same for the same words, whatever dataset, id and order they come in.
pub(super) fn fingerprint(instruction: &str) -> u64 {
    let digest = Sha256::digest(instruction.trim().as_bytes());
    digest[..8]
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

impl Seen {
    /// What was trained or chosen on.
    pub fn in_training(data: &TrainingData<'_>) -> Seen {
        let all = data.train.iter().chain(&data.validation);
        Seen(all.map(|i| fingerprint(i.instruction)).collect())
    }

    /// These and others.
    pub fn and(mut self, others: Seen) -> Seen {
        self.0.extend(others.0);
        self
    }

    /// Writes it into a predictor's folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let lines: String = self
            .0
            .iter()
            .map(|print| format!("{print:016x}\n"))
            .collect();
        persist::write(&folder.join(FILE), lines.as_bytes())
    }

    /// What the predictor of that name was trained on: nothing, where it is a bare word, made
    /// elsewhere, or trained by an earlier version, which did not say.
    ///
    /// # Errors
    /// A damaged file.
    pub fn by(predictor: &str) -> Result<Seen> {
        match super::is_folder(predictor) {
            true => Seen::read(Path::new(decision::split(predictor)?.0)),
            false => Ok(Seen::default()),
        }
    }

    /// What the folder of a predictor says; nothing, where it is of an earlier version.
    ///
    /// # Errors
    /// A damaged file.
    pub fn read(folder: &Path) -> Result<Seen> {
        let path = folder.join(FILE);
        let text = crate::regular_file::text_if_there(&path, u64::MAX)?.unwrap_or_default();
        let prints = text.lines().enumerate().map(|(at, line)| {
            u64::from_str_radix(line, 16).map_err(|e| {
                let line = format!("line {}: {e}: train again", at + 1);
                Error::malformed(&path, line)
            })
        });
        Ok(Seen(prints.collect::<Result<_>>()?))
    }

    /// Whether nothing is known to have been trained on.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the file away again, where the training that it was written for came to nothing.
    pub fn forget(folder: &Path) {
        let _ = std::fs::remove_file(folder.join(FILE));
        // Only where nothing else is in it.
        let _ = std::fs::remove_dir(folder);
    }

    /// Whether it was trained on this one.
    pub fn has(&self, instance: &Instance<'_>) -> bool {
        // What has no words cannot be told apart.
        !instance.instruction.is_empty() && self.0.contains(&fingerprint(instance.instruction))
    }

    /// Keeps what it was not trained on, and says how many were left out; all stay where it knows
    /// every one.
    pub fn keep_unseen(&self, instances: &mut Vec<Instance<'_>>) -> usize {
        let known = instances.iter().filter(|i| self.has(i)).count();
        if known == instances.len() {
            return 0;
        }
        instances.retain(|i| !self.has(i));
        known
    }

    /// What must be said where a predictor is asked about what it was trained on; nothing where
    /// it is not.
    pub fn warning(&self, name: &str, instances: &[Instance<'_>]) -> Option<String> {
        // An instruction counts once, however many of its answers are served.
        let ids: BTreeSet<&str> = instances.iter().map(|i| i.instruction_id).collect();
        let known: BTreeSet<&str> = (instances.iter())
            .filter(|i| self.has(i))
            .map(|i| i.instruction_id)
            .collect();
        let known = known.len();
        (known > 0).then(|| {
            format!(
                "{name} was trained on {known} of these {} instructions: of those it says what it \
                 remembers, not what it foresees",
                ids.len()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_what_it_was_trained_on() {
        let root = tempfile::tempdir().unwrap();
        let instance = |text: &'static str| Instance {
            instruction_id: text,
            instruction: text,
            category: None,
            split: None,
            samples: Vec::new(),
        };
        let seen = Seen([fingerprint("one"), fingerprint("two")].into());
        seen.write(root.path()).unwrap();
        let spec = root.path().display().to_string();
        assert_eq!(Seen::by(&spec).unwrap(), seen);
        assert_eq!(Seen::by(&format!("{spec}@q0.9")).unwrap(), seen);
        for unknown in ["constant", "file:/x/y.jsonl", "./nowhere"] {
            assert_eq!(Seen::by(unknown).unwrap(), Seen::default());
        }
        let asked = [instance(" one\n"), instance("three"), instance("")];
        let said = seen.warning("ridge", &asked).unwrap();
        assert!(said.contains("1 of these 3"), "{said}");
        assert_eq!(seen.warning("ridge", &asked[1..]), None);
        std::fs::write(root.path().join(FILE), "zzz\n").unwrap();
        assert!(Seen::by(&spec).is_err());
    }
}
