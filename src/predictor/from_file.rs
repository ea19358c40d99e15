//! Predictions made elsewhere: `file:predictions.jsonl`, a line an instruction.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::memory::Pile;
use crate::regular_file::Lines;

use super::{LEVELS, Prediction, Predictor, Quantiles, Query};

/// Predictions by instruction id.
pub struct FromFile {
    name: String,
    predictions: HashMap<String, Prediction>,
}

#[derive(Deserialize)]
struct Line {
    instruction_id: String,
    predicted_tokens: f64,
    #[serde(default)]
    unparsable: bool,
    /// Tokens by level, as text.
    #[serde(default, deserialize_with = "some_levels")]
    quantiles: Option<BTreeMap<String, f64>>,
}

/// Levels that a line may state. There are 21 where all of them are.
const MOST_LEVELS: usize = 1000;

fn some_levels<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<BTreeMap<String, f64>>, D::Error> {
    struct Levels;

    impl<'de> Visitor<'de> for Levels {
        type Value = Option<BTreeMap<String, f64>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "tokens by level, of {MOST_LEVELS} levels at most")
        }

        fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            mut map: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            let mut levels = BTreeMap::new();
            while let Some((level, tokens)) = map.next_entry()? {
                levels.insert(level, tokens);
                if levels.len() > MOST_LEVELS {
                    return Err(de::Error::invalid_length(levels.len(), &self));
                }
            }
            Ok(Some(levels))
        }
    }
    from.deserialize_any(Levels)
}

/// A prediction as `predict` writes it: `{"instruction_id", "predicted_tokens", "unparsable"}`,
/// and `"quantiles": {"0.01": .., .. "0.99": ..}` where they are known.
pub fn line(instruction_id: &str, prediction: &Prediction) -> Value {
    let mut line = json!({
        "instruction_id": instruction_id,
        "predicted_tokens": prediction.tokens,
        "unparsable": prediction.unparsable,
    });
    if let Some(quantiles) = &prediction.quantiles {
        let levels = LEVELS.iter().zip(quantiles.tokens());
        let map: Map<String, Value> = levels
            .map(|(level, tokens)| (level.to_string(), json!(tokens)))
            .collect();
        line["quantiles"] = Value::Object(map);
    }
    line
}

/// The quantiles at all [`LEVELS`] from those at some: linear between them, the outermost
/// one's beyond them.
fn quantiles(stated: &BTreeMap<String, f64>) -> std::result::Result<Quantiles, String> {
    let mut known: Vec<(f64, f64)> = Vec::new();
    for (level, tokens) in stated {
        match level.parse::<f64>() {
            Ok(p) if p > 0.0 && p < 1.0 => known.push((p, *tokens)),
            _ => return Err(format!("the level `{level}` is not between 0 and 1")),
        }
    }
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some(first), Some(last)) = (known.first(), known.last()) else {
        return Err("`quantiles` is empty: leave it out".into());
    };
    if known.windows(2).any(|pair| pair[1].1 < pair[0].1) {
        return Err("quantiles fall as their level rises".into());
    }
    Ok(Quantiles::new(LEVELS.map(|p| {
        let above = known.partition_point(|k| k.0 < p);
        match above {
            0 => first.1,
            n if n == known.len() => last.1,
            n if known[n].0 == p => known[n].1,
            n => {
                let (low, high) = (known[n - 1], known[n]);
                low.1 + (high.1 - low.1) * (p - low.0) / (high.0 - low.0)
            }
        }
    })))
}

impl FromFile {
    /// Reads lines of `{"instruction_id": .., "predicted_tokens": ..}`, with `unparsable` and
    /// `quantiles` where they are known (as `predict` writes). Quantiles may be stated at any
    /// levels; a level outside them has the outermost one's, so whoever wants coverage there
    /// states it.
    ///
    /// # Errors
    /// A missing file or a malformed line.
    pub fn read(name: &str, path: &Path) -> Result<FromFile> {
        let mut lines = Lines::open(path)?;
        let mut predictions = HashMap::new();
        let mut pile = Pile::default();
        while let Some((number, line)) = lines.following()? {
            let line: Line = serde_json::from_str(line).map_err(|e| {
                Error::malformed(
                    path,
                    format!(
                        "line {number} is not {{\"instruction_id\": .., \"predicted_tokens\": ..}}: {e}"
                    ),
                )
            })?;
            let quantiles = line.quantiles.as_ref().map(quantiles).transpose();
            let prediction = Prediction {
                tokens: line.predicted_tokens,
                unparsable: line.unparsable,
                quantiles: quantiles
                    .map_err(|e| Error::malformed(path, format!("line {number}: {e}")))?,
            };
            // Itself in a table that is up to half empty, and its id.
            let bytes = 2 * size_of::<(String, Prediction)>() + line.instruction_id.len() + 32;
            pile.add(bytes, || {
                let what = format!("{}: its predictions need", path.display());
                (what, "give a part of the file")
            })?;
            predictions.insert(line.instruction_id, prediction);
        }
        Ok(FromFile {
            name: name.to_string(),
            predictions,
        })
    }
}

impl Predictor for FromFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        queries
            .iter()
            .map(|q| {
                let found = self.predictions.get(q.instruction_id).ok_or_else(|| {
                    Error::Usage(format!(
                        "`{}` has no prediction for the instruction `{}`",
                        self.name, q.instruction_id
                    ))
                })?;
                Ok(found.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<FromFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        std::fs::write(&path, text).unwrap();
        FromFile::read("file:p.jsonl", &path)
    }

    fn query(id: &str) -> Query<'_> {
        Query {
            instruction_id: id,
            instruction: "",
            prompt_tokens: 0,
            label: 0.0,
            served: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut foreseen = Prediction::of(120.0);
        foreseen.quantiles = Some(Quantiles::new(LEVELS.map(|p| 1000.0 * p / 3.0)));
        let unread = Prediction {
            unparsable: true,
            ..Prediction::of(7.5)
        };
        let text = format!("{}\n\n{}\n", line("a", &foreseen), line("b", &unread));
        let read = file(&text).unwrap();
        let found = read.predict(&[query("b"), query("a")]).unwrap();
        assert_eq!(found, [unread, foreseen]);
        let missing = read.predict(&[query("c")]).unwrap_err().to_string();
        assert!(missing.contains("no prediction for the instruction `c`"));
    }

    #[test]
    fn few_levels_stand_for_all() {
        let said = "{\"instruction_id\": \"a\", \"predicted_tokens\": 5, \"quantiles\": {\"0.9\": 90, \"0.1\": 10}}";
        let found = file(said).unwrap().predict(&[query("a")]).unwrap();
        let quantiles = found[0].quantiles.as_ref().unwrap();
        assert!((quantiles.at(0.5) - 50.0).abs() < 1e-9);
        assert_eq!((quantiles.at(0.01), quantiles.at(0.99)), (10.0, 90.0));
    }

    #[test]
    fn a_mistake_names_its_line() {
        for (quantiles, said) in [
            ("{}", "empty"),
            ("{\"1.5\": 3}", "between 0 and 1"),
            ("{\"many\": 3}", "between 0 and 1"),
            ("{\"0.1\": 9, \"0.9\": 3}", "fall"),
            ("[1, 2]", "line 2 is not"),
        ] {
            let good = "{\"instruction_id\": \"a\", \"predicted_tokens\": 5}";
            let bad = good.replace('}', &format!(", \"quantiles\": {quantiles}}}"));
            let refused = file(&format!("{good}\n{bad}\n")).err().unwrap().to_string();
            assert!(
                refused.contains(said) && refused.contains("line 2"),
                "{refused}"
            );
        }
    }
}
