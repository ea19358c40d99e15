//! Hidden states kept on disk, so that trying another head on them costs no prefill.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{Error, Result};
use crate::persist;

use super::states::{StateReader, StatesOf};

/// Bytes of the hash that names an instruction.
const KEY: usize = 16;
/// Instructions run between two saves.
const SAVE_EVERY: usize = 2048;

/// A file for each model, chat template and choice of states: per instruction a hash of its
/// text, then its states (f32, little endian).
pub struct StatesCache {
    path: PathBuf,
    of: StatesOf,
    width: usize,
    rows: HashMap<[u8; KEY], Vec<f32>>,
}

impl StatesCache {
    /// Opens the file for this reader's model in `dir`, which is made if need be.
    ///
    /// # Errors
    /// A folder that cannot be used, or a file that is not a whole number of rows.
    pub fn open(dir: &Path, reader: &StateReader, of: &StatesOf) -> Result<StatesCache> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let chat = reader.chat();
        let mut what = format!("{}{}{of:?}", chat.sha256(), chat.template_sha256());
        // States of other arithmetic are other states; those in f32 keep their old name.
        let dtype = chat.model().dtype();
        if dtype != "f32" {
            what.push_str(&dtype);
        }
        let name = hex(&Sha256::digest(what)[..8]);
        let path = dir.join(format!("states-{name}.f32"));
        let width = of.vectors() * chat.config().hidden_size;
        let mut rows = HashMap::new();
        if path.exists() {
            let bytes = crate::regular_file::bytes(&path)?;
            let row = KEY + 4 * width;
            if width == 0 || !bytes.len().is_multiple_of(row) {
                let why = "is not a cache of such states: delete it";
                return Err(Error::malformed(&path, why.to_string()));
            }
            for row in bytes.chunks_exact(row) {
                let (key, values) = row.split_at(KEY);
                let key = key.try_into().unwrap_or([0; KEY]);
                let values = values
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                rows.insert(key, values);
            }
        }
        Ok(StatesCache {
            path,
            of: of.clone(),
            width,
            rows,
        })
    }

    /// As [`StateReader::read`]; only what is not in the file is run, and added to it.
    ///
    /// # Errors
    /// As [`StateReader::read`], and a file that cannot be written.
    pub fn read(
        &mut self,
        reader: &StateReader,
        instructions: &[(&str, &str)],
        mut on_progress: impl FnMut(usize),
    ) -> Result<Vec<f32>> {
        let mut seen = HashSet::new();
        let missing: Vec<(&str, &str)> = instructions
            .iter()
            .copied()
            .filter(|(_, text)| !self.rows.contains_key(&key(text)) && seen.insert(*text))
            .collect();
        let known = instructions.len() - missing.len();
        for (place, some) in missing.chunks(SAVE_EVERY).enumerate() {
            let done = known + place * SAVE_EVERY;
            let states = reader.read(some, &self.of, |n| on_progress(done + n))?;
            for ((_, text), row) in some.iter().zip(states.chunks_exact(self.width)) {
                self.rows.insert(key(text), row.to_vec());
            }
            self.save()?;
        }
        on_progress(instructions.len());
        let mut states = Vec::with_capacity(instructions.len() * self.width);
        for (_, text) in instructions {
            states.extend_from_slice(&self.rows[&key(text)]);
        }
        Ok(states)
    }

    fn save(&self) -> Result<()> {
        let mut bytes = Vec::with_capacity(self.rows.len() * (KEY + 4 * self.width));
        let mut keys: Vec<_> = self.rows.keys().collect();
        keys.sort();
        for key in keys {
            bytes.extend_from_slice(key);
            bytes.extend(self.rows[key].iter().flat_map(|x| x.to_le_bytes()));
        }
        persist::write(&self.path, &bytes)
    }
}

fn key(text: &str) -> [u8; KEY] {
    let hash = Sha256::digest(text);
    std::array::from_fn(|i| hash[i])
}
