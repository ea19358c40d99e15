//! Which rows of a table are samples of one instruction. Ids and texts are kept as 128-bit
//! hashes, so that a million instructions take little memory.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::dataset::Split;

/// 128 bits of SipHash under two fixed keys: two of a million strings collide with a chance of
/// one in 10^26.
pub(crate) fn fingerprint(text: &str) -> u128 {
    let half = |key: u8| {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        text.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

struct Seen {
    number: u32,
    text: u128,
    split: Option<Split>,
}

/// The instructions seen so far, and the samples of each.
#[derive(Default)]
pub struct Instructions {
    seen: HashMap<u128, Seen>,
    /// Instructions that have one row each and no id are only counted.
    alone: u32,
    counts: HashMap<(u32, u32), u32>,
    indices: HashSet<(u32, u32, u32)>,
}

/// What names a row's instruction.
pub struct Named<'a> {
    pub id: Option<&'a str>,
    pub text: Option<&'a str>,
    pub split: Option<Split>,
}

impl Instructions {
    pub fn len(&self) -> usize {
        self.seen.len() + self.alone as usize
    }

    /// The number, from 0, of the row's instruction: the one of its id; without an id that of
    /// its text; without either a new one.
    ///
    /// # Errors
    /// An id whose text or split differs from an earlier row's.
    pub fn number(&mut self, row: &Named<'_>) -> Result<u32, String> {
        let fresh = self.len() as u32;
        let text = row.text.map_or(0, fingerprint);
        let key = match (row.id, row.text) {
            (Some(id), _) => fingerprint(id),
            (None, Some(_)) => text,
            (None, None) => {
                self.alone += 1;
                return Ok(fresh);
            }
        };
        let seen = self.seen.entry(key).or_insert(Seen {
            number: fresh,
            text,
            split: row.split,
        });
        let called = || match row.id {
            Some(id) => format!("the id `{id}`"),
            None => "this instruction".into(),
        };
        if seen.text != text {
            return Err(format!(
                "{} occurred with another text before: ids must name one instruction each",
                called()
            ));
        }
        if seen.split != row.split {
            return Err(format!("{} occurred in another split before", called()));
        }
        Ok(seen.number)
    }

    /// The index of the row's sample among those of its instruction and temperature: `given`,
    /// or the next one.
    ///
    /// # Errors
    /// A given index that occurred before.
    pub fn sample(
        &mut self,
        number: u32,
        temperature: f32,
        given: Option<u32>,
    ) -> Result<u32, String> {
        let temperature = temperature.to_bits();
        match given {
            Some(sample) if self.indices.insert((number, temperature, sample)) => Ok(sample),
            Some(sample) => Err(format!(
                "sample {sample} of its instruction and temperature occurred before: is a row \
                 doubled, or the temperature's column not named?"
            )),
            None => {
                let count = self.counts.entry((number, temperature)).or_default();
                *count += 1;
                Ok(*count - 1)
            }
        }
    }
}
