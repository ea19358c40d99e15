//! The pairs of files of the Sequence-Scheduling repository
//! (FastChat conversations, and the lengths of Vicuna's answers at four temperatures).

use std::collections::HashMap;
use std::path::Path;

use serde::de::{IgnoredAny, MapAccess};

use super::cells;
use crate::error::{Error, Result};
use crate::instruction;
use crate::memory::Pile;
use crate::table::Cell;
use crate::table::json::{self, Of, Pick, Said, Saying};

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
    let mut by_id: HashMap<String, Vec<(f32, u32)>> = HashMap::new();
    let mut pile = Pile::default();
    json::read_list(lengths, Lengths, &mut |number, row| {
        let wrong = |what: String| Error::malformed(lengths, format!("entry {number}: {what}"));
        let (id, measured): Row = row.map_err(wrong)?;
        // Itself in a table that is up to half empty, its id and its list.
        let bytes = 2 * size_of::<Row>() + id.len() + 8 * measured.len() + 64;
        pile.add(bytes, || {
            let what = format!("{}: its lengths need", lengths.display());
            (what, "give a part of the files")
        })?;
        if by_id.contains_key(&id) {
            return Err(wrong(format!("the id `{id}` occurs twice")));
        }
        by_id.insert(id, measured);
        Ok(())
    })?;
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

/// Temperatures of one entry; four were recorded.
const MOST_TEMPERATURES: usize = 100;

/// An id, and (temperature, length) of every `L_t<temperature>` beside it, coldest first.
type Row = (String, Vec<(f32, u32)>);

/// Picks a [`Row`], or what is wrong with it.
#[derive(Clone, Copy)]
struct Lengths;

impl<'de> Pick<'de> for Lengths {
    type Picked = std::result::Result<Row, String>;

    fn nothing(self) -> Self::Picked {
        Err("is not an object".into())
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Picked, A::Error> {
        let (mut id, mut found, mut flaw) = (Said::Null, Vec::new(), None);
        while let Some(key) = object.next_key::<String>()? {
            if key == "id" {
                id = object.next_value_seed(Of(Saying))?;
            } else if let Some(temperature) = key.strip_prefix("L_t") {
                let said = object.next_value_seed(Of(Saying))?;
                match length_of(&key, temperature, &said) {
                    Ok(_) if found.len() == MOST_TEMPERATURES => {
                        flaw = Some(format!("has more than {MOST_TEMPERATURES} temperatures"));
                    }
                    Ok(length) => found.push(length),
                    Err(why) => flaw = flaw.or(Some(why)),
                }
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        let id = match id {
            Said::Text(id) => id,
            Said::Number(id) => id.to_string(),
            Said::Null | Said::Other => return Ok(Err("has no id".into())),
        };
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(match flaw {
            Some(flaw) => Err(flaw),
            None if found.is_empty() => Err("has no lengths `L_t0.0` and so on".into()),
            None => Ok((id, found)),
        })
    }
}

fn length_of(key: &str, temperature: &str, said: &Said) -> std::result::Result<(f32, u32), String> {
    let cell = Cell::Text(temperature.into());
    let temperature = cells::temperature(key, &cell)?;
    let length = match said {
        Said::Number(number) => number.as_u64(),
        _ => None,
    };
    let length = length.and_then(|n| u32::try_from(n).ok());
    Ok((
        temperature,
        length.ok_or_else(|| format!("`{key}` is not a length"))?,
    ))
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
        for key in ["L_tNaN", "L_t1e300", "L_t-1", "L_tx"] {
            std::fs::write(&b, format!(r#"[{{"id":"5","{key}":1}}]"#)).unwrap();
            let message = sequence_scheduling(&a, &b, None).unwrap_err().to_string();
            assert!(message.contains("not a temperature between"), "{message}");
        }
        std::fs::write(&b, r#"[{"id":"6","L_t0.0":1}]"#).unwrap();
        let message = sequence_scheduling(&a, &b, None).unwrap_err().to_string();
        assert!(message.contains("`5`"), "{message}");
    }
}
