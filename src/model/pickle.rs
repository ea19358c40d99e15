//! The pickle inside a PyTorch checkpoint, read without running anything.
//!
//! A pickle is a program for a stack machine that may call any Python function. What
//! `torch.save` writes for a table of tensors needs seven of them, and they are not called here
//! either: they are recognised by name, and every other name ends the reading. Values live in
//! an arena and refer to each other by number, so that no input can make them large (a shared
//! value is stored once) or deep (nothing recurses). The tensor library's own pickle reader
//! copies shared values, allocates what a length field says, and panics on short tuples.

use std::collections::HashMap;
use std::sync::Arc;

use super::pickle_machine::{Machine, Value};

/// Why a file is not read.
#[derive(Debug, PartialEq)]
pub(super) enum Flaw {
    /// It is not what it should be, or a part of it is missing.
    Damaged(String),
    /// It is something else: the whole message, remedy included.
    Unfit(String),
}

impl From<String> for Flaw {
    fn from(why: String) -> Flaw {
        Flaw::Damaged(why)
    }
}

impl From<&str> for Flaw {
    fn from(why: &str) -> Flaw {
        Flaw::Damaged(why.into())
    }
}

pub(super) type Outcome<T> = Result<T, Flaw>;

/// The type of a storage's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    F32,
    F16,
    Bf16,
    /// Any other, by PyTorch's name; such tensors are not loaded.
    Other(&'static str),
}

/// A run of elements, kept in an archive entry of its own.
#[derive(Debug)]
pub(super) struct Storage {
    pub elements: Elements,
    /// Name of the archive entry below `data/`.
    pub key: String,
    /// Elements.
    pub len: u64,
}

/// A view into a storage, in elements.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub storage: Arc<Storage>,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

/// The tensors of a pickled table, under their names.
///
/// # Errors
/// Anything that is no plain table of tensors, in words; nothing is run.
pub(super) fn tensors(pickle: &[u8]) -> Outcome<HashMap<String, View>> {
    let mut machine = Machine::new(pickle);
    let top = machine.run()?;
    let Value::Dict(entries) = machine.value(top) else {
        return Err("its pickle holds no table of tensors".into());
    };
    let mut tensors = HashMap::new();
    let mut nested = None;
    for (key, value) in entries {
        let Value::Text(name) = machine.value(*key) else {
            continue;
        };
        match machine.value(*value) {
            Value::Tensor(_) if tensors.contains_key(name) => {
                return Err("its pickle has two tensors of one name".into());
            }
            Value::Tensor(view) => drop(tensors.insert(name.clone(), view.clone())),
            Value::Dict(_) => nested = Some(name),
            _ => {}
        }
    }
    match (tensors.is_empty(), nested) {
        (false, _) => Ok(tensors),
        (true, Some(name)) if name.len() < 100 => Err(Flaw::Unfit(format!(
            "its tensors lie one level down, under `{}`: save that part with torch.save",
            name.escape_debug()
        ))),
        (true, _) => Err("its pickle holds no tensors".into()),
    }
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
pub(super) mod tests;
