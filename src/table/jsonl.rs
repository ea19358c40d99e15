//! JSON lines: an object a line, of which only the wanted keys are kept; empty lines and a byte
//! order mark are passed over.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::json::{self, Pick};
use super::{Cell, Each, Place, Wanted};
use crate::error::{Error, Result};
use crate::regular_file::Lines;

pub(super) fn read(path: &Path, wanted: &[Wanted], each: &mut Each<'_>) -> Result<()> {
    let mut lines = Lines::open(path)?;
    let mut seen = vec![false; wanted.len()];
    let mut first_keys: Option<Vec<String>> = None;
    while let Some((number, text)) = lines.following()? {
        let place = Place::Line(number);
        let mut parser = serde_json::Deserializer::from_str(text);
        let cells = Row(wanted)
            .deserialize(&mut parser)
            .and_then(|cells| parser.end().map(|()| cells))
            .map_err(|e| place.wrong(path, format!("is not a JSON row: {e}")))?;
        for (seen, cell) in seen.iter_mut().zip(&cells) {
            *seen |= cell.is_some();
        }
        if first_keys.is_none() {
            first_keys = Some(keys(text));
        }
        let cells: Vec<Cell<'_>> = cells
            .into_iter()
            .map(|cell| cell.unwrap_or(Cell::Empty))
            .collect();
        each(place, &cells).map_err(|error| {
            // The row's mistake may be a column that is not there at all.
            match (0..wanted.len()).find(|&at| !seen[at] && wanted[at].required) {
                Some(at) => {
                    wanted[at].missing(path, first_keys.iter().flatten().map(String::as_str))
                }
                None => error,
            }
        })?;
    }
    let Some(keys) = first_keys else {
        return Err(Error::malformed(
            path,
            "is empty: give one JSON object a line",
        ));
    };
    match (0..wanted.len()).find(|&at| !seen[at] && wanted[at].required) {
        Some(at) => Err(wanted[at].missing(path, keys.iter().map(String::as_str))),
        None => Ok(()),
    }
}

/// As many of a row's keys as a message names.
fn keys(text: &str) -> Vec<String> {
    json::from_text(text, Keys).unwrap_or_default()
}

struct Keys;

impl<'de> Pick<'de> for Keys {
    type Picked = Vec<String>;

    fn nothing(self) -> Vec<String> {
        Vec::new()
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Vec<String>, A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = object.next_key::<String>()? {
            object.next_value::<IgnoredAny>()?;
            if keys.len() < 30 && key.len() <= 200 {
                keys.push(key);
            }
        }
        Ok(keys)
    }
}

/// Reads an object into the cells of the wanted columns, `None` for a key that is not there.
struct Row<'w>(&'w [Wanted]);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = Vec<Option<Cell<'de>>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = Vec<Option<Cell<'de>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut cells: Self::Value = self.0.iter().map(|_| None).collect();
        while let Some(found) = map.next_key_seed(Key(self.0))? {
            match found {
                Some(at) => cells[at] = Some(map.next_value_seed(Field(&self.0[at].name))?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(cells)
    }
}

/// The place of a key among the wanted ones.
struct Key<'w>(&'w [Wanted]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|column| column.name == key))
    }
}

/// One wanted value.
struct Field<'w>(&'w str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Cell<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Cell<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text or a number in `{}`", self.0)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cell<'de>, E> {
        Ok(match text {
            "" => Cell::Empty,
            text => Cell::Text(Cow::Borrowed(text)),
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Cell<'de>, E> {
        Ok(Cell::Text(Cow::Owned(text.to_string())))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Cell<'de>, E> {
        Ok(Cell::Integer(n))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Cell<'de>, E> {
        Ok(i64::try_from(n).map_or(Cell::Float(n as f64), Cell::Integer))
    }

    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Cell<'de>, E> {
        Ok(Cell::Float(n))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Cell<'de>, E> {
        Ok(Cell::Text(Cow::Owned(value.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Cell<'de>, E> {
        Ok(Cell::Empty)
    }
}
