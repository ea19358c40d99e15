//! Instructions in JSON: the keys that are columns, and FastChat's conversations.

use std::cell::RefCell;
use std::collections::HashSet;

use serde::de::{IgnoredAny, MapAccess, SeqAccess};

use super::Fields;
use super::columns::Columns;
use crate::error::Result;
use crate::table::Wanted;
use crate::table::json::{Of, Pick, Said, Saying};

/// Keys that are remembered, to be named in a message, and their length at most.
const KEYS: usize = 100;
const KEY: usize = 200;

/// Picks an entry: the wanted columns, and the first human turn.
#[derive(Clone, Copy)]
pub(super) struct Entry<'w> {
    pub wanted: &'w [Wanted],
    /// Keys of all entries so far.
    pub seen: &'w RefCell<HashSet<String>>,
}

/// What an entry has.
pub(super) struct Picked {
    said: Vec<Said>,
    turn: Option<String>,
}

impl<'de> Pick<'de> for Entry<'_> {
    /// None where it is no object.
    type Picked = Option<Picked>;

    fn nothing(self) -> Option<Picked> {
        None
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<Picked>, A::Error> {
        let mut picked = Picked {
            said: vec![Said::Null; self.wanted.len()],
            turn: None,
        };
        while let Some(key) = object.next_key::<String>()? {
            let at = self.wanted.iter().position(|w| w.name == key);
            if key == "conversations" {
                picked.turn = object.next_value_seed(Of(Turns))?;
            } else if let Some(at) = at {
                picked.said[at] = object.next_value_seed(Of(Saying))?;
            } else {
                object.next_value::<IgnoredAny>()?;
            }
            let mut seen = self.seen.borrow_mut();
            let room = seen.len() < KEYS && key.len() <= KEY;
            if (room || at.is_some()) && !seen.contains(&key) {
                seen.insert(key);
            }
        }
        Ok(Some(picked))
    }
}

impl Picked {
    /// By what each column is.
    pub fn fields(mut self, columns: &Columns, wanted: &[Wanted]) -> Result<Fields, String> {
        let take = |named: &Option<String>, usual: &str| {
            let name = named.as_deref().unwrap_or(usual);
            match wanted.iter().position(|w| w.name == name) {
                Some(at) => match &self.said[at] {
                    Said::Null => Ok(None),
                    // One column may be named for several purposes.
                    Said::Text(text) => Ok(Some(text.clone())),
                    Said::Number(number) => Ok(Some(number.to_string())),
                    Said::Other => Err(format!("`{name}` is no text")),
                },
                None => Ok(None),
            }
        };
        Ok(Fields {
            id: take(&columns.id, "id")?,
            category: take(&columns.category, "category")?,
            split: take(&columns.split, "split")?,
            input: take(&columns.input, "input")?,
            text: take(&columns.text, "text")?,
            instruction: match columns.text {
                Some(_) => None,
                None => take(&None, "instruction")?,
            },
            turn: self.turn.take(),
        })
    }
}

/// Picks the first human turn of FastChat's and ShareGPT's conversations: `from` and `value` a
/// turn.
struct Turns;

impl<'de> Pick<'de> for Turns {
    type Picked = Option<String>;

    fn nothing(self) -> Option<String> {
        None
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<String>, A::Error> {
        let mut first = None;
        while first.is_none() {
            match list.next_element_seed(Of(Turn))? {
                Some(turn) => first = turn,
                None => return Ok(None),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

/// Picks the text of a turn that is a human's.
struct Turn;

impl<'de> Pick<'de> for Turn {
    type Picked = Option<String>;

    fn nothing(self) -> Option<String> {
        None
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<String>, A::Error> {
        let (mut from, mut value) = (Said::Null, Said::Null);
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "from" => from = object.next_value_seed(Of(Saying))?,
                "value" => value = object.next_value_seed(Of(Saying))?,
                _ => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        Ok(match (from, value) {
            (Said::Text(from), Said::Text(value)) if ["human", "user"].contains(&from.as_str()) => {
                Some(value)
            }
            _ => None,
        })
    }
}
