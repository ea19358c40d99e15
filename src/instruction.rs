//! Instruction sets and their readers: the project's own JSON lines, Alpaca's JSON, FastChat's
//! conversations.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::dataset::Split;
use crate::error::{Error, Result};

/// One instruction, as it will be put to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    pub id: String,
    pub category: Option<String>,
    pub split: Option<Split>,
    pub text: String,
}

/// The project's own 640 instructions, in 16 categories.
pub fn embedded() -> Vec<Instruction> {
    let path = Path::new("datasets/instructions.jsonl");
    // Checked by a test: the embedded file parses.
    parse(path, include_str!("../datasets/instructions.jsonl")).unwrap_or_default()
}

/// Reads an instruction set: `.jsonl` with a `text` or `instruction` (and perhaps `input`) a
/// line, or a `.json` list of those or of FastChat conversations.
///
/// # Errors
/// A file that is missing, malformed (the line is named) or empty, or ids that repeat.
pub fn read(path: &Path) -> Result<Vec<Instruction>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Instruction>> {
    let mut instructions = Vec::new();
    if text.trim_start().starts_with('[') {
        let rows: Vec<Value> = serde_json::from_str(text)
            .map_err(|e| Error::malformed(path, format!("is not a JSON list: {e}")))?;
        for (index, row) in rows.into_iter().enumerate() {
            let place = format!("entry {}", index + 1);
            instructions.push(instruction(path, &place, row, index)?);
        }
    } else {
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let place = format!("line {}", index + 1);
            let row = serde_json::from_str(line)
                .map_err(|e| Error::malformed(path, format!("{place} is not JSON: {e}")))?;
            instructions.push(instruction(path, &place, row, index)?);
        }
    }
    if instructions.is_empty() {
        return Err(Error::malformed(
            path,
            "holds no instructions: give one JSON object a line, with `text`",
        ));
    }
    let mut seen = HashSet::new();
    for instruction in &instructions {
        if !seen.insert(instruction.id.as_str()) {
            return Err(Error::malformed(
                path,
                format!("the id `{}` occurs twice: ids must differ", instruction.id),
            ));
        }
    }
    Ok(instructions)
}

/// Every shape an entry may have; which fields are there decides.
#[derive(Deserialize)]
struct Entry {
    id: Option<Value>,
    category: Option<String>,
    split: Option<Split>,
    text: Option<String>,
    instruction: Option<String>,
    input: Option<String>,
    conversations: Option<Vec<Turn>>,
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

fn instruction(path: &Path, place: &str, row: Value, index: usize) -> Result<Instruction> {
    let entry: Entry = serde_json::from_value(row)
        .map_err(|e| Error::malformed(path, format!("{place} is not an instruction: {e}")))?;
    let text = match (entry.text, entry.instruction, entry.conversations) {
        (Some(text), ..) => Some(text),
        (None, Some(instruction), _) => Some(match entry.input.filter(|i| !i.trim().is_empty()) {
            Some(input) => format!("{instruction}\nInput:\n{input}"),
            None => instruction,
        }),
        (None, None, Some(turns)) => turns
            .into_iter()
            .find(|t| t.from == "human" || t.from == "user")
            .map(|t| t.value),
        _ => None,
    };
    let text = text.filter(|t| !t.trim().is_empty()).ok_or_else(|| {
        Error::malformed(
            path,
            format!("{place} has no `text`, `instruction` or human turn in `conversations`"),
        )
    })?;
    Ok(Instruction {
        id: match entry.id {
            Some(Value::String(id)) => id,
            Some(Value::Number(id)) => id.to_string(),
            _ => index.to_string(),
        },
        category: entry.category,
        split: entry.split,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_set_is_whole_and_varied() {
        let all = embedded();
        assert_eq!(all.len(), 640);
        let categories: HashSet<_> = all.iter().map(|i| i.category.clone()).collect();
        assert_eq!(categories.len(), 16);
        for split in [Split::Train, Split::Validation, Split::Test] {
            assert!(all.iter().filter(|i| i.split == Some(split)).count() >= 96);
        }
    }

    #[test]
    fn reads_every_shape() {
        let path = Path::new("x.json");
        let lines = "{\"text\":\"a\"}\n\n{\"id\":7,\"instruction\":\"b\",\"input\":\"c\"}";
        let read = parse(path, lines).unwrap();
        assert_eq!(read[0].id, "0");
        assert_eq!(
            (read[1].id.as_str(), read[1].text.as_str()),
            ("7", "b\nInput:\nc")
        );
        let chat = r#"[{"id":"5","conversations":[{"from":"human","value":"q"},
            {"from":"gpt","value":"r"}]}]"#;
        assert_eq!(parse(path, chat).unwrap()[0].text, "q");
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, named) in [
            ("{\"text\":\"a\"}\nnot json", "line 2"),
            ("{\"id\":\"1\"}", "line 1"),
            ("", "no instructions"),
            (
                "{\"id\":1,\"text\":\"a\"}\n{\"id\":1,\"text\":\"b\"}",
                "twice",
            ),
            ("{\"text\":\"a\",\"split\":\"dev\"}", "line 1"),
        ] {
            let message = parse(Path::new("x.jsonl"), text).unwrap_err().to_string();
            assert!(
                message.contains(named) && message.contains("x.jsonl"),
                "{message}"
            );
        }
    }
}
