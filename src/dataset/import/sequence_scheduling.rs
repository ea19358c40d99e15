//! The pairs of files of the Sequence-Scheduling repository
//! (FastChat conversations, and the lengths of Vicuna's answers at four temperatures).

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::instruction;

use crate::dataset::{FinishReason, Known, LengthDataset, Provenance, Sample, Split};

/// Vicuna's answers were cut at this many tokens; what is as long or longer is censored.
const LIMIT: u32 = 512;

/// Reads `instructions` (FastChat conversations) and `lengths` (`L_t0.0` .. `L_t0.7` by id).
/// `L_gt`, the length of the reference answer, is no response of the model and is left out.
///
/// # Errors
/// Missing or malformed files, ids that do not match.
pub fn sequence_scheduling(
    instructions: &Path,
    lengths: &Path,
    split: Option<Split>,
) -> Result<LengthDataset> {
    let text = std::fs::read_to_string(lengths).map_err(|e| Error::io(lengths, e))?;
    let rows: Vec<Value> = serde_json::from_str(&text)
        .map_err(|e| Error::malformed(lengths, format!("is not a JSON list: {e}")))?;
    let mut by_id: HashMap<String, Vec<(f32, u32)>> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let id = match &row["id"] {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => {
                return Err(Error::malformed(
                    lengths,
                    format!("entry {} has no id", index + 1),
                ));
            }
        };
        let measured = lengths_of(lengths, index, row)?;
        if by_id.insert(id.clone(), measured).is_some() {
            return Err(Error::malformed(
                lengths,
                format!("entry {}: the id `{id}` occurs twice", index + 1),
            ));
        }
    }
    let mut samples = Vec::new();
    for instruction in instruction::read(instructions)? {
        let measured = by_id.get(&instruction.id).ok_or_else(|| {
            Error::malformed(
                lengths,
                format!(
                    "has no lengths for the instruction `{}` of {}: do the two files belong \
                     together?",
                    instruction.id,
                    instructions.display()
                ),
            )
        })?;
        for &(temperature, length) in measured {
            samples.push(Sample {
                instruction_id: instruction.id.clone(),
                instruction: instruction.text.clone(),
                category: instruction.category.clone(),
                split: split.or(instruction.split),
                sample: 0,
                temperature,
                seed: 0,
                prompt_tokens: 0,
                response_tokens: length.min(LIMIT),
                finish_reason: if length >= LIMIT {
                    FinishReason::Length
                } else {
                    FinishReason::Stop
                },
                response: None,
                arrival_s: None,
            });
        }
    }
    Ok(LengthDataset {
        provenance: Provenance {
            model: "vicuna-7b (Sequence-Scheduling's recorded lengths)".into(),
            model_sha256: None,
            template_sha256: None,
            max_new_tokens: LIMIT,
            finish_reasons: Known::Inferred,
            temperatures: Known::Recorded,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            git_commit: crate::provenance::git_commit(),
            ..Provenance::default()
        },
        samples,
    })
}

/// (temperature, length) of every `L_t<temperature>` of a row, coldest first.
fn lengths_of(path: &Path, index: usize, row: &Value) -> Result<Vec<(f32, u32)>> {
    let wrong = |what: String| Error::malformed(path, format!("entry {}: {what}", index + 1));
    let fields = row
        .as_object()
        .ok_or_else(|| wrong("is not an object".into()))?;
    let mut found = Vec::new();
    for (key, value) in fields {
        let Some(temperature) = key.strip_prefix("L_t") else {
            continue;
        };
        let temperature: f32 = temperature
            .parse()
            .map_err(|_| wrong(format!("`{key}` does not end in a temperature")))?;
        let length = value
            .as_u64()
            .filter(|n| *n <= u64::from(u32::MAX))
            .ok_or_else(|| wrong(format!("`{key}` is not a length")))?;
        found.push((temperature, length as u32));
    }
    if found.is_empty() {
        return Err(wrong("has no lengths `L_t0.0` and so on".into()));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_joined_by_id_and_cut_answers_are_marked() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.json"), dir.path().join("b.json"));
        std::fs::write(
            &a,
            r#"[{"id":"5","conversations":[{"from":"human","value":"q"}]}]"#,
        )
        .unwrap();
        std::fs::write(
            &b,
            r#"[{"id":"5","L_gt":160,"L_t0.7":514,"L_t0.0":115},{"id":"6","L_t0.0":1}]"#,
        )
        .unwrap();
        let dataset = sequence_scheduling(&a, &b, Some(Split::Test)).unwrap();
        let rows: Vec<_> = dataset
            .samples
            .iter()
            .map(|s| (s.temperature, s.response_tokens, s.finish_reason))
            .collect();
        assert_eq!(
            rows,
            [
                (0.0, 115, FinishReason::Stop),
                (0.7, 512, FinishReason::Length)
            ]
        );
        std::fs::write(&b, r#"[{"id":"6","L_t0.0":1}]"#).unwrap();
        let message = sequence_scheduling(&a, &b, None).unwrap_err().to_string();
        assert!(message.contains("`5`"), "{message}");
    }
}
